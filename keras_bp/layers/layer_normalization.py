"""Layer normalization layer whose backward pass is written out."""

import keras
import tensorflow as tf

from keras_bp import ops
from keras_bp._keras import serializable
from keras_bp.layers._arguments import (
    check_axis,
    check_known_axes,
    check_number,
    floating_inputs,
)


@serializable
class LayerNormalization(keras.layers.LayerNormalization):
    """Normalizes each example to its own mean and variance, with its gradient in closed form.

    Drop-in for `keras.layers.LayerNormalization`: the same constructor, weights and files. The mean
    and the variance are taken over `axis` (`keras_bp.ops.layer_normalization`):

        y  = gamma xh + beta,    xh = (x - mean) / sqrt(variance + epsilon)
        dx = (g - mean(g) - xh mean(g xh)) / sqrt(variance + epsilon),    g = dy gamma

    The deprecated `rms_scaling` and ragged inputs run Keras's own code.

    Args:
        axis: Integer or list of integers, the axes normalized over. Defaults to -1.
        epsilon: Non-negative number added to the variance. Defaults to 1e-3.
        center: Whether there is an offset `beta`. Defaults to `True`.
        scale: Whether there is a scale `gamma`. Defaults to `True`.
        beta_initializer: Initializer of beta. Defaults to `"zeros"`.
        gamma_initializer: Initializer of gamma. Defaults to `"ones"`.
        beta_regularizer: Regularizer of beta, or `None`.
        gamma_regularizer: Regularizer of gamma, or `None`.
        beta_constraint: Constraint of beta, or `None`.
        gamma_constraint: Constraint of gamma, or `None`.
        **kwargs: Arguments of every Keras layer, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of rank 1 or more.

    Output shape:
        The input's.

    Raises:
        TypeError: If `axis` or `epsilon` is not a number of its kind.
        ValueError: If `axis` is outside the input's rank, of unknown length or repeated, or
            `epsilon` negative.

    Example:
        >>> layer = keras_bp.layers.LayerNormalization(epsilon=1e-5)
        >>> layer(np.array([[1.0, 3.0, 5.0, 7.0]], "float32")).numpy().round(4)
        array([[-1.3416, -0.4472,  0.4472,  1.3416]], dtype=float32)

    References:
        Ba et al., 2016, "Layer normalization", equations 3 and 4.
    """

    def __init__(
        self,
        axis=-1,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        **kwargs,
    ):
        for one in axis if isinstance(axis, (list, tuple)) else [axis]:
            check_axis(one)
        check_number(epsilon, "epsilon")
        super().__init__(
            axis=axis,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )

    def build(self, input_shape):
        """Create the weights, one entry a normalized feature."""
        axes = self.axis if isinstance(self.axis, (list, tuple)) else [self.axis]
        check_known_axes(axes, input_shape)
        if not axes or len({axis % len(input_shape) for axis in axes}) < len(axes):
            raise ValueError(
                "`axis` must name at least one axis, each once. "
                f"Received: axis={self.axis} for an input of shape {tuple(input_shape)}"
            )
        super().build(input_shape)

    def call(self, inputs):
        """Apply the layer."""
        if self.rms_scaling or isinstance(inputs, tf.RaggedTensor):
            return super().call(inputs)
        outputs = ops.layer_normalization(
            floating_inputs(inputs, "float32"),
            self.gamma,
            self.beta,
            axis=self.axis,
            epsilon=self.epsilon,
        )
        return keras.ops.cast(outputs, self.compute_dtype)
