"""A training loop over several workers: python -m keras_bp.workers docs/workers_loop.py FOLDER."""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_bp
from keras_bp.callbacks import GradientMonitor
from keras_bp.layers import BatchNormalization, Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import AdamW

BATCH, EPOCHS, SEED = 64, 3, 0

folder = pathlib.Path(sys.argv[1])
strategy = keras_bp.workers.multi_worker_strategy(seconds=60)  # first of all
workers, index = strategy.num_replicas_in_sync, strategy.cluster_resolver.task_id
x = np.random.default_rng(SEED).normal(size=(512, 8)).astype("float32")
y = (x[:, 0] > x[:, 1]).astype("int64")
steps = len(x) // BATCH
# What `fit` would compare by itself.
keras_bp.workers.check_same(strategy, batch=BATCH, epochs=EPOCHS, examples=len(x))

keras.utils.set_random_seed(SEED)
with strategy.scope():
    norm = BatchNormalization(synchronized=True)
    model = keras.Sequential([keras.Input((8,)), Dense(16, "relu"), norm, Dense(2)])
    optimizer = AdamW(1e-2, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    loss_function = SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    done = tf.Variable(0, dtype=tf.int64)  # steps
    model.compile(optimizer, loss_function)  # what callbacks look at
monitor = GradientMonitor(folder / "logs")
monitor.set_model(model)


def batches(epoch):
    """Return this worker's share of an epoch's batches: a function of the epoch alone."""
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=epoch)
    data = data.batch(BATCH, drop_remainder=True)
    return data.map(lambda x, y: (x[index::workers], y[index::workers]))


@tf.function
def step(batch):
    """Train on a batch, and return its loss."""

    def on_worker(x, y):
        with tf.GradientTape() as tape:
            # The mean over the global batch: `apply` sums the workers' gradients.
            loss = loss_function(y, model(x, training=True)) / BATCH
        gradients = tape.gradient(loss, model.trainable_variables)
        monitor.record(gradients, model.trainable_variables, loss=loss, step=done + 1)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    loss = strategy.run(on_worker, args=batch)
    done.assign_add(1)
    return strategy.reduce("SUM", loss, axis=None)


# The first worker's checkpoint counts. The others write too, beside it: saving may ask all of them
# for a value.
values = {f"{n}_{v.name}": v.value for n, v in enumerate(model.variables + optimizer.variables)}
checkpoint = tf.train.Checkpoint(done=done, **values)
shared = folder / "checkpoints"
own = shared if index == 0 else folder / f"not_used_{index}"
manager = tf.train.CheckpointManager(checkpoint, str(own), max_to_keep=2)
newest = tf.train.latest_checkpoint(str(shared))
if newest:
    checkpoint.restore(newest).assert_consumed()
keras_bp.workers.check_same(strategy, done=int(done.numpy()))  # or the folder is not shared

callbacks = keras.callbacks.CallbackList([monitor] if index == 0 else [], model=model)
callbacks.on_train_begin()
for epoch in range(int(done.numpy()) // steps, EPOCHS):
    callbacks.on_epoch_begin(epoch)
    first, losses = int(done.numpy()) % steps, []
    for number, batch in enumerate(batches(epoch).skip(first), first):
        callbacks.on_train_batch_begin(number)
        losses.append(float(step(batch)))
        callbacks.on_train_batch_end(number, {"loss": losses[-1]})
    manager.save(checkpoint_number=int(done.numpy()))
    callbacks.on_epoch_end(epoch, {"loss": np.mean(losses)})
    if index == 0:
        print(f"epoch {epoch + 1}/{EPOCHS}  loss {np.mean(losses):.4f}", flush=True)
callbacks.on_train_end()
