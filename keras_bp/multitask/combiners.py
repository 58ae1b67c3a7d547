"""The combiners: each is a few lines that turn the tasks' Gram matrix into their weights."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_choice, check_integer, check_number
from keras_bp._keras import compiled_by_xla, serializable
from keras_bp.multitask.combiner import Combiner
from keras_bp.multitask.solvers import (
    STATIONARY,
    nearest_to_origin,
    nonnegative_minimum,
    spectrum,
    worst_case,
)
from keras_bp.multitask.weighting import equal_weights, of_present

# As a share of the sum of magnitudes: below it a sum of weights is rounding.
VANISHING = 1e-9


@serializable
class Sum(Combiner):
    """Adds up the tasks' gradients: the gradient of the summed loss.

        d = sum over i of g_i

    The baseline that ignores conflicts: a task with a long gradient dominates.

    Example:
        >>> combiner = keras_bp.multitask.Sum()
        >>> combiner(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy().tolist()
        [0.0, 1.0]

    References:
        Caruana, 1997, "Multitask learning".
    """

    _weights_from = "presence"

    def _weights(self, gramian, present):
        return tf.cast(present, gramian.dtype)


@serializable
class Mean(Combiner):
    """Averages the tasks' gradients: equal weights.

        d = 1/T * sum over i of g_i

    A task that is left out of the step does not count in T.

    Example:
        >>> combiner = keras_bp.multitask.Mean()
        >>> combiner(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy().tolist()
        [0.0, 0.5]

    References:
        Caruana, 1997, "Multitask learning".
    """

    _weights_from = "presence"

    def _weights(self, gramian, present):
        return equal_weights(present, gramian.dtype)


@serializable
class PCGrad(Combiner):
    """Projects each task's gradient off every gradient that it conflicts with.

    For each task i, over the other tasks j in random order:

        h_i = g_i;    if h_i . g_j < 0:  h_i <- h_i - (h_i . g_j / ||g_j||^2) g_j

    with the original g_j, and d is the sum of the h_i. With two tasks no conflict is left; with
    more, a later projection may bring back an earlier conflict, and the order matters.

    In each step and for each task a new order is drawn from a `keras.random.SeedGenerator`:
    reproducible from `keras.utils.set_random_seed`, and from `seed`. Under XLA the order differs.

    Args:
        reduction: `"sum"`, as in the paper, or `"mean"` of the projected gradients. Defaults to
            `"sum"`.
        seed: integer of 0 or more, or `None` to draw one.

    Raises:
        TypeError: if `seed` is not an integer.
        ValueError: if `reduction` is not one of these, or `seed` is negative.

    Example:
        >>> combiner = keras_bp.multitask.PCGrad()
        >>> combiner(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy().tolist()
        [0.5, 1.5]

    References:
        Yu et al., 2020, "Gradient surgery for multi-task learning", Algorithm 1.
    """

    def __init__(self, reduction: str = "sum", seed: int | None = None) -> None:
        check_choice("reduction", reduction, ("sum", "mean"))
        if seed is not None:
            seed = check_integer("seed", seed, 0)
        self.reduction = reduction
        self.seed_generator = keras.random.SeedGenerator(seed)
        super().__init__(reduction=reduction, seed=seed)

    # A `SeedGenerator` holds a module, which cannot be copied; its state can.

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "seed_generator": np.array(self.seed_generator.state)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.seed_generator = keras.random.SeedGenerator(0)
        self.seed_generator.state.assign(state["seed_generator"])

    def _weights(self, gramian, present):
        size = gramian.shape[0]
        coefficients = project(gramian, self._orders(size))
        kept = tf.cast(present, gramian.dtype)
        weights = tf.linalg.matvec(coefficients, kept, transpose_a=True)
        if self.reduction == "mean":
            weights /= tf.maximum(tf.reduce_sum(kept), 1.0)
        return weights

    def _orders(self, size):
        """Draw a permutation of the tasks for each of them, as a tensor of shape (T, T)."""
        # As Keras narrows its generator's int64 state, which XLA does not take.
        state = tf.convert_to_tensor(self.seed_generator.next())
        seed = tf.cast(tf.math.floormod(state, tf.int32.max - 1), tf.int32)
        algorithm = "philox" if compiled_by_xla() else "auto_select"
        draws = tf.random.stateless_uniform((size, size), seed, alg=algorithm)
        return tf.argsort(draws, axis=1)


def project(gramian, orders):
    """Project each gradient off those that it conflicts with.

    Args:
        gramian: tensor M = J J^T of shape (T, T).
        orders: integer tensor of shape (T, T): row i holds the order in which task i meets the
            others; itself, wherever it stands, is passed over.

    Returns:
        A tensor C of shape (T, T) with h_i = sum over j of C_ij g_j.
    """
    size = gramian.shape[0]
    squares = tf.linalg.diag_part(gramian)
    squares = tf.where(squares > 0.0, squares, 1.0)
    own = tf.range(size, dtype=orders.dtype)

    def off_one(step, coefficients):
        other = orders[:, step]
        product = tf.reduce_sum(coefficients * tf.gather(gramian, other), axis=1)
        conflict = (product < 0.0) & (other != own)
        off = tf.where(conflict, product / tf.gather(squares, other), 0.0)
        return step + 1, coefficients - off[:, None] * tf.one_hot(other, size, dtype=off.dtype)

    identity = tf.eye(size, dtype=gramian.dtype)
    return tf.while_loop(lambda step, _: step < size, off_one, (0, identity))[1]


@serializable
class MGDA(Combiner):
    """Takes the point of the gradients' convex hull that is nearest to the origin.

        d = J^T a,    a = argmin a^T M a,    a_i >= 0,  sum of a = 1,  M = J J^T

    A step along -d lowers every task's loss, by the same amount to first order for tasks with a
    weight above 0: g_i . d >= ||d||^2 for all i. Where d = 0 no direction lowers all (the point is
    Pareto stationary), as with opposite gradients, or where one task's gradient is 0. The shortest
    gradient decides the step's length.

    The minimum is exact to rounding, while the Frank-Wolfe iterations of other implementations
    only approach it.

    Example:
        >>> combiner = keras_bp.multitask.MGDA()
        >>> combiner(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy().round(6).tolist()
        [0.20000000298023224, 0.4000000059604645]

    References:
        Desideri, 2012, "Multiple-gradient descent algorithm (MGDA) for multiobjective
        optimization".
        Sener and Koltun, 2018, "Multi-task learning as multi-objective optimization", equation 3.
    """

    def _weights(self, gramian, present):
        return nearest_to_origin(gramian, tf.cast(present, gramian.dtype))


@serializable
class CAGrad(Combiner):
    """Looks in a ball around the mean gradient for the direction that helps the worst task most.

        d = argmax over d of min over i of g_i . d,    ||d - g_0|| <= c ||g_0||,   g_0 = mean of g

    by its dual, with g_w = sum over i of w_i g_i, w_i >= 0 and sum of w = 1:

        d = g_0 + c ||g_0|| g_w / ||g_w||,    w = argmin g_w . g_0 + c ||g_0|| ||g_w||

    With c = 0 it is the mean. Where the best g_w is 0, or shorter than 1e-4 of the gradients that
    form it, no direction in the ball lowers every loss: the point is considered Pareto stationary,
    and d is 0. One task with a gradient of 0 is enough for that, if g_0 raises no other loss.

    Args:
        c: number of 0 or more, the ball's radius over ||g_0||; the paper's are 0.2 to 0.8. Below
            1, a step lowers the mean loss. Defaults to 0.5.

    Raises:
        TypeError: if `c` is not a number.
        ValueError: if `c` is negative or not finite.

    Example:
        >>> combiner = keras_bp.multitask.CAGrad(c=0.5)
        >>> [round(float(x), 4) for x in combiner(tf.constant([[1.0, 0.0], [-1.0, 1.0]]))]
        [0.25, 0.5]

    References:
        Liu et al., 2021, "Conflict-averse gradient descent for multi-task learning", equation 3
        and Algorithm 1.
    """

    def __init__(self, c: float = 0.5) -> None:
        self.c = check_number("c", c, 0.0)
        super().__init__(c=self.c)

    def _weights(self, gramian, present):
        mean = equal_weights(present, gramian.dtype)
        along = tf.linalg.matvec(gramian, mean)
        square = tf.maximum(tf.tensordot(mean, along, 1), 0.0)
        radius = self.c * tf.sqrt(square)
        w = worst_case(gramian, present, along, square, radius)
        length = tf.sqrt(tf.maximum(tf.tensordot(w, tf.linalg.matvec(gramian, w), 1), 0.0))
        lengths = tf.sqrt(tf.linalg.diag_part(gramian))
        stationary = length <= STATIONARY * tf.tensordot(w, lengths, 1)
        # With a gradient of 0 the best w lies entirely on it, up to rounding, or not at all.
        on_zeros = tf.where(present & (lengths <= 0.0), w, tf.zeros_like(w))
        stationary |= tf.reduce_sum(on_zeros) > 0.5
        pull = radius / tf.where(~stationary, length, 1.0)
        found = tf.where(stationary, tf.zeros_like(mean), mean + pull * w)
        # Without a radius there is nothing to look for.
        return tf.where(radius > 0.0, found, mean)


@serializable
class IMTLG(Combiner):
    """Takes the direction that lies equally along every task's gradient, impartial to its length.

        d = J^T a,    a = v / sum of v,    v = M^+ sqrt(diag M),    M = J J^T

    so that g_i . d / ||g_i|| is the same for all i, where the gradients are independent. M^+ is
    the pseudoinverse; a gradient of 0 gets no weight, and directions in which no gradient reaches
    some 1e-6 of the longest one count as rounding. Weights may be negative. Where the v sum to 0,
    as with opposite gradients, d is 0.

    Example:
        >>> combiner = keras_bp.multitask.IMTLG()
        >>> [round(float(x), 4) for x in combiner(tf.constant([[1.0, 0.0], [-1.0, 1.0]]))]
        [0.1716, 0.4142]

    References:
        Liu et al., 2021, "Towards impartial multi-task learning", section 3.1.
        Quinton and Rey, 2024, "Jacobian descent for multi-objective optimization", appendix: the
        form with the pseudoinverse.
    """

    def _weights(self, gramian, present):
        values, vectors, counts = spectrum(gramian)
        lengths = tf.sqrt(tf.maximum(tf.linalg.diag_part(gramian), 0.0))
        along = tf.linalg.matvec(vectors, lengths, transpose_a=True)
        inverse = tf.where(counts, 1.0 / tf.where(counts, values, 1.0), 0.0)
        weights = tf.linalg.matvec(vectors, inverse * along)
        total = tf.reduce_sum(weights)
        scale = tf.reduce_sum(tf.abs(weights))
        # Where M^+ sqrt(diag M) = 0 only rounding is left: of v, not of its sum.
        smallest = tf.sqrt(tf.reduce_sum(lengths**2) + 1e-300)
        vanishing = tf.abs(total) <= VANISHING * scale + 1e-12 / smallest
        return tf.where(~vanishing, weights / tf.where(~vanishing, total, 1.0), 0.0)


@serializable
class AlignedMTL(Combiner):
    """Gives all principal components of the gradients the length of the shortest, and averages.

        d = J^T B w,    B = sqrt(l_min) V diag(l)^(-1/2) V^T,    w_i = 1/T,    M = V diag(l) V^T

    over the eigenvalues l of M = J J^T that are not 0; a component of less than some 1e-6 of the
    longest counts as rounding, and is left out. The condition number of the gradients, which
    conflicts and differences in length raise, becomes 1. Equal and orthogonal gradients
    give their mean.

    Example:
        >>> combiner = keras_bp.multitask.AlignedMTL()
        >>> combiner(tf.constant([[2.0, 0.0], [0.0, 4.0]])).numpy().tolist()
        [1.0, 1.0]

    References:
        Senushkin et al., 2023, "Independent component alignment for multi-task learning",
        Algorithm 1.
    """

    def _weights(self, gramian, present):
        values, vectors, counts = spectrum(gramian)
        mean = equal_weights(present, gramian.dtype)
        values = tf.where(counts, values, 1.0)
        shortest = tf.reduce_min(tf.where(counts, values, tf.reduce_max(values)))
        shares = tf.where(counts, tf.sqrt(shortest / values), 0.0)
        return tf.linalg.matvec(vectors, shares * tf.linalg.matvec(vectors, mean, transpose_a=True))


@serializable
class UPGrad(Combiner):
    """Projects each gradient onto the dual cone of all, and averages the projections.

    The dual cone {d: g_j . d >= 0 for all j} holds the directions d for which a step along -d
    raises no task's loss. The projection of g_i / T is J^T v_i with

        v_i = argmin v^T M v,    v >= e_i / T;        d = J^T (sum over i of v_i)

    No conflict is left, whatever the number of tasks, and each gradient moves as little as that
    allows; without a conflict, d is the mean.

    Example:
        >>> combiner = keras_bp.multitask.UPGrad()
        >>> combiner(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy().tolist()
        [0.25, 0.75]

    References:
        Quinton and Rey, 2024, "Jacobian descent for multi-objective optimization", equations 3
        and 6, and Proposition 1.
    """

    def _weights(self, gramian, present):
        return projected_weights(gramian[None], present[None])[0]


def projected_weights(gramians, present):
    """Return UPGrad's weights for K Gram matrices at once.

    Args:
        gramians: tensor of shape (K, T, T).
        present: boolean tensor of shape (K, T).

    Returns:
        A tensor of shape (K, T).
    """
    tasks = gramians.shape[-1]
    least = tf.linalg.diag(equal_weights(present, gramians.dtype))
    # v = least + x with x >= 0.
    target = tf.reshape(-tf.matmul(least, gramians), (-1, tasks))
    x = nonnegative_minimum(tf.repeat(gramians, tasks, axis=0), target)
    return tf.reduce_sum(least + tf.reshape(x, (-1, tasks, tasks)), axis=1)


@serializable
class BlockwiseUPGrad(UPGrad):
    """Projects the tasks' gradients of each shared variable onto their dual cone there.

    With the blocks g_i^k of the gradients, one for each shared variable k, and M^k their Gramian,

        d^k = UPGrad of the g_i^k,    so that g_j^k . d^k >= 0 for all j and k

    One weight for a whole gradient overlooks a conflict in one layer if another layer's agreement
    makes up for it, and where there is a conflict in total, it bends the gradient in all layers,
    also in those that agree. Here no conflict is left in any variable, and so none in total; a
    variable in which the tasks agree gets the mean over the tasks that depend on it.
    `keras_bp.callbacks.GradientConflict` shows which layers conflict.

    Called with a Jacobian, which is one block, it is `UPGrad`.

    Example:
        >>> combiner = keras_bp.multitask.BlockwiseUPGrad()
        >>> one = [tf.constant([1.0, 0.0]), tf.constant([4.0])]
        >>> other = [tf.constant([-1.0, 1.0]), tf.constant([2.0])]
        >>> [g.numpy().tolist() for g in combiner.combine_tasks([one, other]).gradients]
        [[0.25, 0.75], [3.0]]

    References:
        The blocks are this package's own. UPGrad: Quinton and Rey, 2024, "Jacobian descent for
        multi-objective optimization", equations 3 and 6.
    """

    def _weights_of_variables(self, total, gramians, owners, present, losses):
        weights = [None] * len(gramians)
        shared = [number for number, gramian in enumerate(gramians) if gramian is not None]
        if shared:
            present &= tf.constant(owners[shared])
            blocks = of_present(tf.stack([gramians[number] for number in shared]), present)
            blocks = tf.where(present, projected_weights(blocks, present), 0.0)
            for number, block in zip(shared, tf.unstack(blocks), strict=True):
                weights[number] = block
        return weights, weights
