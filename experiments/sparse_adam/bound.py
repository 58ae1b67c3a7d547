"""Textbook Adam in extended precision, and how far DeferredAdam may be from it at most.

The induction of Theorem 2 in docs/sparse_adam.md, entry by entry and step by step: `off` bounds the
difference of the weights, `mu` of m and `eta` of sqrt(v). The numbers of roundings are those of the
page's section on rounding.
"""

import numpy as np
from constants import ROUNDINGS, UNIT, power_error, size_error, sum_error

WIDE = np.longdouble
SLACK = 1.01  # for products of errors, which the page leaves out, and the rounding of WIDE itself
# By Lemma 1 no step is longer than rho alpha, so that in sequences of thousands no difference comes
# near this. It keeps a bound that grows exponentially from infinity, and the rest from NaN.
TRIVIAL = 1e6


def follow(batches, constants, dtype, epsilon, sweep):
    """Return Adam's reads and last table, and the bound of the difference to each.

    Args:
        batches: dictionary of arrays for S sequences of T steps: `ids` (S, T, B) among A rows that
            are ever read, `table` (S, A, C), `rates` (S, T), `h` (S, T, B), `c` and `z`
            (S, T, B, C), `s` (S, T), `q` (S, T, C).
        constants: `constants.Constants`.
        dtype: "float32" or "float64", that of the run.
        epsilon: float, as the dtype holds it.
        sweep: function of the step (from 0) that returns the mask (S, A) of the rows that are
            updated in turn.

    Returns:
        A dictionary: reads and read_bounds (S, T, B, C), table and table_bounds (S, A, C).
    """
    b1, b2, r = constants.beta_1, constants.beta_2, constants.r
    u, ids = SLACK * UNIT[dtype], batches["ids"]
    S, T, B = ids.shape
    w = batches["table"].astype(WIDE)
    A, C = w.shape[1:]
    m, v, y = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    off, mu, eta, start = (np.zeros((S, A, C)) for _ in range(4))
    largest, missed = np.zeros((S, A, 1)), np.zeros((S, A, 1))
    reads, read_bounds = np.zeros((S, T, B, C), WIDE), np.zeros((S, T, B, C))
    h, c, z, s, q = (batches[name].astype(WIDE) for name in ("h", "c", "z", "s", "q"))
    every, geometric = np.arange(S)[:, None], r / (1 - r)

    def when_read():
        """Return the bound where rows are read: with the missed sum's error, and roundings."""
        error = SLACK * (constants.kappa + sum_error(constants, missed, dtype))
        gap = off + error * largest * start * geometric
        return np.minimum(gap + u * (np.abs(w).astype(float) + gap), TRIVIAL)

    for t in range(T):
        present = ids[:, t] >= 0
        hot = np.where(present[..., None], ids[:, t, :, None] == np.arange(A), False)
        bound = when_read()
        # The batch: what is read, its gradients, and by how much these may be off.
        read, wrong = w[every, ids[:, t]], bound[every, ids[:, t]]
        read, wrong = read * present[..., None], wrong * present[..., None]
        reads[:, t], read_bounds[:, t] = read, wrong
        coupling = s[:, t, None, None] * (read.sum(axis=1) - q[:, t])[:, None]
        g = h[:, t, :, None] * (read - c[:, t]) + z[:, t] + coupling
        sizes = (np.abs(read) + wrong).astype(float)
        terms = h[:, t, :, None] * (sizes + np.abs(c[:, t])) + np.abs(z[:, t])
        terms += s[:, t, None, None] * (sizes.sum(axis=1) + np.abs(q[:, t]))[:, None]
        gamma = h[:, t, :, None] * wrong + s[:, t, None, None] * wrong.sum(axis=1)[:, None]
        # The graph of the gradient rounds 12 times at most; 16 holds in any order of its sums.
        gamma = gamma.astype(float) + 16 * u * terms.astype(float)
        # Sums of an id's rows; multiplication by 0 and 1, as there are no np.add.at in batches.
        g = np.einsum("sba,sbc->sac", hot.astype(WIDE), g * present[..., None])
        gamma = np.einsum("sba,sbc->sac", hot.astype(float), gamma * present[..., None])
        visited = (hot.any(axis=1) | sweep(t))[..., None]
        # Adam.
        old = np.abs(m).astype(float) + mu
        m, v = b1 * m + (1 - WIDE(b1)) * g, b2 * v + (1 - WIDE(b2)) * g * g
        y = np.sqrt(v)
        powers = [WIDE(beta) ** (t + 1) for beta in (b1, b2)]
        rate = batches["rates"][:, t, None, None].astype(WIDE)
        step = rate * np.sqrt(1 - powers[1]) / (1 - powers[0])
        w = w - step * m / (y + epsilon)
        # The averages' bounds.
        alpha, size = step.astype(float), np.abs(m).astype(float)
        power_1, power_2 = (SLACK * power_error(beta, missed, dtype) for beta in (b1, b2))
        decayed = b1 * mu + (1 - b1) * gamma
        rounded = (ROUNDINGS["mean"] * u + power_1) * (
            old + (1 - b1) * (np.abs(g).astype(float) + gamma)
        )
        mu = np.where(visited, decayed + rounded, b1 * mu)
        root = np.sqrt(b2 * eta**2 + (1 - b2) * gamma**2)
        rounded = (ROUNDINGS["root"] * u + power_2 / 2) * (y.astype(float) + root)
        eta = np.where(visited, root + rounded, root)
        # The weights'.
        below = np.maximum(y.astype(float) - eta, 0) + epsilon
        quotient = (size + mu) / below
        of_size = SLACK * float(size_error(powers, dtype))
        folded = np.where(visited, bound, off)
        off = folded + alpha * (mu + size / (y.astype(float) + epsilon) * eta) / below
        off += of_size * alpha * quotient
        off += visited * u * (np.abs(w).astype(float) + off + ROUNDINGS["step"] * alpha * quotient)
        off = np.minimum(off, TRIVIAL)
        # The gaps.
        start = np.where(visited, quotient, start)
        largest = np.where(visited, 0.0, np.maximum(largest, alpha))
        missed = np.where(visited, 0, missed + 1)
    bound = when_read()
    return {
        "reads": reads,
        "read_bounds": read_bounds,
        "table": w,
        "table_bounds": bound,
    }
