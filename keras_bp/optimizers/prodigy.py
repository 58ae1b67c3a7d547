"""Adam that estimates the distance to a solution and derives its rate from it."""

import math
from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_flag, check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp.optimizers._variables import descend, local
from keras_bp.optimizers.adam import adam_step, as_held
from keras_bp.optimizers.self_tuning import SelfTuning


@serializable
class Prodigy(SelfTuning):
    """Prodigy: Adam at the rate d, an estimate of the distance from the start to a solution.

    With the gradient g, where training began w0, and sums over all variables, in each update:

        r = b3 r + (d/d0) a d c <g, w0 - w>;  s = b3 s + (d/d0) a d c g
        d' = max(d, k r / ||s||_1)
        m = b1 m + (1 - b1) d g;  v = b2 v + (1 - b2) (d g)^2
        w -= a d c (m / (sqrt(v) + d' eps) + lambda w);  d = d'

    <g, w0 - w> / ||g||_1 is a lower bound of the distance to a solution where the loss is convex,
    so that d grows from the tiny d0 until it is of that size, mostly within some hundred updates,
    and never falls. a is `learning_rate`: a factor on the rate, not the rate. It begins at 1, and a
    schedule from there to 0, such as `CosineAnnealing(1.0, steps)`, makes the rate fall at the end,
    as d does not. k is `d_coef`, the one number to tune by. c is 1, or Adam's correction with
    `use_bias_correction`. The rate of the last update, a d c, is `adapted_rate`.

    Gradients, clipped ones too, come in summed over replicas and micro-steps, so that d is that of
    the whole batch. The optimizer keeps w0, s, m and v: four numbers for each weight.

    Args:
        learning_rate: number >= 0, a schedule or a callable: a. Defaults to 1.
        beta_1: number in [0, 1), b1. Defaults to 0.9.
        beta_2: number in [0, 1), b2. Defaults to 0.999.
        epsilon: number > 0. Defaults to 1e-8.
        weight_decay: number >= 0, lambda, or `None` for none.
        beta_3: number in [0, 1), b3, or `None` for sqrt(b2).
        d0: number > 0, the first d. Defaults to 1e-6.
        d_coef: number > 0, k. Defaults to 1.
        growth_rate: number >= 1, the largest d' / d after d has left d0, or `None` for no bound.
            1.02 makes a kind of warm-up.
        use_bias_correction: whether c is sqrt(1 - b2^t) / (1 - b1^t) in update t. Defaults to
            `False`.
        safeguard_warmup: whether s leaves a and c out, so that d cannot grow too large in a
            warm-up of the learning rate. Defaults to `False`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> optimizer = keras_bp.optimizers.Prodigy()
        >>> for _ in range(100):
        ...     optimizer.apply([w - tf.constant([3.0, -1.0])], [w])
        >>> w.numpy().round(1)
        array([ 3., -1.], dtype=float32)

    References:
        Mishchenko and Defazio, 2023, "Prodigy: an expeditiously adaptive parameter-free learner",
        the Adam version, in the form of the authors' package prodigyopt 1.1.2.
    """

    slot_names: tuple[str, ...] = ("initial", "weighted_sum", "momentum", "velocity")
    argument_names: tuple[str, ...] = (
        *("beta_1", "beta_2", "epsilon", "beta_3", "d0", "d_coef", "growth_rate"),
        *("use_bias_correction", "safeguard_warmup"),
    )

    def __init__(
        self,
        learning_rate: LearningRate = 1.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float | None = None,
        *,
        beta_3: float | None = None,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float | None = None,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        **kwargs: Any,
    ) -> None:
        if beta_3 is not None:
            beta_3 = check_number("beta_3", beta_3, 0.0, 1.0, high_open=True)
        if growth_rate is not None:
            growth_rate = check_number("growth_rate", growth_rate, 1.0)
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_1 = check_number("beta_1", beta_1, 0.0, 1.0, high_open=True)
        self.beta_2 = check_number("beta_2", beta_2, 0.0, 1.0, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
        self.beta_3 = beta_3
        self.d0 = check_number("d0", d0, 0.0, low_open=True)
        self.d_coef = check_number("d_coef", d_coef, 0.0, low_open=True)
        self.growth_rate = growth_rate
        self.use_bias_correction = check_flag("use_bias_correction", use_bias_correction)
        self.safeguard_warmup = check_flag("safeguard_warmup", safeguard_warmup)

    def _create_shared(self):
        super()._create_shared()
        self._d = self._add_scalar("d")
        self._d_before = self._add_scalar("d_before")
        self._largest_estimate = self._add_scalar("largest_estimate")
        self._numerator = self._add_scalar("numerator")

    def _begin(self, targets):
        # Not by an initializer: Keras's rounds numbers to float32, and d would not be d0.
        local(self._d).assign(self.d0)
        local(self._largest_estimate).assign(self.d0)

    @property
    def _memory(self):
        """b3."""
        return math.sqrt(self.beta_2) if self.beta_3 is None else self.beta_3

    def _rate(self, learning_rate, step):
        rate = learning_rate * local(self._d)
        if self.use_bias_correction:
            rate *= tf.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        return rate

    def _scales(self, learning_rate, step, dtype):
        d = tf.convert_to_tensor(local(self._d))
        weight = d if self.safeguard_warmup else self._rate(learning_rate, step)
        return tf.constant(self._memory, tf.float64), d / self.d0 * weight

    def _measure(self, variable, gradient, slots, scales, decay, factor):
        initial, weighted_sum = slots[:2]
        memory, weight = scales
        weighted_sum.assign(memory * weighted_sum + weight * gradient)
        progress = tf.reduce_sum(gradient * (initial - variable))
        return progress, tf.reduce_sum(tf.abs(weighted_sum))

    def _tune(self, sums, learning_rate, step):
        progress, norm = sums
        rate = self._rate(learning_rate, step)
        largest, numerator = local(self._largest_estimate), local(self._numerator)
        d = tf.identity(local(self._d))
        numerator.assign(self._memory * numerator + d / self.d0 * rate * progress)
        # As long as all gradients were 0 there is no estimate.
        estimate = tf.math.divide_no_nan(self.d_coef * numerator, norm)
        largest.assign(tf.maximum(largest, estimate))
        new = tf.where(d == self.d0, tf.maximum(d, estimate), d)
        new = largest if self.growth_rate is None else tf.minimum(largest, new * self.growth_rate)
        local(self._d_before).assign(d)
        local(self._d).assign(new)
        return rate

    def _coefficients(self, learning_rate, step, dtype):
        before = local(self._d_before)
        epsilon = self.epsilon * local(self._d)
        # The averages use the betas as the dtype holds them. In float32 1 - 0.999 is off by 1.3e-5
        # of itself, and so is v, which is corrected here.
        beta_1, beta_2 = (as_held(beta, dtype) for beta in (self.beta_1, self.beta_2))
        root = tf.sqrt((1 - beta_2) / (1 - self.beta_2))
        size = learning_rate * root * (1 - self.beta_1) / (1 - beta_1)
        return size, epsilon * root, beta_1, beta_2, before, learning_rate

    def _rule(self, variable, gradient, slots, coefficients, decay):
        *step, before, rate = coefficients
        if decay is not None:
            descend(variable, rate * decay, tf.convert_to_tensor(variable))
        adam_step(variable, before * gradient, *slots[2:], *step)
