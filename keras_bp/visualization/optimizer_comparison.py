"""What a comparison of optimizers measured."""

import dataclasses

import numpy as np

from keras_bp.visualization._figure import logarithmic, new_figure, tidy
from keras_bp.visualization._styles import line_styles


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OptimizerComparison:
    """Losses, accuracies and times, as `compare_optimizers` returns them; `str()` is a table.

    The first three attributes are dictionaries of dictionaries: a data set's name -> an
    optimizer's name -> float64 array, the first axis of which are the seeds.

    Attributes:
        losses: arrays of shape `(seeds, epochs)`, the mean training loss of each epoch.
        accuracies: arrays of shape `(seeds,)`, on the test data after the last epoch, in [0, 1].
        epoch_seconds: arrays of shape `(seeds, epochs)`, the time of each epoch in seconds. The
            first one's includes the tracing of the train function.
        seeds: tuple of integers.

    Example:
        >>> from keras_bp.visualization import OptimizerComparison
        >>> comparison = OptimizerComparison(
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

    losses: dict
    accuracies: dict
    epoch_seconds: dict
    seeds: tuple

    def seconds(self, dataset, optimizer):
        """Return the time of an epoch for each seed, in seconds, without the tracing.

        Args:
            dataset: string.
            optimizer: string.

        Returns:
            float64 array of shape `(seeds,)`: the median over the epochs after the first, or the
            first one's where there is no other.
        """
        epochs = self.epoch_seconds[dataset][optimizer]
        return np.median(epochs[:, 1:] if epochs.shape[1] > 1 else epochs, axis=1)

    def plot(self):
        """Draw a row a data set: the losses, the accuracies and the times.

        Lines and bars are medians over the seeds, bands and whiskers reach from the least to the
        greatest.

        Returns:
            A Matplotlib `Figure`.

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
        figure.legend(handles=lines, loc="outside lower center", ncols=6, frameon=False)
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
        """Draw a row an optimizer: the median as a point, the range as a line."""
        styles = line_styles(names)
        for row, (name, of_one) in enumerate(zip(names, values, strict=True)):
            color = styles[name]["color"]
            ax.hlines(row, of_one.min(), of_one.max(), color=color, linewidth=2.5, alpha=0.5)
            median = np.median(of_one)
            ax.plot(median, row, "o", color=color)
            ax.annotate(
                form.format(median),
                (median, row),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.7)
        ax.margins(x=0.12)

    def _seeds(self):
        return f"{len(self.seeds)} seed" + "s" * (len(self.seeds) > 1)

    def __repr__(self):
        optimizers = list(next(iter(self.losses.values())))
        return (
            f"<OptimizerComparison {', '.join(optimizers)} on {', '.join(self.losses)}, "
            f"{self._seeds()}>"
        )

    def __str__(self):
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
