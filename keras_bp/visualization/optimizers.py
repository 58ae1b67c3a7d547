"""Optimizers side by side on several data sets."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_callable, check_integer, check_mapping, check_verbose
from keras_bp._types import Array
from keras_bp.visualization._figure import line_styles, logarithmic, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare_optimizers(
    make_model: Callable[[Array, Array], keras.Model],
    optimizers: Mapping[str, Callable[[], keras.optimizers.Optimizer]],
    datasets: Mapping[str, Sequence[Array]],
    loss: Any,
    *,
    epochs: int = 20,
    batch_size: int = 32,
    seeds: Sequence[int] = (0, 1, 2),
    verbose: int | str = 0,
) -> "OptimizerComparison":
    """Train the same networks with several optimizers on several data sets, and compare.

    For a seed, all optimizers start from the same weights, see the same batches in the same order
    (a new one in each epoch), and get the same dropout: `keras.utils.set_random_seed` is called
    with it before each model is made.

    The result depends on each optimizer's learning rate as much as on its rule: tune the rates
    before drawing conclusions.

    Args:
        make_model: callable `(x, y)` that returns a new `keras.Model`, not compiled; x and y are a
            data set's training arrays, for the sizes of its first and last layer.
        optimizers: mapping, a name -> a callable without arguments that returns a new optimizer,
            Keras's or this package's.
        datasets: mapping, a name -> `(x, y)` or `(x, y, x_test, y_test)`, arrays. Without test
            arrays, the accuracy is that on the training data.
        loss: as for `compile`. The accuracy is Keras's metric `"accuracy"`, for which a model of
            one output unit must give a probability, not a logit.
        epochs: integer of 1 or more. Defaults to 20.
        batch_size: integer of 1 or more. Defaults to 32.
        seeds: sequence of one or more different integers of 0 or more. Defaults to (0, 1, 2).
        verbose: 1 or `"auto"` for Keras's progress bar over the trainings, 2 for one line at the
            end, 0, the default, for nothing.

    Returns:
        An `OptimizerComparison`: the numbers, a table as its string, and `plot()`.

    Raises:
        TypeError: if an argument is of another type, or a callable returns something else.
        ValueError: if a number is out of its range, a mapping is empty, a data set is not two or
            four arrays, or a seed comes twice.

    Example:
        >>> def make_model(x, y):
        ...     return keras.Sequential([keras.layers.Dense(1, activation="sigmoid")])
        >>> x = np.linspace(-1.0, 1.0, 64).reshape(-1, 1)
        >>> comparison = keras_bp.visualization.compare_optimizers(
        ...     make_model,
        ...     {"SGD": lambda: keras_bp.optimizers.SGD(0.5), "Adam": keras_bp.optimizers.Adam},
        ...     {"sign": (x, x > 0)},
        ...     keras_bp.losses.BinaryCrossentropy(),
        ...     epochs=2,
        ...     seeds=[0],
        ... )
        >>> comparison.losses["sign"]["Adam"].shape
        (1, 2)
        >>> comparison.accuracies["sign"]["SGD"].shape
        (1,)

    References:
        Choi et al., 2019, "On empirical comparisons of optimizers for deep learning": the ranking
        follows from how the rates were tuned.
    """
    epochs = check_integer("epochs", epochs, 1)
    batch_size = check_integer("batch_size", batch_size, 1)
    checked_seeds = _check_seeds(seeds)
    verbose = check_verbose("verbose", verbose)
    check_callable("make_model", make_model)
    for name, make in check_mapping("optimizers", optimizers).items():
        check_callable(f"optimizers[{name!r}]", make)
    datasets = {
        name: _check_arrays(f"datasets[{name!r}]", arrays)
        for name, arrays in check_mapping("datasets", datasets).items()
    }

    results = {}
    trainings = len(datasets) * len(checked_seeds) * len(optimizers)
    bar = keras.utils.Progbar(trainings, verbose=verbose, unit_name="training")
    for dataset, arrays in datasets.items():
        # Seeds in the outer loop: disturbances of the machine spread over all optimizers.
        runs: dict[str, list] = {name: [] for name in optimizers}
        for seed in checked_seeds:
            for name, make in optimizers.items():
                run = _train(make_model, (name, make), arrays, loss, epochs, batch_size, seed)
                runs[name].append(run)
                bar.add(1)
        results[dataset] = {
            name: [np.asarray(values, dtype=np.float64) for values in zip(*seeds, strict=True)]
            for name, seeds in runs.items()
        }

    def part(k):
        return {
            dataset: {name: arrays[k] for name, arrays in by_name.items()}
            for dataset, by_name in results.items()
        }

    return OptimizerComparison(
        losses=part(0), accuracies=part(1), epoch_seconds=part(2), seeds=checked_seeds
    )


def _train(make_model, named_optimizer, arrays, loss, epochs, batch_size, seed):
    """Return one run's losses of each epoch, accuracy, and seconds of each epoch."""
    name, make = named_optimizer
    x, y, x_test, y_test = arrays
    keras.utils.set_random_seed(seed)
    model = make_model(x, y)
    if not isinstance(model, keras.Model):
        raise TypeError(f"`make_model` must return a keras.Model. Received: {model!r}")
    # Built here, so that the weights do not depend on what an optimizer's constructor draws.
    if not model.built:
        model.build((None, *x.shape[1:]))
    optimizer = make()
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"`optimizers[{name!r}]` must return a keras.optimizers.Optimizer. "
            f"Received: {optimizer!r}"
        )
    model.compile(optimizer, loss, metrics=["accuracy"])
    clock = _Clock()
    batches = shuffled_batches(x, y, batch_size, seed)
    history = model.fit(batches, epochs=epochs, shuffle=False, callbacks=[clock], verbose=0).history
    accuracy = model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    return history["loss"], accuracy, clock.seconds


class _Clock(keras.callbacks.Callback):
    """Measures how long each epoch takes."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._start)


def _check_seeds(seeds):
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise TypeError(f"`seeds` must be a sequence of integers. Received: seeds={seeds!r}")
    checked = tuple(check_integer(f"seeds[{i}]", seed, 0) for i, seed in enumerate(seeds))
    if not checked or len(set(checked)) < len(checked):
        raise ValueError(
            f"`seeds` must be one or more different integers. Received: seeds={seeds!r}"
        )
    return checked


def _check_arrays(name, arrays):
    """Return (x, y, x_test, y_test), with the training arrays in place of missing test arrays."""
    if not isinstance(arrays, (tuple, list)) or len(arrays) not in (2, 4):
        raise ValueError(f"`{name}` must be (x, y) or (x, y, x_test, y_test). Received: {arrays!r}")
    arrays = [np.asarray(array) for array in arrays]
    for x, y in (arrays[:2], arrays[-2:]):
        if not len(x) or len(x) != len(y):
            raise ValueError(
                f"`{name}` must have as many targets as inputs, one or more. "
                f"Received: shapes {[array.shape for array in arrays]}"
            )
    return *arrays[:2], *arrays[-2:]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OptimizerComparison:
    """Losses, accuracies and times, as `compare_optimizers` returns them; `str()` is a table.

    The first three attributes are dictionaries of dictionaries: a data set's name -> an
    optimizer's name -> float64 array, with the seeds on its first axis.

    Attributes:
        losses: arrays of shape `(seeds, epochs)`, the mean training loss of each epoch.
        accuracies: arrays of shape `(seeds,)`, on the test data after the last epoch, in [0, 1].
        epoch_seconds: arrays of shape `(seeds, epochs)`, the time of each epoch in seconds. The
            first one's includes the tracing of the train function.
        seeds: tuple of integers.

    Example:
        >>> comparison = keras_bp.visualization.OptimizerComparison(
        ...     losses={"moons": {"Adam": np.array([[0.7, 0.4], [0.7, 0.3]])}},
        ...     accuracies={"moons": {"Adam": np.array([0.9, 0.95])}},
        ...     epoch_seconds={"moons": {"Adam": np.array([[0.9, 0.1], [0.8, 0.1]])}},
        ...     seeds=(0, 1),
        ... )
        >>> print(comparison)
        moons: 2 epochs, 2 seeds, median (least to greatest)
                            loss                 accuracy       seconds an epoch
        Adam  0.35 (0.30 to 0.40)  92.5% (90.0% to 95.0%)  0.10 (0.10 to 0.10)
    """

    losses: dict[str, dict[str, np.ndarray]]
    accuracies: dict[str, dict[str, np.ndarray]]
    epoch_seconds: dict[str, dict[str, np.ndarray]]
    seeds: tuple[int, ...]

    def seconds(self, dataset: str, optimizer: str) -> np.ndarray:
        """Return the time of an epoch for each seed, in seconds, without the tracing.

        Args:
            dataset: string.
            optimizer: string.

        Returns:
            float64 array of shape `(seeds,)`: the median over the epochs after the first, or the
            first one's if there is no other.
        """
        epochs = self.epoch_seconds[dataset][optimizer]
        return np.median(epochs[:, 1:] if epochs.shape[1] > 1 else epochs, axis=1)

    def plot(self) -> "Figure":
        """Draw one row per data set: the losses, the accuracies and the times.

        Lines and bars are medians over the seeds, bands and whiskers reach from the least to the
        greatest.

        Raises:
            ImportError: if Matplotlib is not installed.
        """
        rows = len(self.losses)
        figure = new_figure("OptimizerComparison.plot", (12.5, 0.8 + 3.1 * rows))
        grid = figure.subplots(rows, 3, squeeze=False, width_ratios=[2, 1, 1])
        for dataset, axes in zip(self.losses, grid, strict=True):
            self._draw_losses(axes[0], dataset)
            names = list(self.losses[dataset])
            accuracies = [100 * self.accuracies[dataset][name] for name in names]
            self._draw_spread(axes[1], names, accuracies, "{:.1f} %")
            seconds = [1000 * self.seconds(dataset, name) for name in names]
            self._draw_spread(axes[2], names, seconds, "{:.0f} ms")
            axes[2].set(xlim=(0, None), yticklabels=[])
            for ax in axes:
                tidy(ax)
        grid[0, 1].set_title("Final accuracy")
        grid[0, 2].set_title("Time of an epoch")
        grid[-1, 0].set_xlabel("epochs")
        lines = grid[0, 0].get_lines()
        figure.legend(handles=lines, loc="outside lower center", ncols=7, frameon=False)
        figure.suptitle(
            f"Medians over {self._seeds()}; bands and whiskers reach from least to greatest"
        )
        return figure

    def _draw_losses(self, ax, dataset):
        styles = line_styles(self.losses[dataset])
        for name, losses in self.losses[dataset].items():
            epochs = np.arange(1, losses.shape[1] + 1)
            ax.plot(epochs, np.median(losses, axis=0), label=name, **styles[name])
            color = styles[name]["color"]
            ax.fill_between(epochs, losses.min(0), losses.max(0), color=color, alpha=0.15, lw=0)
        ax.set_title(f"{dataset}: training loss")
        logarithmic(ax)

    def _draw_spread(self, ax, names, values, form):
        """Draw one row per optimizer: the median as a point, the range as a line."""
        styles = line_styles(names)
        for row, (name, of_seeds) in enumerate(zip(names, values, strict=True)):
            color = styles[name]["color"]
            ax.hlines(row, of_seeds.min(), of_seeds.max(), color=color, linewidth=2.5, alpha=0.5)
            median = np.median(of_seeds)
            ax.plot(median, row, "o", color=color)
            style = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
            ax.annotate(form.format(median), (median, row), (0, 6), **style)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.7)
        ax.margins(x=0.12)

    def _seeds(self):
        return f"{len(self.seeds)} seed" + "s" * (len(self.seeds) > 1)

    def __repr__(self) -> str:
        optimizers = list(next(iter(self.losses.values())))
        return (
            f"<OptimizerComparison {', '.join(optimizers)} on {', '.join(self.losses)}, "
            f"{self._seeds()}>"
        )

    def __str__(self) -> str:
        return "\n\n".join(self._table(dataset) for dataset in self.losses)

    def _table(self, dataset):
        rows = [("", "loss", "accuracy", "seconds an epoch")]
        for name, losses in self.losses[dataset].items():
            accuracies, seconds = self.accuracies[dataset][name], self.seconds(dataset, name)
            cells = [
                _spread(losses[:, -1], "{:#.2g}"),
                _spread(accuracies, "{:.1%}"),
                _spread(seconds, "{:#.2g}"),
            ]
            rows.append((name, *cells))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
            for name, *cells in rows
        ]
        epochs = losses.shape[1]
        head = f"{dataset}: {epochs} epochs, {self._seeds()}, median (least to greatest)"
        return "\n".join([head, *lines])


def _spread(values, form):
    median, least, greatest = np.median(values), np.min(values), np.max(values)
    return f"{form.format(median)} ({form.format(least)} to {form.format(greatest)})"


def shuffled_batches(x, y, batch_size, seed):
    """Return a `tf.data.Dataset` of batches, reshuffled for each epoch.

    `fit` shuffles arrays too, but once a global seed is set (seen with Keras 3.15) into the same
    order for every epoch: then the same examples always share a batch.

    Args:
        x: array of shape `(examples, ...)`.
        y: array of shape `(examples, ...)`.
        batch_size: integer.
        seed: integer. Two datasets of the same seed give the same batches.
    """
    # As `fit` does with arrays.
    x, y = (a.astype(keras.config.floatx()) if a.dtype.kind == "f" else a for a in (x, y))
    data = tf.data.Dataset.from_tensor_slices((x, y))
    data = data.shuffle(len(x), seed=seed, reshuffle_each_iteration=True)
    return data.batch(batch_size).prefetch(1)
