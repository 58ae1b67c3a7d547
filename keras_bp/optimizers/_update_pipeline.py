"""What happens to gradients before any rule sees them."""

import functools

import keras
import tensorflow as tf

from keras_bp import gradients as gradient_tools
from keras_bp.optimizers._accumulation import GradientSum
from keras_bp.optimizers._averages import move_averages
from keras_bp.optimizers._decay_exclusion import decayed, path_of
from keras_bp.optimizers._inputs import (
    all_finite,
    check_shapes,
    clipped,
    deduplicated,
    overwrite,
    unscaled,
)
from keras_bp.optimizers._learning_rate import SettableLearningRate
from keras_bp.optimizers._replicas import local

_HALF = ("float16", "bfloat16")


class UpdatePipeline(SettableLearningRate):
    """The way of a gradient from `apply` to the rule, as `Optimizer` describes it.

    A rule names its slots in `slot_names` and overrides `_rule`, and what else it needs to of the
    first section.
    """

    slot_names = ()
    """Names of the variables that a rule keeps for each weight."""

    # What a rule overrides.

    def _create_slots(self, variable):
        """Return the slots of one variable, in the order in which they are saved."""
        return [self.add_variable_from_reference(variable, name) for name in self.slot_names]

    def _start(self, variables, learning_rate, step):
        """Do what is to be done once before an update of some variables.

        Args:
            variables: list of the variables that have a gradient.
            learning_rate: scalar float64 tensor.
            step: scalar float64 tensor, the number of this update, from 1.
        """

    def _coefficients(self, learning_rate, step, dtype):
        """Return the rule's scalars, once an update and dtype, as a tuple of float64 tensors.

        Args:
            learning_rate: scalar float64 tensor.
            step: scalar float64 tensor, the number of this update, from 1.
            dtype: the `tf.DType` in which the rule will use them.
        """
        return (learning_rate,)

    def _rule(self, variable, gradient, slots, coefficients, decay):
        """Update one variable and its slots.

        Args:
            variable: `tf.Variable` in float32 or float64.
            gradient: tensor of its shape and dtype, or, where `_by_rows` says so,
                `tf.IndexedSlices` with every id once.
            slots: list of `tf.Variable`, from `_create_slots`.
            coefficients: what `_coefficients` returned, cast to the variable's dtype.
            decay: scalar tensor, `learning_rate * weight_decay`, or `None` where the variable
                does not decay or `_decay` has done it.
        """
        raise NotImplementedError(f"{type(self).__name__} must override `_rule`.")

    def _by_rows(self, variable):
        """Tell whether a sparse gradient makes the rule touch the gradient's rows alone."""
        return False

    def _decay(self, variable, gradient, decay):
        """Apply the decay before the rule; return what is left of it for the rule to do."""
        # w -= decay w, not w *= 1 - decay: that factor has few digits of the decay left.
        tf.raw_ops.ResourceApplyGradientDescent(
            var=variable.handle, alpha=decay, delta=tf.convert_to_tensor(variable)
        )

    @property
    def iterations(self):
        """The number of updates made: a variable. Micro-steps do not count."""
        return self._iterations

    # Building.

    def add_variable(self, shape, initializer="zeros", dtype=None, **kwargs):
        """Add a variable, as Keras does, in float32 for half precision."""
        dtype = "float32" if keras.backend.standardize_dtype(dtype) in _HALF else dtype
        return super().add_variable(shape, initializer, dtype, **kwargs)

    def build(self, variables):
        """Create the slots for a list of variables."""
        if self.built:
            return
        variables = list(variables)
        # Before anything is created, so that a misspelled pattern leaves no half-built optimizer.
        self._decays = decayed(variables, self.exclude_from_decay)
        super().build(variables)
        self._slots, self._masters, self._reached_rows = [], [], []
        if self.gradient_accumulation_steps:
            self._accumulated_steps = self.add_variable((), dtype="int64", name="accumulated_steps")
        for variable in variables:
            overwritten = self._overwrite_variable_with_gradient(variable)
            if self.gradient_accumulation_steps:
                self._reached_rows.append(self._add_row_variable(variable, "reached_rows", "bool"))
            master = None
            if not overwritten and keras.backend.standardize_dtype(variable.dtype) in _HALF:
                master = self.add_variable_from_reference(variable, "float32")
            self._masters.append(master)
            self._slots.append([] if overwritten else self._create_slots(variable))

    def _add_row_variable(self, variable, name, dtype):
        """Add a variable with one number for each row of another; a scalar has one row."""
        reference = variable.value if isinstance(variable, keras.Variable) else variable
        with self._distribution_strategy.extended.colocate_vars_with(reference):
            return self.add_variable(
                (*variable.shape, 1)[:1],
                dtype=dtype,
                name=f"{path_of(variable).replace('/', '_')}_{name}",
            )

    # The way of a gradient.

    # In a user's tf.function AutoGraph would rewrite this and all below, to no use.
    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        """Make one step, or one micro-step, with a gradient for each variable.

        Args:
            grads: list of tensors, `tf.IndexedSlices` or None, as from `tape.gradient`.
            trainable_variables: list of the variables, in the same order; may be left out once
                the optimizer is built. The first list builds it.
        """
        grads = list(grads)
        if not grads:
            return
        grads, variables = self._pair(grads, trainable_variables)
        with keras.name_scope(self.name, caller=self):
            grads = gradient_tools.sum_over_replicas(grads)
            grads, variables = overwrite(grads, variables)
            if self.loss_scale_factor is None:
                self._take(deduplicated(grads), variables)
                return
            grads = deduplicated([unscaled(g, self.loss_scale_factor) for g in grads])
            tf.cond(all_finite(grads), lambda: self._take(grads, variables), lambda: None)

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

    def _update(self, gradients, variables, reached=None):
        """Clip, decay, apply the rule, average, count."""
        bounds = self.clipvalue, self.clipnorm, self.global_clipnorm
        gradients = clipped(gradients, *bounds)
        rate = tf.cast(tf.convert_to_tensor(self.learning_rate), tf.float64)
        step = tf.cast(local(self._iterations), tf.float64) + 1
        self._start(variables, rate, step)
        coefficients = {
            dtype: [tf.cast(c, dtype) for c in self._coefficients(rate, step, dtype)]
            for dtype in {self._target(variable).dtype for variable in variables}
        }
        for gradient, variable, is_reached in zip(
            gradients, variables, reached or [None] * len(variables), strict=True
        ):
            update = functools.partial(
                self._update_variable, gradient, variable, rate, coefficients
            )
            if is_reached is None:
                update()
            else:
                tf.cond(is_reached, update, lambda: None)
        if self.use_ema:
            self._update_averages()
        local(self._iterations).assign_add(1)

    def _target(self, variable):
        """Return the `tf.Variable` that the rule updates: the variable, or its float32 copy."""
        master = self._masters[self._get_variable_index(variable)]
        return local(variable if master is None else master)

    def _update_variable(self, gradient, variable, rate, coefficients):
        index = self._get_variable_index(variable)
        own, target = local(variable), self._target(variable)
        if own is not target:
            # A weight that was set from outside since the last update is taken over.
            same = tf.cast(target, own.dtype) == own
            target.assign(tf.where(same, target, tf.cast(own, target.dtype)))
        gradient = tf.cast(gradient, target.dtype)
        if isinstance(gradient, tf.IndexedSlices) and not self._by_rows(variable):
            gradient = tf.math.unsorted_segment_sum(
                gradient.values, gradient.indices, target.shape[0]
            )
        decay = None
        if self.weight_decay and self._decays[index]:
            decay = tf.cast(rate * self.weight_decay, target.dtype)
            decay = self._decay(target, gradient, decay)
        slots = [local(slot) for slot in self._slots[index]]
        self._rule(target, gradient, slots, coefficients[target.dtype], decay)
        if own is not target:
            own.assign(tf.cast(target, own.dtype))
        if variable.constraint is not None:
            own.assign(variable.constraint(own))

    def _update_averages(self):
        """Move the averages of `use_ema` towards the weights."""
        pairs = [
            (local(average), local(variable))
            for average, variable in zip(
                self._model_variables_moving_average, self._trainable_variables, strict=True
            )
            if average is not None
        ]
        iterations = local(self._iterations)
        move_averages(pairs, iterations, self.ema_momentum, self.ema_overwrite_frequency)

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        """Put the averages, in float32 for half precision, in the variables' place."""
        for variable, average in zip(
            self._trainable_variables, self._model_variables_moving_average, strict=True
        ):
            if average is not None:
                variable.assign(tf.cast(tf.convert_to_tensor(average), variable.dtype))
