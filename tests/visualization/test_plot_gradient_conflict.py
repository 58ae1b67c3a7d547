"""The picture shows the rows of a table, cell by cell."""

import keras
import numpy as np
import pytest
from matplotlib.colors import to_rgba

import keras_bp
from keras_bp.visualization import plot_gradient_conflict


def row(layer, tasks, cosine, conflicting, steps=4):
    return {
        "layer": layer,
        "tasks": tasks,
        "cosine": cosine,
        "conflicting": conflicting,
        "magnitude_similarity": 0.5,
        "steps": steps,
    }


TABLE = [
    row("zebra", ("a", "b"), -0.31, 0.75),
    row("zebra", ("a", "c"), 0.2, 0.25),
    row("ant", ("a", "b"), 0.0, 0.5),
    row("ant", ("a", "c"), np.nan, np.nan, steps=0),
    row("global", ("a", "b"), -0.1, 1.0),
]


def read(figure):
    """Return layers, pairs, cosines, their colours, the texts by cell, and the scale's ends."""
    figure.canvas.draw()
    ax = figure.axes[0]
    mesh = ax.collections[0]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first layer is on top
    texts = {
        tuple(int(place) for place in text.get_position()[::-1]): text.get_text()
        for text in ax.texts
    }
    return (
        [label.get_text() for label in ax.get_yticklabels()],
        [label.get_text() for label in ax.get_xticklabels()],
        np.ma.filled(mesh.get_array(), np.nan),
        mesh.to_rgba(mesh.get_array()),
        texts,
        mesh.get_clim(),
    )


def test_cells():
    figure = plot_gradient_conflict(TABLE)
    layers, pairs, cosines, colors, texts, limits = read(figure)
    assert layers == ["zebra", "ant", "global"] and pairs == ["a\nb", "a\nc"]
    np.testing.assert_array_equal(cosines, [[-0.31, 0.2], [0.0, np.nan], [-0.1, np.nan]])
    assert texts == {(0, 0): "75%", (0, 1): "25%", (1, 0): "50%", (2, 0): "100%"}
    assert limits == (-0.4, 0.4)
    red, _, blue, _ = colors[0, 0]
    assert red > blue and colors[0, 1][2] > colors[0, 1][0]
    # Nothing at 0 but white, up to the step of a scale of 256 colours.
    np.testing.assert_allclose(colors[1, 0], 1.0, atol=0.04)
    assert to_rgba(figure.axes[0].get_facecolor()) == to_rgba("0.8")
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == [
        "not shared, or no step with both gradients"
    ]
    (line,) = figure.axes[0].lines
    assert line.get_ydata()[0] == 2  # between the layers and all of them


def test_a_full_table_needs_no_legend():
    figure = plot_gradient_conflict([row("only", ("a", "b"), 1.0, 0.0)])
    *_, texts, limits = read(figure)
    assert texts == {(0, 0): "0%"} and limits == (-1.0, 1.0)
    assert not figure.legends and not figure.axes[0].lines


def test_nothing_but_grey():
    figure = plot_gradient_conflict([row("only", ("a", "b"), np.nan, np.nan, steps=0)])
    *_, texts, limits = read(figure)
    assert not texts and limits == (-1.0, 1.0) and figure.legends


def test_a_callback_and_its_table_give_the_same(tmp_path):
    inputs = keras.Input((4,))
    trunk = keras.layers.Dense(3, name="z_first")(inputs)
    trunk = keras.layers.Dense(3, name="a_last")(trunk)
    outputs = {name: keras.layers.Dense(1, name=name)(trunk) for name in ("one", "two")}
    model = keras_bp.multitask.MultiTaskModel(inputs, outputs, combiner=keras_bp.multitask.Sum())
    model.compile("sgd", "mse", run_eagerly=True)
    conflict = keras_bp.callbacks.GradientConflict(tmp_path)
    x = np.random.default_rng(0).normal(size=(20, 4))
    model.fit(x, {"one": x[:, :1], "two": x[:, 1:2]}, verbose=0, callbacks=[conflict])
    layers, pairs, cosines, *_ = read(plot_gradient_conflict(conflict))
    assert layers == ["z_first", "a_last", "global"] and pairs == ["one\ntwo"]
    assert cosines.ravel().tolist() == [row["cosine"] for row in conflict.table()]
    np.testing.assert_array_equal(read(plot_gradient_conflict(conflict.table()))[2], cosines)


def test_refusals(tmp_path):
    for source in (3, None, "logs", [{"layer": "a"}], keras.callbacks.History()):
        with pytest.raises(TypeError, match="`source` must be a .*GradientConflict, .*Received: "):
            plot_gradient_conflict(source)
    for source in ([], keras_bp.callbacks.GradientConflict(tmp_path)):
        with pytest.raises(ValueError, match="`source` must be .* measured. Received: source="):
            plot_gradient_conflict(source)
