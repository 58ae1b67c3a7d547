"""GradNorm and UncertaintyWeighting, whose weights follow the losses."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bp.multitask import GradNorm, UncertaintyWeighting

WEIGHTINGS = [GradNorm, UncertaintyWeighting]
JACOBIAN = np.array([[3.0, 0.0, 1.0], [-1.0, 1.0, 0.5], [0.2, -2.0, 0.1]])


def course(steps=60):
    """Return gradients and losses of a training: three tasks that learn at different paces."""
    rng = np.random.default_rng(0)
    for step in range(steps):
        losses = np.array([2.0, 3.0, 0.8]) * np.exp(-step * np.array([0.03, 0.002, 0.01]))
        yield JACOBIAN * losses[:, None] + 0.1 * rng.normal(size=(3, 3)), losses


class GradNormTwin:
    """GradNorm's loss under autodiff, with what the paper holds fast stopped."""

    def __init__(self, alpha=1.5, learning_rate=0.025):
        self.alpha, self.rate = alpha, learning_rate
        self.weights, self.first = tf.ones(3, tf.float64), None

    def __call__(self, jacobian, losses):
        self.first = losses if self.first is None else self.first
        gradient, weights = tf.linalg.matvec(jacobian, self.weights, True), self.weights
        with tf.GradientTape() as tape:
            tape.watch(weights)
            norms = tf.norm(weights[:, None] * jacobian, axis=1)
            mean = tf.stop_gradient(tf.reduce_mean(norms))
            pace = losses / self.first / tf.reduce_mean(losses / self.first)
            loss = tf.reduce_sum(tf.abs(norms / mean - pace**self.alpha))
        # By the chain rule, dL/d(log w) = w dL/dw.
        weights = weights * tf.exp(-self.rate * weights * tape.gradient(loss, weights))
        self.weights = 3.0 * weights / tf.reduce_sum(weights)
        return gradient


class UncertaintyTwin:
    """The loss with log-variances under autodiff, their slopes bounded."""

    def __init__(self, learning_rate=0.025):
        self.rate, self.s = learning_rate, tf.zeros(3, tf.float64)

    def __call__(self, jacobian, losses):
        with tf.GradientTape() as tape:
            tape.watch(self.s)
            loss = tf.reduce_sum(tf.exp(-self.s) * losses + self.s / 2.0)
        slope = tf.clip_by_value(tape.gradient(loss, self.s), -1.0, 1.0)
        gradient = tf.linalg.matvec(jacobian, tf.exp(-self.s), True)
        self.s = self.s - self.rate * slope
        return gradient


@pytest.mark.parametrize(
    "cls, twin, arguments, jit_compile",
    [
        (GradNorm, GradNormTwin, {}, False),
        (GradNorm, GradNormTwin, {"alpha": 0.5, "learning_rate": 0.01}, True),
        (UncertaintyWeighting, UncertaintyTwin, {}, True),
        (UncertaintyWeighting, UncertaintyTwin, {"learning_rate": 0.2}, False),
    ],
)
def test_over_a_training_it_is_the_twin(cls, twin, arguments, jit_compile):
    combiner, twin = cls(**arguments), twin(**arguments)
    combiner.build(3)  # XLA's step may make no variables
    combine = tf.function(combiner.combine, jit_compile=jit_compile)
    for jacobian, losses in course():
        jacobian, losses = tf.constant(jacobian), tf.constant(losses)
        # The variables are float32, and 60 of its roundings add up.
        np.testing.assert_allclose(
            combine(jacobian, losses), twin(jacobian, losses), rtol=2e-5, atol=1e-5
        )


def test_uncertainty_ends_at_the_inverse_of_the_loss():
    combiner, losses = UncertaintyWeighting(learning_rate=0.5), tf.constant([2.0, 0.01, 300.0])
    combine = tf.function(combiner.combine)
    for _ in range(100):
        combine(tf.constant(JACOBIAN), losses)
    np.testing.assert_allclose(
        combiner.weights(tf.eye(3), losses=losses), 1.0 / (2.0 * losses), rtol=1e-4
    )


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_gradnorm_ends_where_norms_follow_the_pace(alpha):
    combiner = GradNorm(alpha, learning_rate=0.01)
    combiner.combine(tf.constant(JACOBIAN), tf.constant([1.0, 1.0, 1.0]))
    losses, combine = np.array([0.2, 0.5, 0.8]), tf.function(combiner.combine)
    for _ in range(400):
        combine(tf.constant(JACOBIAN), tf.constant(losses))
    weights = combiner.weights(JACOBIAN @ JACOBIAN.T, losses=losses).numpy()
    norms = weights * np.linalg.norm(JACOBIAN, axis=1)
    wanted = (losses / losses.mean()) ** alpha
    # Steps of 1 % of a weight, times its share, end in a wobble of that size.
    np.testing.assert_allclose(norms / norms.mean(), wanted, atol=0.03)
    assert weights.sum() == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize("cls", WEIGHTINGS)
def test_a_task_that_is_left_out_moves_nothing_of_its_own(cls):
    combiner, losses = cls(), tf.constant([2.0, 1.0, 3.0], tf.float64)
    combiner.combine(tf.constant(JACOBIAN), losses)
    before = [variable.numpy() for variable in combiner.variables]
    for number, bad in ((0, np.nan), (1, np.inf)):
        faulty = JACOBIAN.copy()
        faulty[number] = bad
        combiner.combine(tf.constant(faulty), losses)
        in_loss = tf.tensor_scatter_nd_update(losses, [[number]], [bad])
        combined = combiner.combine(tf.constant(JACOBIAN), in_loss)
        assert np.isfinite(combined).all()
    for old, variable in zip(before, combiner.variables, strict=True):
        assert np.isfinite(variable).all()
        assert variable[2] != old[2] or variable.path == "first_losses"
    alone = combiner.variables[0].numpy()
    combiner.weights(JACOBIAN @ JACOBIAN.T, [True, False, True], losses)
    assert combiner.variables[0][1] == alone[1]
    if cls is GradNorm:
        np.testing.assert_allclose(np.sum(combiner.variables[0]), 3.0, rtol=1e-6)
    if cls is UncertaintyWeighting:
        combiner.variables[0].assign(alone)
        # Each of the first two tasks was left out twice, and took part twice.
        other = cls()
        for _ in range(3):
            other.combine(tf.constant(JACOBIAN), losses)
        np.testing.assert_allclose(combiner.variables[0][:2], other.variables[0][:2], rtol=1e-6)


@pytest.mark.parametrize("losses", [[0.0, 0.0, 0.0], [1e-30, 1e30, 1.0], [0.0, -1.0, 2.0]])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e30])
@pytest.mark.parametrize("cls", WEIGHTINGS)
def test_no_losses_give_nan(cls, scale, losses):
    combiner = cls()
    for _ in range(5):
        combined = combiner.combine(scale * JACOBIAN, tf.constant(losses, tf.float64))
    assert np.isfinite(combined).all()
    assert all(np.isfinite(variable).all() for variable in combiner.variables)


def test_a_loss_that_stays_at_0_does_no_harm():
    combiner = UncertaintyWeighting(learning_rate=0.5)
    losses = tf.constant([0.0, 1.0])
    jacobian, combine = tf.constant([[0.0, 0.0], [1.0, 0.0]]), tf.function(combiner.combine)
    for _ in range(200):
        combined = combine(jacobian, losses)
    assert np.isfinite(combined).all()
    assert combiner.variables[0][0] == -20.0


@pytest.mark.parametrize("ratio", [10.0, 100.0])
def test_gradnorm_levels_gradients_of_very_different_lengths(ratio):
    combiner, jacobian = GradNorm(alpha=0.0), np.diag([ratio, 1.0])
    losses, combine = tf.ones(2), tf.function(combiner.combine)
    for step in range(300):
        combined = combine(jacobian, losses).numpy()
        # Steps of 2.5 % of a weight end in a wobble of a few percent.
        if step > 250:
            np.testing.assert_allclose(combined[0], combined[1], rtol=0.1)


@pytest.mark.parametrize("cls", WEIGHTINGS)
def test_what_is_refused(cls):
    with pytest.raises(ValueError, match=r"`losses` must be given to \w+, .*Received: losses=None"):
        cls().combine(tf.constant(JACOBIAN))
    with pytest.raises(ValueError, match=r"`losses` must have the shape \(3,\).*\(2,\)"):
        cls().combine(tf.constant(JACOBIAN), tf.constant([1.0, 2.0]))
    with pytest.raises(TypeError, match="`losses` must be a floating-point.*Received: .*int32"):
        cls().combine(tf.constant(JACOBIAN), tf.constant([1, 2, 3]))
    for rate in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="`learning_rate` must be.*Received: "):
            cls(learning_rate=rate)
    combiner = cls()
    combiner.combine(tf.constant(JACOBIAN), tf.ones(3))
    with pytest.raises(ValueError, match="used with 3 tasks.*Received: 2 tasks"):
        combiner.combine(tf.constant(JACOBIAN[:2]), tf.ones(2))


def test_what_gradnorm_refuses():
    with pytest.raises(ValueError, match="`alpha` must be.*Received: alpha=-0.1"):
        GradNorm(alpha=-0.1)
    assert GradNorm(alpha=0).alpha == 0.0


@pytest.mark.parametrize("cls", WEIGHTINGS)
def test_a_custom_loop(cls):
    combiner, v = cls(learning_rate=0.1), tf.Variable([1.0, 2.0])

    @tf.function
    def step():
        with tf.GradientTape(persistent=True) as tape:
            losses = [tf.reduce_sum(v**2), 3.0 * tf.reduce_sum((v - 1.0) ** 2)]
        return combiner.gradients(tape, losses, [v])[0]

    np.testing.assert_allclose(step(), [2.0, 10.0])  # the weights are 1 at first
    before = combiner.variables[0].numpy()
    step()
    assert not np.allclose(combiner.variables[0], before)
