"""The figure is the chapter's, compared with central differences in plain NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradient_check import check_gradients


def _network(x, w1, b1, w2, module):
    return module.tanh(module.tanh(x @ w1 + b1) @ w2)


def test_the_figure_equals_that_of_numpys_central_differences(rng, with_gradient):
    """The gradient of w1 is wrong entry by entry, so that the figure has digits to compare."""
    x, w1, b1, w2 = (rng.normal(size=shape) for shape in [(3, 2), (2, 4), (4,), (4, 1)])
    y = rng.normal(size=(3, 1))
    factors = 1.0 + 0.1 * rng.normal(size=w1.shape)
    spoil = with_gradient(lambda g: g * factors)

    def cost(w):
        return np.mean((_network(x, w, b1, w2, np) - y) ** 2)

    numeric = np.zeros_like(w1)
    for index in np.ndindex(*w1.shape):
        step = np.zeros_like(w1)
        step[index] = 1e-5
        numeric[index] = (cost(w1 + step) - cost(w1 - step)) / 2e-5
    wrong = numeric * factors
    figure = np.linalg.norm(wrong - numeric) / (np.linalg.norm(wrong) + np.linalg.norm(numeric))

    report = check_gradients(
        lambda w: _network(x, spoil(w), b1, w2, tf),
        w1,
        y,
        lambda t, p: tf.reduce_mean((p - t) ** 2),
    )
    # Both central differences are good to 1e-9 of the gradient.
    assert report.relative_difference == pytest.approx(figure, rel=1e-6)
    assert report.rows[0].relative_difference == report.relative_difference
    worst = report.rows[0]
    assert worst.numeric == pytest.approx(numeric[worst.worst_index], rel=1e-6)
    assert worst.analytic == pytest.approx(wrong[worst.worst_index], rel=1e-6)


def test_a_gradient_that_is_off_by_a_thousandth_has_the_figure_of_the_formula(with_gradient):
    """||0.001 g|| / (1.001 ||g|| + ||g||), whatever g is."""
    spoil = with_gradient(lambda g: 1.001 * g)
    report = check_gradients(lambda x: tf.sin(spoil(x)), np.linspace(-1.0, 1.0, 9))
    assert report.relative_difference == pytest.approx(0.001 / 2.001, rel=1e-5)
    assert report.verdict == "wrong"


@pytest.mark.parametrize(
    "off, verdict",
    [(0.0, "correct"), (1.5e-7, "correct"), (4e-7, "suspicious"), (1.5e-5, "suspicious")]
    + [(4e-5, "wrong"), (1e-3, "wrong")],
)
def test_the_verdict_changes_at_the_chapters_bounds(with_gradient, off, verdict):
    """The figure is off/2, which lies on both sides of 1e-7 and of 1e-5."""
    spoil = with_gradient(lambda g: (1.0 + off) * g)
    report = check_gradients(lambda x: tf.exp(spoil(x)), np.linspace(0.0, 1.0, 5))
    assert report.verdict == verdict
    assert report.relative_difference == pytest.approx(off / 2.0, rel=0.01, abs=1e-9)


def test_two_zero_gradients_differ_by_zero():
    report = check_gradients(lambda x: 0.0 * x, np.ones(3))
    assert report.relative_difference == 0.0
    assert report.verdict == "correct"


def test_a_vanishing_gradient_is_not_blamed_for_rounding():
    """At the minimum the slope is zero and the central difference is rounding alone."""
    report = check_gradients(lambda x: tf.reduce_sum((x - 0.3) ** 2) + 1.0, np.full(5, 0.3))
    assert report.verdict == "correct"


def test_every_output_counts_although_they_cancel_in_a_plain_sum(with_gradient):
    """Softmax sums to one: a plain sum of the outputs has the gradient zero, right or wrong."""
    spoil = with_gradient(lambda g: 1.001 * g)
    report = check_gradients(lambda x: tf.nn.softmax(spoil(x)), np.linspace(-1, 1, 4)[None])
    assert report.verdict == "wrong"


def test_the_seed_fixes_the_entries_and_the_weights(rng):
    def figures(seed):
        report = check_gradients(tf.tanh, x, max_entries=4, seed=seed)
        return report.rows[0].worst_index, report.rows[0].analytic

    x = rng.normal(size=(6, 7))
    found = figures(3)
    assert figures(3) == found != figures(4)


@pytest.mark.parametrize("max_entries, checked", [(1, 1), (41, 41), (42, 42), (43, 42), (None, 42)])
def test_max_entries_bounds_each_row(rng, max_entries, checked):
    report = check_gradients(tf.tanh, rng.normal(size=(6, 7)), max_entries=max_entries)
    assert report.rows[0].entries == checked
    assert report.verdict == "correct"


def test_sampled_entries_are_drawn_without_replacement(with_gradient):
    """With 41 of 42 entries one is left out: a single wrong entry is found, or is that one."""
    x = np.linspace(-1.0, 1.0, 42)
    found = 0
    for wrong in range(0, 42, 14):
        mask = np.where(np.arange(42) == wrong, 2.0, 1.0)
        spoil = with_gradient(lambda g, mask=mask: g * mask)
        report = check_gradients(lambda v, f=spoil: tf.sin(f(v)), x, max_entries=41)
        if report.verdict == "wrong":
            assert report.rows[0].worst_index == (wrong,)
            found += 1
    assert found >= 2


def test_a_large_epsilon_shows_the_truncation_error():
    """exp: the central difference is off by epsilon^2/6, a figure of epsilon^2/12."""
    coarse = check_gradients(lambda x: tf.exp(x), np.zeros(3), epsilon=1e-3)
    assert coarse.epsilon == 1e-3
    # The close look extrapolates this away, so the coarse step does not make it wrong.
    assert coarse.verdict == "correct"
    assert coarse.relative_difference < 1e-8


def test_a_progress_bar_counts_the_entries(capsys):
    x, w = np.ones((2, 3)), np.ones((3, 2))
    check_gradients(lambda x, w: x @ w, [x, w])
    assert capsys.readouterr().out == ""
    check_gradients(lambda x, w: x @ w, [x, w], max_entries=4, verbose=1)
    assert "8/8" in capsys.readouterr().out
    with pytest.raises(ValueError, match="`verbose` must be .* Received: verbose=3"):
        check_gradients(lambda x, w: x @ w, [x, w], verbose=3)
