"""Normalization layers whose backward passes are written out."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bp import ops
from keras_bp._arguments import (
    as_floating,
    check_axis,
    check_flag,
    check_integer,
    check_number,
    check_positive_integer,
)
from keras_bp._keras import renormalization, serializable


@serializable
class BatchNormalization(keras.layers.BatchNormalization):
    """Normalizes each channel to the statistics of the batch, with its gradient in closed form.

    Drop-in for `keras.layers.BatchNormalization`: the same constructor, weights and files. In
    training (`keras_bp.ops.batch_normalization`):

        y  = gamma (x - mean) / sqrt(variance + epsilon) + beta
        dx = gamma / sqrt(variance + epsilon) (dy - mean(dy) - xh mean(dy xh))
        moving = momentum moving + (1 - momentum) batch          (mean and variance alike)

    with the biased variance and xh the normalized input. In inference, or where the layer is not
    trainable, the moving statistics replace the batch's. Three things differ from Keras,
    for the better: the variance of `synchronized` is that of centered values, which does not
    cancel where the mean is large; a `mask` works together with `synchronized`; and a batch without
    examples, or whose mask is false everywhere, leaves the moving statistics as they are and has
    gradients of 0, where Keras's are NaN: such is a replica's share of a last batch that is smaller
    than the number of replicas. Inference, `renorm=True` and ragged inputs run Keras's own code.

    In training on a CPU without `jit_compile`, XLA compiles the two passes by themselves where the
    batch has 131,072 entries or more: the first step takes 0.1 to 0.2 seconds longer for each pass
    and input shape, later ones are two to three times as fast as Keras's.

    Args:
        axis: integer, the axis of the channels. Defaults to -1.
        momentum: number in [0, 1], the share of the moving statistics that a step keeps. Defaults
            to 0.99.
        epsilon: non-negative number added to the variance. Defaults to 1e-3.
        center: whether there is an offset `beta`. Defaults to `True`.
        scale: whether there is a scale `gamma`. Defaults to `True`.
        beta_initializer: initializer of beta. Defaults to `"zeros"`.
        gamma_initializer: initializer of gamma. Defaults to `"ones"`.
        moving_mean_initializer: initializer of the moving mean. Defaults to `"zeros"`.
        moving_variance_initializer: initializer of the moving variance. Defaults to `"ones"`.
        beta_regularizer: regularizer of beta, or `None`.
        gamma_regularizer: regularizer of gamma, or `None`.
        beta_constraint: constraint of beta, or `None`.
        gamma_constraint: constraint of gamma, or `None`.
        renorm: whether to renormalize to the moving statistics in training. Defaults to `False`.
            Keras has it from 3.14 on.
        renorm_clipping: dictionary with any of `"rmax"`, `"rmin"`, `"dmax"`, or `None`.
        renorm_momentum: momentum of the statistics of `renorm`. Defaults to 0.99.
        synchronized: whether the statistics, and the sums of the backward pass, are those of all
            replicas of a `tf.distribute` strategy. Defaults to `False`.
        **kwargs: arguments of every Keras layer, such as `name`, `dtype` and `trainable`.

    Call arguments:
        inputs: tensor of rank 1 or more.
        training: whether to use and update the batch's statistics. `fit` sets it.
        mask: boolean tensor that broadcasts to the input's shape without its last axis: only
            positions that are true count in the statistics.

    Output shape:
        The input's.

    Raises:
        TypeError: if `axis`, `momentum` or `epsilon` is not a number of its kind.
        ValueError: if `axis` is outside the input's rank or of unknown length, `momentum` outside
            [0, 1], `epsilon` negative, or `mask` of another rank than the input's less one.

    Example:
        >>> layer = keras_bp.layers.BatchNormalization(epsilon=1e-5)
        >>> x = np.array([[2.0], [4.0], [6.0], [8.0]], "float32")
        >>> layer(x, training=True).numpy().ravel().round(4)
        array([-1.3416, -0.4472,  0.4472,  1.3416], dtype=float32)

    References:
        Ioffe and Szegedy, 2015, "Batch normalization: accelerating deep network training by
        reducing internal covariate shift", algorithms 1 and 2.
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: dict[str, float] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        check_integer("axis", axis)
        super().__init__(
            axis=axis,
            momentum=check_number("momentum", momentum, 0.0, 1.0),
            epsilon=check_number("epsilon", epsilon, 0.0),
            center=check_flag("center", center),
            scale=check_flag("scale", scale),
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            moving_mean_initializer=moving_mean_initializer,
            moving_variance_initializer=moving_variance_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **renormalization(
                check_flag("renorm", renorm),
                renorm_clipping,
                check_number("renorm_momentum", renorm_momentum, 0.0, 1.0),
            ),
            synchronized=check_flag("synchronized", synchronized),
            **kwargs,
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the weights, one entry per channel."""
        check_axis("axis", self.axis, input_shape, "inputs", known=True)
        super().build(input_shape)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Apply the layer, and in training update the moving statistics."""
        keras_own = getattr(self, "renorm", False) or isinstance(inputs, tf.RaggedTensor)
        if not (training and self.trainable) or keras_own:
            return super().call(inputs, training=training, mask=mask)
        options = {"axis": self.axis, "epsilon": self.epsilon, "synchronized": self.synchronized}
        inputs = as_floating(inputs, "float32")
        outputs, mean, variance = ops.batch_normalization(
            inputs, self.gamma, self.beta, mask=mask, **options
        )
        keep, take = (tf.constant(m, mean.dtype) for m in (self.momentum, 1 - self.momentum))
        if not self.synchronized:  # else other replicas have examples
            some = tf.size(inputs) > 0 if mask is None else tf.reduce_any(tf.cast(mask, tf.bool))
            keep, take = tf.where(some, keep, 1.0), tf.where(some, take, 0.0)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            # Not as a difference: with a small momentum it would keep the rounding of old values.
            moving.assign(keras.ops.cast(moving, batch.dtype) * keep + batch * take)
        return keras.ops.cast(outputs, self.compute_dtype)


@serializable
class LayerNormalization(keras.layers.LayerNormalization):
    """Normalizes each example to its own mean and variance, with its gradient in closed form.

    Drop-in for `keras.layers.LayerNormalization`: the same constructor, weights and files. The mean
    and the variance are taken over `axis` (`keras_bp.ops.layer_normalization`):

        y  = gamma xh + beta,    xh = (x - mean) / sqrt(variance + epsilon)
        dx = (g - mean(g) - xh mean(g xh)) / sqrt(variance + epsilon),    g = dy gamma

    The deprecated `rms_scaling` and ragged inputs run Keras's own code. On a CPU without
    `jit_compile` XLA compiles the two passes as in `BatchNormalization`.

    Args:
        axis: integer or list of integers, the axes normalized over. Defaults to -1.
        epsilon: non-negative number added to the variance. Defaults to 1e-3.
        center: whether there is an offset `beta`. Defaults to `True`.
        scale: whether there is a scale `gamma`. Defaults to `True`.
        beta_initializer: initializer of beta. Defaults to `"zeros"`.
        gamma_initializer: initializer of gamma. Defaults to `"ones"`.
        beta_regularizer: regularizer of beta, or `None`.
        gamma_regularizer: regularizer of gamma, or `None`.
        beta_constraint: constraint of beta, or `None`.
        gamma_constraint: constraint of gamma, or `None`.
        **kwargs: arguments of every Keras layer, such as `name` and `dtype`.

    Call arguments:
        inputs: tensor of rank 1 or more.

    Output shape:
        The input's.

    Raises:
        TypeError: if `axis` or `epsilon` is not a number of its kind.
        ValueError: if `axis` is outside the input's rank, of unknown length or repeated, or
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
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        for number in _listed(axis):
            check_integer("axis", number)
        super().__init__(
            axis=axis,
            epsilon=check_number("epsilon", epsilon, 0.0),
            center=check_flag("center", center),
            scale=check_flag("scale", scale),
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the weights, one entry per normalized feature."""
        axes = _listed(self.axis)
        axes = [check_axis("axis", a, input_shape, "inputs", known=True) for a in axes]
        if not axes or len(set(axes)) < len(axes):
            raise ValueError(
                "`axis` must name at least one axis, each once. "
                f"Received: axis={self.axis} for `inputs` of shape {tuple(input_shape)}"
            )
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Apply the layer."""
        if self.rms_scaling or isinstance(inputs, tf.RaggedTensor):
            return super().call(inputs)
        inputs = as_floating(inputs, "float32")
        outputs = ops.layer_normalization(inputs, self.gamma, self.beta, self.axis, self.epsilon)
        return keras.ops.cast(outputs, self.compute_dtype)


@serializable
class GroupNormalization(keras.layers.GroupNormalization):
    """Normalizes each group of channels of each example, with its gradient in closed form.

    Drop-in for `keras.layers.GroupNormalization`: the same constructor, weights and files. The mean
    and the variance are taken over a group's channels at all positions of an example
    (`keras_bp.ops.group_normalization`):

        y  = gamma xh + beta,    xh = (x - mean) / sqrt(variance + epsilon)
        dx = (g - mean(g) - xh mean(g xh)) / sqrt(variance + epsilon),    g = dy gamma

    Args:
        groups: positive integer that divides the channels, or -1 for one group per channel
            (instance normalization). Defaults to 32.
        axis: integer, the axis of the channels, not the first. Defaults to -1.
        epsilon: non-negative number added to the variance. Defaults to 1e-3.
        center: whether there is an offset `beta`. Defaults to `True`.
        scale: whether there is a scale `gamma`. Defaults to `True`.
        beta_initializer: initializer of beta. Defaults to `"zeros"`.
        gamma_initializer: initializer of gamma. Defaults to `"ones"`.
        beta_regularizer: regularizer of beta, or `None`.
        gamma_regularizer: regularizer of gamma, or `None`.
        beta_constraint: constraint of beta, or `None`.
        gamma_constraint: constraint of gamma, or `None`.
        **kwargs: arguments of every Keras layer, such as `name` and `dtype`.

    Call arguments:
        inputs: tensor of rank 2 or more, the examples on its first axis.

    Output shape:
        The input's.

    Raises:
        TypeError: if `axis` or `epsilon` is not a number of its kind.
        ValueError: if `groups` is not positive (or -1) or does not divide the channels, `axis` is
            the first, outside the input's rank or of unknown length, or `epsilon` negative.

    Example:
        >>> layer = keras_bp.layers.GroupNormalization(groups=2, epsilon=1e-9)
        >>> layer(np.array([[1.0, 3.0, 5.0, 9.0]], "float32")).numpy()
        array([[-1.,  1., -1.,  1.]], dtype=float32)

    References:
        Wu and He, 2018, "Group normalization", equations 1 to 3 and 7.
    """

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        check_integer("axis", axis)
        if groups != -1:
            check_positive_integer("groups", groups)
        super().__init__(
            groups=groups,
            axis=axis,
            epsilon=check_number("epsilon", epsilon, 0.0),
            center=check_flag("center", center),
            scale=check_flag("scale", scale),
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the weights, one entry per channel."""
        axis = check_axis("axis", self.axis, input_shape, "inputs", known=True)
        if axis == 0:
            raise ValueError(
                "`axis` must not be the first axis, which holds the examples. "
                f"Received: axis={self.axis} for `inputs` of shape {tuple(input_shape)}"
            )
        channels = input_shape[axis]
        if self.groups != -1 and channels % self.groups:
            raise ValueError(
                f"`groups` must divide the {channels} channels of `inputs`. "
                f"Received: groups={self.groups} for `inputs` of shape {tuple(input_shape)}"
            )
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Apply the layer."""
        inputs = as_floating(inputs, "float32")
        weights = self.gamma, self.beta
        outputs = ops.group_normalization(inputs, self.groups, *weights, self.axis, self.epsilon)
        return keras.ops.cast(outputs, self.compute_dtype)


def _listed(axis):
    return list(axis) if isinstance(axis, list | tuple) else [axis]
