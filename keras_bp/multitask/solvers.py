"""The small numerical problems of the weightings, solved inside the graph, compiled by XLA too."""

import functools

import numpy as np
import tensorflow as tf

# For a matrix whose diagonal is 1. The ridge lies far above the rounding of a Gramian in float64,
# so that the Cholesky factor always exists; the refinement removes its influence.
RIDGE = 1e-11
REFINEMENTS = 2
# Some thousand roundings of float64: a slope below it counts as 0.
SLOPE = 2e-13
# Off-diagonal rest, as a share of the largest eigenvalue, at which the matrix counts as diagonal.
ROUNDING = 1e-15
# Dependent gradients in float32 depend to some 1e-6 of their size, and eigenvalues are squares:
# below this share of the largest they are noise.
NOISE = 1e-12
SWEEPS = 10
# As a share of the norm of the gradients that form g_w: a shorter g_w counts as 0.
STATIONARY = 1e-4
# Of k, and so of d: Newton's method converges quadratically, so the result is far more precise.
PRECISION = 1e-9
ROUNDS = 60


def nonnegative_minimum(matrix, linear):
    """Minimize x^T Q x / 2 - r^T x over x >= 0, for several r, or Q and r, at once.

    The method of Lawson and Hanson: the entry with the steepest descent joins the active set, the
    problem is solved on the set, and entries that would turn negative leave it. It is exact up to
    rounding as soon as the set is right: after about as many rounds as there are entries. Sets with
    dependent columns arise only by rounding, which a ridge that is refined away handles.

    Args:
        matrix: float64 tensor Q of shape (T, T), or (B, T, T) for one per r, positive
            semi-definite. The minimum must exist, as it does in every least-squares problem.
        linear: float64 tensor r of shape (B, T).

    Returns:
        A float64 tensor x of shape (B, T).

    References:
        Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23.
    """
    # Scaled to a diagonal of 1: gradients may differ in size by many orders.
    diagonal = tf.linalg.diag_part(matrix)
    roots = tf.sqrt(tf.where(diagonal > 0.0, diagonal, 1.0))
    matrix = matrix / (roots[..., :, None] * roots[..., None, :])
    linear = linear / roots
    size = matrix.shape[-1]

    def solve(active):
        pairs = active[:, :, None] & active[:, None, :]
        inner = tf.where(pairs, matrix, 0.0)
        ridge = tf.where(active, tf.constant(RIDGE, matrix.dtype), 1.0)
        factor = tf.linalg.cholesky(inner + tf.linalg.diag(ridge))
        wanted = tf.where(active, linear, 0.0)
        solution = tf.zeros_like(linear)
        for _ in range(1 + REFINEMENTS):
            rest = wanted - tf.linalg.matvec(inner, solution)
            solution += tf.linalg.cholesky_solve(factor, rest[..., None])[..., 0]
        return solution

    def round_(x, active, barred, solved, done):
        slopes = linear - tf.linalg.matvec(matrix, x)
        noise = SLOPE * (tf.abs(linear) + tf.linalg.matvec(tf.abs(matrix), x))
        open_ = (slopes > noise) & ~active & ~barred
        steepest = tf.argmax(tf.where(open_, slopes, -1.0), axis=1)
        joins = tf.one_hot(steepest, size, on_value=True, off_value=False, dtype=tf.bool)
        joins = joins & open_ & solved[:, None]
        done = done | (solved & ~tf.reduce_any(joins, axis=1))
        active = active | joins
        target = solve(active)
        wrong = active & (target <= 0.0)
        # Only rounding makes an entry join whose slope decreases it: it stays out.
        barred = barred | (joins & wrong)
        shares = tf.where(wrong, x / tf.maximum(x - target, 1e-300), 1.0)
        share = tf.reduce_min(shares, axis=1, keepdims=True)
        leaves = wrong & (shares <= share * (1.0 + 1e-12))
        moved = tf.where(active & ~leaves, tf.maximum(x + share * (target - x), 0.0), 0.0)
        solved_now = ~tf.reduce_any(wrong, axis=1)
        keep = done[:, None]
        return (
            tf.where(keep, x, tf.where(solved_now[:, None], target, moved)),
            active & ~leaves,
            barred,
            solved_now,
            done,
        )

    batch = tf.zeros_like(linear[:, 0], tf.bool)
    nowhere = tf.zeros_like(linear, tf.bool)
    x, *_ = tf.while_loop(
        lambda x, active, barred, solved, done: ~tf.reduce_all(done),
        round_,
        (tf.zeros_like(linear), nowhere, nowhere, ~batch, batch),
        maximum_iterations=10 * size,
    )
    return x / roots


def nearest_to_origin(gramian, present, floor=0.0):
    """Find the point of the gradients' convex hull that is nearest to the origin.

        min over a of a^T M a,    a >= 0,  sum of a = 1

    It is the direction of the least-squares problem min x^T M x + s (1^T x - 1)^2 over x >= 0:
    for x = t a the best t gives s q / (q + s) with q = a^T M a, which grows with q.

    Args:
        gramian: float64 tensor M of shape (T, T).
        present: float64 tensor of shape (T,), 0 for a task that is left out and 1 for others.
        floor: the lowest s, as a share of the largest squared norm.

    Returns:
        The weights a, a float64 tensor of shape (T,), 0 where no task is present.
    """
    squares = tf.linalg.diag_part(gramian)
    largest = tf.reduce_max(squares)
    # As large as the smallest gradient, so that none vanishes beside it.
    smallest = tf.reduce_min(tf.where(squares > 0.0, squares, largest))
    lift = tf.maximum(smallest, floor * largest)
    lift = tf.where(lift > 0.0, lift, 1.0)
    matrix = gramian + lift * present[:, None] * present[None, :]
    x = nonnegative_minimum(matrix, (lift * present)[None])[0]
    total = tf.reduce_sum(x)
    return x / tf.where(total > 0.0, total, 1.0)


def worst_case(gramian, present, along, square, radius):
    """Solve CAGrad's dual: argmin over the simplex of g_w . g_0 + r ||g_w||.

    As r ||g_w|| is the least r (||g_w||^2 / t + t) / 2 over t, the best w for a given t = k r is
    the point nearest to the origin in the hull of the g_i + k g_0; and k is right where
    ||g_w|| = k r. The sum to be minimized is convex in (w, t), so that k is too small exactly
    where ||g_w|| is larger than k r. On the set of the w_i that are not 0, w is linear in k, which
    gives the next k: the final one, once the set is right. A bracket around k ensures convergence.

    Args:
        gramian: float64 tensor of shape (T, T).
        present: boolean tensor of shape (T,).
        along: float64 tensor of shape (T,), the products g_i . g_0.
        square: float64 scalar, ||g_0||^2.
        radius: float64 scalar r.

    Returns:
        The weights w, a float64 tensor of shape (T,).
    """
    mask = tf.cast(present, gramian.dtype)
    squares = tf.linalg.diag_part(gramian)
    shortest = tf.sqrt(tf.reduce_min(tf.where(present, squares, tf.reduce_max(squares))))
    safe_radius = tf.where(radius > 0.0, radius, 1.0)

    def weights(k):
        cross = along[:, None] + along[None, :]
        shifted = gramian + (k * cross + k**2 * square) * mask[:, None] * mask[None, :]
        return nearest_to_origin(shifted, mask, floor=1e-2)

    def excess(w, k):
        return tf.tensordot(w, tf.linalg.matvec(gramian, w), 1) - (k * safe_radius) ** 2

    def step(low, high, k, w, done):
        w = weights(k)
        short = excess(w, k) > 0.0
        low = tf.where(short, k, low)
        high = tf.where(short, high, k)
        guess = _on_the_set(gramian, along, w > 0.0, safe_radius, k)
        inside = (guess > low) & (guess < high)
        following = tf.where(inside, guess, (low + high) / 2.0)
        near = (tf.abs(guess - k) <= PRECISION * k) | (high - low <= PRECISION * high)
        # ||g_w|| is at most high r here: shorter than what counts as 0.
        vanishes = high * safe_radius < STATIONARY / 2.0 * shortest
        return low, high, tf.where(near, k, following), w, near | vanishes

    top = 1.01 * tf.sqrt(tf.reduce_max(tf.linalg.diag_part(gramian))) / safe_radius
    zero = tf.zeros_like(top)
    *_, w, _ = tf.while_loop(
        lambda low, high, k, w, done: ~done,
        step,
        (zero, top, top / 2.0, mask, radius <= 0.0),
        maximum_iterations=ROUNDS,
    )
    return w


def _on_the_set(gramian, along, active, radius, k):
    """Return the k with ||g_w|| = k r where only the given w_i differ from 0, nearest to k."""
    size = gramian.shape[0]
    one = tf.cast(active, gramian.dtype)
    scale = tf.reduce_max(tf.linalg.diag_part(gramian))
    scale = tf.where(scale > 0.0, scale, 1.0)
    inner = gramian * one[:, None] * one[None, :] / scale
    # M w + k b = m 1 and 1^T w = 1, with 1 1^T added to M, which changes only m.
    matrix = inner + one[:, None] * one[None, :] + tf.linalg.diag(1.0 - one + 1e-12)
    right = tf.stack([one, one * along / scale], axis=1)
    factor = tf.linalg.cholesky(matrix)
    solved = tf.linalg.cholesky_solve(factor, right)
    level, slope = solved[:, 0], solved[:, 1]
    fixed = level / tf.reduce_sum(level)
    moving = fixed * tf.reduce_sum(slope) - slope
    square = tf.linalg.matvec(tf.reshape(inner, (size, size)), moving)
    a = tf.tensordot(moving, square, 1) - radius**2 / scale
    b = tf.tensordot(fixed, square, 1)
    c = tf.tensordot(fixed, tf.linalg.matvec(inner, fixed), 1)
    root = tf.sqrt(tf.maximum(b * b - a * c, 0.0))
    a = tf.where(tf.abs(a) > 0.0, a, 1.0)
    one_root, other = (-b - root) / a, (-b + root) / a
    # An index that depends on values would make XLA recompile the step for each of them.
    return tf.where(tf.abs(one_root - k) <= tf.abs(other - k), one_root, other)


def spectrum(gramian):
    """Return the eigenvalues, the eigenvectors and which of them count.

    Under XLA `tf.linalg.eigh` stops at an off-diagonal rest of some 1e-7, too large to determine
    the
    rank: Jacobi rotations continue from there, and do nothing elsewhere.

    Args:
        gramian: float64 tensor of shape (T, T), symmetric and positive semi-definite.

    Returns:
        Eigenvalues of shape (T,), at least 0 and in no order; eigenvectors as the columns of a
        tensor of shape (T, T); and a boolean tensor of shape (T,), True where the eigenvalue is
        above rounding. Together M = V diag(eigenvalues) V^T.
    """
    size = gramian.shape[0]
    _, vectors = tf.linalg.eigh(gramian)
    rotated = tf.linalg.matmul(vectors, tf.matmul(gramian, vectors), transpose_a=True)
    partners = tf.constant(_partners(size))

    def rest(matrix):
        off = matrix - tf.linalg.diag(tf.linalg.diag_part(matrix))
        return tf.reduce_max(tf.abs(off))

    bound = size * ROUNDING * tf.linalg.trace(gramian)

    def rotate(number, matrix, vectors):
        # The matrix must be exactly symmetric: both members of a pair turn by the same angle, also
        # in the null space, where entries are only rounding.
        matrix = (matrix + tf.transpose(matrix)) / 2.0
        rotation = _rotation(matrix, tf.gather(partners, number % rounds))
        matrix = tf.linalg.matmul(rotation, tf.matmul(matrix, rotation), transpose_a=True)
        return number + 1, matrix, tf.matmul(vectors, rotation)

    rounds = partners.shape[0]
    _, rotated, vectors = tf.while_loop(
        lambda number, matrix, vectors: rest(matrix) > bound,
        rotate,
        (0, rotated, vectors),
        maximum_iterations=SWEEPS * rounds,
    )
    values = tf.maximum(tf.linalg.diag_part(rotated), 0.0)
    return values, vectors, values > size * NOISE * tf.reduce_max(values)


def _rotation(matrix, partner):
    """Return the rotation that zeroes the entries (i, partner of i), all pairs at once."""
    size = matrix.shape[0]
    diagonal = tf.linalg.diag_part(matrix)
    own = tf.range(size)
    off = tf.gather(matrix, partner, axis=1, batch_dims=1)
    apart = tf.gather(diagonal, partner) - diagonal
    active = (partner != own) & (tf.abs(off) > 0.0)
    # The sign of a tie must differ between the members of a pair.
    ahead = (apart > 0.0) | ((apart == 0.0) & (own < partner))
    # tan = sign / (|ratio| + sqrt(ratio^2 + 1)) with ratio = apart / (2 off), without dividing by
    # 0.
    double = 2.0 * off
    signed = tf.where(ahead, double, -double)
    length = tf.abs(apart) + tf.sqrt(apart**2 + double**2)
    tangent = tf.where(active, signed / tf.where(length > 0.0, length, 1.0), 0.0)
    cosine = 1.0 / tf.sqrt(1.0 + tangent**2)
    exchange = tf.one_hot(partner, size, dtype=matrix.dtype)
    return tf.linalg.diag(cosine) + (tangent * cosine)[:, None] * exchange


@functools.cache
def _partners(size):
    """Return the rounds of a tournament in which everyone meets everyone once."""
    players = size + size % 2
    rounds = np.tile(np.arange(size, dtype=np.int32), (players - 1, 1))
    circle = list(range(players))
    for number in range(players - 1):
        for one, other in zip(circle[: players // 2], circle[::-1], strict=False):
            if max(one, other) < size:  # the odd one out meets nobody
                rounds[number, [one, other]] = other, one
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return rounds
