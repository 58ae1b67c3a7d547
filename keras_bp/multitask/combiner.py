"""The base of every combiner: from the tasks' gradients to one, by weights from their Gramian."""

import tensorflow as tf

from keras_bp.multitask._columns import weighted_sum
from keras_bp.multitask._losses import tape_gradients
from keras_bp.multitask._task_gradients import combine_tasks


class Combiner:
    """Combines the gradients of T tasks on shared weights into one.

    With J the T x P Jacobian, whose rows are the tasks' gradients,

        d = J^T a,    a = weights(M),    M = J J^T

    so that a rule needs the T x T Gramian alone, which is summed in float64 over the shared
    variables. A rule derives from this class and overrides `_weights(gramian, present)`: `gramian`
    is in float64, at least (1, 1) and of known shape, `present` a boolean tensor of shape (T,); a
    task that is not present has a row and a column of zeros, and its weight is not used.

    A rule that looks at the tasks' losses sets `needs_losses` and overrides
    `_weights(gramian, present, losses)`; its variables, if it has some, are made by `build(tasks)`
    and held in the list `variables`. One that weighs each variable's gradients by themselves, from
    their Gramians alone, sets `blockwise` and overrides `_block_weights(gramians, present)`, of
    shapes (K, T, T) and (K, T) for K shared variables.

    Tasks whose gradients are not finite are left out of the step, as if they were not there.
    Gradients in float16 or bfloat16 are combined in float32, and d is of their dtype. Everything
    runs inside `tf.function`, compiled by XLA too; without it, in a loop of one's own:

        with tf.GradientTape(persistent=True) as tape:
            losses = ...
        optimizer.apply(combine.gradients(tape, losses, variables), variables)

    Args:
        **arguments: The rule's constructor's arguments, for `get_config`.

    Call arguments:
        jacobian: Floating-point tensor of shape (T, P).

    Output shape:
        (P,).

    Raises:
        TypeError: If what is called with is not floating point.
        ValueError: If it has another shape.

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
        rules as functions of the Gramian.
    """

    def __init__(self, **arguments):
        self._config = arguments

    needs_losses = False
    blockwise = False
    variables = ()

    def __call__(self, jacobian, losses=None):
        """Return the combined gradient of shape (P,) for a Jacobian of shape (T, P)."""
        return self.combine(jacobian, losses)

    def build(self, tasks):
        """Make the rule's own variables, if it has some, for a number of tasks."""

    def combine(self, jacobian, losses=None):
        """Return the combined gradient of shape (P,) for a Jacobian of shape (T, P).

        `losses`, the tasks' losses of shape (T,), are for the rules that need them.
        """
        jacobian = _floating("jacobian", jacobian)
        if jacobian.shape.rank != 2 or not jacobian.shape[0]:
            raise ValueError(
                "`jacobian` must have the shape (T, P), with a row for each of one or more tasks. "
                f"Received: jacobian of shape {jacobian.shape}"
            )
        present = tf.reduce_all(tf.math.is_finite(jacobian), axis=1)
        rows = tf.where(present[:, None], jacobian, tf.zeros_like(jacobian))
        wide = tf.cast(rows, tf.float64)
        largest = tf.reduce_max(tf.abs(wide))
        wide /= tf.where(largest > 0.0, largest, 1.0)
        gramian = tf.matmul(wide, wide, transpose_b=True)
        return weighted_sum(self.weights(gramian, present, losses), rows)

    def weights(self, gramian, present=None, losses=None):
        """Return the weights of the tasks, in float64; those that are learnt take a step.

        Args:
            gramian: Floating-point tensor M = J J^T of shape (T, T), positive semi-definite and
                finite.
            present: Boolean tensor of shape (T,), False for tasks that are left out, or `None`
                for all to take part.
            losses: Floating-point tensor of shape (T,), for the rules that need the losses.

        Returns:
            A tensor of shape (T,) with a weight of 0 for each task that is left out.
        """
        gramian = tf.cast(_floating("gramian", gramian), tf.float64)
        shape = gramian.shape
        if shape.rank != 2 or not shape.is_fully_defined() or shape[0] != shape[1] or not shape[0]:
            raise ValueError(
                "`gramian` must have the shape (T, T), with T the known number of tasks. "
                f"Received: gramian of shape {shape}"
            )
        present = tf.ones(shape[:1], tf.bool) if present is None else tf.convert_to_tensor(present)
        if present.dtype != tf.bool or present.shape != shape[:1]:
            raise ValueError(
                f"`present` must be a boolean tensor of shape {shape[:1]}, with an entry for each "
                f"task. Received: present of shape {present.shape} and dtype {present.dtype.name}"
            )
        gramian = _of_size_one(tf.where(present[:, None] & present[None, :], gramian, 0.0))
        if not self.needs_losses:
            return tf.where(present, self._weights(gramian, present), 0.0)
        losses = self._checked_losses(losses, shape[0])
        present &= tf.math.is_finite(losses)
        losses = tf.where(present, losses, 0.0)
        return tf.where(present, self._weights(gramian, present, losses), 0.0)

    def block_weights(self, gramians, present):
        """Return the weights of the tasks in each of K variables, for a rule that is `blockwise`.

        Args:
            gramians: float64 tensor of shape (K, T, T).
            present: Boolean tensor of shape (K, T).

        Returns:
            A float64 tensor of shape (K, T).
        """
        both = present[:, :, None] & present[:, None, :]
        gramians = _of_size_one(tf.where(both, gramians, 0.0))
        return tf.where(present, self._block_weights(gramians, present), 0.0)

    def _weights(self, gramian, present):
        """Return the weights of shape (T,); see the class."""
        raise NotImplementedError

    def gradients(self, tape, losses, variables):
        """Return the gradients of a step, one for each variable.

        A variable that two or more tasks depend on is shared, and gets the combined gradient; one
        that a single task depends on, such as its head's, gets that task's own; one that none
        depends on gets None. The weights come from the Gramian over all shared variables; a task
        without any has no part in them. With one task, or without shared variables, the gradients
        are the plain ones.

        A task whose loss or whose gradient in any variable is not finite is left out of the step:
        the others are combined without it, and the variables of its own get zeros. So is one whose
        loss is None.

        Inside `strategy.run` the tasks' gradients are summed over the replicas before they are
        combined, and the result is divided by the number of replicas, as the optimizer's own sum
        expects.

        Args:
            tape: A `tf.GradientTape(persistent=True)` that has recorded the losses.
            losses: The tasks' scalar losses: a list, tuple or dict of tensors or None.
            variables: List of variables.

        Returns:
            A list of tensors, `tf.IndexedSlices` (where all of a variable's gradients are; ids may
            repeat) and None, in the variables' dtypes and order.

        Raises:
            TypeError: If `losses` or `variables` is no list, or an item no tensor.
            ValueError: If the tape is not persistent, a loss is not scalar, or none is given.
        """
        return self.combine_tasks(*tape_gradients(tape, losses, variables)).gradients

    def combine_tasks(self, task_gradients, losses=None):
        """Combine gradients that are at hand: what `gradients` does once it has the tasks' own.

        Args:
            task_gradients: List of T lists, each with a task's gradient for every variable, in one
                order: tensors, `tf.IndexedSlices` or None.
            losses: List of T scalar losses, or None not to ask whether they are finite.

        Returns:
            A `CombinedGradients` with the attributes `gradients`; `present`, which of the tasks
            took part, a boolean tensor of shape (T,); `gramian` (T, T) and `weights` (T,), in
            float64, over the shared variables, 0 for tasks without part in them; and `gramians`,
            for each variable its part of the Gramian, or None where it is not shared. A rule that
            is `blockwise` has for `weights` a list like that.
        """
        return combine_tasks(self, task_gradients, losses)

    def _checked_losses(self, losses, count):
        if losses is None:
            raise ValueError(
                f"`losses` must be given to {type(self).__name__}, whose weights depend on them. "
                "Received: losses=None"
            )
        losses = tf.cast(_floating("losses", losses), tf.float64)
        if losses.shape != (count,):
            raise ValueError(
                f"`losses` must have the shape ({count},), with a loss for each task. "
                f"Received: losses of shape {losses.shape}"
            )
        return losses

    def get_config(self):
        """Return the constructor's arguments, for `from_config`."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config):
        """Make a combiner from what `get_config` returned."""
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._config.items())
        return f"{type(self).__name__}({arguments})"


def _of_size_one(gramian):
    """Return Gramians whose largest entry is 1: rules do not depend on it, tolerances do."""
    largest = tf.reduce_max(tf.linalg.diag_part(gramian), axis=-1)[..., None, None]
    return gramian / tf.where(largest > 0.0, largest, 1.0)


def _floating(name, value):
    tensor = tf.convert_to_tensor(value)
    if not tensor.dtype.is_floating:
        raise TypeError(
            f"`{name}` must be a floating-point tensor. Received: {name} of dtype "
            f"{tensor.dtype.name}"
        )
    return tensor
