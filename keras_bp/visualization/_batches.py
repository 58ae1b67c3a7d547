"""Batches in an order that a seed alone decides."""

import keras
import tensorflow as tf


def shuffled_batches(x, y, batch_size, seed):
    """Return a `tf.data.Dataset` of batches, which is shuffled anew for each epoch.

    `fit` shuffles arrays too, but once a global seed is set (seen with Keras 3.15) into the same
    order for every epoch: then the same examples share a batch to the end.

    Args:
        x: array of shape `(examples, ...)`.
        y: array of shape `(examples, ...)`.
        batch_size: integer.
        seed: integer. Two datasets of the same seed give the same batches.
    """
    # As `fit` does with arrays.
    x, y = (a.astype(keras.config.floatx()) if a.dtype.kind == "f" else a for a in (x, y))
    data = tf.data.Dataset.from_tensor_slices((x, y))
    data = data.shuffle(len(x), seed=seed, reshuffle_each_iteration=True)
    return data.batch(batch_size).prefetch(1)
