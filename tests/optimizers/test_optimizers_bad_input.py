"""Bad arguments and gradients: both sides of each bound, and errors that say what was received."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import KINDS, NAMES, OF_ANY_VARIABLE, Problem, assert_same, make

from keras_bp import optimizers

EPSILON = np.finfo("float64").eps

# Argument: values that are refused, and the ones just inside of the bounds.
SHARED = {
    "learning_rate": ([-1e-9, np.nan, np.inf], [0.0, 1e-9, 5]),
    "weight_decay": ([-1e-9, np.nan], [0.0, 1e-9, 3]),
    "clipnorm": ([0.0, -1.0, np.inf], [1e-9, 2]),
    "clipvalue": ([0.0, -1.0, np.nan], [1e-9, 2]),
    "global_clipnorm": ([0.0, -1.0, np.inf], [1e-9, 2]),
    "loss_scale_factor": ([0.0, -1.0, np.nan], [1e-9, 2]),
    "gradient_accumulation_steps": ([1, 0, -2], [2, 3]),
}
BETA = ([-1e-9, 1.0, 1.5, np.nan], [0.0, 1 - EPSILON, 0.5])
MOMENTUM = ([-1e-9, 1 + EPSILON, np.nan], [0.0, 1.0, 0.5])
POSITIVE = ([0.0, -1e-9, np.nan], [1e-30, 1])
SHARE = ([0.0, 1.0, -0.1], [EPSILON, 1 - EPSILON])
AT_LEAST_0 = ([-1e-9, np.inf], [0.0, 2])
ADAM = {"beta_1": BETA, "beta_2": BETA, "epsilon": POSITIVE}
OWN = {
    "SGD": {"momentum": MOMENTUM},
    "Momentum": {"beta": BETA},
    "Nesterov": {"beta": BETA},
    "RMSprop": {"rho": BETA, "momentum": MOMENTUM, "epsilon": POSITIVE},
    "Adam": ADAM,
    "AdamW": ADAM,
    "Lamb": ADAM,
    "Lion": {"beta_1": ([0.0, 1 + EPSILON, np.nan], [1e-9, 1.0]), "beta_2": BETA},
    "Adagrad": {"initial_accumulator_value": AT_LEAST_0, "epsilon": POSITIVE},
    "Ftrl": {
        "learning_rate_power": ([1e-9, np.nan], [0.0, -2]),
        **{f"l{n}_regularization_strength": AT_LEAST_0 for n in ("1", "2", "2_shrinkage")},
        **dict.fromkeys(("initial_accumulator_value", "beta"), AT_LEAST_0),
    },
    "Adadelta": {"rho": BETA, "epsilon": POSITIVE},
    "Adamax": ADAM,
    "Nadam": {**ADAM, "momentum_decay": POSITIVE},
    "Adafactor": {
        "beta_2_decay": ([0.0, 0.5, np.nan], [-1e-9, -2]),
        **dict.fromkeys(("epsilon_1", "epsilon_2", "clip_threshold"), POSITIVE),
    },
    "LazyAdam": {**ADAM, "correction": (["rows", "", None, True], ["row", "global"])},
    # Its betas have a bound between them, which is tested with it.
    "DeferredAdam": {"epsilon": POSITIVE},
    "DoG": {"r_epsilon": POSITIVE, "epsilon": POSITIVE, "init_eta": POSITIVE},
    "HypergradientAdam": {**ADAM, "hypergradient_rate": ([-1e-9, np.nan, np.inf], [0.0, 1e-9, 2])},
    "Muon": {
        **{name: BETA for name in ("adam_beta_1", "adam_beta_2", "momentum")},
        "epsilon": POSITIVE,
        "adam_weight_decay": ([-1e-9, np.nan], [None, 0.0, 3]),
        "adam_lr_ratio": ([-1e-9, np.nan], [0.0, 3]),
        **{name: ([np.nan, np.inf], [-2, 0.0]) for name in ("muon_a", "muon_b", "muon_c")},
        "ns_steps": ([0, -1], [1, 9]),
        "rms_rate": ([0.0, -1.0, np.nan], [1e-9, 2, None, "original"]),
        "ns_dtype": (["float16", 32], [None, "float32", "bfloat16"]),
    },
    "Prodigy": {
        **ADAM,
        "beta_3": BETA,
        "d0": POSITIVE,
        "d_coef": POSITIVE,
        "growth_rate": ([1 - EPSILON, 0.5, np.inf], [1.0, 1.02, 2]),
    },
    "ScheduleFreeSGD": {"momentum": SHARE, "warmup_steps": ([-1], [0, 1]), "r": AT_LEAST_0},
    "ScheduleFreeRAdam": {
        "beta_1": SHARE,
        "beta_2": ([0.6, 1.0, np.nan], [0.6 + EPSILON, 1 - EPSILON]),
        "epsilon": POSITIVE,
        "r": AT_LEAST_0,
    },
    "ScheduleFreeAdamW": {
        **ADAM,
        "beta_1": SHARE,
        "warmup_steps": ([-1], [0, 1]),
        "r": AT_LEAST_0,
    },
}
BOUNDS = [
    (name, argument, *values)
    for name in NAMES
    for argument, values in {**SHARED, **OWN[name]}.items()
    if not (name == "DeferredAdam" and argument == "weight_decay")
]


@pytest.mark.parametrize("name, argument, bad, good", BOUNDS)
def test_both_sides_of_every_bound(name, argument, bad, good):
    for value in bad:
        with pytest.raises(ValueError, match=rf"^`{argument}` must be .* Received: {argument}="):
            getattr(optimizers, name)(**{argument: value})
    for value in good:
        optimizer = getattr(optimizers, name)(**{argument: value})
        kept = optimizer.get_config()[argument]
        # A learning rate is kept in float32.
        assert kept == value or kept == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("argument", [*SHARED, "beta_1", "beta_2", "epsilon"])
@pytest.mark.parametrize("value", ["0.1", True, [1.0], np.bool_(True)])
def test_an_argument_of_another_type(argument, value):
    with pytest.raises(TypeError, match=rf"^`{argument}` must be .* Received: {argument}="):
        optimizers.Adam(**{argument: value})


@pytest.mark.parametrize("argument, value", [("gradient_accumulation_steps", 2.0)])
def test_whole_numbers(argument, value):
    with pytest.raises(TypeError, match=rf"^`{argument}` must be an integer.* Received: "):
        optimizers.SGD(**{argument: value})


def test_none_where_a_number_is_needed():
    with pytest.raises(TypeError, match=r"^`learning_rate` must be .*Received: "):
        optimizers.SGD(None)
    with pytest.raises(ValueError, match=r"^`weight_decay` must be .*Received: weight_decay=None"):
        optimizers.AdamW(weight_decay=None)


@pytest.mark.parametrize(
    "argument, value", [("amsgrad", True), ("weight_decay", 0.5), ("epsilon_hat", False)]
)
def test_what_deferred_adam_does_not_take(argument, value):
    with pytest.raises(ValueError, match=rf"^`{argument}` must be .* Received: {argument}={value}"):
        optimizers.DeferredAdam(**{argument: value})


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_argument(name):
    with pytest.raises((TypeError, ValueError), match="learning_rates"):
        getattr(optimizers, name)(learning_rates=0.1)


def test_two_bounds_at_once():
    with pytest.raises(ValueError, match="`clipnorm`.*Received: clipnorm=1.0"):
        optimizers.SGD(clipnorm=1.0, clipvalue=1.0)


@pytest.mark.parametrize("options", [{"ema_momentum": 1.5}, {"ema_momentum": -0.1}])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "DeferredAdam"])
def test_averages_out_of_bounds(name, options):
    with pytest.raises(ValueError, match=r"`ema_momentum`.*Received: ema_momentum="):
        make(name, use_ema=True, **options)
    for good in (0.0, 1.0):
        make(name, use_ema=True, ema_momentum=good)


@pytest.mark.parametrize("bad, error", [(0.5, TypeError), (-1, ValueError), (0, ValueError)])
def test_overwrite_frequency_out_of_bounds(bad, error):
    with pytest.raises(error, match="`ema_overwrite_frequency` must be .*Received: "):
        make("SGD", use_ema=True, ema_overwrite_frequency=bad)
    make("SGD", use_ema=True, ema_overwrite_frequency=1)


@pytest.mark.parametrize("bad", [3, [3], [""], "", [None], [["bias"]]])
def test_patterns_that_are_no_strings(bad):
    with pytest.raises(TypeError, match=r"`exclude_from_decay` must be .*Received: "):
        optimizers.AdamW(exclude_from_decay=bad)


def test_a_pattern_that_is_no_expression():
    with pytest.raises(ValueError, match=r"`exclude_from_decay` must .*Received: '\['"):
        optimizers.AdamW(exclude_from_decay="[")


@pytest.mark.parametrize("name", OF_ANY_VARIABLE)
def test_a_pattern_that_finds_nothing(name):
    """It is a misspelling, found before anything is built; a preset may find nothing."""
    variables = [tf.Variable(1.0, name="kernel")]
    optimizer = make(name, exclude_from_decay=["kernel", "kernal"])
    with pytest.raises(ValueError, match=r"`exclude_from_decay` must match .*Received: 'kernal'"):
        optimizer.apply([tf.constant(1.0)], variables)
    assert not optimizer.built and len(optimizer.variables) == 2
    make(name, exclude_from_decay="bias_and_normalization").build(variables)


@pytest.mark.parametrize("bad", [-1e-9, np.nan])
def test_a_rate_that_is_set_out_of_bounds(bad):
    optimizer = make("SGD", 0.5)
    with pytest.raises(ValueError, match=r"`learning_rate` must be .*Received: learning_rate="):
        optimizer.learning_rate = bad
    with pytest.raises(TypeError, match=r"`learning_rate` must be .*Received: learning_rate="):
        optimizer.learning_rate = "fast"
    assert float(optimizer.learning_rate) == 0.5


def refused(problem, optimizer, match, gradients, *variables):
    """The call raises, and nothing has changed."""
    before = [*problem.read(), *(v.numpy() for v in optimizer.variables)]
    with pytest.raises(ValueError, match=match):
        optimizer.apply(gradients, *variables)
    assert_same([*problem.read(), *(v.numpy() for v in optimizer.variables)], before)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_that_do_not_fit(name):
    problem, optimizer = Problem(name), make(name)
    matrix, scalar, table = problem.gradients(0)
    refused(problem, optimizer, "`trainable_variables` must .*Received: .*None", [matrix])
    problem.steps(optimizer, 1)
    for gradients in ([matrix], [matrix, scalar, table, table], [matrix, scalar]):
        for variables in ([], [problem.variables]):
            match = rf"`grads` must hold one .* 3 variables. Received: {len(gradients)} gradients"
            refused(problem, optimizer, match, gradients, *variables)
    wide = tf.IndexedSlices(table.values[:, :1], table.indices, tf.constant([7, 1]))
    for gradients, shape in (
        ([tf.transpose(matrix), scalar, table], r"\(3, 2\) for 'matrix'.*\(2, 3\)"),
        ([matrix, matrix, table], r"\(\) for 'scalar'.*\(3, 2\)"),
        ([matrix, scalar, wide], r"\(7, 2\) for .*embeddings.*\(4, 1\)"),
        ([matrix, scalar, matrix], r"\(7, 2\) for .*embeddings.*\(3, 2\)"),
    ):
        match = f"`grads` must have the shapes .*{shape}"
        refused(problem, optimizer, match, gradients, problem.variables)


@pytest.mark.parametrize("name", KINDS)
def test_variables_that_it_was_not_built_with(name):
    problem, optimizer = Problem(name), make(name)
    problem.steps(optimizer, 1)
    refused(problem, optimizer, "Unknown variable", [tf.constant(1.0)], [tf.Variable(1.0)])
    # A part of its variables will do.
    optimizer.apply(problem.gradients(0)[:2], problem.variables[:2])
    assert int(optimizer.iterations) == 2


@pytest.mark.parametrize("name", KINDS)
def test_no_gradient_at_all(name):
    problem, optimizer = Problem(name), make(name)
    problem.steps(optimizer, 1)
    refused(problem, optimizer, "No gradients provided", [None] * 3, problem.variables)


def test_a_call_outside_of_the_replicas(replicas):
    with replicas.scope():
        variable = tf.Variable([1.0, 2.0])
        optimizer = make("Adam")
        optimizer.build([variable])
        with pytest.raises(ValueError, match=r"`?strategy.run`?.*Received: a call in the strategy"):
            optimizer.apply([tf.ones(2)], [variable])
        assert variable.numpy().tolist() == [1.0, 2.0]


def test_what_a_rule_must_override():
    with pytest.raises(NotImplementedError, match="Optimizer must override `_rule`"):
        optimizers.Optimizer(0.1).apply([tf.constant(1.0)], [tf.Variable(1.0)])


def test_deferred_adam_beside_an_embedding_of_keras():
    layer = keras.layers.Embedding(3, 1)
    layer.build()
    gradient = tf.IndexedSlices(tf.ones((1, 1)), tf.constant([1]), tf.constant([3, 1]))
    with pytest.raises(ValueError, match="DeferredEmbedding.*Received: a sparse gradient of"):
        make("DeferredAdam").apply([gradient], layer.trainable_variables)


def test_a_variable_listed_twice_is_refused_by_name_and_nothing_moves():
    """A rule would move it twice, 0.36 in place of 0.64, and its slots with it."""
    shared, own = keras.Variable([1.0], name="shared"), keras.Variable([3.0], name="own")
    gradients = [tf.constant([2.0])] * 3
    message = r"`trainable_variables` must list each variable once\. Received: '.*' twice"
    for listed in [shared, own, shared], [shared, own, shared.value]:
        optimizer = make("SGD", 0.1)
        with pytest.raises(ValueError, match=message.replace(".*", "shared.*")):
            optimizer.apply(gradients, listed)
        with pytest.raises(ValueError, match=message):
            optimizer.build(listed)
        assert not optimizer.built
        optimizer.apply(gradients[:2], [shared, own])
        with pytest.raises(ValueError, match=message):
            optimizer.apply(gradients, listed)
    np.testing.assert_allclose([shared.numpy(), own.numpy()], [[0.6], [2.6]], rtol=1e-6)
