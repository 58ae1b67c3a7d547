"""Each check of TrainingHealth at both sides of each threshold, on updates made up by hand."""

import dataclasses
import types

import numpy as np
import pytest

from keras_bp.callbacks import health_checks
from keras_bp.callbacks.health._check import Check, Epochs, Symptom, Update
from keras_bp.callbacks.health._forward_order import Link
from keras_bp.callbacks.health._watch import HealthWatch, TrainingCourse
from keras_bp.callbacks.health_checks import (
    DeadUnits,
    Exploding,
    LossNotFalling,
    NotFinite,
    Overfitting,
    PoorInitialization,
    Saturation,
    UnchangedWeights,
    UpdateRatio,
    Vanishing,
)

CHECKS = [getattr(health_checks, name) for name in health_checks.__all__ if name != "Finding"]
nan, inf = np.nan, np.inf
# What they look at is measured over all the steps of a call.
ABOUT_ALL = "unchanged_weights", "update_ratio"

# Layers a, b, c of 100 weights each; b and its activation are two layers of the summary.
OUTPUTS = ("a", "b", "relu", "c")


def update(statistics=None, order=None, **changes):
    """A healthy update, with changes."""
    facts = dict(
        layers=("a", "b", "c"),
        called=np.ones(3, bool),
        places=np.array([0, 1, 3]),
        outputs=OUTPUTS,
        hidden=np.array([True, True, True, False]),
        can_die=np.array([True, False, True, False]),
        links=[],
    )
    numbers = dict(
        variance=np.ones(4),
        spread=np.ones(4),
        dead=np.zeros(4),
        saturated=np.zeros(4),
        not_finite=np.zeros(4),
        values=np.full(4, 32.0),
    )
    norms = np.array(changes.pop("norms", [0.5, 0.5, 0.5]), float)
    values = dict(
        step=1,
        loss=1.0,
        sees_loss=True,
        learned=False,
        replaced=False,
        first_norm=1.0,
        clipped=1.0,
        order=types.SimpleNamespace(**{**facts, **(order or {})}),
        norms=norms,
        means=norms / 10,
        moves=np.full(3, 1e-3),
        ratios=np.full(3, 1e-3),
        weights=np.full(3, 0.1),
        statistics={**numbers, **{k: np.array(v) for k, v in (statistics or {}).items()}},
    )
    return Update(**{**values, **changes})


def several(*updates):
    """Update steps as they are read together."""
    names = "step", "loss", "clipped", "norms", "means"
    values = {name: np.array([getattr(u, name) for u in updates]) for name in names}
    kinds = updates[0].statistics
    statistics = {kind: np.array([u.statistics[kind] for u in updates]) for kind in kinds}
    return updates[0]._replace(statistics=statistics, **values)


def found(check, **changes):
    """The layers in which a check sees a symptom; it suspects such an update among others."""
    seen = update(**changes)
    symptoms = check.in_update(seen)
    if symptoms:
        healthy = update(step=99, **{k: changes[k] for k in ("order", "sees_loss") if k in changes})
        among = healthy._replace(moves=seen.moves, ratios=seen.ratios, weights=seen.weights)
        suspected = check.suspects(several(among, seen, among))
        assert suspected[1] and (check.name in ABOUT_ALL or not suspected[0])
    return None if symptoms is None else [symptom.layer for symptom in symptoms]


@pytest.mark.parametrize("check", CHECKS)
def test_a_healthy_update_has_no_symptom(check):
    assert not check().in_update(update())


@pytest.mark.parametrize(
    "norms, layers",
    [
        # First below 1e-4 and below a thousandth of the last.
        ([0.99e-4, 0.5, 0.5], ["a"]),
        ([1.01e-4, 0.5, 0.5], []),
        ([0.9e-4, 0.5, 0.9e-1 * 1.01], ["a"]),
        ([0.9e-4, 0.5, 0.9e-1 * 0.99], []),
        # The root mean square of 100 entries is a tenth of the norm.
        ([0.5, 0.99e-6, 0.5], ["b"]),
        ([0.5, 1.01e-6, 0.5], []),
    ],
)
def test_vanishing(norms, layers):
    assert found(Vanishing(), norms=norms) == layers
    assert found(Vanishing(), norms=norms, learned=True) == layers


def test_vanishing_everywhere_is_a_minimum_or_a_fault():
    norms = [0.9e-6, 0.9e-6, 0.9e-6]
    assert found(Vanishing(), norms=norms, learned=False) == ["a"]
    assert found(Vanishing(), norms=norms, learned=True) == []
    # Another layer's gradient is 1000 times the threshold, or not quite.
    check = Vanishing(ratio=1e-9)
    assert found(check, norms=[0.9e-6, 0.9e-6, 1.01e-3], learned=True) == ["a"]
    assert found(check, norms=[0.9e-6, 0.9e-6, 0.99e-3], learned=True) == []


def test_vanishing_passes_over_layers_that_were_not_called_and_embeddings():
    called = {"called": np.array([False, True, True])}
    assert found(Vanishing(), norms=[0.0, 0.5, 0.5], order=called) == []
    assert found(Vanishing(), norms=[0.5, 0.0, 0.5], means=np.array([0.1, nan, 0.1])) == []
    one = {"called": np.array([False, False, True])}
    assert found(Vanishing(), norms=[0.0, 0.0, 0.0], order=one) == []


@pytest.mark.parametrize(
    "norms, first_norm, layers",
    [
        # Above 10, and 70 times the last layer's.
        ([10.1, 1.0, 10.1 / 71], 1e9, ["a"]),
        ([9.9, 1.0, 9.9 / 71], 1e9, []),
        ([10.1, 1.0, 10.1 / 69], 1e9, []),
        ([1.0, 10.1, 0.0], 1e9, ["b"]),
        # Above 10, and all of them 100 times what they were.
        ([1.0, 1.0, 11.0], np.sqrt(123) / 101, ["c"]),
        ([1.0, 1.0, 11.0], np.sqrt(123) / 99, []),
        ([1.0, 1.0, 9.0], 1e-9, []),
        # Not known yet.
        ([1.0, 1.0, 1e9], inf, []),
    ],
)
def test_exploding(norms, first_norm, layers):
    assert found(Exploding(), norms=norms, first_norm=first_norm) == layers


def test_exploding_counts_what_clipping_leaves():
    norms = [100.0, 1.0, 1.0]
    assert found(Exploding(), norms=norms, clipped=0.11) == ["a"]
    assert found(Exploding(), norms=norms, clipped=0.09) == []
    assert found(Exploding(), norms=norms, order={"called": np.array([False, True, True])}) == []


@pytest.mark.parametrize(
    "dead, values, layers",
    [
        ([0.51, 0.9, 0.51, 0.9], 32, ["a", "relu"]),
        ([0.5, 0.9, 0.5, 0.9], 32, []),
        ([0.99, 0, 1.0, 0], 31, ["relu"]),
        ([nan, nan, nan, nan], 32, []),
    ],
)
def test_dead_units(dead, values, layers):
    statistics = {"dead": dead, "values": np.full(4, values)}
    assert found(DeadUnits(), statistics=statistics) == layers


def test_saturation():
    assert found(Saturation(), statistics={"saturated": [0.51, nan, 0.5, 1.0]}) == ["a"]
    assert found(Saturation(0.4), statistics={"saturated": [0.51, nan, 0.5, 1.0]}) == ["a", "relu"]


@pytest.mark.parametrize(
    "ratios, learned, layers",
    [
        ([1.0, 10.1, 1.0], True, ["b"]),
        ([1.0, 9.9, 1.0], True, []),
        ([inf, 20.0, 11.0], True, ["a"]),
        ([1.0, nan, 1.0], True, []),
        ([1e-3, 0.9e-8, 1e-3], True, ["b"]),
        ([1e-3, 1.1e-8, 1e-3], True, []),
        ([1e-3, 0.0, 1e-3], True, []),
        ([0.9e-8, 0.9e-8, 0.9e-8], False, ["a"]),
        ([0.9e-8, 0.9e-8, 0.9e-8], True, []),
        ([0.9e-8, 0.9e-8, 0.9e-6], True, []),
        ([0.9e-8, 0.9e-8, 1.1e-6], True, ["a", "b"]),
    ],
)
def test_update_ratio(ratios, learned, layers):
    assert found(UpdateRatio(), ratios=np.array(ratios), learned=learned) == layers


def test_update_ratio_passes_over_small_weights_small_gradients_and_what_was_not_measured():
    ratios = np.array([11.0, 1e-3, 1e-3])
    for size, layers in (1.01e-3, ["a"]), (0.99e-3, []):
        assert found(UpdateRatio(), ratios=ratios, weights=np.array([size, 0.1, 0.1])) == layers
    ratios = np.array([0.9e-8, 1e-3, 1e-3])
    for mean, layers in (1.01e-7, ["a"]), (0.99e-7, []), (nan, ["a"]):
        assert found(UpdateRatio(), ratios=ratios, means=np.array([mean, 0.1, 0.1])) == layers
    assert found(UpdateRatio(), moves=None, ratios=None, weights=None) is None


def test_update_ratio_is_a_finding_at_once_only_if_it_is_large():
    (large,) = UpdateRatio().in_update(update(ratios=np.array([11.0, 1.0, 1.0])))
    (small,) = UpdateRatio().in_update(update(ratios=np.array([1e-9, 1.0, 1.0])))
    assert large.at_once and "lower" in large.advice
    assert not small.at_once and "higher" in small.advice


def test_unchanged_weights():
    check = UnchangedWeights()
    moves, ratios = np.array([0.0, 1e-30, 1e-3]), np.array([0.0, 1e-30, 1e-3])
    assert found(check, moves=moves, ratios=ratios) == ["a"]
    assert found(check, moves=moves, ratios=ratios, learned=True) == ["a"]
    still = {"moves": np.zeros(3), "ratios": np.zeros(3)}
    assert found(check, **still) == ["a"]
    assert found(check, **still, learned=True) == []
    for ratio, layers in (1.1e-6, ["a"]), (0.9e-6, []):
        ratios = np.array([0.0, 0.0, ratio])
        assert found(check, moves=moves, ratios=ratios, learned=True) == layers
    assert found(check, moves=None, ratios=None, weights=None) is None


def link(**changes):
    """Layer b, of 16 inputs and 16 units, fed by a; relu is its activation."""
    facts = dict(layer=1, output=2, source=0, units=16, widening=1.0, alone=True, normalized=False)
    return {"links": [Link(**{**facts, **changes})]}


@pytest.mark.parametrize(
    "before, after, widening, layers",
    [
        (1.0, 10.1, 1.0, ["b"]),
        (1.0, 9.9, 1.0, []),
        (1.0, 1 / 10.1, 1.0, ["b"]),
        (1.0, 1 / 9.9, 1.0, []),
        (1.0, 1 / 39, 4.0, []),
        (1.0, 1 / 41, 4.0, ["b"]),
        (1.0, 1 / 11, 0.25, ["b"]),
        (1.0, 11.0, 4.0, ["b"]),
        (0.0, 1.0, 1.0, ["b"]),
        (nan, 1.0, 1.0, []),
        (1.0, nan, 1.0, []),
    ],
)
def test_poor_initialization(before, after, widening, layers):
    statistics = {"variance": [before, nan, after, 1e9]}
    order = link(widening=widening)
    assert found(PoorInitialization(), statistics=statistics, order=order) == layers
    assert found(PoorInitialization(), statistics=statistics, order=order, step=10) == layers
    assert found(PoorInitialization(), statistics=statistics, order=order, step=11) is None
    assert found(PoorInitialization(), statistics=statistics, order=order, replaced=True) is None


@pytest.mark.parametrize(
    "changes", [{"source": None}, {"alone": False}, {"normalized": True}, {"units": 15}]
)
def test_initialization_that_is_not_compared(changes):
    statistics = {"variance": [1.0, nan, 100.0, 1.0]}
    assert found(PoorInitialization(), statistics=statistics, order=link(**changes)) == []


@pytest.mark.parametrize(
    "variance, spread, changes, layers",
    [
        (1.0, 0.9e-6, {}, ["b"]),
        (1.0, 1.1e-6, {}, []),
        (1.0, 0.0, {"normalized": True, "alone": False, "source": None}, ["b"]),
        (0.0, 0.0, {}, ["b"]),
        (0.0, 0.0, {"normalized": True}, ["b"]),
        # A residual branch that begins at 0, and a single unit.
        (0.0, 0.0, {"alone": False}, []),
        (1.0, 0.0, {"units": 1}, []),
    ],
)
def test_units_that_are_all_the_same(variance, spread, changes, layers):
    statistics = {"variance": [variance, nan, variance, 1.0], "spread": [1.0, nan, spread, 1.0]}
    assert found(PoorInitialization(), statistics=statistics, order=link(**changes)) == layers


@pytest.mark.parametrize(
    "changes, layers",
    [
        ({"loss": nan, "statistics": {"not_finite": [0, 0, 0.1, 1]}}, ["relu"]),
        ({"norms": [nan, 1, 1], "statistics": {"not_finite": [0, 0, 0.1, 1]}}, ["relu"]),
        ({"loss": inf}, [None]),
        ({"loss": nan, "sees_loss": False}, []),
        ({"norms": [nan, inf, 1.0]}, ["b"]),
        ({"norms": [nan, 1.0, nan]}, ["c"]),
        # Masked with -inf, but nothing comes of it.
        ({"statistics": {"not_finite": [0, 0, 0.1, 1]}}, []),
    ],
)
def test_not_finite(changes, layers):
    assert found(NotFinite(), **changes) == layers


@pytest.mark.parametrize(
    "norms, named", [([nan, 1, 1], "of `a` has"), ([1, nan, 1], "of `b` or `relu` has")]
)
def test_not_finite_names_what_lies_between(norms, named):
    (symptom,) = NotFinite().in_update(update(norms=norms))
    assert named in symptom.description


def test_not_finite_near_the_loss_may_be_the_loss():
    (symptom,) = NotFinite().in_update(update(norms=[nan, nan, nan]))
    assert "of `c` or the loss has" in symptom.description


def falls(losses, start=1.0, **thresholds):
    return bool(LossNotFalling(**thresholds).in_epochs(Epochs(start, list(losses), [])))


def test_loss_not_falling():
    flat, falling = np.linspace(1, 0.9991, 11), np.linspace(1, 0.9989, 11)
    assert falls(flat) and not falls(falling)
    assert not falls(flat[:10]) and falls(flat[:6], epochs=5)
    assert falls(falling, fall=0.002)
    assert falls(np.linspace(1, 2, 11))
    # One low epoch in noise is no fall.
    assert falls([1, 1, 1, 1, 1, 0.99, 1, 1, 1, 1, 1])
    # Less than half of what it was at the start has been learned.
    assert not falls(flat, start=2.01) and falls(flat, start=1.99)
    assert falls(flat, start=2.01, learned=0.4)
    assert falls(-flat[::-1], start=-0.9) and not falls(-flat[::-1], start=-0.6)
    assert not falls([nan] * 11)
    assert falls(np.zeros(11), start=0.0)


def parts(training, validation, **thresholds):
    pairs = list(zip(training, validation, strict=True))
    return bool(Overfitting(**thresholds).in_epochs(Epochs(1.0, [], pairs)))


def test_overfitting():
    training = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    rising = [1.0, 1.11, 1.12, 1.13, 1.14, 1.15]
    assert parts(training, rising)
    assert not parts(training[:5], rising[:5]) and parts(training[:5], rising[:5], epochs=4)
    # The gap is large, but the validation loss is near its best.
    assert not parts([0.1, 0.01, 0.001, 1e-4, 1e-5, 1e-6], [1.0, 1.09, 1.09, 1.09, 1.09, 1.09])
    assert not parts(training, [1.0, 1.11, 1.12, 1.0, 1.14, 1.15])
    # Both rise, and the gap is small or shrinks.
    assert not parts([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [1.0, 1.2, 1.31, 1.42, 1.53, 1.64])
    assert not parts([1.0, 1.0, 1.1, 1.2, 1.3, 1.4], [1.0, 1.5, 1.6, 1.65, 1.7, 1.8])
    assert not parts(training, rising, gap=2.0) and not parts(training, rising, rise=0.12)
    assert not parts([-x for x in training], rising)
    assert not parts([], [])


@pytest.mark.parametrize("check", CHECKS)
def test_thresholds_are_checked(check):
    assert check() == check() and hash(check()) == hash(check())
    for field in dataclasses.fields(check):
        with pytest.raises(TypeError, match=f"`{field.name}` must be .*Received: {field.name}='a'"):
            check(**{field.name: "a"})
        for bad in [0, -1, nan if field.type is float else -2]:
            with pytest.raises(ValueError, match=f"`{field.name}` must be .*Received: .*={bad}"):
                check(**{field.name: bad})
        good = 3 if field.type is int else 0.25
        assert getattr(check(**{field.name: good}), field.name) == good
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(check(), field.name, good)
    assert check.advice and check.__doc__


@pytest.mark.parametrize("check", [DeadUnits, Saturation])
def test_a_share_is_1_at_most(check):
    assert check(share=1).share == 1
    with pytest.raises(ValueError, match=r"`share` must be .*\(0, 1\].*Received: share=1.01"):
        check(share=1.01)


class Marked(Check):
    """Sees a symptom in the layers that an update says."""

    name, advice, updates = "marked", "None.", 3

    def in_update(self, update):
        if update.order.marked is None:
            return None
        return [Symptom(layer, 1.0, 0.0, "") for layer in update.order.marked]


def test_a_symptom_must_last():
    watch = HealthWatch([Marked()])
    lasting = ["ab", "a", "a", "a", "b", "b", "", "b", "b", None, "b", "b"]
    new = []
    for step, layers in enumerate(lasting, 1):
        findings = watch.see_updates(several(update(step=step, order={"marked": layers})))
        new.append([finding.layer for finding in findings])
    assert new == [[], [], ["a"], [], [], [], [], [], [], [], ["b"], []]
    assert [(f.layer, f.step) for f in watch.findings] == [("a", 3), ("b", 11)]


def test_nothing_is_judged_after_the_first_number_that_is_none():
    watch = HealthWatch([Exploding(), NotFinite()])
    assert watch.see_updates(several(update())) == []
    (finding,) = watch.see_updates(several(update(norms=[inf, 1.0, 1.0])))
    assert (finding.check, finding.layer) == ("not_finite", "a")
    assert watch.see_updates(several(update(norms=[1e9, 1.0, 1.0]))) == []
    assert watch.see_updates(several(update(norms=[1.0, nan, 1.0]))) == []


def course(losses):
    course = TrainingCourse()
    for loss in losses:
        course.add(update(loss=loss))
    return course


def test_whether_a_loss_has_fallen():
    noise = np.random.default_rng(0).normal(size=200)
    assert not course(1 + 0.2 * noise).learned()
    assert course(1 + 0.2 * noise - np.linspace(0, 0.5, 200)).learned()
    # By more or less than 1 %, between the means of the first 20 and the last 20.
    for fall, learned in (0.0101, True), (0.0099, False):
        assert course(np.where(np.arange(40) < 20, 1, 1 - fall)).learned() is learned
    assert not course([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]).learned()
    assert course([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]).learned()
    assert not course([nan] * 50).learned()
    assert course([3.0, nan, 1.0, *[2.0] * 8, 9.0, 9.0]).start == 2.0


def test_first_norm_is_the_median_of_ten():
    course = TrainingCourse()
    assert course.first_norm() == inf
    for norm in [1, 2, 3, 4, 5, 100, inf, 7, 8, 9, 10, 1e9, 1e9]:
        course.add(update(norms=[norm, 0, 0]))
    assert course.first_norm() == 6


def test_outputs_that_are_masked_in_healthy_updates():
    course = TrainingCourse()
    course.add(update(statistics={"not_finite": [0, 0.5, 0, 0]}))
    course.add(update(statistics={"not_finite": [0.5, 0.5, 0, 0]}, loss=nan))
    assert course.masked == {"b"}


def test_weights_that_are_replaced():
    course = TrainingCourse()
    course.add(update(ratios=np.array([0.9, nan, 0.1])))
    course.add(update(moves=None, ratios=None, weights=None))
    assert not course.replaced
    course.add(update(ratios=np.array([1.1, nan, 0.1])))
    assert course.replaced
