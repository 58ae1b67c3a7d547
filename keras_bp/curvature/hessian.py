"""The largest eigenvalue of the Hessian of the training loss, by power iteration."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_number, check_positive_integer
from keras_bp._keras import traced
from keras_bp._types import Array
from keras_bp.curvature.loss_surface import LossSurface, as_batch
from keras_bp.gradients import squared_norms


class HessianEigenvalue(NamedTuple):
    """An eigenvalue of a Hessian, and how exact it is.

    Example:
        >>> keras_bp.curvature.HessianEigenvalue(10.0, 0.05, 12, []).value
        10.0
    """

    value: float
    """The eigenvalue, with its sign, in units of loss per square of a unit of weight."""
    residual: float
    """|H v - value v| for the vector v of norm 1: an eigenvalue lies within so much of `value`."""
    iterations: int
    """The number of products with the Hessian that were computed."""
    vector: list[tf.Tensor]
    """The vector to go on from, of norm 1: tensors in the order of `model.trainable_variables`."""


def largest_hessian_eigenvalue(
    model: keras.Model,
    x: Array,
    y: Array,
    sample_weight: Array | None = None,
    tolerance: float = 0.01,
    iterations: int = 100,
    vector: Sequence[Array] | None = None,
) -> HessianEigenvalue:
    """Return the largest eigenvalue, in magnitude, of the Hessian of the loss on a batch.

    Power iteration multiplies a vector by the Hessian, again and again:

        v <- H v / |H v|,    value = v . H v

    It ends at the eigenvalue of the largest magnitude, with its sign: in a trained network that is
    mostly positive, the sharpness, and 2 / value is the rate at which gradient descent becomes
    unstable. At the start of a training, or near a saddle, it may be negative. Where one eigenvalue
    is as large as another is small (3 and -3), it does not settle: `residual` stays large.

    A product is a gradient of a gradient, and takes about three times as long as a gradient. The
    Hessian is that of the training loss, penalties, batch statistics and dropout included (one mask
    for all products). Layers whose gradient is a surrogate have no Hessian in this sense.

    Args:
        model: a built and compiled `keras.Model`, which stays as it is.
        x: array, tensor or structure of them, the inputs of a batch.
        y: array, tensor or structure of them, the targets.
        sample_weight: array with a weight for each example, or `None`.
        tolerance: number above 0; the iteration ends once `residual` is below so many times the
            value. The value's error is mostly far below that. Defaults to 0.01.
        iterations: integer >= 1, the largest number of products. Defaults to 100.
        vector: list of arrays to start from, such as that of an earlier result, or `None` for a
            random one, the same at each call.

    Returns:
        A `HessianEigenvalue`.

    Raises:
        TypeError: if `tolerance` or `iterations` is no number of its kind.
        ValueError: if one of them is out of its range, if the model is not built or not compiled,
            or if `vector` has other shapes than the weights.

    Example:
    ```python
    eigenvalue = keras_bp.curvature.largest_hessian_eigenvalue(model, x, y)
    print(f"{eigenvalue.value:.3g} +- {eigenvalue.residual:.1g}")
    ```
    """
    check_number("tolerance", tolerance, 0.0, low_open=True)
    check_positive_integer("iterations", iterations)
    surface = LossSurface(model)
    weights = surface.weights()
    start = None if vector is None else surface.check("vector", vector)
    return PowerIteration(surface).run(
        weights, as_batch(x, y, sample_weight), tolerance, iterations, start
    )


class PowerIteration:
    """Power iteration with the Hessian of a `LossSurface`.

    Args:
        surface: a `LossSurface`.
    """

    def __init__(self, surface: LossSurface) -> None:
        self._surface = surface
        self._step = traced(self._iterate, reduce_retracing=True)

    def run(
        self,
        weights: Sequence[tf.Tensor],
        batch: Any,
        tolerance: float,
        iterations: int,
        vector: Sequence[tf.Tensor] | None = None,
    ) -> HessianEigenvalue:
        """Iterate from a vector, or from a random one; see `largest_hessian_eigenvalue`."""
        if vector is None:
            rng = np.random.default_rng(0)  # no random state of Keras or TensorFlow moves
            vector = [tf.constant(rng.normal(size=w.shape), w.dtype) for w in weights]
        following, made = list(vector), 0
        while True:
            *following, numbers = self._step(weights, following, batch)
            value, residual = map(float, numbers.numpy())
            made += 1
            if not residual > tolerance * abs(value) or made == iterations:
                return HessianEigenvalue(value, residual, made, following)

    def _iterate(self, weights, vector, batch):
        """Return the next vector, of norm 1, and (value, residual) of this one."""
        vector = _normalized(vector)
        product = self._surface.hessian_product(weights, vector, batch)
        value = sum(
            tf.reduce_sum(tf.cast(a, tf.float64) * tf.cast(b, tf.float64))
            for a, b in zip(vector, product, strict=True)
        )
        rest = [
            tf.cast(p, tf.float64) - value * tf.cast(v, tf.float64)
            for p, v in zip(product, vector, strict=True)
        ]
        residual = tf.sqrt(tf.reduce_sum(squared_norms(rest)))
        return [*_normalized(product), tf.stack([value, residual])]


def _normalized(vector):
    norm = tf.sqrt(tf.reduce_sum(squared_norms(vector)))
    norm = tf.where(norm > 0, norm, tf.ones_like(norm))
    return [tf.cast(tf.cast(v, tf.float64) / norm, v.dtype) for v in vector]
