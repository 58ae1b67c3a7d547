"""The picture shows the norms that a run wrote, layer by layer."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp.visualization import plot_gradient_flow


@pytest.fixture
def write(tmp_path):
    """Return a function that writes {tag: {step: value}} and returns the directory."""

    def write(scalars, log_dir=tmp_path):
        with tf.summary.create_file_writer(str(log_dir)).as_default():
            for tag, values in scalars.items():
                for step, value in values.items():
                    tf.summary.scalar(tag, value, step)
        return log_dir

    return write


def _read(figure):
    """Return the layers, the edges between the steps, and the norms that the colours stand for."""
    figure.canvas.draw()
    ax = figure.axes[0]
    (mesh,) = ax.collections
    exponents = mesh.get_array()
    norms = np.asarray(10.0 ** np.ma.filled(exponents, np.nan))
    norms[np.ma.filled(exponents, np.nan) < mesh.norm.vmin] = 0.0
    norms[np.ma.filled(exponents, np.nan) > mesh.norm.vmax] = np.inf
    layers = [label.get_text() for label in ax.get_yticklabels()]
    # The first row is on top.
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    return layers, mesh.get_coordinates()[0, :, 0], norms


def test_layers_and_norms(write):
    log_dir = write(
        {
            "gradient_norm/zebra": {1: 1e-3, 2: 2e-3, 3: 4e-3},
            "gradient_norm/block/ant": {1: 10.0, 2: 20.0, 3: 40.0},
            "gradient_norm/global": {1: 1.0, 2: 1.0, 3: 1.0},
            "gradient_norm_applied/global": {1: 1.0},
            "loss/batch": {1: 0.5, 2: 0.4, 3: 0.3},
        }
    )
    figure = plot_gradient_flow(log_dir)
    layers, edges, norms = _read(figure)
    assert layers == ["zebra", "block/ant"]
    np.testing.assert_allclose(edges, [0.5, 1.5, 2.5, 3.5])
    np.testing.assert_allclose(norms, [[1e-3, 2e-3, 4e-3], [10.0, 20.0, 40.0]], rtol=1e-5)
    assert not figure.legends
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert labels == [f"$10^{{{exponent}}}$" for exponent in range(-3, 3)]


def test_zero_and_not_finite_are_told_apart(write):
    values = {1: 0.0, 2: 1.0, 3: np.nan, 4: np.inf}
    figure = plot_gradient_flow(write({"gradient_norm/a": values, "gradient_norm/b": {2: 5.0}}))
    _, _, norms = _read(figure)
    np.testing.assert_allclose(norms[0], [0.0, 1.0, np.inf, np.inf])
    np.testing.assert_array_equal(np.isnan(norms[1]), [True, False, True, True])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["norm is 0", "norm is not finite"]
    colors = figure.axes[0].collections[0].to_rgba(figure.axes[0].collections[0].get_array())
    assert len({tuple(color) for color in colors.reshape(-1, 4)}) == 5  # 0, 1, inf, 5, nothing


def test_nothing_but_zeros(write):
    figure = plot_gradient_flow(write({"gradient_norm/a": {1: 0.0, 2: 0.0}}))
    assert _read(figure)[2].tolist() == [[0.0, 0.0]]


def test_steps_need_not_be_neighbours(write):
    _, edges, norms = _read(plot_gradient_flow(write({"gradient_norm/a": {10: 1, 20: 2, 40: 3}})))
    np.testing.assert_allclose(edges, [5.0, 15.0, 30.0, 45.0])
    np.testing.assert_allclose(norms, [[1.0, 2.0, 3.0]], rtol=1e-5)


def test_of_many_steps_the_largest_norms_are_drawn(write):
    values = {step: 1.0 for step in range(1, 1801)}
    values[100], values[901] = 50.0, np.nan
    every_other = {step: 7.0 for step in range(1, 1801, 2)}
    figure = plot_gradient_flow(write({"gradient_norm/a": values, "gradient_norm/b": every_other}))
    _, edges, norms = _read(figure)
    np.testing.assert_allclose(edges, np.arange(0.5, 1801, 3))
    np.testing.assert_allclose(norms[1], 7.0, rtol=1e-5)
    expected = np.ones(600)
    expected[33], expected[300] = 50.0, np.inf
    np.testing.assert_allclose(norms[0], expected, rtol=1e-5)


def test_a_monitor_and_its_directory_give_the_same(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 4))
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, "tanh", name="z_first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(1, name="a_last"),
        ]
    )
    model.compile("sgd", "mean_squared_error", run_eagerly=True)
    monitor = keras_bp.callbacks.GradientMonitor(tmp_path / "run")
    model.fit(x, x[:, :1], batch_size=5, epochs=2, callbacks=[monitor], verbose=0)
    layers, edges, norms = _read(plot_gradient_flow(monitor))
    assert layers == ["z_first", "norm", "a_last"]
    np.testing.assert_allclose(edges, np.arange(0.5, 9))
    assert np.isfinite(norms).all() and norms.min() > 0
    np.testing.assert_array_equal(_read(plot_gradient_flow(str(tmp_path / "run")))[2], norms)


def test_a_second_run_goes_on_from_the_first(write):
    log_dir = write({"gradient_norm/a": {1: 1.0, 2: 2.0}})
    write({"gradient_norm/a": {3: 3.0}, "gradient_norm/b": {3: 4.0}}, log_dir)
    layers, _, norms = _read(plot_gradient_flow(types.SimpleNamespace(log_dir=log_dir)))
    assert layers == ["a", "b"]
    np.testing.assert_allclose(norms, [[1, 2, 3], [np.nan, np.nan, 4]], rtol=1e-5)


def test_refusals(tmp_path, write):
    for source in (3, None, keras.callbacks.History()):
        with pytest.raises(TypeError, match="`source` must be a path, or .*Received: source="):
            plot_gradient_flow(source)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    for name in ("empty", "missing"):
        with pytest.raises(ValueError, match=f"`source` must be a directory with .*{name}"):
            plot_gradient_flow(tmp_path / name)
    write({"loss": {1: 1.0}, "gradient_norm/global": {1: 1.0}}, tmp_path / "other")
    with pytest.raises(ValueError, match="`source` must be a run with .*tags .*'loss'"):
        plot_gradient_flow(tmp_path / "other")
