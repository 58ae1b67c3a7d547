"""The constants of docs/sparse_adam.md, for betas as a dtype holds them."""

import functools
import math
import typing

import numpy as np

from keras_bp.deferred.optimizer import _TOLERANCE
from keras_bp.deferred.rows import _lagrange, missed_quadrature

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}  # half of the distance from 1 to the next number
# How often m, sqrt(v) and a step are rounded, beside the powers and the step's size.
ROUNDINGS = {"mean": 4, "root": 2, "step": 4}
_EXACT = np.longdouble
_FAR = 8192  # steps of a sum that does not end


class Constants(typing.NamedTuple):
    """What the two theorems need to know of a pair of betas.

    Attributes:
        beta_1, beta_2: the betas as the dtype holds them.
        nodes: K, the nodes in use.
        window: J, the missed steps that are summed.
        r: b1 / sqrt(b2); a step with g = 0 is at most r times the one before.
        rho: the largest |m| / sqrt(v).
        kappa: the largest error of a missed sum, relative to the sum at the gap's largest rate.
        kappa_proved: Lemma 2's upper bound of kappa.
        condition: lambda, the sum of the terms' sizes, relative to the same sum.
    """

    beta_1: float
    beta_2: float
    nodes: int
    window: int
    r: float
    rho: float
    kappa: float
    kappa_proved: float
    condition: float


def power_error(beta, missed, dtype):
    """Return the relative error of b^n, which decays an average: e_n."""
    cast = UNIT["float32"] if dtype == "float32" else 0.0
    return cast + (2 - 3 * missed * math.log(beta)) * UNIT["float64"]


def size_error(powers, dtype):
    """Return the relative error of alpha_t, from the betas' powers b^t: e_alpha."""
    cast = UNIT["float32"] if dtype == "float32" else 0.0
    return cast + (5 + 2 * sum(p / (1 - p) for p in powers)) * UNIT["float64"]


def sum_error(known, missed, dtype):
    """Return the rounding of a missed sum, relative to the sum at the gap's largest rate."""
    number = known.nodes + 6 if dtype == "float32" else 5 * known.nodes + 4
    return (np.minimum(missed, known.window) + number) * known.condition * UNIT[dtype]


def quadrature(beta_1, beta_2, dtype):
    """Return the betas as held, and the quadrature of DeferredAdam's `build`."""
    betas = [float(np.dtype(dtype).type(beta)) for beta in (beta_1, beta_2)]
    count = 16 if dtype == "float64" else 8
    return betas, missed_quadrature(*betas, count, *_TOLERANCE[dtype])


@functools.lru_cache
def constants(beta_1, beta_2, dtype, resolution=0.05):
    """Return the constants; ValueError if DeferredAdam refuses the betas.

    kappa and lambda are suprema over x = sqrt(v) / epsilon, estimated on a grid in ln x, from where
    f(j) is constant to where it is a power of b2: the largest values found.
    """
    (b1, b2), (_, weights) = quadrature(beta_1, beta_2, dtype)
    K, J = int(np.any(weights, axis=0).sum()), len(weights)
    r = b1 / math.sqrt(b2)
    rho = (1 - b1) / math.sqrt((1 - b2) * (1 - r * r))
    if b1 == 0.0:  # a row misses nothing
        return Constants(b1, b2, 1, J, r, rho, 0.0, 0.0, 0.0)
    c = -math.log(b2) / 2
    j, far = np.arange(1, J + 1).astype(_EXACT), np.arange(1, _FAR).astype(_EXACT)
    nodes = _lagrange(b1, np.arange(1, J + 1), K)[0].astype(_EXACT)
    lagrange = np.stack([_polynomial(nodes, k, j) for k in range(K)], axis=1)
    decay, kappa, condition = _EXACT(b1) ** far, 0.0, 0.0
    for x in np.exp(np.arange(-14.0, 30.0 + c * float(nodes.max()), resolution).astype(_EXACT)):

        def f(j, x=x):
            return 1 / (x * np.exp(-c * j) + 1)

        terms = decay * f(far)
        wrong = np.sum(decay[:J] * np.abs(lagrange @ f(nodes) - f(j))) + np.sum(terms[J:])
        kappa = max(kappa, wrong / terms.sum())
        size = np.sum(decay[:J, None] * np.abs(lagrange) * f(nodes)) / terms.sum()
        condition = max(condition, size)
    proved = _lemma(b1, c, r, nodes, j)
    return Constants(b1, b2, K, J, r, rho, *map(float, (kappa, proved, condition)))


def _polynomial(nodes, k, j):
    others = np.delete(nodes, k)
    return np.prod((j[:, None] - others) / (nodes[k] - others), axis=1)


def _lemma(b1, c, r, nodes, j):
    """Return Lemma 2's bound: Lagrange's remainder, and the tail after J."""
    far = np.exp(c * (j - 1 + np.maximum(nodes.max() - j, 0)))
    products = np.prod(np.abs(j[:, None] - nodes), axis=1)
    remainder = np.sum(_EXACT(b1) ** j * far * products) * (1 - b1) / b1
    remainder *= math.sqrt(2) * math.exp(math.pi / 2) * (2 * c / math.pi) ** len(nodes)
    return remainder + (1 - b1) / (1 - r) * _EXACT(r) ** len(j)
