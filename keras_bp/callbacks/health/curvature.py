"""Checks of batch size and learning rate against the gradient's noise and the loss's curvature."""

import dataclasses
import math

import numpy as np

from keras_bp.callbacks.health._check import Check, Symptom, Update
from keras_bp.recording import Curvature


@dataclasses.dataclass(frozen=True)
class BatchSize(Check):
    """The batch is far below or far above the gradient noise scale.

    At the noise scale the noise of a batch's gradient is as large as the gradient. A batch that is
    `ratio` times smaller than the lower end of the noise scale's 95 % interval, or larger than
    `ratio` times its upper end, is a symptom: a far smaller batch makes steps that are mostly
    noise, and a larger one would need fewer of them; in a far larger one most examples are wasted.

    The noise scale grows as a training goes on: near a minimum the gradient is all noise, and with
    a falling learning rate a small batch is as good there. Noise may help to generalize, too. So
    healthy trainings show the first symptom too, more often the longer they last; it says what a
    larger batch would save, not that something is broken.

    Args:
        ratio: number above 0. Defaults to 10.
        updates: integer of 1 or more, consecutive measurements. Defaults to 3.
        every: integer of 1 or more, update steps between two measurements. Defaults to 50.

    References:
        McCandlish et al., 2018, "An empirical model of large-batch training".
    """

    name = "batch_size"
    advice = (
        "Most of a step is noise: a larger batch, or gradient_accumulation_steps, would need fewer "
        "steps, up to about the noise scale; or let the learning rate fall."
    )

    ratio: float = 10.0
    updates: int = 3
    every: int = 50

    def suspects(self, updates: Update) -> np.ndarray | None:
        """Tell of all of several updates whether the noise scale was measured."""
        return _all_where(updates, "noise")

    def in_update(self, update: Update) -> list[Symptom] | None:
        """Return the symptom of the model."""
        measured = _measured(update)
        if measured is None or measured.noise is None or math.isnan(measured.noise.low):
            return None
        size, (scale, low, high, *_) = measured.examples, measured.noise
        about = f"a batch has {size} examples, the gradient noise scale is {{}} ({low:.3g} to {{}})"
        about = about.format(
            *(f"{n:.3g}" if n < math.inf else "not bounded" for n in (scale, high))
        )
        if size * self.ratio < low:
            return [Symptom(None, scale / size, self.ratio, about)]
        if size > high * self.ratio:
            advice = (
                f"A batch of some {max(round(high), 1)} examples would need hardly more steps, of "
                "less work each; or raise the learning rate."
            )
            return [Symptom(None, size / scale if scale else math.inf, self.ratio, about, advice)]
        return []


@dataclasses.dataclass(frozen=True)
class EdgeOfStability(Check):
    """The learning rate is at the critical one or above: an update raises its own batch's loss.

    The critical rate is that at which the loss along the update, whatever the optimizer makes of
    it, is back at its value before. For plain gradient descent that is at least 2 / sharpness, the
    edge of stability; for momentum and Adam the edge is elsewhere, but an update that raises the
    loss of the batch that it was made from is too large for any of them.

    Gradient descent on a whole data set goes up to the edge by itself and stays near it, while the
    loss still falls over many steps: so do healthy trainings with large batches, and they reach
    `share` now and then. Measurements in which no rate lowers the loss, which happens with
    momentum, count as unknown.

    Args:
        share: number above 0, the rate over the critical rate. Defaults to 1.
        updates: integer of 1 or more, consecutive measurements. Defaults to 3.
        every: integer of 1 or more, update steps between two measurements. Defaults to 50.

    References:
        Cohen et al., 2021, "Gradient descent on neural networks typically occurs at the edge of
        stability"; Kalra et al., 2026, arXiv:2601.16979.
    """

    name = "edge_of_stability"
    advice = "Try a lower learning rate, a warm-up, or clipping (global_clipnorm=1.0)."

    share: float = 1.0
    updates: int = 3
    every: int = 50

    def suspects(self, updates: Update) -> np.ndarray | None:
        """Tell of all of several updates whether the critical rate was measured."""
        return _all_where(updates, "critical_rate")

    def in_update(self, update: Update) -> list[Symptom] | None:
        """Return the symptom of the model."""
        measured = _measured(update)
        critical = (measured and measured.critical_rate) or 0.0
        if measured is None or not critical > 0:
            return None
        share = measured.rate / critical
        if share < self.share:
            return []
        description = (
            f"the learning rate is {measured.rate:.3g}, {share:.3g} times the critical one: an "
            "update raises the loss of its own batch"
        )
        return [Symptom(None, share, self.share, description)]


def _all_where(updates, kind):
    """Return True for each of some updates, None if this was not measured at the last one."""
    if getattr(updates.curvature, kind, None) is None:
        return None
    return np.ones(len(updates.loss), bool)


def _measured(update: Update) -> Curvature | None:
    """Return what was measured at an update, None for another one of the same call."""
    measured = update.curvature
    return measured if measured is not None and measured.step == update.step else None
