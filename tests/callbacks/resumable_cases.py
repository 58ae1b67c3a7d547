"""A small model and its training, cut off and resumed, for the tests of ResumableTraining."""

import keras
import pytest

import keras_bp
from keras_bp.callbacks import ResumableTraining

L = keras.layers


class Cut(keras.callbacks.Callback):
    """Ends the process, as far as `fit` can see, in a batch of an epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self._at = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == self._at:
            raise KeyboardInterrupt


def make_model(optimizer=None, units=8, **options):
    keras.utils.set_random_seed(3)
    layers = [keras_bp.layers.Dense(units, "relu"), L.BatchNormalization(), L.Dropout(0.4)]
    model = keras.Sequential([keras.Input((4,)), *layers, L.Dense(1)])
    # What a checkpoint holds does not depend on how the steps are run, and tracing takes longer.
    model.compile(optimizer or "adam", "mse", **(options or {"run_eagerly": True}))
    return model


def fit(model, data, *callbacks, epochs=3, **options):
    """Train on 4 batches an epoch, which accumulation in threes does not divide."""
    options = {"batch_size": 6, "verbose": 0, **options}
    return model.fit(*data, epochs=epochs, callbacks=list(callbacks), **options)


def state(model):
    return [v.numpy() for v in model.variables + model.optimizer.variables]


def cut_and_resumed(make, data, directory, cuts, *callbacks, **options):
    for cut in cuts:
        with pytest.raises(KeyboardInterrupt):
            fit(make(), data, ResumableTraining(directory), Cut(*cut), *callbacks, **options)
    model = make()
    history = fit(model, data, ResumableTraining(directory), *callbacks, **options)
    return model, history


def forget(directory, epoch):
    """Leave a directory as a process does that is killed in this epoch."""
    for file in directory.glob(f"epoch-{epoch}.*"):
        file.unlink()


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "lamb": lambda: keras_bp.optimizers.Lamb(keras_bp.schedules.CosineAnnealing(0.01, 20)),
    "accumulation": lambda: keras_bp.optimizers.AdamW(0.01, gradient_accumulation_steps=3),
    "average": lambda: keras_bp.optimizers.ScheduleFreeAdamW(0.01),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)),
    "several": lambda: several(keras_bp.optimizers.AdamW(0.01)),
}


def several(first):
    """One optimizer for the kernels and another for the rest."""
    mapped = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.01), {".*kernel": first})
    return keras.optimizers.MultiOptimizer(mapped)
