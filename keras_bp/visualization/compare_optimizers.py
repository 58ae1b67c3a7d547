"""Optimizers side by side on several data sets."""

import collections.abc
import time

import keras
import numpy as np

from keras_bp._arguments import check_integer
from keras_bp.visualization._batches import shuffled_batches
from keras_bp.visualization.optimizer_comparison import OptimizerComparison


def compare_optimizers(
    make_model, optimizers, datasets, loss, *, epochs=20, batch_size=32, seeds=(0, 1, 2)
):
    """Train the same networks with several optimizers on several data sets, and compare.

    At a seed, all optimizers start from the same weights, see the same batches in the same order,
    another one in each epoch, and get the same dropout: `keras.utils.set_random_seed` is called
    with it before each model is made.

    What is compared depends on each optimizer's learning rate as much as on its rule: tune the
    rates before drawing conclusions.

    Args:
        make_model: callable `(x, y)` that returns a new `keras.Model`, not compiled; x and y are a
            data set's training arrays, for the sizes of its first and last layer.
        optimizers: mapping, a name -> a callable without arguments that returns a new optimizer,
            Keras's or this package's.
        datasets: mapping, a name -> `(x, y)` or `(x, y, x_test, y_test)`, arrays. Without test
            arrays, the accuracy is that on the training data.
        loss: as for `compile`. The accuracy is Keras's metric `"accuracy"`, for which a model of
            one output unit must give a probability, not a logit.
        epochs: integer of 1 or more. Defaults to 20.
        batch_size: integer of 1 or more. Defaults to 32.
        seeds: sequence of one or more different integers of 0 or more. Defaults to (0, 1, 2).

    Returns:
        An `OptimizerComparison`: the numbers, a table as its string, and `plot()`.

    Raises:
        TypeError: if an argument is of another type, or a callable returns something else.
        ValueError: if a number is out of its range, a mapping is empty, a data set is not two or
            four arrays, or a seed comes twice.

    Example:
        >>> from keras_bp.visualization import compare_optimizers
        >>> def make_model(x, y):
        ...     return keras.Sequential([keras.layers.Dense(1, activation="sigmoid")])
        >>> x = np.linspace(-1.0, 1.0, 64).reshape(-1, 1)
        >>> comparison = compare_optimizers(
        ...     make_model,
        ...     {"SGD": lambda: keras_bp.optimizers.SGD(0.5), "Adam": keras_bp.optimizers.Adam},
        ...     {"sign": (x, x > 0)},
        ...     keras_bp.losses.BinaryCrossentropy(),
        ...     epochs=2,
        ...     seeds=[0],
        ... )
        >>> comparison.losses["sign"]["Adam"].shape
        (1, 2)
        >>> comparison.accuracies["sign"]["SGD"].shape
        (1,)

    References:
        Choi et al., 2019, "On empirical comparisons of optimizers for deep learning": the ranking
        follows from how the rates were tuned.
    """
    epochs = check_integer("epochs", epochs, 1)
    batch_size = check_integer("batch_size", batch_size, 1)
    seeds = _check_seeds(seeds)
    _check_callable("make_model", make_model)
    for name, make in _check_mapping("optimizers", optimizers).items():
        _check_callable(f"optimizers[{name!r}]", make)
    datasets = {
        name: _check_arrays(f"datasets[{name!r}]", arrays)
        for name, arrays in _check_mapping("datasets", datasets).items()
    }

    results = {}
    for dataset, arrays in datasets.items():
        # Seeds outside: what the machine does meanwhile spreads over all optimizers.
        runs = {name: [] for name in optimizers}
        for seed in seeds:
            for name, make in optimizers.items():
                run = _train(make_model, (name, make), arrays, loss, epochs, batch_size, seed)
                runs[name].append(run)
        results[dataset] = {
            name: [np.asarray(values, dtype=np.float64) for values in zip(*of_one, strict=True)]
            for name, of_one in runs.items()
        }

    def part(k):
        return {
            dataset: {name: arrays[k] for name, arrays in of_one.items()}
            for dataset, of_one in results.items()
        }

    return OptimizerComparison(
        losses=part(0), accuracies=part(1), epoch_seconds=part(2), seeds=seeds
    )


def _train(make_model, named_optimizer, arrays, loss, epochs, batch_size, seed):
    """Return one run's losses and seconds of each epoch, and between them the accuracy."""
    name, make = named_optimizer
    x, y, x_test, y_test = arrays
    keras.utils.set_random_seed(seed)
    model = make_model(x, y)
    if not isinstance(model, keras.Model):
        raise TypeError(f"`make_model` must return a keras.Model. Received: {model!r}")
    # Built here, for the weights not to depend on what an optimizer draws when it is made.
    if not model.built:
        model.build((None, *x.shape[1:]))
    optimizer = make()
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"`optimizers[{name!r}]` must return a keras.optimizers.Optimizer. "
            f"Received: {optimizer!r}"
        )
    model.compile(optimizer, loss, metrics=["accuracy"])
    clock = _Clock()
    batches = shuffled_batches(x, y, batch_size, seed)
    history = model.fit(batches, epochs=epochs, shuffle=False, callbacks=[clock], verbose=0).history
    accuracy = model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    return history["loss"], accuracy, clock.seconds


class _Clock(keras.callbacks.Callback):
    """Measures how long each epoch takes."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._start)


def _check_seeds(seeds):
    if isinstance(seeds, str) or not isinstance(seeds, collections.abc.Iterable):
        raise TypeError(f"`seeds` must be a sequence of integers. Received: seeds={seeds!r}")
    checked = tuple(check_integer(f"seeds[{i}]", seed, 0) for i, seed in enumerate(seeds))
    if not checked or len(set(checked)) < len(checked):
        raise ValueError(
            f"`seeds` must be one or more different integers. Received: seeds={seeds!r}"
        )
    return checked


def _check_mapping(name, value):
    if not isinstance(value, collections.abc.Mapping):
        raise TypeError(f"`{name}` must be a mapping by name. Received: {name}={value!r}")
    if not value:
        raise ValueError(f"`{name}` must have one entry or more. Received: {name}={value!r}")
    return value


def _check_callable(name, value):
    if not callable(value):
        raise TypeError(f"`{name}` must be a callable that makes one. Received: {value!r}")


def _check_arrays(name, arrays):
    """Return (x, y, x_test, y_test), the test arrays the training's where there are none."""
    if not isinstance(arrays, (tuple, list)) or len(arrays) not in (2, 4):
        raise ValueError(f"`{name}` must be (x, y) or (x, y, x_test, y_test). Received: {arrays!r}")
    arrays = [np.asarray(array) for array in arrays]
    for x, y in (arrays[:2], arrays[-2:]):
        if not len(x) or len(x) != len(y):
            raise ValueError(
                f"`{name}` must have as many targets as inputs, and one or more. "
                f"Received: shapes {[array.shape for array in arrays]}"
            )
    return *arrays[:2], *arrays[-2:]
