"""Turns what checks see in single updates into findings."""

import collections

import numpy as np

from keras_bp.callbacks.health._check import Check, Epochs, Finding
from keras_bp.callbacks.health.curvature import BatchSize, EdgeOfStability
from keras_bp.callbacks.health.gradients import Exploding, NotFinite, Vanishing
from keras_bp.callbacks.health.losses import LossNotFalling, Overfitting
from keras_bp.callbacks.health.outputs import DeadUnits, PoorInitialization, Saturation
from keras_bp.callbacks.health.updates import UnchangedWeights, UpdateRatio

_CLASSES = (
    NotFinite,
    Exploding,
    Vanishing,
    DeadUnits,
    Saturation,
    UpdateRatio,
    UnchangedWeights,
    PoorInitialization,
    LossNotFalling,
    Overfitting,
)
# Those that take passes of their own, and are applied only where they are asked for.
_MEASURING = BatchSize, EdgeOfStability
_CHECKS = {check.name: check for check in (*_CLASSES, *_MEASURING)}

_LOSSES, _START, _FEW, _NORMS = 20, 10, 5, 10


def select_checks(checks):
    """Return a list of checks from a list of checks and names; for None, those that cost little."""
    expected = (
        f"`checks` must be a list of checks or of their names, {', '.join(_CHECKS)}, or None."
    )
    if checks is None:
        return [check() for check in _CLASSES]
    if not isinstance(checks, list | tuple):
        raise TypeError(f"{expected} Received: checks={checks!r}")
    checked = []
    for check in checks:
        if isinstance(check, str) and check not in _CHECKS:
            raise ValueError(f"{expected} Received: {check!r}")
        check = _CHECKS[check]() if isinstance(check, str) else check
        if not isinstance(check, Check):
            raise TypeError(f"{expected} Received: {check!r}")
        checked.append(check)
    if len({check.name for check in checked}) < max(1, len(checked)):
        raise ValueError(f"{expected} It must hold each check once. Received: checks={checks!r}")
    return checked


class HealthWatch:
    """Applies checks to each update and epoch, and counts how long a symptom lasts.

    Args:
        checks: list of checks.

    Attributes:
        findings: list of `Finding`, one for each check and layer at most, in order.
        course: the `TrainingCourse`.
    """

    def __init__(self, checks):
        self.findings = []
        self.course = TrainingCourse()
        self._checks = checks
        self._lasting = {check.name: {} for check in checks}

    def see_updates(self, updates):
        """Return the new findings after some updates, given as one `Update`, in a list."""
        suspected = {check.name: check.suspects(updates) for check in self._checks}
        suspected = {name: rows for name, rows in suspected.items() if rows is not None}
        any_suspected = np.any([np.zeros(len(updates.loss), bool), *suspected.values()], axis=0)
        found = []
        for row in range(len(updates.loss)):
            update = updates.row(row)
            if any_suspected[row]:
                update = self.course.known_of(update)
            self.course.add(update)
            # After the first NaN or infinity there is nothing more to find.
            if any(finding.check == "not_finite" for finding in self.findings):
                continue
            if any_suspected[row]:
                found += self._see(update)
            elif update.finite:
                self._lasting.update({name: {} for name in suspected})
        return found

    def _see(self, update):
        """Return the new findings after an `Update`, a list."""
        new = []
        for check in self._checks:
            # No other check can judge NaN.
            if not update.finite and check.name != "not_finite":
                continue
            symptoms = check.in_update(update)
            if symptoms is None:
                continue
            before = self._lasting[check.name]
            lasting = {symptom.layer: before.get(symptom.layer, 0) + 1 for symptom in symptoms}
            self._lasting[check.name] = lasting
            for symptom in symptoms:
                if symptom.at_once or lasting[symptom.layer] >= check.updates:
                    new += self._find(check, symptom, update.step)
        return new

    def see_epoch(self, logs, step):
        """Return the new findings after an epoch, a list."""
        course = self.course
        course.add_epoch(logs)
        # NaN where the train step does not show the loss.
        start = course.losses[0] if np.isnan(course.start) else course.start
        epochs = Epochs(start, course.losses, course.validated)
        seen = [(check, symptom) for check in self._checks for symptom in check.in_epochs(epochs)]
        return [finding for pair in seen for finding in self._find(*pair, step)]

    def _find(self, check, symptom, step):
        """Return the finding in a list, or an empty list if it is known."""
        if any((f.check, f.layer) == (check.name, symptom.layer) for f in self.findings):
            return []
        advice = symptom.advice or check.advice
        value, threshold = float(symptom.value), float(symptom.threshold)
        about = symptom.layer, int(step), value, threshold, symptom.description, advice
        self.findings.append(Finding(check.name, *about))
        return self.findings[-1:]


class TrainingCourse:
    """Loss and gradients at the start of a training, and the loss now.

    Attributes:
        updates: the number of updates seen.
        start: the mean loss of the first ten batches, or of fewer if there were fewer; NaN if there
            was no batch or the train step does not show the loss.
        replaced: whether an update of a layer was larger than its weights.
        masked: set, the layers whose outputs held NaN or infinity in a healthy update.
        losses: list of the epochs' training losses.
        validated: list of pairs of training and validation loss, for the epochs that have both.
    """

    def __init__(self):
        self.updates = 0
        self.start = np.nan
        self.replaced = False
        self.masked = set()
        self.losses, self.validated = [], []
        self._first_losses, self._last_losses = [], collections.deque(maxlen=_LOSSES)
        self._finite_losses = 0
        self._first_norms = []

    def add(self, update):
        """Add an `Update`, before the checks see it."""
        self.updates += 1
        if len(self._first_norms) < _NORMS:
            norm = np.sqrt(np.sum(np.square(update.norms)))
            self._first_norms += [norm] * bool(np.isfinite(norm))
        if update.ratios is not None:
            self.replaced |= bool((update.ratios > 1).any())
        if not np.isfinite(update.loss):
            return
        if np.isfinite(update.norms).all():
            not_finite = np.flatnonzero(update.statistics["not_finite"] > 0)
            self.masked.update(update.order.outputs[i] for i in not_finite)
        self._finite_losses += 1
        self._last_losses.append(update.loss)
        if len(self._first_losses) < _LOSSES:
            self._first_losses.append(update.loss)
            self.start = np.mean(self._first_losses[:_START])

    def known_of(self, update):
        """Return an `Update` with what its checks need of the training before."""
        masked = [output in self.masked for output in update.order.outputs]
        shares = np.where(masked, 0.0, update.statistics["not_finite"])
        return update._replace(
            learned=self.learned() or not update.sees_loss,
            replaced=self.replaced,
            first_norm=self.first_norm(),
            statistics={**update.statistics, "not_finite": shares},
        )

    def add_epoch(self, logs):
        """Add an epoch's logs."""
        self.losses.append(logs["loss"])
        if "val_loss" in logs:
            self.validated.append((logs["loss"], logs["val_loss"]))

    def first_norm(self):
        """Return the median norm of all gradients over the first updates, infinity before them."""
        return float(np.median(self._first_norms)) if self._first_norms else np.inf

    def learned(self):
        """Tell whether the loss has fallen: by 1 %, and by 3 times its standard error."""
        size = min(_LOSSES, self._finite_losses // 2)
        if size < _FEW:
            return False
        first, last = self._first_losses[:size], list(self._last_losses)[-size:]
        error = np.sqrt((np.var(first) + np.var(last)) / size)
        fall = np.mean(first) - np.mean(last)
        return bool(fall > max(0.01 * abs(np.mean(first)), 3 * error))
