"""The critical learning rate: the one from which on an update raises the loss of its batch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_integer, check_number
from keras_bp._types import Array
from keras_bp.curvature.loss_surface import LossSurface, as_batch

_SMALL_STEP, _LARGEST_STEP = 1.5, 10.0
_ROUNDING = 2e-7
_NEAR = 3.0  # factor between two rates, up to which a loss is near a parabola


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
        0.0 if it rises at all of them: the update is no descent. NaN if the present value is not
        finite.

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
    return RateSearch(tolerance, most).find(loss, guess)


class RateSearch:
    """Finds critical learning rates, one after another, each from what the last one has shown.

    Args:
        tolerance: number above 0, see `critical_learning_rate`.
        most: integer >= 1, likewise.
    """

    def __init__(self, tolerance: float, most: int) -> None:
        self._tolerance, self._most = tolerance, most
        self._found: float | None = None
        # How much of the loss the line through the quotients rises over the critical rate.
        self._share: float | None = None

    def find(self, loss: Callable[[float], Any], guess: float) -> float:
        """Return the critical learning rate; `guess` is used if there was none yet."""
        here = float(loss(0.0))
        if not math.isfinite(here):
            return math.nan
        low, high, rate = 0.0, math.inf, self._found or guess
        tried: list[tuple[float, float]] = []
        root = math.nan
        for _ in range(self._most):
            rise = float(loss(rate)) - here
            if low == 0 and high < math.inf and not root > 0 and abs(rise) < _ROUNDING * abs(here):
                return 0.0  # it rises at all rates at which its change can be seen
            low, high = (rate, high) if rise <= 0 else (low, rate)
            if math.isfinite(rise):
                tried.append((rate, rise / rate))
            root, slope, step = _root(tried, low, high)
            # The error of a secant is far smaller than its step, the most where it interpolates.
            if low > 0 and step <= self._tolerance * root * (4 if high < math.inf else 2):
                self._found, self._share = root, slope * root / abs(here) if here else None
                return root
            if low > 0 and high - low <= self._tolerance * low:
                return math.sqrt(low * high)
            if self._share is not None and len(tried) == 1:
                # Beyond the root, for which the slope of the last time is good enough.
                change = 1.3 * tried[0][1] / (self._share * abs(here))
                rate *= 1 - np.copysign(np.clip(abs(change), 0.05, 0.5), change)
            elif 0 < low < high < math.inf:
                rate = root if low < root < high and step < math.inf else math.sqrt(low * high)
            else:
                far = _LARGEST_STEP if len(tried) > 2 else _SMALL_STEP
                if low == 0:  # a steep loss is far above its tangent
                    rate = min(root, high / far) if root > 0 else high / far
                else:
                    rate = min(root, low * _LARGEST_STEP) if root > low else low * far
        self._share = None
        return math.sqrt(low * high) if 0 < low < high < math.inf else low and high


def _root(tried, low, high):
    """Return where the line through the two smallest quotients passes 0, its slope, and a distance.

    That is the root's from the nearer of the two: infinity where the line is not to be trusted. All
    are NaN where there is no such line.
    """
    unknown = math.nan, math.nan, math.nan
    if len(tried) < 2:
        return unknown
    (a, of_a), (b, of_b) = sorted(tried, key=lambda pair: abs(pair[1]))[:2]
    if a == b or not (of_b - of_a) / (b - a) > 0:
        return unknown
    slope = (of_b - of_a) / (b - a)
    root = a - of_a / slope
    step = min(abs(root - a), abs(root - b))
    if 0 < low < high < math.inf and not (low <= root <= high and step <= 2 * abs(b - a)):
        return unknown
    return root, slope, step if max(a, b) <= _NEAR * min(a, b) else math.inf


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
        infinity if the update is no descent; NaN if the loss, the gradient or the update is not
        finite.

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
    if not all(bool(tf.reduce_all(tf.math.is_finite(part))) for part in direction):
        return math.nan
    rate = critical_learning_rate(lambda r: surface.loss(weights, direction, r, batch), guess)
    return 2 / rate if rate != 0 else math.inf
