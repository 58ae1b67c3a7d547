"""A `fit` over workers that is interrupted inside an epoch and resumed, as each worker runs it."""

import keras
import numpy as np
import tensorflow as tf
from distribution_cases import LABELS, X

from keras_bp import layers, losses, optimizers
from keras_bp.callbacks import ResumableTraining


class Interrupt(keras.callbacks.Callback):
    """Ends the second epoch after its third batch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 2):
            raise KeyboardInterrupt


def train(strategy, directory, *callbacks):
    """Train two epochs; return the losses and this worker's values of all variables."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        # Batch normalization is not synchronized: each worker has its own moving averages.
        members = [layers.Dense(8, "tanh"), layers.BatchNormalization(), layers.Dropout(0.3)]
        model = keras.Sequential([keras.Input((6,)), *members, layers.Dense(3)])
        optimizer = optimizers.AdamW(0.01, gradient_accumulation_steps=3, use_ema=True)
        loss = losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices((X[:40], LABELS[:40])).shuffle(40, seed=1).batch(8)
    resumable = ResumableTraining(directory, save_freq=2)
    fit = {"epochs": 2, "verbose": 0, "shuffle": False, "callbacks": [resumable, *callbacks]}
    history = model.fit(data, **fit).history
    variables = model.variables + model.optimizer.variables
    values = [strategy.experimental_local_results(v.value)[0].numpy() for v in variables]
    return history["loss"], values


def resumed(strategy, folder):
    """Return what a whole and a resumed training end with, and what is said of folders apart."""
    whole = train(strategy, folder / "whole")
    try:
        train(strategy, folder / "cut", Interrupt())
    except KeyboardInterrupt:
        pass
    again = train(strategy, folder / "cut")
    try:
        train(strategy, folder / f"own{strategy.cluster_resolver.task_id}")
    except ValueError as error:
        return whole, again, str(error)
    return whole, again, "nothing"


def check(folder, results):
    """Check what both workers returned."""
    for whole, again, error in results:
        np.testing.assert_equal(again, whole)
        assert "`backup_dir` must name a directory that all workers share. Received: " in error
        assert "not seen by worker 1" in error
    moving = [[v for v in whole[1] if v.shape == (8,)] for whole, *_ in results]
    assert any(not np.array_equal(*pair) for pair in zip(*moving, strict=True))
    files = {p.name for p in (folder / "cut" / "worker-1").glob("*.index")}
    assert files == {p.name for p in (folder / "cut").glob("*.index")}
    size = {p.parent.name: p.stat().st_size for p in (folder / "cut").rglob("epoch-2.data-*")}
    assert size["worker-1"] < size["cut"]  # without the weights
