"""Rules that find their own rate: their base, DoG and Adam-HD."""

from typing import Any

import keras
import tensorflow as tf

from keras_bp import gradients as gradient_tools
from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp.optimizers._variables import descend, local
from keras_bp.optimizers.adam import adam_step, as_held
from keras_bp.optimizers.optimizer import Optimizer


class SelfTuning(Optimizer):
    """Base of the rules that find their rate: sums over all variables, before any of them moves.

    In each update `_measure` returns a few numbers for each variable, and their sums over all
    variables go to `_tune`, which returns the rate. They are computed from the gradients that the
    rule gets (summed over replicas and micro-steps, unscaled, clipped), so every replica finds the
    same rate; and they are part of the update, so a skipped step leaves them alone. A variable
    without a gradient counts as one with zeros, and does not move.

    Sums and scalars are in float64: a rate grows over many orders of magnitude.

    Factors on the rates of single variables are factors on the rate that is found.

    A rule that needs the initial weights names "initial" as its first slot. The first update fills
    it, not `build`, since weights may be loaded in between.
    """

    decays_in_rule = True  # with the rate that it finds

    # What a rule overrides.

    def _begin(self, targets):
        """Initialize the scalars, before the first update.

        Args:
            targets: list of `tf.Variable`, all that the rule updates.
        """

    def _scales(self, learning_rate, step, dtype):
        """Return the scalars that `_measure` needs, as `_coefficients` does the rule's."""
        return ()

    def _measure(self, variable, gradient, slots, scales, decay, factor):
        """Return a variable's terms of the sums, always the same number of tensors.

        Args:
            variable: `tf.Variable`, before its update.
            gradient: as the rule gets it; zeros if there is none.
            slots: list of `tf.Variable`.
            scales: what `_scales` returned, cast to the variable's dtype.
            decay: number or scalar tensor, the variable's `weight_decay`, or `None`.
            factor: float, the factor on the rate for this variable.
        """
        raise NotImplementedError

    def _sums(self, shares):
        """Return the sums of what `_measure` returned, scalar float64 tensors."""
        columns = zip(*shares, strict=True)
        return [tf.add_n([tf.cast(number, tf.float64) for number in column]) for column in columns]

    def _tune(self, sums, learning_rate, step):
        """Return this update's rate.

        Args:
            sums: list of scalar float64 tensors.
            learning_rate: scalar float64 tensor.
            step: scalar float64 tensor, the number of this update, from 1.
        """
        raise NotImplementedError

    @property
    def adapted_rate(self) -> keras.Variable:
        """The rate that the rule found for the last update: a variable, 0 before the first."""
        if not self.built:
            raise AttributeError("`adapted_rate` exists once the optimizer is built.")
        return self._adapted_rate

    # What the base does.

    def _create_shared(self):
        super()._create_shared()
        self._started = self.add_variable((), dtype="bool", name="started")
        self._adapted_rate = self._add_scalar("adapted_rate")

    def _add_scalar(self, name):
        return self.add_variable((), dtype="float64", name=name)

    def _observe(self, gradients, variables, reached, learning_rate, step):
        reached = reached or [None] * len(variables)
        given = {
            self._get_variable_index(variable): (self._complete(gradient, variable), is_reached)
            for gradient, variable, is_reached in zip(gradients, variables, reached, strict=True)
        }
        # Variables that are overwritten have no slots.
        tuned = [(i, v) for i, v in enumerate(self._trainable_variables) if self._slots_of(i)]
        targets = {index: self._up_to_date_target(variable) for index, variable in tuned}
        slots = {index: self._slots_of(index) for index in targets}
        self._start_from(targets, slots)
        scales = {
            dtype: [tf.cast(s, dtype) for s in self._scales(learning_rate, step, dtype)]
            for dtype in {target.dtype for target in targets.values()}
        }
        shares = []
        for index, target in targets.items():
            gradient, is_reached = given.get(index, (None, None))
            decay = None if gradient is None else self._decay_of(self._trainable_variables[index])
            if gradient is None:
                gradient = tf.zeros_like(target)
            if decay is not None and is_reached is not None:
                decay *= tf.cast(is_reached, target.dtype)
            arguments = slots[index], scales[target.dtype], decay, self._rate_factors[index]
            shares.append(self._measure(target, gradient, *arguments))
        local(self._adapted_rate).assign(self._tune(self._sums(shares), learning_rate, step))
        return gradients, tf.convert_to_tensor(local(self._adapted_rate))

    def _start_from(self, targets, slots):
        """Store the initial weights in the first update."""
        started = local(self._started)

        def begin():
            if self.slot_names[0] == "initial":
                for index, target in targets.items():
                    slots[index][0].assign(target)
            self._begin(list(targets.values()))
            started.assign(True)

        tf.cond(started, lambda: None, begin)


@serializable
class DoG(SelfTuning):
    """DoG, distance over gradients: gradient descent at a rate that needs no tuning.

    With the gradient g, where training began w0, and norms over all variables together, in each
    update:

        g = g + lambda w
        r = max(r, ||w - w0||), from r_epsilon (1 + ||w0||);  G = G + ||g||^2, from 0
        w -= a r / sqrt(G + epsilon) g

    The first steps are tiny, whatever the loss; r grows with each of them until the weights are as
    far away as they need to be, and G makes the rate fall from then on. a is `learning_rate`, a
    factor that is left at 1. The rate of the last update, a r / sqrt(G + epsilon), is
    `adapted_rate`.

    The rate falls slowly, so the authors evaluate an average of the weights, which they find
    crucial. Theirs weighs late weights more, with the number of updates; `use_ema=True` keeps an
    exponential one, see `keras_bp.optimizers.Optimizer`.

    As in the authors' package, decay is a part of the gradient and counts in G. Without decay a
    sparse gradient touches its own rows only; w - w0 is read in full. The optimizer keeps w0:
    one number for each weight.

    Args:
        learning_rate: number >= 0, a schedule or a callable: a. Defaults to 1.
        r_epsilon: number > 0, how far the first step may go, as a share of 1 + ||w0||. Defaults to
            1e-6; the authors take 1e-4 with batch normalization.
        epsilon: number > 0. Defaults to 1e-8.
        weight_decay: number >= 0, lambda, or `None` for none.
        init_eta: number > 0, the rate until the weights have moved, instead of the one that
            `r_epsilon` gives, or `None`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([3.0, 4.0])
        >>> optimizer = keras_bp.optimizers.DoG(r_epsilon=0.1)
        >>> optimizer.apply([tf.constant([0.0, 7.0])], [w])
        >>> w.numpy().round(4)  # moved by 0.1 (1 + 5), along the gradient
        array([3. , 3.4], dtype=float32)

    References:
        Ivgi, Hinder and Carmon, 2023, "DoG is SGD's best friend: a parameter-free dynamic step
        size schedule", algorithm 1, in the form of the authors' package dog-optimizer 1.0.3.
    """

    slot_names: tuple[str, ...] = ("initial",)
    argument_names: tuple[str, ...] = ("r_epsilon", "epsilon", "init_eta")

    def __init__(
        self,
        learning_rate: LearningRate = 1.0,
        r_epsilon: float = 1e-6,
        epsilon: float = 1e-8,
        weight_decay: float | None = None,
        *,
        init_eta: float | None = None,
        **kwargs: Any,
    ) -> None:
        if init_eta is not None:
            init_eta = check_number("init_eta", init_eta, 0.0, low_open=True)
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.r_epsilon = check_number("r_epsilon", r_epsilon, 0.0, low_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
        self.init_eta = init_eta

    def _create_shared(self):
        super()._create_shared()
        self._distance = self._add_scalar("distance")
        self._squares = self._add_scalar("squares")

    def _by_rows(self, variable):
        return not self.weight_decay

    def _begin(self, targets):
        if self.init_eta is None:
            norm = gradient_tools.global_norm([tf.convert_to_tensor(t) for t in targets])
            local(self._distance).assign(self.r_epsilon * (1 + tf.cast(norm, tf.float64)))

    def _measure(self, variable, gradient, slots, scales, decay, factor):
        [initial] = slots
        if isinstance(gradient, tf.IndexedSlices):  # with every id once
            gradient = gradient.values
        return _with_decay(gradient, variable, decay), variable - initial

    def _sums(self, shares):
        gradients, distances = zip(*shares, strict=True)
        squares = gradient_tools.squared_norms([*gradients, *distances])
        return [tf.reduce_sum(half) for half in tf.split(squares, 2)]

    def _tune(self, sums, learning_rate, step):
        squares, distance = local(self._squares), local(self._distance)
        squares.assign_add(sums[0])
        distance.assign(tf.maximum(distance, tf.sqrt(sums[1])))
        rate = distance / tf.sqrt(squares + self.epsilon)
        if self.init_eta is not None:
            rate = tf.where(distance > 0, rate, self.init_eta)
        return learning_rate * rate

    def _coefficients(self, learning_rate, step, dtype):
        return (learning_rate,)

    def _rule(self, variable, gradient, slots, coefficients, decay):
        [rate] = coefficients
        if isinstance(gradient, tf.IndexedSlices):
            variable.scatter_sub(tf.IndexedSlices(rate * gradient.values, gradient.indices))
            return
        descend(variable, rate, _with_decay(gradient, variable, decay))


def _with_decay(gradient, variable, decay):
    return gradient if decay is None else gradient + decay * variable


@serializable
class HypergradientAdam(SelfTuning):
    """Adam-HD: Adam whose learning rate descends the loss, too.

    The last update was w_t = w_(t-1) - a u_(t-1), so that the loss changes with its rate a by
    -g_t . u_(t-1), the hypergradient. The rate moves against it: it grows where this gradient still
    points along the last step, and falls where that step has gone too far. In update t, with the
    dot product over all variables together and h = `hypergradient_rate`:

        a = a + h g_t . u_(t-1), at least 0
        m = b1 m + (1 - b1) g_t;  v = b2 v + (1 - b2) g_t^2
        u_t = sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)
        w -= a (u_t + lambda w)

    a begins at `learning_rate`. All moves so far are added to the scheduled rate, or to one that is
    set later; where that is 0, nothing moves. The rate of the last update is `adapted_rate`.

    A move is about h times the sum of the gradients' magnitudes, so h must be small, and smaller
    the larger the model. The authors take 1e-7 for a small network and 1e-8 for VGG;
    with 0 this is Adam. Clipped gradients make bounded moves. The decay is no part of u.

    u_(t-1) is computed from m and v, so the optimizer keeps no more than Adam does. A variable
    without a gradient in update t-1 counts as if it had moved.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        hypergradient_rate: number >= 0, h. Defaults to 1e-7.
        beta_1: number in [0, 1), b1. Defaults to 0.9.
        beta_2: number in [0, 1), b2. Defaults to 0.999.
        epsilon: number > 0. Defaults to 1e-8.
        weight_decay: number >= 0, lambda, or `None` for none.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> optimizer = keras_bp.optimizers.HypergradientAdam(0.1, 0.01)
        >>> for _ in range(2):
        ...     optimizer.apply([tf.constant([0.5, -3.0])], [w])
        >>> float(optimizer.adapted_rate.numpy().round(4))  # 0.1 + 0.01 (0.5 + 3)
        0.135

    References:
        Baydin, Cornish, Martinez Rubio, Schmidt and Wood, 2018, "Online learning rate adaptation
        with hypergradient descent", algorithm 6, with epsilon beside the root of the uncorrected
        average as in the authors' code.
    """

    slot_names: tuple[str, ...] = ("momentum", "velocity")
    argument_names: tuple[str, ...] = ("hypergradient_rate", "beta_1", "beta_2", "epsilon")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        hypergradient_rate: float = 1e-7,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.hypergradient_rate = check_number("hypergradient_rate", hypergradient_rate, 0.0)
        self.beta_1 = check_number("beta_1", beta_1, 0.0, 1.0, high_open=True)
        self.beta_2 = check_number("beta_2", beta_2, 0.0, 1.0, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)

    def _create_shared(self):
        super()._create_shared()
        self._moves = self._add_scalar("moves")

    def _correction(self, step, dtype):
        beta_1, beta_2 = (as_held(beta, dtype) for beta in (self.beta_1, self.beta_2))
        return tf.sqrt(1 - beta_2**step) / (1 - beta_1**step)

    def _scales(self, learning_rate, step, dtype):
        # Before update 1 there was none, and m is 0.
        return tf.constant(self.epsilon, tf.float64), self._correction(
            tf.maximum(step - 1, 1), dtype
        )

    def _measure(self, variable, gradient, slots, scales, decay, factor):
        mean, square = slots
        epsilon, correction = scales
        product = tf.reduce_sum(gradient * (mean / (tf.sqrt(square) + epsilon)))
        return (factor * correction * product,)

    def _tune(self, sums, learning_rate, step):
        moves = local(self._moves)
        moved = tf.maximum(moves + self.hypergradient_rate * sums[0], -learning_rate)
        moves.assign(tf.where(learning_rate > 0, moved, moves))
        return tf.where(learning_rate > 0, learning_rate + moved, 0)

    def _coefficients(self, learning_rate, step, dtype):
        betas = [as_held(beta, dtype) for beta in (self.beta_1, self.beta_2)]
        epsilon = tf.constant(self.epsilon, tf.float64)
        return learning_rate * self._correction(step, dtype), epsilon, *betas, learning_rate

    def _rule(self, variable, gradient, slots, coefficients, decay):
        *step, rate = coefficients
        if decay is not None:
            descend(variable, rate * decay, tf.convert_to_tensor(variable))
        adam_step(variable, gradient, *slots, *step)
