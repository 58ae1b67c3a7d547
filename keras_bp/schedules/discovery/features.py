"""What a probe tells of a training, in numbers without units."""

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
_TINY = 1e-150  # far below the square of a float32, so no unit


def features(probe, total_steps):
    """Return the features of a probe, a float64 array in the order of `NAMES`.

    Rates are logarithms in the probe's unit u (see `Probe`), and without the lag of a momentum (see
    `lag`); norms are ratios. So none changes when the loss or the weights are measured in another
    unit.

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
    loss, square, with_before, along_before, weights, update, along = rows.T
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


def reference_rate(probe):
    """Return the rate that peaks are chosen from: between the lowest point and the sweep's end.

    The geometric mean of the rate that led to the lowest loss and the last one. It needs no
    learning, and the best peaks of families of tasks lie nearer to a fixed share of it than to one
    of the unit, or of either of the two.
    """
    rates, falls = swept(probe)
    return float(lag(probe)[1] * np.sqrt(rates[np.argmax(falls)] * _finite(probe)[1][-1]))


def lag(probe):
    """Return an update's momentum, and the factor from a rate of the sweep to one that stays.

    Where d' = m d - rate s g, as with Keras's SGD, products with g' tell m and s. An update then
    adds up to 1 / (1 - m) times one without momentum where the rate stays, but only to
    1 / (1 - m / q) where each rate is q times the one before; the factor is their ratio. Where
    updates are not of this form, as Adam's, whose momentum is of gradients, m is 0.
    """
    rows, rates = _finite(probe)
    start = probe.sweep_start
    # The steps before are too small for weights in float32 to hold all of their digits.
    _, square, _, along_before, _, _, along = rows[start + 1 :].T
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
    """Return rows and rates, up to the first step with a number that is not finite."""
    count = probe.finite
    return np.array(probe.rows[:count]), np.array(probe.rates[:count])


def _smooth(positions, values):
    """Average each value with its neighbours, those a factor of 2 in the rate away by 0.5."""
    distances = (positions[:, None] - positions) / np.log(2)
    kernel = 0.5 ** (distances**2)
    return kernel @ values / kernel.sum(axis=1)
