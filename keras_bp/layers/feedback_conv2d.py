"""Convolution that is trained by feedback alignment."""

import keras

from keras_bp import ops
from keras_bp._keras import serializable
from keras_bp.layers._kernel_feedback import KernelFeedback


@serializable
class FeedbackConv2D(KernelFeedback, keras.layers.Conv2D):
    """Two-dimensional convolution whose backward pass takes a fixed random kernel for its own.

    Feedback alignment, as in `FeedbackDense`: the layer computes what `Conv2D` computes, but the
    error goes on to the layer before it through `feedback_kernel`, B, of the kernel's shape, drawn
    once and never trained:

        dx = conv_transpose(dz, B)    where backpropagation has    conv_transpose(dz, kernel)

    Kernel and bias get their ordinary gradients from the signal that comes in.

    Args:
        filters: Positive integer, the number of the output's channels.
        kernel_size: Integer or pair of integers.
        strides: Integer or pair of integers. Defaults to `(1, 1)`.
        padding: `"valid"`, the default, or `"same"`.
        feedback: `"random"`, the default, or `"sign"` for sign-symmetric feedback, `sign(kernel)
            |B|`: the kernel's signs, but not its values.
        feedback_initializer: Initializer of B, or `None`, the default, for uniform numbers within
            +-1 / sqrt(fan out), where fan out is filters times positions in the kernel.
        **kwargs: Further arguments of `keras.layers.Conv2D`, such as `activation`,
            `dilation_rate`, `data_format`, `name` and `dtype`; `groups` must be 1.

    Call arguments:
        inputs: Tensor of shape `(batch, height, width, channels)`.

    Output shape:
        `(batch, new height, new width, filters)`.

    Raises:
        ValueError: If `feedback` is no rule, `groups` is not 1, or the layer's dtype is quantized.

    Example:
        >>> layer = keras_bp.layers.FeedbackConv2D(8, 3, activation="relu")
        >>> layer(np.ones((2, 5, 5, 3), "float32")).shape
        TensorShape([2, 3, 3, 8])

    References:
        Bartunov et al., 2018, "Assessing the scalability of biologically-motivated deep learning
        algorithms and architectures", section 2.2.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=(1, 1),
        padding="valid",
        feedback="random",
        feedback_initializer=None,
        **kwargs,
    ):
        super().__init__(filters, kernel_size, strides=strides, padding=padding, **kwargs)
        if self.groups != 1:
            raise ValueError(
                f"`groups` must be 1 in `{type(self).__name__}`. Received: groups={self.groups}"
            )
        self._set_feedback(feedback, feedback_initializer)

    def convolution_op(self, inputs, kernel):
        """Convolve, in the place where Keras's `call` does it."""
        return ops.feedback_conv2d(
            *self._op_arguments(inputs, kernel),
            strides=self.strides,
            padding=self.padding,
            dilations=self.dilation_rate,
            data_format=self.data_format,
        )
