"""After a check everything is what it was, also after an interruption."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradient_check import check_gradients
from keras_bp.gradient_check.float64 import float64_scope

layers = keras.layers


def _model():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,), dtype="float16")
    x = layers.Dense(8, activation="relu", dtype="mixed_float16")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.3, seed=5)(x)
    x = keras.Sequential([layers.Dense(4), layers.GaussianNoise(0.1, seed=6)])(x)
    model = keras.Model(inputs, layers.Dense(3, kernel_regularizer="l2")(x))
    model.compile("adam", "mse", metrics=["mae"])
    return model


def _state(model):
    """All that a check could disturb: objects by identity, values bit by bit."""
    owners = list(model._flatten_layers())
    variables = model.variables + model.optimizer.variables + model.metrics_variables
    return {
        "values": [v.numpy().tobytes() for v in variables],
        "storage": [id(v._value) for v in variables],
        "dtypes": [v.dtype for v in variables],
        "policies": [id(layer.dtype_policy) for layer in owners],
        "inputs": [t.dtype for t in model.inputs],
        "losses": [id(layer._losses) for layer in owners],
        "attributes": [sorted(vars(layer)) for layer in owners],
        "floatx": keras.config.floatx(),
        "global policy": keras.config.dtype_policy(),
        "functions": [model.train_function, model.predict_function],
    }


@pytest.fixture
def data(rng):
    return rng.normal(size=(16, 5)).astype("float32"), rng.normal(size=(16, 3)).astype("float32")


def test_training_goes_on_as_if_there_had_been_no_check(data):
    """Dropout's seeds, batch norm's averages, Adam's moments and the traced step: bit for bit."""
    model, loss = _model(), keras.losses.MeanSquaredError()
    model.fit(*data, epochs=2, shuffle=False, verbose=0)
    model.make_predict_function()
    variables = model.variables + model.optimizer.variables
    trained, weights = [v.numpy() for v in variables], []
    for checked in (False, True):
        for variable, value in zip(variables, trained, strict=True):
            variable.assign(value)
        if checked:
            before, loss_before = _state(model), dict(vars(loss))
            report = check_gradients(model, *data, loss)
            assert report.verdict == "correct"
            assert _state(model) == before
            assert vars(loss) == loss_before
        model.fit(*data, epochs=2, shuffle=False, verbose=0)
        weights.append([v.numpy().tobytes() for v in variables])
    assert weights[0] == weights[1]


@pytest.mark.parametrize("error, call", [(RuntimeError, 1), (KeyboardInterrupt, 30)])
def test_an_interruption_restores_everything(data, error, call):
    """In the first evaluation, and in the midst of the loop."""
    model = _model()
    calls = []

    def loss(y_true, y_pred):
        calls.append(0)
        if len(calls) >= call:
            raise error("stop")
        if len(calls) > 1:
            y_pred.numpy()  # keeps the evaluations out of the graph, so that they can be counted
        return tf.reduce_mean((y_true - y_pred) ** 2)

    before = _state(model)
    with pytest.raises(error, match="stop"):
        check_gradients(model, *data, loss)
    assert len(calls) >= call
    assert _state(model) == before


def test_a_failure_while_things_are_changed_restores_everything(data, monkeypatch):
    model = _model()
    before = _state(model)
    cast, calls = tf.cast, []

    def failing(*args, **kwargs):
        calls.append(0)
        if len(calls) == 4:
            raise MemoryError("no room")
        return cast(*args, **kwargs)

    monkeypatch.setattr(tf, "cast", failing)
    with pytest.raises(MemoryError), float64_scope([model]):
        pass
    monkeypatch.undo()
    assert _state(model) == before


def test_what_a_call_stores_in_a_layer_is_taken_back():
    class Remembers(layers.Layer):
        def call(self, x, training=False):
            self.last = x
            if training:
                self.trained_on = x
            self.add_loss(tf.reduce_sum(x))
            return 2.0 * x

    layer = Remembers()
    layer(np.ones((1, 2)))
    last, losses = layer.last, list(layer.losses)
    check_gradients(layer, np.zeros((3, 2)))
    assert layer.last is last
    assert not hasattr(layer, "trained_on")
    assert len(layer.losses) == 1 and layer.losses[0] is losses[0]


def test_building_leaves_seeds_and_averages_alone(rng):
    model = keras.Sequential([layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.5)])
    seeds = model.layers[2].seed_generator.state.numpy()
    check_gradients(model, rng.normal(size=(4, 2)))
    assert np.array_equal(model.layers[2].seed_generator.state.numpy(), seeds)
    assert not model.layers[1].moving_mean.numpy().any()
    assert [w.dtype for w in model.weights] == ["float32"] * 6


def test_the_scope_computes_in_float64_inside(data):
    model = _model()
    with float64_scope([model]):
        assert model(tf.constant(data[0], tf.float64)).dtype == tf.float64
        assert {v.dtype for v in model.trainable_variables} == {"float64"}
    assert model(data[0]).dtype == tf.float32
