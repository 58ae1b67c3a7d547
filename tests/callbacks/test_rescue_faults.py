"""Rescue where it cannot do its work, and trainings that are healthy though they look otherwise."""

import errno

import keras
import numpy as np
import pytest
import tensorflow as tf
from rescue_cases import BATCH, examples, fit, linear

from keras_bp.callbacks import Rescue
from keras_bp.callbacks.rescue.replay import explain
from keras_bp.optimizers import SGD


@pytest.mark.parametrize(
    "fails", ["batch", "model", pytest.param("report", marks=pytest.mark.long)]
)
def test_a_full_disk(fails, tmp_path, monkeypatch):
    """One warning, nothing half-written, and the training goes on."""
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*args, **kwargs):
        raise full

    model = linear("sgd")
    if fails == "batch":
        monkeypatch.setattr(np, "savez", fail)
    elif fails == "model":
        model.save = fail
    else:
        monkeypatch.setattr("json.dump", fail)
    ones = np.ones((BATCH * 10, 1), "float32")
    ones[[13, 30]] = np.nan
    rescue = Rescue(tmp_path, verbose=0)
    with pytest.warns(RuntimeWarning, match="batch of step 4 cannot.*No space left") as warned:
        fit(model, (ones, ones), rescue)
    assert [w.category for w in warned].count(RuntimeWarning) == 1 and not any(tmp_path.iterdir())
    assert [(r.action, r.path) for r in rescue.rescues] == [("skipped", None)] * 2
    assert int(model.optimizer.iterations) == 8 and np.isfinite(model.get_weights()[0])


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    ones = np.ones((BATCH * 4, 1), "float32")
    ones[5] = np.nan
    with pytest.warns(RuntimeWarning, match="cannot be written to"):
        fit(linear("sgd"), (ones, ones), Rescue(tmp_path / "file", verbose=0))


def test_several_workers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Rescue, "_worker", lambda self: 0)
    with pytest.raises(ValueError, match="Rescue needs a strategy of one process. Received"):
        fit(linear("sgd"), [np.ones((4, 1))] * 2, Rescue(tmp_path))


def test_two_of_them_are_refused(tmp_path):
    """Before the first step; alone, one may guard the model afterwards."""
    model, data = linear("sgd"), np.ones((2, BATCH, 1), "float32")
    first, second = Rescue(tmp_path), Rescue(tmp_path / "other")
    with pytest.raises(ValueError, match="`callbacks` must hold at most one Rescue. Received"):
        fit(model, data, first, second)
    assert int(model.optimizer.iterations) == 0
    data[0, 0] = np.nan
    fit(model, data, second)
    assert len(second.rescues) == 1 and first.rescues == []


class Opaque(keras.Model):
    """A model that nothing but its own train step can call."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.dense(x) - y) ** 2)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def test_a_model_that_is_not_built(tmp_path):
    model = Opaque()
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="needs a model that is built before the first step"):
        fit(model, examples(), Rescue(tmp_path))


def test_a_train_step_that_hides_its_loss(tmp_path):
    """Its gradients tell."""
    model = Opaque()
    model.dense.build((None, 4))
    model.compile("sgd", run_eagerly=True)
    x, y = examples()
    x[22] = np.nan
    rescue = Rescue(tmp_path, verbose=0)
    fit(model, (x, y), rescue)
    ((action, description),) = [(r.action, r.description) for r in rescue.rescues]
    assert action == "skipped" and description.startswith("The batch cannot be run layer by layer")
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_it_leaves_nothing_behind(tmp_path):
    """Neither after a fit nor after an error, in the model and its optimizer."""
    model, data = linear("sgd"), np.ones((2, BATCH, 1), "float32")
    rate = model.optimizer._learning_rate
    fit(model, data, Rescue(tmp_path))
    assert model.optimizer._learning_rate is rate
    assert type(model.train_function).__name__ == "function"
    with pytest.raises(ZeroDivisionError):
        fit(
            model,
            data,
            Rescue(tmp_path),
            keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 1 / 0),
        )
    assert model.optimizer._learning_rate is rate


def classes(seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(243, 6)).astype("float32")
    return x, (x @ generator.normal(size=(6, 4))).argmax(axis=1)


@pytest.mark.parametrize(
    "optimizer, batch_size, epochs",
    [
        # From 0.3 down to 1e-4 and up again, three times; batches of 3 at the epochs' ends.
        (
            lambda: SGD(keras.optimizers.schedules.CosineDecayRestarts(0.3, 60, 1.0, alpha=3e-4)),
            8,
            6,
        ),
        # Single examples, of which a few are far from learned.
        pytest.param(lambda: keras.optimizers.Adam(0.01), 1, 2, marks=pytest.mark.long),
        # At the edge of stability and over it, on all examples.
        pytest.param(
            lambda: keras.optimizers.SGD(1.5, momentum=0.5), 243, 60, marks=pytest.mark.long
        ),
    ],
    ids=["cycles", "single", "edge"],
)
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.long) for s in (1, 2, 3))])
def test_healthy_trainings(optimizer, batch_size, epochs, seed, tmp_path):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(4, "softmax")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(optimizer(), "sparse_categorical_crossentropy", jit_compile=False)
    rescue = Rescue(tmp_path, verbose=0)
    fit(model, classes(seed), rescue, batch_size=batch_size, epochs=epochs, shuffle=True)
    assert rescue.rescues == []


@pytest.mark.parametrize("last, rescued", [(10.0, 0), (100.0, 1)])
def test_a_batch_of_one_example_counts_by_its_share(last, rescued, tmp_path):
    """The losses of batches of 4 are 1: that of a batch of 1 may be four times what theirs may."""
    x = np.full((BATCH * 30 + 1, 1), 1e-3, "float32")
    y = np.random.default_rng(0).normal(1.0, 0.02, x.shape).astype("float32")
    y[-1] = np.sqrt(last)
    rescue = Rescue(tmp_path, verbose=0)
    fit(linear(SGD(1e-6), run_eagerly=False, jit_compile=False), (x, y), rescue)
    assert [r.fault for r in rescue.rescues] == ["spike"] * rescued


class Counting(keras.Sequential):
    """It counts how often Python computes its loss."""

    calls = 0

    def compute_loss(self, *args, **kwargs):
        self.calls += 1
        return super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize(
    "eager, count, calls", [(False, 5000, 2), (True, 256, 257), (True, 257, 1)]
)
def test_the_losses_of_a_large_batch_cost_little(eager, count, calls):
    """Each has its own in a graph, which Python makes once; eagerly there is an end to it."""
    x, y = np.ones((2, count, 1), "float32")
    y[-2] = 10.0
    model = Counting([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile("sgd", "mse", run_eagerly=eager)
    found = explain(model, (tf.constant(x), tf.constant(y), None))
    assert model.calls == calls
    if calls == 1:
        assert len(found.losses) == len(found.examples) == 0
        assert found.description == "Loss and gradients are finite."
    else:
        np.testing.assert_allclose(found.losses, (1.0 - y[:, 0]) ** 2, rtol=1e-6)
        assert found.examples[0] == count - 2


@pytest.mark.parametrize(
    "batch_size, seed",
    [(4, 2), (1, 3), *(pytest.param(b, s, marks=pytest.mark.long) for b, s in ((1, 2), (4, 3)))],
)
def test_noise_of_the_first_steps_is_no_fault(batch_size, seed, tmp_path):
    """One batch's loss rises threefold by dropout and the statistics of four examples alone."""
    normal = np.random.default_rng(seed).normal
    x = normal(size=(batch_size * 24, 4)).astype("float32")
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((4,)), keras.layers.Dense(32, "relu")]
    layers += [keras.layers.BatchNormalization()] * (batch_size > 1)
    model = keras.Sequential([*layers, keras.layers.Dropout(0.3), keras.layers.Dense(1)])
    model.compile("adam", "mse", run_eagerly=True)
    rescue = Rescue(tmp_path, verbose=0)
    fit(model, (x, x[:, :1] * x[:, 1:2] + 0.5), rescue, batch_size=batch_size, shuffle=True)
    assert rescue.rescues == []
