"""Direct feedback alignment: the output's error goes to every hidden layer, none between them.

The backward rules here are surrogates, as those of `ops.feedback_dense` are. Inside
`keras_bp.feedback.exact_gradients()` each gives the true gradient.
"""

import tensorflow as tf

from keras_bp._exact_gradients import gives_exact_gradients
from keras_bp.ops._arguments import floating


def broadcast_error(outputs, hidden, feedback):
    """Identity in `outputs` that sends their gradient to the hidden layers too.

    Forward, with z the outputs:

        value = z

    Backward, from the error `e = dL/dz`, with m the examples, k the outputs, and n the numbers of a
    hidden layer's output h for one example:

        dz_mk = e_mk                         (exact)
        dh_mn = sum_k e_mk feedback_kn       (a surrogate: the value does not depend on h)

    Direct feedback alignment: with `detach` between the hidden layers this is all that reaches
    them. `feedback` gets no gradient.

    Args:
        outputs: Floating-point tensor of shape `(batch, outputs)`.
        hidden: List of tensors of shape `(batch, ...)`, of known shape but for the batch, in the
            dtype of `outputs`.
        feedback: List of tensors, one for each of `hidden`, of shape `(outputs, n)`, with n the
            product of a hidden shape without the batch, in the dtype of `outputs`.

    Returns:
        Tensor of the shape, dtype and values of `outputs`.

    Raises:
        TypeError: If a tensor is not floating point, or the dtypes differ.
        ValueError: If the lists differ in length, or the shapes do not fit.

    Example:
        >>> z, h = tf.constant([[0.5, 1.0]]), tf.zeros((1, 3))
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(h)
        ...     y = keras_bp.ops.broadcast_error(z, [h], [tf.constant([[1.0, 2, 3], [4, 5, 6]])])
        >>> tape.gradient(y, h).numpy()
        array([[5., 7., 9.]], dtype=float32)

    References:
        Nøkland, 2016, "Direct feedback alignment provides learning in deep neural networks",
        equation 7.
    """
    z = floating(outputs, "outputs")
    hidden, feedback = (
        [floating(tensor, name, z.dtype) for tensor in tensors]
        for name, tensors in (("hidden", hidden), ("feedback", feedback))
    )
    _check_broadcast(z, hidden, feedback)

    @tf.custom_gradient
    def identity(z, *others):
        def backward(e):
            hidden, feedback = others[: len(others) // 2], others[len(others) // 2 :]
            if gives_exact_gradients():
                return e, *[None] * len(others)
            signals = [
                tf.reshape(tf.matmul(e, b), tf.shape(h))
                for h, b in zip(hidden, feedback, strict=True)
            ]
            return e, *signals, *[None] * len(feedback)

        return tf.identity(z), backward

    return identity(z, *hidden, *feedback)


def detach(x):
    """Identity through which no gradient goes back.

    Forward `value = x`, backward `dx = 0`, a surrogate. Unlike `tf.stop_gradient` it gives the true
    gradient, `dx = dvalue`, inside `keras_bp.feedback.exact_gradients()`.

    Args:
        x: Floating-point tensor of any shape.

    Returns:
        Tensor of the shape, dtype and values of `x`.

    Raises:
        TypeError: If `x` is not floating point.

    Example:
        >>> float(keras_bp.ops.detach(tf.constant(2.0)))
        2.0
    """

    @tf.custom_gradient
    def identity(x):
        return tf.identity(x), lambda dx: dx if gives_exact_gradients() else None

    return identity(floating(x, "x"))


def _check_broadcast(z, hidden, feedback):
    if z.shape.rank != 2 or z.shape[1] is None:
        raise ValueError(
            "`outputs` must have shape (batch, outputs), the second number known. "
            f"Received: shape={z.shape}"
        )
    if len(hidden) != len(feedback):
        raise ValueError(
            "`feedback` must hold a tensor for each of `hidden`. "
            f"Received: {len(hidden)} in `hidden`, {len(feedback)} in `feedback`"
        )
    for h, b in zip(hidden, feedback, strict=True):
        if not h.shape.rank or not h.shape[1:].is_fully_defined():
            raise ValueError(
                "`hidden` must hold tensors of known shape but for the batch. "
                f"Received: shape={h.shape}"
            )
        expected = (z.shape[1], h.shape[1:].num_elements())
        if not b.shape.is_compatible_with(expected):
            raise ValueError(
                f"`feedback` for a hidden tensor of shape {h.shape} must have shape {expected}. "
                f"Received: shape={b.shape}"
            )
