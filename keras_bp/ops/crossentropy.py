"""Cross-entropies with the closed-form gradient: prediction minus target, `dZ = A - Y`."""

import keras
import tensorflow as tf

from keras_bp._arguments import check_axis, check_floating
from keras_bp._keras import compiled_by_xla
from keras_bp._types import Array
from keras_bp._xla import column_sum

# Up to so many classes the exact gradient costs less than testing whether the shortcut applies.
FEW_CLASSES = 32


def binary_crossentropy(target: Array, output: Array, from_logits: bool = False) -> tf.Tensor:
    """Cross-entropy of independent Bernoulli variables, element by element.

    Of logits z, with the target y and p = 1 / (1 + exp(-z)) (exact, and finite for every finite z):

        loss = max(z, 0) - z y + log(1 + exp(-|z|))
        dz   = dloss (p - y)            dy = -dloss z

    Of probabilities p, with e = `keras.config.epsilon()` (3e-5 in float16):

        loss = -y log(max(p, e)) - (1 - y) log(max(1 - p, e))
        dp   = dloss (-y / max(p, e) + (1 - y) / max(1 - p, e))
        dy   = dloss (log(max(1 - p, e)) - log(max(p, e)))

    where p and 1 - p above 1 count as 1.
    The loss of a correct prediction of exactly 0 or 1 is 0, that of a wrong one -log(e). Within e
    of a wrong certainty the loss is flat, but dp is not: it is a surrogate with the size that it
    has at the bound, since the loss's own derivative, 0, would end the learning.

    Args:
        target: tensor of `output`'s shape and dtype, in [0, 1].
        output: floating-point tensor of any shape: logits, or probabilities in [0, 1].
        from_logits: whether `output` holds logits.

    Returns:
        Tensor of `output`'s shape and dtype.

    Raises:
        TypeError: if `target` or `output` is not floating point, or their dtypes differ.
        ValueError: if the shapes of `target` and `output` differ.

    Example:
        >>> wrong, right = tf.constant([1.0]), tf.constant([0.0])
        >>> logit = tf.constant([-1e4])
        >>> keras_bp.ops.binary_crossentropy(wrong, logit, from_logits=True).numpy()
        array([10000.], dtype=float32)
        >>> keras_bp.ops.binary_crossentropy(right, logit, from_logits=True).numpy()
        array([0.], dtype=float32)
    """
    target, output = _alike(target, output)
    return (_binary_of_logits if from_logits else _binary_of_probabilities)(target, output)


def categorical_crossentropy(
    target: Array, output: Array, from_logits: bool = False, axis: int = -1
) -> tf.Tensor:
    """Cross-entropy of a categorical variable, its target a distribution over the classes.

    Of logits z, with a = softmax(z), over the classes k (exact, and finite for every finite z):

        loss = sum_k y_k (log(sum_j exp(z_j)) - z_k)
        dz_k = dloss (a_k sum_j y_j - y_k)            dy_k = -dloss log(a_k)

    With targets that sum to 1 this is `dZ = A - Y`. Of probabilities p, divided by
    their sum s, with e = `keras.config.epsilon()` and q_k = p_k / s:

        loss = -sum_k y_k log(max(q_k, e))
        dp_k = dloss (sum_j y_j - y_k / max(q_k, e)) / s        dy_k = -dloss log(max(q_k, e))

    For p_k below e the gradient is a surrogate, as in `binary_crossentropy`.

    Args:
        target: tensor of `output`'s shape and dtype.
        output: floating-point tensor of rank 1 or more: logits, or probabilities, not all 0.
        from_logits: whether `output` holds logits.
        axis: integer, the axis of the classes.

    Returns:
        Tensor of `output`'s dtype, and of its shape without `axis`.

    Raises:
        TypeError: if `target` or `output` is not floating point, their dtypes differ, or `axis` is
            not an integer.
        ValueError: if the shapes of `target` and `output` differ, or `axis` is outside their rank.

    Example:
        >>> target, logits = tf.constant([[0.0, 1.0]]), tf.constant([[1e4, -1e4]])
        >>> keras_bp.ops.categorical_crossentropy(target, logits, from_logits=True).numpy()
        array([20000.], dtype=float32)
    """
    target, output = _alike(target, output)
    rank = output.shape.rank
    if rank == 0:
        raise ValueError(
            f"`output` must have an axis of classes, rank 1 or more. Received: output={output}"
        )
    axis = check_axis("axis", axis, output.shape, "output")
    if not from_logits:
        return _categorical_of_probabilities(target, output, axis)
    if axis != rank - 1:
        order = [a for a in range(rank) if a != axis] + [axis]
        target, output = tf.transpose(target, order), tf.transpose(output, order)
    target, wide = _at_least_float32(target), _at_least_float32(output)
    return tf.cast(_by_rows(_categorical_of_logits, target, wide), output.dtype)


def sparse_categorical_crossentropy(
    target: Array, output: Array, from_logits: bool = False
) -> tf.Tensor:
    """Cross-entropy of a categorical variable, its target the index of the class.

    The same as `categorical_crossentropy` of the one-hot target, without ever making it. Of logits
    z, with a = softmax(z) and t the target:

        loss = log(sum_j exp(z_j)) - z_t
        dz_k = dloss (a_k - [k = t])

    Of probabilities p with sum s, e = `keras.config.epsilon()`, q = p / s:

        loss = -log(max(q_t, e))
        dp_k = dloss (1 - [k = t] / max(q_t, e)) / s

    Args:
        target: integer tensor of `output`'s shape without the last axis, in [0, classes). Compiled
            by XLA, which raises no errors, the loss of an index outside is NaN.
        output: floating-point tensor of rank 1 or more, the classes on its last axis: logits, or
            probabilities, not all 0.
        from_logits: whether `output` holds logits.

    Returns:
        Tensor of `output`'s dtype, and of its shape without the last axis.

    Raises:
        TypeError: if `target` is not an integer tensor or `output` not floating point.
        ValueError: if `target` does not have `output`'s shape without the last axis, or holds an
            index outside of the classes; in a graph that is a `tf.errors.InvalidArgumentError`.

    Example:
        >>> target, logits = tf.constant([1]), tf.constant([[1e4, -1e4]])
        >>> keras_bp.ops.sparse_categorical_crossentropy(target, logits, from_logits=True).numpy()
        array([20000.], dtype=float32)
    """
    output, target = check_floating("output", output), tf.convert_to_tensor(target)
    if not target.dtype.is_integer:
        raise TypeError(f"`target` must be an integer tensor. Received: dtype={target.dtype.name}")
    if output.shape.rank == 0 or not target.shape.is_compatible_with(output.shape[:-1]):
        raise ValueError(
            "`target` must have `output`'s shape without the last axis, the classes. "
            f"Received: target of shape {target.shape}, output of shape {output.shape}"
        )
    if target.dtype not in (tf.int32, tf.int64):
        target = tf.cast(target, tf.int64)
    target = _inside(target, tf.shape(output, target.dtype)[-1])
    if not from_logits:
        return _by_rows(_sparse_of_probabilities, target, output)
    loss = _by_rows(_sparse_of_logits, target, _at_least_float32(output))
    return tf.cast(loss, output.dtype)


def _alike(target, output):
    output = check_floating("output", output)
    target = check_floating("target", target, output.dtype)
    if output.shape.rank is None or target.shape.rank is None:
        raise ValueError(
            "`target` and `output` must have a known rank. "
            f"Received: target of shape {target.shape}, output of shape {output.shape}"
        )
    if not target.shape.is_compatible_with(output.shape):
        raise ValueError(
            "`target` and `output` must have the same shape. "
            f"Received: target of shape {target.shape}, output of shape {output.shape}"
        )
    if None in [*target.shape[1:], *output.shape[1:]]:
        # Shapes that broadcast would give gradients of the wrong shape.
        message = "`target` and `output` must have the same shape."
        same = tf.debugging.assert_equal(tf.shape(target), tf.shape(output), message)
        with tf.control_dependencies([] if same is None else [same]):
            target = tf.identity(target)
    return target, output


def _inside(labels, classes):
    """Return the labels, once it is known that they are in [0, classes)."""
    if compiled_by_xla():
        return labels
    low, high = tf.reduce_min(labels), tf.reduce_max(labels)
    inside = (low >= 0) & (high < classes)
    words = [
        "Labels (`target` of an op, `y_true` of a loss) must be at least 0 and below the number of "
        "classes. Received: labels from",
        low,
        "to",
        high,
        "where the number of classes is",
        classes,
    ]
    if tf.executing_eagerly():
        if not inside:
            raise ValueError(" ".join(str(w if isinstance(w, str) else w.numpy()) for w in words))
        return labels
    with tf.control_dependencies([tf.debugging.Assert(inside, words)]):
        return tf.identity(labels)


def _epsilon(dtype):
    """Return the bound of a probability: Keras's, or more if its reciprocal would overflow."""
    return max(keras.config.epsilon(), 2 / float(dtype.max))


def _at_least_float32(tensor):
    """Cast half precision: TensorFlow's kernels, which compute in it, give NaN for 6e4 and -6e4."""
    return tf.cast(tensor, tf.float32) if tensor.dtype.size == 2 else tensor


def _reciprocal(p):
    """Return 1 / p, at most half of the largest number, as float16 needs it."""
    return 1 / tf.maximum(p, 2 / float(p.dtype.max))


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
    def backward(dloss):
        p = _sigmoid_in_xla(z) if compiled_by_xla() else tf.sigmoid(z)
        return -dloss * z, dloss * (p - y)

    return tf.maximum(z, 0) - z * y + tf.math.log1p(tf.exp(-tf.abs(z))), backward


@tf.custom_gradient
def _sigmoid_in_xla(z):
    """Return `tf.sigmoid` from the loss's exponential, which XLA then computes once."""
    e = tf.exp(-tf.abs(z))
    p = tf.where(z >= 0, tf.ones([], z.dtype), e) / (1 + e)
    return p, lambda dp: dp * p * (1 - p)


@tf.custom_gradient
def _binary_of_probabilities(y, p):
    # Bounded above too: an infinite prediction would give a loss of minus infinity.
    positive, negative = (tf.minimum(tf.maximum(a, _epsilon(p.dtype)), 1) for a in (p, 1 - p))
    log_odds = tf.math.log(negative) - tf.math.log(positive)

    def backward(dloss):
        return dloss * log_odds, dloss * ((1 - y) / negative - y / positive)

    return y * log_odds - tf.math.log(negative), backward


@tf.custom_gradient
def _categorical_of_logits(y, z):
    """Rows of a matrix; TensorFlow's kernel gives the loss and, in the same pass, `a - y`."""
    if compiled_by_xla():
        a, log_a = _softmax_in_xla(z)
        # A logit of minus infinity, as of a masked class, counts only where there is a target.
        loss = -column_sum(tf.math.multiply_no_nan(log_a, y), in_xla=True)[:, 0]
        a_minus_y = a - y
    else:
        loss, a_minus_y = tf.raw_ops.SoftmaxCrossEntropyWithLogits(features=z, labels=y)

    def backward(dloss):
        dz = _logits_gradient(y, z, tf.stop_gradient(a_minus_y))
        return -dloss[:, tf.newaxis] * tf.nn.log_softmax(z), dloss[:, tf.newaxis] * dz

    return loss, backward


@tf.custom_gradient
def _logits_gradient(y, z, a_minus_y):
    """`a sum(y) - y`, where TensorFlow's own gradient is `a - y` whatever y sums to.

    Its backward pass is the second derivative of the loss.
    """
    total = column_sum(y, compiled_by_xla())

    def exact():
        return (a_minus_y + y) * total - y

    if compiled_by_xla() or (z.shape[-1] is not None and z.shape[-1] <= FEW_CLASSES):
        dz = exact()
    else:
        # In the usual case, a sum of 1 up to rounding, this needs no further pass over the batch.
        rounding = 1e-15 if z.dtype == tf.float64 else 1e-6
        dz = tf.cond(tf.reduce_all(tf.abs(total - 1) <= rounding), lambda: a_minus_y, exact)

    def backward(upstream):
        a = tf.nn.softmax(z)
        mean = tf.reduce_sum(upstream * a, -1, keepdims=True)
        return mean - upstream, total * a * (upstream - mean), None

    return dz, backward


def _softmax_in_xla(z):
    """Return the softmax over the columns of a matrix, and its logarithm, from one exponential."""
    shifted = z - tf.reduce_max(z, -1, keepdims=True)
    e = tf.exp(shifted)
    total = column_sum(e, in_xla=True)
    return e / total, shifted - tf.math.log(total)


def _categorical_of_probabilities(y, p, axis):
    @tf.custom_gradient
    def crossentropy(y, p):
        total = tf.maximum(tf.reduce_sum(p, axis, keepdims=True), _epsilon(p.dtype))
        q = tf.maximum(p / total, _epsilon(p.dtype))
        log_q = tf.math.log(q)

        def backward(dloss):
            dloss = tf.expand_dims(dloss, axis)
            shared = tf.reduce_sum(y, axis, keepdims=True) / total
            dp = dloss * (shared - y * _reciprocal(q * total))
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
        total = tf.maximum(tf.reduce_sum(p, -1), _epsilon(p.dtype))
        inside = (labels >= 0) & (labels < tf.cast(tf.shape(p)[-1], labels.dtype))
        # Under XLA a gather from outside gives a plausible number.
        q = tf.where(inside, tf.gather(p, labels, batch_dims=1), float("nan")) / total
        q = tf.maximum(q, _epsilon(p.dtype))

        def backward(dloss):
            of_label = tf.one_hot(labels, tf.shape(p)[-1], dtype=p.dtype)
            dp = 1 / total[:, tf.newaxis] - of_label * _reciprocal(q * total)[:, tf.newaxis]
            return dp * dloss[:, tf.newaxis]

        return -tf.math.log(q), backward

    return crossentropy(p)
