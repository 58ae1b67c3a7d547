"""Schedules within schedules: asking for their rate, and keeping them in a file."""

import keras
import tensorflow as tf

from keras_bp.schedules._base import Schedule


def rate_of(schedule, steps):
    """Return a schedule's rates for a `Steps` in float64; a number is a constant rate."""
    if isinstance(schedule, Schedule):
        return schedule._rate(steps)
    if isinstance(schedule, float):
        return tf.fill(tf.shape(steps.whole), tf.constant(schedule, tf.float64))
    # Steps that came as integers are handed on as integers, as by an optimizer. Keras's schedules
    # make floatx of them; a float step is given to them as that.
    step = steps.whole
    if steps.fraction is not None:
        step = tf.cast(steps.number(), keras.config.floatx())

    def rate(step):
        return tf.cast(schedule(step), tf.float64)

    if step.shape.rank == 0:
        return rate(step)
    # Most compute a whole array at once. Keras's CosineDecay with a warm-up does not, nor one that
    # gives the same rate whatever the step: those are asked for each step by itself. While a graph
    # is made nothing fails yet (tf.cond looks at its condition as it runs), so there all are.
    if tf.executing_eagerly():
        try:
            rates = rate(step)
            if rates.shape == step.shape:
                return rates
        except Exception:  # of any kind in a user's schedule; asked step by step, it comes again
            pass
    rates = tf.map_fn(rate, tf.reshape(step, [-1]), fn_output_signature=tf.float64)
    return tf.reshape(rates, tf.shape(step))


def serialize(schedule):
    """Return what stands for a schedule in a configuration; a number is itself."""
    return keras.saving.serialize_keras_object(schedule)


def deserialize(config):
    """Return the schedule of a configuration."""
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config


def describe(schedule):
    """Write a schedule as its constructor call; Keras's own have no such repr."""
    if isinstance(schedule, (Schedule, float)):
        return repr(schedule)
    try:
        config = schedule.get_config()
    except NotImplementedError:  # a schedule that was never meant for a file
        return repr(schedule)
    arguments = ", ".join(f"{name}={value!r}" for name, value in config.items())
    return f"{type(schedule).__name__}({arguments})"
