"""Combines the tasks' gradients: finds what is shared, leaves tasks out, forms the weighted sum."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_floating
from keras_bp._keras import is_persistent
from keras_bp._types import Array
from keras_bp.gradients import all_finite, as_gradient, map_values, sum_over_replicas, values_of
from keras_bp.multitask.blocks import (
    block_of,
    gramian_of,
    largest_entry,
    sparse_sum,
    summed_in,
    weighted_sum,
)
from keras_bp.multitask.weighting import Weighting, of_present

Gradient = Any
"""A tensor, a `tf.IndexedSlices`, or None."""


class CombinedGradients(NamedTuple):
    """What `Combiner.combine_tasks` returns."""

    gradients: list[Gradient]
    present: tf.Tensor
    gramian: tf.Tensor
    gramians: list[tf.Tensor | None]
    weights: tf.Tensor | list[tf.Tensor | None]


class Combiner(Weighting):
    """Combines the gradients of T tasks on shared weights into one.

    With J the T x P Jacobian, whose rows are the tasks' gradients,

        d = J^T a,    a = weights(M),    M = J J^T

    so that the weights need only the T x T Gramian, which is summed in float64 over the shared
    variables. A subclass overrides `_weights(gramian, present)`: `gramian` is in float64, at least
    (1, 1) and of known shape, `present` a boolean tensor of shape (T,); a task that is not present
    has a row and a column of zeros, and its weight is not used.

    One that looks at the tasks' losses derives from `LossWeighting`. One that weighs each
    variable's gradients separately is `BlockwiseUPGrad`.

    Tasks whose gradients are not finite are left out of the step, as if they were not there.

    Where the weights do not depend on the gradients (`Sum`, `Mean`, `UncertaintyWeighting`), a
    traced step on one replica makes one backward pass, of the weighted sum, and one per task only
    if that is not finite.

    Gradients in float16 or bfloat16 are combined in float32, and d is of their dtype. It all
    runs inside `tf.function`, compiled by XLA too; without it, in a custom loop:

        with tf.GradientTape(persistent=True) as tape:
            losses = ...
        optimizer.apply(combiner.gradients(tape, losses, variables), variables)

    Args:
        **arguments: the weighting's constructor's arguments, for `get_config`.

    Call arguments:
        jacobian: floating-point tensor of shape (T, P).

    Output shape:
        (P,).

    Raises:
        TypeError: if the Jacobian is not floating point.
        ValueError: if it has another shape.

    Example:
        >>> class Shortest(keras_bp.multitask.Combiner):
        ...     def _weights(self, gramian, present):
        ...         lengths = tf.linalg.diag_part(gramian)
        ...         lengths = tf.where(present, lengths, lengths.dtype.max)
        ...         return tf.one_hot(tf.argmin(lengths), lengths.shape[0], dtype=gramian.dtype)
        >>> Shortest()(tf.constant([[3.0, 4.0], [1.0, 2.0]])).numpy().tolist()
        [1.0, 2.0]

    References:
        Quinton and Rey, 2024, "Jacobian descent for multi-objective optimization", section 2: the
        weightings as functions of the Gramian.
    """

    # What the weights depend on: the Gram matrix, the losses, or only which tasks are present. Not
    # inherited, since a subclass may have other weights.
    _weights_from = "gramian"

    def __call__(self, jacobian: Array, losses: Array | None = None) -> tf.Tensor:
        """Return the combined gradient of shape (P,) for a Jacobian of shape (T, P)."""
        return self.combine(jacobian, losses)

    def combine(self, jacobian: Array, losses: Array | None = None) -> tf.Tensor:
        """Return the combined gradient of shape (P,) for a Jacobian of shape (T, P).

        `losses`, the tasks' losses of shape (T,), are for the weightings that need them.
        """
        jacobian = check_floating("jacobian", jacobian)
        if jacobian.shape.rank != 2 or not jacobian.shape[0]:
            raise ValueError(
                "`jacobian` must have the shape (T, P), with one row per task, one or more. "
                f"Received: jacobian of shape {jacobian.shape}"
            )
        present = tf.reduce_all(tf.math.is_finite(jacobian), axis=1)
        rows = tf.where(present[:, None], jacobian, tf.zeros_like(jacobian))
        wide = tf.cast(rows, tf.float64)
        largest = tf.reduce_max(tf.abs(wide))
        wide /= tf.where(largest > 0.0, largest, 1.0)
        gramian = tf.matmul(wide, wide, transpose_b=True)
        block = tf.cast(rows, summed_in(rows.dtype))
        total = weighted_sum(self.weights(gramian, present, losses), block)
        return tf.cast(total, rows.dtype)

    def gradients(
        self,
        tape: tf.GradientTape,
        losses: Sequence[tf.Tensor | None] | dict[str, tf.Tensor | None],
        variables: Sequence[Any],
    ) -> list[Gradient]:
        """Return the gradients of a step, one for each variable.

        A variable that two or more tasks depend on is shared and gets the combined gradient; one
        that a single task depends on, such as its head's, gets that task's gradient; one that no
        task depends on gets None. The weights come from the Gramian over all shared variables; a
        task without any has no part in them. With one task, or without shared variables, the
        gradients are the plain ones.

        A task whose loss or whose gradient in any variable is not finite is left out of the step:
        the others are combined without it, and the variables of its own get zeros. So is one whose
        loss is None.

        Inside `strategy.run` the tasks' gradients are summed over the replicas before they are
        combined, and the result is divided by the number of replicas, as the optimizer's own sum
        expects.

        Args:
            tape: a `tf.GradientTape(persistent=True)` that has recorded the losses.
            losses: the tasks' scalar losses: a list, tuple or dict of tensors or None.
            variables: list of variables.

        Returns:
            A list of tensors, `tf.IndexedSlices` (where all of a variable's gradients are; ids may
            repeat) and None, in the variables' dtypes and order.

        Raises:
            TypeError: if `losses` or `variables` is not a list, or an item is not a tensor.
            ValueError: if the tape is not persistent, a loss is not scalar, or there is no loss.
        """
        values, variables = _checked_for_tape(tape, losses, variables)
        upstream = [None if value is None else tf.ones_like(value) for value in values]
        return self.from_tape(tape, values, upstream, variables, values)[0]

    def makes_one_pass(self, tasks: int) -> bool:
        """Tell whether `from_tape` makes one backward pass for so many tasks here."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        gradients_needed = vars(type(self)).get("_weights_from", "gramian") == "gramian"
        return not (gradients_needed or tasks < 2 or replicas > 1 or tf.executing_eagerly())

    def from_tape(
        self,
        tape: tf.GradientTape,
        targets: Sequence[tf.Tensor | None],
        upstream: Sequence[tf.Tensor | None],
        variables: Sequence[Any],
        losses: Sequence[tf.Tensor | None] | None = None,
        rows_may_differ: bool = False,
    ) -> tuple[list[Gradient], tf.Tensor]:
        """Return what `combine_tasks` does, from one backward pass where the weights allow it.

        Args:
            tape: a `tf.GradientTape(persistent=True)` that has recorded the targets.
            targets: list of a tensor for each task, such as its loss or its output.
            upstream: list of the gradient of the whole loss with respect to each target, or None
                for a task without a loss.
            variables: list of variables.
            losses: as in `combine_tasks`.
            rows_may_differ: whether `tf.IndexedSlices` may come out of two branches of the step
                with different numbers of rows, which XLA does not allow.

        Returns:
            The attributes `gradients` and `present` of `CombinedGradients`.
        """
        owners = np.zeros([0, 0], bool)

        def apart():
            nonlocal owners
            tasks = gradients_of_tasks(tape, targets, upstream, variables)
            owners = _owners(zip(*tasks, strict=True), len(tasks))
            combined = self.combine_tasks(tasks, losses)
            return combined.gradients, combined.present

        if not self.makes_one_pass(len(targets)):
            return apart()
        # Traced now, for a branch of the step, as only this tells which task depends on what.
        branch = tf.function(apart, autograph=False).get_concrete_function()
        slices = tf.IndexedSlices | tf.IndexedSlicesSpec
        dense = [not isinstance(gradient, slices) for gradient in branch.structured_outputs[0]]
        if not (all(dense) or rows_may_differ):
            return branch()
        learned = [tf.convert_to_tensor(variable) for variable in self.variables]
        present = np.array([losses is None or target is not None for target in targets])
        gradients = self._of_one_pass(tape, targets, upstream, variables, losses, owners, present)
        for place, gradient in enumerate(gradients):
            if dense[place] and gradient is not None:  # in both branches
                gradients[place] = tf.convert_to_tensor(gradient)

        def without_some():
            for variable, value in zip(self.variables, learned, strict=True):
                variable.assign(value)
            return branch()

        finite = all_finite([*gradients, *(losses or ())])
        return tf.cond(finite, lambda: (gradients, tf.constant(present)), without_some)

    def _of_one_pass(self, tape, targets, upstream, variables, losses, owners, present):
        """Return the combined gradients from one backward pass, all tasks taken for finite.

        With a the largest weight, shared variables get a times the gradient of the sum of the
        losses, each times a_t / a, and those of one task the gradient of its own loss: from the
        same pass where the weights are equal.
        """
        shared, own = owners.sum(axis=1) > 1, owners.sum(axis=1) == 1
        sharing = owners[shared].any(axis=0) & present
        gramian = np.zeros([len(targets)] * 2)
        if self._weights_from == "presence":
            with tf.init_scope():
                largest = float(tf.reduce_max(self.weights(gramian, sharing)))
            passes = [(shared | own, upstream)]
        else:
            weights = self.weights(gramian, sharing, _stacked(losses, present))
            largest = tf.reduce_max(weights)
            shares = tf.unstack(weights / tf.where(largest > 0.0, largest, 1.0))
            scaled = [
                None if gradient is None else gradient * tf.cast(share, gradient.dtype)
                for gradient, share in zip(upstream, shares, strict=True)
            ]
            passes = [(shared, scaled), (own, upstream)]
        gradients = [None] * len(variables)
        for chosen, factors in passes:
            (places,) = np.nonzero(chosen)
            ends = [x for x, factor in zip(targets, factors, strict=True) if factor is not None]
            factors = [factor for factor in factors if factor is not None]
            found = tape.gradient(ends, [variables[i] for i in places], output_gradients=factors)
            for place, gradient in zip(places, found, strict=True):
                gradients[place] = gradient
        if tf.is_tensor(largest) or largest != 1.0:
            for place in np.nonzero(shared)[0]:
                gradients[place] = map_values(
                    lambda g: g * tf.cast(largest, g.dtype), gradients[place]
                )
        return gradients

    def combine_tasks(
        self,
        task_gradients: Sequence[Sequence[Gradient]],
        losses: Sequence[tf.Tensor | None] | None = None,
    ) -> CombinedGradients:
        """Combine given gradients, as `gradients` does with those from the tape.

        Args:
            task_gradients: list of T lists, each with a task's gradient for every variable, in one
                order: tensors, `tf.IndexedSlices` or None.
            losses: list of T scalar losses, or None to skip the check that they are finite.

        Returns:
            A `CombinedGradients` with the attributes `gradients`; `present`, which of the tasks
            took part, a boolean tensor of shape (T,); `gramian` (T, T) and `weights` (T,), in
            float64, over the shared variables, 0 for tasks without part in them; and `gramians`,
            for each variable its part of the Gramian, or None where it is not shared.
            `BlockwiseUPGrad` has for `weights` a list like that.
        """
        tasks = _checked(task_gradients, losses)
        given = [None] * len(tasks) if losses is None else list(losses)
        missing = [losses is not None and loss is None for loss in given]
        tasks, given, replicas = _over_replicas(tasks, given)
        columns = [list(column) for column in zip(*tasks, strict=True)]
        owners = _owners(columns, len(tasks))
        shared = owners.sum(axis=1) > 1
        # The Gram matrix tells whether shared gradients are finite, unless float64 overflows there.
        wide = any(g is not None and g.dtype == tf.float64 for task in tasks for g in task)
        read = [place for place in range(len(columns)) if wide or not shared[place]]
        present = tf.stack(
            [
                tf.constant(False) if is_missing else all_finite([*(task[i] for i in read), loss])
                for task, loss, is_missing in zip(tasks, given, missing, strict=True)
            ]
        )
        scale = largest_entry(columns, shared, present) if wide else tf.constant(1.0, tf.float64)
        blocks = [block_of(*parts) for parts in zip(columns, owners, strict=True)]
        gramians = [gramian_of(*parts, scale) for parts in zip(blocks, owners, strict=True)]
        total = sum((g for g in gramians if g is not None), tf.zeros([len(tasks)] * 2, tf.float64))
        present &= tf.math.is_finite(tf.linalg.diag_part(total))
        gramians = [None if g is None else of_present(g, present) for g in gramians]
        total = of_present(total, present)
        values = None if losses is None else _stacked(given, present)
        weights, of_variables = self._weights_of_variables(total, gramians, owners, present, values)
        gradients = _combined(columns, owners, blocks, of_variables, present)
        if replicas > 1:  # the optimizer sums over them once more
            gradients = [map_values(lambda values: values / replicas, g) for g in gradients]
        square = scale**2
        # 0 times a square that is infinite is no NaN.
        total, *parts = (
            None if gramian is None else tf.math.multiply_no_nan(square, gramian)
            for gramian in (total, *gramians)
        )
        return CombinedGradients(gradients, present, total, parts, weights)

    def _weights_of_variables(self, total, gramians, owners, present, losses):
        """Return the weights, and those for each variable: here the same for all.

        Args:
            total: float64 tensor of shape (T, T), the Gram matrix over all shared variables.
            gramians: list of each variable's Gram matrix, or None where no two tasks share it.
            owners: bool array of shape (variables, T), which tasks depend on which variable.
            present: boolean tensor of shape (T,).
            losses: float64 tensor of shape (T,), or None.
        """
        # A task without shared variables takes no part; as a row of zeros it would count.
        sharing = owners[owners.sum(axis=1) > 1].any(axis=0)
        weights = self.weights(total, present & sharing, losses)
        return weights, [weights] * len(gramians)


def gradients_of_tasks(
    tape: tf.GradientTape,
    targets: Sequence[tf.Tensor | None],
    upstream: Sequence[tf.Tensor | None],
    variables: Sequence[Any],
) -> list[list[Gradient]]:
    """Return a list of gradients for each task, all None for one without an upstream gradient."""
    return [
        [None] * len(variables)
        if gradient is None
        else tape.gradient(target, variables, output_gradients=gradient)
        for target, gradient in zip(targets, upstream, strict=True)
    ]


def _owners(columns, tasks):
    """Return a bool array (variables, tasks): which task depends on which variable."""
    owners = [[gradient is not None for gradient in column] for column in columns]
    return np.array(owners, bool).reshape(-1, tasks)


def _checked_for_tape(tape, losses, variables):
    """Check the arguments of `Combiner.gradients`, and return losses and variables as lists."""
    losses = _checked_losses(losses)
    if not isinstance(variables, list | tuple):
        raise TypeError(
            "`variables` must be a list or tuple of variables. "
            f"Received: variables={variables!r} (of type {type(variables).__name__})"
        )
    # TensorFlow's own error, at the second gradient, does not say which tape it means.
    if len(losses) > 1 and not is_persistent(tape):
        raise ValueError(
            "`tape` must be persistent, since each task's gradient is taken from it: "
            f"tf.GradientTape(persistent=True). Received: a tape that is not, and {len(losses)} "
            "losses"
        )
    return losses, list(variables)


def _checked_losses(losses):
    if isinstance(losses, dict):
        losses = list(losses.values())
    if not isinstance(losses, list | tuple):
        raise TypeError(
            "`losses` must be a list, tuple or dict with a loss for each task. "
            f"Received: losses={losses!r} (of type {type(losses).__name__})"
        )
    for number, loss in enumerate(losses):
        if loss is None:
            continue
        if not tf.is_tensor(loss):
            raise TypeError(
                "`losses` must hold tensors that the tape has recorded, or None. "
                f"Received: losses[{number}]={loss!r} (of type {type(loss).__name__})"
            )
        if loss.shape.rank not in (0, None):
            raise ValueError(
                "`losses` must be scalars, as the mean over the batch is. "
                f"Received: losses[{number}] of shape {loss.shape}"
            )
    if all(loss is None for loss in losses):
        raise ValueError(f"`losses` must hold one loss or more. Received: losses={losses!r}")
    return list(losses)


def _checked(task_gradients, losses):
    """Check that the tasks' gradients fit together, and return them as lists of tensors."""
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
    tasks = [[as_gradient(gradient) for gradient in task] for task in task_gradients]
    for number, column in enumerate(zip(*tasks, strict=True)):
        shapes = [_shape(gradient) for gradient in column if gradient is not None]
        if not all(shapes[0].is_compatible_with(shape) for shape in shapes[1:]):
            raise ValueError(
                f"{expected}, of one shape for each variable. Received: shapes "
                f"{[str(shape) for shape in shapes]} for variable {number}"
            )
    return tasks


def _shape(gradient):
    if isinstance(gradient, tf.IndexedSlices):
        return tf.TensorShape([None]).concatenate(values_of(gradient).shape[1:])
    return gradient.shape


def _over_replicas(tasks, losses):
    """Sum over the replicas, so that all see the same gradients and the same faults."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1:
        return tasks, losses, 1
    summed = iter(sum_over_replicas([g for task in tasks for g in task] + losses))
    return [[next(summed) for _ in task] for task in tasks], list(summed), replicas


def _zeros_unless(present, gradient):
    return map_values(lambda values: tf.where(present, values, tf.zeros_like(values)), gradient)


def _stacked(losses, present):
    zero = tf.zeros((), tf.float64)
    values = tf.stack([zero if loss is None else tf.cast(loss, tf.float64) for loss in losses])
    return tf.where(present, values, 0.0)


def _combined(columns, owners, blocks, weights, present):
    """Return each variable's gradient: the tasks' weighted sum where it is shared.

    Args:
        columns: for each variable, the list of T gradients.
        owners: bool array of shape (variables, T), which tasks depend on which variable.
        blocks: for each variable what `block_of` returns.
        weights: for each variable a float64 tensor of shape (T,), 0 for absent tasks.
        present: boolean tensor of shape (T,). Absent tasks' gradients may not be finite.
    """
    gradients = [None] * len(columns)
    tasks = [np.nonzero(own)[0] for own in owners]
    for place, (column, block) in enumerate(zip(columns, blocks, strict=True)):
        if len(tasks[place]) == 1:
            [task] = tasks[place]
            gradients[place] = _zeros_unless(present[task], column[task])
        elif isinstance(block, list):
            gradients[place] = sparse_sum(tf.gather(weights[place], tasks[place]), block)
        elif block is not None:
            total = weighted_sum(tf.gather(weights[place], tasks[place]), block)
            gradients[place] = tf.cast(total, column[tasks[place][0]].dtype)
    return gradients
