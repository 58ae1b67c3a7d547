"""Eigenvalues of a Gramian, exact in float64 under XLA too, and its rank."""

import functools

import numpy as np
import tensorflow as tf

# Off-diagonal rest, as a share of the largest eigenvalue, at which the matrix counts as diagonal.
ROUNDING = 1e-15
# Gradients in float32 that depend on each other do so to some 1e-6 of their size, and eigenvalues
# are squares: below this share of the largest they are noise.
NOISE = 1e-12
SWEEPS = 10


def spectrum(gramian):
    """Return the eigenvalues, the eigenvectors and which of them count.

    `tf.linalg.eigh` stops at an off-diagonal rest of some 1e-7 where XLA has compiled it, at which
    no rank can be told: Jacobi rotations carry on from there, and do nothing elsewhere.

    Args:
        gramian: float64 tensor of shape (T, T), symmetric and positive semi-definite.

    Returns:
        Eigenvalues of shape (T,), at least 0 and in no order; eigenvectors as the columns of a
        tensor of shape (T, T); and a boolean tensor of shape (T,), True where the eigenvalue is
        above rounding. The three sum up to M = V diag(eigenvalues) V^T.
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
        # Of an exactly symmetric matrix: the two of a pair have to turn by the same angle, in the
        # null space too, where entries are rounding alone.
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
    # The sign of a tie must differ between the two of a pair.
    ahead = (apart > 0.0) | ((apart == 0.0) & (own < partner))
    # tan = sign / (|ratio| + sqrt(ratio^2 + 1)) with ratio = apart / (2 off), not to divide by 0.
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
