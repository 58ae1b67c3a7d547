"""Cross-entropy losses, from the logits where there are any, with the gradient `dZ = A - Y`.

Where predictions are probabilities, the logits behind them are used if it is certain that they are
those of the loss's own activation, a sigmoid or a softmax over the last axis, and that nothing lies
between. That is so behind this package's layers, and in a graph (so in `fit`) behind Keras's and
TensorFlow's too. Eagerly, Keras's layers leave logits that do not tell their activation: they are
used unless a batch's outputs could be another activation's as well, as where all are exactly 0 or
1. Otherwise the loss and its gradient are those of the probabilities: never another activation's.

With a `tf.distribute` strategy a mean is that of the global batch, however the replicas share it,
where Keras's losses take the mean of the replicas' means: in an epoch's last batch, and where sums
of masks or of sample weights differ. Its gradient costs a sum of one number over the replicas, each
time that it is taken: on all of them, and under `MirroredStrategy` not in a `tf.function` or a
`tf.cond` that they call. `reduction="sum"` costs none, and a custom loop divides such a sum by the
global batch's size. The value that a replica returns is its own share's mean, divided by the number
of replicas, as Keras's.
"""

import functools
import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_bp import ops
from keras_bp._arguments import check_axis, check_flag, check_integer, check_number
from keras_bp._keras import copy_annotations, logits_of, mask_of, serializable, set_mask

__all__ = ["BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"]


class _Crossentropy(keras.losses.Loss):
    """Base of the three losses: casts predictions together with their logits."""

    _labels_have_all_axes = True  # those of the predictions

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        if not isinstance(y_pred, keras.KerasTensor):
            y_true = tf.convert_to_tensor(y_true)
            y_pred = _in_dtype(tf.convert_to_tensor(y_pred), self.dtype)
            if self._labels_have_all_axes:
                y_pred = _of_rank(y_true.shape.rank, y_pred)
        loss = super().__call__(y_true, y_pred, sample_weight)
        replicas = tf.distribute.get_replica_context()
        is_mean = self.reduction not in ("sum", "none", None) and len(y_pred.shape) > 1
        if not is_mean or replicas is None or replicas.num_replicas_in_sync == 1:
            return loss
        return _of_global_batch(loss, self._count(y_true, y_pred, sample_weight), replicas)

    def _count(self, y_true, y_pred, sample_weight):
        """Return by what Keras divides the sum over this replica's share, up to a common factor."""
        mask = self._mask(y_true, mask_of(y_pred))
        weighted = self.reduction == "mean_with_sample_weight" and sample_weight is not None
        if mask is None and not weighted:
            return tf.cast(tf.shape(y_pred)[0], tf.float32)
        weights = [] if mask is None else [tf.cast(mask, tf.float32)]
        if weighted:
            weights.append(tf.cast(sample_weight, tf.float32))
        rank = max(w.shape.rank for w in weights)
        # As Keras does: a last axis of 1 is added.
        weights = [w if w.shape.rank == rank else w[..., tf.newaxis] for w in weights]
        return tf.reduce_sum(functools.reduce(tf.multiply, weights))

    def _mask(self, y_true, mask):
        """Return the mask of the losses, of that of the predictions."""
        return mask


@serializable
class BinaryCrossentropy(_Crossentropy, keras.losses.BinaryCrossentropy):
    """Cross-entropy of labels in {0, 1}, with the closed-form gradient `dz = p - y`.

    Drop-in for `keras.losses.BinaryCrossentropy`. With y the label, z the logit, p = sigmoid(z):

        loss = -y log(p) - (1 - y) log(1 - p), averaged over `axis`,    dz = p - y

    computed from the logits (`keras_bp.ops.binary_crossentropy`), so that it is exact and finite
    for every finite logit: also where the model ends in a sigmoid, as long as nothing lies between
    that and the loss. Other probabilities are used as they are: a certain and correct prediction
    costs exactly 0, a certain and wrong one -log(epsilon), and its gradient does not vanish as in
    Keras.

    Args:
        from_logits: whether the predictions are logits. Defaults to `False`, probabilities.
        label_smoothing: number in [0, 1], the share by which labels move towards 1/2.
        axis: integer, the axis averaged over. Defaults to -1.
        reduction: `"sum_over_batch_size"` (default), `"mean"`, `"sum"`,
            `"mean_with_sample_weight"`, `"none"` or `None`.
        name: name of the loss.
        dtype: dtype of the computation. Defaults to `keras.config.floatx()`.

    Call arguments:
        y_true: labels, of the predictions' shape.
        y_pred: predictions, of shape `(batch, ..., labels)`.
        sample_weight: weights that broadcast to the loss before the reduction, or `None`.

    Raises:
        TypeError: if `label_smoothing` is not a number.
        ValueError: if `label_smoothing` is outside [0, 1], or the shapes differ.

    Example:
        >>> loss = keras_bp.losses.BinaryCrossentropy(from_logits=True)
        >>> float(loss(np.array([[1.0], [0.0]]), np.array([[-1e4], [-1e4]])))
        5000.0
    """

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "binary_crossentropy",
        dtype: Any = None,
    ) -> None:
        from_logits = check_flag("from_logits", from_logits)
        label_smoothing = check_number("label_smoothing", label_smoothing, 0.0, 1.0)
        super().__init__(from_logits, label_smoothing, axis, reduction, name, dtype)
        self.fn = _binary_crossentropy


@serializable
class CategoricalCrossentropy(_Crossentropy, keras.losses.CategoricalCrossentropy):
    """Cross-entropy of one-hot labels, with the closed-form gradient `dz = a - y`.

    Drop-in for `keras.losses.CategoricalCrossentropy`. With y the label, z the logits, a =
    softmax(z), over the classes k:

        loss = -sum_k y_k log(a_k),    dz_k = a_k sum_j y_j - y_k

    computed from the logits (`keras_bp.ops.categorical_crossentropy`), so that it is exact and
    finite for all finite logits: also where the model ends in a softmax, as long as nothing lies
    between that and the loss. Labels need not sum to 1: the gradient is exact for them too, where
    Keras's is still `a - y`.

    Args:
        from_logits: whether the predictions are logits. Defaults to `False`, probabilities, which
            are divided by their sum.
        label_smoothing: number in [0, 1], the share of a label that is spread over all classes.
        axis: integer, the axis of the classes. Defaults to -1.
        reduction: `"sum_over_batch_size"` (default), `"mean"`, `"sum"`,
            `"mean_with_sample_weight"`, `"none"` or `None`.
        name: name of the loss.
        dtype: dtype of the computation. Defaults to `keras.config.floatx()`.

    Call arguments:
        y_true: labels, of the predictions' shape.
        y_pred: predictions, the classes on `axis`.
        sample_weight: weights that broadcast to the loss before the reduction, or `None`.

    Raises:
        TypeError: if `label_smoothing` is not a number.
        ValueError: if `label_smoothing` is outside [0, 1], or the shapes differ.

    Example:
        >>> loss = keras_bp.losses.CategoricalCrossentropy(from_logits=True)
        >>> float(loss(np.array([[0.0, 1.0]]), np.array([[1e4, -1e4]])))
        20000.0
    """

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        from_logits = check_flag("from_logits", from_logits)
        label_smoothing = check_number("label_smoothing", label_smoothing, 0.0, 1.0)
        super().__init__(from_logits, label_smoothing, axis, reduction, name, dtype)
        self.fn = _categorical_crossentropy


@serializable
class SparseCategoricalCrossentropy(_Crossentropy, keras.losses.SparseCategoricalCrossentropy):
    """Cross-entropy of integer labels, with the closed-form gradient `dz = a - y`.

    Drop-in for `keras.losses.SparseCategoricalCrossentropy`: `CategoricalCrossentropy` of the
    one-hot label, without making it (`keras_bp.ops.sparse_categorical_crossentropy`). Label
    smoothing, which Keras has from 3.16 on, and another axis work with every version of Keras.

    Args:
        from_logits: whether the predictions are logits. Defaults to `False`, probabilities, which
            are divided by their sum.
        ignore_class: integer label whose examples are left out, or `None`.
        reduction: `"sum_over_batch_size"` (default), `"mean"`, `"sum"`,
            `"mean_with_sample_weight"`, `"none"` or `None`.
        axis: integer, the axis of the classes. Defaults to -1.
        label_smoothing: number in [0, 1], the share of a label that is spread over all classes.
        name: name of the loss.
        dtype: dtype of the computation. Defaults to `keras.config.floatx()`.

    Call arguments:
        y_true: integer labels in [0, classes), of the predictions' shape without `axis`, or with a
            length of 1 there.
        y_pred: predictions, the classes on `axis`.
        sample_weight: weights that broadcast to the loss before the reduction, or `None`.

    Raises:
        TypeError: if `axis` is not an integer, or `label_smoothing` not a number.
        ValueError: if the shapes do not fit, `label_smoothing` is outside [0, 1], `dtype` is too
            narrow for the classes' numbers, or a label is outside of the classes. In a graph the
            last is a `tf.errors.InvalidArgumentError`, and compiled by XLA the loss is NaN.

    Example:
        >>> loss = keras_bp.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> float(loss(np.array([1]), np.array([[1e4, -1e4]])))
        20000.0
    """

    _labels_have_all_axes = False

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        axis: int = -1,
        label_smoothing: float = 0.0,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        from_logits = check_flag("from_logits", from_logits)
        if ignore_class is not None:
            if isinstance(ignore_class, float) and ignore_class % 1 == 0:  # 255.0, as Keras
                ignore_class = int(ignore_class)
            ignore_class = check_integer("ignore_class", ignore_class)
        super().__init__(from_logits, ignore_class, reduction, name=name, dtype=dtype)
        self._arguments = {
            "from_logits": from_logits,
            "ignore_class": ignore_class,
            "axis": check_integer("axis", axis),
            "label_smoothing": check_number("label_smoothing", label_smoothing, 0.0, 1.0),
        }

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute the loss of each label."""
        return _sparse_categorical_crossentropy(y_true, y_pred, **self._arguments)

    def _mask(self, y_true, mask):
        ignored = self._arguments["ignore_class"]
        if ignored is None:
            return mask
        counted = tf.cast(y_true, tf.int64) != ignored
        return counted if mask is None else mask & tf.reshape(counted, tf.shape(mask))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**keras.losses.Loss.get_config(self), **self._arguments}


def _binary_crossentropy(y_true, y_pred, from_logits, label_smoothing, axis):
    if isinstance(y_pred, keras.KerasTensor):
        return keras.losses.binary_crossentropy(y_true, y_pred, from_logits, label_smoothing, axis)
    _check(y_true, y_pred, axis)
    y_pred, from_logits = _logits(y_pred, from_logits, "sigmoid")
    y_true = tf.cast(y_true, y_pred.dtype)
    if label_smoothing:
        y_true = y_true * (1 - label_smoothing) + label_smoothing / 2
    # Keras's mean adds half precision up in float32.
    return keras.ops.mean(ops.binary_crossentropy(y_true, y_pred, from_logits), axis)


def _categorical_crossentropy(y_true, y_pred, from_logits, label_smoothing, axis):
    if isinstance(y_pred, keras.KerasTensor):
        return keras.losses.categorical_crossentropy(
            y_true, y_pred, from_logits, label_smoothing, axis
        )
    _check(y_true, y_pred, axis)
    if y_pred.shape[axis] == 1:
        warnings.warn(
            "The categorical cross-entropy of a single class is always 0; for a single unit use "
            f"the binary one. Received: y_pred of shape {y_pred.shape}",
            SyntaxWarning,
            stacklevel=2,
        )
    if axis in (-1, y_pred.shape.rank - 1):
        y_pred, from_logits = _logits(y_pred, from_logits, "softmax")
    y_true = tf.cast(y_true, y_pred.dtype)
    if label_smoothing:
        classes = tf.cast(tf.shape(y_true)[axis], y_true.dtype)
        y_true = y_true * (1 - label_smoothing) + label_smoothing / classes
    return ops.categorical_crossentropy(y_true, y_pred, from_logits, axis)


def _sparse_categorical_crossentropy(
    y_true, y_pred, from_logits, ignore_class, axis, label_smoothing
):
    rank = len(y_pred.shape)
    axis = check_axis("axis", axis, y_pred.shape, "y_pred")
    received = f"y_true of shape {y_true.shape}, y_pred of shape {y_pred.shape}, axis={axis}"
    if axis != rank - 1:
        y_pred = keras.ops.moveaxis(y_pred, axis, -1)
    if len(y_true.shape) == rank and y_true.shape[axis] == 1:
        y_true = keras.ops.squeeze(y_true, axis)
    if isinstance(y_pred, keras.KerasTensor):
        return keras.losses.sparse_categorical_crossentropy(
            y_true, y_pred, from_logits, ignore_class
        )
    if not y_true.shape.is_compatible_with(y_pred.shape[:-1]):
        raise ValueError(
            f"`y_true` must have `y_pred`'s shape without `axis`. Received: {received}"
        )
    # Keras casts labels to the loss's dtype, in which bfloat16 makes 257 256.
    exact = {tf.float16: 2048, tf.bfloat16: 256}.get(y_true.dtype)
    if exact and (y_pred.shape[-1] or 0) > exact + 1:
        raise ValueError(
            f"`dtype` must hold all labels, which {y_true.dtype.name} does up to {exact}. "
            f"Received: y_pred of shape {y_pred.shape}"
        )
    y_pred, from_logits = _logits(y_pred, from_logits, "softmax")
    y_true = tf.cast(y_true, tf.int64)
    if ignore_class is not None:
        counted = y_true != int(ignore_class)
        y_true, y_pred = tf.where(counted, y_true, 0), tf.where(counted[..., None], y_pred, 0)
    loss = ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits)
    if label_smoothing:
        share = 1 / tf.cast(tf.shape(y_pred)[-1], y_pred.dtype)
        uniform = ops.categorical_crossentropy(
            tf.fill(tf.shape(y_pred), share), y_pred, from_logits
        )
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    if ignore_class is not None:
        loss = tf.where(counted, loss, 0)
        # Keras leaves masked entries out of the mean.
        set_mask(loss, counted)
    return loss


def _of_global_batch(loss, count, replicas):
    """Return the mean over a replica's share, with its part in the global batch's as its gradient.

    Keras divides it by the number of replicas R, and sums the gradients: the mean of the means. Of
    shares of n_r examples the global mean is their sum, each times R n_r / n. The value stays, as
    Keras weighs it by n_r where it reports it.
    """

    @tf.custom_gradient
    def weighted(loss):
        def backward(upstream):
            # Here and not before: an evaluation needs no sum over the replicas.
            share = replicas.num_replicas_in_sync * count
            factor = tf.math.divide_no_nan(share, replicas.all_reduce("SUM", count))
            return upstream * tf.cast(factor, upstream.dtype)

        return tf.identity(loss), backward

    return weighted(loss)


def _in_dtype(y_pred, dtype):
    """Cast predictions together with their logits and their mask."""
    if y_pred.dtype == dtype:
        return y_pred

    @tf.custom_gradient
    def cast(y_pred):
        def backward(upstream):
            # The gradient at a certain and wrong probability, 1e7, overflows float16.
            bound = tf.cast(y_pred.dtype.max, upstream.dtype)
            upstream = tf.clip_by_value(upstream, -bound, bound)
            return tf.cast(upstream, y_pred.dtype)

        return tf.cast(y_pred, dtype), backward

    narrower = y_pred.dtype.is_floating and y_pred.dtype.max < tf.as_dtype(dtype).max
    result = cast(y_pred) if narrower else tf.cast(y_pred, dtype)
    return copy_annotations(y_pred, result, lambda logits: tf.cast(logits, dtype))


def _of_rank(rank, y_pred):
    """Drop a last axis of 1 that labels of this rank lack: Keras would drop it without the logits.

    It gives labels of rank 1 that axis instead.
    """
    if rank in (None, 0, 1) or y_pred.shape.rank != rank + 1 or y_pred.shape[-1] != 1:
        return y_pred
    return copy_annotations(y_pred, tf.squeeze(y_pred, -1), lambda logits: tf.squeeze(logits, -1))


def _check(y_true, y_pred, axis):
    rank = y_pred.shape.rank
    if rank is None or not y_true.shape.is_compatible_with(y_pred.shape):
        raise ValueError(
            "`y_true` and `y_pred` must have the same shape. "
            f"Received: y_true of shape {y_true.shape}, y_pred of shape {y_pred.shape}"
        )
    check_axis("axis", axis, y_pred.shape, "y_pred")


def _logits(y_pred, from_logits, activation):
    """Return the logits behind `y_pred` and True, or the arguments if there are none for certain.

    Logits of another activation are not this loss's.
    """
    logits, source = logits_of(y_pred)
    if source != activation:
        return y_pred, from_logits
    if from_logits:
        warnings.warn(
            f"`from_logits=True`, but the predictions are the output of a {activation}; the loss "
            "is computed from that activation's input.",
            stacklevel=2,
        )
    return logits, True
