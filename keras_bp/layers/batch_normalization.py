"""Batch normalization layer whose backward pass is written out."""

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
class BatchNormalization(keras.layers.BatchNormalization):
    """Normalizes each channel to the statistics of the batch, with its gradient in closed form.

    Drop-in for `keras.layers.BatchNormalization`: the same constructor, weights and files. In
    training (`keras_bp.ops.batch_normalization`):

        y  = gamma (x - mean) / sqrt(variance + epsilon) + beta
        dx = gamma / sqrt(variance + epsilon) (dy - mean(dy) - xh mean(dy xh))
        moving = momentum moving + (1 - momentum) batch          (mean and variance alike)

    with the biased variance and xh the normalized input. In inference, or where the layer is not
    trainable, the moving statistics take the place of the batch's. Two things differ from Keras,
    for the better: the variance of `synchronized` is that of centered values, which does not
    cancel where the mean is large, and a `mask` works together with `synchronized`. Inference,
    `renorm=True` and ragged inputs run Keras's own code.

    Args:
        axis: Integer, the axis of the channels. Defaults to -1.
        momentum: Number in [0, 1], the share of the moving statistics that a step keeps. Defaults
            to 0.99 (the chapter takes 0.9).
        epsilon: Non-negative number added to the variance. Defaults to 1e-3 (the chapter: 1e-5).
        center: Whether there is an offset `beta`. Defaults to `True`.
        scale: Whether there is a scale `gamma`. Defaults to `True`.
        beta_initializer: Initializer of beta. Defaults to `"zeros"`.
        gamma_initializer: Initializer of gamma. Defaults to `"ones"`.
        moving_mean_initializer: Initializer of the moving mean. Defaults to `"zeros"`.
        moving_variance_initializer: Initializer of the moving variance. Defaults to `"ones"`.
        beta_regularizer: Regularizer of beta, or `None`.
        gamma_regularizer: Regularizer of gamma, or `None`.
        beta_constraint: Constraint of beta, or `None`.
        gamma_constraint: Constraint of gamma, or `None`.
        renorm: Whether to renormalize to the moving statistics in training. Defaults to `False`.
        renorm_clipping: Dictionary with any of `"rmax"`, `"rmin"`, `"dmax"`, or `None`.
        renorm_momentum: Momentum of the statistics of `renorm`. Defaults to 0.99.
        synchronized: Whether the statistics, and the sums of the backward pass, are those of all
            replicas of a `tf.distribute` strategy. Defaults to `False`.
        **kwargs: Arguments of every Keras layer, such as `name`, `dtype` and `trainable`.

    Call arguments:
        inputs: Tensor of rank 1 or more.
        training: Whether to use and update the batch's statistics. `fit` sets it.
        mask: Boolean tensor that broadcasts to the input's shape without its last axis: only
            positions that are true count in the statistics.

    Output shape:
        The input's.

    Raises:
        TypeError: If `axis`, `momentum` or `epsilon` is not a number of its kind.
        ValueError: If `axis` is outside the input's rank or of unknown length, `momentum` outside
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
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        renorm=False,
        renorm_clipping=None,
        renorm_momentum=0.99,
        synchronized=False,
        **kwargs,
    ):
        check_axis(axis)
        check_number(momentum, "momentum", maximum=1.0)
        check_number(epsilon, "epsilon")
        super().__init__(
            axis=axis,
            momentum=momentum,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            moving_mean_initializer=moving_mean_initializer,
            moving_variance_initializer=moving_variance_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            renorm=renorm,
            renorm_clipping=renorm_clipping,
            renorm_momentum=renorm_momentum,
            synchronized=synchronized,
            **kwargs,
        )

    def build(self, input_shape):
        """Create the weights, one entry a channel."""
        check_known_axes([self.axis], input_shape)
        super().build(input_shape)

    def call(self, inputs, training=None, mask=None):
        """Apply the layer, and in training update the moving statistics."""
        keras_own = self.renorm or isinstance(inputs, tf.RaggedTensor)
        if not (training and self.trainable) or keras_own:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = ops.batch_normalization(
            floating_inputs(inputs, "float32"),
            self.gamma,
            self.beta,
            axis=self.axis,
            epsilon=self.epsilon,
            mask=mask,
            synchronized=self.synchronized,
        )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            kept = keras.ops.cast(moving, batch.dtype) * self.momentum
            moving.assign(kept + batch * (1 - self.momentum))
        return keras.ops.cast(outputs, self.compute_dtype)
