"""Learning-rate schedules in one plot."""

import collections.abc
import math
import numbers

import keras
import numpy as np

from keras_bp import schedules as package_schedules
from keras_bp._arguments import check_integer
from keras_bp.visualization._default_schedules import LEAST_STEPS, default_schedules
from keras_bp.visualization._figure import logarithmic, new_figure, tidy
from keras_bp.visualization._styles import line_styles

# More than a line in a picture has pixels.
_MOST_POINTS = 2000


def plot_schedules(schedules=None, epochs=200, steps_per_epoch=10, *, losses=None):
    """Draw learning-rate schedules over a training, and what training with each came to.

    Args:
        schedules: mapping, a name -> a `keras.optimizers.schedules.LearningRateSchedule` (this
            package's or Keras's) or a number, a constant rate. Defaults to all schedules of
            `keras_bp.schedules`, each with a peak of 0.1 and made for this many steps.
        epochs: integer of 1 or more. Defaults to 200.
        steps_per_epoch: integer of 1 or more, in update steps. Defaults to 10.
        losses: mapping, a schedule's name -> the training losses of its epochs, drawn in a second
            panel with their exponential moving average; `train_with_schedules` returns one.
            Defaults to `None`: no second panel.

    Returns:
        A Matplotlib `Figure`.

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
    schedules = schedules_or_default(schedules, epochs * steps_per_epoch)
    for name in losses or ():
        if name not in schedules:
            raise ValueError(
                f"`losses` must have names of `schedules`, {list(schedules)}. Received: {name!r}"
            )

    # The steps that are made: the last one is made at one less than their number.
    steps = np.linspace(0, epochs * steps_per_epoch - 1, _MOST_POINTS).astype(int)
    steps = np.unique(steps)
    styles = line_styles(schedules)
    panels = 1 if losses is None else 2
    figure = new_figure("plot_schedules", (9.5, 0.6 + 3.6 * panels))
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for name, schedule in schedules.items():
        # The sequence of one asks any schedule for many steps at once, and takes numbers.
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


def schedules_or_default(schedules, total_steps):
    """Return the schedules by name, checked, or the default ones for so many update steps."""
    if schedules is None:
        if total_steps < LEAST_STEPS:
            raise ValueError(
                f"`epochs` times `steps_per_epoch` must be {LEAST_STEPS} or more for the default "
                f"schedules. Received: {total_steps} steps"
            )
        return default_schedules(total_steps)
    if not isinstance(schedules, collections.abc.Mapping) or not schedules:
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
