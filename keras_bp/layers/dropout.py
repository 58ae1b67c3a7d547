"""Dropout layer whose backward pass is written out."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bp import ops
from keras_bp._arguments import as_floating, check_number
from keras_bp._keras import serializable


@serializable
class Dropout(keras.layers.Dropout):
    """Inverted dropout: in training zeroes a share `rate` of its inputs and scales up the rest.

    Drop-in for `keras.layers.Dropout`: the same constructor and files, and from the same seed the
    same mask, bit for bit. With D the mask (`keras_bp.ops.dropout`):

        y = x * D / (1 - rate),    dx = dy * D / (1 - rate)

    Outside training the output is the input. Replicas of a `tf.distribute` strategy, and workers,
    draw masks of their own, where Keras's draw the same one: the first one's is Keras's.

    Args:
        rate: number in [0, 1], the share of inputs that is zeroed.
        noise_shape: shape of the mask, that broadcasts to the input's: tuple of positive integers
            and `None` (the input's own length), or `None` for the input's shape.
        seed: integer seed, or `None` to draw one.
        **kwargs: arguments of every Keras layer, such as `name` and `dtype`.

    Call arguments:
        inputs: tensor of any shape.
        training: whether to drop. Defaults to `False`; `fit` sets it.

    Output shape:
        The input's.

    Raises:
        TypeError: if `rate` is not a number.
        ValueError: if `rate` is outside [0, 1], or `noise_shape` does not fit the input.

    Example:
        >>> layer = keras_bp.layers.Dropout(0.5, seed=1)
        >>> outputs = layer(np.ones((2, 3), "float32"), training=True)
        >>> bool(np.all((outputs == 0) | (outputs == 2)))
        True

    References:
        Srivastava et al., 2014, "Dropout: a simple way to prevent neural networks from
        overfitting", section 4.
    """

    def __init__(
        self,
        rate: float,
        noise_shape: Sequence[int | None] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        rate = check_number("rate", rate, 0.0, 1.0)
        super().__init__(rate, noise_shape=noise_shape, seed=seed, **kwargs)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Apply the layer."""
        if not training or self.rate == 0:
            return inputs
        inputs = as_floating(inputs, self.compute_dtype)
        seed = self.seed_generator.next()
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            seed, number = tf.cast(seed, tf.int64), replica.replica_id_in_sync_group
            other = tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int64))
            seed = tf.where(tf.equal(number, 0), seed, other)
        return ops.dropout(inputs, self.rate, seed, self.noise_shape)
