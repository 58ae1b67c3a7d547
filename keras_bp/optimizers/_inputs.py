"""Gradients on their way to the rule: checked, unscaled, their rows summed, clipped."""

import tensorflow as tf

from keras_bp.gradients import clip, deduplicate
from keras_bp.optimizers._decay_exclusion import path_of


def check_shapes(gradients, variables):
    """Raise unless each variable has a gradient of its shape, or None."""
    if len(gradients) != len(variables):
        raise ValueError(
            f"`grads` must hold one gradient for each of the {len(variables)} variables. "
            f"Received: {len(gradients)} gradients"
        )
    for gradient, variable in zip(gradients, variables, strict=True):
        if gradient is None:
            continue
        given, wanted = gradient, tf.TensorShape(variable.shape)
        if isinstance(gradient, tf.IndexedSlices):
            # Its rows, any number of them, are of the variable's other axes.
            given, wanted = gradient.values, [None, *wanted[1:]]
        if not tf.TensorShape(wanted).is_compatible_with(given.shape):
            raise ValueError(
                f"`grads` must have the shapes of the variables, {tuple(variable.shape)} for "
                f"{path_of(variable)!r}. Received: a gradient of shape {given.shape}"
            )


def in_full_precision(gradient):
    """Return a gradient in float32 where it is in half precision, before anything can round it."""
    return tf.cast(gradient, tf.float32) if gradient.dtype.size < 4 else gradient


def split_overwritten(gradients, variables):
    """Tell gradients from what overwrites a variable: its next value (float8 scales).

    Returns:
        Gradients, their variables, values, and the variables that they overwrite.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    split = [], [], [], []
    for gradient, variable in zip(gradients, variables, strict=True):
        if getattr(variable, "overwrite_with_gradient", False):
            split[2].append(gradient / replicas)  # summed like a gradient, it is a mean
            split[3].append(variable)
        else:
            split[0].append(gradient)
            split[1].append(variable)
    return split


def unscaled(gradient, factor):
    """Divide a gradient, dense or sparse, by the factor that the loss was multiplied by."""
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values / factor
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient / factor


def all_finite(gradients):
    """Tell whether every entry of every gradient is finite, as a scalar tensor."""
    values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in values])


def deduplicated(gradients):
    """Sum the rows of the sparse gradients per id."""
    return [deduplicate(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]


def clipped(gradients, clipvalue, clipnorm, global_clipnorm):
    """Clip gradients in which every id stands once."""
    # By their values: `clip` would sum the rows once more, and compiled by XLA tf.unique takes
    # the padding of ids of unknown number for ids.
    values = clip(
        [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients],
        clipvalue=clipvalue,
        clipnorm=clipnorm,
        global_clipnorm=global_clipnorm,
    )
    return [
        tf.IndexedSlices(v, g.indices, g.dense_shape) if isinstance(g, tf.IndexedSlices) else v
        for v, g in zip(values, gradients, strict=True)
    ]
