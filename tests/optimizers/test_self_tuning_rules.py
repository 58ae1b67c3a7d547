"""Prodigy, DoG and HypergradientAdam: their algorithms in NumPy, and where these have edges."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import COLUMNS, ROWS, Problem, assert_close, assert_same, make

from keras_bp.optimizers import DoG, HypergradientAdam, Prodigy
from keras_bp.schedules import LinearDecay

NAMES = ["Prodigy", "DoG", "HypergradientAdam"]
_generator = np.random.default_rng(8)
# Two variables as one long vector: a matrix of 4 x 3, and a bias that does not decay.
START = _generator.normal(size=15)
END = _generator.normal(size=15)
CURVATURE = 10 ** _generator.uniform(-2, 1, size=15)
NOISE = 0.1 * _generator.normal(size=(100, 15))
DECAYS = np.arange(15) < 12


def gradient(w, step):
    """Of a quadratic with curvatures from 0.01 to 10, and noise. In one step there is none."""
    return np.zeros(15) if step == 7 else CURVATURE * (w - END) + NOISE[step]


def falling(step):
    """Rates that fall from 1 to 0 in update 81, and stay there."""
    return max(0.0, 1 - step / 80)


def prodigy(
    rates, decay=0.0, b1=0.9, b2=0.999, b3=None, d0=1e-3, k=1.0, correct=False, guard=False
):
    """Yield w and a d c after each step."""
    w, d, r, b3 = START.copy(), d0, 0.0, b3 or b2**0.5
    m, v, s = (np.zeros(15) for _ in range(3))
    for step in range(100):
        g, c = gradient(w, step), 1.0
        if correct:
            c = np.sqrt(1 - b2 ** (step + 1)) / (1 - b1 ** (step + 1))
        rate = rates(step) * d * c
        r = b3 * r + d / d0 * rate * np.dot(g, START - w)
        s = b3 * s + d / d0 * (d if guard else rate) * g
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * (d * g) ** 2
        d = max(d, k * r / np.sum(np.abs(s)))
        w = w - rate * (m / (np.sqrt(v) + d * 1e-8) + decay * DECAYS * w)
        yield w, rate


def dog(rates, decay=0.0, r_epsilon=1e-3, epsilon=1e-8, init_eta=None):
    w, r, total = START.copy(), r_epsilon * (1 + np.linalg.norm(START)), 0.0
    if init_eta:
        r = 0.0
    for step in range(100):
        g = gradient(w, step) + decay * DECAYS * w
        r = max(r, np.linalg.norm(w - START))
        total += np.dot(g, g)
        rate = rates(step) * (r / np.sqrt(total + epsilon) if r else init_eta)
        w = w - rate * g
        yield w, rate


def adam_hd(rates, decay=0.0, h=1e-3, b1=0.9, b2=0.999):
    w, u, moves = START.copy(), np.zeros(15), 0.0
    m, v = np.zeros(15), np.zeros(15)
    for step in range(100):
        g = gradient(w, step)
        a = 0.0
        if rates(step) > 0:
            moves = max(moves + h * np.dot(g, u), -rates(step))
            a = rates(step) + moves
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        u = m / (1 - b1 ** (step + 1)) * np.sqrt(1 - b2 ** (step + 1)) / (np.sqrt(v) + 1e-8)
        w = w - a * (u + decay * DECAYS * w)
        yield w, a


@pytest.fixture
def float64():
    """Learning rates are of Keras's float type."""
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


CASES = {
    "prodigy": (prodigy, {}, lambda a: Prodigy(a, d0=1e-3)),
    "prodigy with decay": (
        prodigy,
        {"decay": 0.1, "b3": 0.9, "k": 2.0},
        lambda a: Prodigy(a, weight_decay=0.1, d0=1e-3, beta_3=0.9, d_coef=2.0),
    ),
    "prodigy corrected": (
        prodigy,
        {"correct": True, "guard": True, "b1": 0.0, "b2": 0.9},
        lambda a: Prodigy(a, 0.0, 0.9, d0=1e-3, use_bias_correction=True, safeguard_warmup=True),
    ),
    "dog": (dog, {}, lambda a: DoG(a, 1e-3)),
    "dog with decay": (dog, {"decay": 0.1}, lambda a: DoG(a, 1e-3, weight_decay=0.1)),
    "dog from a rate": (dog, {"init_eta": 1e-2}, lambda a: DoG(a, init_eta=1e-2)),
    "adam-hd": (adam_hd, {}, lambda a: HypergradientAdam(a, 1e-3)),
    "adam-hd with decay": (
        adam_hd,
        {"decay": 0.1, "h": 1e-2},
        lambda a: HypergradientAdam(a, 1e-2, weight_decay=0.1),
    ),
}


def steps(optimizer, count=100):
    """Yield w and the rate after each step."""
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    kernel = tf.Variable(START[:12].reshape(4, 3), name="kernel")
    bias = tf.Variable(START[12:], name="bias")
    optimizer.build([kernel, bias])
    step = tf.function(lambda g: optimizer.apply([tf.reshape(g[:12], (4, 3)), g[12:]]))
    for number in range(count):
        w = np.concatenate([kernel.numpy().ravel(), bias.numpy()])
        step(tf.constant(gradient(w, number)))
        w = np.concatenate([kernel.numpy().ravel(), bias.numpy()])
        yield w, optimizer.adapted_rate.numpy()


@pytest.mark.parametrize("case, schedule", [(case, "decay" in case) for case in CASES])
def test_a_hundred_steps_of_the_algorithm(case, schedule, float64):
    """To 1e-11: roundings of 1e-16 a step are multiplied as the rate grows a thousandfold."""
    twin, options, make = CASES[case]
    rates = falling if schedule else lambda step: 1.0
    if twin is adam_hd:
        rates = (lambda step: 0.1 * falling(step)) if schedule else lambda step: 0.1
    optimizer = make(LinearDecay(rates(0), 80, 0.0) if schedule else rates(0))
    expected = twin(rates, **options)
    for number, ((w, rate), (own, own_rate)) in enumerate(
        zip(steps(optimizer), expected, strict=True)
    ):
        np.testing.assert_allclose(w, own, rtol=0, atol=1e-11, err_msg=f"step {number}")
        np.testing.assert_allclose(rate, own_rate, rtol=1e-11, atol=1e-15)


def test_first_steps_of_prodigy():
    """The quotient is 0.1 / sqrt(0.001) of g's sign, and the rate d0; d follows with a delay."""
    variable, optimizer = tf.Variable([1.0, 2.0], dtype=tf.float64), Prodigy(d0=0.5, epsilon=1e-20)
    optimizer.apply([tf.constant([0.25, -3.0], tf.float64)], [variable])
    step = 0.5 * 0.1 / np.sqrt(0.001)
    assert_close([variable], [[1 - step, 2 + step]], 1e-12)
    # w was w0: r = 0. The second gradient finds r = d <g, w0 - w>, with s = d (b3 + 1) g, but
    # steps at the old d; the third is zero, which takes the same from both.
    estimate = 0.5 * 3.25 * step / (0.5 * 3.25 * (1 + 0.999**0.5))
    for gradient, rate in (([0.25, -3.0], 0.5), ([0.0, 0.0], estimate), ([0.0, 0.0], estimate)):
        optimizer.apply([tf.constant(gradient, tf.float64)], [variable])
        np.testing.assert_allclose(optimizer.adapted_rate.numpy(), rate, rtol=1e-12)
    assert estimate > 0.7


def test_first_steps_of_dog():
    """||w0|| is 5: the first step is 0.1 (1 + 5) long, the second 0.6 / sqrt(2) by a like g."""
    variable, optimizer = tf.Variable([3.0, 4.0]), DoG(r_epsilon=0.1)
    optimizer.apply([tf.constant([0.0, 7.0])], [variable])
    assert_close([variable], [[3.0, 3.4]], 1e-6)
    optimizer.apply([tf.constant([7.0, 0.0])], [variable])
    assert_close([variable], [[3 - 0.6 / np.sqrt(2), 3.4]], 1e-6)


def test_first_steps_of_hypergradient_adam():
    """The first is Adam's, a along the signs; the rate then moves by h times the sizes of g."""
    variable, optimizer = tf.Variable([3.0, 4.0]), HypergradientAdam(0.125, 0.25)
    optimizer.apply([tf.constant([0.5, -2.0])], [variable])
    assert_close([variable], [[2.875, 4.125]], 1e-6)
    optimizer.apply([tf.constant([0.5, -2.0])], [variable])
    np.testing.assert_allclose(optimizer.adapted_rate.numpy(), 0.125 + 0.25 * 2.5, rtol=1e-5)
    assert_close([variable], [[2.125, 4.875]], 1e-5)
    # A step that went too far takes more from the rate than there is: 0, and no less.
    optimizer.apply([tf.constant([-50.0, 200.0])], [variable])
    assert optimizer.adapted_rate.numpy() == 0
    assert_close([variable], [[2.125, 4.875]], 1e-5)
    # A schedule's value and the moves, -0.125 now, add up; where it says 0 there is none.
    optimizer.learning_rate = 0.0
    optimizer.apply([tf.constant([0.5, -2.0])], [variable])
    assert optimizer.adapted_rate.numpy() == 0
    assert_close([variable], [[2.125, 4.875]], 1e-5)
    optimizer.learning_rate = 1.125
    optimizer.apply([tf.constant([0.0, 0.0])], [variable])
    np.testing.assert_allclose(optimizer.adapted_rate.numpy(), 1.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["Prodigy", "DoG"])
def test_the_size_of_the_loss_does_not_matter(name):
    """With gradients 2^20 times as large the weights are the same, but for epsilon."""
    ends = []
    for scale in (1.0, 2.0**20):
        problem, optimizer = Problem(name, "float64", sparse=False), make(name, epsilon=1e-20)
        for step in range(10):
            gradients = [scale * g for g in problem.gradients(step)]
            optimizer.apply(gradients, problem.variables)
        ends.append([*problem.read(), optimizer.adapted_rate.numpy() * (1, scale)[name == "DoG"]])
    assert_close(*ends, 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_zeros_at_the_start(name):
    """No move and nothing that is not a number; what comes next starts as if it were the first."""
    problem, optimizer = Problem(name), make(name)
    zeros = [tf.zeros_like(tf.convert_to_tensor(g)) for g in problem.gradients(0)]
    empty = tf.IndexedSlices(
        tf.zeros((0, COLUMNS)), tf.zeros((0,), tf.int64), tf.constant([ROWS, COLUMNS])
    )
    for gradients in (zeros, [*zeros[:2], empty]):
        optimizer.apply(gradients, problem.variables)
        assert_same(problem.read(), Problem(name).read())
    assert all(np.all(np.isfinite(v.numpy())) for v in optimizer.variables)
    problem.steps(optimizer, 3)
    twin = Problem(name).steps(make(name), 3)
    if name != "HypergradientAdam":  # whose corrections count updates
        assert_same(problem.read(), twin.read())
    assert all(np.any(a != b) for a, b in zip(problem.read(), Problem(name).read(), strict=True))


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_variable_without_gradient_counts_as_one_with_zeros(name):
    """In the sums: what it has gone and seen does not drop out of the rate."""
    rates = []
    for missing in (False, True):
        problem, optimizer = Problem(name), make(name)
        problem.steps(optimizer, 3)
        for step in range(3, 6):
            matrix, scalar, table = problem.gradients(step)
            # Zeros alone move nothing of it with these averages: they are set to zeros, too.
            for variable in optimizer.variables:
                if "matrix" in variable.path and "momentum" in variable.path:
                    variable.assign(tf.zeros_like(variable))
            gone = None if missing else tf.zeros_like(matrix)
            optimizer.apply([gone, scalar, table], problem.variables)
        rates.append(float(optimizer.adapted_rate.numpy()))
    assert rates[0] == rates[1]


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_variable_that_no_micro_step_reached(name):
    """It neither decays nor has a decay that counts, as where it has no gradient in a step."""
    rates, values = [], []
    for options in ({}, {"gradient_accumulation_steps": 2}):
        problem, optimizer = Problem(name), make(name, weight_decay=0.5, **options)
        for step in range(3):
            matrix, scalar, table = problem.gradients(step)
            for _ in range(options.get("gradient_accumulation_steps", 1)):
                optimizer.apply([None if step else matrix, scalar, table], problem.variables)
        rates.append(float(optimizer.adapted_rate.numpy()))
        values.append(problem.read())
    # The mean of two equal gradients is that gradient; sums of a dense and a sparse one are
    # taken in another order.
    np.testing.assert_allclose(*rates, rtol=1e-6)
    assert_close(*values, 1e-6)


@pytest.mark.parametrize("name", ["Prodigy", "DoG"])
def test_training_begins_where_the_first_update_finds_the_weights(name):
    """Not where `build` did: weights are loaded in between."""
    variable, optimizer = tf.Variable([30.0, 40.0]), make(name)
    optimizer.build([variable])
    variable.assign([3.0, 4.0])
    twin, other = tf.Variable([3.0, 4.0]), make(name)
    for _ in range(3):
        optimizer.apply([tf.constant([1.0, 2.0])], [variable])
        other.apply([tf.constant([1.0, 2.0])], [twin])
    assert_same([variable], [twin])


@pytest.mark.parametrize("name", ["Prodigy", "DoG"])
def test_a_warm_up_from_zero(name):
    """A first rate of 0 leaves no rate behind that stays 0."""
    options = {"init_eta": 1e-3} if name == "DoG" else {}
    variable, optimizer = tf.Variable([1.0, 2.0]), make(name, 0.0, **options)
    optimizer.apply([tf.constant([1.0, 2.0])], [variable])
    assert_same([variable], [[1.0, 2.0]])
    optimizer.learning_rate = 1.0
    for _ in range(2):
        optimizer.apply([tf.constant([1.0, 2.0])], [variable])
    assert np.all(variable.numpy() < [1.0, 2.0]) and optimizer.adapted_rate.numpy() > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_is_there_once_it_is_built(name):
    optimizer = make(name)
    with pytest.raises(AttributeError, match="`adapted_rate` exists once"):
        _ = optimizer.adapted_rate
    optimizer.build([tf.Variable(1.0)])
    assert optimizer.adapted_rate.numpy() == 0
