"""The variables and gradients of a step, and operations on single ones."""

import typing

import keras
import tensorflow as tf

from keras_bp._paths import path_of
from keras_bp.gradients import deduplicate


def local(variable):
    """Return the current replica's `tf.Variable` of a Keras or TensorFlow variable.

    Under a distribution strategy a variable has a copy in every replica. All copies get the same
    update, computed from the same summed gradient, and so stay equal without communication between
    the replicas. That is why an update may be inside a `tf.cond`: Keras's, which goes through
    `merge_call`, may not (RuntimeError with accumulation under MirroredStrategy).
    """
    if isinstance(variable, keras.Variable):
        variable = variable.value
    if not isinstance(variable, tf.distribute.DistributedValues):
        return variable
    context = tf.distribute.get_replica_context()
    copies = context.strategy.experimental_local_results(variable)
    # The number counts all workers' replicas, the copies are this worker's.
    number = tf.get_static_value(context.replica_id_in_sync_group)
    return copies[int(number) % len(copies)]


def descend(variable, rate, direction):
    """Subtract `rate * direction` from a `tf.Variable`, without a tensor for the product.

    A moving average is such a step too: `a = b a + (1 - b) g` is `a -= (1 - b) (a - g)`.

    Args:
        variable: `tf.Variable`.
        rate: scalar tensor of its dtype.
        direction: tensor of its shape and dtype.
    """
    tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=direction)


def move(function, gradient, variables, **options):
    """Give variables their next values, `function(gradient, *variables, **options)`."""
    values = function(gradient, *map(tf.convert_to_tensor, variables), **options)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def shrink(variable, gradient, decay):
    """Decay the weights that a rule will touch: all, or the rows of a sparse gradient.

    `w -= decay w`, not `w *= 1 - decay`: that factor keeps few digits of the decay.

    Args:
        variable: `tf.Variable`.
        gradient: tensor, or `tf.IndexedSlices` with every id once.
        decay: scalar tensor of the variable's dtype.
    """
    if isinstance(gradient, tf.IndexedSlices):
        rows = tf.gather(variable, gradient.indices)
        variable.scatter_sub(tf.IndexedSlices(rows * decay, gradient.indices))
    else:
        descend(variable, decay, tf.convert_to_tensor(variable))


def mean_square(average, beta, gradient):
    """Return the next moving average of squares, `b v + (1 - b) g^2`.

    Not by `descend`: where a square has overflowed, v - g^2 would be inf - inf, NaN. As a sum the
    average stays infinite, and the steps that are divided by its root are 0.
    """
    return average * beta + tf.square(gradient) * (1 - beta)


class GradientSum(typing.NamedTuple):
    """One variable's sum of gradients since the last update.

    The sum has the variable's shape. One flag per row tells which rows a gradient has reached: a
    sparse gradient of a table adds its rows and sets their flags, so a micro-step costs what its
    rows cost, and the update finds these rows without reading the table. A dense gradient reaches
    all rows; a scalar has one.

    Attributes:
        total: the sum.
        reached: the flags, of shape (rows,).
    """

    total: tf.Variable
    reached: tf.Variable

    def add(self, gradient):
        """Add a gradient: a tensor, or `tf.IndexedSlices` with every id once."""
        total, reached = self
        if isinstance(gradient, tf.IndexedSlices):
            values = tf.cast(gradient.values, total.dtype)
            total.scatter_add(tf.IndexedSlices(values, gradient.indices))
            flags = tf.ones_like(gradient.indices, tf.bool)
            reached.scatter_update(tf.IndexedSlices(flags, gradient.indices))
        else:
            total.assign_add(tf.cast(gradient, total.dtype))
            reached.assign(tf.ones_like(reached))

    def mean(self, steps, by_rows):
        """Return the sum over `steps` micro-steps as their mean, and reset it.

        Args:
            steps: scalar tensor, the number of micro-steps.
            by_rows: bool. Whether to return the rows that were reached as `tf.IndexedSlices`.
        """
        total, reached = self
        steps = tf.cast(steps, total.dtype)
        if by_rows:
            ids = tf.where(reached)[:, 0]
            rows = tf.gather(total, ids)
            mean = tf.IndexedSlices(rows / steps, ids, tf.shape(total, tf.int64))
            total.scatter_update(tf.IndexedSlices(tf.zeros_like(rows), ids))
        else:
            mean = total / steps
            total.assign(tf.zeros_like(total))
        reached.assign(tf.zeros_like(reached))
        return mean

    def is_reached(self):
        """Tell whether any gradient has been added since the last update."""
        return tf.reduce_any(self.reached)


def check_pairs(gradients, variables):
    """Raise unless each variable is listed once, and has a gradient of its shape or None."""
    if len(gradients) != len(variables):
        raise ValueError(
            f"`grads` must hold one gradient for each of the {len(variables)} variables. "
            f"Received: {len(gradients)} gradients"
        )
    check_listed_once(variables)
    for gradient, variable in zip(gradients, variables, strict=True):
        if gradient is None:
            continue
        given, wanted = gradient, tf.TensorShape(variable.shape)
        if isinstance(gradient, tf.IndexedSlices):
            # Any number of rows, each with the variable's other axes.
            given, wanted = gradient.values, [None, *wanted[1:]]
        if not tf.TensorShape(wanted).is_compatible_with(given.shape):
            raise ValueError(
                f"`grads` must have the shapes of the variables, {tuple(variable.shape)} for "
                f"{path_of(variable)!r}. Received: a gradient of shape {given.shape}"
            )


def check_listed_once(variables):
    """Raise if a variable is listed twice: a rule would move it, and its slots, twice."""
    seen = {}
    for variable in variables:
        held = variable.value if isinstance(variable, keras.Variable) else variable
        if id(held) in seen:
            raise ValueError(
                "`trainable_variables` must list each variable once. "
                f"Received: {path_of(variable)!r} twice"
            )
        seen[id(held)] = held


def in_full_precision(gradient):
    """Return a half-precision gradient in float32, before anything can round it."""
    return tf.cast(gradient, tf.float32) if gradient.dtype.size < 4 else gradient


def split_overwritten(gradients, variables):
    """Separate gradients from values that overwrite a variable (float8 scales).

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


def deduplicated(gradient):
    """Sum the rows of a gradient per id, if it is sparse."""
    sparse = isinstance(gradient, tf.IndexedSlices)
    return deduplicate(gradient) if sparse else gradient
