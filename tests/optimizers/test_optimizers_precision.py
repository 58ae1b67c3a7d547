"""Every optimizer in half precision, under mixed policies, in float64, and on any variable."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import (
    FIT,
    KINDS,
    NAMES,
    OF_ANY_VARIABLE,
    Problem,
    X,
    Y,
    assert_close,
    make,
    model,
)

from keras_bp import optimizers


def loss(net):
    return float(net.compute_loss(X, Y, net(X)))


def finite(net):
    return all(np.all(np.isfinite(w.numpy().astype("float64"))) for w in net.weights)


@pytest.mark.parametrize("name", KINDS)
def test_mixed_float16(name):
    """`compile` puts a LossScaleOptimizer around it; the weights stay in float32."""
    keras.config.set_dtype_policy("mixed_float16")
    # In a graph the step stands in a tf.cond: here by rows, AdamW's in test_optimizers_files.py.
    net = model(name, run_eagerly=name != "LazyAdam")
    before = loss(net)
    net.fit(X, Y, batch_size=4, **FIT)
    assert type(net.optimizer) is keras.optimizers.LossScaleOptimizer
    assert type(net.optimizer.inner_optimizer).__name__ == name
    assert {w.dtype for w in net.trainable_weights} == {"float32"}
    assert finite(net) and loss(net) < 0.95 * before
    # No step overflowed with a scale of 2^15, so all were made.
    assert int(net.optimizer.inner_optimizer.iterations) == 4


# A deferred table is float32 or float64, see DeferredEmbedding.
@pytest.mark.parametrize(
    "name, dtype",
    [
        *((name, "bfloat16") for name in (*KINDS, "ScheduleFreeAdamW") if name != "DeferredAdam"),
        ("SGD", "float16"),
    ],
)
def test_half_precision(name, dtype):
    keras.config.set_dtype_policy(dtype)
    net = model(name, make(name, use_ema=True, ema_momentum=0.0), run_eagerly=True)
    before = loss(net)
    for _ in range(3):
        net.train_on_batch(X, Y)
    assert {w.dtype for w in net.trainable_weights} == {dtype}
    assert finite(net) and loss(net) < 0.95 * before
    # All of its own variables are in float32, so that no square of a gradient is lost.
    optimizer = net.optimizer
    assert {v.dtype for v in optimizer.variables if "float" in v.dtype} <= {"float32", "float64"}
    # An average without memory is the weight itself, and so is what it leaves at the end.
    weights = [w.numpy() for w in net.trainable_weights]
    optimizer.finalize_variable_values(net.trainable_variables)
    for weight, array in zip(net.trainable_weights, weights, strict=True):
        assert_close([weight], [array], 0)


@pytest.mark.parametrize(
    "name, dtype", [*((name, "bfloat16") for name in OF_ANY_VARIABLE), ("AdamW", "float16")]
)
def test_small_steps_add_up_in_half_precision(name, dtype):
    """Each step is lost or doubled by rounding to half precision; the float32 copy keeps it."""
    variable, twin = tf.Variable([1.0, 2.0], dtype=dtype), tf.Variable([1.0, 2.0])
    optimizer, exact = make(name, 3e-4), make(name, 3e-4)
    for _ in range(8):
        optimizer.apply([tf.constant([1.0, -0.5], dtype)], [variable])
        exact.apply([tf.constant([1.0, -0.5])], [twin])
    assert_close([variable], [tf.cast(twin, dtype)], 0)
    # What is assigned from outside holds from then on, and the next step starts there.
    variable.assign([4.0, 3.0])
    twin.assign([4.0, 3.0])
    optimizer.apply([tf.constant([1.0, -0.5], dtype)], [variable])
    exact.apply([tf.constant([1.0, -0.5])], [twin])
    assert_close([variable], [tf.cast(twin, dtype)], 0)
    if name != "Ftrl":  # whose weights follow from their slots
        assert variable.numpy().astype("float64")[0] > 3.9


@pytest.mark.parametrize("name", NAMES)
def test_float64(name):
    """All of it is in float64: as near to float32 as float32 is exact, and no nearer."""
    wide, narrow = Problem(name, "float64"), Problem(name)
    for problem in (wide, narrow):
        problem.steps(make(name, clipnorm=1.5, weight_decay=0.01), 4)
    difference = np.max(np.abs(wide.read()[0] - narrow.read()[0]))
    assert wide.read()[0].dtype == np.float64
    assert 0 < difference < 3e-6
    # A weight moves by what float32 cannot hold.
    variables = Problem(name, "float64").variables
    before = variables[1].numpy()
    make(name, 1e-12).apply(Problem(name, "float64").gradients(0), variables)
    assert 0 < abs(variables[1].numpy() - before) < 1e-11


@pytest.mark.parametrize("name", KINDS)
def test_variables_of_any_kind_and_shape(name):
    """Plain and Keras variables, scalars, empty ones, several dtypes in one list."""
    variables = [
        tf.Variable(1.0),
        tf.Variable([1.0, 2.0], dtype=tf.float64),
        keras.Variable([[[1.0]]]),
        tf.Variable(tf.ones((0, 3))),
        tf.Variable([1.0], dtype=tf.bfloat16),
    ]
    gradients = [tf.ones(v.shape, v.dtype) for v in variables]
    optimizer = make(name, global_clipnorm=100.0)
    for _ in range(2):
        optimizer.apply(gradients, variables)
    assert int(optimizer.iterations) == 2
    for variable, first in zip(variables, (1.0, 1.0, 1.0, 1.0, 1.0), strict=True):
        values = tf.convert_to_tensor(variable).numpy().astype("float64").ravel()
        assert np.all(values[:1] < first), variable


@pytest.mark.parametrize("name", KINDS)
def test_a_gradient_of_another_dtype_is_cast(name):
    variable, twin = tf.Variable([1.0, 2.0]), tf.Variable([1.0, 2.0])
    make(name).apply([tf.constant([0.5, -1.0], tf.float16)], [variable])
    make(name).apply([tf.constant([0.5, -1.0])], [twin])
    assert_close([variable], [twin], 0)


def test_the_variance_of_a_constant_gradient_is_never_below_0():
    """Centered RMSprop, whose mean square and squared mean round to either side of one another."""
    # With this rho and these gradients the difference ends at 0, -2e-17 and -1e-16.
    gradients, rate, rho = np.array([0.3, 0.7, 1.1]), 0.125, 0.5
    variable, w, square, mean = tf.Variable([1.0, 1.0, 1.0], dtype="float64"), np.ones(3), 0.0, 0.0
    options = {"epsilon": 1.0, "centered": True, "epsilon_in_sqrt": False}
    optimizer = optimizers.RMSprop(rate, rho, **options)
    below = 0
    for _ in range(200):
        optimizer.apply([tf.constant(gradients)], [variable])
        square = square - (1 - rho) * (square - gradients**2)
        mean = mean - (1 - rho) * (mean - gradients)
        below += np.sum(square - mean**2 < 0)
        w = w - rate * gradients / (np.sqrt(np.maximum(square - mean**2, 0)) + 1.0)
        # The root of a rounding, 1e-16, is 1e-8: beside an epsilon of 1 that is a share of a step.
        np.testing.assert_allclose(variable, w, rtol=0, atol=1e-7)
    assert below > 200
