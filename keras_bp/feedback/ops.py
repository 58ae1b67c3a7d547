"""Feedback alignment: backward passes with a fixed matrix in place of the transposed kernel.

The backward rules here are surrogates: they train a network, but not by the gradient of its loss.
Inside `exact_gradients()` each gives the true gradient.
"""

import contextlib
import numbers
import threading
from collections.abc import Iterator, Sequence

import tensorflow as tf

from keras_bp._arguments import check_choice, check_floating
from keras_bp._types import Array
from keras_bp.ops import dense

# Each replica of a MirroredStrategy is traced in its own thread and has its own switch; one that is
# set outside holds for all replicas, whose threads begin inside its block.
_of_thread, _of_all, _lock = threading.local(), [0], threading.Lock()


@contextlib.contextmanager
def exact_gradients() -> Iterator[None]:
    """Let the feedback ops give the true gradient while the block runs.

    Inside the block the backward pass of `feedback_dense`, `feedback_conv2d`, `broadcast_error` and
    `detach`, and so of the layers on them, is that of backpropagation. What counts is where the
    gradient is taken, `tape.gradient(...)`, not where the tape recorded: one persistent tape gives
    both gradients of one forward pass. In a `tf.function` the switch is read while the function is
    traced; where only the forward pass is a `tf.function`, TensorFlow traces the backward pass with
    it, and the switch is read there. It holds in all threads, and so in the replicas of a strategy;
    set inside a replica, it holds in that replica only.

    Example:
    ```python
    with tf.GradientTape(persistent=True) as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    trained_with = tape.gradient(loss, model.trainable_variables)
    with keras_bp.feedback.exact_gradients():
        true = tape.gradient(loss, model.trainable_variables)
    ```
    """
    if _in_replica():
        before = getattr(_of_thread, "exact", False)
        _of_thread.exact = True
        try:
            yield
        finally:
            _of_thread.exact = before
        return
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _exact():
    """Tell whether the feedback ops are to give the true gradient."""
    return _of_all[0] > 0 or getattr(_of_thread, "exact", False)


def _in_replica():
    return not tf.distribute.in_cross_replica_context() and tf.distribute.has_strategy()


def _count(step):
    with _lock:
        _of_all[0] += step


def feedback_dense(
    x: Array, kernel: Array, feedback: Array, bias: Array | None = None
) -> tf.Tensor:
    """Affine map whose input gets its gradient through `feedback`.

    Forward, with m the examples (all axes but the last), i the inputs and j the units:

        z_mj = sum_i x_mi kernel_ij + bias_j

    Backward, from the incoming signal `dz`:

        dkernel_ij = sum_m x_mi dz_mj           (exact, given dz)
        dbias_j    = sum_m dz_mj                (exact, given dz)
        dx_mi      = sum_j dz_mj feedback_ij    (a surrogate: `ops.dense` has kernel_ij here)

    `feedback` gets no gradient. With `feedback = kernel` this is `ops.dense`.

    Args:
        x: floating-point tensor of shape `(..., inputs)`, rank 2 or more.
        kernel: tensor of shape `(inputs, units)`, of `x`'s dtype.
        feedback: tensor of the shape and dtype of `kernel`.
        bias: tensor of shape `(units,)`, of `x`'s dtype, or `None` for none.

    Returns:
        Tensor of shape `(..., units)`, of `x`'s dtype.

    Raises:
        TypeError: if an argument is not floating point, or the dtypes differ.
        ValueError: if the shapes do not fit.

    Example:
        >>> x, kernel = tf.constant([[1.0, 2.0]]), tf.constant([[0.5], [0.25]])
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(x)
        ...     z = keras_bp.feedback.feedback_dense(x, kernel, tf.constant([[3.0], [-4.0]]))
        >>> tape.gradient(z, x).numpy()
        array([[ 3., -4.]], dtype=float32)

    References:
        Lillicrap et al., 2016, "Random synaptic feedback weights support error backpropagation for
        deep learning", equation 2.
    """
    x = check_floating("x", x)
    kernel = check_floating("kernel", kernel, x.dtype)
    feedback = check_floating("feedback", feedback, x.dtype)
    _check_feedback(kernel, feedback)
    bias = [] if bias is None else [bias]

    @tf.custom_gradient
    def affine(x, kernel, feedback, *bias):
        z = dense(x, kernel, *bias)

        def backward(dz):
            back = kernel if _exact() else feedback
            pairs = zip((x, dz), kernel.shape, strict=True)
            rows, drows = (tf.reshape(tensor, [-1, n]) for tensor, n in pairs)
            dx = tf.reshape(tf.matmul(drows, back, transpose_b=True), tf.shape(x))
            dkernel = tf.matmul(rows, drows, transpose_a=True)
            dbias = [tf.raw_ops.BiasAddGrad(out_backprop=drows)] if bias else []
            return dx, dkernel, None, *dbias

        return z, backward

    return affine(x, kernel, feedback, *bias)


def feedback_conv2d(
    x: Array,
    kernel: Array,
    feedback: Array,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilations: int | Sequence[int] = 1,
    data_format: str | None = None,
) -> tf.Tensor:
    """Two-dimensional convolution whose input gets its gradient through `feedback`.

    Forward, with m the examples, p an output's position, q an offset in the kernel, c the input's
    channels and j the filters:

        z_mpj = sum_qc x_m(p+q)c kernel_qcj

    Backward, from `dz = dL/dz`:

        dkernel_qcj = sum_mp x_m(p+q)c dz_mpj            (exact, given dz)
        dx_mpc      = sum_qj dz_m(p-q)j feedback_qcj     (a surrogate)

    with p+q read as `strides * p + dilations * q`. `feedback` gets no gradient. With
    `feedback = kernel` this is the convolution's own gradient.

    Args:
        x: floating-point tensor of shape `(batch, height, width, channels)`, or
            `(batch, channels, height, width)` for `"channels_first"`, which needs a GPU.
        kernel: tensor of shape `(height, width, channels, filters)`, of `x`'s dtype.
        feedback: tensor of the shape and dtype of `kernel`.
        strides: integer or pair of integers of 1 or more. Defaults to 1.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        dilations: integer or pair of integers of 1 or more. Defaults to 1.
        data_format: `"channels_last"`, the default, or `"channels_first"`.

    Returns:
        Tensor of shape `(batch, new height, new width, filters)`, of `x`'s dtype.

    Raises:
        TypeError: if an argument is not floating point, or the dtypes differ.
        ValueError: if the shapes do not fit, or an option is not one of the above.

    Example:
        >>> x, kernel = tf.ones((1, 4, 4, 3)), tf.ones((2, 2, 3, 5))
        >>> keras_bp.feedback.feedback_conv2d(x, kernel, -kernel, padding="same").shape
        TensorShape([1, 4, 4, 5])

    References:
        Bartunov et al., 2018, "Assessing the scalability of biologically-motivated deep learning
        algorithms and architectures", section 2.2.
    """
    x = check_floating("x", x)
    kernel = check_floating("kernel", kernel, x.dtype)
    feedback = check_floating("feedback", feedback, x.dtype)
    if data_format is not None:
        check_choice("data_format", data_format, ("channels_last", "channels_first"))
    check_choice("padding", padding, ("valid", "same"))
    first = data_format == "channels_first"
    _check_conv2d(x, kernel, 1 if first else 3)
    _check_feedback(kernel, feedback)
    options = {
        "strides": _per_axis("strides", strides, first),
        "padding": padding.upper(),
        "dilations": _per_axis("dilations", dilations, first),
        "data_format": "NCHW" if first else "NHWC",
    }

    @tf.custom_gradient
    def convolution(x, kernel, feedback):
        def backward(dz):
            back = kernel if _exact() else feedback
            dx = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=back, out_backprop=dz, **options
            )
            dkernel = tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=tf.shape(kernel), out_backprop=dz, **options
            )
            return dx, dkernel, None

        return tf.nn.conv2d(x, kernel, **options), backward

    return convolution(x, kernel, feedback)


def broadcast_error(
    outputs: Array, hidden: Sequence[Array], feedback: Sequence[Array]
) -> tf.Tensor:
    """Identity in `outputs` that sends their gradient to the hidden layers too.

    Forward, with z the outputs:

        value = z

    Backward, from the error `e = dL/dz`, with m the examples, k the outputs, and n the entries of a
    hidden layer's output h for one example:

        dz_mk = e_mk                         (exact)
        dh_mn = sum_k e_mk feedback_kn       (a surrogate: the value does not depend on h)

    Direct feedback alignment: with `detach` between the hidden layers this is all that reaches
    them. `feedback` gets no gradient.

    Args:
        outputs: floating-point tensor of shape `(batch, outputs)`.
        hidden: list of tensors of shape `(batch, ...)`, known except for the batch, in the dtype of
            `outputs`.
        feedback: list of tensors, one for each of `hidden`, of shape `(outputs, n)`, with n the
            product of a hidden shape without the batch, in the dtype of `outputs`.

    Returns:
        Tensor of the shape, dtype and values of `outputs`.

    Raises:
        TypeError: if a tensor is not floating point, or the dtypes differ.
        ValueError: if the lists differ in length, or the shapes do not fit.

    Example:
        >>> z, h = tf.constant([[0.5, 1.0]]), tf.zeros((1, 3))
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(h)
        ...     y = keras_bp.feedback.broadcast_error(
        ...         z, [h], [tf.constant([[1.0, 2, 3], [4, 5, 6]])]
        ...     )
        >>> tape.gradient(y, h).numpy()
        array([[5., 7., 9.]], dtype=float32)

    References:
        Nøkland, 2016, "Direct feedback alignment provides learning in deep neural networks",
        equation 7.
    """
    z = check_floating("outputs", outputs)
    hidden, feedback = (
        [check_floating(name, tensor, z.dtype) for tensor in tensors]
        for name, tensors in (("hidden", hidden), ("feedback", feedback))
    )
    _check_broadcast(z, hidden, feedback)

    @tf.custom_gradient
    def identity(z, *others):
        def backward(e):
            hidden, feedback = others[: len(others) // 2], others[len(others) // 2 :]
            if _exact():
                return e, *[None] * len(others)
            signals = [
                tf.reshape(tf.matmul(e, b), tf.shape(h))
                for h, b in zip(hidden, feedback, strict=True)
            ]
            return e, *signals, *[None] * len(feedback)

        return tf.identity(z), backward

    return identity(z, *hidden, *feedback)


def detach(x: Array) -> tf.Tensor:
    """Identity through which no gradient goes back.

    Forward `value = x`, backward `dx = 0`, a surrogate. Unlike `tf.stop_gradient` it gives the true
    gradient, `dx = dvalue`, inside `keras_bp.feedback.exact_gradients()`.

    Args:
        x: floating-point tensor of any shape.

    Returns:
        Tensor of the shape, dtype and values of `x`.

    Raises:
        TypeError: if `x` is not floating point.

    Example:
        >>> float(keras_bp.feedback.detach(tf.constant(2.0)))
        2.0
    """

    @tf.custom_gradient
    def identity(x):
        return tf.identity(x), lambda dx: dx if _exact() else None

    return identity(check_floating("x", x))


def _check_feedback(kernel, feedback):
    if not feedback.shape.is_compatible_with(kernel.shape):
        raise ValueError(
            f"`feedback` must have the shape of `kernel`, {kernel.shape}. "
            f"Received: shape={feedback.shape}"
        )


def _check_conv2d(x, kernel, axis):
    if x.shape.rank != 4:
        raise ValueError(f"`x` must have rank 4. Received: shape={x.shape}")
    if not kernel.shape.is_fully_defined() or kernel.shape.rank != 4:
        raise ValueError(
            "`kernel` must have shape (height, width, channels, filters). "
            f"Received: shape={kernel.shape}"
        )
    if x.shape[axis] != kernel.shape[2]:
        raise ValueError(
            "`x` must have as many channels as `kernel`. "
            f"Received: x of shape {x.shape}, kernel of shape {kernel.shape}"
        )


def _per_axis(name, value, first):
    """Return an integer or a pair as the four numbers that TensorFlow expects."""
    pair = list(value) if isinstance(value, list | tuple) else [value, value]
    integers = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in pair)
    if len(pair) != 2 or not integers or min(pair) < 1:
        raise ValueError(
            f"`{name}` must be an integer of 1 or more, or a pair of them. "
            f"Received: {name}={value!r}"
        )
    return [1, 1, *pair] if first else [1, *pair, 1]


def _check_broadcast(z, hidden, feedback):
    if z.shape.rank != 2 or z.shape[1] is None:
        raise ValueError(
            "`outputs` must have shape (batch, outputs), with `outputs` known. "
            f"Received: shape={z.shape}"
        )
    if len(hidden) != len(feedback):
        raise ValueError(
            "`feedback` must hold one tensor for each of `hidden`. "
            f"Received: {len(hidden)} in `hidden`, {len(feedback)} in `feedback`"
        )
    for h, b in zip(hidden, feedback, strict=True):
        if not h.shape.rank or not h.shape[1:].is_fully_defined():
            raise ValueError(
                "`hidden` must hold tensors whose shape is known except for the batch. "
                f"Received: shape={h.shape}"
            )
        expected = (z.shape[1], h.shape[1:].num_elements())
        if not b.shape.is_compatible_with(expected):
            raise ValueError(
                f"`feedback` for a hidden tensor of shape {h.shape} must have shape {expected}. "
                f"Received: shape={b.shape}"
            )
