"""The update rules: the first step by hand, and closed forms over many steps.

The closed forms write each average as one weighted sum over all gradients so far, which shares
no line with the recursions under test.
"""

import inspect

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from keras_bp import reference

STEPS = 100
RULES = {
    name: value
    for name, value in vars(reference).items()
    if inspect.isclass(value)
    and issubclass(value, reference.Optimizer)
    and value is not reference.Optimizer
}


def gradients(seed=0):
    """Draw the gradients of one array over all steps."""
    return np.random.default_rng(seed).standard_normal((STEPS, 3, 2))


def average(beta, terms):
    """Return (1 - beta) sum_k beta^(t-k) term_k for each t."""
    t = np.arange(len(terms))
    weights = np.tril(beta ** np.maximum(t[:, None] - t, 0.0)) * (1 - beta)
    return np.tensordot(weights, terms, axes=1)


def run(optimizer, g, theta=None):
    """Apply one gradient after the other; return the array after every step."""
    theta = np.ones(g.shape[1:]) if theta is None else theta
    path = []
    for gradient in g:
        [theta] = optimizer.step([theta], [gradient])
        path.append(theta)
    return np.array(path)


# g = (2, -4), theta = (1, 3), a = 0.1. Every expected value is worked out on paper.
@pytest.mark.parametrize(
    "optimizer, expected",
    [
        (reference.SGD(0.1), [0.8, 3.4]),
        (reference.Momentum(0.1, beta=0.9), [1 - 0.1 * 0.2, 3 + 0.1 * 0.4]),
        # v = 0.1 g, and the look-ahead weights are 0.9 v further: theta - 1.9 * 0.1 g.
        (reference.NAG(0.1, beta=0.9), [1 - 0.38, 3 + 0.76]),
        # s = 0.001 g^2, so the step is a / sqrt(0.001) with the gradient's sign.
        (reference.RMSprop(0.1), [1 - 0.1 / np.sqrt(0.001), 3 + 0.1 / np.sqrt(0.001)]),
        (reference.Adam(0.1), [0.9, 3.1]),
        # A tenth of the rate 0.1 is the share that decays: 0.01 and 0.03.
        (reference.AdamW(0.1, weight_decay=0.1), [0.9 - 0.01, 3.1 - 0.03]),
        # u = (1, -1) + 0.5 (1, 3) = (1.5, 0.5); ||w|| / ||u|| = sqrt(10) / sqrt(2.5) = 2.
        (reference.LAMB(0.1, weight_decay=0.5), [1 - 0.3, 3 - 0.1]),
    ],
    ids=lambda argument: type(argument).__name__,
)
def test_first_step(optimizer, expected):
    theta, g = np.array([1.0, 3.0]), np.array([2.0, -4.0])
    [stepped] = optimizer.step([theta], [g])
    # Epsilon, 1e-8 beside a root of at least 0.06, changes the step by less than 2e-7 of itself.
    assert_allclose(stepped, expected, rtol=3e-7)
    assert_array_equal(theta, [1.0, 3.0])


def test_sgd():
    g = gradients()
    assert_allclose(run(reference.SGD(0.1), g), 1 - 0.1 * np.cumsum(g, axis=0), rtol=1e-12)


def test_momentum():
    g = gradients()
    expected = 1 - 0.1 * np.cumsum(average(0.9, g), axis=0)
    assert_allclose(run(reference.Momentum(0.1), g), expected, rtol=1e-12)


def test_rmsprop_has_epsilon_outside_the_root():
    g = gradients()
    # An epsilon of the gradients' own size shows where it stands.
    s = average(0.99, g**2)
    expected = 1 - np.cumsum(0.1 * g / (np.sqrt(s) + 0.5), axis=0)
    path = run(reference.RMSprop(0.1, beta_2=0.99, epsilon=0.5), g)
    assert_allclose(path, expected, rtol=1e-11, atol=1e-13)


def adam_directions(g, epsilon):
    t = np.arange(1, STEPS + 1)[:, None, None]
    m_hat = average(0.9, g) / (1 - 0.9**t)
    v_hat = average(0.999, g**2) / (1 - 0.999**t)
    return m_hat / (np.sqrt(v_hat) + epsilon)


def test_adam_has_epsilon_beside_the_corrected_root():
    g = gradients()
    expected = 1 - 0.1 * np.cumsum(adam_directions(g, 0.5), axis=0)
    path = run(reference.Adam(0.1, epsilon=0.5), g)
    # 1 - 0.999^t cancels three digits; both sides lose them alike, but not to the last one.
    assert_allclose(path, expected, rtol=1e-11, atol=1e-12)


def test_adamw_shrinks_by_a_share_that_gradients_do_not_change():
    g = gradients()
    # theta_T = q^T theta_0 - sum_t q^(T-t) a u_t, with q = 1 - a lambda.
    q = 1 - 0.1 * 0.2
    moves = average(q, 0.1 * adam_directions(g, 1e-8)) / (1 - q)
    expected = q ** np.arange(1, STEPS + 1)[:, None, None] - moves
    path = run(reference.AdamW(0.1, weight_decay=0.2), g)
    assert_allclose(path, expected, rtol=1e-11, atol=1e-12)


def test_lamb_moves_each_array_by_a_share_of_its_norm():
    g = gradients()
    optimizer = reference.LAMB(0.05, weight_decay=0.1)
    w = np.full((3, 2), 0.5)
    for direction, gradient in zip(adam_directions(g, 1e-8), g, strict=True):
        [after] = optimizer.step([w], [gradient])
        moved = w - after
        assert_allclose(np.sqrt(np.sum(moved**2)), 0.05 * np.sqrt(np.sum(w**2)), rtol=1e-12)
        # The decay is inside the ratio, so the move is parallel to direction + lambda w.
        u = direction + 0.1 * w
        assert_allclose(moved / np.sqrt(np.sum(moved**2)), u / np.sqrt(np.sum(u**2)), atol=1e-11)
        w = after


@pytest.mark.parametrize(
    "w, g, expected",
    [([0.0, 0.0], [1.0, -1.0], [-0.1, 0.1]), ([3.0, 4.0], [0.0, 0.0], [3.0, 4.0])],
)
def test_lamb_takes_a_ratio_of_one_where_a_norm_is_zero(w, g, expected):
    [stepped] = reference.LAMB(0.1, weight_decay=0.0).step([w], [g])
    assert_allclose(stepped, expected, rtol=1e-7)


@pytest.mark.parametrize(
    "rate", [0.05, lambda step: 0.05 / (1 + step)], ids=["constant", "schedule"]
)
def test_nag_is_the_chapters_form_on_stored_look_ahead_weights(rate):
    scales = np.array([1.0, 3.0, 0.2])

    def grad(theta):  # of a quadratic with a sine on it, so that its curvature changes
        return scales * theta + np.cos(theta)

    optimizer = reference.NAG(rate, beta=0.9)
    phi = theta = np.array([1.0, -2.0, 3.0])
    v = np.zeros(3)
    for step in range(STEPS):
        [phi] = optimizer.step([phi], [grad(phi)])
        a = rate(step) if callable(rate) else rate
        v = 0.9 * v + a * grad(theta - 0.9 * v)
        theta = theta - v
        assert_allclose(phi, theta - 0.9 * v, rtol=1e-12, atol=1e-13)
        assert_allclose(phi + 0.9 * optimizer.state[0]["v"], theta, rtol=1e-12, atol=1e-13)


def test_nag_is_the_rule_of_keras():
    g = gradients()
    path = run(reference.NAG(0.1, beta=0.9), g)
    variable = keras.Variable(np.ones((3, 2)), dtype="float64")
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    for gradient, expected in zip(g, path, strict=True):
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float64")], [variable])
        # Keras keeps its learning rate in float32, 1.5e-8 away from 0.1; sums of 100 steps of
        # either sign can make more of it than that.
        assert_allclose(variable.value.numpy(), expected, rtol=0, atol=1e-5)


def test_weight_decay_leaves_masked_arrays_alone():
    for rule in (reference.AdamW, reference.LAMB):
        optimizer = rule(0.1, weight_decay=0.5, decay_mask=[True, False])
        W, b = optimizer.step([np.ones(2), np.ones(2)], [np.zeros(2), np.zeros(2)])
        assert (W < 1.0).all()
        assert_array_equal(b, np.ones(2))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_minimizes_a_quadratic(name):
    optimizer = RULES[name](0.01)
    parameters = [np.array([1.0, -2.0]), np.array([[0.5]])]
    start = sum(np.sum(theta**2) for theta in parameters)
    for _ in range(STEPS):
        parameters = optimizer.step(parameters, [2 * theta for theta in parameters])
    assert sum(np.sum(theta**2) for theta in parameters) < 0.9 * start
    assert optimizer.t == STEPS


@pytest.mark.parametrize("name", RULES)
def test_every_rule_asks_its_schedule_for_the_updates_made_before(name):
    asked = []

    def schedule(step):
        asked.append(step)
        return 0.1 if step < 2 else 0.0

    optimizer = RULES[name](schedule)
    # NAG goes on by its velocity at a rate of 0, so only the others must stand still.
    path = run(optimizer, gradients()[:4])
    assert asked == [0, 1, 2, 3]
    assert not np.array_equal(path[0], path[1])
    assert np.array_equal(path[1], path[2]) == (name != "NAG")


@pytest.mark.parametrize("name", RULES)
def test_every_rule_treats_each_array_by_itself(name):
    first, second = gradients(0)[:5], gradients(1)[:5]
    optimizer = RULES[name](0.1)
    together = [np.ones((3, 2)), np.ones((3, 2))]
    for pair in zip(first, second, strict=True):
        together = optimizer.step(together, pair)
    for array, g in zip(together, (first, second), strict=True):
        assert_array_equal(array, run(RULES[name](0.1), g)[-1])


@pytest.mark.parametrize("name", RULES)
def test_wrong_learning_rates(name):
    for rate in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"`learning_rate`.*Received: learning_rate={rate}"):
            RULES[name](rate)
    with pytest.raises(TypeError, match="Received: learning_rate='fast'"):
        RULES[name]("fast")
    optimizer = RULES[name](lambda step: -1.0)
    with pytest.raises(ValueError, match=r"`learning_rate\(step\)`.*-1.0"):
        optimizer.step([[1.0]], [[1.0]])
    assert optimizer.t == 0 and optimizer.state == []
    RULES[name](0.0)


@pytest.mark.parametrize("name", RULES)
def test_wrong_hyperparameters(name):
    rule = RULES[name]
    settings = set(inspect.signature(rule).parameters) - {"learning_rate", "decay_mask"}
    for setting in settings:
        wrong = {"epsilon": [0.0], "weight_decay": [-0.1]}.get(setting, [-0.1, 1.0])
        for value in wrong:
            with pytest.raises(ValueError, match=f"`{setting}`.*Received: {setting}={value}"):
                rule(**{setting: value})
        allowed = {"epsilon": 1e-300}.get(setting, 0.0)
        rule(**{setting: allowed})


@pytest.mark.parametrize("name", RULES)
def test_wrong_gradients(name):
    optimizer = RULES[name](0.1)
    with pytest.raises(ValueError, match=r"shapes of `parameters`, \[\(2,\)\].*Received"):
        optimizer.step([[1.0, 2.0]], [[1.0]])
    with pytest.raises(ValueError, match=r"Received: shapes \[\]"):
        optimizer.step([[1.0, 2.0]], [])
    optimizer.step([[1.0]], [[1.0]])
    with pytest.raises(ValueError, match="must hold 1 arrays.*Received: 2 arrays"):
        optimizer.step([[1.0], [1.0]], [[1.0], [1.0]])
    assert optimizer.t == 1


def test_wrong_decay_mask():
    optimizer = reference.AdamW(decay_mask=[True])
    with pytest.raises(ValueError, match="each of the 2 arrays.*Received: decay_mask="):
        optimizer.step([[1.0], [1.0]], [[1.0], [1.0]])
