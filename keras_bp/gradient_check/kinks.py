"""Analytic against numeric slopes of one slot, with kinks told apart from faults."""

import dataclasses

import numpy as np

# A difference of up to so many standard deviations of the rounding noise means nothing.
SIGMAS = 8.0
_ROUNDOFF = np.finfo(np.float64).eps / 2.0
_SHRINKS = (1.0, 0.1, 0.01, 0.001)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The slopes of one slot's entries, side by side; every array has shape (entries,).

    Attributes:
        analytic: The gradient's entries, by autodiff.
        numeric: Central differences.
        kinks: Whether J has a kink so near that the difference quotient is no derivative.
        faults: Whether the entry, looked at closely, is wrong beyond rounding and kinks.
        undecided: Whether even the smallest step leaves it open, since a kink lies at the entry's
            value itself.
        noise: A number, the size of the error that rounding makes in `numeric`.
    """

    analytic: np.ndarray
    numeric: np.ndarray
    kinks: np.ndarray
    faults: np.ndarray
    undecided: np.ndarray
    noise: float

    def decide(self, faults):
        """Return a comparison in which the undecided entries are faults or, else, kinks."""
        all_faults, kinks = self.faults.copy(), self.kinks.copy()
        all_faults[self.undecided] = faults
        kinks[self.undecided] = ~faults
        nothing = np.zeros_like(self.undecided)
        return dataclasses.replace(self, faults=all_faults, kinks=kinks, undecided=nothing)


def compare(along, theta, analytic, value, noise, epsilon):
    r"""Compare analytic slopes with central differences, and look closer where they disagree.

    A central difference over a kink is off by up to half the jump of the slope, like a wrong
    gradient. What tells them apart is the smooth side. Five points, $J$ at $0$, $\pm\epsilon/2$
    and $\pm\epsilon$ from the entry's value, give two one-sided slopes,

    $$R = \frac{-3J(0) + 4J(\epsilon/2) - J(\epsilon)}{\epsilon}, \qquad
      L = \frac{3J(0) - 4J(-\epsilon/2) + J(-\epsilon)}{\epsilon},$$

    two central ones, $D_\epsilon$ and $D_{\epsilon/2}$, and their extrapolation
    $D^* = D_{\epsilon/2} + (D_{\epsilon/2} - D_\epsilon)/3$. A kink within the interval moves
    $D^*$ by no more than $\max(|R - L|, 6|D_{\epsilon/2} - D_\epsilon|)$, wherever it lies: where
    that is small, the interval is smooth and $D^*$ decides. Else the analytic slope is accepted as
    a kink's if it equals $R$ or $L$; if it equals neither, the step shrinks (by 10, 100, 1000),
    until the interval is smooth or free of kinks on one side.

    Args:
        along: A function of an integer array of positions and a list of offsets that returns J,
            of shape (positions, offsets).
        theta: The entries' values, shape (entries,).
        analytic: The analytic slopes, shape (entries,).
        value: J with no entry moved.
        noise: The standard deviation of J's rounding errors.
        epsilon: The step.

    Returns:
        A `Comparison`.
    """
    kinks, undecided = np.zeros(len(theta), bool), np.zeros(len(theta), bool)
    faults = ~np.isfinite(analytic)
    with np.errstate(all="ignore"):  # where J overflows, the comparisons say False
        down, up = along(np.arange(len(theta)), [-epsilon, epsilon]).T
        shifted = np.abs(np.concatenate([up, down]))
        noise = max(noise, _ROUNDOFF * shifted[np.isfinite(shifted)].max(initial=0.0))
        numeric = _parabola_slope(value, down, up, *_steps(theta, -epsilon, epsilon))
        near = SIGMAS * noise / epsilon + 1e-8 * _size(analytic, numeric)
        rest = np.flatnonzero(~faults & ~(np.abs(analytic - numeric) <= near))
        for shrink in _SHRINKS:
            rounding = SIGMAS * noise / (epsilon * shrink)
            left, right, refined, bend = _five_points(
                along, rest, theta[rest], value, epsilon * shrink
            )
            a = analytic[rest]
            size = _size(a, refined)
            smooth = bend <= 10.0 * rounding + 1e-6 * size
            agrees = np.abs(a - refined) <= rounding + 1e-7 * size + np.where(smooth, bend, 0.0)
            side = np.fmin(np.abs(a - left), np.abs(a - right))
            one_sided = ~smooth & (side <= 6.0 * rounding + 1e-5 * size)

            known = smooth | agrees
            numeric[rest[known]] = refined[known]
            faults[rest[smooth & ~agrees]] = True
            # What agrees with a shorter step only has a kink between the two.
            kinks[rest[agrees & (shrink < 1.0) | one_sided & ~agrees]] = True
            rest = rest[~(known | one_sided)]
    undecided[rest] = True
    return Comparison(analytic, numeric, kinks, faults, undecided, noise / epsilon)


def _five_points(along, entries, theta, value, e):
    """Return both one-sided slopes, the extrapolated central one, and how far J bends."""
    offsets = [-e, -e / 2.0, e / 2.0, e]
    far_down, down, up, far_up = along(entries, offsets).T
    h = _steps(theta, *offsets)
    left = _parabola_slope(value, far_down, down, h[0], h[1])
    right = _parabola_slope(value, up, far_up, h[2], h[3])
    wide = _parabola_slope(value, far_down, far_up, h[0], h[3])
    narrow = _parabola_slope(value, down, up, h[1], h[2])
    bend = np.fmax(np.abs(right - left), 6.0 * np.abs(narrow - wide))
    return left, right, narrow + (narrow - wide) / 3.0, bend


def _size(analytic, numeric):
    """What a relative tolerance is relative to; an overflowed slope must not make it infinite."""
    return np.abs(analytic) + np.where(np.isfinite(numeric), np.abs(numeric), 0.0)


def _steps(theta, *offsets):
    """What is left of each offset after `theta + offset` was rounded."""
    return [(theta + offset) - theta for offset in offsets]


def _parabola_slope(value, j1, j2, h1, h2):
    """Slope at 0 of the parabola through (0, value), (h1, j1) and (h2, j2)."""
    return ((j1 - value) / h1 * h2 - (j2 - value) / h2 * h1) / (h2 - h1)
