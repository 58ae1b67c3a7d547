"""What may limit an update beside clipping: outliers, the weights' size, and the update's own."""

import typing
from collections.abc import Callable

import tensorflow as tf

from keras_bp import gradients as gradient_tools
from keras_bp._paths import is_table, path_of
from keras_bp._types import LearningRate
from keras_bp.optimizers._rates_by_layer import (
    RatesByLayer,
    check_bound,
    is_projection,
)
from keras_bp.optimizers._variables import local

_WARM_UP = 25  # updates whose norms are only collected
_SHARE = 0.03  # of a new norm in the averages, from then on
_LEAST_WEIGHT_NORM = 1e-3  # of a unit, so that one of zeros can leave 0


class NormStatistics(typing.NamedTuple):
    """The mean and variance of the gradients' norms of the updates so far.

        mean' = 0.97 mean + 0.03 n;  variance' = 0.97 variance + 0.03 (n - mean')^2

    from the plain mean and variance of the first 25 that are not 0. A norm that is not finite does
    not count, and an outlier as what it is clipped to. One that is skipped counts as the largest
    that is not, so that norms which have become larger for good are usual soon.

    Attributes:
        mean, variance, count: scalar float64 `tf.Variable`.
    """

    mean: tf.Variable
    variance: tf.Variable
    count: tf.Variable

    def see(self, norm, clip_above, skip_above):
        """Return z, the norm's distance from the mean in deviations, and what it is clipped to.

        Args:
            norm: scalar float64 tensor.
            clip_above: number, the z that is clipped to, or `None`.
            skip_above: number, the z from which an update is skipped, or `None`.

        Returns:
            z, 0 in the first 25 updates, and mean + clip_above^2 / z * deviation, or the norm
            itself where z is no larger than the bound.
        """
        mean, deviation = tf.convert_to_tensor(self.mean), tf.sqrt(self.variance)
        warm = self.count >= _WARM_UP
        # As long as all norms were the same, none is an outlier.
        z = tf.where(warm & (deviation > 0), (norm - mean) / deviation, 0)
        bound = counted = norm
        if clip_above:
            bound = counted = tf.where(z > clip_above, mean + clip_above**2 / z * deviation, norm)
        if skip_above:
            counted = tf.where(z > skip_above, mean + skip_above * deviation, counted)
        self._add(counted, tf.math.is_finite(norm) & (norm > 0), warm)
        return z, bound

    def _add(self, norm, counts, warm):
        norm = tf.where(counts, norm, 0)
        share = tf.where(warm, tf.constant(_SHARE, tf.float64), 1 / (self.count + 1))
        share = tf.where(counts, share, 0)
        before = norm - self.mean
        self.mean.assign_add(share * before)
        after = norm - self.mean
        square = tf.where(warm, after, before) * after
        self.variance.assign_add(share * (square - self.variance))
        self.count.assign_add(tf.cast(counts, tf.float64))


def unit_axes(variable, sparse):
    """Return the axes over which a unit's weights lie.

    A unit is what the last index names: a column of a kernel, a filter of a convolution. In the
    projections of an attention, (dim, heads, head_dim), the last two name it; of a table it is a
    row. A bias is one unit, as a vector or scalar is.

    Args:
        variable: the variable.
        sparse: whether its gradient is, which a table's is.
    """
    rank = len(variable.shape)
    if sparse or is_table(variable):
        return list(range(1, rank))
    if rank < 2 or path_of(variable).endswith("bias"):
        return list(range(rank))
    return [0] if is_projection(variable) else list(range(rank - 1))


def clip_to_weights(gradient, weights, bound, axes):
    """Bound each unit's gradient by a share of its weights' norm: adaptive gradient clipping.

        g_i <- g_i min(1, bound max(||w_i||, 0.001) / ||g_i||)

    Args:
        gradient: tensor, or `tf.IndexedSlices` with every id once.
        weights: tensor, the variable.
        bound: number.
        axes: list of ints, see `unit_axes`.

    References:
        Brock, De, Smith and Simonyan, 2021, "High-performance large-scale image recognition
        without normalization", equation 3.
    """
    if isinstance(gradient, tf.IndexedSlices):
        weights = tf.gather(weights, gradient.indices)

    def norms(t):
        return tf.sqrt(tf.reduce_sum(tf.square(t), axes, keepdims=True))

    def clipped(g):
        g = tf.cast(g, weights.dtype)
        largest = bound * tf.maximum(norms(weights), _LEAST_WEIGHT_NORM)
        # Beside its largest entry no square overflows.
        scale = tf.reduce_max(tf.abs(g), axes, keepdims=True)
        unit = g / tf.where(scale > 0, scale, 1)
        norm = tf.maximum(norms(unit), 1)
        return tf.where(norm > largest / scale, unit * (largest / norm), g)

    return gradient_tools.map_values(clipped, gradient)


def limit(update, variable, gradient, by_rows, cautious, bound):
    """Let a rule update a variable, and limit how far.

    Args:
        update: function without arguments that updates the variable.
        variable: `tf.Variable`.
        gradient: tensor, or `tf.IndexedSlices` with every id once; a cautious update then moves
            its rows only.
        by_rows: whether the rule, too, moves no other row of such a gradient.
        cautious: whether the entries that do not descend stay, and the others move further.
        bound: scalar tensor, the most that the entries may move by in the root of the mean square,
            or `None`.
    """
    if not isinstance(gradient, tf.IndexedSlices) or not (by_rows or cautious):
        before = tf.identity(variable)
        update()
        gradient = tf.cast(gradient, variable.dtype) if cautious else None
        variable.assign(before + _limited(variable - before, gradient, cautious, bound))
        return
    ids, values = gradient.indices, tf.cast(gradient.values, variable.dtype)
    before = tf.gather(variable, ids) if by_rows else tf.identity(variable)
    update()
    move = tf.gather(variable, ids)
    if not by_rows:
        variable.assign(before)
        before = tf.gather(before, ids)
    move = _limited(move - before, values, cautious, bound)
    variable.scatter_update(tf.IndexedSlices(before + move, ids))


def _limited(move, gradient, cautious, bound):
    if bound is not None:
        # Beside its largest entry no square overflows.
        largest = tf.reduce_max(tf.abs(move))
        unit = move / tf.where(largest > 0, largest, 1)
        size = tf.sqrt(tf.reduce_mean(tf.square(unit)))
        move = tf.where(size > bound / largest, unit * (bound / size), move)
    if cautious:
        # A move that rounding has made 0 was one against the gradient, as most are.
        descends = (move * gradient < 0) | ((move == 0) & (gradient != 0))
        descends = tf.cast(descends, move.dtype)
        move *= descends * tf.cast(tf.size(move), move.dtype) / (tf.reduce_sum(descends) + 1)
    return move


class LimitedUpdates(RatesByLayer):
    """The part of the base that limits gradients before the rule, and the rule's move after it.

    Its arguments are explained in `Optimizer`.
    """

    argument_names: tuple[str, ...] = (
        "cautious",
        "adaptive_clip",
        "update_clip",
        "clip_above_zscore",
        "skip_above_zscore",
    )

    def __init__(
        self,
        learning_rate: LearningRate,
        *,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        cautious: bool = False,
        adaptive_clip: float | None = None,
        update_clip: float | None = None,
        clip_above_zscore: float | None = None,
        skip_above_zscore: float | None = None,
        **kwargs: typing.Any,
    ) -> None:
        bounds: dict[str, typing.Any] = dict(
            clipnorm=clipnorm, clipvalue=clipvalue, global_clipnorm=global_clipnorm
        )
        for name, bound in bounds.items():  # before Keras, which takes what cannot be compared
            check_bound(name, bound)
        super().__init__(learning_rate, **bounds, **kwargs)
        # Each is checked as it is set.
        self.cautious = cautious
        self.adaptive_clip = adaptive_clip
        self.update_clip = update_clip
        self.clip_above_zscore = clip_above_zscore
        self.skip_above_zscore = skip_above_zscore
        self._check_order_of_zscores()

    def _check_order_of_zscores(self):
        least, most = self.clip_above_zscore, self.skip_above_zscore
        if least and most and least >= most:
            raise ValueError(
                "`skip_above_zscore` must be above `clip_above_zscore`, or nothing is clipped. "
                f"Received: skip_above_zscore={most}, clip_above_zscore={least}"
            )

    def _check_set(self, name, value):
        self._check_order_of_zscores()
        if value and name.endswith("_above_zscore") and self._norm_statistics is None:
            raise ValueError(
                f"`{name}` must be given before the optimizer is built, which creates what it "
                f"counts the norms in. Received: {name}={value} for a built optimizer"
            )

    def _create_norm_statistics(self):
        self._norm_statistics = None
        if self.clip_above_zscore or self.skip_above_zscore:
            names = (f"gradient_norm_{name}" for name in NormStatistics._fields)
            statistics = [self.add_variable((), dtype="float64", name=name) for name in names]
            self._norm_statistics = lambda: NormStatistics(*map(local, statistics))

    def _without_outliers(self, gradients: list, update: Callable[[list], None]) -> None:
        """Call `update` with the gradients, clipped if their norm is an outlier, or not at all."""
        if self._norm_statistics is None:
            update(gradients)
            return
        # With every id once, so the rows' squares are the gradient's.
        values = [gradient_tools.values_of(gradient) for gradient in gradients]
        norm = tf.sqrt(tf.reduce_sum(gradient_tools.squared_norms(values)))
        clip_above, skip_above = self.clip_above_zscore, self.skip_above_zscore
        z, bound = self._norm_statistics().see(norm, clip_above, skip_above)
        if clip_above:
            excess = tf.where(z > clip_above, norm / bound, 1)
            gradients = [gradient_tools.unscale(gradient, excess) for gradient in gradients]
        if skip_above:
            is_usual = tf.math.is_finite(norm) & (z <= skip_above)
            tf.cond(is_usual, lambda: update(gradients), lambda: None)
        else:
            update(gradients)

    def _clipped(self, gradients, variables):
        # By their values: `clip` would sum the rows again, and under XLA tf.unique counts the
        # padding of ids of unknown number as ids.
        names = "clipvalue", "clipnorm", "global_clipnorm"
        values = [gradient_tools.values_of(gradient) for gradient in gradients]
        clipped = gradient_tools.clip(values, **{name: getattr(self, name) for name in names})
        pairs = zip(clipped, gradients, strict=True)
        gradients = [gradient_tools.map_values(lambda _, new=new: new, old) for new, old in pairs]
        if not self.adaptive_clip:
            return gradients

        def by_weights(gradient, variable):
            if self._in_last_layer[self._get_variable_index(variable)]:
                return gradient
            axes = unit_axes(variable, isinstance(gradient, tf.IndexedSlices))
            weights = self._up_to_date_target(variable)
            return clip_to_weights(gradient, weights, self.adaptive_clip, axes)

        return [by_weights(g, v) for g, v in zip(gradients, variables, strict=True)]

    def _limited(self, rule, variable, gradient, by_rows, rate):
        """Let the rule move a variable, within the limits; see `limit`."""
        if self.cautious or self.update_clip:
            bound = self.update_clip and tf.cast(rate * self.update_clip, variable.dtype)
            limit(rule, variable, gradient, by_rows, self.cautious, bound)
        else:
            rule()
