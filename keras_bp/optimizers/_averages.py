"""Averages of the weights: exponential, from a step on, and Lookahead's slow weights."""

import typing

import tensorflow as tf

from keras_bp._arguments import check_flag, check_integer, check_number
from keras_bp._keras import averages_of, lend_averages
from keras_bp._types import LearningRate
from keras_bp.optimizers._learning_rate import SettableLearningRate
from keras_bp.optimizers._variables import local


def share_of_newest(iterations, momentum, start):
    """Return the share of the new weights in their average.

    Args:
        iterations: scalar integer variable, the number of updates made before this one.
        momentum: float, b: the share is 1 - b, and 1 in the first update.
        start: int, the number of the first update whose weights are averaged, all with the same
            share; or `None`.
    """
    if start is None:
        return 1 - tf.where(iterations == 0, tf.zeros((), tf.float64), momentum)
    averaged = tf.maximum(tf.cast(iterations, tf.int64) + 2 - start, 1)
    return 1 / tf.cast(averaged, tf.float64)


def move_averages(averaged, share, overwrite):
    """Move averages towards their weights, once per update.

        average = (1 - share) average + share w

    Args:
        averaged: list of (average, weight, replaced), `tf.Variable` of the current replica; the
            last is a tuple: the weight in half precision, or the weight itself, or none where the
            average must not replace it.
        share: scalar float64 tensor.
        overwrite: scalar bool tensor, whether the averages replace the weights, or `None` for not.
    """
    for average, weight, _ in averaged:
        part = tf.cast(share, average.dtype)
        average.assign_add((tf.cast(weight, average.dtype) - average) * part)
    if overwrite is None:
        return

    def replace():
        for average, weight, replaced in averaged:
            for target in (weight, *replaced) if replaced else ():
                target.assign(tf.cast(average, target.dtype))

    tf.cond(overwrite, replace, lambda: None)


class AveragedWeights(SettableLearningRate):
    """The part of the base that averages the weights: `use_ema`, `swa_start`, `lookahead_steps`.

    Its arguments are explained in `Optimizer`.
    """

    argument_names: tuple[str, ...] = ("swa_start", "lookahead_steps", "lookahead_alpha")

    def __init__(
        self,
        learning_rate: LearningRate,
        *,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        swa_start: int | None = None,
        lookahead_steps: int | None = None,
        lookahead_alpha: float = 0.5,
        **kwargs: typing.Any,
    ) -> None:
        use_ema = check_flag("use_ema", use_ema)
        momentum = check_number("ema_momentum", ema_momentum, 0.0, 1.0)
        counts = {
            "ema_overwrite_frequency": (ema_overwrite_frequency, 1),
            "swa_start": (swa_start, 1),
            "lookahead_steps": (lookahead_steps, 2),
        }
        every, start, steps = (
            count if count is None else check_integer(name, count, low)
            for name, (count, low) in counts.items()
        )
        if every and steps:
            raise ValueError(
                "`ema_overwrite_frequency` must come without `lookahead_steps`, whose slow weights "
                f"it would not reach. Received: ema_overwrite_frequency={every}, "
                f"lookahead_steps={steps}"
            )
        if start and (use_ema or every):
            raise ValueError(
                "`swa_start` must come without `use_ema` and `ema_overwrite_frequency`: it is an "
                f"average in place of theirs. Received: swa_start={start}, use_ema={use_ema}, "
                f"ema_overwrite_frequency={every}"
            )
        # Keras keeps either average in the same variables, and both come into use alike.
        kwargs |= {"use_ema": use_ema or start is not None, "ema_momentum": momentum}
        super().__init__(learning_rate, ema_overwrite_frequency=every, **kwargs)
        self.swa_start = start
        self.lookahead_steps = steps
        self.lookahead_alpha = check_number(
            "lookahead_alpha", lookahead_alpha, 0.0, 1.0, low_open=True
        )
        self._restore: typing.Callable[[], None] | None = None

    def _create_slow_weights(self, variables):
        if self.lookahead_steps:
            kept = [v for v in variables if not self._overwrite_variable_with_gradient(v)]
            slow = [(v, self.add_variable_from_reference(v, "slow")) for v in kept]
            self._slow_weights = lambda: [
                (v, local(s), self._up_to_date_target(v)) for v, s in slow
            ]

    def _begin_slow_weights(self, step):
        """Let the slow weights begin where the weights are, before the first update."""
        if not self.lookahead_steps:
            return

        def begin():
            for _, slow, fast in self._slow_weights():
                slow.assign(fast)

        tf.cond(step == 1, begin, lambda: None)

    def _look_ahead(self, step):
        """Draw the slow weights to the fast ones, and begin from there again, now and then.

            slow += alpha (fast - slow);  fast = slow

        The slow weights of a frozen variable go to it.
        """
        if not self.lookahead_steps:
            return

        def synchronize():
            for variable, slow, fast in self._slow_weights():
                if self.is_frozen(variable):
                    slow.assign(fast)
                    continue
                slow.assign_add((fast - slow) * tf.constant(self.lookahead_alpha, slow.dtype))
                if variable.constraint is not None:
                    slow.assign(variable.constraint(slow))
                for weight in (fast, local(variable)):
                    weight.assign(tf.cast(slow, weight.dtype))

        tf.cond(tf.cast(step, tf.int64) % self.lookahead_steps == 0, synchronize, lambda: None)

    def _update_averages(self):
        """Move the averages of `use_ema` or `swa_start` towards the weights."""
        if not self.use_ema:
            return
        # Of the float32 copies, which hold what half precision rounds away.
        averaged = [
            (local(a), self._up_to_date_target(v), () if self.is_frozen(v) else (local(v),))
            for v, a in averages_of(self)
        ]
        iterations, every = local(self._iterations), self.ema_overwrite_frequency
        share = share_of_newest(iterations, self.ema_momentum, self.swa_start)
        overwrite = None if every is None else (iterations + 1) % every == 0
        move_averages(averaged, share, overwrite)

    def use_average_weights(self) -> None:
        """Put the averages of `use_ema` or `swa_start` in the variables' place, unless they are.

        Outside of `tf.function`. The weights are kept, for `use_training_weights`, which must be
        called before the next step: `apply` raises an error otherwise, or, in a function that was
        traced before, `use_training_weights` does. Before the first update there is no average,
        and the weights stay. In `fit`, use `keras_bp.callbacks.SwapEMAWeights`.
        """
        if not self.use_ema:
            raise ValueError(
                "`use_average_weights` needs an optimizer that averages the weights, by `use_ema` "
                f"or `swa_start`. Received: {self!r}"
            )
        kept = [] if self._restore is not None else lend_averages([self])
        if not kept:
            return
        before = int(self.iterations.numpy())

        def restore():
            updates = int(self.iterations.numpy()) - before
            if updates:
                raise RuntimeError(
                    "`use_training_weights` must be called before the next step. Received: "
                    f"{updates} updates since `use_average_weights`, made on the averages, which "
                    "are left as they are"
                )
            for variable, value in kept:
                variable.assign(value)

        # As a function: Keras would track what a list holds as variables of the optimizer.
        self._restore = restore

    def use_training_weights(self) -> None:
        """Put back the weights that `use_average_weights` has taken away, bit for bit."""
        self._put_back()

    def _put_back(self):
        restore, self._restore = self._restore, None
        if restore is not None:
            restore()

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        """Put the averages, in float32 for half precision, in the variables' place."""
        for variable, average in averages_of(self):
            for target in (variable, self._masters[self._get_variable_index(variable)]):
                if target is not None:
                    target.assign(tf.cast(tf.convert_to_tensor(average), target.dtype))

    def get_config(self) -> dict[str, typing.Any]:
        """Return the constructor's arguments, for `from_config`."""
        return {**super().get_config(), "use_ema": self.use_ema and self.swa_start is None}
