"""The moving averages of weights that `use_ema` keeps."""

import tensorflow as tf


def move_averages(pairs, iterations, momentum, overwrite_frequency):
    """Move averages towards their weights, once an update; the first update sets them.

        average = b average + (1 - b) w,    with b = 0 in the first update

    Args:
        pairs: list of (average, weight), `tf.Variable` of the replica at hand.
        iterations: scalar integer variable, the number of updates made before this one.
        momentum: float, b.
        overwrite_frequency: int, after how many updates the averages take the weights' place, or
            `None`.
    """
    keep = tf.where(iterations == 0, tf.zeros((), tf.float64), momentum)
    for average, weight in pairs:
        share = tf.cast(1 - keep, average.dtype)
        average.assign_add((tf.cast(weight, average.dtype) - average) * share)
    if overwrite_frequency is None:
        return

    def overwrite():
        for average, weight in pairs:
            weight.assign(tf.cast(average, weight.dtype))

    tf.cond((iterations + 1) % overwrite_frequency == 0, overwrite, lambda: None)
