"""What cannot be swept is refused, with the argument's name and what was received."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.tuning import find_learning_rate


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"min_learning_rate": 0.0}, ValueError, r"`min_learning_rate`.*=0\.0$"),
        ({"min_learning_rate": -1e-3}, ValueError, r"`min_learning_rate`.*=-0\.001$"),
        ({"min_learning_rate": "small"}, TypeError, "`min_learning_rate`.*'small'"),
        ({"min_learning_rate": 10.0}, ValueError, r"`max_learning_rate`.*=10\.0$"),
        ({"max_learning_rate": 1e-8}, ValueError, "`max_learning_rate`.*=1e-08$"),
        ({"max_learning_rate": np.inf}, ValueError, "`max_learning_rate`.*=inf$"),
        ({"max_learning_rate": None}, TypeError, "`max_learning_rate`.*None"),
        ({"steps": 19}, ValueError, "`steps`.*20 or more.*steps=19$"),
        ({"steps": 50.0}, TypeError, r"`steps`.*50\.0"),
        ({"steps": True}, TypeError, "`steps`.*True"),
        ({"batch_size": 0}, ValueError, "`batch_size`.*batch_size=0$"),
        ({"batch_size": None}, TypeError, "`batch_size`.*None"),
        ({"smoothing": 1.0}, ValueError, r"`smoothing`.*=1\.0$"),
        ({"smoothing": -0.1}, ValueError, r"`smoothing`.*=-0\.1$"),
        ({"divergence_factor": 1.0}, ValueError, r"`divergence_factor`.*=1\.0$"),
        ({"divergence_factor": np.nan}, ValueError, "`divergence_factor`.*=nan$"),
    ],
)
def test_numbers(data, linear, options, error, message):
    with pytest.raises(error, match=message):
        find_learning_rate(linear(), *data, **options)


def test_numbers_at_their_bounds(data, linear):
    curve = find_learning_rate(
        linear(),
        *data,
        batch_size=1,
        steps=20,
        smoothing=0,
        max_learning_rate=1.1e-7,
        divergence_factor=np.inf,
    )
    assert len(curve.losses) == 20
    np.testing.assert_array_equal(curve.losses, curve.smoothed_losses)


def test_models(data, linear):
    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model\. Received: model=<Dense"):
        find_learning_rate(keras.layers.Dense(1), *data)
    model = keras.Sequential([keras.layers.Dense(1)], name="plain")
    with pytest.raises(ValueError, match="compiled.*Received: model 'plain', not compiled$"):
        find_learning_rate(model, *data)
    model.compile(optimizer=None, loss="mse")
    with pytest.raises(ValueError, match="Received: model 'plain', with optimizer None$"):
        find_learning_rate(model, *data)
    model = linear()
    model.trainable = False
    with pytest.raises(ValueError, match=f"Received: model '{model.name}', which has none$"):
        find_learning_rate(model, *data)


@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_targets_beside_data_that_bring_their_own(data, linear, name):
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(32)
    for batches in (dataset, iter([])):
        message = f"`{name}` must be None .* Received: {name} of type ndarray beside x of type "
        with pytest.raises(ValueError, match=message + type(batches).__name__):
            find_learning_rate(linear(), batches, **{name: data[1]})


@pytest.mark.parametrize("x", [None, [], [None]])
def test_no_data(linear, x):
    with pytest.raises(TypeError, match="`x` must be .* Received: x="):
        find_learning_rate(linear(), x)


def test_empty_data(data, linear):
    empty = tf.data.Dataset.from_tensor_slices(data).batch(32).filter(lambda *_: False)
    with pytest.raises(ValueError, match="`x` must hold .* Received: x of type _FilterDataset"):
        find_learning_rate(linear(), empty)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_first_loss_that_is_not_finite(data, linear, poison):
    x = data[0].copy()
    x[:] = poison
    model = linear()
    with pytest.raises(ValueError, match=r"first update step.* Received: a loss of (nan|inf) at "):
        find_learning_rate(model, x, data[1])
    assert np.isfinite(model.get_weights()[0]).all()


def test_a_train_step_that_hides_its_loss(data):
    class Model(keras.Model):
        def train_step(self, batch):
            super().train_step(batch)
            return {"hidden": tf.constant(1.0)}

    inputs = keras.Input((3,))
    model = Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"key 'loss'\. Received: keys \['hidden'\]$"):
        find_learning_rate(model, *data)


def test_an_optimizer_with_a_rate_of_its_own(data, linear):
    class Fixed(keras.optimizers.SGD):
        @property
        def learning_rate(self):
            return 0.5

    optimizer = Fixed(0.1)
    rate = vars(optimizer)["_learning_rate"]
    with pytest.raises(TypeError, match=r"Received: Fixed, which shows 0\.5 when set to 1e-07$"):
        find_learning_rate(linear(optimizer), *data)
    assert vars(optimizer)["_learning_rate"] is rate


def test_targets_that_are_missing(data, linear):
    """Keras says "None values not supported"; a model with a loss of its own needs none."""
    with pytest.raises(ValueError, match=r"`y` must be given .*Received: y=None for model"):
        find_learning_rate(linear(), data[0])

    class Squared(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, *args, **kwargs):
            return tf.reduce_mean(tf.square(y_pred))

    model = Squared([keras.layers.Dense(1)])
    model.compile("sgd", run_eagerly=True)
    assert len(find_learning_rate(model, data[0], steps=20, max_learning_rate=1e-3).losses) == 20
