"""Models whose `train_step` calls their layers: Keras's flag `built` stays False."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from resumable_cases import cut_and_resumed, state

import keras_bp
from keras_bp._keras import is_built
from keras_bp.callbacks import GradientMonitor, ResumableTraining, TrainingHealth

L = keras.layers


class Autoencoder(keras.Model):
    """As in Keras's example of a variational autoencoder, without `call`."""

    def __init__(self, built=True):
        super().__init__()
        e, d = L.Dense(3, "tanh", name="e"), L.Dense(4, name="d")
        self.encoder = keras.Sequential([keras.Input((4,)), e] if built else [e], name="encoder")
        self.decoder = keras.Sequential([keras.Input((3,)), d] if built else [d], name="decoder")

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.decoder(self.encoder(data[0])) - data[0]) ** 2)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def make(built=True, optimizer="adam"):
    keras.utils.set_random_seed(0)
    model = Autoencoder(built)
    model.compile(optimizer, run_eagerly=True)
    return model


def fit(model, data, *callbacks):
    model.fit(*data, batch_size=5, shuffle=False, verbose=0, callbacks=list(callbacks))
    assert not model.built


def norm(arrays):
    return np.sqrt(sum(np.sum(np.square(np.float64(a))) for a in arrays))


@pytest.mark.parametrize("built", [True, False])
def test_the_monitor_measures_it_and_counts_on(built, data, tmp_path, read_events):
    model, weights = make(built), []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: weights.append(model.get_weights())
    )
    fit(model, data, look, GradientMonitor(tmp_path / "a", updates_every=1))
    weights.append(model.get_weights())
    events = read_events(tmp_path / "a")
    # Nothing can be measured before the first batch has built a layer.
    steps = [1, 2, 3, 4, 5][not built :]
    for i, layer in enumerate(["encoder/e", "decoder/d"]):
        parts = [w[2 * i : 2 * i + 2] for w in weights]
        pairs = zip(parts[steps[0] - 1 :], parts[steps[0] :], strict=False)
        moved = [norm(np.subtract(a, b) for a, b in zip(*p, strict=True)) for p in pairs]
        ratios, norms = events[f"update_ratio/{layer}"], events[f"weight_norm/{layer}"]
        assert list(ratios) == list(norms) == steps
        expected = np.divide(moved, [norm(p) for p in parts[steps[0] - 1 : -1]])
        np.testing.assert_allclose(list(ratios.values()), expected, rtol=1e-6)
        np.testing.assert_allclose(norms[5], norm(parts[5]), rtol=1e-6)

    fit(model, data, GradientMonitor(tmp_path / "b"))
    assert list(read_events(tmp_path / "b")["loss/batch"]) == [6, 7, 8, 9, 10]


def test_health_measures_it(data):
    health = TrainingHealth(["unchanged_weights"], action=lambda finding: None)
    fit(make(optimizer=keras.optimizers.SGD(0.0)), data, health)
    assert [(f.layer, f.step) for f in health.findings] == [("encoder/e", 3)]


def test_it_is_resumed(data, tmp_path):
    whole = make()
    whole.fit(*data, batch_size=6, epochs=2, verbose=0)
    model, _ = cut_and_resumed(make, data, tmp_path, [(1, 2)], epochs=2)
    np.testing.assert_equal(state(model), state(whole))


def test_what_is_wrong_is_told_before_the_first_update(data, tmp_path):
    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"`layers` must name .*'encoder/e'.*Received: layers="):
        fit(model, data, GradientMonitor(tmp_path, layers=["e"]))
    np.testing.assert_equal(model.get_weights(), before)
    with pytest.raises(ValueError, match="each layer that a `train_step` calls"):
        fit(make(built=False), data, ResumableTraining(tmp_path))
    model.trainable = False
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="needs a model with trainable weights"):
        fit(model, data, TrainingHealth())
    with pytest.raises(ValueError, match="must have trainable weights"):
        keras_bp.find_learning_rate(model, *data)


def test_is_built():
    assert is_built(make()) and not is_built(make(built=False))
    # A layer's own flag counts, a model's does not.
    outer = keras.Sequential([L.LSTM(3)])
    assert not is_built(outer)
    outer.build((None, 2, 2))
    assert is_built(outer)

    class Nested(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

    assert is_built(Nested(make())) and not is_built(Nested(make(built=False)))

    class Block(L.Layer):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

    class Scaled(Block):
        def build(self, shape):
            self.scale = self.add_weight()

    built, unbuilt = L.Dense(2), L.Dense(2)
    built.build((None, 2))
    assert is_built(Nested(Block(built))) and not is_built(Nested(Block(unbuilt)))
    assert not is_built(Nested(Scaled(built)))  # its own weight is missing
