"""GradientMonitor with this package's optimizers: norms equal those of a tape of one's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import NAMES, X, Y, batches, gradients_of, make, model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_bp.callbacks import GradientMonitor


def series(log_dir, tag):
    """The steps and values of one tag of the event file."""
    accumulator = EventAccumulator(str(log_dir), size_guidance={"tensors": 0})
    accumulator.Reload()
    events = sorted(accumulator.Tensors(tag), key=lambda event: event.step)
    values = [float(tf.make_ndarray(event.tensor_proto)) for event in events]
    return [event.step for event in events], values


def norms(name, optimizer, size, micro_steps, updates):
    """The norm of each full update's mean gradient, by a tape beside the same training."""
    net, found = model(name, optimizer, run_eagerly=True), []
    for update in range(updates):
        sums = None
        for x, y in batches(size)[update * micro_steps : (update + 1) * micro_steps]:
            gradients = gradients_of(net, x, y)
            dense = [tf.convert_to_tensor(g).numpy().astype("float64") for g in gradients]
            sums = [s + g for s, g in zip(sums, dense, strict=True)] if sums else dense
            optimizer.apply(gradients, net.trainable_variables)
        found.append(np.sqrt(sum(np.sum(np.square(s / micro_steps)) for s in sums)))
    return found


def monitored(name, optimizer, size, log_dir, run_eagerly=False):
    net = model(name, optimizer, run_eagerly=run_eagerly)
    net.fit(X, Y, batch_size=size, shuffle=False, verbose=0, callbacks=[GradientMonitor(log_dir)])
    return net


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_plain(name, tmp_path):
    monitored(name, make(name, clipnorm=0.1), 4, tmp_path)
    steps, values = series(tmp_path, "gradient_norm/global")
    assert steps == [1, 2, 3, 4]
    expected = norms(name, make(name, clipnorm=0.1), 4, 1, 4)
    # Float32 gradients of a graph and of eager steps; weights differ by a few 1e-7 by then.
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_rule_that_finds_its_rate_shows_it(tmp_path):
    """And, as any other one, the norms of the gradients."""
    optimizer, rates = make("DoG"), []
    taken = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(float(optimizer.adapted_rate))
    )
    net, callbacks = model("DoG", optimizer), [GradientMonitor(tmp_path), taken]
    net.fit(X, Y, batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)
    np.testing.assert_allclose(series(tmp_path, "learning_rate")[1], rates, rtol=1e-6)
    assert 0.0 < rates[0] < 0.5  # and not the factor, 1
    steps, values = series(tmp_path, "gradient_norm/global")
    assert steps == [1, 2, 3, 4]
    # Float32 gradients of a graph and of eager steps; weights differ by a few 1e-7 by then.
    np.testing.assert_allclose(values, norms("DoG", make("DoG"), 4, 1, 4), rtol=1e-5)


@pytest.mark.parametrize("name", ["Adam", pytest.param("LazyAdam", marks=pytest.mark.long)])
def test_accumulation(name, tmp_path):
    """Three micro-batches an update, of two examples each; the seventh is left to fit's end."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 1, 0.5)
    options = {"gradient_accumulation_steps": 3}
    # Eagerly: the next test has the graph.
    net = monitored(name, make(name, schedule, **options), 2, tmp_path, run_eagerly=True)
    steps, values = series(tmp_path, "gradient_norm/global")
    assert steps == [1, 2]
    np.testing.assert_allclose(values, norms(name, make(name, schedule, **options), 2, 3, 2), 1e-5)
    # The flush is no step of the train function, and so nobody sees it.
    assert int(net.optimizer.iterations) == 3
    assert np.allclose(series(tmp_path, "learning_rate")[1], [0.05, 0.025])
    # The mean of the three micro-batches' losses.
    twin = model(name)
    first = np.mean([float(twin.compute_loss(x, y, twin(x))) for x, y in batches(2)[:3]])
    np.testing.assert_allclose(series(tmp_path, "loss/batch")[1][0], first, rtol=1e-6)


def test_loss_scale_around_accumulation(tmp_path):
    """The norms are those of the gradients before they are clipped."""
    inner = make("LazyAdam", gradient_accumulation_steps=3, clipnorm=0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    monitored("LazyAdam", optimizer, 2, tmp_path)
    steps, values = series(tmp_path, "gradient_norm/global")
    assert steps == [1, 2]
    plain = make("LazyAdam", gradient_accumulation_steps=3, clipnorm=0.1)
    np.testing.assert_allclose(values, norms("LazyAdam", plain, 2, 3, 2), rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_monitor_changes_nothing(name, tmp_path):
    """Bit for bit, with accumulation and a bound."""
    options = {"gradient_accumulation_steps": 2, "global_clipnorm": 0.5}
    net = monitored(name, make(name, **options), 4, tmp_path)
    twin = model(name, make(name, **options))
    twin.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    for weight, other in zip(net.weights, twin.weights, strict=True):
        np.testing.assert_array_equal(weight, other)
