"""Each output's loss, while Keras sums up the losses of all."""

import contextlib

import tensorflow as tf


@contextlib.contextmanager
def recorded_losses(compile_loss, outputs):
    """Yield a list that `compute_loss` fills with the loss of each output, weighted, or None.

    Keras hands out their sum alone: the losses that `compile` was given stand in what is private,
    `_flat_losses`, and are replaced there by ones that are listened to, for as long.

    Args:
        compile_loss: the model's `_compile_loss`, built.
        outputs: the model's outputs as a flat list, whose tensors the losses are given.
    """
    values = [None] * len(outputs)
    entries = compile_loss._flat_losses

    def listened_to(entry):
        def loss(y_true, y_pred, sample_weight=None):
            value = entry.loss(y_true, y_pred, sample_weight)
            weight = 1.0 if entry.loss_weights is None else entry.loss_weights
            for number, output in enumerate(outputs):
                if output is y_pred:  # which may have several losses
                    own = tf.cast(value, tf.float32) * weight
                    values[number] = own if values[number] is None else values[number] + own
            return value

        return entry._replace(loss=loss)

    compile_loss._flat_losses = [listened_to(entry) for entry in entries]
    try:
        yield values
    finally:
        compile_loss._flat_losses = entries
