"""TrainingDashboard: the figure holds what a pass of one's own finds."""

import itertools

import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_bp.callbacks import TrainingDashboard
from keras_bp.callbacks.dashboard._panels import _smoothed
from keras_bp.callbacks.dashboard._screens import DrawingPace

L = keras.layers
optimizers = keras.optimizers


@pytest.fixture
def always_due(monkeypatch):
    """Let it draw after every batch."""
    monkeypatch.setattr(DrawingPace, "due", lambda self: True)


def small_model(optimizer="sgd", **options):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), L.Dense(3, "tanh", name="d1"), L.Dense(1, name="d2")]
    model = keras.Sequential(layers)
    # Tracing takes longer than the few steps of these trainings.
    model.compile(optimizer, "mse", **(options or {"run_eagerly": True}))
    return model


def fit(model, data, *callbacks, epochs=1, **options):
    """Train on 5 batches an epoch, of 5 examples and the last of 3."""
    options = {"batch_size": 5, "shuffle": False, "verbose": 0, **options}
    return model.fit(*data, epochs=epochs, callbacks=list(callbacks), **options).history


def own_passes(model, data, epochs):
    """Return the loss and the gradients of each step of a twin's training, by a tape."""
    passes = []
    for i in list(range(0, len(data[0]), 5)) * epochs:
        x, y = (tf.constant(array[i : i + 5]) for array in data)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        passes.append((float(loss), [g.numpy() for g in gradients]))
        model.optimizer.apply(gradients, model.trainable_variables)
    return passes


def norm(gradients):
    return np.sqrt(sum(np.sum(np.square(g)) for g in gradients))


def axes(dashboard):
    """The figure's panels by their titles' first words."""
    names = ("Training", "Validation", "Learning", "Gradient", "Weights")
    panels = {ax.get_title().split()[0]: ax for ax in dashboard.figure.axes}
    assert tuple(panels) == names
    return panels


def assert_line(line, steps, values):
    np.testing.assert_array_equal(line.get_xdata(), steps)
    # The tape's pass is not fused as the compiled step is.
    np.testing.assert_allclose(line.get_ydata(), values, rtol=2e-5)


def pixels(path):
    """Decode a picture, which fails on half a one."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def schedule():
    return optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"run_eagerly": True},
        {"jit_compile": False, "steps_per_execution": 2},
    ],
    ids=str,
)
def test_lines_are_what_a_pass_of_ones_own_finds(options, data, tmp_path):
    model = small_model(optimizers.SGD(schedule()), **options)
    dashboard = TrainingDashboard(tmp_path / "d.png")
    history = fit(model, data, dashboard, epochs=2, validation_data=data)
    panels, steps = axes(dashboard), np.arange(1, 11)
    passes = own_passes(small_model(optimizers.SGD(schedule())), data, 2)

    batches, epochs = panels["Training"].get_lines()
    assert_line(batches, steps, [loss for loss, _ in passes])
    assert_line(epochs, [5, 10], history["loss"])
    assert_line(panels["Validation"].get_lines()[0], [5, 10], history["val_loss"])
    [rate] = panels["Learning"].get_lines()
    assert_line(rate, steps, 0.05 * 0.5 ** ((steps - 1) / 2))
    assert panels["Gradient"].get_yscale() == "log"
    lines = panels["Gradient"].get_lines()  # each layer's, and smoothed, which few points are not
    assert [line.get_label() for line in lines] == ["d1", "d2", "d1", "d2"]
    for line, part in zip(lines, [slice(0, 2), slice(2, 4)] * 2, strict=True):
        assert_line(line, steps, [norm(gradients[part]) for _, gradients in passes])
    for panel in panels.values():
        if panel is not panels["Weights"]:
            assert panel.get_xlim() == (0, 10)
    assert "epoch 2 of 2, update step 10" in dashboard.figure.get_suptitle()
    assert pixels(tmp_path / "d.png").std() > 10


def test_ridges_are_the_histograms_of_the_last_weights(data, tmp_path):
    model, dashboard = small_model(), TrainingDashboard(tmp_path / "d.png")
    fit(model, data, dashboard)
    panel = axes(dashboard)["Weights"]
    [ridges] = panel.collections
    assert [label.get_text() for label in panel.get_yticklabels()] == ["d1", "d2"]
    weights = model.get_weights()
    for row, path in enumerate(ridges.get_paths()):
        values = np.concatenate([w.ravel() for w in weights[2 * row : 2 * row + 2]])
        counts, edges = np.histogram(values, 30)
        x, y = path.vertices[1:-2].T  # without the base line's ends
        np.testing.assert_allclose(x[::2], edges[:-1], atol=1e-6)
        np.testing.assert_allclose(y[::2], 0.95 * counts / counts.max() - row, atol=1e-6)


def test_replicas_show_the_whole_batch(tmp_path, replicas):
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    data = x, x[:, :1] * x[:, 1:2]
    with replicas.scope():
        model = small_model(optimizers.SGD(0.05), jit_compile=False)
    dashboard = TrainingDashboard(tmp_path / "d.png")
    fit(model, data, dashboard, batch_size=10, epochs=2)
    [rate] = axes(dashboard)["Learning"].get_lines()
    assert_line(rate, [1, 2, 3, 4], [0.05] * 4)
    losses = axes(dashboard)["Training"].get_lines()[0].get_ydata()
    twin = small_model(optimizers.SGD(0.05))
    loss = float(tf.reduce_mean(tf.square(twin(x[:10]) - data[1][:10])))
    np.testing.assert_allclose(losses[0], loss, rtol=1e-5)


def test_training_is_the_same_to_the_bit(data, tmp_path, always_due):
    data, results = [array[:10] for array in data], []
    for callbacks in [], [TrainingDashboard(tmp_path / "d.png")]:
        model = small_model(optimizers.SGD(0.01, momentum=0.9), jit_compile=False)
        history = fit(model, data, *callbacks, epochs=1, validation_data=data)
        variables = model.weights + model.optimizer.variables
        results.append((history, [v.numpy() for v in variables]))
    np.testing.assert_equal(results[1], results[0])


def test_a_second_fit_goes_on_and_another_model_begins_anew(data, tmp_path):
    model, dashboard = small_model(), TrainingDashboard(tmp_path / "d.png")
    histories = [fit(model, data, dashboard, validation_data=data) for _ in range(2)]
    batches, epochs = axes(dashboard)["Training"].get_lines()
    assert_line(epochs, [5, 10], [history["loss"][0] for history in histories])
    np.testing.assert_array_equal(batches.get_xdata(), np.arange(1, 11))

    other = keras.Sequential([keras.Input((4,)), L.Dense(1, name="alone")])
    other.compile("sgd", "mse", run_eagerly=True)
    history = fit(other, data, dashboard)
    assert_line(axes(dashboard)["Training"].get_lines()[1], [15], history["loss"])
    assert len(axes(dashboard)["Gradient"].get_lines()) == 2


def test_validation_that_comes_at_times_or_never(data, tmp_path):
    data = [array[:10] for array in data]
    dashboard = TrainingDashboard(tmp_path / "d.png")
    fit(small_model(), data, dashboard, epochs=2)
    panel = axes(dashboard)["Validation"]
    assert [text.get_text() for text in panel.texts] == ["none so far"]
    dashboard = TrainingDashboard(tmp_path / "d.png")
    history = fit(small_model(), data, dashboard, epochs=5, validation_data=data, validation_freq=2)
    panel = axes(dashboard)["Validation"]
    assert [text.get_text() for text in panel.texts] == [""]
    assert_line(panel.get_lines()[0], [4, 8], history["val_loss"])


@pytest.mark.parametrize("layers, named", [(1, 1), (17, 17), (60, 20)])
def test_one_layer_and_many(layers, named, data, tmp_path):
    hidden = [L.Dense(4, "tanh", name=f"a_layer_of_a_long_name_{i}") for i in range(layers - 1)]
    model = keras.Sequential([keras.Input((4,)), *hidden, L.Dense(1, name="last")])
    model.compile("sgd", "mse", run_eagerly=True)  # tracing takes longer
    dashboard = TrainingDashboard(tmp_path / "d.png")
    fit(model, [array[:5] for array in data], dashboard)
    panels = axes(dashboard)
    tiny = np.full((1, layers), 1.5e-7)  # longer labels than there were
    colors = [line.get_color() for line in panels["Gradient"].get_lines()]
    expected = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, layers))
    np.testing.assert_allclose(colors, [*expected, *expected])
    [ridges] = panels["Weights"].collections
    np.testing.assert_allclose(ridges.get_facecolors(), expected)
    labels = panels["Weights"].get_yticklabels()
    assert len(labels) == named and labels[-1].get_text() == "last"
    assert labels[-1].get_position()[1] == 1 - layers
    if layers > 1:
        assert labels[0].get_text() == "…_of_a_long_name_0"  # 18 characters
    dashboard._panels.update(dashboard._record()._replace(norms=(np.ones((1, layers)), tiny)))
    # No name lies over another, no panel's labels over another panel's or beyond the edge.
    renderer = dashboard.figure.canvas.get_renderer()
    parts = [ax.get_tightbbox(renderer) for ax in panels.values()]
    for boxes in [label.get_window_extent(renderer) for label in labels], parts:
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    whole = matplotlib.transforms.Bbox.union(parts)
    assert (whole.min > 0).all() and (whole.max < dashboard.figure.bbox.max).all()


def test_a_composite_has_a_rate_for_each_optimizer(data, tmp_path):
    mapped = {"d1.*": optimizers.SGD(0.5)}
    rules = optimizers.OptimizerMap(optimizers.SGD(0.25), mapped)
    dashboard = TrainingDashboard(tmp_path / "d.png")
    fit(small_model(optimizers.MultiOptimizer(rules)), data, dashboard)
    panel = axes(dashboard)["Learning"]
    for line, rate in zip(panel.get_lines(), (0.5, 0.25), strict=True):
        assert_line(line, range(1, 6), [rate] * 5)
    assert len(panel.get_legend().get_texts()) == 2


def test_losses_and_weights_that_are_not_finite_are_said_so(data, tmp_path):
    dashboard = TrainingDashboard(tmp_path / "d.png")
    fit(small_model(optimizers.SGD(1e30)), data, dashboard, epochs=2, validation_data=data)
    panels = axes(dashboard)
    losses = panels["Training"].get_lines()[0].get_ydata()
    wrong = 1 + np.flatnonzero(~np.isfinite(losses))
    assert 5 < len(wrong) < 10
    [text] = panels["Training"].texts
    assert text.get_text() == f"not finite in {len(wrong)} steps, first in step {wrong[0]}"
    assert [text.get_text() for text in panels["Validation"].texts] == ["not finite"]
    assert [text.get_text() for text in panels["Weights"].texts] == ["no finite weight in 2 layers"]
    assert pixels(tmp_path / "d.png").std() > 5


def test_a_train_step_that_shows_no_loss_is_told(data, tmp_path):
    class Own(keras.Sequential):
        def train_step(self, batch):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self(batch[0]) - batch[1]))
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables))
            return {"loss": loss}

    model, dashboard = Own([keras.Input((4,)), L.Dense(1)]), TrainingDashboard(tmp_path / "d.png")
    model.compile("sgd", run_eagerly=True)
    fit(model, data, dashboard)
    [text] = axes(dashboard)["Training"].texts
    assert text.get_text().startswith("no batch losses: the train step calls\nneither scale_loss")


def test_losses_are_on_one_scale_logarithmic_where_they_are_far_apart(data, tmp_path):
    for factor, scale in (1.0, "linear"), (1e-4, "log"):
        x, y = data
        halves = np.where(np.arange(len(x)) < 10, 1.0, factor).astype("float32")[:, None]
        dashboard = TrainingDashboard(tmp_path / "d.png")
        fit(small_model(), (x * halves, y * halves), dashboard, validation_data=(x, y))
        panels = axes(dashboard)
        losses = panels["Training"].get_lines()[0].get_ydata()
        assert (losses.max() / losses.min() > 10) == (scale == "log")
        assert {panels[name].get_yscale() for name in ("Training", "Validation")} == {scale}
        low, high = panels["Training"].get_ylim()
        assert (low, high) == panels["Validation"].get_ylim()
        assert 0 < low < losses.min() and losses.max() < high


def test_no_update_is_no_picture(data, tmp_path, always_due):
    model, dashboard = small_model(), TrainingDashboard(tmp_path / "d.png")
    data = [array[:10] for array in data]
    for pictures in 0, 0, 1:
        model.compile(optimizers.SGD(0.1, gradient_accumulation_steps=3), "mse", run_eagerly=True)
        fit(model, data, dashboard, epochs=1 + pictures)
        assert len(list(tmp_path.iterdir())) == pictures
    # An optimizer that has made no update yet leaves what has been seen.
    model.compile(optimizers.SGD(0.1, gradient_accumulation_steps=3), "mse", run_eagerly=True)
    fit(model, data, dashboard)
    np.testing.assert_array_equal(axes(dashboard)["Gradient"].get_lines()[0].get_xdata(), [1])


def test_smoothed_norms_are_geometric_means_of_neighbours():
    generator = np.random.default_rng(0)
    values = 10 ** generator.normal(size=(400, 2))
    values[100:110, 0] = 0, np.nan, np.inf, *values[103:110, 0]
    steps = np.repeat(np.arange(400.0)[:, None], 2, axis=1)
    x, y = _smoothed(steps, values)
    np.testing.assert_array_equal(x[:, 0], np.arange(200) * 2 + 0.5)
    for pair in 0, 3, 51, 120, 199:
        for column in range(2):
            near = values[max(0, 2 * (pair - 4)) : 2 * (pair + 5), column]
            near = near[np.isfinite(near) & (near > 0)]
            np.testing.assert_allclose(y[pair, column], np.exp(np.log(near).mean()))
    assert np.isnan(y[50, 0]) and np.isfinite(y[50, 1])
    np.testing.assert_array_equal(_smoothed(steps[:99], values[:99])[1], values[:99])
