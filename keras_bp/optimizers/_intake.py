"""The way of gradients from `apply` to an update."""

import keras
import tensorflow as tf

from keras_bp import gradients as gradient_tools
from keras_bp.optimizers._accumulation import GradientSum
from keras_bp.optimizers._inputs import (
    all_finite,
    check_shapes,
    deduplicated,
    in_full_precision,
    split_overwritten,
    unscaled,
)
from keras_bp.optimizers._replicas import local
from keras_bp.optimizers._update import Update


class Intake(Update):
    """Takes gradients in: sums them over replicas and micro-steps, and starts the updates."""

    def __setattr__(self, name, value):
        # keras.optimizers.LossScaleOptimizer sets this to None in the optimizer that it is put
        # around, and tells it of itself in no other way. A property's setter would not be called:
        # TensorFlow passes over what does not change an attribute.
        if name == "loss_scale_factor":
            self._has_scale_around = value is None and hasattr(self, name)
        super().__setattr__(name, value)

    def _skips_what_is_not_finite(self):
        """Tell whether a step with a gradient that is not finite is to be skipped.

        With a scale of its own it is. A LossScaleOptimizer around it looks at the gradient before
        the sum over the replicas, and takes what it finds in the first replica for all: what is
        not finite in another one is for us to find.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return self.loss_scale_factor is not None or (self._has_scale_around and replicas > 1)

    # In a user's tf.function AutoGraph would rewrite this and all below, to no use.
    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        """Make one step, or one micro-step, with a gradient for each variable.

        Args:
            grads: list of tensors, `tf.IndexedSlices` or None, as from `tape.gradient`.
            trainable_variables: list of the variables, in the same order; may be left out once
                the optimizer is built. The first list builds it.
        """
        grads = [_as_gradient(gradient) for gradient in grads]
        if not grads:
            return
        grads, variables = self._pair(grads, trainable_variables)
        with keras.name_scope(self.name, caller=self):
            grads = gradient_tools.sum_over_replicas([in_full_precision(g) for g in grads])
            grads, variables, values, overwritten = split_overwritten(grads, variables)
            if self.loss_scale_factor is not None:
                grads = [unscaled(gradient, self.loss_scale_factor) for gradient in grads]
            grads = deduplicated(grads)

            def take():
                self._overwrite(values, overwritten)
                self._take(grads, variables)

            if self._skips_what_is_not_finite():
                tf.cond(all_finite(grads), take, lambda: None)
            else:
                take()

    def _pair(self, grads, variables):
        """Return gradients and variables of equal number, without those that have no gradient."""
        if variables is None:
            if not self.built:
                raise ValueError(
                    "`trainable_variables` must be given with the first gradients, unless "
                    "`build` was called. Received: trainable_variables=None"
                )
            variables = self._trainable_variables
        variables = list(variables)
        check_shapes(grads, variables)
        if not self.built:
            with keras.name_scope(self.name, caller=self):
                self.build(variables)
        self._check_variables_are_known(variables)
        return self._filter_empty_gradients(grads, variables)

    def _take(self, gradients, variables):
        """Take a step's gradients in: update, or add them to the sums until these are full."""
        if not self.gradient_accumulation_steps:
            self._update(gradients, variables)
            return
        sparse = {}
        for gradient, variable in zip(gradients, variables, strict=True):
            self._sum_of(variable).add(gradient)
            index = self._get_variable_index(variable)
            sparse[index] = isinstance(gradient, tf.IndexedSlices)
        steps = local(self._accumulated_steps)
        steps.assign_add(1)
        tf.cond(
            steps >= self.gradient_accumulation_steps,
            lambda: self._update_from_sums(sparse),
            lambda: None,
        )

    def _overwrite(self, values, variables):
        """Overwrite variables; of the values of several micro-steps the largest counts."""
        for value, variable in zip(values, variables, strict=True):
            own = local(variable)
            value = tf.cast(value, own.dtype)
            if self.gradient_accumulation_steps:
                largest = local(self._accumulated_gradients[self._get_variable_index(variable)])
                first = local(self._accumulated_steps) == 0
                value = tf.where(first, value, tf.maximum(value, tf.cast(largest, own.dtype)))
                largest.assign(tf.cast(value, largest.dtype))
            own.assign(value)

    def _sum_of(self, variable):
        index = self._get_variable_index(variable)
        return GradientSum(
            local(self._accumulated_gradients[index]), local(self._reached_rows[index])
        )

    def _update_from_sums(self, sparse):
        """Update with the mean gradients and empty the sums.

        Args:
            sparse: dictionary, for the variables that this step has a gradient of, whether it is
                sparse. Others are updated if an earlier micro-step had a gradient of them.
        """
        steps = local(self._accumulated_steps)
        gradients, variables, reached = [], [], []
        for index, variable in enumerate(self._trainable_variables):
            if self._overwrite_variable_with_gradient(variable):
                continue
            total = self._sum_of(variable)
            reached.append(None if index in sparse else total.is_reached())
            # A scalar has no rows to gather, though a rule may say that it works by rows.
            by_rows = sparse.get(index, len(variable.shape) > 0) and self._by_rows(variable)
            gradients.append(total.mean(steps, by_rows))
            variables.append(variable)
        steps.assign(0)
        self._update(gradients, variables, reached)


def _as_gradient(gradient):
    """Return what was given for a gradient, a nested list perhaps, as one."""
    if gradient is None or isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.convert_to_tensor(gradient)
