"""Cross-entropies with the closed-form gradient: prediction minus target, `dZ = A - Y`."""

import keras
import ml_dtypes
import tensorflow as tf

from keras_bp.ops._arguments import floating
from keras_bp.ops._xla import compiled_by_xla

# Up to here dividing the targets costs less than asking whether they sum to 1; XLA fuses the
# division in any case.
FEW_CLASSES = 32


def binary_crossentropy(target, output, from_logits=False):
    """Cross-entropy of independent Bernoulli variables, element by element.

    Of logits z, with the target y and p = 1 / (1 + exp(-z)) (exact, and finite for every finite z):

        loss = max(z, 0) - z y + log(1 + exp(-|z|))
        dz   = dloss (p - y)            dy = -dloss z

    Of probabilities p, with e = `keras.config.epsilon()`:

        loss = -y log(max(p, e)) - (1 - y) log(max(1 - p, e))
        dp   = dloss (-y / max(p, e) + (1 - y) / max(1 - p, e))
        dy   = dloss (log(max(1 - p, e)) - log(max(p, e)))

    The loss of a right prediction of exactly 0 or 1 is 0, that of a wrong one -log(e). Within e of
    a wrong certainty the loss is flat, but dp is not: it is the surrogate that keeps the size it
    has at the bound, where the loss's own derivative, 0, would end the learning.

    Args:
        target: Tensor of `output`'s shape and dtype, in [0, 1].
        output: Floating-point tensor of any shape: logits, or probabilities in [0, 1].
        from_logits: Whether `output` holds logits.

    Returns:
        Tensor of `output`'s shape and dtype.

    Raises:
        TypeError: If `target` or `output` is not floating point, or their dtypes differ.
        ValueError: If the shapes of `target` and `output` differ.
    """
    target, output = _alike(target, output)
    return (_binary_of_logits if from_logits else _binary_of_probabilities)(target, output)


def categorical_crossentropy(target, output, from_logits=False, axis=-1):
    """Cross-entropy of a categorical variable, its target a distribution over the classes.

    Of logits z, with a = softmax(z), over the classes k (exact, and finite for every finite z):

        loss = sum_k y_k (log(sum_j exp(z_j)) - z_k)
        dz_k = dloss (a_k sum_j y_j - y_k)            dy_k = -dloss log(a_k)

    With targets that sum to 1 this is the chapter's `dZ = A - Y`. Of probabilities p, divided by
    their sum s, with e = `keras.config.epsilon()` and q_k = p_k / s:

        loss = -sum_k y_k log(max(q_k, e))
        dp_k = dloss (sum_j y_j - y_k / max(q_k, e)) / s        dy_k = -dloss log(max(q_k, e))

    For p_k below e the gradient is a surrogate, as in `binary_crossentropy`.

    Args:
        target: Tensor of `output`'s shape and dtype.
        output: Floating-point tensor of rank 1 or more: logits, or probabilities, not all 0.
        from_logits: Whether `output` holds logits.
        axis: Integer, the axis of the classes.

    Returns:
        Tensor of `output`'s dtype, and of its shape without `axis`.

    Raises:
        TypeError: If `target` or `output` is not floating point, or their dtypes differ.
        ValueError: If the shapes of `target` and `output` differ, or `axis` is outside their rank.
    """
    target, output = _alike(target, output)
    rank = output.shape.rank
    if isinstance(axis, bool) or not isinstance(axis, int) or not -rank <= axis < rank:
        raise ValueError(
            f"`axis` must be an integer in [-{rank}, {rank}), the rank of `output`. "
            f"Received: axis={axis!r} for output of shape {output.shape}"
        )
    if not from_logits:
        return _categorical_of_probabilities(target, output, axis)
    if axis % rank != rank - 1:
        order = [a for a in range(rank) if a != axis % rank] + [axis % rank]
        target, output = tf.transpose(target, order), tf.transpose(output, order)
    return _by_rows(_categorical_of_logits, target, output)


def sparse_categorical_crossentropy(target, output, from_logits=False):
    """Cross-entropy of a categorical variable, its target the index of the class.

    The same as `categorical_crossentropy` of the one-hot target, which is never made. Of logits z,
    with a = softmax(z) and t the target:

        loss = log(sum_j exp(z_j)) - z_t
        dz_k = dloss (a_k - [k = t])

    Of probabilities p with sum s, e = `keras.config.epsilon()`, q = p / s:

        loss = -log(max(q_t, e))
        dp_k = dloss (1 - [k = t] / max(q_t, e)) / s

    Args:
        target: Integer tensor of `output`'s shape without the last axis, in [0, classes). On a CPU
            an index outside raises; on an accelerator and under XLA its loss is NaN.
        output: Floating-point tensor of rank 1 or more, the classes on its last axis: logits, or
            probabilities, not all 0.
        from_logits: Whether `output` holds logits.

    Returns:
        Tensor of `output`'s dtype, and of its shape without the last axis.

    Raises:
        TypeError: If `target` is not an integer tensor or `output` not floating point.
        ValueError: If `target` does not have `output`'s shape without the last axis.
    """
    output, target = floating(output, "output"), tf.convert_to_tensor(target)
    if not target.dtype.is_integer:
        raise TypeError(f"`target` must be an integer tensor. Received: dtype={target.dtype.name}")
    if output.shape.rank == 0 or not target.shape.is_compatible_with(output.shape[:-1]):
        raise ValueError(
            "`target` must have `output`'s shape without the last axis, the classes. "
            f"Received: target of shape {target.shape}, output of shape {output.shape}"
        )
    return _by_rows(_sparse_of_logits if from_logits else _sparse_of_probabilities, target, output)


def _alike(target, output):
    output = floating(output, "output")
    target = floating(target, "target", output.dtype)
    if not target.shape.is_compatible_with(output.shape) or output.shape.rank is None:
        raise ValueError(
            "`target` and `output` must have the same shape. "
            f"Received: target of shape {target.shape}, output of shape {output.shape}"
        )
    return target, output


def _by_rows(crossentropy, target, output):
    """Call a `crossentropy` of rows of a matrix on the last axis of an `output` of any rank."""
    if output.shape.rank == 2:
        return crossentropy(target, output)
    classes = tf.shape(output)[-1]
    rows = tf.reshape(target, [-1] if target.shape.rank < output.shape.rank else [-1, classes])
    loss = crossentropy(rows, tf.reshape(output, [-1, classes]))
    loss = tf.reshape(loss, tf.shape(output)[:-1])
    loss.set_shape(output.shape[:-1])
    return loss


@tf.custom_gradient
def _binary_of_logits(y, z):
    e = tf.exp(-tf.abs(z))

    def backward(dloss):
        # The same number twice: XLA shares the exponential, without XLA one kernel is fastest.
        p = (
            tf.where(z >= 0, tf.ones([], z.dtype), e) / (1 + e)
            if compiled_by_xla()
            else tf.sigmoid(z)
        )
        return -dloss * z, dloss * (p - y)

    return tf.maximum(z, 0) - z * y + tf.math.log1p(e), backward


@tf.custom_gradient
def _binary_of_probabilities(y, p):
    positive = tf.maximum(p, keras.config.epsilon())
    negative = tf.maximum(1 - p, keras.config.epsilon())
    log_odds = tf.math.log(negative) - tf.math.log(positive)

    def backward(dloss):
        return dloss * log_odds, dloss * ((1 - y) / negative - y / positive)

    return y * log_odds - tf.math.log(negative), backward


@tf.custom_gradient
def _softmax_kernel(y, z):
    """Loss and `a - y` of rows from TensorFlow's kernel; its own gradient of `a - y` ignores y."""
    loss, a_minus_y = tf.raw_ops.SoftmaxCrossEntropyWithLogits(features=z, labels=y)

    def backward(dloss, upstream):
        a = tf.nn.softmax(z)
        dz = (upstream - tf.reduce_sum(upstream * a, -1, keepdims=True)) * a
        dloss = dloss[:, tf.newaxis]
        return -dloss * tf.nn.log_softmax(z) - upstream, dloss * a_minus_y + dz

    return (loss, a_minus_y), backward


@tf.custom_gradient
def _categorical_of_logits(y, z):
    """Rows of a matrix. TensorFlow's own gradient, `a - y`, is wrong where y does not sum to 1."""
    total = tf.reduce_sum(y, -1)
    if compiled_by_xla() or (z.shape[-1] is not None and z.shape[-1] <= FEW_CLASSES):
        # sum(y) times the loss of y / sum(y).
        loss, a_minus_y = _softmax_kernel(tf.math.divide_no_nan(y, total[:, tf.newaxis]), z)
        loss *= total

        def gradient():
            return a_minus_y * total[:, tf.newaxis]
    else:
        loss, a_minus_y = _softmax_kernel(y, z)

        def gradient():
            # In the usual case, a sum of 1 up to rounding, no further pass over the batch.
            rounding = 8 * float(ml_dtypes.finfo(z.dtype.as_numpy_dtype).eps)
            return tf.cond(
                tf.reduce_all(tf.abs(total - 1) <= rounding),
                lambda: a_minus_y,
                lambda: (a_minus_y + y) * total[:, tf.newaxis] - y,
            )

    def backward(dloss):
        dloss = dloss[:, tf.newaxis]
        return -dloss * tf.nn.log_softmax(z), dloss * gradient()

    return loss, backward


def _categorical_of_probabilities(y, p, axis):
    @tf.custom_gradient
    def crossentropy(y, p):
        total = tf.maximum(tf.reduce_sum(p, axis, keepdims=True), keras.config.epsilon())
        q = tf.maximum(p / total, keras.config.epsilon())
        log_q = tf.math.log(q)

        def backward(dloss):
            dloss = tf.expand_dims(dloss, axis)
            dp = dloss * (tf.reduce_sum(y, axis, keepdims=True) - y / q) / total
            return -dloss * log_q, dp

        return -tf.reduce_sum(y * log_q, axis), backward

    return crossentropy(y, p)


def _sparse_of_logits(labels, z):
    @tf.custom_gradient
    def crossentropy(z):
        loss, a_minus_y = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=z, labels=labels)
        return loss, lambda dloss: dloss[:, tf.newaxis] * a_minus_y

    return crossentropy(z)


def _sparse_of_probabilities(labels, p):
    @tf.custom_gradient
    def crossentropy(p):
        total = tf.maximum(tf.reduce_sum(p, -1), keras.config.epsilon())
        q = tf.gather(p, labels, batch_dims=1) / total
        q = tf.maximum(q, keras.config.epsilon())

        def backward(dloss):
            dp = 1 - tf.one_hot(labels, tf.shape(p)[-1], dtype=p.dtype) / q[:, tf.newaxis]
            return dp * (dloss / total)[:, tf.newaxis]

        return -tf.math.log(q), backward

    return crossentropy(p)
