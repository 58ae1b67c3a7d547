"""The comparison is fair, and shows what was measured."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.visualization import OptimizerComparison, compare_optimizers

X = np.random.default_rng(0).normal(size=(40, 3))
Y = (X[:, 0] > 0).astype("int64")
LOSS = "sparse_categorical_crossentropy"


def _make_model(x, y):
    return keras.Sequential(
        [
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(int(y.max()) + 1, activation="softmax"),
        ]
    )


def _compare(optimizers, datasets=None, **options):
    options = {"epochs": 2, "batch_size": 8, "seeds": (0, 1)} | options
    return compare_optimizers(
        _make_model, optimizers, datasets or {"sign": (X, Y)}, LOSS, **options
    )


@pytest.fixture
def eager(monkeypatch):
    """Let models run eagerly, which takes less than to trace steps so few."""
    compiled = functools.partialmethod(keras.Model.compile, run_eagerly=True)
    monkeypatch.setattr(keras.Model, "compile", compiled)


class DrawsAtRandom(keras.optimizers.SGD):
    """SGD that takes numbers from the global generators before the training."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        np.random.normal(size=3)
        keras.random.normal((3,))
        tf.random.normal((3,))


def test_start_and_batches_are_the_same_for_all(eager, capsys):
    """They depend on the seed alone, and every run is timed."""
    first = {"first": lambda: keras.optimizers.SGD(0.1)}
    other = {"draws": lambda: DrawsAtRandom(0.1)}
    both = _compare(first | other, seeds=[3, 5], batch_size=20, verbose=1)
    assert "4/4" in capsys.readouterr().out  # trainings
    one = _compare({"other": lambda: keras.optimizers.SGD(0.3)} | first, seeds=[5], batch_size=20)
    assert both.seeds == (3, 5)
    losses, losses_of_5 = both.losses["sign"], one.losses["sign"]
    assert losses["first"].shape == (2, 2)
    np.testing.assert_array_equal(losses["draws"], losses["first"])
    np.testing.assert_array_equal(losses_of_5["first"][0], losses["first"][1])
    assert not np.allclose(losses_of_5["other"], losses_of_5["first"])
    assert not np.allclose(losses["first"][0], losses["first"][1])
    seconds = both.epoch_seconds["sign"]["first"]
    assert seconds.shape == (2, 2) and (seconds > 0).all()


def test_order_of_the_batches_differs_from_epoch_to_epoch(eager):
    # A rate of 0 and no dropout: an epoch's loss is the same up to rounding, whatever the order.
    seen = []

    class Watching(keras.losses.Loss):
        def call(self, y, prediction):
            seen.append(y.numpy().ravel().tolist())
            return keras.ops.mean(prediction, axis=-1)

    def make_model(x, y):
        return keras.Sequential([keras.layers.Dense(1)])

    y = np.arange(40.0)
    optimizers = dict.fromkeys("ab", lambda: keras.optimizers.SGD(0.0))
    compare_optimizers(
        make_model, optimizers, {"d": (X, y)}, Watching(), epochs=2, batch_size=8, seeds=[0]
    )
    # Of each run 5 batches, 5 batches, and evaluate's 2.
    assert len(seen) == 24
    first, second, again = seen[:5], seen[5:10], seen[12:17]
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == y.tolist()
    assert first == again and first != second and sum(first, []) != y.tolist()


def test_accuracy_is_that_of_the_test_data(eager):
    def make_model(x, y):
        identity = keras.initializers.Identity()
        return keras.Sequential(
            [keras.layers.Dense(2, "softmax", kernel_initializer=identity, use_bias=False)]
        )

    x = np.eye(2)[[0, 0, 1, 1]]
    right, wrong = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])
    comparison = compare_optimizers(
        make_model,
        {"still": lambda: keras.optimizers.SGD(0.0)},
        {"trained": (x, right), "tested": (x, right, x, wrong)},
        LOSS,
        epochs=1,
        seeds=[0],
    )
    assert comparison.accuracies["trained"]["still"].tolist() == [1.0]
    assert comparison.accuracies["tested"]["still"].tolist() == [0.25]


@pytest.fixture
def comparison():
    """Two data sets, two optimizers, three seeds, two epochs, made up."""

    def arrays(scale, columns):
        values = scale * np.array([[1.0, 0.2], [2.0, 0.1], [4.0, 0.6]])
        return {"SGD": values[:, columns], "Adam": values[::-1, columns] / 2}

    both, last = slice(None), 1
    return OptimizerComparison(
        losses={"moons": arrays(1.0, both), "digits": arrays(3.0, both)},
        accuracies={"moons": arrays(1.0, last), "digits": arrays(0.5, last)},
        epoch_seconds={"moons": arrays(10.0, both), "digits": arrays(0.1, both)},
        seeds=(0, 1, 2),
    )


def test_seconds_leave_out_the_first_epoch(comparison):
    np.testing.assert_allclose(comparison.seconds("moons", "SGD"), [2.0, 1.0, 6.0])
    once = OptimizerComparison({}, {}, {"d": {"a": np.array([[3.0], [4.0]])}}, (0, 1))
    assert once.seconds("d", "a").tolist() == [3.0, 4.0]


def test_table(comparison):
    text = str(comparison)
    assert text.splitlines()[:4] == [
        "moons: 2 epochs, 3 seeds, median (least to greatest)",
        "                      loss                accuracy   seconds an epoch",
        "SGD    0.20 (0.10 to 0.60)  20.0% (10.0% to 60.0%)   2.0 (1.0 to 6.0)",
        "Adam  0.10 (0.050 to 0.30)   10.0% (5.0% to 30.0%)  1.0 (0.50 to 3.0)",
    ]
    assert text.splitlines()[4:6] == ["", "digits: 2 epochs, 3 seeds, median (least to greatest)"]
    assert repr(comparison) == "<OptimizerComparison SGD, Adam on moons, digits, 3 seeds>"


def test_plot(comparison):
    figure = comparison.plot()
    figure.canvas.draw()
    assert len(figure.axes) == 6
    losses, accuracies, seconds = figure.axes[:3]
    sgd, adam = losses.get_lines()
    np.testing.assert_allclose(sgd.get_xydata(), [[1, 2.0], [2, 0.2]])
    np.testing.assert_allclose(adam.get_xydata(), [[1, 1.0], [2, 0.1]])
    band = losses.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.1) and band[:, 1].max() == pytest.approx(4.0)
    assert [label.get_text() for label in accuracies.get_yticklabels()] == ["SGD", "Adam"]
    (whisker, _) = accuracies.collections
    np.testing.assert_allclose(whisker.get_segments()[0], [[10.0, 0], [60.0, 0]])
    assert [point.get_xdata().item() for point in accuracies.get_lines()] == [20.0, 10.0]
    np.testing.assert_allclose([p.get_xdata() for p in seconds.get_lines()], [[2000], [1000]])
    assert [text.get_text() for text in accuracies.texts] == ["20.0 %", "10.0 %"]
    assert [text.get_text() for text in seconds.texts] == ["2000 ms", "1000 ms"]


def test_a_loss_that_is_not_finite_is_drawn_as_a_gap(comparison):
    comparison.losses["moons"]["SGD"][:, 1] = np.nan
    comparison.plot().canvas.draw()
    assert "nan (nan to nan)" in str(comparison)


OPTIMIZERS = {"SGD": keras.optimizers.SGD}


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(make_model=3), TypeError, "`make_model` must be a callable.*Received: 3"),
        (dict(make_model=lambda x, y: 3), TypeError, "`make_model` must return a keras.Model.*3"),
        (dict(optimizers=[]), TypeError, "`optimizers` must be a mapping"),
        (dict(optimizers={}), ValueError, "`optimizers` must have one entry"),
        (dict(optimizers={"a": "sgd"}), TypeError, r"`optimizers\['a'\]` must be a callable.*sgd"),
        (dict(optimizers={"a": dict}), TypeError, r"`optimizers\['a'\]` must return .*\{\}"),
        (dict(datasets=[(X, Y)]), TypeError, "`datasets` must be a mapping"),
        (dict(datasets={}), ValueError, "`datasets` must have one entry"),
        (dict(datasets={"d": (X, Y, X)}), ValueError, r"`datasets\['d'\]` must be \(x, y\) or"),
        (dict(datasets={"d": X}), ValueError, r"`datasets\['d'\]` must be \(x, y\) or"),
        (dict(datasets={"d": (X, Y[:9])}), ValueError, r"`datasets\['d'\]` must have as many.*9"),
        (
            dict(datasets={"d": (X, Y, X[:0], Y[:0])}),
            ValueError,
            "as many targets as inputs, one or more",
        ),
        (dict(epochs=0), ValueError, "`epochs` must be an integer of 1"),
        (dict(batch_size=0), ValueError, "`batch_size` must be an integer of 1"),
        (dict(seeds=3), TypeError, "`seeds` must be a sequence.*seeds=3"),
        (dict(seeds=[]), ValueError, "`seeds` must be one or more different"),
        (dict(seeds=[1, 1]), ValueError, "`seeds` must be one or more different"),
        (dict(seeds=[0, -1]), ValueError, r"`seeds\[1\]` must be an integer of 0"),
        (dict(seeds=[0.5]), TypeError, r"`seeds\[0\]` must be an integer"),
    ],
)
def test_refusals(options, error, message):
    arguments = {
        "make_model": _make_model,
        "optimizers": OPTIMIZERS,
        "datasets": {"d": (X, Y)},
        "loss": LOSS,
    }
    with pytest.raises(error, match=message):
        compare_optimizers(**arguments | options)
