"""The checker fails on gradients that are wrong, however little and wherever."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradient_check import check_gradients


def _check(rng, activation, spoil, which="kernel"):
    """Check a network of two layers and a scale, one of whose gradients passes through `spoil`.

    The shift by 3 keeps relu's units alive: a dead one's gradient is zero, right or wrong.
    """

    def network(x, first, kernel, scale):
        kernel = spoil(kernel) if which == "kernel" else kernel
        scale = spoil(scale) if which == "scale" else scale
        return scale * activation(activation(x @ first) @ kernel + 3.0)

    shapes = [(16, 5), (5, 8), (8, 8), ()]
    inputs = [rng.normal(size=shape) for shape in shapes]
    return check_gradients(network, inputs, rng.normal(size=(16, 8)), "log_cosh")


def _one_entry(factor):
    def change(g):
        mask = np.ones(g.shape)
        mask[3, 5] = factor
        return g * mask

    return change


CHANGES = {
    "0.1 % too large": lambda g: 1.001 * g,
    "0.1 % too small": lambda g: 0.999 * g,
    "sign": lambda g: -g,
    "cut off": lambda g: None,
    "one entry, 0.1 %": _one_entry(1.001),
    "one entry, sign": _one_entry(-1.0),
    "one entry, zero": _one_entry(0.0),
    "one entry, nan": _one_entry(np.nan),
}


RELU = ("0.1 % too small", "one entry, sign", "one entry, zero")


@pytest.mark.parametrize(
    "activation, change",
    [(tf.tanh, change) for change in CHANGES if change not in RELU[:2]]
    + [(tf.nn.relu, change) for change in RELU],
)
def test_a_wrong_kernel_gradient(rng, with_gradient, activation, change):
    report = _check(rng, activation, with_gradient(CHANGES[change]))
    assert report.verdict == "wrong"
    blamed = [row for row in report.rows if row.verdict != "correct"]
    assert [row.path for row in blamed] == ["kernel"]
    if "one entry" in change:
        assert blamed[0].worst_index == (3, 5)


def test_a_right_one_in_the_same_network(rng, with_gradient):
    for activation in (tf.tanh, tf.nn.relu):
        report = _check(rng, activation, with_gradient(lambda g: g))
        assert report.verdict == "correct"
        assert report.relative_difference < 1e-8


def test_a_single_scalar_that_is_a_thousandth_off(rng, with_gradient):
    """The overall figure drowns it: one entry among hundreds. Its row does not."""
    report = _check(rng, tf.tanh, with_gradient(lambda g: 1.001 * g), which="scale")
    assert report.verdict == "wrong"
    assert [row.path for row in report.rows if row.verdict == "wrong"] == ["scale"]


@pytest.mark.parametrize("factor", [1.001, -1.0, 0.0])
def test_a_small_variable_with_a_small_gradient(with_gradient, factor):
    """A gradient 1e-5 of the others': the overall figure of the 0.1 % fault is 5e-9."""
    spoil = with_gradient(lambda g: factor * g)
    report = check_gradients(
        lambda x, w: tf.sin(x) + 1e-5 * tf.reduce_sum(tf.exp(spoil(w))),
        [np.linspace(-1, 1, 50), np.array([0.5, 0.6])],
    )
    assert report.relative_difference < 1e-4
    assert [row.verdict for row in report.rows] == ["correct", "wrong"]
    assert report.verdict == "wrong"


def test_one_wrong_entry_among_thousands(rng, with_gradient):
    """Row and overall figures are 4e-6, merely suspicious; the entry itself is not."""

    def change(g):
        mask = np.ones(g.shape)
        mask[77, 13] = 1.001
        return g * mask

    spoil = with_gradient(change)
    x, w = rng.normal(size=(2, 100)), rng.normal(size=(100, 40)) / 10.0
    report = check_gradients(lambda w: tf.tanh(x @ spoil(w)), w)
    assert report.rows[0].entries == 4000
    assert report.relative_difference < 1e-5
    assert report.verdict == "wrong"
    assert report.rows[0].worst_index == (77, 13)


def test_a_cut_graph_is_found(rng):
    """stop_gradient: autodiff returns None, and the loss depends on the variable all the same."""
    report = check_gradients(
        lambda x, w: tf.stop_gradient(tf.tanh(x)) + tf.tanh(w), [rng.normal(size=4)] * 2
    )
    assert [row.verdict for row in report.rows] == ["wrong", "correct"]
    assert report.rows[0].analytic == 0.0
    assert report.rows[0].path == "x"


def test_an_unused_variable_is_no_fault(rng):
    report = check_gradients(lambda x, w: tf.tanh(x), [rng.normal(size=4)] * 2)
    assert report.verdict == "correct"
    assert report.rows[1].relative_difference == 0.0


def test_a_wrong_gradient_inside_a_model(rng, with_gradient):
    """Its own weights lie behind the fault; only what lies before it is blamed."""
    spoil = with_gradient(lambda g: 1.001 * g)
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3)(keras.layers.Lambda(spoil)(inputs))
    report = check_gradients(keras.Model(inputs, outputs), rng.normal(size=(5, 4)))
    assert [row.verdict for row in report.rows] == ["correct", "correct", "wrong"]


class Rounds(keras.layers.Layer):
    def call(self, x):
        return tf.cast(tf.tanh(tf.cast(x, tf.float32)), x.dtype)


ROUNDING = {
    "rounds": (lambda: Rounds(name="rounds"), (6, 4), "rounds"),
    "bilinear": (lambda: keras.layers.Resizing(5, 4, name="small"), (2, 3, 3, 2), "ResizeBilinear"),
    "bicubic": (
        lambda: keras.layers.UpSampling2D(interpolation="bicubic", name="small"),
        (2, 3, 3, 2),
        "ResizeBicubic",
    ),
}


@pytest.mark.parametrize("case", ROUNDING)
def test_float32_inside_leaves_the_verdict_open(rng, with_gradient, case):
    """Neither correct nor wrong, as long as float32's rounding explains the difference."""
    make, shape, operation = ROUNDING[case]
    x = rng.normal(size=shape)
    model = keras.Sequential([make(), keras.layers.Dense(2, "tanh")])
    report = check_gradients(model, x)
    assert (report.verdict, report.is_rounded, report.epsilon) == ("suspicious", True, 2e-3)
    assert any(operation in name for name in report.rounded_at)
    assert "rounded to fewer bits" in str(report)
    assert report.relative_difference < 1e-3
    # A step in J may pass for a kink here and there, but does not excuse the rest.
    assert sum(row.kinks for row in report.rows) < sum(row.entries for row in report.rows) / 4
    # A fault that is larger is one.
    wrong = keras.layers.Lambda(with_gradient(lambda g: 1.02 * g))
    report = check_gradients(keras.Sequential([wrong, *model.layers]), x)
    assert report.verdict == "wrong"


def test_float32_that_no_operation_tells(rng):
    """The output has no bit that float32 lacks; a cast that spoils nothing is no fault."""

    def hidden(x):
        y = np.tanh(x.numpy().astype("float32")).astype("float64")
        return tf.constant(y), lambda dy: dy * (1 - y**2)

    report = check_gradients(tf.custom_gradient(hidden), rng.normal(size=8))
    assert (report.verdict, report.rounded_at) == ("suspicious", ("output",))
    steps = lambda x: x + 0 * tf.cast(tf.cast(tf.round(x), "float32"), x.dtype)  # noqa: E731
    report = check_gradients(steps, rng.normal(size=8))
    assert (report.verdict, report.is_rounded) == ("correct", False)


@pytest.mark.parametrize("size", [1e3, 5e4])
def test_a_curve_is_not_taken_for_rounding(rng, with_gradient, size):
    """Over a millionth of 5e4 the sine bends; the cast spoils nothing and excuses nothing."""
    wrong = with_gradient(lambda g: 1.3 * g)

    def masked(x):
        return tf.sin(wrong(x)) * tf.cast(tf.cast(x, "float32") > 0, x.dtype)

    report = check_gradients(masked, size + rng.normal(size=8))
    assert report.rounded_at
    assert (report.verdict, report.is_rounded, report.epsilon) == ("wrong", False, 1e-5)


def test_rounding_beside_a_curve_is_still_found(rng):
    """The curve's differences are larger than those of rounding, but only over the distance."""

    def both(x):
        return 1e3 * tf.sin(x) + tf.cast(tf.sin(tf.cast(x, "float32")), x.dtype)

    report = check_gradients(both, 5e4 + rng.normal(size=8))
    assert (report.verdict, report.is_rounded) == ("suspicious", True)


@pytest.mark.parametrize("offset, scale", [(1e6, 1e-2), (1e2, 1e-6)])
@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_what_rounding_hides_is_not_called_correct(offset, scale, factor):
    @tf.custom_gradient
    def function(x):
        return offset + scale * tf.reduce_sum(x * x), lambda d: d * 2 * scale * factor * x

    report = check_gradients(function, np.random.default_rng(0).normal(size=5))
    assert report.verdict == "suspicious"
    assert "larger epsilon" in str(report)
