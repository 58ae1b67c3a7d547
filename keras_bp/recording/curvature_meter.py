"""Noise and curvature of a `fit`, measured at intervals beside its steps."""

import collections
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_bp._keras import is_built
from keras_bp.curvature import (
    LossSurface,
    NoiseScale,
    PowerIteration,
    RateSearch,
    noise_scale_of,
    part_estimates,
)
from keras_bp.recording.last_batch import LastBatch
from keras_bp.recording.train_function import RecordingTrainFunction

_DECAY, _REMEMBERED = 0.95, 200
_TOLERANCE, _MOST_RATES, _MOST_PRODUCTS = 0.05, 8, 10


class Curvature(NamedTuple):
    """What a `CurvatureMeter` measured at an update; None for what was not due."""

    step: int
    """The number of the update step, 1 for the optimizer's first."""
    noise: NoiseScale | None
    """The gradient noise scale, averaged over the measurements so far."""
    examples: int
    """The number of examples in the update's batch, if `noise` was measured."""
    rate: float
    """The learning rate of the update; of a composite, its first optimizer's."""
    critical_rate: float | None
    """The rate at which the loss along the update rises above its value before."""
    eigenvalue: float | None
    """The largest eigenvalue of the Hessian, in magnitude."""

    def scalars(self) -> dict[str, float]:
        """Return the tags for TensorBoard and their values."""
        scalars: dict[str, float] = {}
        if self.noise is not None:
            scalars["gradient_noise_scale"] = self.noise.value
            scalars["gradient_noise_scale_low"] = self.noise.low
            scalars["gradient_noise_scale_high"] = self.noise.high
        if self.critical_rate is not None:
            rate = self.critical_rate
            scalars["critical_learning_rate"] = rate
            scalars["critical_sharpness"] = 2 / rate if rate != 0 else math.inf
        if self.eigenvalue is not None:
            scalars["hessian/largest_eigenvalue"] = self.eigenvalue
        return scalars


class CurvatureMeter:
    """Measures noise and curvature of a `fit` every so many updates, beside the step.

    Before a call of the step whose update is due it copies the weights; after the call it has them,
    the weights after, and the batch (`LastBatch`), and computes losses and gradients at other
    weights by a `LossSurface`. The step itself stays the same: it hands out its data, nothing else.

    Args:
        noise: integer, update steps between two measurements of the gradient noise scale, or None.
        sharpness: likewise, of the critical learning rate.
        hessian: likewise, of the largest eigenvalue of the Hessian.

    Attributes:
        every: dictionary, `"noise"`, `"sharpness"` and `"hessian"` -> update steps between two
            measurements, of what is measured.
        running: whether an update is being measured.
        measured: the `Curvature` of the updates taken last, or None.
    """

    def __init__(
        self, noise: int | None = None, sharpness: int | None = None, hessian: int | None = None
    ) -> None:
        every = {"noise": noise, "sharpness": sharpness, "hessian": hessian}
        self.every = {kind: steps for kind, steps in every.items() if steps is not None}
        self.running = False
        self.measured: Curvature | None = None
        self._due = dict(self.every)
        self._batches: Any = None
        self._surface: Any = None
        # Pairs of tr(Sigma) and |G|^2, the oldest first.
        self._estimates: collections.deque = collections.deque(maxlen=_REMEMBERED)
        self._rates = RateSearch(_TOLERANCE, _MOST_RATES)

    @property
    def tags(self) -> list[str]:
        """The tags of what is measured."""
        noise = NoiseScale(*[math.nan] * 5) if "noise" in self.every else None
        rate, eigenvalue = (math.nan if k in self.every else None for k in ("sharpness", "hessian"))
        return list(Curvature(0, noise, 0, math.nan, rate, eigenvalue).scalars())

    def watch(self, function: RecordingTrainFunction, model: keras.Model) -> None:
        """Let the steps of a train function hand out their data, if anything is to be measured."""
        if self.every:
            self._batches, self._model = LastBatch(model), model
            self._due = dict(self.every)
            function.add(self._batches)

    def start(self, is_due: Callable[[int], bool]) -> None:
        """Measure the coming update, if it is due and none is being measured."""
        self.measured = None
        if self.running or not self.every or not is_built(self._model):
            return
        self._kinds = [kind for kind, step in self._due.items() if is_due(step)]
        if not self._kinds:
            return
        ids = list(map(id, self._model.trainable_variables))
        if self._surface is None or list(map(id, self._surface.variables)) != ids:
            self._surface, self._vector = LossSurface(self._model), None
            self._power = PowerIteration(self._surface)
        self._before = self._surface.weights()
        self._parts = None
        self.running = True

    def see_call(self) -> None:
        """Add the batch of a call to what is measured, a micro-batch where gradients accumulate."""
        if not self.running:
            return
        if not self._batches.shows_loss:
            self.running = False
            raise ValueError(
                "Noise and curvature can be measured where the loss that `train_step` hands to "
                "`optimizer.scale_loss` is what `compute_loss` returns. "
                f"Received: model {self._model.name!r} with a `train_step` of another loss"
            )
        self._batch = self._batches.read()
        if "noise" in self._kinds:
            parts = self._surface.parts(self._before, self._batch)
            self._parts = self._surface.add_parts(self._parts, parts) if self._parts else parts

    def cancel(self) -> None:
        """Measure nothing."""
        self.running, self.measured = False, None

    def stop(self, step: int, updates: int, rate: float) -> None:
        """Measure the update that has been made.

        Args:
            step: integer, the number of the last update step.
            updates: the number of updates that the call has made.
            rate: the learning rate of the last one.
        """
        if not self.running:
            return
        self.running = False
        for kind in self._kinds:
            self._due[kind] = (step // self.every[kind] + 1) * self.every[kind]
        numbers = np.zeros(5) if self._parts is None else self._parts[0].numpy()
        self.measured = Curvature(
            step,
            self._noise_scale(numbers) if "noise" in self._kinds else None,
            int(numbers[3]),
            float(rate),
            self._critical_rate(updates, rate) if "sharpness" in self._kinds else None,
            self._eigenvalue() if "hessian" in self._kinds else None,
        )
        self._before = self._parts = self._batch = None

    def _noise_scale(self, numbers):
        pair = part_estimates(numbers)
        if np.isfinite(pair).all():
            self._estimates.append(pair)
        if not self._estimates:
            return NoiseScale(*[math.nan] * 5)
        weights = _DECAY ** np.arange(len(self._estimates))[::-1]
        return noise_scale_of(*np.transpose(self._estimates), weights)

    def _critical_rate(self, updates, rate):
        """Return the critical rate along a call's mean update, NaN if that is 0 or not finite."""
        update, moved = self._surface.update_since(self._before, updates)
        if not rate > 0 or not moved:
            return math.nan

        def loss(new_rate):
            return self._surface.loss(self._before, update, new_rate / rate, self._batch)

        return self._rates.find(loss, rate)

    def _eigenvalue(self):
        about = self._before, self._batch, _TOLERANCE, _MOST_PRODUCTS
        found = self._power.run(*about, self._vector)
        if math.isfinite(found.value):
            self._vector = found.vector
        return found.value
