"""The network: an encoder of convolutions that all tasks share, and a head for each task."""

import keras
import tensorflow as tf

from keras_bp import multitask
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import AdamW
from keras_bp.schedules import WarmupCosine

SIZE = 32  # of the predicted maps
STRIDES = 2, 2, 2, 1  # of the encoder: from 64 x 64 to 8 x 8
CHANNELS = {"segmentation": 4, "depth": 1, "normals": 3, "disparity": 1, "unrelated": 1}


def angular_loss(y_true, y_pred):
    """Return 1 - cosine of the angle between a unit vector and a prediction of any length."""
    return 1.0 - tf.reduce_sum(y_true * tf.math.l2_normalize(y_pred, axis=-1), axis=-1)


def loss_of(task):
    """Return a task's loss, as on NYUv2: cross-entropy, L1, 1 - cosine."""
    if task == "segmentation":
        return SparseCategoricalCrossentropy(from_logits=True)
    return angular_loss if task == "normals" else "mae"


def build(tasks, combiner, width, shared, rate, steps, loss_weights, seed):
    """Return the compiled model.

    Args:
        tasks: list of names of tasks, keys of `CHANNELS`; with one, a plain `keras.Model`.
        combiner: a `Combiner`, or `None` for one task.
        width: channels of the first convolution; the others have twice or three times as many.
        shared: how many of the four convolutions the tasks share; each head has the others.
        rate: the peak of AdamW's learning rate, after a tenth of the steps; then a cosine.
        steps: number of update steps.
        loss_weights: dictionary of the factors of losses other than 1.
        seed: integer, of the weights and of the batches.
    """
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((64, 64, 5))
    for number in range(shared):
        x = _convolution(number, width, f"conv_{number + 1}")(x)
    outputs = {task: _head(task, x, width, shared) for task in tasks}
    if combiner is None:
        model = keras.Model(inputs, outputs)
    else:
        model = multitask.MultiTaskModel(inputs, outputs, combiner=combiner)
    weights = {task: float(loss_weights.get(task, 1.0)) for task in tasks}
    losses = {task: loss_of(task) for task in tasks}
    schedule = WarmupCosine(rate, total_steps=steps, warmup_steps=max(1, steps // 10))
    optimizer = AdamW(schedule, weight_decay=0.01, exclude_from_decay="bias_and_normalization")
    # Without XLA, whose convolutions are slow on a CPU.
    model.compile(optimizer, loss=losses, loss_weights=weights, jit_compile=False)
    return model


def _convolution(number, width, name):
    filters = width * min(number + 1, 3)
    options = dict(strides=STRIDES[number], padding="same", activation="relu", name=name)
    return keras.layers.Conv2D(filters, 3, kernel_initializer="he_normal", **options)


def _head(task, x, width, shared):
    """Return a map of 32 x 32 pixels: 4 x 4 of them from each of 8 x 8 places."""
    for number in range(shared, len(STRIDES)):
        x = _convolution(number, width, f"{task}_conv_{number + 1}")(x)
    x = _convolution(3, width, f"{task}_hidden")(x)
    channels, places = CHANNELS[task], 8
    block = SIZE // places
    x = keras.layers.Conv2D(block * block * channels, 1, name=f"{task}_blocks")(x)
    x = keras.layers.Reshape((places, places, block, block, channels))(x)
    x = keras.layers.Permute((1, 3, 2, 4, 5))(x)
    return keras.layers.Reshape((SIZE, SIZE, channels), name=task)(x)
