"""The first steps of a training: their rates, what is measured in them, and the features."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

NAMES = (
    "lowest",
    "halfway",
    "last",
    "depth",
    "curvature",
    "alignment",
    "momentum",
    "noise",
    "loss_noise",
    "turning",
    "reach",
    "steps",
)
"""The features of a probe, in the order in which `features` returns them."""

SEEN = (
    "loss",
    "square",
    "with_before",
    "along_before",
    "weights",
    "update",
    "along",
    "invariant",
)
"""What is measured in a step, in this order: the batch's loss; the squared norm of its gradient g;
the products of g with the previous gradient and the previous update; the squared norms of the
weights and of the step's update d; the product of g with d; and the share of g's squared norm that
belongs to variables that were orthogonal to their gradients in all steps so far."""

ORTHOGONAL = 0.1
"""A variable of n entries is orthogonal to its gradient if their cosine is this / sqrt(n) at most.

They are where the scale of the variable changes nothing, as that of a kernel before a batch
normalization: the derivative of f(a w) = f(w) in a is w . grad f(w) = 0. With the epsilon of
Keras's `BatchNormalization`, the largest of five steps was 0.07; of variables that are not
invariant it was 0.2 at least. Directions at random have 1 in the root mean square."""

# Of the sweep, in units of the rate at which the first-order decrease equals the loss.
_LOWEST, _HIGHEST = 3e-3, 30.0
_STILL_STEPS = 4
_SMALL = 1e-4
_BOTTOM = 0.02
# Momentum makes updates ten times as long; the largest in the training tasks is 3.8.
_LARGEST_GROWTH = 10.0
# Of updates over weights and rate. It was at least 0.07, and 1e-7 with Lamb.
_LEAST_DEVIATION = 0.02
# For the reference rate of networks with variables that are orthogonal to their gradients. Their
# share of the gradient's square was 0.11 to 0.86 in four networks with batch normalization.
_LEAST_INVARIANT = 0.01
_DEVIATIONS, _UNITS = 5.0, 10**0.5
_TINY = 1e-150  # far below the square of a float32, so no unit


class Probe:
    """Plans the rates of the first steps, and records what is measured in each.

    The first step is made at the rate 0; the next four at rates so small that they change next to
    nothing, adjusted until an update has 1e-4 of the norm of the weights. The product of gradient
    and update tells by how much a rate lowers the loss to first order, whatever the optimizer's
    rule. The rate at which that equals the loss is the unit

        u = L / (-g . d / rate),

    and the remaining steps sweep the rate geometrically from 0.003 u to 30 u. The sweep ends at its
    last step; when the loss is not finite, has risen by 0.3 of its first level, or in two
    successive steps by 0.1 of it (and by six times, or three times, its deviation before the sweep,
    if batches differ more than that); or when a loss above 0 has fallen to 0.02 of that level,
    where there is nothing left to see.

    Multiplying the loss by c leaves u unchanged for Adam and divides it by c for SGD; multiplying
    the weights by c, in a model that computes the same, multiplies it by c for Adam and by c^2 for
    SGD. The rates that train scale likewise.

    Args:
        steps: integer, the update steps of the probe at most.
        parameters: integer, the number of weights; it may be set before the second step is planned.

    Attributes:
        rates: list, the rates of the steps seen.
        rows: list, the measurements of each, in the order of `SEEN`.
        unit: the unit of rates, None before it is measured.
        sweep_start: the number of the first step of the sweep, None before.
        diverged: whether the loss rose so far that it ended the sweep.
        finite: the number of rows before the first that is not finite.
    """

    def __init__(self, steps: int, parameters: int | None = None) -> None:
        self.steps = steps
        self.parameters = parameters
        self.rates: list[float] = []
        self.rows: list[list[float]] = []
        self.unit: Any = None  # until they are measured
        self.sweep_start: Any = None
        self.diverged = False
        self._sweep: Any = None
        self._small, self._small_calls = 0.0, 1
        self._at_bottom = False

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.diverged or self._at_bottom or len(self.rows) >= self.steps

    @property
    def finite(self) -> int:
        """The number of rows before the first with a NaN or an infinity."""
        taken = (k for k, row in enumerate(self.rows) if not all(map(math.isfinite, row)))
        return next(taken, len(self.rows))

    @property
    def fault(self) -> str | None:
        """What makes the probe useless, or None."""
        if self.rows and not math.isfinite(self.rows[0][0]):
            return "the loss of the first step is not finite"
        start = self.sweep_start
        # The last of the five may be not finite.
        if start is None or len(self.rows) < start + 5 or self.finite < start + 4:
            return "the sweep ended within five steps"
        if self.unit is None:
            return "no step lowered the loss to first order"
        return self._fault_of_updates()

    def plan(self, count: int = 1) -> np.ndarray:
        """Return the rates of the next `count` steps."""
        made = len(self.rows)
        if not made:
            return np.zeros(count)
        if not any(self.rates):
            self._small = self._crude_rate()
            return np.full(count, self._small)
        if self._sweep is None and (made <= _STILL_STEPS or self._small_calls < 2):
            self._small *= self._correction()
            self._small_calls += 1
            return np.full(count, self._small)
        if self._sweep is None:
            self._measure()
        rates = self._sweep[made - self.sweep_start :][:count]
        return np.pad(rates, (0, count - len(rates)), "edge")

    def see(self, rate: float, row: Sequence[float]) -> None:
        """Record the measurements of the next step."""
        self.rates.append(float(rate))
        self.rows.append([float(value) for value in row])
        loss = self.rows[-1][0]
        if not math.isfinite(loss):
            self.diverged = True
        elif self.sweep_start is not None:
            rises = [row[0] - self._level for row in self.rows[-2:]]
            level, noise = abs(self._level), self._noise
            one, two = max(0.3 * level, 6.0 * noise), max(0.1 * level, 3.0 * noise)
            self.diverged |= rises[1] > one or min(rises) > two
            self._at_bottom |= abs(loss) < _BOTTOM * level

    def _fault_of_updates(self):
        """Return why the updates are unlike those of the training tasks' rules, or None."""
        rows = np.array(self.rows)
        taken = np.isfinite(rows).all(axis=1)
        rows, rates = rows[taken][self.sweep_start - 1 :], np.array(self.rates)[taken]
        lengths = np.sqrt(rows[:, 5]) / rates[self.sweep_start - 1 :]
        # Growth that a growing gradient explains does not count.
        squares = np.maximum.accumulate(rows[:, 1]) / rows[0, 1]
        growth = np.max(lengths / np.sqrt(np.maximum(squares, 1.0)))
        if not growth <= _LARGEST_GROWTH * lengths[0]:
            return "the optimizer's updates do not follow its rate"
        weights = rows[:, 4]
        if weights.max() > 1.3**2 * weights.min() and _varies(lengths, rows[:, 1]):
            if not _varies(lengths, weights):
                return "the optimizer's updates follow the size of the weights"
        return None

    def _crude_rate(self):
        """Return a rate that is small for gradient descent and for rules that normalize."""
        square, weights = self.rows[0][1], self.rows[0][4]
        if not weights or not square:
            return _SMALL
        return _SMALL * math.sqrt(weights) / math.sqrt(max(square, self.parameters))

    def _correction(self):
        """Return the factor on the rate that makes an update as small as wanted."""
        # Much smaller updates vanish in float32 weights; a small loss has small gradients, whose
        # rate is unknown before an update was seen.
        weights, update = self.rows[-1][4:6]
        if not weights:
            return 1.0
        if not update:
            return 1e3
        factor = _SMALL * math.sqrt(weights / update)
        return 1.0 if 0.3 < factor < 3.0 else min(factor, 1e3)

    def _measure(self):
        """Find the unit, and lay out the sweep."""
        made = len(self.rows)
        rows, rates = np.array(self.rows), np.array(self.rates)
        # The last ones, in which momentum has built up.
        gain = np.mean(-rows[-2:, 6] / rates[-2:])
        self._level, self._noise = np.mean(rows[:, 0]), np.std(rows[:, 0])
        if gain > 0.0 and self._level != 0.0:
            self.unit = abs(self._level) / gain
        unit = self.unit or self._small / _SMALL
        self.sweep_start = made
        count = max(self.steps - made, 1)
        self._sweep = unit * np.geomspace(_LOWEST, _HIGHEST, count)


def _varies(lengths, squares):
    """Tell whether lengths vary differently from the roots of these squares."""
    shares = lengths / np.sqrt(squares + 1e-60)
    return np.std(shares) >= _LEAST_DEVIATION * shares.mean()


def features(probe: Probe, total_steps: int) -> np.ndarray:
    """Return the features of a probe, a float64 array in the order of `NAMES`.

    Rates are logarithms in the probe's unit u (see `Probe`), without the lag of momentum (see
    `lag`); norms are ratios. So the features do not depend on the units of loss and weights.

        lowest      the rate of the sweep whose update led to the lowest loss, smoothed
        halfway     the rate that first led halfway down to it
        last        the rate of the sweep's last step
        depth       how far down that lowest loss is, as a share of the loss before the sweep
        curvature   1 - g' . d / g . d up to that rate, g' the next gradient: 0 on a straight
                    slope, 1 where a step ends at the lowest point in its direction, 2 at the
                    height where it began
        alignment   the cosine of update and -gradient at a small rate: 1 for SGD, less where a rule
                    rescales the entries
        momentum    the share of an update that is carried over into the next, see `lag`
        noise       log of the gradient's between-batch variance over its squared mean, from the
                    products of successive gradients
        loss_noise  the deviation of the batches' losses over their mean
        turning     the cosine of successive gradients about the lowest point
        reach       log of the norm of an update at the rate u over the norm of the weights
        steps       log of the number of all update steps

    Args:
        probe: a `Probe` that is done and has no `fault`.
        total_steps: integer, the update steps of the whole run.
    """
    start, unit = probe.sweep_start, probe.unit
    rows, rates = _finite(probe)
    loss, square, with_before, along_before, weights, update, along, _ = rows.T
    level = loss[:start].mean()

    positions, falls = swept(probe)
    momentum, factor = lag(probe)
    positions = np.log(factor * positions / unit)
    best = int(np.argmax(falls))
    half = int(np.argmax(falls >= 0.5 * falls[best]))
    until = slice(start, start + best + 1)
    bent = np.sum(along_before[start + 1 : start + best + 2])
    straight = np.sum(along[until])
    cosines = with_before[1:] / np.sqrt(square[1:] * square[:-1] + _TINY)
    still = np.flatnonzero(rates[:start])  # at the small rate
    alignment = -along[still] / np.sqrt(square[still] * update[still] + _TINY)
    agreement = np.clip(np.mean(cosines[: start - 1]), 0.03, 0.999)
    reach = unit * np.sqrt(update[start - 1]) / rates[start - 1]
    return np.array(
        [
            positions[best],
            positions[half],
            np.log(factor * rates[-1] / unit),
            np.clip(falls[best], -1, 1),
            np.clip(1 - bent / straight if straight else 0.0, -2, 4),
            np.mean(alignment),
            momentum,
            np.log(1 / agreement - 1),
            np.std(loss[:start]) / abs(level),
            np.mean(cosines[start + best - 1 : start + best + 2]),
            np.log((reach + _TINY) / (np.sqrt(weights[0]) + _TINY)),
            np.log(total_steps),
        ]
    )


def reference_rate(probe: Probe) -> float:
    """Return the rate that peaks are chosen from, which needs no learning.

    It is the geometric mean of the rate that led to the lowest loss and the sweep's last one, r:
    across families of tasks the best peaks lie nearer to a fixed share of it than to one of the
    unit u, or of either of the two.

    Where batches differ as much as the sweep lowers the loss, the lowest loss is a matter of
    chance, and u is not. A network with variables that are orthogonal to their gradients (see
    `ORTHOGONAL`), such as those before a batch normalization, recovers from rates that are too
    high, so that it can rely on u: the rate is then

        r^(1 - h) (3.2 u)^h,  h = 1 / (1 + (fall / (5 deviation))^2),

    with the deviation of the losses before the sweep. Other networks were worse with it.
    """
    rates, falls = swept(probe)
    rows, all_rates = _finite(probe)
    reference = np.sqrt(rates[np.argmax(falls)] * all_rates[-1])
    still = rows[: probe.sweep_start]
    if still[-1, 7] > _LEAST_INVARIANT:
        deviation = np.std(still[:, 0], ddof=1) / abs(still[:, 0].mean())
        hidden = 1 / (1 + (falls.max().clip(_TINY) / (_DEVIATIONS * deviation + _TINY)) ** 2)
        reference = reference ** (1 - hidden) * (_UNITS * probe.unit) ** hidden
    return float(lag(probe)[1] * reference)


def lag(probe: Probe) -> tuple[float, float]:
    """Return an update's momentum, and the factor from a rate of the sweep to a constant one.

    If d' = m d - rate s g, as with Keras's SGD, products with g' give m and s. At a constant rate
    an update then grows to 1 / (1 - m) times one without momentum, but only to 1 / (1 - m / q)
    where each rate is q times the one before; the factor is their ratio. For updates of another
    form, such as Adam's with its average of gradients, m is 0.
    """
    rows, rates = _finite(probe)
    start = probe.sweep_start
    # Earlier steps are too small for float32 weights to hold all of their digits.
    _, square, _, along_before, _, _, along, _ = rows[start + 1 :].T
    plain = rates[start + 1 :] * square + _TINY
    known = np.stack([along_before / plain, -np.ones(len(plain))], axis=1)
    (momentum, scale), *_ = np.linalg.lstsq(known, along / plain, rcond=None)
    rest = known @ [momentum, scale] - along / plain
    is_carried = np.sum(rest**2) <= 0.02**2 * np.sum((along / plain) ** 2)
    if not (is_carried and scale > 0 and 0 <= momentum < 0.9999):
        return 0.0, 1.0
    growth = rates[start + 1] / rates[start]
    return float(momentum), float((1 - momentum) / (1 - momentum / growth))


def swept(probe):
    """Return the rates of a sweep, and by how much each lowered the loss, smoothed.

    A step's rate shows in the loss of the step after it, so the last one is left out; falls are
    shares of the loss before the sweep.
    """
    rows, rates = _finite(probe)
    rates, losses = rates[probe.sweep_start : -1], rows[probe.sweep_start + 1 :, 0]
    level = rows[: probe.sweep_start, 0].mean()
    return rates, _smooth(np.log(rates), (level - losses) / abs(level))


def _finite(probe):
    """Return rows and rates, up to the first step with a NaN or an infinity."""
    count = probe.finite
    return np.array(probe.rows[:count]), np.array(probe.rates[:count])


def _smooth(positions, values):
    """Average each value with its neighbours, those a factor of 2 in the rate away by 0.5."""
    distances = (positions[:, None] - positions) / np.log(2)
    kernel = 0.5 ** (distances**2)
    return kernel @ values / kernel.sum(axis=1)
