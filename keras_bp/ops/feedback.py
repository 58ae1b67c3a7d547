"""Feedback alignment: layers whose backward pass takes a fixed matrix for the transposed kernel.

The backward rules here are surrogates: they train a network, but by something other than the
gradient of its loss. Inside `keras_bp.feedback.exact_gradients()` each gives the true gradient.
"""

import numbers

import tensorflow as tf

from keras_bp._exact_gradients import gives_exact_gradients
from keras_bp.ops._arguments import floating
from keras_bp.ops.dense import dense


def feedback_dense(x, kernel, feedback, bias=None):
    """Affine map whose input gets its gradient through `feedback`.

    Forward, with m the examples (all axes but the last), i the inputs and j the units:

        z_mj = sum_i x_mi kernel_ij + bias_j

    Backward, from the incoming signal `dz`:

        dkernel_ij = sum_m x_mi dz_mj           (exact, given dz)
        dbias_j    = sum_m dz_mj                (exact, given dz)
        dx_mi      = sum_j dz_mj feedback_ij    (a surrogate: `ops.dense` has kernel_ij here)

    `feedback` gets no gradient. With `feedback = kernel` this is `ops.dense`.

    Args:
        x: Floating-point tensor of shape `(..., inputs)`, rank 2 or more.
        kernel: Tensor of shape `(inputs, units)`, of `x`'s dtype.
        feedback: Tensor of the shape and dtype of `kernel`.
        bias: Tensor of shape `(units,)`, of `x`'s dtype, or `None` for none.

    Returns:
        Tensor of shape `(..., units)`, of `x`'s dtype.

    Raises:
        TypeError: If an argument is not floating point, or the dtypes differ.
        ValueError: If the shapes do not fit.

    Example:
        >>> x, kernel = tf.constant([[1.0, 2.0]]), tf.constant([[0.5], [0.25]])
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(x)
        ...     z = keras_bp.ops.feedback_dense(x, kernel, tf.constant([[3.0], [-4.0]]))
        >>> tape.gradient(z, x).numpy()
        array([[ 3., -4.]], dtype=float32)

    References:
        Lillicrap et al., 2016, "Random synaptic feedback weights support error backpropagation for
        deep learning", equation 2.
    """
    x = floating(x, "x")
    kernel = floating(kernel, "kernel", x.dtype)
    feedback = floating(feedback, "feedback", x.dtype)
    _check_feedback(kernel, feedback)
    bias = [] if bias is None else [bias]

    @tf.custom_gradient
    def affine(x, kernel, feedback, *bias):
        z = dense(x, kernel, *bias)

        def backward(dz):
            back = kernel if gives_exact_gradients() else feedback
            rows, drows = (
                tf.reshape(tensor, [-1, n]) for tensor, n in zip((x, dz), kernel.shape, strict=True)
            )
            dx = tf.reshape(tf.matmul(drows, back, transpose_b=True), tf.shape(x))
            dkernel = tf.matmul(rows, drows, transpose_a=True)
            dbias = [tf.raw_ops.BiasAddGrad(out_backprop=drows)] if bias else []
            return dx, dkernel, None, *dbias

        return z, backward

    return affine(x, kernel, feedback, *bias)


def feedback_conv2d(x, kernel, feedback, strides=1, padding="valid", dilations=1, data_format=None):
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
        x: Floating-point tensor of shape `(batch, height, width, channels)`, or
            `(batch, channels, height, width)` for `"channels_first"`, which needs a GPU.
        kernel: Tensor of shape `(height, width, channels, filters)`, of `x`'s dtype.
        feedback: Tensor of the shape and dtype of `kernel`.
        strides: Integer or pair of integers of 1 or more. Defaults to 1.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        dilations: Integer or pair of integers of 1 or more. Defaults to 1.
        data_format: `"channels_last"`, the default, or `"channels_first"`.

    Returns:
        Tensor of shape `(batch, new height, new width, filters)`, of `x`'s dtype.

    Raises:
        TypeError: If an argument is not floating point, or the dtypes differ.
        ValueError: If the shapes do not fit, or an option is none of the above.

    Example:
        >>> x, kernel = tf.ones((1, 4, 4, 3)), tf.ones((2, 2, 3, 5))
        >>> keras_bp.ops.feedback_conv2d(x, kernel, -kernel, padding="same").shape
        TensorShape([1, 4, 4, 5])

    References:
        Bartunov et al., 2018, "Assessing the scalability of biologically-motivated deep learning
        algorithms and architectures", section 2.2.
    """
    x = floating(x, "x")
    kernel = floating(kernel, "kernel", x.dtype)
    feedback = floating(feedback, "feedback", x.dtype)
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(
            '`data_format` must be None, "channels_last" or "channels_first". '
            f"Received: data_format={data_format!r}"
        )
    if padding not in ("valid", "same"):
        raise ValueError(f'`padding` must be "valid" or "same". Received: padding={padding!r}')
    first = data_format == "channels_first"
    _check_conv2d(x, kernel, 1 if first else 3)
    _check_feedback(kernel, feedback)
    options = {
        "strides": _per_axis(strides, "strides", first),
        "padding": padding.upper(),
        "dilations": _per_axis(dilations, "dilations", first),
        "data_format": "NCHW" if first else "NHWC",
    }

    @tf.custom_gradient
    def convolution(x, kernel, feedback):
        def backward(dz):
            back = kernel if gives_exact_gradients() else feedback
            dx = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=back, out_backprop=dz, **options
            )
            dkernel = tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=tf.shape(kernel), out_backprop=dz, **options
            )
            return dx, dkernel, None

        return tf.nn.conv2d(x, kernel, **options), backward

    return convolution(x, kernel, feedback)


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
            "The channels of `x` must be as many as those of `kernel`. "
            f"Received: x of shape {x.shape}, kernel of shape {kernel.shape}"
        )


def _per_axis(value, name, first):
    """Return an integer or a pair as the four numbers that TensorFlow wants."""
    pair = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(pair) != 2 or any(
        isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < 1 for n in pair
    ):
        raise ValueError(
            f"`{name}` must be an integer of 1 or more, or a pair of them. "
            f"Received: {name}={value!r}"
        )
    return [1, 1, *pair] if first else [1, *pair, 1]
