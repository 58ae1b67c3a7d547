"""FTRL-Proximal: Adagrad's steps, with weights that an L1 penalty holds at exactly 0."""

import functools
from typing import Any

import keras
import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp._xla import clustered
from keras_bp.optimizers._variables import move
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class Ftrl(Optimizer):
    """FTRL-Proximal: follow the regularized leader, for sparse features and sparse weights.

    Drop-in for `keras.optimizers.Ftrl`: the same arguments, defaults, slots and rule. With the
    learning rate a, the gradient g and p = -learning_rate_power:

        n' = n + g^2
        z = z + g + 2 s w - (n'^p - n^p) / a w
        w = (clip(z, -l1, l1) - z) / ((beta + n'^p) / a + 2 l2)

    n starts at `initial_accumulator_value`, z at 0. The weights follow from the two: w is 0 while
    |z| <= l1, and what sets w from outside is soon forgotten. Without penalties the rule is
    Adagrad's, but for its start:

    - it is made for weights that start at 0. The first update shrinks others, by the factor
      1 - (n / n')^p: those with a small gradient to nearly 0. Initial weights count with
      `initial_accumulator_value=0`, without beta and l2; a weight whose gradient has been 0
      throughout stays then, where Keras's becomes NaN;
    - it is made for a constant rate. w is proportional to a: a schedule that falls to 0 takes the
      weights along. At a rate of 0 nothing moves here; Keras's weights become NaN.

    Decay beside the rule has next to no effect, as w follows from z: take l2.

    A sparse gradient touches its own rows only, as usual for this rule; a dense gradient of 0 would
    set rows that were in no batch yet to 0, and all others to the current rate. With weight decay a
    sparse gradient counts as the dense one it represents.

    Args:
        learning_rate: number >= 0, a schedule or a callable, a. Defaults to 0.001.
        learning_rate_power: number <= 0; 0 is a fixed rate. Defaults to -0.5.
        initial_accumulator_value: number >= 0. Defaults to 0.1.
        l1_regularization_strength: number >= 0, l1. Defaults to 0.
        l2_regularization_strength: number >= 0, l2. Defaults to 0.
        l2_shrinkage_regularization_strength: number >= 0, s, a penalty on the size of the weights
            that have a gradient, as in the loss. Defaults to 0.
        beta: number >= 0, the paper's beta, which makes the first steps smaller. Defaults to 0.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`, beside the rule.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([0.0, 0.0])
        >>> optimizer = keras_bp.optimizers.Ftrl(0.5, l1_regularization_strength=1.0)
        >>> optimizer.apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy().round(3)
        array([0.   , 0.331], dtype=float32)

    References:
        McMahan et al., 2013, "Ad click prediction: a view from the trenches", algorithm 1.
    """

    argument_names: tuple[str, ...] = (
        "learning_rate_power",
        "initial_accumulator_value",
        "l1_regularization_strength",
        "l2_regularization_strength",
        "l2_shrinkage_regularization_strength",
        "beta",
    )
    # The weights follow from z, which would not know of these.
    refused_options = ("cautious", "update_clip", "lookahead_steps")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        l2_shrinkage_regularization_strength: float = 0.0,
        beta: float = 0.0,
        weight_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.learning_rate_power = check_number(
            "learning_rate_power", learning_rate_power, high=0.0
        )
        given = {
            "initial_accumulator_value": initial_accumulator_value,
            "l1_regularization_strength": l1_regularization_strength,
            "l2_regularization_strength": l2_regularization_strength,
            "l2_shrinkage_regularization_strength": l2_shrinkage_regularization_strength,
            "beta": beta,
        }
        for name, number in given.items():
            setattr(self, name, check_number(name, number, 0.0))

    def _create_slots(self, variable):
        start = keras.initializers.Constant(self.initial_accumulator_value)
        names = [("accumulator", start), ("linear", "zeros")]
        return [self.add_variable_from_reference(variable, *name) for name in names]

    def _by_rows(self, variable):
        return not self.weight_decay

    def _coefficients(self, learning_rate, step, dtype):
        moves = tf.cast(learning_rate > 0, tf.float64)
        inverse = tf.math.divide_no_nan(moves, learning_rate)
        floor = self.beta + 2 * self.l2_regularization_strength * learning_rate
        return -learning_rate, inverse, floor, moves

    def _rule(self, variable, gradient, slots, coefficients, decay):
        has_floor = self.beta + self.l2_regularization_strength > 0
        options = {
            "coefficients": tuple(coefficients),
            "power": -self.learning_rate_power,
            "l1": self.l1_regularization_strength,
            "shrinkage": 2 * self.l2_shrinkage_regularization_strength,
            "has_floor": has_floor,
            "may_rest": not (has_floor or self.initial_accumulator_value),
        }
        variables = [variable, *slots]
        if not isinstance(gradient, tf.IndexedSlices):
            move(_moved, gradient, variables, **options)
            return
        ids = gradient.indices
        rows = (tf.gather(variable, ids) for variable in variables)
        values = _moved(gradient.values, *rows, apart=False, **options)
        for variable, value in zip(variables, values, strict=True):
            variable.scatter_update(tf.IndexedSlices(value, ids))


@functools.partial(clustered, backward=True)
def _moved(g, w, n, z, *, coefficients, power, l1, shrinkage, has_floor, may_rest, in_xla):
    """Return the next values of the variable and its slots."""
    minus_rate, inverse, floor, moves = coefficients
    g *= moves
    after = n + tf.square(g)
    before, scale = (tf.sqrt(s) if power == 0.5 else tf.pow(s, power) for s in (n, after))
    pull = g + w * (shrinkage * moves) if shrinkage else g
    linear = z + (pull - w * ((scale - before) * inverse))
    if has_floor:
        scale += floor
    if l1:  # subtracted in this order, so that the result is 0 and not -0
        target = (tf.clip_by_value(linear, -l1, l1) - linear) * -minus_rate / scale
    else:
        target = linear * minus_rate / scale
    return tf.where((moves > 0) & (scale > 0) if may_rest else moves > 0, target, w), after, linear
