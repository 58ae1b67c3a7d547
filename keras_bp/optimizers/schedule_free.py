"""Rules without a schedule: the weights' average takes the place of a falling rate."""

import functools
from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_flag, check_integer, check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp._xla import clustered
from keras_bp.optimizers._variables import local, mean_square, move
from keras_bp.optimizers.adam import as_held
from keras_bp.optimizers.optimizer import Optimizer


class ScheduleFree(Optimizer):
    """What the schedule-free rules share: the way of y and of its difference from z.

    A rule names its rate by `_rate`, and the share of x in y by `_beta`; one that divides by the
    root of an average of squares keeps the second slot, and adds what `_moved` needs for it to the
    coefficients.

    Args:
        learning_rate: number >= 0, a schedule or a callable.
        r: number >= 0, the power of k+1 in the average's weights.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.
    """

    decays_in_rule = True
    # Each would leave y without the z and x that it lies between.
    refused_options = ("cautious", "update_clip", "lookahead_steps")
    epsilon: float = 0.0
    silent_sgd_phase: bool = True

    def __init__(self, learning_rate: LearningRate, *, r: float, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)
        self.r = check_number("r", r, 0.0)

    @property
    def _beta(self) -> float:
        raise NotImplementedError

    def _rate(self, learning_rate, step):
        raise NotImplementedError

    def _create_shared(self):
        super()._create_shared()
        self._weight_sum = self.add_variable((), dtype="float64", name="weight_sum")
        self._largest_rate = self.add_variable((), dtype="float64", name="largest_rate")
        # The variables are at y + offset u: 0 while training, 1 - 1/b1 at the average.
        self._offset = self.add_variable((), dtype="float64", name="offset")
        self._offset_before = self.add_variable((), dtype="float64", name="offset_before")

    def _start(self, learning_rate, step):
        """Note where the variables are, and weigh this update's z in the average."""
        offset, before = local(self._offset), local(self._offset_before)
        before.assign(offset)
        offset.assign(0.0)
        # Each variable leaves for y in its own update: a tf.cond over all of them would make XLA
        # copy each.
        largest, total = local(self._largest_rate), local(self._weight_sum)
        largest.assign(tf.maximum(largest, self._rate(learning_rate, step)))
        total.assign_add(self._weight(step))

    def _weight(self, step):
        return step**self.r * local(self._largest_rate) ** 2

    def _coefficients(self, learning_rate, step, dtype):
        rate = self._rate(learning_rate, step)
        share = tf.math.divide_no_nan(self._weight(step), local(self._weight_sum))
        keep = 1 - share
        offset = local(self._offset_before)
        # Of the lines above: u' = (1-c) (u - a b1 d), and y' = y + c u + a (b1 (1-c) - 1) d with
        # u = u' / (1-c) + a b1 d. So y' follows from u': XLA would copy a u that is read after u'.
        # Where c is 1, no weight came before, and u is 0; the division by 1/0 keeps it there.
        pull = tf.math.divide_no_nan(share - offset, keep)
        push = rate * tf.where(keep > 0, 1 - self._beta * (1 - offset), 1)
        return rate * self._beta, 1 / keep, pull, push

    def _skip(self, variable):
        self._move(variable, -local(self._offset_before))

    def _rule(self, variable, gradient, slots, coefficients, decay):
        options = {"weight_decay": decay or 0.0}
        options |= {"epsilon": self.epsilon, "coefficients": tuple(coefficients)}
        options["is_silent"] = self.silent_sgd_phase
        move(_moved, gradient, [variable, *slots], **options)

    def use_average_weights(self) -> None:
        """Put the average x in the variables' place, unless it is there."""
        self._switch(to_average=True)

    def use_training_weights(self) -> None:
        """Put the training weights y back, unless they are there."""
        self._switch(to_average=False)

    def finalize_variable_values(self, var_list: list) -> None:
        """Keras's hook at the end of `fit`: flush, and go to the average."""
        super().finalize_variable_values(var_list)
        # With `use_ema` another average, that of y, has taken their place.
        if not self.use_ema:
            self.use_average_weights()

    def _switch(self, to_average):
        offset = 1 - 1 / self._beta if to_average else 0.0
        if self.built and float(self._offset.numpy()) != offset:

            def switch():
                current = local(self._offset)
                for variable in self._trainable_variables:
                    self._move(variable, offset - current)
                current.assign(offset)

            self._distribution_strategy.run(switch)

    def _move(self, variable, share):
        """Add a share of u to a variable."""
        slots = self._slots_of(self._get_variable_index(variable))
        if slots:
            own, target = local(variable), self._up_to_date_target(variable)
            target.assign_add(slots[0] * tf.cast(share, target.dtype))
            if own is not target:
                own.assign(tf.cast(target, own.dtype))


@serializable
class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-Free AdamW: trains at y, between the fast iterate z and the average x.

    The arguments of `keras.optimizers.ScheduleFreeAdamW`, and the rule of its authors, which
    Keras's misses on TensorFlow. In update k = 0, 1, ... with the gradient g at y:

        a = learning_rate * min(1, (k+1) / warmup_steps)
        v = b2 v + (1 - b2) g^2;  d = g / (sqrt(v / (1 - b2^(k+1))) + eps) + lambda y
        weight = (k+1)^r * (largest a so far)^2;  c = weight / (sum of weights), 0 where that is 0
        z' = z - a d;  x' = (1 - c) x + c z';  y' = (1 - b1) z' + b1 x'

    The model's variables are y while training. The optimizer keeps v and the difference
    u = z - y, from which x = y + (1 - 1/b1) u follows.

    x is what should be evaluated and deployed. `fit` ends at x, or with `use_ema`, which is another
    average and of little use here, at that of y. Inside of training,

        optimizer.use_average_weights();   ...;   optimizer.use_training_weights()

    go to x and back; as callbacks of `fit`'s validation, with Keras's own class:

        keras.callbacks.LambdaCallback(
            on_test_begin=lambda logs: optimizer.use_average_weights(),
            on_test_end=lambda logs: optimizer.use_training_weights(),
        )

    Whatever puts weights back from outside while they are at x (EarlyStopping with
    `restore_best_weights`, `load_weights`) goes unnoticed, and the optimizer still assumes x:
    restore weights and optimizer together, from a `.keras` file. ModelCheckpoint saves y and u,
    from which both x and y follow.

    An update that finds the variables at x goes back to y first; its gradient and its decay are
    those at x then. Where batch normalization is used, its moving statistics belong to y: pass some
    batches through the model at x with `training=True` before it is evaluated.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.0025.
        beta_1: number in (0, 1), b1. Defaults to 0.9.
        beta_2: number in [0, 1), b2. Defaults to 0.999.
        epsilon: number > 0. Defaults to 1e-8.
        warmup_steps: integer >= 0, update steps. Defaults to 0.
        weight_decay: number >= 0, lambda, or `None` for none.
        r: number >= 0, the power of k+1 in the average's weights. Defaults to 0.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> optimizer = keras_bp.optimizers.ScheduleFreeAdamW(0.1)
        >>> optimizer.apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy().round(4)
        array([0.9, 2.1], dtype=float32)

    References:
        Defazio et al., 2024, "The road less scheduled", algorithm 1 and section 4.
    """

    slot_names: tuple[str, ...] = ("difference", "velocity")
    argument_names: tuple[str, ...] = ("beta_1", "beta_2", "epsilon", "warmup_steps", "r")

    def __init__(
        self,
        learning_rate: LearningRate = 0.0025,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        warmup_steps: int = 0,
        weight_decay: float | None = None,
        *,
        r: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, r=r, **kwargs)
        # x follows from y by a division by b1.
        self.beta_1 = check_number("beta_1", beta_1, 0.0, 1.0, low_open=True, high_open=True)
        self.beta_2 = check_number("beta_2", beta_2, 0.0, 1.0, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
        self.warmup_steps = check_integer("warmup_steps", warmup_steps, 0)

    @property
    def _beta(self) -> float:
        return self.beta_1

    def _rate(self, learning_rate, step):
        return learning_rate * _warmed(step, self.warmup_steps)

    def _coefficients(self, learning_rate, step, dtype):
        beta_2 = as_held(self.beta_2, dtype)
        correction = 1 / tf.sqrt(1 - beta_2**step)
        return *super()._coefficients(learning_rate, step, dtype), correction, beta_2


@serializable
class ScheduleFreeSGD(ScheduleFree):
    """Schedule-Free SGD: trains at y, between the fast iterate z and the average x.

    The rule of its authors' `SGDScheduleFree`. In update k = 0, 1, ... with the gradient g at y:

        a = learning_rate * min(1, (k+1) / warmup_steps);  d = g + lambda y
        weight = (k+1)^r * (largest a so far)^2;  c = weight / (sum of weights), 0 where that is 0
        z' = z - a d;  x' = (1 - c) x + c z';  y' = (1 - momentum) z' + momentum x'

    Here momentum is the share of x in y. The rate is larger than SGD's with momentum, at which its
    steps are divided by 1 - momentum: ten times of it, and often more. All else is as in
    `ScheduleFreeAdamW`: `fit` ends at x, `use_average_weights` and `use_training_weights` go there
    and back. The slot is one array, z - y.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 1.
        momentum: number in (0, 1). Defaults to 0.9.
        warmup_steps: integer >= 0, update steps. Defaults to 0.
        weight_decay: number >= 0, lambda, or `None` for none. It is a part of the gradient.
        r: number >= 0, the power of k+1 in the average's weights. Defaults to 0.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> optimizer = keras_bp.optimizers.ScheduleFreeSGD(0.5)
        >>> for _ in range(2):
        ...     optimizer.apply([tf.constant([0.5, -1.0])], [w])
        >>> w.numpy().round(4)  # z has moved by 1, and x to the mean of its two places
        array([0.6125, 2.775 ], dtype=float32)

    References:
        Defazio et al., 2024, "The road less scheduled", equations 1 to 3.
    """

    slot_names: tuple[str, ...] = ("difference",)
    argument_names: tuple[str, ...] = ("momentum", "warmup_steps", "r")

    def __init__(
        self,
        learning_rate: LearningRate = 1.0,
        momentum: float = 0.9,
        warmup_steps: int = 0,
        weight_decay: float | None = None,
        *,
        r: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, r=r, **kwargs)
        self.momentum = check_number("momentum", momentum, 0.0, 1.0, low_open=True, high_open=True)
        self.warmup_steps = check_integer("warmup_steps", warmup_steps, 0)

    @property
    def _beta(self) -> float:
        return self.momentum

    def _rate(self, learning_rate, step):
        return learning_rate * _warmed(step, self.warmup_steps)


@serializable
class ScheduleFreeRAdam(ScheduleFree):
    """Schedule-Free RAdam: needs neither a schedule nor a warm-up.

    The rule of its authors' `RAdamScheduleFree`. It is that of `ScheduleFreeAdamW`, with the rate
    a = learning_rate * s(t) in update t = 1, 2, ..., where

        rho = 2 / (1 - b2) - 1;  rho(t) = rho - 2 t b2^t / (1 - b2^t)
        s(t)^2 = (rho(t) - 4) (rho(t) - 2) rho / ((rho - 4) (rho - 2) rho(t))    where rho(t) > 4

    makes up for the spread of 1 / sqrt(v), which is an average of few squares at first. In the
    first four updates, or a few more with a small b2, rho(t) is at most 4: v is gathered there, and
    the weights stay. With `silent_sgd_phase=False` they move along the gradient itself, d = g +
    lambda y, at the full rate, which has another unit than the steps that follow.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.0025.
        beta_1: number in (0, 1), b1, the share of x in y. Defaults to 0.9.
        beta_2: number in (0.6, 1), b2; up to 0.6, rho is at most 4. Defaults to 0.999.
        epsilon: number > 0. Defaults to 1e-8.
        weight_decay: number >= 0, lambda, or `None` for none.
        silent_sgd_phase: whether the weights stay in the first updates. Defaults to `True`.
        r: number >= 0, the power of t in the average's weights. Defaults to 0.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> optimizer = keras_bp.optimizers.ScheduleFreeRAdam(0.5)
        >>> for _ in range(5):
        ...     optimizer.apply([tf.constant([0.5, -1.0])], [w])
        >>> w.numpy().round(4)  # the fifth update is the first to move
        array([0.9913, 2.0087], dtype=float32)

    References:
        Defazio et al., 2024, "The road less scheduled", algorithm 1. Liu et al., 2020, "On the
        variance of the adaptive learning rate and beyond", algorithm 2.
    """

    slot_names: tuple[str, ...] = ("difference", "velocity")
    argument_names: tuple[str, ...] = ("beta_1", "beta_2", "epsilon", "silent_sgd_phase", "r")

    def __init__(
        self,
        learning_rate: LearningRate = 0.0025,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float | None = None,
        *,
        silent_sgd_phase: bool = True,
        r: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, r=r, **kwargs)
        self.beta_1 = check_number("beta_1", beta_1, 0.0, 1.0, low_open=True, high_open=True)
        self.beta_2 = check_number("beta_2", beta_2, 0.6, 1.0, low_open=True, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
        self.silent_sgd_phase = check_flag("silent_sgd_phase", silent_sgd_phase)

    @property
    def _beta(self) -> float:
        return self.beta_1

    def _length(self, step):
        """Return rho(t), which is at most 4 in the first updates."""
        power = tf.constant(self.beta_2, tf.float64) ** step
        return 2 / (1 - self.beta_2) - 1 - 2 * step * power / (1 - power)

    def _rate(self, learning_rate, step):
        last, now = 2 / (1 - self.beta_2) - 1, self._length(step)
        square = (now - 4) * (now - 2) * last / ((last - 4) * (last - 2) * now)
        early = tf.constant(0.0 if self.silent_sgd_phase else 1.0, tf.float64)
        return learning_rate * tf.where(now > 4, tf.sqrt(tf.maximum(square, 0)), early)

    def _coefficients(self, learning_rate, step, dtype):
        beta_2 = as_held(self.beta_2, dtype)
        correction = 1 / tf.sqrt(1 - beta_2**step)
        if not self.silent_sgd_phase:
            correction = tf.where(self._length(step) > 4, correction, 0)
        return *super()._coefficients(learning_rate, step, dtype), correction, beta_2


def _warmed(step, warmup_steps):
    return tf.minimum(step / max(warmup_steps, 1), 1)


@functools.partial(clustered, backward=True)
def _moved(g, y, difference, *squares, coefficients, weight_decay, epsilon, is_silent, in_xla):
    """Return the next y, u and, where it is kept, v."""
    reach, inverse_keep, pull, push, *adaptive = coefficients
    d, after = g, []
    if squares:
        correction, beta_2 = adaptive
        after = [mean_square(squares[0], beta_2, g)]
        root = tf.sqrt(after[0]) * correction + epsilon
        d = g / (root if is_silent else tf.where(correction > 0, root, 1))
    if weight_decay:
        d += y * tf.constant(weight_decay, y.dtype)
    # Not times (1-c): XLA would compute that product again for the next line, from a copy of u.
    difference = (difference - d * reach) / inverse_keep
    return y + (difference * pull - d * push), difference, *after
