"""Every rule takes the steps of an independent one: torch, optax, schedulefree, NumPy and Keras.

The iterates of the first three lie in `fixtures`, beside the script that made them. All cases use
the same two arrays and the same 100 gradients, which do not depend on the iterates.
"""

import contextlib
import functools
import pathlib

import keras
import numpy as np
import pytest
import rule_twins
import tensorflow as tf

from keras_bp import optimizers, reference

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
LIBRARIES = {
    name: dict(np.load(FIXTURES / f"{name}.npz")) for name in ("torch", "optax", "schedulefree")
}
DECAY_RATE = 100 * 2.0**-15

# In float32 a weight of size 0.5 to 1 is rounded by at most 3e-8 in each of 100 steps, on both
# sides, mostly at random: some 4e-7. torch and optax computed in float64 lie 1e-7 to 4e-7 from
# themselves in float32, so 1e-6 asks for no less than a right rule. In float64 the same sum is
# 1e-15; the powers of the decay rates, taken in another way, and a quotient that is formed in
# another order add 1e-16 of each step, and 1e-12 is far below any other rule.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


@pytest.fixture
def dtype(request):
    """A float type that is Keras's while the test runs: learning rates are of it."""
    keras.config.set_floatx(request.param)
    yield request.param
    keras.config.set_floatx("float32")


# In float32, where a constant of another dtype shows, one case of each rule.
IN_FLOAT32 = ("sgd_momentum", "adam", "adamw", "rmsprop_momentum", "rmsprop_centered")
IN_FLOAT32 += ("lamb_decay_0.1", "sparse_adam", "warmup_10_decay_0.01", "lion", "adagrad")
IN_FLOAT32 += ("adadelta", "adamax", "nadam", "adafactor", "sgd", "radam")


def in_each_dtype(cases):
    """Parametrize by the cases, in float64 and where it says something in float32."""
    pairs = [(case, "float64") for case in cases]
    pairs += [(case, "float32") for case in cases if {case, case[-1]} & set(IN_FLOAT32)]
    ids = ["-".join([case] if isinstance(case, str) else case) + f"-{d}" for case, d in pairs]
    return pytest.mark.parametrize(("case", "dtype"), pairs, ids=ids, indirect=["dtype"])


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def problem(library="torch"):
    arrays = LIBRARIES[library]
    return (
        [arrays[f"initial_{i}"] for i in range(2)],
        [arrays[f"gradients_{i}"] for i in range(2)],
    )


def iterates(optimizer, dtype, record=None):
    """Return the arrays after each step, or call `record(variables)` after each."""
    initial, gradients = problem()
    variables = [tf.Variable(w, dtype=dtype) for w in initial]
    optimizer.build(variables)

    @tf.function
    def step(gradients):
        optimizer.apply(gradients, variables)

    after = []
    record = record or (lambda variables: after.append([v.numpy() for v in variables]))
    for g in zip(*gradients, strict=True):
        step([tf.constant(array, dtype) for array in g])
        record(variables)
    return [np.stack(arrays) for arrays in zip(*after, strict=True)]


def check_fixture(library, case, dtype, arrays, keys=("0", "1")):
    expected = LIBRARIES[library]
    for array, key in zip(arrays, keys, strict=True):
        np.testing.assert_allclose(
            array[expected["steps"] - 1],
            expected[f"{case}/{dtype}/{key}"],
            rtol=0,
            atol=TOLERANCE[dtype],
            err_msg=f"{library} {case} {key}",
        )


DENSE = {
    ("torch", "sgd"): lambda: optimizers.SGD(0.01),
    ("torch", "sgd_momentum"): lambda: optimizers.SGD(2e-3, momentum=0.9),
    ("torch", "sgd_nesterov"): lambda: optimizers.SGD(2e-3, momentum=0.9, nesterov=True),
    ("torch", "adam"): lambda: optimizers.Adam(3e-3, epsilon=1e-8, epsilon_hat=False),
    ("torch", "adam_large_epsilon"): lambda: optimizers.Adam(
        3e-3, beta_1=0.8, beta_2=0.99, epsilon=1e-2, epsilon_hat=False
    ),
    ("torch", "adamw"): lambda: optimizers.AdamW(
        DECAY_RATE, weight_decay=0.01, epsilon=1e-8, epsilon_hat=False
    ),
    ("torch", "adamw_large_decay"): lambda: optimizers.AdamW(
        DECAY_RATE, weight_decay=1.28, epsilon=1e-8, epsilon_hat=False
    ),
    ("torch", "rmsprop_0.9"): lambda: optimizers.RMSprop(
        3e-3, rho=0.9, epsilon=1e-8, epsilon_in_sqrt=False
    ),
    ("torch", "rmsprop_0.99"): lambda: optimizers.RMSprop(
        3e-3, rho=0.99, epsilon=1e-8, epsilon_in_sqrt=False
    ),
    ("torch", "rmsprop_large_epsilon"): lambda: optimizers.RMSprop(
        3e-3, rho=0.9, epsilon=1e-2, epsilon_in_sqrt=False
    ),
    ("torch", "rmsprop_momentum"): lambda: optimizers.RMSprop(
        1e-3, rho=0.9, momentum=0.9, epsilon=1e-8, epsilon_in_sqrt=False
    ),
    ("torch", "rmsprop_centered"): lambda: optimizers.RMSprop(
        1e-3, rho=0.9, epsilon=1e-3, centered=True, epsilon_in_sqrt=False
    ),
    ("torch", "adagrad"): lambda: optimizers.Adagrad(3e-2, 0.125, 1e-3, epsilon_in_sqrt=False),
    ("torch", "adadelta"): lambda: optimizers.Adadelta(0.5, rho=0.9, epsilon=1e-3),
    ("torch", "adamax"): lambda: optimizers.Adamax(3e-3, epsilon=1e-30),
    ("torch", "nadam"): lambda: optimizers.Nadam(3e-3, epsilon=1e-3, momentum_decay=0.004),
    ("torch", "adafactor"): lambda: optimizers.Adafactor(0.2),
    ("optax", "lamb_decay_0"): lambda: optimizers.Lamb(3e-3, epsilon=1e-6),
    ("optax", "lamb_decay_0.1"): lambda: optimizers.Lamb(3e-3, epsilon=1e-6, weight_decay=0.1),
    ("optax", "lamb_large_epsilon"): lambda: optimizers.Lamb(3e-3, epsilon=1e-2, weight_decay=0.1),
    ("optax", "adamw"): lambda: optimizers.AdamW(
        3e-3, weight_decay=0.01, epsilon=1e-8, epsilon_hat=False
    ),
    ("optax", "sgd_nesterov"): lambda: optimizers.Nesterov(2e-3, 0.9),
    ("optax", "lion"): lambda: optimizers.Lion(2.0**-9),
    ("optax", "adagrad"): lambda: optimizers.Adagrad(3e-2, 0.125, 1e-3),
    ("optax", "adadelta"): lambda: optimizers.Adadelta(0.5, rho=0.9, epsilon=1e-3),
    ("optax", "adamax"): lambda: optimizers.Adamax(3e-3, epsilon=1e-30),
    # Without a schedule of the momentum: its rise is over at once.
    ("optax", "nadam"): lambda: optimizers.Nadam(3e-3, epsilon=1e-3, momentum_decay=1e4),
}
SPARSE = {"sparse_adam": 1e-8, "sparse_adam_large_epsilon": 1e-2}
SCHEDULE_FREE = {
    "sgd": {
        "learning_rate": 0.02,
        "momentum": 0.8,
        "warmup_steps": 10,
        "weight_decay": 0.25,
        "r": 1,
    },
    "radam": {"weight_decay": 0.25},
    "radam_sgd_phase": {
        "beta_1": 0.8,
        "beta_2": 0.9,
        "epsilon": 1e-2,
        "silent_sgd_phase": False,
        "r": 1,
    },
    **{
        f"warmup_{warmup}_decay_{decay}": {"warmup_steps": warmup, "weight_decay": decay}
        for warmup in (0, 10)
        for decay in (0, 0.01)
    },
    "large_epsilon": {
        "beta_1": 0.8,
        "beta_2": 0.99,
        "epsilon": 1e-2,
        "warmup_steps": 10,
        "weight_decay": 1.0,
    },
}


def test_every_case_of_the_fixtures_is_compared():
    stored = {
        (library, key.split("/")[0])
        for library, arrays in LIBRARIES.items()
        for key in arrays
        if "/" in key
    }
    sparse = {("torch", case) for case in SPARSE}
    assert stored == {*DENSE, *sparse, *(("schedulefree", case) for case in SCHEDULE_FREE)}


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_saw_the_same_gradients(library):
    for ours, theirs in zip(problem(), problem(library), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


@in_each_dtype(DENSE)
def test_dense_rule_matches_torch_and_optax(case, dtype):
    check_fixture(*case, dtype, iterates(DENSE[case](), dtype))


@in_each_dtype(SPARSE)
def test_lazy_adam_matches_torch_sparse_adam(case, dtype):
    # torch was given the sum of the rows of an id, ours gets each row as an Embedding's gradient
    # holds them: up to four of an id in a batch, and a step without any.
    arrays = LIBRARIES["torch"]
    optimizer = optimizers.LazyAdam(3e-3, epsilon=SPARSE[case])
    table = tf.Variable(arrays["table"], dtype=dtype)
    optimizer.build([table])

    @tf.function(input_signature=[tf.TensorSpec([None, 4], dtype), tf.TensorSpec([None], tf.int32)])
    def step(rows, ids):
        optimizer.apply([tf.IndexedSlices(rows, ids, tf.constant([20, 4]))], [table])

    after = []
    for ids, rows in zip(arrays["ids"], arrays["rows"], strict=True):
        used = ids >= 0
        step(tf.constant(rows[used], dtype), tf.constant(ids[used]))
        after.append(table.numpy())
    check_fixture("torch", case, dtype, [np.stack(after)], ["table"])


@in_each_dtype(SCHEDULE_FREE)
def test_schedule_free_rules_match_their_authors(case, dtype):
    rule = {"sgd": "SGD", "rad": "RAdam"}.get(case[:3], "AdamW")
    options = {"learning_rate": 3e-3, **SCHEDULE_FREE[case]}
    optimizer = getattr(optimizers, f"ScheduleFree{rule}")(**options)
    trained, averaged = [], []

    def record(variables):
        trained.append([v.numpy() for v in variables])
        optimizer.use_average_weights()
        averaged.append([v.numpy() for v in variables])
        optimizer.use_training_weights()

    iterates(optimizer, dtype, record)
    arrays = [np.stack(steps) for steps in zip(*trained, strict=True)]
    arrays += [np.stack(steps) for steps in zip(*averaged, strict=True)]
    check_fixture("schedulefree", case, dtype, arrays, ("0", "1", "x0", "x1"))


def twin(name, *starts, make, **numbers):
    """A rule of `rule_twins`, and ours."""
    rule = functools.partial(getattr(rule_twins, name), **numbers)
    return lambda: rule_twins.Twin(rule, *starts), make


TWINS = {
    "SGD": (lambda: reference.SGD(0.01), lambda: optimizers.SGD(0.01)),
    "Momentum": (lambda: reference.Momentum(0.02, 0.9), lambda: optimizers.Momentum(0.02, 0.9)),
    "Momentum as SGD": (
        # The chapter's average is Keras's velocity times (1 - b) / a.
        lambda: reference.Momentum(0.02, 0.9),
        lambda: optimizers.SGD(0.002, momentum=0.9),
    ),
    "NAG": (lambda: reference.NAG(2e-3, 0.9), lambda: optimizers.Nesterov(2e-3, 0.9)),
    "NAG as SGD": (
        lambda: reference.NAG(2e-3, 0.9),
        lambda: optimizers.SGD(2e-3, momentum=0.9, nesterov=True),
    ),
    "RMSprop": (
        lambda: reference.RMSprop(3e-3, 0.99, 1e-3),
        lambda: optimizers.RMSprop(3e-3, rho=0.99, epsilon=1e-3, epsilon_in_sqrt=False),
    ),
    "Adam": (
        lambda: reference.Adam(3e-3, epsilon=1e-3),
        lambda: optimizers.Adam(3e-3, epsilon=1e-3, epsilon_hat=False),
    ),
    "AdamW": (
        lambda: reference.AdamW(3e-3, 0.1, epsilon=1e-3),
        lambda: optimizers.AdamW(3e-3, weight_decay=0.1, epsilon=1e-3, epsilon_hat=False),
    ),
    "LAMB": (
        lambda: reference.LAMB(3e-3, 0.1, epsilon=1e-3),
        lambda: optimizers.Lamb(3e-3, weight_decay=0.1, epsilon=1e-3),
    ),
    "Lion": twin("lion", 0.0, make=lambda: optimizers.Lion(3e-3)),
    "Adagrad": twin("adagrad", 0.125, make=lambda: optimizers.Adagrad(3e-3, 0.125, 1e-3)),
    "Adagrad outside": twin(
        "adagrad",
        0.0,
        make=lambda: optimizers.Adagrad(3e-3, 0.0, 1e-3, epsilon_in_sqrt=False),
        inside=False,
    ),
    "Adadelta": twin("adadelta", 0.0, 0.0, make=lambda: optimizers.Adadelta(0.5, 0.9, 1e-3)),
    "Adamax": twin("adamax", 0.0, 0.0, make=lambda: optimizers.Adamax(3e-3, 0.9, 0.99, 1e-3)),
    "Nadam": twin("nadam", 0.0, 0.0, make=lambda: optimizers.Nadam(3e-3, 0.9, 0.99, 1e-3)),
    "Nadam, the paper's": twin(
        "nadam",
        0.0,
        0.0,
        make=lambda: optimizers.Nadam(3e-3, 0.9, 0.99, 1e-3, momentum_decay=0.004),
        p=0.004,
    ),
    "Ftrl": twin("ftrl", 0.125, 0.0, make=lambda: optimizers.Ftrl(0.05, -0.5, 0.125)),
    "Ftrl, with every term": twin(
        "ftrl",
        0.25,
        0.0,
        make=lambda: optimizers.Ftrl(0.05, -0.7, 0.25, 0.3, 0.1, 0.05, 0.4),
        **{"p": 0.7, "l1": 0.3, "l2": 0.1, "s": 0.05, "beta": 0.4},
    ),
    "Adafactor": twin(
        "adafactor", 0.0, 0.0, make=lambda: optimizers.Adafactor(0.2, -0.8, 1e-5, 0.1, 0.7), a=0.2
    ),
    "Adafactor, no relative step": twin(
        "adafactor",
        0.0,
        0.0,
        make=lambda: optimizers.Adafactor(0.2, -0.5, 1e-5, 0.1, 0.7, False),
        **{"a": 0.2, "power": -0.5, "relative": False},
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_rule_matches_the_numpy_reference(name, float64):
    make_twin, make = TWINS[name]
    arrays, gradients = problem()
    twin, expected = make_twin(), []
    for g in zip(*gradients, strict=True):
        arrays = twin.step(arrays, g)
        expected.append(arrays)
    ours = iterates(make(), "float64")
    for array, steps in zip(ours, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(array, np.stack(steps), rtol=0, atol=TOLERANCE["float64"])


# Keras casts its Python numbers with tf.cast, which rounds them to float32 on the way to float64: a
# beta of 0.9 is 0.89999998 there. These numbers are the same in both.
DECAYS = {"beta_1": 0.875, "beta_2": 1 - 2.0**-10}
FTRL = optimizers.Ftrl.argument_names
ADAFACTOR = optimizers.Adafactor.argument_names[:-1]
KERAS = [
    ("SGD", {"weight_decay": 0.125}),
    ("SGD", {"momentum": 0.875}),
    ("SGD", {"momentum": 0.875, "nesterov": True}),
    ("RMSprop", {"rho": 0.5, "epsilon": 1e-2}),
    ("RMSprop", {"momentum": 0.875}),
    ("RMSprop", {"centered": True, "momentum": 0.875, "weight_decay": 0.125}),
    ("Adam", DECAYS),
    ("Adam", {"beta_1": 0.75, "beta_2": 0.9375, "epsilon": 1e-2}),
    ("Adam", {"amsgrad": True, **DECAYS}),
    ("Adam", {"weight_decay": 0.125, **DECAYS}),
    ("AdamW", {"weight_decay": 0.125, **DECAYS}),
    ("AdamW", {"weight_decay": 0.125, "amsgrad": True, **DECAYS}),
    ("Lamb", {"epsilon": 1e-2, **DECAYS}),
    ("Lion", {"beta_1": 0.875, "beta_2": 1 - 2.0**-7, "weight_decay": 0.125}),
    ("Adagrad", {}),
    ("Adagrad", {"initial_accumulator_value": 0.5, "epsilon": 1e-2, "weight_decay": 0.125}),
    ("Ftrl", {}),
    ("Ftrl", dict(zip(FTRL, (-0.25, 0.25, 0.125, 0.25, 0.0625, 0.5), strict=True))),
    ("Adadelta", {"rho": 0.875, "epsilon": 1e-2, "weight_decay": 0.125}),
    ("Adamax", DECAYS),
    ("Adamax", {"weight_decay": 0.125, "epsilon": 1e-2, **DECAYS}),
    ("Adafactor", {"epsilon_2": 2.0**-10}),
    ("Adafactor", dict(zip(ADAFACTOR, (-0.5, 2.0**-10, 0.125, 0.5), strict=True))),
]


def check_keras(ours, theirs, tolerance):
    for a, b in zip(iterates(ours, "float64"), iterates(theirs, "float64"), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "arguments"), KERAS, ids=str)
def test_rule_matches_keras(name, arguments, float64):
    ours, theirs = (getattr(m, name)(3e-3, **arguments) for m in (optimizers, keras.optimizers))
    check_keras(ours, theirs, TOLERANCE["float64"])


WITH_NAMESAKE = ["SGD", "RMSprop", "Adam", "AdamW", "Lamb", "Lion", "Adagrad", "Ftrl", "Adadelta"]
WITH_NAMESAKE += ["Adamax", "Nadam", "Adafactor"]


@pytest.mark.parametrize("name", WITH_NAMESAKE)
def test_defaults_are_those_of_keras(name, float64):
    # The rate is the default, too. Betas rounded to float32 move 100 steps of 0.001 by 4e-7;
    # a beta or an epsilon that is twice another moves them by over 1e-5.
    check_keras(getattr(optimizers, name)(), getattr(keras.optimizers, name)(), 1e-6)


def test_adafactor_factors_the_last_two_axes():
    generator = np.random.default_rng(0)
    w = generator.normal(size=(2, 4, 3))
    variable, optimizer = tf.Variable(w), optimizers.Adafactor(0.25, -0.8, 1e-5, 0.1, 0.7)
    theirs = rule_twins.Twin(functools.partial(rule_twins.adafactor, a=0.25), 0.0, 0.0)
    arrays = [w]
    for gradient in generator.normal(size=(5, *w.shape)):
        optimizer.apply([tf.constant(gradient)], [variable])
        arrays = theirs.step(arrays, [gradient])
    np.testing.assert_allclose(variable.numpy(), arrays[0], rtol=0, atol=TOLERANCE["float64"])


@pytest.mark.parametrize("name", ["LazyAdam", "DeferredAdam"])
def test_adam_for_embeddings_is_adam_on_dense_gradients(name, float64):
    ours, theirs = getattr(optimizers, name)(3e-3, **DECAYS), keras.optimizers.Adam(3e-3, **DECAYS)
    check_keras(ours, theirs, TOLERANCE["float64"])


@pytest.mark.parametrize(
    "make",
    [
        optimizers.RMSprop,
        lambda: optimizers.RMSprop(momentum=0.9, centered=True, weight_decay=0.1),
        lambda: optimizers.ScheduleFreeAdamW(weight_decay=0.1),
        optimizers.Nadam,
        optimizers.Ftrl,
    ],
    ids=["RMSprop", "RMSprop with all", "ScheduleFreeAdamW", "Nadam", "Ftrl"],
)
def test_large_arrays_move_as_eagerly(make, replicas):
    """In a function XLA compiles their update by itself, also for each of several replicas."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(520, 256)).astype("float32")
    gradients = [tf.constant(rng.normal(size=start.shape), tf.float32) for _ in range(3)]
    ends = []
    for scope, traced in [(contextlib.nullcontext, False), (replicas.scope, True)]:
        with scope():
            variable, optimizer = tf.Variable(start), make()

        def step(gradient, share=1.0, optimizer=optimizer, variable=variable):
            optimizer.apply([gradient * share], [variable])

        def on_replicas(gradient, step=step):
            replicas.run(step, [gradient, 0.5])

        run = tf.function(on_replicas) if traced else step
        for gradient in gradients:
            run(gradient)
        ends.append(variable.numpy())
    # Three steps of 1e-3, each rounded at 1e-7 of the entries.
    np.testing.assert_allclose(ends[1], ends[0], rtol=0, atol=2e-6)
