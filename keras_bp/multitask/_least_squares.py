"""The quadratic programs of the combiners, solved inside the graph by an active-set method."""

import tensorflow as tf

# Of a matrix whose diagonal is 1. The ridge lies far above the rounding of a Gramian in float64,
# so that the Cholesky factor always exists; the refinement takes its influence out again.
RIDGE = 1e-11
REFINEMENTS = 2
# Some thousand roundings of float64: a slope below it is none.
SLOPE = 2e-13


def nonnegative_minimum(matrix, linear):
    """Minimize x^T Q x / 2 - r^T x over x >= 0, for several r, or Q and r, at once.

    The method of Lawson and Hanson: the entry with the steepest descent joins the active set, the
    problem is solved on the set, and entries that would turn negative leave it. It is exact, but
    for rounding, as soon as the set is the right one: after about as many rounds as there are
    entries. Sets with dependent columns do not arise, but for rounding, which a ridge that is
    refined away takes care of.

    Args:
        matrix: float64 tensor Q of shape (T, T), or (B, T, T) for one of each r, positive
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
        both = active[:, :, None] & active[:, None, :]
        inner = tf.where(both, matrix, 0.0)
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
        # Only rounding makes an entry join with a slope that takes it down: it stays out.
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
    # Of the size of the smallest gradient, so that none vanishes beside it.
    smallest = tf.reduce_min(tf.where(squares > 0.0, squares, largest))
    lift = tf.maximum(smallest, floor * largest)
    lift = tf.where(lift > 0.0, lift, 1.0)
    matrix = gramian + lift * present[:, None] * present[None, :]
    x = nonnegative_minimum(matrix, (lift * present)[None])[0]
    total = tf.reduce_sum(x)
    return x / tf.where(total > 0.0, total, 1.0)
