"""The gradient noise scale: at which batch size noise and signal of the gradient are equal."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_positive_integer
from keras_bp._types import Array
from keras_bp.curvature.loss_surface import LossSurface, as_batch

_NORMAL = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


class NoiseScale(NamedTuple):
    """A gradient noise scale, with its 95 % confidence interval.

    Example:
        >>> keras_bp.curvature.NoiseScale(64.0, 40.0, 110.0, 6.4, 0.1).value
        64.0
    """

    value: float
    """The noise scale, in examples: `noise / signal`; infinity where no signal was seen."""
    low: float
    """The interval's lower end, NaN with a single measurement."""
    high: float
    """Its upper end, infinity where the signal cannot be told from 0."""
    noise: float
    """The trace of the covariance of one example's gradient, tr(Sigma)."""
    signal: float
    """The squared norm of the true gradient, |G|^2; estimated without bias, it may be negative."""


def noise_and_signal(
    small_square: Array, big_square: Array, small: Array, big: Array
) -> tuple[Array, Array]:
    """Return tr(Sigma) and |G|^2 from the squared norms of gradients at two batch sizes.

    The gradient of a batch of B examples, drawn at random, has the expected squared norm
    |G|^2 + tr(Sigma) / B, where G is the true gradient and Sigma the covariance of one example's.
    Two sizes b < B give both, without bias:

        tr(Sigma) = (|g_b|^2 - |g_B|^2) / (1 / b - 1 / B)
        |G|^2     = (B |g_B|^2 - b |g_b|^2) / (B - b)

    Args:
        small_square: number or array, |g_b|^2; the mean of several batches' is more exact, best
            of those of which the large batch consists.
        big_square: likewise, |g_B|^2.
        small: number or array, b, in examples.
        big: likewise, B, above b.

    Returns:
        tr(Sigma) and |G|^2. Either may be negative: average each of them, not their ratio.

    Example:
        >>> noise, signal = keras_bp.curvature.noise_and_signal(3.0, 2.0, 4, 8)
        >>> float(noise), float(signal)
        (8.0, 1.0)

    References:
        McCandlish et al., 2018, "An empirical model of large-batch training", appendix A.1.
    """
    small_square, big_square, small, big = map(np.float64, (small_square, big_square, small, big))
    noise = (small_square - big_square) / (1 / small - 1 / big)
    signal = (big * big_square - small * small_square) / (big - small)
    return noise, signal


def noise_scale_of(noise: Array, signal: Array, weights: Array | None = None) -> NoiseScale:
    """Return the noise scale from repeated measurements of tr(Sigma) and |G|^2.

        B_simple = (mean of tr(Sigma)) / (mean of |G|^2)

    Means are taken before the ratio, whose single values have neither mean nor sign. The interval
    is Fieller's, for the ratio of two correlated means: it is open at the top where the mean of
    |G|^2 is within its error of 0. Measurements count as independent.

    Args:
        noise: array of shape (n,), from `noise_and_signal`.
        signal: array of shape (n,), likewise.
        weights: array of shape (n,), the measurements' weights, or `None` for equal ones. The
            interval takes (sum w)^2 / sum w^2 for their number.

    Example:
        >>> scale = keras_bp.curvature.noise_scale_of([90.0, 110.0, 100.0], [2.0, 2.2, 1.8])
        >>> round(scale.value), round(scale.low), round(scale.high)
        (50, 39, 64)

    References:
        McCandlish et al., 2018, "An empirical model of large-batch training", equation 2.9 and
        appendix A.1; Fieller, 1954, "Some problems in interval estimation".
    """
    pairs = np.stack([np.ravel(np.float64(noise)), np.ravel(np.float64(signal))])
    weights = np.ones(pairs.shape[1]) if weights is None else np.float64(weights)
    weights = weights / weights.sum()
    mean = pairs @ weights
    if not np.isfinite(mean).all():  # of weights or data with NaN: nothing is known
        return NoiseScale(*[math.nan] * 3, *map(float, mean))
    number = 1 / np.sum(weights**2)
    value = mean[0] / mean[1] if mean[1] > 0 else math.inf
    if number < 1.5:
        return NoiseScale(float(value), math.nan, math.nan, *map(float, mean))
    deviations = pairs - mean[:, None]
    covariance = (deviations * weights) @ deviations.T / (number - 1)
    # Of the means, times the square of Student's t.
    (nn, ns), (_, ss) = covariance * _student(number - 1) ** 2
    a, b, c = mean[1] ** 2 - ss, mean[0] * mean[1] - ns, mean[0] ** 2 - nn
    root = math.sqrt(max(b * b - a * c, 0.0))
    if a > 0:
        low, high = (b - root) / a, (b + root) / a
    else:  # the ratios outside of two values, or all of them
        low, high = ((b - root) / a if a < 0 and c > 0 else 0.0), math.inf
    return NoiseScale(float(value), float(max(low, 0.0)), float(high), *map(float, mean))


def _student(freedom):
    """Return the 97.5 % quantile of Student's distribution, by its expansion."""
    z = _NORMAL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def gradient_noise_scale(
    model: keras.Model,
    x: Array,
    y: Array,
    sample_weight: Array | None = None,
    batch_size: int = 32,
) -> NoiseScale:
    """Return the gradient noise scale of a model on some examples.

    It is the batch size at which the noise of a batch's gradient is as large as the gradient:

        B_simple = tr(Sigma) / |G|^2

    with G the true gradient of the training loss and Sigma the covariance of one example's. Up to
    some batches of this size, twice the batch needs half the steps; far beyond, it needs as many.
    The examples are taken in pairs of batches; each pair gives an estimate without bias of both
    tr(Sigma) and |G|^2, and these are averaged.

    Args:
        model: a built and compiled `keras.Model`, which stays as it is.
        x: array, tensor or structure of them, the inputs.
        y: array, tensor or structure of them, the targets, in random order.
        sample_weight: array with a weight for each example, or `None`.
        batch_size: integer >= 1, the size of the batches. With batch normalization the result is
            that of training with it. Defaults to 32.

    Returns:
        A `NoiseScale`. What is left over of the examples is not used.

    Raises:
        ValueError: if the model is not built or not compiled, or there are fewer than two batches.

    Example:
    ```python
    scale = keras_bp.curvature.gradient_noise_scale(model, x, y)
    print(f"{scale.value:.0f} examples ({scale.low:.0f} to {scale.high:.0f})")
    ```

    References:
        McCandlish et al., 2018, "An empirical model of large-batch training".
    """
    batch_size = check_positive_integer("batch_size", batch_size)
    data = as_batch(x, y, sample_weight)
    examples = int(tf.shape(keras.tree.flatten(data)[0])[0])
    if examples < 2 * batch_size:
        raise ValueError(
            "`batch_size` must be at most half the number of examples. "
            f"Received: batch_size={batch_size} and {examples} examples"
        )
    surface = LossSurface(model)
    weights = surface.weights()
    rows = []
    for first in range(0, examples - 2 * batch_size + 1, 2 * batch_size):
        pair = tf.nest.map_structure(lambda t, i=first: t[i : i + 2 * batch_size], data)
        numbers, _ = surface.parts(weights, pair)
        rows.append(part_estimates(numbers))
    return noise_scale_of(*np.transpose(rows))


def part_estimates(numbers: Sequence[float]) -> tuple[float, float]:
    """Return tr(Sigma) and |G|^2 from the numbers of `LossSurface.parts`, NaN if these do not fit.

    They do not if the parts differ in size, or if there is only one.
    """
    square, squares, parts, examples, squared_sizes = map(float, numbers)
    size = examples / parts
    # Sizes are equal if their mean square is the square of their mean.
    if parts < 2 or size < 1 or abs(squared_sizes - parts * size**2) > 1e-6 * squared_sizes:
        return math.nan, math.nan
    noise, signal = noise_and_signal(squares / parts, square / parts**2, size, examples)
    return float(noise), float(signal)
