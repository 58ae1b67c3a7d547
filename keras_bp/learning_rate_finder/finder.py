"""The learning rate range test."""

import collections.abc
import warnings

import keras
import numpy as np

from keras_bp._arguments import check_integer, check_number
from keras_bp._trial import unchanged
from keras_bp.learning_rate_finder.sweep import Sweep

# With fewer, neighbouring rates lie so far apart that one step may skip all that train.
_LEAST_STEPS = 20


def find_learning_rate(
    model,
    x,
    y=None,
    *,
    batch_size=32,
    min_learning_rate=1e-7,
    max_learning_rate=10.0,
    steps=100,
    smoothing=0.98,
    divergence_factor=4.0,
    sample_weight=None,
    class_weight=None,
):
    r"""Train a compiled model for some steps at rising learning rates, and record the loss.

    The model is trained with its own train step, optimizer and loss for up to $K$ update steps,
    step $k = 0, \dots, K - 1$ at the learning rate

    $$\alpha_k = \alpha_{min} (\alpha_{max} / \alpha_{min})^{k / (K - 1)}.$$

    Too small a rate leaves the loss where it is, a good one lets it fall, too large a one makes it
    explode. What is recorded is the loss $L_k$ of that step's batch alone, before its update, with
    the penalties of layers, and its average with the share $\beta$ of the past,

    $$\bar L_k = \frac{1 - \beta}{1 - \beta^{k + 1}} \sum_{i \le k} \beta^{k - i} L_i.$$

    The sweep ends early at the first point above $f$ times the best average so far (in general:
    above $\bar L_{best} + (f - 1) |\bar L_{best}|$, which is the same for positive losses), or at a
    loss that is not finite, which is left out of the curve.

    Afterwards everything is as before, also after an exception or Ctrl-C: weights and batch
    statistics, the optimizer's variables and rate, metrics, seeds of layers, the random states of
    Python, NumPy, TensorFlow and Keras, `train_function`, `history` and `stop_training`. A `fit`
    that follows is bit for bit the one without the sweep. A model, optimizer or metric that was
    not built is not built afterwards; the next `fit` creates it from the same initializers. What
    lies in the data is not turned back: batches taken from a generator, the order that a
    `tf.data` dataset shuffles its next pass into, what `on_epoch_end` of a `PyDataset` did. Give
    the sweep a generator or dataset of its own where that matters. Nor is what a custom train
    step changes outside the model.

    Every optimizer inside a `LossScaleOptimizer` or a `MultiOptimizer` gets the swept rate, and a
    schedule or a callable is set aside. With `gradient_accumulation_steps`, an update step takes
    that many batches, and its loss is their mean. `steps_per_execution` is 1 during the sweep.

    Limits: it is a test of the first steps, from the weights that the model has now and at this
    batch size; run it again when either changes. It is not reliable for fine-tuning transformers:
    a few steps at a rate that the pretrained weights do not survive can still lower the loss, and
    the rate that works there lies far below what the rules suggest. Nor does it see what a warm-up
    would allow.

    Args:
        model: a compiled `keras.Model`, built or not.
        x: what `fit` takes: an array or tensor; a list or dict of them, for several inputs; a
            batched `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator of (inputs,
            targets) or (inputs, targets, sample weights). Arrays are shuffled. Data shorter than
            the sweep are begun anew, but for a generator: the curve is then shorter.
        y: the targets, if `x` are arrays. Defaults to `None`.
        batch_size: integer above 0, the examples of a batch, if `x` are arrays. Defaults to 32.
        min_learning_rate: float above 0, the first rate. Defaults to 1e-7.
        max_learning_rate: float above `min_learning_rate`, the last rate. Defaults to 10.
        steps: integer, at least 20, the number of update steps. Defaults to 100.
        smoothing: float in [0, 1), the share of the past in the average. Defaults to 0.98.
        divergence_factor: float above 1, how many times the best average ends the sweep; infinity
            for never. Defaults to 4.
        sample_weight: as in `fit`, if `x` are arrays. Defaults to `None`.
        class_weight: as in `fit`. Defaults to `None`.

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
        >>> from keras_bp.learning_rate_finder import find_learning_rate
        >>> keras.utils.set_random_seed(0)
        >>> model = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
        >>> model.compile("adam", "mean_squared_error")
        >>> x = np.random.rand(256, 4).astype("float32")
        >>> curve = find_learning_rate(model, x, x.sum(axis=1, keepdims=True))
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
    is_arrays = _is_arrays(x)
    if not is_arrays:
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(
                    f"{name} must be None where x brings its own targets and sample weights. "
                    f"Received: {name} of type {type(value).__name__} beside x of type "
                    f"{type(x).__name__}"
                )

    with unchanged(model) as snapshot:
        sweep = Sweep(
            np.geomspace(low, high, steps),
            smoothing,
            divergence_factor,
            data_end=isinstance(x, collections.abc.Iterator),
            remember=snapshot.remember,
        )
        sweep.take_over(model.optimizer)
        # `fit` makes a train function of its own, with one step a call; and it trains, even where
        # a callback that resumes trainings left another first epoch behind.
        vars(model).update(train_function=None, steps_per_execution=1, _initial_epoch=None)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Your input ran out of data")
            model.fit(
                x,
                y,
                sample_weight=sample_weight,
                class_weight=class_weight,
                batch_size=batch_size if is_arrays else None,
                shuffle=is_arrays or getattr(x, "num_batches", None) is not None,
                # Enough even where each pass over the data has a single batch.
                epochs=steps * sweep.batches_an_update(),
                callbacks=[sweep],
                verbose=0,
            )
    curve = sweep.curve()
    if not len(curve.losses):
        raise ValueError(
            "x must hold the batches of one update step at least. Received: x of type "
            f"{type(x).__name__}, which ran out before"
        )
    return curve


def _require_trainable(model):
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model. Received: model={model!r}")
    if not model.compiled or not isinstance(model.optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            "model must be compiled, with a Keras optimizer: call model.compile(optimizer, loss). "
            f"Received: model {model.name!r}, "
            + (f"with optimizer {model.optimizer!r}" if model.compiled else "not compiled")
        )
    if model.built and not model.trainable_variables:
        raise ValueError(
            f"model must have trainable weights. Received: model {model.name!r}, which has none"
        )


def _is_arrays(x):
    """Tell arrays, tensors and structures of them from what yields batches by itself."""
    leaves = keras.tree.flatten(x)
    if not leaves or any(leaf is None for leaf in leaves):
        raise TypeError(f"x must be arrays, a dataset or a generator. Received: x={x!r}")
    return all(hasattr(leaf, "shape") for leaf in leaves)
