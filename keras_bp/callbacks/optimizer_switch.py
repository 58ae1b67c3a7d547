"""Switches to another optimizer, once, when training has reached a plateau or diverged."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.optimizers import LossScaleOptimizer
from keras.optimizers.schedules import LearningRateSchedule

from keras_bp._arguments import check_choice, check_integer, check_number
from keras_bp._keras import MonitorCallback, set_compiled_optimizer
from keras_bp.optimizers import SGD
from keras_bp.recording import Callback
from keras_bp.schedules import Warmup

# The prefix of the new optimizer's name. The name is saved, and tells a `fit` of a loaded model
# that the switch has been made.
_MARK = "switched_to_"


class OptimizerSwitch(Callback, MonitorCallback):
    """Changes the optimizer of a `fit` once, when the loss no longer improves or weights diverge.

    Adam makes quick progress at first; after it reaches a plateau, gradient descent with momentum
    often gets further, and finds weights that generalize better. This callback watches a quantity
    as `keras.callbacks.ReduceLROnPlateau` does. When it has not improved for `patience` epochs, the
    next epoch begins with a new optimizer, whose rate rises linearly from 0 to its full value. If
    training ends with that epoch (the last one, `EarlyStopping`), no switch is made.

    Where the loss has diverged by then, the new optimizer begins with the best weights, batch
    statistics included: those of the end of the epoch with the best quantity. It has diverged where
    the last epoch's quantity is worse than the first's, and worse than the best by more than half
    of that, or where it is NaN. A plateau that is a little above the best keeps its weights, and a
    loss that recovers costs nothing. Where an epoch leaves weights that are not finite, the next
    one begins at once with the new optimizer, and with the best weights. For that one copy of the
    weights is kept in memory until the switch, or the end of `fit`.

    At the switch,

    1. the old optimizer finishes as it does at the end of `fit`: averages of the weights take
       their place, and accumulated gradients that are left are applied;
    2. where `learning_rate` is a function, it is called;
    3. the new optimizer is created in the scope of the model's distribution strategy, built, and
       put in place of the old one, also in what `model.save` writes; if the old one was wrapped in
       a `LossScaleOptimizer`, so is the new one, with the current loss scale.

    From then on the training is, bit for bit, that of a model compiled with the new optimizer.
    Weights, loss, metrics, callbacks and epochs continue. No setting of
    the old optimizer is kept: `optimizer` sets clipping, decay and accumulation.

    A compiled model is switched once. The new optimizer's name begins with
    `switched_to_`, and where training begins with an optimizer of such a name this callback does
    nothing: in a second `fit`, and in one of a model loaded from a `.keras` file that was saved
    after the switch, whose optimizer continues with its momentum and its place in the warm-up. The
    file must hold the whole model: whatever restores variables into a newly compiled model
    (`load_weights`, `BackupAndRestore`, `ResumableTraining`) finds the old optimizer there. Before
    the switch, each `fit` starts watching from the beginning.

    Args:
        learning_rate: number above 0, a schedule of rates, or a function of the model that returns
            one of these, such as a range test. The function is called with the new optimizer in
            place, at a rate of 0, so that the test runs with that optimizer:
            `lambda model: find_learning_rate(model, x, y).suggest()`.
        optimizer: function that takes a learning rate and returns a new optimizer; such as a
            class that can be called with only the rate. It is called for the test too. Defaults to
            `None`: `keras_bp.optimizers.SGD(learning_rate, momentum=0.9)`.
        warmup_steps: integer of 0 or more, the update steps in which the rate rises, see
            `keras_bp.schedules.Warmup`. Defaults to 100.
        monitor: string, the quantity to watch, a key of the epochs' logs. Defaults to `"loss"`.
        patience: integer of 1 or more, the epochs without improvement before the switch. Defaults
            to 10.
        min_delta: number of 0 or more, the change that counts as an improvement. Defaults to 1e-4.
        mode: `"min"` if the quantity is to fall, `"max"` if it is to rise, `"auto"` to infer this
            from its name, for the loss and Keras's metrics. Defaults to `"auto"`.
        verbose: integer, 1 to print a line at the switch, 0 for none. Defaults to 0.

    Attributes:
        switched_at_epoch: integer, the first epoch of the new optimizer, counted from 0 as Keras
            does; `None` until this callback has made a switch in the model.

    Raises:
        TypeError: if an argument is of another kind; at the switch, if a function does not
            return a rate or an optimizer.
        ValueError: if an argument is out of its range; by `fit`, if the model has no optimizer, or
            if it cannot be inferred whether the quantity is to fall or to rise.

    Example:
        >>> x = np.linspace(-1.0, 1.0, 64)[:, None]
        >>> model = keras.Sequential([keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.Adam(0.1), "mse")
        >>> switch = keras_bp.callbacks.OptimizerSwitch(0.05, min_delta=0.01, patience=2)
        >>> _ = model.fit(x, 0.5 * x, epochs=20, verbose=0, callbacks=[switch])
        >>> switch.switched_at_epoch < 20, type(model.optimizer).__name__
        (True, 'SGD')

    References:
        Keskar and Socher, 2017, "Improving generalization performance by switching from Adam to
        SGD", which determines the time and the rate by another criterion.
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule | Callable[[keras.Model], Any],
        optimizer: Callable[..., keras.optimizers.Optimizer] | None = None,
        *,
        warmup_steps: int = 100,
        monitor: str = "loss",
        patience: int = 10,
        min_delta: float = 1e-4,
        mode: str = "auto",
        verbose: int = 0,
    ) -> None:
        if isinstance(learning_rate, LearningRateSchedule) or not callable(learning_rate):
            learning_rate = _checked_rate(learning_rate)
        if optimizer is not None and not callable(optimizer):
            raise TypeError(
                "`optimizer` must be a function that takes a learning rate and returns a "
                f"keras.optimizers.Optimizer. Received: optimizer={optimizer!r}"
            )
        if not isinstance(monitor, str):
            raise TypeError(f"`monitor` must be a string. Received: monitor={monitor!r}")
        check_choice("mode", mode, ("auto", "min", "max"))
        min_delta = check_number("min_delta", min_delta, 0.0)
        super().__init__(monitor, mode, min_delta=min_delta)
        self.learning_rate = learning_rate
        self.optimizer = optimizer or _sgd_with_momentum
        self.warmup_steps = check_integer("warmup_steps", warmup_steps, 0)
        self.patience = check_integer("patience", patience, 1)
        self.verbose = check_integer("verbose", verbose, 0)
        self.switched_at_epoch = None
        self._first = self._last = None
        self._best_weights: list | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Keras's hook: begin to watch, unless the switch has been made."""
        self._check_optimizer()
        self.best = self._first = self._last = self._best_weights = None
        self.wait = 0
        if not self._is_switched():
            self.switched_at_epoch = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: switch, if the last epochs were a plateau or the last one diverged."""
        # Not at the end of the epoch, where the plateau is seen: that epoch may be the last, and
        # other callbacks may then save or restore the old optimizer's weights, or stop training.
        if self._is_switched():
            return
        finite = self._are_finite()
        if self._best_weights is None and finite:  # of the beginning, until an epoch is the best
            self._best_weights = self.model.get_weights()
        reason = f"{self.monitor} has not improved for {self.wait} epoch(s)"
        back = None if self._best_weights is None else "the best ones are back"
        if not finite and back:
            reason = f"the weights are not finite; {back}"
        elif self._has_diverged():
            reason += f" and has diverged; {back}"
        else:
            back = None
        if self.wait >= self.patience or not finite and back:
            self._switch(epoch, reason, back is not None)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: see whether the quantity has improved."""
        if self._is_switched():
            return
        if self.monitor_op is None:
            self._set_monitor_op()
        value = (logs or {}).get(self.monitor)
        if value is None:
            warnings.warn(
                f"OptimizerSwitch watches `{self.monitor}`, which is not among the epoch's logs: "
                f"{', '.join(logs or {})}.",
                stacklevel=2,
            )
            return
        self._first, self._last = value if self._first is None else self._first, value
        if self._is_improvement(value, self.best):
            self.best = value
            self.wait = 0
            if self._are_finite():
                self._best_weights = self.model.get_weights()
        else:
            self.wait += 1

    def on_train_end(self, logs: dict | None = None) -> None:
        """Keras's hook: let go of the copy of the weights."""
        self._best_weights = None

    def _is_switched(self):
        return self.model.optimizer.name.startswith(_MARK)

    def _are_finite(self):
        """Tell whether all weights are finite."""
        return all(np.isfinite(np.asarray(weight)).all() for weight in self.model.weights)

    def _has_diverged(self):
        """Tell whether the quantity has become worse than at first, and far from the best."""
        if self.best is None or self.monitor_op(self._last, self.best):
            return False
        worse = abs(self._last - self.best)
        gained = abs(self._first - self.best)
        return not worse <= max(gained, abs(self.best) / 2)

    def _switch(self, epoch, reason, from_best):
        old = self.model.optimizer
        old.finalize_variable_values(self.model.trainable_variables)
        if from_best or not self._are_finite() and self._best_weights is not None:
            self.model.set_weights(self._best_weights)
        rate = self._find_rate()
        new = self._create(Warmup(rate, self.warmup_steps) if self.warmup_steps else rate)
        set_compiled_optimizer(self.model, new)
        self.switched_at_epoch = epoch
        self._best_weights = None
        if self.verbose:
            print(
                f"Epoch {epoch + 1}: {reason}. "
                f"OptimizerSwitch goes from {_kind(old)} to {_kind(new)}, learning rate "
                f"{rate if isinstance(rate, LearningRateSchedule) else format(rate, '.4g')} "
                f"after {self.warmup_steps} steps of warm-up."
            )

    def _find_rate(self):
        """Return the given rate, or the one that the function finds with the new optimizer."""
        if isinstance(self.learning_rate, LearningRateSchedule) or not callable(self.learning_rate):
            return self.learning_rate
        old = self.model.optimizer
        set_compiled_optimizer(self.model, self._create(0.0))
        try:
            return _checked_rate(self.learning_rate(self.model))
        finally:
            # An exception ends `fit`; the model then still has the old optimizer.
            set_compiled_optimizer(self.model, old)

    def _create(self, learning_rate):
        """Return a new optimizer, built, wrapped as the old one and with the mark in its name."""
        old = self.model.optimizer
        with self.model.distribute_strategy.scope():
            new = self.optimizer(learning_rate)
            if not isinstance(new, keras.optimizers.Optimizer):
                raise TypeError(
                    "`optimizer` must return a keras.optimizers.Optimizer. "
                    f"Received: optimizer={self.optimizer!r}, which returned {new!r}"
                )
            is_scaled = isinstance(old, LossScaleOptimizer)
            if is_scaled and not isinstance(new, LossScaleOptimizer):
                new = LossScaleOptimizer(new, old.initial_scale, old.dynamic_growth_steps)
            new.name = _MARK + new.name
            new.build(self.model.trainable_variables)
            if is_scaled:
                # The scale depends on the model's gradients, not on the optimizer.
                new.dynamic_scale.assign(old.dynamic_scale.numpy())
        return new


def _sgd_with_momentum(learning_rate):
    return SGD(learning_rate, momentum=0.9)


def _checked_rate(value):
    """Return a schedule as it is, and a number as a float."""
    if isinstance(value, LearningRateSchedule):
        return value
    try:
        return check_number("learning_rate", value, 0.0, low_open=True)
    except TypeError as error:
        raise TypeError(
            "`learning_rate` must be a number above 0, a schedule, or a function of the model that "
            f"returns one of these. Received: learning_rate={value!r}"
        ) from error


def _kind(optimizer):
    return type(getattr(optimizer, "inner_optimizer", optimizer)).__name__
