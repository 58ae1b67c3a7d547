"""The curve is what an independent loop measures, for every kind of optimizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.tuning import find_learning_rate

BATCH = 32


def _numpy_sweep(x, y, rates, penalty=0.0, batches_an_update=1):
    """Train a linear model from 0.1 and 0 by gradient descent; the loss of each update step."""
    w, b, losses, start = np.full((3, 1), 0.1), 0.0, [], 0
    for rate in rates:
        loss, w_gradient, b_gradient = 0.0, 0.0, 0.0
        for _ in range(batches_an_update):
            rows = slice(start, start + BATCH)
            start = start + BATCH if start + BATCH < len(x) else 0
            error = x[rows] @ w + b - y[rows]
            loss += np.mean(error**2) + penalty * np.sum(w**2)
            w_gradient += 2 * x[rows].T @ error / len(error) + 2 * penalty * w
            b_gradient += 2 * error.mean()
        losses.append(loss / batches_an_update)
        w = w - rate * w_gradient / batches_an_update
        b = b - rate * b_gradient / batches_an_update
    return np.array(losses)


def _dataset(data):
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH)


@pytest.mark.parametrize("batches_an_update", [1, 2])
def test_curve_of_gradient_descent(data, linear, batches_an_update):
    """Penalties included, 80 examples (a last batch of 16), and begun anew after each pass."""
    x, y = data[0][:80], data[1][:80]
    accumulation = None if batches_an_update == 1 else batches_an_update
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=accumulation)
    model = linear(optimizer, regularizer=keras.regularizers.L2(0.05), steps_per_execution=3)
    curve = find_learning_rate(
        model, _dataset((x, y)), min_learning_rate=1e-3, max_learning_rate=0.3, steps=30
    )
    rates = 1e-3 * 300.0 ** (np.arange(30) / 29)
    np.testing.assert_allclose(curve.learning_rates, rates, rtol=1e-12)
    expected = _numpy_sweep(x, y, rates, 0.05, batches_an_update)
    # Float32 against float64: the losses fall from 6 to 0.3.
    np.testing.assert_allclose(curve.losses, expected, rtol=1e-4)
    average, smoothed = 0.0, []
    for k, loss in enumerate(curve.losses):
        average = 0.98 * average + 0.02 * loss
        smoothed.append(average / (1 - 0.98 ** (k + 1)))
    np.testing.assert_allclose(curve.smoothed_losses, smoothed, rtol=1e-12)
    assert curve.stop_reason == "completed" and curve.steps == 30


@pytest.mark.parametrize("kind, traces", [("rate", 0), ("schedule", 1), ("two steps a call", 1)])
def test_a_model_with_a_traced_step_is_swept_too(data, linear, kind, traces):
    """Without another trace, if the traced step reads its rate from a variable."""
    calls = []

    def loss(y_true, y_pred):
        calls.append(tf.executing_eagerly())
        return tf.reduce_mean((y_true - y_pred) ** 2)

    def model():
        schedule = keras.optimizers.schedules.CosineDecay(0.1, 9)
        optimizer = keras.optimizers.SGD(schedule if kind == "schedule" else 0.1)
        return linear(optimizer, loss, steps_per_execution=2 if kind.startswith("two") else 1)

    batches, options = _dataset(data).repeat(), {"steps": 20, "max_learning_rate": 0.1}
    trained = model()
    start = trained.get_weights()
    trained.fit(batches, steps_per_epoch=3, shuffle=False, verbose=0)
    trained.set_weights(start)
    calls.clear()
    curve = find_learning_rate(trained, batches, **options)
    assert calls == [False] * traces
    expected = find_learning_rate(model(), batches, **options)
    np.testing.assert_array_equal(curve.losses, expected.losses)


def test_a_train_function_that_nothing_was_built_for(data, linear):
    """As a `fit` leaves it that an exception ended; the sweep's own slots must not get into it."""
    model, twin = linear("adam"), linear("adam")
    model.make_train_function()
    find_learning_rate(model, *data, steps=20, max_learning_rate=0.1)
    for each in (model, twin):
        each.fit(*data, shuffle=False, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], twin.get_weights()[0])


@pytest.mark.parametrize("factor", [4.0, 1.5])
def test_it_stops_where_the_average_diverges(data, linear, factor):
    curve = find_learning_rate(
        linear(),
        _dataset(data).repeat(),
        min_learning_rate=1e-2,
        divergence_factor=factor,
        smoothing=0.5,
    )
    bounds = factor * np.minimum.accumulate(curve.smoothed_losses)
    assert curve.stop_reason == "loss diverged"
    assert curve.smoothed_losses[-1] > bounds[-1]
    assert (curve.smoothed_losses[:-1] <= bounds[:-1]).all()
    assert len(curve.losses) == len(curve.learning_rates) == len(curve.smoothed_losses) < 100


def test_a_loss_that_is_not_finite_ends_the_sweep_and_is_left_out(data, linear):
    curve = find_learning_rate(
        linear(),
        _dataset(data).repeat(),
        min_learning_rate=1.0,
        max_learning_rate=1e10,
        divergence_factor=np.inf,
    )
    assert curve.stop_reason == "loss not finite"
    assert 3 < len(curve.losses) < 100 and np.isfinite(curve.losses).all()
    assert len(curve.learning_rates) == len(curve.smoothed_losses) == len(curve.losses)


def test_negative_losses_do_not_end_the_sweep(data, linear):
    def loss(y_true, y_pred):
        return tf.reduce_mean((y_true - y_pred) ** 2) - 10.0

    curve = find_learning_rate(
        linear(loss=loss), _dataset(data).repeat(), max_learning_rate=0.1, steps=20
    )
    assert curve.stop_reason == "completed" and (curve.losses < 0).all()


_SEEN = {}


class _Recording(keras.optimizers.SGD):
    """Gradient descent that writes down the rate of each update."""

    def __init__(self, learning_rate=0.01, **options):
        super().__init__(learning_rate, **options)
        # Not an attribute: it would be put back with everything else.
        _SEEN[self.name] = []

    def update_step(self, gradient, variable, learning_rate):
        _SEEN[self.name].append(float(tf.convert_to_tensor(learning_rate)))
        super().update_step(gradient, variable, learning_rate)


class _Scaling(_Recording):
    """As this package's optimizers do: a schedule's rate times a factor that the setter changes."""

    @property
    def learning_rate(self):
        if isinstance(self._learning_rate, keras.Variable):
            return self._learning_rate
        return 0.5 * self._learning_rate(self.iterations)


def _composite(kind):
    if kind == "scaled":
        inner = [_Recording()]
        return keras.optimizers.LossScaleOptimizer(inner[0]), inner
    kernels, others = _Recording(), _Recording(keras.optimizers.schedules.CosineDecay(1.0, 9))
    if kind == "map":
        chosen = keras.optimizers.OptimizerMap(others, {".*kernel": kernels})
    else:
        chosen = lambda variable: kernels if "kernel" in variable.path else others  # noqa: E731
    return keras.optimizers.MultiOptimizer(chosen), [kernels, others]


@pytest.mark.parametrize(
    "kind", ["plain", "schedule", "callable", "scaling", "scaled", "map", "function"]
)
def test_every_optimizer_gets_the_swept_rate(data, linear, kind):
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 10)
    single = {
        "plain": lambda: _Recording(0.7),
        "schedule": lambda: _Recording(schedule),
        "callable": lambda: _Recording(lambda: 0.7),
        "scaling": lambda: _Scaling(schedule),
    }
    if kind in single:
        optimizer = single[kind]()
        inner = [optimizer]
    else:
        optimizer, inner = _composite(kind)
    rates = [vars(each)["_learning_rate"] for each in inner]
    model = linear(optimizer, run_eagerly=True)
    curve = find_learning_rate(model, _dataset(data).repeat(), max_learning_rate=0.01, steps=20)
    # Two variables, kernel and bias, for one optimizer or one for each.
    repeated = np.repeat(curve.learning_rates, 2 // len(inner))
    for each, rate in zip(inner, rates, strict=True):
        np.testing.assert_allclose(_SEEN[each.name], repeated, rtol=1e-6)
        assert vars(each)["_learning_rate"] is rate


def test_a_train_step_of_its_own_several_outputs_and_steps_a_call(data):
    class Model(keras.Model):
        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape() as tape:
                loss = 3.0 * self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss, "other": loss + 1.0}

    inputs = keras.Input((3,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")}
    x, y = data
    targets = {"a": y, "b": 2 * y}
    model = Model(inputs, outputs)
    weights = {"a": 0.25, "b": 2.0}
    losses = {"a": "mse", "b": "mse"}
    model.compile("sgd", losses, loss_weights=weights, steps_per_execution=3)
    first = {name: tf.reduce_mean((model(x)[name] - targets[name]) ** 2) for name in targets}
    whole = tf.data.Dataset.from_tensor_slices((x, targets)).batch(96).repeat()
    curve = find_learning_rate(model, whole, steps=20, max_learning_rate=1e-6)
    np.testing.assert_allclose(
        curve.losses[0], 3.0 * sum(weights[n] * first[n] for n in first), rtol=1e-5
    )
    assert len(curve.losses) == 20 and model.steps_per_execution == 3


def test_a_progress_bar_shows_the_steps_that_were_taken(data, linear, capsys):
    """It ends where the sweep ends, here early."""
    options = {"steps": 30, "max_learning_rate": 1e3, "smoothing": 0.0}
    curve = find_learning_rate(linear(run_eagerly=True), *data, verbose=2, **options)
    taken = len(curve.losses)
    assert curve.stop_reason == "loss diverged" and taken < 30
    assert f"{taken}/30" in capsys.readouterr().out
