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
    weights: tf.Tensor


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
    shared, weights = _weights(combiner, columns, present)
    gradients = []
    for column in columns:
        owners = _owners(column)
        if not owners:
            gradients.append(None)
            continue
        combined = column[owners[0]]
        if len(owners) > 1:
            combined = weighted_sum(tf.gather(weights, owners), [column[t] for t in owners])
        # The optimizer sums over the replicas once more.
        gradients.append(combined if replicas == 1 else _divided(combined, replicas))
    return CombinedGradients(gradients, present, shared, weights)


def _weights(combiner, columns, present):
    """Return the Gramian over the shared variables and the weights, for all tasks."""
    count = present.shape[0]
    shared = [column for column in columns if len(_owners(column)) > 1]
    total = tf.zeros((count, count), tf.float64)
    sharing = sorted({t for column in shared for t in _owners(column)})
    if not sharing:
        return total, tf.zeros((count,), tf.float64)
    scale = _scale(shared)
    for column in shared:
        owners = _owners(column)
        place = np.eye(count)[owners]
        part = gramian([column[t] for t in owners], scale)
        total += place.T @ part @ place
    # A task without shared variables is no row of zeros to the rule: it is not among its tasks.
    inner = tf.gather(tf.gather(total, sharing), sharing, axis=1)
    weights = combiner.weights(inner, tf.gather(present, sharing))
    weights = tf.linalg.matvec(tf.constant(np.eye(count)[sharing]), weights, transpose_a=True)
    return total * scale**2, weights


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
