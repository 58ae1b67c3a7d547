"""The largest eigenvalue of the Hessian against the whole matrix."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp.curvature import critical_sharpness, largest_hessian_eigenvalue


def _hessian(model, x, y):
    """Return the Hessian of the training loss, from differences of its gradients."""
    variables = [v.value for v in model.trainable_variables]

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, variables)], 0)

    rows = []
    for variable in variables:
        value = variable.numpy()
        for place in np.ndindex(*value.shape):
            at = np.zeros_like(value)
            at[place] = 0.01
            sides = []
            for sign in (1, -1):
                variable.assign(value + sign * at)
                sides.append(gradient().numpy())
            rows.append((sides[0] - sides[1]) / 0.02)
        variable.assign(value)
    return np.array(rows)


def test_a_network_has_the_largest_eigenvalue_of_its_hessian():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 3)).astype("float32"), rng.integers(3, size=64)
    layers = keras_bp.layers
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, "tanh", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dense(3),
        ]
    )
    model.compile(
        keras_bp.optimizers.SGD(0.1),
        keras_bp.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    state = [variable.numpy() for variable in model.variables]
    found = largest_hessian_eigenvalue(model, x, y)
    after = [variable.numpy() for variable in model.variables]
    for before, now in zip(state, after, strict=True):
        np.testing.assert_array_equal(before, now)
    hessian = _hessian(model, x, y)
    np.testing.assert_allclose(hessian, hessian.T, atol=2e-3)  # differences over 0.02, in float32
    eigenvalues = np.linalg.eigvalsh(hessian)
    largest = eigenvalues[np.argmax(np.abs(eigenvalues))]
    assert found.value == pytest.approx(largest, rel=1e-3)
    assert abs(found.value - largest) <= found.residual + 1e-5 <= 0.011 * largest
    again = largest_hessian_eigenvalue(model, x, y, vector=found.vector)
    assert again.iterations <= 2 < found.iterations
    assert critical_sharpness(model, x, y) <= largest * 1.02


class Reward(keras.regularizers.Regularizer):
    """Minus a half of the sum of squares."""

    def __call__(self, x):
        return -0.5 * keras.ops.sum(keras.ops.square(x))


def test_a_negative_eigenvalue_keeps_its_sign():
    # At 0 the loss (a b - 1)^2 of two linear layers curves by -2 and 2; the penalty takes 1.
    def layer():
        return keras_bp.layers.Dense(1, use_bias=False, kernel_regularizer=Reward())

    model = keras.Sequential([keras.Input((1,)), layer(), layer()])
    model.compile("sgd", "mse")
    model.set_weights([np.zeros((1, 1))] * 2)
    ones = np.ones((4, 1), "float32")
    assert largest_hessian_eigenvalue(model, ones, ones).value == pytest.approx(-3, rel=1e-4)


def test_few_iterations_leave_a_residual_and_bad_arguments_are_named():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    x = np.array([[2.0, 0.0], [0.0, 1.0]])  # eigenvalues 4 and 1
    start = [np.array([[1.0], [1.0]])]
    found = largest_hessian_eigenvalue(model, x, np.ones((2, 1)), iterations=1, vector=start)
    assert (found.value, found.residual) == (pytest.approx(2.5), pytest.approx(1.5))
    for arguments in ({"iterations": 0}, {"tolerance": 0}, {"vector": [np.ones(2)]}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            largest_hessian_eigenvalue(model, x, np.ones((2, 1)), **arguments)
