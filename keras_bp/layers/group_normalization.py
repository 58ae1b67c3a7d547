"""Group normalization layer whose backward pass is written out."""

import keras

from keras_bp import ops
from keras_bp._keras import serializable
from keras_bp.layers._arguments import (
    check_axis,
    check_known_axes,
    check_number,
    floating_inputs,
)


@serializable
class GroupNormalization(keras.layers.GroupNormalization):
    """Normalizes each group of channels of each example, with its gradient in closed form.

    Drop-in for `keras.layers.GroupNormalization`: the same constructor, weights and files. The mean
    and the variance are taken over a group's channels at all positions of an example
    (`keras_bp.ops.group_normalization`):

        y  = gamma xh + beta,    xh = (x - mean) / sqrt(variance + epsilon)
        dx = (g - mean(g) - xh mean(g xh)) / sqrt(variance + epsilon),    g = dy gamma

    Args:
        groups: Positive integer that divides the channels, or -1 for a group a channel (instance
            normalization). Defaults to 32.
        axis: Integer, the axis of the channels, not the first. Defaults to -1.
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
        inputs: Tensor of rank 2 or more, the examples on its first axis.

    Output shape:
        The input's.

    Raises:
        TypeError: If `axis` or `epsilon` is not a number of its kind.
        ValueError: If `groups` is not positive (or -1) or does not divide the channels, `axis` is
            the first, outside the input's rank or of unknown length, or `epsilon` negative.

    Example:
        >>> layer = keras_bp.layers.GroupNormalization(groups=2, epsilon=0.0)
        >>> layer(np.array([[1.0, 3.0, 5.0, 9.0]], "float32")).numpy()
        array([[-1.,  1., -1.,  1.]], dtype=float32)

    References:
        Wu and He, 2018, "Group normalization", equations 1 to 3 and 7.
    """

    def __init__(
        self,
        groups=32,
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
        check_axis(axis)
        check_number(epsilon, "epsilon")
        super().__init__(
            groups=groups,
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
        """Create the weights, one entry a channel."""
        check_known_axes([self.axis], input_shape)
        if self.axis % len(input_shape) == 0:
            raise ValueError(
                "`axis` must not be the first axis, which holds the examples. "
                f"Received: axis={self.axis} for an input of shape {tuple(input_shape)}"
            )
        channels = input_shape[self.axis]
        if self.groups != -1 and channels % self.groups:
            raise ValueError(
                f"`groups` must divide the {channels} channels of the input. "
                f"Received: groups={self.groups} for an input of shape {tuple(input_shape)}"
            )
        super().build(input_shape)

    def call(self, inputs):
        """Apply the layer."""
        outputs = ops.group_normalization(
            floating_inputs(inputs, "float32"),
            self.groups,
            self.gamma,
            self.beta,
            axis=self.axis,
            epsilon=self.epsilon,
        )
        return keras.ops.cast(outputs, self.compute_dtype)
