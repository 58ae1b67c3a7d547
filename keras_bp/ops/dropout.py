"""Inverted dropout."""

from collections.abc import Sequence

import tensorflow as tf

from keras_bp._arguments import check_floating, check_number
from keras_bp._keras import compiled_by_xla
from keras_bp._types import Array


def dropout(
    x: Array, rate: float, seed: Array, noise_shape: Sequence[int | None] | None = None
) -> tf.Tensor:
    """Inverted dropout: zeroes a share `rate` of the elements and scales up the rest.

    Forward, with D the kept elements, drawn from a uniform u >= rate:

        y = x * D / (1 - rate)

    so that the expectation of y is x, and inference needs no scaling. Backward (exact, for the
    mask that was drawn; only D, one boolean per element, is kept):

        dx = dy * D / (1 - rate)

    The mask is a function of `seed` alone: without jit bit for bit the one that Keras draws from
    the same state of a `keras.random.SeedGenerator`. Under XLA it is a different one, as in Keras.

    Args:
        x: floating-point tensor of any shape.
        rate: Python float in [0, 1], the share dropped. At 1 the result is all zeros, at 0 it is
            `x`.
        seed: integer tensor of shape `(2,)`.
        noise_shape: shape of the mask, broadcastable to `x`'s: an axis of length 1 is dropped as a
            whole. A sequence of integers, where `None` stands for `x`'s own length; or `None` for
            `x`'s shape.

    Returns:
        Tensor of `x`'s shape and dtype.

    Raises:
        TypeError: if `x` is not floating point or `rate` is not a number.
        ValueError: if `rate` is outside [0, 1], or `noise_shape` does not fit `x`.

    Example:
        >>> x = tf.ones([2, 4])
        >>> y = keras_bp.ops.dropout(x, 0.5, seed=[1, 2], noise_shape=[2, 1]).numpy()
        >>> bool(np.all((y == y[:, :1]) & ((y == 0) | (y == 2))))
        True

    References:
        Srivastava et al., 2014, "Dropout: a simple way to prevent neural networks from
        overfitting", section 4.
    """
    x = check_floating("x", x)
    check_number("rate", rate, 0.0, 1.0)
    mask_shape = _mask_shape(x, noise_shape)
    seed = tf.convert_to_tensor(seed)
    if seed.dtype != tf.int32:
        # As Keras narrows its generator's int64 state, which XLA does not take.
        seed = tf.cast(tf.math.floormod(seed, tf.int32.max - 1), tf.int32)
    if rate == 0:
        return x
    # At a rate of 1 nothing is kept and the scale is not used: any finite number will do.
    scale = tf.constant(1 / (1 - rate) if rate < 1 else 0.0, x.dtype)

    @tf.custom_gradient
    def masked(x):
        # TensorFlow's choice for XLA takes up to 100 times as long as Philox, its choice elsewhere.
        algorithm = "philox" if compiled_by_xla() else "auto_select"
        uniform = tf.random.stateless_uniform(mask_shape, seed, dtype=x.dtype, alg=algorithm)
        kept = uniform >= tf.constant(rate, x.dtype)
        zero = tf.zeros([], x.dtype)

        def apply(t):
            # A product with the mask would turn a dropped infinity into a NaN.
            return tf.where(kept, t * scale, zero)

        return apply(x), apply

    return masked(x)


def _mask_shape(x, noise_shape):
    shape = tf.shape(x)
    if noise_shape is None:
        return shape
    noise_shape = tuple(noise_shape)
    rank = x.shape.rank
    if rank is not None:
        trailing = x.shape[rank - len(noise_shape) :] if len(noise_shape) <= rank else ()
        fits = len(noise_shape) <= rank and all(
            n in (None, 1) or length is None or n == length
            for n, length in zip(noise_shape, trailing, strict=True)
        )
        if not fits:
            raise ValueError(
                "`noise_shape` must broadcast to the shape of `x`; None stands for its length. "
                f"Received: noise_shape={noise_shape} for x of shape {x.shape}"
            )
    # Counted from the end, as shapes broadcast.
    own = [shape[axis - len(noise_shape)] for axis in range(len(noise_shape))]
    return [length if n is None else n for n, length in zip(noise_shape, own, strict=True)]
