"""The effect of learning-rate schedules on a training."""

import keras
import numpy as np

from keras_bp import layers, losses, optimizers
from keras_bp._arguments import check_integer
from keras_bp.reference import spiral
from keras_bp.visualization._batches import shuffled_batches
from keras_bp.visualization.plot_schedules import schedules_or_default

_BATCH_SIZE = 40
_NOISE = 0.1
STEPS_PER_EPOCH = 10


def train_with_schedules(schedules=None, epochs=200, *, seed=0):
    """Train a small network once with each schedule, from the same weights on the same batches.

    The network is the chapter's for the two spirals, [2, 16, 8, 1] units, trained on their 400
    points in batches of 40, which makes 10 update steps an epoch, by Nesterov's momentum of 0.9.
    The noise of the points is 0.1, so large that the arms overlap: with a loss that cannot become
    0, the batches' gradients never agree, and only a falling rate lets the weights come to rest.

    Args:
        schedules: mapping, a name -> a `keras.optimizers.schedules.LearningRateSchedule` or a
            number. Defaults to all schedules of `keras_bp.schedules`, as `plot_schedules` has them
            for 10 steps an epoch.
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
        >>> from keras_bp.visualization import train_with_schedules
        >>> losses = train_with_schedules({"constant": 0.05}, epochs=3)
        >>> losses["constant"].shape
        (3,)
    """
    epochs, seed = check_integer("epochs", epochs, 1), check_integer("seed", seed, 0)
    schedules = schedules_or_default(schedules, epochs * STEPS_PER_EPOCH)
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
            losses.BinaryCrossentropy(),
            # The whole epoch in one call: most of a small network's time goes into calls.
            steps_per_execution=STEPS_PER_EPOCH,
        )
        batches = shuffled_batches(x, y, _BATCH_SIZE, seed)
        history = model.fit(batches, epochs=epochs, shuffle=False, verbose=0).history
        results[name] = np.asarray(history["loss"], dtype=np.float64)
    return results
