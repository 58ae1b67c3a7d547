"""The critical learning rate: the one from which on an update raises the loss of its batch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bp._arguments import check_integer, check_number
from keras_bp._types import Array
from keras_bp.curvature.loss_surface import LossSurface, as_batch

_SMALL_STEP, _LARGEST_STEP = 1.5, 10.0


def critical_learning_rate(
    loss: Callable[[float], Any], guess: float, tolerance: float = 0.02, most: int = 20
) -> float:
    """Return the rate at which the loss along an update rises above its present value.

    The update is theta(rate) = theta + rate * u. For a quadratic loss with the gradient g and the
    Hessian H it is

        rate = -2 (g . u) / (u . H u)

    which for u = -g is 2 / (the curvature along g), at least 2 / (the largest eigenvalue of H).
    The quotient h(rate) = (loss(rate) - loss(0)) / rate of such a loss is a straight line: two
    values give its root. So a few forward passes suffice for other losses too, by secants between
    a rate at which the loss falls and one at which it rises.

    Args:
        loss: function of a rate that returns the loss there, a number. One that is not finite
            counts as risen.
        guess: number above 0, the first rate to be tried: that of the training, or the result of
            the last call.
        tolerance: number above 0, the relative error at which to stop. Defaults to 0.02.
        most: integer >= 1, the largest number of rates to be tried. Defaults to 20.

    Returns:
        The rate. Of several at which the loss passes its present value, that which the search from
        `guess` meets, mostly the smallest. Infinity if the loss rises at none that was tried, and
        0.0 if it rises at all of them: the update is no descent.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if one is out of its range.

    Example:
        >>> rate = keras_bp.curvature.critical_learning_rate(lambda r: (1 - 5 * r) ** 2, 0.1)
        >>> round(rate, 3)
        0.4

    References:
        Kalra et al., 2026, "A scalable measure of loss landscape curvature for analyzing the
        training dynamics of LLMs", arXiv:2601.16979, which doubles and bisects.
    """
    guess = check_number("guess", guess, 0.0, low_open=True)
    check_number("tolerance", tolerance, 0.0, low_open=True)
    check_integer("most", most, 1)
    here = float(loss(0.0))
    low, high, rate = 0.0, math.inf, guess
    tried: list[tuple[float, float]] = []
    for _ in range(most):
        rise = float(loss(rate)) - here
        rises = not rise <= 0
        low, high = (low, rate) if rises else (rate, high)
        if math.isfinite(rise):
            tried.append((rate, rise / rate))
        following = _next(tried, low, high, rate)
        found = low > 0 and math.isfinite(high)
        close = abs(following - rate) <= tolerance * rate and len(tried) > 1
        if (found and high - low <= tolerance * high) or close:
            return following
        rate = following
    return 0.0 if low == 0 else high if math.isfinite(high) else math.inf


def _next(tried, low, high, rate):
    """Return the next rate: where a line through the two smallest quotients passes 0, if it may."""
    least = low if low > 0 else high / _LARGEST_STEP
    largest = min(high, low * _LARGEST_STEP) if low > 0 else high
    if len(tried) > 1:
        (a, of_a), (b, of_b) = sorted(tried, key=lambda pair: abs(pair[1]))[:2]
        slope = (of_b - of_a) / (b - a)
        root = a - of_a / slope if slope > 0 else math.nan
        if least < root < largest:
            return root
    if low > 0 and math.isfinite(high):
        return math.sqrt(low * high)
    if len(tried) > 1:
        return least if low == 0 else largest
    return rate / _SMALL_STEP if low == 0 else rate * _SMALL_STEP


def critical_sharpness(
    model: keras.Model,
    x: Array,
    y: Array,
    sample_weight: Array | None = None,
    update: Sequence[Array] | None = None,
    guess: float = 0.01,
) -> float:
    """Return the critical sharpness of a model on a batch: 2 / (the critical learning rate).

    It has the unit of a Hessian eigenvalue, and along the gradient it is at most the largest one.
    Gradient descent is stable while its rate is below 2 / sharpness; nets that train on a whole
    data set move up to there, the edge of stability. It takes some five forward passes.

    Args:
        model: a built and compiled `keras.Model`, which stays as it is.
        x: array, tensor or structure of them, the inputs of a batch.
        y: array, tensor or structure of them, the targets.
        sample_weight: array with a weight for each example, or `None`.
        update: list of arrays, the update for a rate of 1 of each of `model.trainable_variables`,
            or `None` for minus the gradient of this batch: plain gradient descent.
        guess: number above 0, the first rate to be tried. Defaults to 0.01.

    Returns:
        The sharpness, in units of 1 / rate: 0.0 if no rate that was tried raises the loss, and
        infinity if the update is no descent.

    Raises:
        TypeError: if `guess` is no number.
        ValueError: if the model is not built or not compiled, `guess` is not above 0, or `update`
            has other shapes.

    Example:
    ```python
    sharpness = keras_bp.curvature.critical_sharpness(model, x, y)
    print(f"gradient descent is stable below a rate of {2 / sharpness:.2g}")
    ```

    References:
        Kalra et al., 2026, arXiv:2601.16979; Cohen et al., 2021, "Gradient descent on neural
        networks typically occurs at the edge of stability".
    """
    surface = LossSurface(model)
    batch = as_batch(x, y, sample_weight)
    weights = surface.weights()
    if update is None:
        gradients = surface.gradients(weights, batch)
        pairs = zip(gradients, weights, strict=True)
        direction = [tf.zeros_like(w) if g is None else -tf.convert_to_tensor(g) for g, w in pairs]
    else:
        direction = surface.check("update", update)
    rate = critical_learning_rate(lambda r: surface.loss(weights, direction, r, batch), guess)
    return 2 / rate if rate > 0 else math.inf
