"""Factors on rates and decays: by patterns, by depth, frozen and set anew; and `describe`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import (
    FIT,
    NAMES,
    OF_ANY_VARIABLE,
    RATES,
    Problem,
    X,
    Y,
    assert_close,
    assert_same,
    make,
    model,
)

from keras_bp import optimizers
from keras_bp.callbacks import GradientMonitor, TrainingHealth
from keras_bp.schedules import WarmupCosine

# Their rate is found from all variables together.
TUNED = [name for name in NAMES if hasattr(getattr(optimizers, name), "adapted_rate")]
# Factors that round nothing.
FACTORS = {"matrix": 0.5, "scalar": 0.25}


def moves(name, count=1, **options):
    """What each of the problem's variables has moved by."""
    problem = Problem(name)
    before = problem.read()
    problem.steps(make(name, **options), count)
    return [a - b for a, b in zip(problem.read(), before, strict=True)]


@pytest.mark.parametrize("name", [name for name in OF_ANY_VARIABLE if name not in TUNED])
def test_a_factor_is_a_rate_of_its_own(name):
    """Three optimizers with a variable and a rate each take the steps of one, bit for bit."""
    problem, optimizer = Problem(name), make(name, learning_rate_multipliers=FACTORS)
    problem.steps(optimizer, 3)
    apart, factors = Problem(name), [*FACTORS.values(), 1.0]
    each = [make(name, RATES.get(name, 0.05) * factor) for factor in factors]
    for step in range(3):
        parts = zip(each, apart.gradients(step), apart.variables, strict=True)
        for optimizer, gradient, variable in parts:
            optimizer.apply([gradient], [variable])
    assert_same(problem.read(), apart.read())


@pytest.mark.parametrize("name", TUNED)
def test_a_factor_is_one_on_a_rate_that_is_found(name):
    # The first rate is found before any variable moves.
    plain, factored = moves(name), moves(name, learning_rate_multipliers=FACTORS)
    expected = [move * factor for move, factor in zip(plain, [0.5, 0.25, 1.0], strict=True)]
    # The moves are differences of weights of size 1, rounded by 6e-8 each.
    assert_close(factored, expected, 2e-7)


def test_the_hypergradient_is_that_of_the_factored_steps():
    """The loss g . w changes with the rate by the sum of factor * g . u."""
    w = [tf.Variable([1.0], name="first"), tf.Variable([1.0], name="second")]
    factors = {"first": 0.25}
    optimizer = make("HypergradientAdam", 0.1, learning_rate_multipliers=factors)
    for _ in range(2):
        optimizer.apply([tf.constant([2.0]), tf.constant([3.0])], w)
    # Both directions are 1.
    rate = 0.1 + optimizer.hypergradient_rate * (0.25 * 2 + 3)
    np.testing.assert_allclose(optimizer.adapted_rate.numpy(), rate, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("name", NAMES)
def test_a_factor_of_0_leaves_every_bit(name):
    """Of the weight and its slots, also where the gradient is NaN, and it counts in no norm."""
    multipliers = {"matrix": 0.0}
    problem = Problem(name)
    optimizer = make(name, learning_rate_multipliers=multipliers, global_clipnorm=0.5)
    others, twin = Problem(name), make(name, global_clipnorm=0.5)
    for step in range(2):
        _, *rest = problem.gradients(step)
        broken = tf.fill([3, 2], np.nan)
        optimizer.apply([broken, *rest], problem.variables)
        twin.build(others.variables)
        twin.apply([None, *rest], others.variables)
    assert_same(problem.read(), others.read())
    slots = [
        [v.numpy() for v in o.variables if "matrix" in v.name and "initial" not in v.name]
        for o in (optimizer, twin)
    ]
    assert_same(*slots)


def test_the_longest_match_counts():
    problem = Problem("SGD")
    multipliers = {"matrix": 0.25, "m": 0.5, "bias_and_normalization": 3.0, "atrix$": 0.125}
    treated = make("SGD", 1.0, learning_rate_multipliers=multipliers)
    treated.build(problem.variables)
    assert treated.rate_factors == (0.25, 0.5, 1.0)  # "m" is in the path of the table, too
    assert treated._rate_factors[0] == 0.25


def in_float64(multipliers):
    kernel, bias = (tf.Variable([1.0], dtype="float64", name=name) for name in ("kernel", "bias"))
    optimizer = optimizers.SGD(0.5, weight_decay=0.25, weight_decay_multipliers=multipliers)
    optimizer.apply([tf.zeros([1], "float64")] * 2, [kernel, bias])
    return [float(kernel[0]), float(bias[0])]


def test_decay_by_pattern():
    assert in_float64({"kernel": 2.0, "bias": 0.0}) == [1 - 0.5 * 0.25 * 2, 1.0]


@pytest.mark.parametrize("name", ["Lamb", "ScheduleFreeAdamW", "Prodigy", "DoG"])
def test_rules_that_decay_themselves_take_the_variables_decay(name):
    """A decay of 0.01 times 3 is a decay of 0.03."""
    one = moves(name, 3, weight_decay=0.01, weight_decay_multipliers={".": 3.0})
    other = moves(name, 3, weight_decay=0.03)
    assert_close(one, other, 1e-6)
    assert max(np.max(np.abs(a - b)) for a, b in zip(one, moves(name, 3), strict=True)) > 1e-5


def paths(*names):
    return [tf.Variable(np.zeros([2] * rank, "float32"), name=name) for name, rank in names]


NETWORK = paths(
    ("net/embedding/embeddings", 2),
    ("net/block_1/attention/query/kernel", 2),
    ("net/block_1/norm/gamma", 1),
    ("net/block_2/attention/query/kernel", 2),
    ("net/final_norm/gamma", 1),
    ("net/head/kernel", 2),
    ("net/head/bias", 1),
)


@pytest.mark.parametrize(
    "order, levels",
    [
        (None, [3, 2, 2, 1, 1, 0, 0]),
        (["embedding", "block_1/", "block_2/", "final_norm"], [4, 3, 3, 2, 1, 0, 0]),
        (["embedding", "block_", "head"], [2, 1, 1, 1, 0, 0, 0]),
        (lambda path: "head" in path, [1, 1, 1, 1, 1, 0, 0]),
    ],
    ids=["as they come", "blocks", "with the head", "function"],
)
def test_layer_decay(order, levels):
    optimizer = optimizers.SGD(1.0, layer_decay=0.5, layer_order=order)
    optimizer.build(NETWORK)
    if order == ["embedding", "block_", "head"]:  # the norm is named by none: it is above the head
        levels = [3, 2, 2, 2, 0, 1, 1]
    assert optimizer._rate_factors == tuple(0.5**level for level in levels)


def test_layers_of_a_sequential_model_around_a_trunk():
    names = [
        ("trunk/a/kernel", 2),
        ("trunk/b/kernel", 2),
        ("net/mid/kernel", 2),
        ("net/head/kernel", 2),
    ]
    optimizer = optimizers.SGD(1.0, layer_decay=0.5)
    optimizer.build(paths(*names))
    assert optimizer._rate_factors == (0.25, 0.25, 0.5, 1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate_multipliers": {"block_1/": 0.5}},
        {"layer_decay": 0.5, "layer_order": ["block_0/", "block_1/"]},
        {"layer_decay": 0.5},
        {"exclude_from_decay": "block_1/"},
    ],
    ids=str,
)
def test_patterns_hold_in_a_loaded_model(options, tmp_path):
    """Where Keras leaves the names of Sequential models in the model out of the paths."""
    inputs = keras.Input((3,))
    outputs = inputs
    for i in range(2):
        block = [keras.layers.Dense(3, name=f"fc_{i}")]
        outputs = keras.Sequential(block, name=f"block_{i}")(outputs)
    net = keras.Model(inputs, keras.layers.Dense(1, name="head")(outputs))
    net.compile(make("AdamW", **options), "mse", run_eagerly=True)
    net.train_on_batch(np.ones((2, 3)), np.ones((2, 1)))
    net.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    treated = [optimizers.describe(each.optimizer, each) for each in (net, loaded)]
    assert treated[0] == treated[1]
    loaded.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    assert optimizers.describe(again.optimizer, again) == treated[0]


def test_layer_decay_with_a_weight_of_the_model_itself():
    variables = paths(("vit/cls_token", 3), ("vit/patch/kernel", 2), ("vit/block_1/mlp/kernel", 2))
    optimizer = optimizers.SGD(1.0, layer_decay=0.5)
    optimizer.build([*variables, *paths(("vit/head/kernel", 2))])
    assert optimizer._rate_factors == (0.125, 0.25, 0.5, 1.0)


def test_a_factor_on_a_relative_step_is_one():
    """Of Adafactor's limited rate, not below the limit."""
    kernel, other = tf.Variable([1.0], name="kernel"), tf.Variable([1.0], name="other")
    optimizer = optimizers.Adafactor(100.0, learning_rate_multipliers={"kernel": 0.125})
    optimizer.apply([tf.constant([1.0])] * 2, [kernel, other])
    np.testing.assert_allclose(1 - kernel, (1 - other) / 8, rtol=1e-5)


def test_tables_without_decay_go_by_rows():
    seen = []

    class Probe(optimizers.Adagrad):
        def _rule(self, variable, gradient, *arguments):
            seen.append(type(gradient))

    problem = Problem("Adagrad")
    options = {"weight_decay": 0.1, "exclude_from_decay": "embeddings"}
    Probe(0.1, **options).apply(problem.gradients(0), problem.variables)
    assert seen[-1] is tf.IndexedSlices


@keras.saving.register_keras_serializable("keras_bp_tests")
def place(path):
    return int("head" in path)


def test_everything_is_saved(tmp_path):
    options = {"layer_decay": 0.5, "layer_order": place, "weight_decay_multipliers": {"head": 2.0}}
    net = model("AdamW", make("AdamW", learning_rate_multipliers={"bias": 0.5}, **options))
    net.fit(X, Y, batch_size=7, **FIT)
    net.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == net.optimizer.get_config()
    for each in (net, loaded):
        each.fit(X, Y, batch_size=7, **FIT)
    assert_same(net.get_weights(), loaded.get_weights())
    treated = optimizers.describe(loaded.optimizer, loaded)
    # The rate is kept in float32.
    np.testing.assert_allclose([t.rate for t in treated[-2:]], [0.05, 0.025], rtol=1e-7)
    assert [t.decay for t in treated[-2:]] == [0.008, 0.008]


def test_setting_the_factors_between_fits_reaches_the_compiled_step():
    """Gradual unfreezing: slots stay, and what is frozen does not move."""
    net = model("AdamW", make("AdamW", learning_rate_multipliers={"embedding": 0.0, "hidden": 0.0}))
    net.fit(X, Y, batch_size=7, **FIT)
    for frozen in [{"embedding": 0.0}, None]:
        before, slots = net.get_weights(), [v.numpy() for v in net.optimizer.variables]
        net.optimizer.learning_rate_multipliers = frozen
        assert_same([v.numpy() for v in net.optimizer.variables], slots)
        net.fit(X, Y, batch_size=7, **FIT)
        moved = [not np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True)]
        assert moved == [frozen is None, True, True, True, True]
    net.optimizer.weight_decay = 1e3
    net.fit(X[:7], Y[:7], batch_size=7, **FIT)
    assert np.abs(net.get_weights()[0]).max() > 20 * np.abs(before[0]).max()  # 1 - 0.05 * 1000


def test_freezing_layers_keeps_their_slots():
    net = model("AdamW", run_eagerly=True)
    net.fit(X, Y, batch_size=7, **FIT)
    hidden = net.get_layer("hidden")
    kept = [v.numpy() for v in net.optimizer.variables if "hidden" in v.name]
    before = [w.numpy() for w in hidden.weights]
    hidden.trainable = False
    net.compile(net.optimizer, "mse", run_eagerly=True)
    net.fit(X, Y, batch_size=7, **FIT)
    assert_same([w.numpy() for w in hidden.weights], before)
    assert_same([v.numpy() for v in net.optimizer.variables if "hidden" in v.name], kept)
    hidden.trainable = True
    net.compile(net.optimizer, "mse", run_eagerly=True)
    net.fit(X, Y, batch_size=7, **FIT)
    assert not np.array_equal(hidden.weights[0].numpy(), before[0])


def test_one_schedule_one_norm_and_one_accumulation():
    """Groups share them: the twin is one rate, whose clipped mean gradients are scaled by hand."""
    schedule = WarmupCosine(0.5, total_steps=8, warmup_steps=2)
    options = {"global_clipnorm": 1.0, "gradient_accumulation_steps": 2}
    problem = Problem("SGD")
    problem.steps(make("SGD", schedule, learning_rate_multipliers=FACTORS, **options), 8)
    twin = Problem("SGD", sparse=False)
    for update in range(4):
        pair = zip(twin.gradients(2 * update), twin.gradients(2 * update + 1), strict=True)
        means = [(a + b) / 2 for a, b in pair]
        norm = np.sqrt(sum(np.sum(np.square(mean)) for mean in means))
        for variable, mean, factor in zip(twin.variables, means, [0.5, 0.25, 1.0], strict=True):
            variable.assign_sub(mean * (factor * float(schedule(update)) / max(norm, 1.0)))
    assert_close(problem.read(), twin.read(), 1e-6)


def test_as_many_operations_as_for_one_rate():
    """Of the scalars: a group adds an element to vectors, no operation."""

    def operations(**options):
        problem, optimizer = Problem("AdamW", sparse=False), make("AdamW", **options)
        gradients = problem.gradients(0)
        optimizer.build(problem.variables)
        step = tf.function(lambda: optimizer.apply(gradients, problem.variables))
        return len(step.get_concrete_function().graph.get_operations())

    two = operations(learning_rate_multipliers={"matrix": 0.5})
    three = operations(learning_rate_multipliers=FACTORS)
    assert three == two <= operations() + 20


def test_describe():
    options = {"exclude_from_decay": "bias_and_normalization", "layer_decay": 0.5}
    optimizer = make("LazyAdam", 0.5, weight_decay=0.25, correction="row", **options)
    wrapped = keras.optimizers.LossScaleOptimizer(optimizer)
    net = model("LazyAdam", wrapped)
    treated = optimizers.describe(wrapped, net)
    slots = ("momentum", "velocity")
    assert [t[1:5] for t in treated] == [
        ((7, 2), "LazyAdam", 0.125, 0.25),
        ((6, 4), "LazyAdam", 0.25, 0.25),
        ((4,), "LazyAdam", 0.25, 0.0),
        ((4, 1), "LazyAdam", 0.5, 0.25),
        ((1,), "LazyAdam", 0.5, 0.0),
    ]
    assert {t.slots for t in treated} == {slots}
    head, first, *_ = str(treated).splitlines()
    assert head.split() == ["variable", "shape", "rule", "rate", "decay", "slots"]
    assert first.split()[1:] == "(7, 2) LazyAdam 0.125 0.25 momentum, velocity".split()


def test_describe_refuses():
    with pytest.raises(TypeError, match="`optimizer` must be one of keras_bp.optimizers. Rec"):
        optimizers.describe(keras.optimizers.Adam(), model("SGD"))
    with pytest.raises(ValueError, match="`model` must be built and have trainable variables"):
        optimizers.describe(make("SGD"), keras.Sequential([keras.layers.Dense(1)]))


def test_callbacks_know_what_is_frozen(tmp_path, read_events):
    """It stands still on purpose, and its gradient is not clipped, nor counted in the norm."""
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden")])
    net.add(keras.layers.Dense(1, name="head"))
    # Between the norm of the head's gradient and that of both.
    options = {"learning_rate_multipliers": {"hidden": 0.0}, "global_clipnorm": 200.0}
    net.compile(make("SGD", 1e-9, **options), "mse")
    x, health = np.full((8, 3), 30.0, "float32"), TrainingHealth(action=lambda finding: None)
    net.layers[0].kernel.assign(np.full((3, 4), 0.01))
    net.layers[1].kernel.assign(np.full((4, 1), 10.0))
    watch = [GradientMonitor(tmp_path), health]
    net.fit(x, np.zeros((8, 1)), batch_size=2, callbacks=watch, **FIT)
    events = read_events(tmp_path)
    assert events["gradient_norm/head"][1] < 200 < events["gradient_norm/hidden"][1]
    assert not any(events["clip_rate"].values())
    assert not [f for f in health.findings if f.check == "unchanged_weights"]


def test_the_monitor_writes_each_rate(tmp_path, read_events):
    schedule = WarmupCosine(0.5, total_steps=4, warmup_steps=1)
    multipliers = {"embedding": 0.0, "hidden": 0.5}
    net = model("AdamW", make("AdamW", schedule, learning_rate_multipliers=multipliers))
    net.fit(X, Y, batch_size=7, callbacks=[GradientMonitor(tmp_path)], **FIT)
    events = read_events(tmp_path)
    rates = {tag: events[tag] for tag in events if tag.startswith("learning_rate")}
    assert set(rates) == {"learning_rate"} | {f"learning_rate/x{f}" for f in ("0", "0.5", "1")}
    for step, rate in rates["learning_rate"].items():
        assert rate == pytest.approx(float(schedule(step - 1)))
        assert rates["learning_rate/x0.5"][step] == pytest.approx(rate / 2)
        assert rates["learning_rate/x0"][step] == 0


BAD = [
    ({"learning_rate_multipliers": {"head": -0.1}}, ValueError, r"`learning_rate_multipliers\['h"),
    ({"weight_decay_multipliers": {"head": np.nan}}, ValueError, r"`weight_decay_multipliers\['h"),
    ({"learning_rate_multipliers": {"head": "1"}}, TypeError, r"`learning_rate_multipliers\['h"),
    ({"learning_rate_multipliers": {"(": 1.0}}, ValueError, "valid regular expressions"),
    ({"learning_rate_multipliers": 0.5}, TypeError, "must be a dictionary of patterns and f"),
    ({"learning_rate_multipliers": {1: 0.5}}, TypeError, "must be a preset, a regular expression"),
    ({"layer_decay": 0.0}, ValueError, r"`layer_decay` must be a finite number in \(0, 1\]"),
    ({"layer_decay": 1.5}, ValueError, r"`layer_decay` must be a finite number in \(0, 1\]"),
    ({"layer_decay": np.nan}, ValueError, r"`layer_decay` must be a finite number in \(0, 1\]"),
    ({"layer_order": ["head"]}, ValueError, "`layer_order` must come with `layer_decay`"),
    ({"layer_decay": 0.5, "layer_order": {"a"}}, TypeError, "`layer_order` must be a list of"),
    ({"layer_decay": 0.5, "layer_order": [1]}, TypeError, "`layer_order` must be a preset"),
]


@pytest.mark.parametrize("options, error, message", BAD, ids=str)
def test_bad_factors(options, error, message):
    with pytest.raises(error, match=f"{message}.*Received: "):
        optimizers.SGD(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate_multipliers": {"haed": 0.5}},
        {"weight_decay_multipliers": {"haed": 0.5}},
        {"layer_decay": 0.5, "layer_order": ["haed"]},
    ],
    ids=str,
)
def test_a_pattern_that_matches_nothing(options):
    [argument] = options.keys() - {"layer_decay"}
    optimizer = optimizers.SGD(**options)
    with pytest.raises(
        ValueError, match=f"`{argument}` must match at least.*Received: 'haed', whi"
    ):
        optimizer.build(NETWORK)
    assert not optimizer.built


def test_a_bad_factor_that_is_set_changes_nothing():
    optimizer = make("SGD", 1.0, learning_rate_multipliers={"head": 0.5})
    optimizer.build(NETWORK)
    for bad in ({"haed": 0.5}, {"head": -1.0}):
        with pytest.raises(ValueError, match=r"^`learning_rate_multipliers.*Received: "):
            optimizer.learning_rate_multipliers = bad
        assert optimizer.learning_rate_multipliers == {"head": 0.5}
        assert optimizer.rate_factors == (0.5, 1.0)


def test_an_order_that_is_no_place():
    optimizer = optimizers.SGD(layer_decay=0.5, layer_order=lambda path: 0.5)
    with pytest.raises(TypeError, match="`layer_order` must return an integer.*Received: "):
        optimizer.build(NETWORK)
