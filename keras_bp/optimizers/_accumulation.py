"""Sums of gradients over micro-steps, dense or by rows."""

import typing

import tensorflow as tf


class GradientSum(typing.NamedTuple):
    """One variable's sum of gradients since the last update.

    The sum has the variable's shape. Beside it stands one flag a row, which tells the rows that a
    gradient has reached: a sparse gradient of a table adds its rows and sets their flags, so that
    a micro-step costs what its rows cost, and the update finds those rows again without looking
    at the table. A dense gradient reaches all rows; a scalar has one.

    Attributes:
        total: the sum.
        reached: the flags, of shape (rows,).
    """

    total: tf.Variable
    reached: tf.Variable

    def add(self, gradient):
        """Add a gradient: a tensor, or `tf.IndexedSlices` in which every id stands once."""
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
        """Return the sum over `steps` micro-steps as their mean, and empty it.

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
