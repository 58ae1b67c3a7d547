"""The result of a learning rate range test, and the methods that suggest a rate from it."""

import base64
import dataclasses
import io
from typing import Any

import numpy as np

from keras_bp._arguments import check_choice
from keras_bp._html import table
from keras_bp._versions import require_matplotlib

_POINTS_LEFT_OUT_AT_THE_END = 5


# Both are fastai's numbers; the second is in units of loss per update step.
_SLIDE_WINDOW = 15
_SLIDE_THRESHOLD = 0.005


def _valley(learning_rates, losses):
    """Return the rate in the middle of the longest decline.

    It is the longest run of update steps, not necessarily neighbours, with strictly falling losses:
    it ends at its last member, and begins as many steps earlier as it has members.
    """
    lengths = np.ones(len(losses), int)
    for i in range(1, len(losses)):
        higher = lengths[:i][losses[:i] > losses[i]]
        lengths[i] = 1 + higher.max(initial=0)
    end = int(np.argmax(lengths))
    length = int(lengths[end])
    # A third and half a third, each rounded down, as in the published rule.
    return learning_rates[max(end - length + length // 3 + length // 6, 0)]


def _slide(learning_rates, losses):
    """Return the rate at which the loss begins to bend, seen from the right.

    A window slides from the end of the curve to the left while the slopes at its two ends differ;
    where they agree the curve is straight, and the final rise is outside the window.
    """
    slopes = np.gradient(losses)
    differences = np.abs(slopes[_SLIDE_WINDOW:] - slopes[:-_SLIDE_WINDOW])
    straight = np.flatnonzero(differences <= _SLIDE_THRESHOLD)
    left = straight[-1] + 1 if len(straight) else 0
    return learning_rates[min(left, len(differences) - 1)]


def _steep(learning_rates, losses):
    """Return the rate at which the loss falls fastest against the logarithm of the rate."""
    return learning_rates[np.argmin(np.diff(losses) / np.diff(np.log(learning_rates)))]


def _minimum(learning_rates, losses):
    """Return a tenth of the rate at which the loss is lowest."""
    return learning_rates[np.argmin(losses)] / 10.0


# Each method with the least number of points that it needs.
_METHODS = {
    "valley": (_valley, 5),
    "slide": (_slide, _SLIDE_WINDOW + 1),
    "steep": (_steep, 5),
    "minimum": (_minimum, 5),
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LearningRateCurve:
    """The loss against the learning rate, as `find_learning_rate` returns it.

    A notebook shows the picture that `plot` draws, and the suggestions.

    Attributes:
        learning_rates: float64 array, the rate of each update step, rising.
        losses: float64 array of the same length, the true loss of each update step's batch, before
            the update. All are finite: any other loss ends the sweep and is left out.
        smoothed_losses: float64 array of the same length, the losses' average with exponentially
            falling weights.
        steps: integer, the update steps that were planned.
        stop_reason: string, why the sweep ended: `"completed"`, `"loss diverged"` (its point is
            the last of the curve), `"loss not finite"` (its point is left out) or
            `"data ran out"` (a generator had no more batches).

    Example:
        >>> import numpy as np
        >>> rates = np.geomspace(1e-7, 10.0, 100)
        >>> losses = 1.0 + np.log10(rates / 1e-2) ** 2
        >>> curve = keras_bp.tuning.LearningRateCurve(rates, losses, losses, 100, "completed")
        >>> round(curve.suggest("minimum"), 4)
        0.001
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smoothed_losses: np.ndarray
    steps: int
    stop_reason: str

    def suggest(self, method: str = "valley") -> float:
        r"""Suggest a learning rate from the smoothed curve.

        Every method leaves out the first tenth of the planned steps, where the average rests on few
        losses, and the last five points, which belong to the divergence (as fastai does).

        - `"valley"`: the middle of the longest decline, the longest series of update steps, not
          necessarily neighbours, with falling losses. It depends neither on the loss's units nor
          on how far the loss rises in the end.
        - `"slide"`: from the right, the rate at which two slopes fifteen update steps apart first
          agree within 0.005 per step: a little before the loss begins to rise. It is meant for
          losses of the order of 1.
        - `"steep"`: where $\Delta \bar L / \Delta \ln \alpha$ is least, the left end of that step.
        - `"minimum"`: a tenth of the rate at the lowest loss.

        Args:
            method: string, one of the four. Defaults to `"valley"`.

        Raises:
            ValueError: if the method is unknown, if the curve is too short for it, or if the loss
                never falls.
        """
        function, least = _METHODS[check_choice("method", method, tuple(_METHODS))]
        first = self.steps // 10
        kept = slice(first, max(len(self.losses) - _POINTS_LEFT_OUT_AT_THE_END, first))
        rates, losses = self.learning_rates[kept], self.smoothed_losses[kept]
        if len(losses) < least:
            raise ValueError(
                f"`method` must suit the curve's length: {method!r} needs at least {least} points "
                f"after the first {first} and before the last {_POINTS_LEFT_OUT_AT_THE_END}. Sweep "
                "with more steps, or from a smaller min_learning_rate. Received: a curve of "
                f"{len(self.losses)} points, {self.stop_reason}"
            )
        if not (np.diff(losses) < 0.0).any():
            raise ValueError(
                "`suggest` needs a curve that falls somewhere, but the model learned at none of "
                "the rates. Sweep from a smaller min_learning_rate to a larger "
                f"max_learning_rate. Received: smoothed losses from {losses[0]:.4g} to "
                f"{losses[-1]:.4g} that nowhere fall"
            )
        return float(function(rates, losses))

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses and their average against the learning rate, suggestions marked.

        Args:
            ax: a Matplotlib `Axes` to draw into; a new figure's if `None`, the default.

        Raises:
            ImportError: if Matplotlib is not installed.
        """
        if ax is None:
            require_matplotlib("LearningRateCurve.plot")
            from matplotlib import pyplot

            _, ax = pyplot.subplots(layout="constrained")
        faint = {"color": "tab:gray", "alpha": 0.5, "linewidth": 0.8}
        ax.plot(self.learning_rates, self.losses, label="loss of each batch", **faint)
        ax.plot(self.learning_rates, self.smoothed_losses, color="black", label="average")
        markers = dict(zip(_METHODS, ("o", "s", "^", "D"), strict=True))
        colors = dict(
            zip(_METHODS, ("tab:red", "tab:orange", "tab:blue", "tab:green"), strict=True)
        )
        for method, rate in self._suggestions().items():
            height = np.interp(np.log(rate), np.log(self.learning_rates), self.smoothed_losses)
            style = {"markersize": 8, "markeredgecolor": "white", "linestyle": "none", "zorder": 3}
            style |= {"color": colors[method], "marker": markers[method]}
            ax.plot(rate, height, label=f"{method}: {rate:.1e}", **style)
        # A diverging loss would compress the rest to a flat line.
        low, start = min(self.losses), max(self.smoothed_losses[: self.steps // 10 + 1])
        margin = 0.1 * (start - low) or 0.1 * abs(start) or 0.1
        ax.set_ylim(low - margin, start + 4.0 * margin)
        ax.set(xscale="log", xlabel="learning rate", ylabel="loss")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.2)
        ax.legend(frameon=False, loc="lower left")
        return ax

    def _repr_html_(self) -> str:
        rows = [(method, f"{rate:.3e}") for method, rate in self._suggestions().items()]
        steps = f"{len(self.losses)} of {self.steps} steps, {self.stop_reason}"
        return self._picture() + table(f"Range test: {steps}", ("method", "suggestion"), rows)

    def _picture(self):
        """Return the picture as HTML, nothing without Matplotlib or points."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return ""
        if not len(self.losses):
            return ""
        # Not pyplot's, which a notebook would show a second time.
        figure, file = Figure(layout="constrained"), io.BytesIO()
        self.plot(figure.subplots())
        figure.savefig(file, format="png")
        data = base64.b64encode(file.getvalue()).decode()
        return f'<img alt="loss by learning rate" src="data:image/png;base64,{data}">\n'

    def __repr__(self) -> str:
        facts = [f"{len(self.losses)} of {self.steps} steps", self.stop_reason]
        if len(self.losses):
            span = f"{self.learning_rates[0]:.1e} to {self.learning_rates[-1]:.1e}"
            facts.insert(1, f"learning rate {span}")
        facts += [f"{method} {rate:.1e}" for method, rate in self._suggestions().items()]
        return f"<LearningRateCurve {', '.join(facts)}>"

    def _suggestions(self):
        """Return the suggestion of each method that has one."""
        rates = {}
        for method in _METHODS:
            try:
                rates[method] = self.suggest(method)
            except ValueError:
                continue
        return rates
