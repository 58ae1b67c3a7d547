"""Few nodes in the place of many missed steps: the numbers behind `DeferredRows`."""

import math

import numpy as np

from keras_bp._deferred_rows import MAX_MISSED


def missed_quadrature(beta_1, beta_2, node_count, tolerance):
    """Return nodes and weights that sum b1^j f(j) over missed steps, f(j) = 1/(x b2^(j/2) + eps).

        sum_j a_j b1^j f(j) = sum_k (sum_j a_j b1^j L_k(j)) f(j_k)    for any a_j, x >= 0

    with L_k the Lagrange polynomials of the nodes j_k. These are Gauss-Laguerre's, which suit the
    decay b1^j, drawn together to 0.6 of their distances: that was the most exact of the factors
    from 0.3 to 1, for b2 from 0.9 to 0.999.

    Args:
        beta_1: float in [0, 1), the decay of the mean.
        beta_2: float in [0, 1), the decay of the mean square.
        node_count: int, the number of nodes.
        tolerance: float, the largest relative error of such a sum.

    Returns:
        Two float64 arrays: b2^(j_k / 2) of shape (nodes,), and b1^j L_k(j) of shape (steps,
        nodes) for j = 1, 2, ... up to where the steps vanish.

    Raises:
        ValueError: if the sum is not as exact as `tolerance` with these betas.
    """
    # Step j is of the size b1^j / b2^(j/2), and what follows it of that over 1 - ratio.
    ratio = beta_1 / math.sqrt(beta_2) if beta_2 else math.inf
    steps = 1
    if 0 < ratio < 1:
        needed = math.log(1e-4 * tolerance * (1 - ratio)) / math.log(ratio)
        steps = min(max(math.ceil(needed), 1), MAX_MISSED)
    j = np.arange(1, steps + 1)
    scale = -0.6 / math.log(beta_1) if beta_1 else 1.0
    nodes = 1 + scale * np.polynomial.laguerre.laggauss(node_count)[0]
    differences = nodes[:, None] - nodes + np.eye(node_count)
    lagrange = np.stack(
        [
            np.prod(np.delete((j[:, None] - nodes) / differences[k], k, axis=1), axis=1)
            for k in range(node_count)
        ],
        axis=1,
    )
    weights = beta_1 ** j[:, None] * lagrange
    error = ratio**steps if beta_1 else 0.0
    if ratio < 1:
        error += _worst_error(beta_1, beta_2, j, nodes, weights)
    if beta_1 and not error <= tolerance:
        raise ValueError(
            "`beta_1` and `beta_2` must be such that what a row misses sums up within "
            f"{MAX_MISSED} steps, and from {node_count} nodes to {tolerance:g} of itself. "
            f"Received: beta_1={beta_1:.6g}, beta_2={beta_2:.6g}, with an error of {error:.1e}"
        )
    return beta_2 ** (nodes / 2), weights


def _worst_error(beta_1, beta_2, j, nodes, weights):
    """Return the largest relative error over all sizes of x against epsilon, and some rates."""
    worst = 0.0
    for rates in (np.ones(len(j)), (j > 20) * 1.0, np.exp(-j / 5.0)):
        for x in np.logspace(-6, 6, 49):  # in units of epsilon
            terms = rates * beta_1**j / (x * beta_2 ** (j / 2) + 1)
            quadrature = np.sum(rates @ weights / (x * beta_2 ** (nodes / 2) + 1))
            worst = max(worst, abs(quadrature - terms.sum()) / max(terms.sum(), 1e-300))
    return worst
