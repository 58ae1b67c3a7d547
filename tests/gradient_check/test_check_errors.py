"""Bad arguments are refused by name, and nothing is half changed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradient_check import check_gradients

X, Y = np.ones((4, 3)), np.ones((4, 2))


def _model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def _spoiled(value):
    return np.where(np.arange(X.size).reshape(X.shape) == 5, value, X)


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (TypeError, "`target` must be", dict(target=3)),
        (TypeError, "`target` must be", dict(target=keras.layers.Dense)),
        (ValueError, "`inputs` must be finite", dict(inputs=_spoiled(np.nan))),
        (ValueError, "`inputs` must be finite", dict(inputs=_spoiled(np.inf))),
        (TypeError, "`inputs` must be an array", dict(inputs=[[1.0, 2.0, 3.0]])),
        (TypeError, "`inputs` must be an array", dict(inputs=None)),
        (TypeError, "`inputs` must be an array", dict(inputs="text")),
        (TypeError, "`inputs` must be dense", dict(inputs=tf.sparse.eye(3))),
        (TypeError, "`inputs` must be dense", dict(inputs=tf.ragged.constant([[1.0], []]))),
        (TypeError, "`inputs` must be real", dict(inputs=X * 1j)),
        (ValueError, "`targets` must be finite", dict(targets=Y * np.nan, loss="mse")),
        (ValueError, "`targets` must have as many examples", dict(targets=Y[:3], loss="mse")),
        (ValueError, "`targets` must have the structure", dict(targets=[Y, Y], loss="mse")),
        (ValueError, "`targets` must have the structure", dict(targets={"a": Y}, loss="mse")),
        (ValueError, "`loss` must have the structure", dict(targets=Y, loss=["mse", "mse"])),
        (ValueError, "`loss` and `targets` must be given together", dict(targets=Y)),
        (ValueError, "`loss` and `targets` must be given together", dict(loss="mse")),
        (ValueError, "`loss` must name a loss", dict(targets=Y, loss="no_such_loss")),
        (TypeError, "`loss` must be a keras.Loss", dict(targets=Y, loss=3)),
        (TypeError, "`loss` must be a keras.Loss", dict(targets=Y, loss=keras.losses.LogCosh)),
        (
            ValueError,
            "`loss` must be finite",
            dict(targets=Y, loss=lambda t, y: tf.reduce_sum(tf.math.log(-y * y))),
        ),
        (
            ValueError,
            "`loss` must compute in float64",
            dict(targets=Y, loss=lambda t, y: tf.cast(y, tf.float32)),
        ),
        (ValueError, "`epsilon` must be a finite number", dict(epsilon=0.0)),
        (ValueError, "`epsilon` must be a finite number", dict(epsilon=-1e-5)),
        (ValueError, "`epsilon` must be a finite number", dict(epsilon=np.nan)),
        (ValueError, "`epsilon` must be a finite number", dict(epsilon=np.inf)),
        (TypeError, "`epsilon` must be a finite number", dict(epsilon="small")),
        (TypeError, "`epsilon` must be a finite number", dict(epsilon=True)),
        (ValueError, "`max_entries` must be an integer of 1 or more", dict(max_entries=0)),
        (TypeError, "`max_entries` must be an integer", dict(max_entries=2.0)),
        (TypeError, "`max_entries` must be an integer", dict(max_entries=True)),
        (ValueError, "`seed` must be an integer of 0 or more", dict(seed=-1)),
        (TypeError, "`seed` must be an integer", dict(seed=None)),
        (ValueError, "`epsilon` must be at least", dict(inputs=1e12 * X)),
    ],
)
def test_a_bad_argument(error, message, arguments):
    model = arguments.pop("target", None)
    model = _model() if model is None else model
    arguments = {"inputs": X, **arguments}
    with pytest.raises(error, match=message) as caught:
        check_gradients(model, **arguments)
    assert "Received: " in str(caught.value)
    if isinstance(model, keras.Model):
        assert {w.dtype for w in model.weights} == {"float32"}
    assert keras.config.floatx() == "float32"


def test_the_smallest_valid_numbers_pass():
    report = check_gradients(_model(), X, epsilon=1e-7, max_entries=1, seed=0)
    assert [row.entries for row in report.rows] == [1, 1, 1]


def test_inputs_of_different_length():
    a, b = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([a, b], keras.layers.Add()([a, b]))
    with pytest.raises(ValueError, match="`inputs` must all have the same number of examples"):
        check_gradients(model, [X, X[:2]])


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_weight_that_is_not_finite(value):
    model = _model()
    model.layers[0].bias.assign([0.0, value])
    with pytest.raises(ValueError, match="`target` must have finite weights.*bias"):
        check_gradients(model, X)


def test_nothing_to_check():
    with pytest.raises(ValueError, match="`inputs` must be floating point.*Received"):
        check_gradients(lambda x: tf.cast(x, tf.float64), np.arange(3))


def test_outputs_of_integers():
    with pytest.raises(ValueError, match="`target` must have an output of floating point.*int64"):
        check_gradients(lambda x: tf.argmax(x, axis=-1), X)


def test_a_layer_called_inside_a_function_stays_in_float32():
    model = _model()
    with pytest.raises(ValueError, match="`target` must compute in float64.*output 0.*float32"):
        check_gradients(lambda x: model(x), X)


def test_a_float32_constant_is_explained():
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        check_gradients(lambda x: tf.add(x, tf.constant(1.0, tf.float32)), X)
    assert "runs `target` in float64" in caught.value.__notes__[-1]


@pytest.mark.parametrize(
    "random", [lambda x: tf.random.uniform(x.shape, dtype=x.dtype), lambda x: np.random.rand(4, 3)]
)
def test_random_numbers_without_a_state(random):
    """TensorFlow's differ in every evaluation, NumPy's in every trace."""
    with pytest.raises(ValueError, match="`target` must give the same result each time"):
        check_gradients(lambda x: x * random(x), X)


def test_a_quantized_layer():
    model = keras.Sequential([keras.layers.Dense(2, dtype="int8_from_float32")])
    with pytest.raises(ValueError, match="`target` must not be quantized.*int8"):
        check_gradients(model, X)


def test_a_fault_of_the_target_comes_through():
    def broken(x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        check_gradients(broken, X)
