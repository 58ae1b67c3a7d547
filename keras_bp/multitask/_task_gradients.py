"""From the tasks' lists of gradients to one: which are shared, which are left out, the Gramian."""

import typing

import numpy as np
import tensorflow as tf

from keras_bp.gradients import sum_over_replicas
from keras_bp.multitask._columns import gramian, weighted_sum


class CombinedGradients(typing.NamedTuple):
    """What `Combiner.combine_tasks` returns."""

    gradients: list
    present: tf.Tensor
    gramian: tf.Tensor
    gramians: list
    weights: tf.Tensor | list


def combine_tasks(combiner, task_gradients, losses):
    """Return the `CombinedGradients`; see `Combiner.combine_tasks`."""
    tasks = _checked(task_gradients, losses)
    given = [None] * len(tasks) if losses is None else list(losses)
    tasks, given, replicas = _over_replicas(tasks, given)
    missing = [False] * len(tasks) if losses is None else [loss is None for loss in losses]
    present = tf.stack(
        [
            tf.constant(False) if none else _all_finite([*task, loss])
            for task, loss, none in zip(tasks, given, missing, strict=True)
        ]
    )
    tasks = [
        [_zeros_unless(there, gradient) for gradient in task]
        for task, there in zip(tasks, tf.unstack(present), strict=True)
    ]
    columns = [list(column) for column in zip(*tasks, strict=True)]
    shared = [_owners(column) if len(_owners(column)) > 1 else [] for column in columns]
    scale = _scale([column for column, owners in zip(columns, shared, strict=True) if owners])
    gramians = [_gramian(*parts, scale) for parts in zip(columns, shared, strict=True)]
    total = sum((g for g in gramians if g is not None), tf.zeros([len(tasks)] * 2, tf.float64))
    values = None if losses is None else _stacked(given, present)
    weights = _weights(combiner, total, gramians, shared, present, values)
    of_columns = weights if combiner.blockwise else [weights] * len(columns)
    gradients = []
    for column, weights_here in zip(columns, of_columns, strict=True):
        owners = _owners(column)
        if not owners:
            gradients.append(None)
            continue
        combined = column[owners[0]]
        if len(owners) > 1:
            combined = weighted_sum(tf.gather(weights_here, owners), [column[t] for t in owners])
        # The optimizer sums over the replicas once more.
        gradients.append(combined if replicas == 1 else _divided(combined, replicas))
    square = scale**2
    gramians = [None if g is None else g * square for g in gramians]
    return CombinedGradients(gradients, present, total * square, gramians, weights)


def _gramian(column, owners, scale):
    """Return one variable's Gramian over all tasks, or None where no two share it."""
    if not owners:
        return None
    place = np.eye(len(column))[owners]
    return place.T @ gramian([column[t] for t in owners], scale) @ place


def _weights(combiner, gramian, gramians, shared, present, losses):
    """Return the tasks' weights; of a rule that works in blocks, those of each variable or None."""
    tasks = range(present.shape[0])
    if not combiner.blockwise:
        # A task without shared variables is no row of zeros to the rule, it has no part in it.
        sharing = tf.constant([any(t in owners for owners in shared) for t in tasks])
        return combiner.weights(gramian, present & sharing, losses)
    weights = [None] * len(gramians)
    places = [number for number, owners in enumerate(shared) if owners]
    if places:
        owned = tf.constant([[t in shared[number] for t in tasks] for number in places])
        blocks = tf.stack([gramians[number] for number in places])
        found = tf.unstack(combiner.block_weights(blocks, present & owned))
        for number, block in zip(places, found, strict=True):
            weights[number] = block
    return weights


def _stacked(losses, present):
    zero = tf.zeros((), tf.float64)
    values = tf.stack([zero if loss is None else tf.cast(loss, tf.float64) for loss in losses])
    return tf.where(present, values, 0.0)


def _owners(column):
    return [task for task, gradient in enumerate(column) if gradient is not None]


def _scale(columns):
    """Return what gradients are divided by before they are squared: 1 where float64 has room."""
    tensors = [values_of(g) for column in columns for g in column if g is not None]
    one = tf.constant(1.0, tf.float64)
    if all(tensor.dtype != tf.float64 for tensor in tensors):
        return one
    sizes = [tf.reduce_max(tf.abs(tf.cast(t, tf.float64))) for t in tensors]
    largest = tf.reduce_max(tf.stack(sizes))
    return tf.where(largest > 0.0, largest, one)


def _over_replicas(tasks, losses):
    """Sum over the replicas, for all of them to see the same gradients and the same faults."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1:
        return tasks, losses, 1
    summed = iter(sum_over_replicas([g for task in tasks for g in task] + losses))
    return [[next(summed) for _ in task] for task in tasks], list(summed), replicas


def _all_finite(tensors):
    finite = [tf.reduce_all(tf.math.is_finite(values_of(t))) for t in tensors if t is not None]
    return tf.reduce_all(tf.stack([tf.constant(True), *finite]))


def values_of(gradient):
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def with_values(gradient, values):
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return values


def _zeros_unless(there, gradient):
    if gradient is None:
        return None
    values = values_of(gradient)
    return with_values(gradient, tf.where(there, values, tf.zeros_like(values)))


def _divided(gradient, number):
    return with_values(gradient, values_of(gradient) / number)


def _checked(task_gradients, losses):
    """Return the tasks' gradients as lists of tensors once they are known to fit together."""
    expected = "`task_gradients` must hold a list of gradients for each task"
    if not isinstance(task_gradients, list | tuple) or not all(
        isinstance(task, list | tuple) for task in task_gradients
    ):
        raise TypeError(f"{expected}. Received: task_gradients={task_gradients!r}")
    lengths = [len(task) for task in task_gradients]
    if len(set(lengths)) != 1:
        raise ValueError(f"{expected}, all of one length. Received: lists of lengths {lengths}")
    if losses is not None and len(losses) != len(task_gradients):
        raise ValueError(
            f"`losses` must hold a loss for each of the {len(task_gradients)} tasks. "
            f"Received: {len(losses)} losses"
        )
    tasks = [[_tensor(gradient) for gradient in task] for task in task_gradients]
    for number, column in enumerate(zip(*tasks, strict=True)):
        shapes = [
            tf.TensorShape([None, *values_of(g).shape[1:]])
            if isinstance(g, tf.IndexedSlices)
            else g.shape
            for g in column
            if g is not None
        ]
        if not all(shapes[0].is_compatible_with(shape) for shape in shapes[1:]):
            raise ValueError(
                f"{expected}, of one shape for each variable. Received: shapes "
                f"{[str(shape) for shape in shapes]} for variable {number}"
            )
    return tasks


def _tensor(gradient):
    if gradient is None or isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.convert_to_tensor(gradient)
