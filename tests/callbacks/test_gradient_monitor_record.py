"""GradientMonitor.record: the norms of a custom loop."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from run_tags import SETTINGS

from keras_bp.callbacks import GradientMonitor


def make_model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(3, "tanh", name="d1"), keras.layers.Dense(1, name="d2")]
    model = keras.Sequential([keras.Input((4,)), *layers], name="net")
    return model


def norm(tensors):
    return np.sqrt(sum(np.sum(np.square(np.float64(t))) for t in tensors))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("named", [False, True])
def test_a_loop(mode, named, data, tmp_path, read_events):
    x, y = data
    model, optimizer = make_model(), keras.optimizers.SGD(0.1)
    variables = model.trainable_variables
    monitor = GradientMonitor(tmp_path)
    if named:
        monitor.set_model(model)

    def step(x, y, number):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, variables)
        monitor.record(gradients, variables, loss=loss, step=number)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss, gradients

    if mode == "graph":
        step = tf.function(step)
    wanted = {"loss/batch": [], "global": [], "d1": [], "d2": [], "weight": []}
    for number in (5, 6, 7):
        wanted["weight"].append(norm(model.get_weights()[:2]))
        loss, gradients = step(x, y, tf.constant(number))
        for name, part in [("global", gradients), ("d1", gradients[:2]), ("d2", gradients[2:])]:
            wanted[name].append(norm(part))
        wanted["loss/batch"].append(float(loss))
    monitor.close()
    prefix = "" if named else "net/"
    events = read_events(tmp_path)
    tags = {
        "gradient_norm/global": "global",
        f"gradient_norm/{prefix}d1": "d1",
        f"gradient_norm/{prefix}d2": "d2",
        f"weight_norm/{prefix}d1": "weight",
        "loss/batch": "loss/batch",
    }
    others = {"custom_scalars__config__", f"weight_norm/{prefix}d2"}
    assert set(events) - set(tags) == others | (
        SETTINGS if named else SETTINGS - {"settings/model"}
    )
    for tag, key in tags.items():
        assert list(events[tag]) == [5, 6, 7]
        np.testing.assert_allclose(list(events[tag].values()), wanted[key], rtol=1e-6)


def test_steps_are_counted_where_none_is_given(tmp_path, read_events):
    monitor, w = GradientMonitor(tmp_path, every=2), tf.Variable([3.0, 4.0], name="w")
    record = tf.function(lambda g: monitor.record([g], [w]))
    for size in range(1, 6):
        record(tf.constant([float(size), 0.0]))
    monitor.close()
    events = read_events(tmp_path)
    assert events["gradient_norm/w"] == {2: 2.0, 4: 4.0}
    assert events["weight_norm/w"] == {2: 5.0, 4: 5.0}
    assert "loss/batch" not in events


def test_sparse_missing_and_half_gradients(tmp_path, read_events):
    rows = tf.IndexedSlices(tf.constant([[1.0], [2.0]]), tf.constant([1, 1]), [3, 1])
    variables = [tf.Variable(tf.ones(shape), name=n) for n, shape in [("a", (3, 1)), ("b", (2,))]]
    variables += [tf.Variable(tf.ones(2, tf.float16), name="c")]
    monitor = GradientMonitor(tmp_path)
    monitor.record([rows, None, tf.constant([3e4, 4e4], tf.float16)], variables)
    monitor.close()
    events = read_events(tmp_path)
    norms = {n: float(events[f"gradient_norm/{n}"][1]) for n in "abc"}
    assert norms == pytest.approx({"a": 3.0, "b": 0.0, "c": 5e4}, rel=1e-3)


def test_replicas_are_summed_and_written_once(tmp_path, read_events, replicas):
    with replicas.scope():
        w = tf.Variable([1.0, 1.0], name="w")
    monitor = GradientMonitor(tmp_path)

    @tf.function
    def step():
        def on_replica():
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradient = tf.where(number == 0, [3.0, 0.0], [0.0, 4.0])
            monitor.record([gradient], [w], loss=tf.constant(1.0), step=1)

        replicas.run(on_replica)

    step()
    monitor.close()
    events = read_events(tmp_path)
    assert events["gradient_norm/global"] == {1: 5.0} and events["loss/batch"] == {1: 2.0}


def test_it_does_not_go_into_xla(tmp_path):
    monitor, w = GradientMonitor(tmp_path), tf.Variable([1.0])
    with pytest.raises(ValueError, match=r"`record` .*jit_compile=True.*outside"):
        tf.function(lambda: monitor.record([w + 1.0], [w]), jit_compile=True)()


def test_numbers_that_differ(tmp_path):
    w = tf.Variable([1.0])
    with pytest.raises(ValueError, match=r"`gradients` .*Received: 0 gradients and 1 variables"):
        GradientMonitor(tmp_path).record([], [w])


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    w = tf.Variable([1.0])
    monitor = GradientMonitor(tmp_path / "file" / "below")
    for record in (monitor.record, tf.function(monitor.record)):
        with pytest.raises(ValueError, match="`log_dir` must name"):
            record([w + 1.0], [w])


def test_chosen_layers(tmp_path, read_events):
    variables = [tf.Variable([3.0], name="a"), tf.Variable([4.0], name="b")]
    monitor = GradientMonitor(tmp_path, layers=["b"])
    monitor.record([tf.constant([3.0]), tf.constant([4.0])], variables)
    monitor.close()
    events = read_events(tmp_path)
    assert events["gradient_norm/global"] == {1: 5.0} and events["gradient_norm/b"] == {1: 4.0}
    assert "gradient_norm/a" not in events and "weight_norm/a" not in events


def test_a_loop_that_calls_the_hooks_too(data, tmp_path, read_events):
    """As the chief of several workers does, whose callbacks Keras's list holds."""
    model, optimizer = make_model(), keras.optimizers.SGD(0.1)
    model.compile(optimizer, "mse")
    monitor = GradientMonitor(tmp_path)
    callbacks = keras.callbacks.CallbackList([monitor], model=model)
    callbacks.on_train_begin()
    for number in range(3):
        callbacks.on_train_batch_begin(number)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(data[0]) - data[1]))
        gradients = tape.gradient(loss, model.trainable_variables)
        monitor.record(gradients, model.trainable_variables, loss=loss)
        callbacks.on_train_batch_end(number)
        assert not monitor._measures()  # no second copy of the weights is held
    callbacks.on_epoch_end(0, {"loss": 1.0})
    callbacks.on_train_end()  # a warning that no update was seen would be an error here
    assert list(read_events(tmp_path)["gradient_norm/global"]) == [1, 2, 3]
