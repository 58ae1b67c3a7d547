"""Learning-rate schedules in one plot, and the effect of each on a training."""

import math
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import keras
import numpy as np

from keras_bp import layers, optimizers
from keras_bp import losses as package_losses
from keras_bp import schedules as package_schedules
from keras_bp._arguments import check_integer
from keras_bp._types import Array
from keras_bp.reference import spiral
from keras_bp.visualization._figure import line_styles, logarithmic, new_figure, tidy
from keras_bp.visualization.optimizers import shuffled_batches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule | float

# More than the pixels of a line in a picture.
_MOST_POINTS = 2000
_PEAK = 0.1
# With fewer, a phase of the schedules would have no step.
_LEAST_STEPS = 10
# The training.
_BATCH_SIZE = 40
_NOISE = 0.1
_STEPS_PER_EPOCH = 10


def plot_schedules(
    schedules: Mapping[str, Schedule] | None = None,
    epochs: int = 200,
    steps_per_epoch: int = 10,
    *,
    losses: Mapping[str, Array] | None = None,
) -> "Figure":
    """Draw learning-rate schedules over a training, and the losses of training with each.

    Args:
        schedules: mapping, a name -> a `keras.optimizers.schedules.LearningRateSchedule` (this
            package's or Keras's) or a number, a constant rate. Defaults to all schedules of
            `keras_bp.schedules`, each with a peak of 0.1 and made for this many steps, and that
            rate, constant.
        epochs: integer of 1 or more. Defaults to 200.
        steps_per_epoch: integer of 1 or more, in update steps. Defaults to 10.
        losses: mapping, a schedule's name -> the training losses of its epochs, drawn in a second
            panel with their exponential moving average; `train_with_schedules` returns one.
            Defaults to `None`: no second panel.

    Raises:
        ImportError: if Matplotlib is not installed.
        TypeError: if an argument is of another type.
        ValueError: if a number is out of its range, the default schedules have fewer than 10
            steps, or `losses` has another name than `schedules`.

    Example:
        >>> from keras_bp.schedules import CosineAnnealing, OneCycle
        >>> from keras_bp.visualization import plot_schedules
        >>> schedules = {"cosine": CosineAnnealing(0.1, 2000), "one cycle": OneCycle(0.1, 2000)}
        >>> figure = plot_schedules(schedules)
        >>> figure.savefig("schedules.png")
    """
    epochs = check_integer("epochs", epochs, 1)
    steps_per_epoch = check_integer("steps_per_epoch", steps_per_epoch, 1)
    schedules = _schedules_or_default(schedules, epochs * steps_per_epoch)
    for name in losses or ():
        if name not in schedules:
            raise ValueError(
                f"`losses` must have names of `schedules`, {list(schedules)}. Received: {name!r}"
            )

    # The last step's number is one less than the number of steps.
    steps = np.linspace(0, epochs * steps_per_epoch - 1, _MOST_POINTS).astype(int)
    steps = np.unique(steps)
    styles = line_styles(schedules)
    panels = 1 if losses is None else 2
    figure = new_figure("plot_schedules", (9.5, 0.6 + 3.6 * panels))
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for name, schedule in schedules.items():
        # A sequence of one evaluates any schedule for many steps at once, and takes numbers.
        rates = package_schedules.Sequential([schedule], boundaries=[])(steps)
        axes[0].plot(steps / steps_per_epoch, rates, label=name, **styles[name])
    axes[0].set(title="Learning rate", ylim=(0, None))
    if losses is not None:
        for name, values in losses.items():
            passed = np.arange(1, len(values) + 1)
            faint = dict(alpha=0.25, linewidth=0.6)
            axes[1].plot(passed, values, color=styles[name]["color"], **faint)
            axes[1].plot(passed, _average(values), label=name, **styles[name])
        axes[1].set_title("Training loss of each epoch (faint) and its average")
        logarithmic(axes[1])
    for ax in axes:
        tidy(ax)
    axes[-1].set(xlabel="epochs", xlim=(0, epochs))
    figure.legend(handles=axes[0].get_lines(), loc="outside right center", frameon=False)
    return figure


def _average(values, keep=0.8):
    """Return the exponential moving average, corrected for its start."""
    mean, averages = 0.0, []
    for epoch, value in enumerate(values, 1):
        mean = keep * mean + (1.0 - keep) * value
        averages.append(mean / (1.0 - keep**epoch))
    return averages


def train_with_schedules(
    schedules: Mapping[str, Schedule] | None = None, epochs: int = 200, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """Train a small network once with each schedule, from the same weights on the same batches.

    The network has [2, 16, 8, 1] units and is trained on the 400 points of two spirals in batches
    of 40, 10 update steps per epoch, by Nesterov's momentum of 0.9. The noise of the points is 0.1,
    so large that the arms overlap: since the loss cannot reach 0, the batches' gradients never
    agree, and only a falling rate lets the weights settle.

    Args:
        schedules: mapping, a name -> a `keras.optimizers.schedules.LearningRateSchedule` or a
            number. Defaults to all schedules of `keras_bp.schedules` and a constant rate, as
            `plot_schedules` has them for 10 steps per epoch.
        epochs: integer of 1 or more. Defaults to 200.
        seed: integer of 0 or more: `keras.utils.set_random_seed` is called with it before each
            training. Defaults to 0.

    Returns:
        A dictionary, the name of each schedule -> float64 array of shape `(epochs,)`: the mean
        training loss of each epoch. It is what `plot_schedules` takes as `losses`.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if a number is out of its range.

    Example:
        >>> losses = keras_bp.visualization.train_with_schedules({"constant": 0.05}, epochs=3)
        >>> losses["constant"].shape
        (3,)
    """
    epochs, seed = check_integer("epochs", epochs, 1), check_integer("seed", seed, 0)
    schedules = _schedules_or_default(schedules, epochs * _STEPS_PER_EPOCH)
    x, y = (array.T for array in spiral(noise=_NOISE))
    results = {}
    for name, schedule in schedules.items():
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input(x.shape[1:]),
                layers.Dense(16, activation="relu", kernel_initializer="he_normal"),
                layers.Dense(8, activation="relu", kernel_initializer="he_normal"),
                layers.Dense(1, activation="sigmoid"),
            ]
        )
        model.compile(
            optimizers.Nesterov(schedule, beta=0.9),
            package_losses.BinaryCrossentropy(),
            # The whole epoch in one call: with a small network most of the time goes into calls.
            steps_per_execution=_STEPS_PER_EPOCH,
        )
        batches = shuffled_batches(x, y, _BATCH_SIZE, seed)
        history = model.fit(batches, epochs=epochs, shuffle=False, verbose=0).history
        results[name] = np.asarray(history["loss"], dtype=np.float64)
    return results


def _schedules_or_default(schedules, total_steps):
    """Return the schedules by name, checked, or the default ones for so many update steps."""
    if schedules is None:
        if total_steps < _LEAST_STEPS:
            raise ValueError(
                f"`epochs` times `steps_per_epoch` must be {_LEAST_STEPS} or more for the default "
                f"schedules. Received: {total_steps} steps"
            )
        return _default_schedules(total_steps)
    if not isinstance(schedules, Mapping) or not schedules:
        raise TypeError(
            "`schedules` must be a mapping of one or more names to schedules. "
            f"Received: schedules={schedules!r}"
        )
    for name, schedule in schedules.items():
        kinds = (keras.optimizers.schedules.LearningRateSchedule, numbers.Real)
        if not isinstance(schedule, kinds) or isinstance(schedule, bool):
            raise TypeError(
                f"`schedules[{name!r}]` must be a keras.optimizers.schedules.LearningRateSchedule "
                f"or a number. Received: {schedule!r}"
            )
        if isinstance(schedule, numbers.Real) and not 0 <= schedule < math.inf:
            raise ValueError(
                f"`schedules[{name!r}]` must be finite and 0 or more. Received: {schedule!r}"
            )
    return {
        name: float(schedule) if isinstance(schedule, numbers.Real) else schedule
        for name, schedule in schedules.items()
    }


def _default_schedules(total_steps):
    """Return name -> schedule for a training of `total_steps` update steps, 10 or more.

    All start from, rise to, or stay at the same rate of 0.1; those with an end reach it at the last
    step.
    """
    quarter, warmup = total_steps // 4, max(total_steps // 20, 1)
    # Periods of one, two and four sevenths.
    seventh = math.ceil(total_steps / 7)
    # GPT-3's 300 billion tokens scaled down: from batches of 10 tokens to batches of 100 within a
    # quarter of the steps, with the proportions of its warm-up, ramp and decay.
    tokens = 84 * total_steps
    sizes = {"warmup_tokens": 0.005 * tokens, "decay_tokens": 260 / 300 * tokens}
    sizes["ramp_tokens"] = 12 / 300 * tokens * 3
    parts = package_schedules.Warmup(_PEAK, warmup), package_schedules.LinearDecay(_PEAK, quarter)
    return {
        "Constant": _PEAK,
        "StepDecay": package_schedules.StepDecay(_PEAK, quarter),
        "ExponentialDecay": package_schedules.ExponentialDecay(_PEAK, quarter),
        "LinearDecay": package_schedules.LinearDecay(_PEAK, total_steps),
        "CosineAnnealing": package_schedules.CosineAnnealing(_PEAK, total_steps),
        "CosineRestarts": package_schedules.CosineRestarts(_PEAK, seventh, 2, 0.7),
        "Cyclical": package_schedules.Cyclical(
            _PEAK / 20, _PEAK, total_steps // 10, mode="triangular2"
        ),
        "OneCycle": package_schedules.OneCycle(_PEAK, total_steps),
        "Warmup": package_schedules.Warmup(
            package_schedules.ExponentialDecay(_PEAK, quarter), warmup
        ),
        "WarmupCosine": package_schedules.WarmupCosine(_PEAK, total_steps, warmup),
        "Sequential": package_schedules.Sequential(parts, [total_steps - quarter]),
        "GPT3": package_schedules.GPT3(
            _PEAK, **sizes, first_batch_tokens=10, last_batch_tokens=100
        ),
    }
