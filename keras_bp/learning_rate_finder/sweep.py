"""The sweep itself: a callback that sets the rate of each update step and records its loss."""

import contextlib
import math

import keras
import numpy as np
import tensorflow as tf

from keras_bp.learning_rate_finder.curve import LearningRateCurve


class Sweep(keras.callbacks.Callback):
    """Trains each update step of a `fit` at the next learning rate and records its loss.

    Args:
        rates: float64 array, the learning rate of each update step.
        smoothing: float, the share of the earlier average in the new one.
        divergence_factor: float, how many times the best smoothed loss ends the sweep.
        data_end: bool, whether the data can be gone through only once.
        remember: a function that is told of every optimizer before it is changed.
    """

    def __init__(self, rates, smoothing, divergence_factor, data_end, remember):
        super().__init__()
        self._rates = rates
        self._smoothing = smoothing
        self._divergence_factor = divergence_factor
        self._data_end = data_end
        self._remember = remember
        self._swept = []  # (an optimizer, the variable that is its learning rate meanwhile)
        self._losses, self._smoothed, self._micro_losses = [], [], []
        self._average = 0.0
        self._batches = self._batches_before = 0
        self._stop_reason = None

    def take_over(self, optimizer):
        """Let the sweep set the learning rate of an optimizer, or of those inside it."""
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            self.take_over(optimizer.inner_optimizer)
        elif isinstance(optimizer, keras.optimizers.MultiOptimizer):
            for inner in optimizer.optimizers:
                self.take_over(inner)
            # Where the map is a function, the optimizers inside come to light as it is called.
            self._watch_map(optimizer)
        elif all(optimizer is not swept for swept, _ in self._swept):
            self._exchange_rate(optimizer)

    def batches_an_update(self):
        """Return how many batches the optimizers accumulate gradients over."""
        counts = [optimizer.gradient_accumulation_steps or 1 for optimizer, _ in self._swept]
        return math.lcm(*counts)

    def curve(self):
        """Return what was recorded."""
        taken = len(self._losses)
        return LearningRateCurve(
            learning_rates=self._rates[:taken].copy(),
            losses=np.array(self._losses),
            smoothed_losses=np.array(self._smoothed),
            steps=len(self._rates),
            stop_reason=self._stop_reason or "data ran out",
        )

    def on_train_batch_begin(self, batch, logs=None):
        """Keras's hook: set the rate, and let the metrics begin anew, so they show one batch."""
        self.model.reset_metrics()
        for _, rate in self._swept:
            rate.assign(self._rate())

    def on_train_batch_end(self, batch, logs=None):
        """Keras's hook: record the loss of the batch just trained on."""
        if "loss" not in (logs or {}):
            raise ValueError(
                "model must have a train_step that returns the loss under the key 'loss'. "
                f"Received: keys {sorted(logs or {})}"
            )
        self._batches += 1
        loss = float(np.mean(logs["loss"]))
        if not math.isfinite(loss):
            if not self._losses and not self._micro_losses:
                raise ValueError(
                    "model must have a finite loss at the first update step, before any weight "
                    "has changed: look for NaN or infinity in the data and in the weights. "
                    f"Received: a loss of {loss} at learning rate {self._rate():.3g}"
                )
            self._stop("loss not finite")
            return
        self._micro_losses.append(loss)
        if len(self._micro_losses) == self.batches_an_update():
            self._record(float(np.mean(self._micro_losses)))
            self._micro_losses.clear()

    def on_epoch_end(self, epoch, logs=None):
        """Keras's hook: the data are at their end; stop if there is no beginning anew."""
        if self._data_end or self._batches == self._batches_before:
            self._stop("data ran out")
        self._batches_before = self._batches

    def _rate(self):
        return self._rates[min(len(self._losses), len(self._rates) - 1)]

    def _record(self, loss):
        keep = self._smoothing
        self._losses.append(loss)
        self._average = keep * self._average + (1.0 - keep) * loss
        self._smoothed.append(self._average / (1.0 - keep ** len(self._losses)))
        best = min(self._smoothed)
        # The same as factor * best where losses are positive; and no stop at once where not.
        bound = best + (self._divergence_factor - 1.0) * abs(best)
        if self._smoothed[-1] > bound:
            self._stop("loss diverged")
        elif len(self._losses) == len(self._rates):
            self._stop("completed")

    def _stop(self, reason):
        self._stop_reason = self._stop_reason or reason
        self.model.stop_training = True

    def _watch_map(self, optimizer):
        of_variable = optimizer._optimizer_map

        def watched(variable):
            # It is called while the step is traced; an optimizer that it creates, and the values
            # that are read here, must live outside the graph.
            with tf.init_scope():
                inner = of_variable(variable)
                self._remember(inner)
                self.take_over(inner)
            return inner

        vars(optimizer)["_optimizer_map"] = watched

    def _exchange_rate(self, optimizer):
        # Not by `optimizer.learning_rate = ...`: Keras refuses that over a schedule, and this
        # package's optimizers scale the schedule then.
        strategy = getattr(optimizer, "_distribution_strategy", None)
        with strategy.scope() if strategy else contextlib.nullcontext():
            rate = keras.Variable(
                self._rate(),
                dtype="float32",
                trainable=False,
                aggregation="only_first_replica",
                name="swept_learning_rate",
            )
        vars(optimizer)["_learning_rate"] = rate
        self._swept.append((optimizer, rate))
        shown = float(tf.convert_to_tensor(optimizer.learning_rate))
        if not math.isclose(shown, self._rate(), rel_tol=1e-5):
            raise TypeError(
                "model must have an optimizer that reads its rate from Keras's `learning_rate`. "
                f"Received: {type(optimizer).__name__}, which shows {shown:.3g} when set to "
                f"{self._rate():.3g}"
            )
