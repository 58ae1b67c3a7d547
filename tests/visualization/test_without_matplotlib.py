"""Matplotlib is an extra: each picture says what to install (that all imports: test_package)."""

import builtins

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import visualization


def _plot_backprop(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mean_squared_error")
    visualization.plot_backprop(model, np.ones((3, 2)), np.ones((3, 1)))


def _plot_gradient_flow(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        tf.summary.scalar("gradient_norm/a", 1.0, 1)
    visualization.plot_gradient_flow(tmp_path)


def _plot_gradient_conflict(_):
    row = {"layer": "trunk", "tasks": ("a", "b"), "cosine": 0.1, "conflicting": 0.5, "steps": 2}
    visualization.plot_gradient_conflict([row])


def _plot_comparison(tmp_path):
    one = {"d": {"SGD": np.ones((1, 1))}}
    visualization.OptimizerComparison(one, one, one, (0,)).plot()


_GRAPH = visualization.ComputationGraph("net", 0.5, 4, (), (), {})


@pytest.mark.parametrize(
    "name, draw",
    [
        ("plot_backprop", _plot_backprop),
        ("plot_batch_sizes", lambda _: visualization.plot_batch_sizes({"all": 96}, 1)),
        ("plot_computation_graph", lambda _: _GRAPH.plot()),
        ("plot_gradient_conflict", _plot_gradient_conflict),
        ("plot_gradient_flow", _plot_gradient_flow),
        ("plot_paths", lambda _: visualization.plot_paths(steps=1)),
        ("plot_schedules", lambda _: visualization.plot_schedules()),
        ("OptimizerComparison.plot", _plot_comparison),
    ],
)
def test_pictures_say_what_is_missing(name, draw, tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=rf"^{name} needs Matplotlib: pip install matplotlib$"):
        draw(tmp_path)
