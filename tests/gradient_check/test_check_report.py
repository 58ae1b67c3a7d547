"""The report's rows and text, and the evaluations that they rest on."""

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradient_check import GradientCheckReport, GradientCheckRow, check_gradients
from keras_bp.gradient_check.numeric import Evaluator


@pytest.fixture(scope="module")
def report():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(7)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.Activation("tanh"),
        ],
        name="m",
    )
    return check_gradients(model, rng.normal(size=(6, 3)), rng.normal(size=(6, 4)), "mse")


def test_rows(report):
    assert isinstance(report, GradientCheckReport)
    assert all(isinstance(row, GradientCheckRow) for row in report.rows)
    shapes = {row.path: row.shape for row in report.rows}
    assert shapes == {
        "m/hidden/kernel": (3, 4),
        "m/hidden/bias": (4,),
        "m/bn/gamma": (4,),
        "m/bn/beta": (4,),
        "inputs": (6, 3),
    }
    for row in report.rows:
        assert row.entries == np.prod(row.shape)
        assert row.kinks == 0
        assert all(0 <= i < n for i, n in zip(row.worst_index, row.shape, strict=True))
    assert report.not_trainable == ("m/bn/moving_mean", "m/bn/moving_variance")
    assert report.epsilon == 1e-5
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.verdict = "wrong"


def test_the_text_is_an_aligned_table(report):
    lines = str(report).splitlines()
    assert lines[0].startswith("Gradient check: correct, relative difference ")
    header, rows = lines[1], lines[2:7]
    for name in ("shape", "checked", "kinks", "difference", "worst", "analytic", "numeric"):
        end = header.index(name) + len(name)
        # Right-aligned: each cell ends where its title ends.
        assert all(row[end - 1] != " " and row[end] == " " for row in rows), name
    assert all(row[header.index("verdict") :].startswith("correct") for row in rows)
    assert "2 weights are not trainable and were not checked" in lines
    assert "42 entries, central differences in float64, epsilon 1e-05" in lines


def test_a_bias_before_batch_normalization_is_marked_as_rounding(report):
    """Its gradient is zero: the ratio of two roundings is near 1, and no fault."""
    bias = report.rows[1]
    assert bias.relative_difference > 1e-3
    assert abs(bias.analytic) < 1e-12 and abs(bias.numeric) < 1e-9
    assert bias.verdict == "correct"
    marked = [line for line in str(report).splitlines() if line.endswith("correct (rounding)")]
    assert len(marked) == 1 and marked[0].startswith("m/hidden/bias")


def test_repr_is_short(report):
    assert repr(report).startswith("<GradientCheckReport correct, relative_difference=")
    assert len(repr(report)) < 80


def test_a_notebook_shows_the_table():
    row = GradientCheckRow("<b>x</b>/kernel", (2, 3), 6, 1, 0.5, "wrong", (0, 1), 1.0, 3.0)
    fine = dataclasses.replace(row, path="bias", verdict="correct", relative_difference=1e-9)
    report = GradientCheckReport(0.5, "wrong", (row, fine), 1e-5, ("<i>",))
    shown = report._repr_html_()
    rows = re.findall("<tr.*?</tr>", shown)
    cells = [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    # The text's cells, with nothing of a name taken for HTML.
    assert cells[0] == "|shape|checked|kinks|difference|worst|analytic|numeric|verdict".split("|")
    assert cells[1][:2] == ["&lt;b&gt;x&lt;/b&gt;/kernel", "(2, 3)"] and cells[2][-1] == "correct"
    assert [cell for row in cells[1:] for cell in row[2:] if cell not in str(report)] == []
    assert ["background" in row for row in rows] == [False, True, False]  # what is wrong
    assert "relative difference 5.00e-01" in shown
    assert "1 weights are not trainable" in shown and "<i>" not in shown


def test_the_text_of_a_wrong_one_shows_both_slopes(with_gradient):
    spoil = with_gradient(lambda g: 2.0 * g)
    text = str(check_gradients(lambda x: 3.0 * spoil(x), np.zeros((1, 1))))
    assert text.startswith("Gradient check: wrong, relative difference 3.33e-01")
    row = text.splitlines()[2].split()
    assert row[-1] == "wrong"
    assert float(row[-3]) == pytest.approx(2.0 * float(row[-2]), rel=1e-5)


def _evaluator(function, *values):
    variables = [tf.Variable(np.asarray(v, float)) for v in values]
    return Evaluator(lambda: function(*variables), variables, variables)


def test_single_entries_are_shifted_and_put_back(rng):
    a, b = rng.normal(size=(3, 4)), rng.normal(size=(100,))

    def function(a, b):
        return np.sum(np.sin(a)) * np.sum(b**3)

    evaluator = _evaluator(lambda a, b: tf.reduce_sum(tf.sin(a)) * tf.reduce_sum(b**3), a, b)
    entries, offsets = np.array([0, 7, 99, 7]), [0.5, -0.25, 0.0]
    found = evaluator.along(1, entries, offsets)
    for row, entry in enumerate(entries):
        for column, offset in enumerate(offsets):
            moved = b.copy()
            moved[entry] += offset
            assert found[row, column] == pytest.approx(function(a, moved), rel=1e-12)
    assert evaluator.value() == pytest.approx(function(a, b), rel=1e-12)
    assert evaluator.along(0, np.array([], int), offsets).shape == (0, 3)
    # More entries than one call of the graph takes.
    assert evaluator.along(1, np.arange(100), [1.0]).shape == (100, 1)


def test_every_evaluation_waits_for_the_state_of_the_one_before():
    """A thousand evaluations that each read and write a counter, out of order if they could."""
    counter = tf.Variable(1.0, dtype=tf.float64, trainable=False)
    x = tf.Variable(np.zeros(500))

    def objective():
        counter.assign_add(1.0)
        slow = tf.reduce_sum(tf.linalg.inv(tf.eye(20, dtype=tf.float64)) * tf.reduce_sum(x))
        j = slow * counter
        counter.assign_add(tf.reduce_sum(x))
        return j

    found = Evaluator(objective, [counter, x], [x]).along(0, np.arange(500), [1.0, 2.0])
    assert np.array_equal(found, np.tile([40.0, 80.0], (500, 1)))


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_the_measured_noise_is_that_of_rounding(rng, offset):
    """A sum near 1 whose terms pass through `offset`: rounding of half a unit at that size.

    The offset is a variable, since TensorFlow's graph optimizer cancels a constant.
    """
    offset = tf.Variable(offset, dtype=tf.float64, trainable=False)
    x = tf.Variable(rng.uniform(0.5, 1.0, 100))

    def objective():
        return tf.reduce_sum(((x + offset) - offset) / 100.0) + 1.0

    noise = Evaluator(objective, [offset, x], [x]).noise()
    # Uniform rounding of the terms, and of the result: deviations of unit / sqrt(12).
    unit = np.spacing(max(float(offset), 1.0))
    expected = np.hypot(unit * np.sqrt(100.0) / 100.0, np.spacing(1.0)) / np.sqrt(12.0)
    assert expected / 3.0 < noise < 3.0 * expected
