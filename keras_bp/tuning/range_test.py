"""The learning rate range test."""

import collections.abc
import contextlib
import math
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_integer, check_number, check_verbose
from keras_bp._keras import LEARNING_RATE, is_built, leaf_optimizers, set_initial_epoch
from keras_bp._trial import lent_learning_rate, unchanged
from keras_bp._types import Array
from keras_bp.tuning.curve import LearningRateCurve

# With fewer steps, neighbouring rates are so far apart that one step may skip all useful ones.
_LEAST_STEPS = 20


def find_learning_rate(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    batch_size: int = 32,
    min_learning_rate: float = 1e-7,
    max_learning_rate: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.98,
    divergence_factor: float = 4.0,
    sample_weight: Array | None = None,
    class_weight: dict[int, float] | None = None,
    verbose: int | str = 0,
) -> LearningRateCurve:
    r"""Train a compiled model for some steps at rising learning rates, and record the loss.

    The model is trained with its own train step, optimizer and loss for up to $K$ update steps,
    step $k = 0, \dots, K - 1$ at the learning rate

    $$\alpha_k = \alpha_{min} (\alpha_{max} / \alpha_{min})^{k / (K - 1)}.$$

    Too small a rate leaves the loss unchanged, a good one lets it fall, too large a one makes it
    explode. Recorded are the loss $L_k$ of that step's batch alone, before its update, with the
    penalties of layers, and its average with the share $\beta$ of the past,

    $$\bar L_k = \frac{1 - \beta}{1 - \beta^{k + 1}} \sum_{i \le k} \beta^{k - i} L_i.$$

    The sweep ends early at the first point above $f$ times the best average so far (in general:
    above $\bar L_{best} + (f - 1) |\bar L_{best}|$, which is the same for positive losses), or at a
    loss that is not finite, which is left out of the curve.

    Afterwards everything is as before, also after an exception or Ctrl-C: weights and batch
    statistics, the optimizer's variables and rate, metrics, seeds of layers, the random states of
    Python, NumPy, TensorFlow and Keras, `train_function`, `history` and `stop_training`. A `fit`
    that follows is bit for bit the one without the sweep. A model, optimizer or metric that was
    not built is not built afterwards; the next `fit` creates it from the same initializers. The
    data are not rewound: batches taken from a generator, the order into which a `tf.data` dataset
    shuffles its next pass, what `on_epoch_end` of a `PyDataset` did. If that matters, give the
    sweep its own generator or dataset. What a custom train step changes outside the model is not
    restored either.

    Where a `fit` has traced the model's step already, and the optimizer has no schedule, the sweep
    runs that step, at the cost of as many steps of `fit`. TensorFlow's own random operations in
    such a step (`tf.random.normal`, not Keras's) are not rewound. Otherwise the step is traced for
    the sweep alone, which for a small model takes longer than the sweep.

    Every optimizer inside a `LossScaleOptimizer` or a `MultiOptimizer` gets the swept rate, and a
    schedule or a callable is set aside. With `gradient_accumulation_steps`, an update step takes
    that many batches, and its loss is their mean. `steps_per_execution` is 1 during the sweep.

    Limits: it is a test of the first steps, from the weights that the model has now and at this
    batch size; run it again when either changes. It is not reliable for fine-tuning transformers:
    a few steps at a rate that the pretrained weights do not survive can still lower the loss, and
    the rate that works there lies far below the suggestion. Nor does it show what a warm-up would
    allow.

    Args:
        model: a compiled `keras.Model`, built or not.
        x: what `fit` takes: an array or tensor; a list or dict of them, for several inputs; a
            batched `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator of (inputs,
            targets) or (inputs, targets, sample weights). Arrays are shuffled. Data shorter than
            the sweep are repeated, except a generator: the curve is then shorter.
        y: the targets, if `x` are arrays; `None`, the default, for a model that needs none.
        batch_size: integer above 0, the examples of a batch, if `x` are arrays. Defaults to 32.
        min_learning_rate: float above 0, the first rate. Defaults to 1e-7.
        max_learning_rate: float above `min_learning_rate`, the last rate. Defaults to 10.
        steps: integer, at least 20, the number of update steps. Defaults to 100.
        smoothing: float in [0, 1), the share of the past in the average. Defaults to 0.98.
        divergence_factor: float above 1, how many times the best average ends the sweep; infinity
            for never. Defaults to 4.
        sample_weight: as in `fit`, if `x` are arrays. Defaults to `None`.
        class_weight: as in `fit`. Defaults to `None`.
        verbose: 1 or `"auto"` for Keras's progress bar, 2 for one line at the end, 0, the default,
            for nothing.

    Returns:
        A `LearningRateCurve`: `curve.suggest()` is a learning rate, `curve.plot()` a picture.

    Raises:
        TypeError: if an argument has a wrong type, or the optimizer does not read its rate from
            Keras's `learning_rate`.
        ValueError: if the model is not compiled or has nothing to train, a number is out of its
            range, targets are given beside data that bring their own, the data are empty, or the
            very first loss is not finite.

    Example:
        >>> import keras, numpy as np
        >>> keras.utils.set_random_seed(0)
        >>> model = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
        >>> model.compile("adam", "mean_squared_error")
        >>> x = np.random.rand(256, 4).astype("float32")
        >>> curve = keras_bp.tuning.find_learning_rate(model, x, x.sum(axis=1, keepdims=True))
        >>> 1e-4 < curve.suggest() < 1.0
        True

    References:
        The range test: Smith, Cyclical Learning Rates for Training Neural Networks (2017),
        section 3.3, there with a linear rise. The geometric sweep, the smoothing, the bound at
        four times the best and the rules: fastai's learning rate finder.
    """
    _require_trainable(model)
    batch_size = check_integer("batch_size", batch_size, 1)
    steps = check_integer("steps", steps, _LEAST_STEPS)
    low = check_number("min_learning_rate", min_learning_rate, 0.0, low_open=True)
    high = check_number("max_learning_rate", max_learning_rate, low, low_open=True)
    smoothing = check_number("smoothing", smoothing, 0.0, 1.0, high_open=True)
    if divergence_factor != float("inf"):
        divergence_factor = check_number("divergence_factor", divergence_factor, 1.0, low_open=True)
    verbose = check_verbose("verbose", verbose)
    is_arrays = _is_arrays(x)
    if not is_arrays:
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(
                    f"`{name}` must be None where `x` brings its own targets and sample weights. "
                    f"Received: {name} of type {type(value).__name__} beside x of type "
                    f"{type(x).__name__}"
                )

    elif y is None and _needs_targets(model):
        raise ValueError(
            "`y` must be given where `x` is made of arrays: the model's loss compares the outputs "
            f"with targets. Received: y=None for model {model.name!r}"
        )

    with unchanged(model) as snapshot, contextlib.ExitStack() as stack:
        optimizers = leaf_optimizers(model.optimizer)
        rates = _rates_of_traced_step(model, optimizers)
        if not rates:
            # `fit` makes its own train function, with one step per call.
            vars(model).update(train_function=None, steps_per_execution=1)
            with model.distribute_strategy.scope():
                options = {"trainable": False, "aggregation": "only_first_replica"}
                rates = [keras.Variable(low, dtype="float32", name="swept_rate", **options)]
            optimizers = stack.enter_context(
                lent_learning_rate(model.optimizer, rates[0], snapshot.remember)
            )
        sweep = _Sweep(
            rates,
            optimizers,
            np.geomspace(low, high, steps),
            smoothing,
            divergence_factor,
            ends_with_data=isinstance(x, collections.abc.Iterator),
            bar=keras.utils.Progbar(
                steps, verbose=verbose, stateful_metrics=("loss", "learning_rate")
            ),
        )
        # A callback that resumes trainings may have left another first epoch behind.
        set_initial_epoch(model, None)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Your input ran out of data")
        model.fit(
            x,
            y,
            sample_weight=sample_weight,
            class_weight=class_weight,
            batch_size=batch_size if is_arrays else None,
            shuffle=is_arrays or getattr(x, "num_batches", None) is not None,
            # Enough even if each pass over the data has a single batch.
            epochs=steps * sweep.batches_per_update(),
            callbacks=[sweep],
            verbose=0,
        )
    curve = sweep.curve()
    if not len(curve.losses):
        raise ValueError(
            "`x` must hold the batches of one update step at least. Received: x of type "
            f"{type(x).__name__}, which ran out before"
        )
    return curve


def _require_trainable(model):
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    if not model.compiled or not isinstance(model.optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            "`model` must be compiled with a Keras optimizer: call model.compile(optimizer, loss). "
            f"Received: model {model.name!r}, "
            + (f"with optimizer {model.optimizer!r}" if model.compiled else "not compiled")
        )
    if is_built(model) and not model.trainable_variables:
        raise ValueError(
            f"`model` must have trainable weights. Received: model {model.name!r}, which has none"
        )


def _rates_of_traced_step(model, optimizers):
    """Return the variables of the rates if the model's own train function can run the sweep.

    It can if its step reads all rates from variables, and a call makes one step. It is traced, or
    can be: nothing is built by it that the sweep's end would take away again.
    """
    rates = [vars(optimizer).get(LEARNING_RATE) for optimizer in optimizers]
    owners = [model, *optimizers, *model.metrics]
    usable = (
        model.train_function is not None
        and model.steps_per_execution == 1
        and all(isinstance(rate, keras.Variable) for rate in rates)
        and all(getattr(owner, "built", True) for owner in owners)
    )
    return rates if usable else []


def _needs_targets(model):
    """Tell whether Keras's own training step will compare the outputs with targets."""
    kind = type(model)
    own = kind.train_step, kind.compute_loss
    return model.loss is not None and own == (keras.Model.train_step, keras.Model.compute_loss)


def _is_arrays(x):
    """Tell whether `x` is made of arrays or tensors, and not a source of batches."""
    leaves = keras.tree.flatten(x)
    if not leaves or any(leaf is None for leaf in leaves):
        raise TypeError(f"`x` must be arrays, a dataset or a generator. Received: x={x!r}")
    return all(hasattr(leaf, "shape") for leaf in leaves)


class _Sweep(keras.callbacks.Callback):
    """Trains each update step of a `fit` at the next learning rate and records its loss.

    Args:
        variables: list of the variables from which the optimizers read their learning rates.
        optimizers: list of the optimizers that do; it may grow during the sweep.
        rates: float64 array, the learning rate of each update step.
        smoothing: float, the share of the earlier average in the new one.
        divergence_factor: float, how many times the best smoothed loss ends the sweep.
        ends_with_data: bool, whether the data can be passed over only once.
        bar: a `keras.utils.Progbar`.
    """

    def __init__(
        self, variables, optimizers, rates, smoothing, divergence_factor, ends_with_data, bar
    ):
        super().__init__()
        self._variables = variables
        self._optimizers = optimizers
        self._rates = rates
        self._smoothing = smoothing
        self._divergence_factor = divergence_factor
        self._ends_with_data = ends_with_data
        self._bar = bar
        self._losses, self._smoothed, self._micro_losses = [], [], []
        self._average = 0.0
        self._checked = self._batches = self._batches_before = 0
        self._stop_reason = None

    def batches_per_update(self):
        """Return how many batches the optimizers accumulate gradients over."""
        counts = [optimizer.gradient_accumulation_steps or 1 for optimizer in self._optimizers]
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
        """Keras's hook: set the rate, and reset the metrics, so that they show one batch."""
        self._reset_metrics()
        for variable in self._variables:
            variable.assign(self._next_rate())
        self._check_optimizers()

    def on_train_batch_end(self, batch, logs=None):
        """Keras's hook: record the loss of the batch just trained on."""
        self._check_optimizers()  # those that were found as the step was traced
        if "loss" not in (logs or {}):
            raise ValueError(
                "`model` must have a train_step that returns the loss under the key 'loss'. "
                f"Received: keys {sorted(logs or {})}"
            )
        self._batches += 1
        loss = float(np.mean(logs["loss"]))
        if not math.isfinite(loss):
            if not self._losses and not self._micro_losses:
                raise ValueError(
                    "`model` must have a finite loss at the first update step, before any weight "
                    "has changed: look for NaN or infinity in the data and in the weights. "
                    f"Received: a loss of {loss} at learning rate {self._next_rate():.3g}"
                )
            self._stop("loss not finite")
            return
        self._micro_losses.append(loss)
        if len(self._micro_losses) == self.batches_per_update():
            self._record(float(np.mean(self._micro_losses)))
            self._micro_losses.clear()

    def on_epoch_end(self, epoch, logs=None):
        """Keras's hook: stop if the data cannot be passed over again."""
        if self._ends_with_data or self._batches == self._batches_before:
            self._stop("data ran out")
        self._batches_before = self._batches

    def _reset_metrics(self):
        """Reset the metrics; past Keras's methods as soon as the step has built them all."""
        if self._batches < 2:
            self.model.reset_metrics()
            variables = [variable.value for variable in self.model.metrics_variables]
            self._reset = [(variable, tf.identity(variable)) for variable in variables]
        for variable, value in self._reset:
            variable.assign(value, read_value=False)

    def _next_rate(self):
        return self._rates[min(len(self._losses), len(self._rates) - 1)]

    def _record(self, loss):
        keep = self._smoothing
        self._losses.append(loss)
        shown = [("loss", loss), ("learning_rate", self._rates[len(self._losses) - 1])]
        self._bar.update(len(self._losses), shown)
        self._average = keep * self._average + (1.0 - keep) * loss
        self._smoothed.append(self._average / (1.0 - keep ** len(self._losses)))
        best = min(self._smoothed)
        # The same as factor * best for positive losses, without an immediate stop for others.
        bound = best + (self._divergence_factor - 1.0) * abs(best)
        if self._smoothed[-1] > bound:
            self._stop("loss diverged")
        elif len(self._losses) == len(self._rates):
            self._stop("completed")

    def _stop(self, reason):
        if self._stop_reason is None and len(self._losses) < len(self._rates):
            self._bar.update(len(self._losses), finalize=True)
        self._stop_reason = self._stop_reason or reason
        self.model.stop_training = True

    def _check_optimizers(self):
        """Check that the optimizers found since the last call read their rate from the variable."""
        for optimizer in self._optimizers[self._checked :]:
            expected = float(tf.convert_to_tensor(self._variables[0]))
            shown = float(tf.convert_to_tensor(optimizer.learning_rate))
            if not math.isclose(shown, expected, rel_tol=1e-5):
                raise TypeError(
                    "`model` must have an optimizer that reads its rate from Keras's "
                    f"`learning_rate`. Received: {type(optimizer).__name__}, which shows "
                    f"{shown:.3g} when set to {expected:.3g}"
                )
        self._checked = len(self._optimizers)
