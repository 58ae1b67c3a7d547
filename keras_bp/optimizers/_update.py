"""An update: clip, decay, apply the rule, average, count."""

import functools

import keras
import tensorflow as tf

from keras_bp.optimizers._averages import move_averages
from keras_bp.optimizers._decay_exclusion import decayed, path_of
from keras_bp.optimizers._descend import descend
from keras_bp.optimizers._inputs import clipped
from keras_bp.optimizers._learning_rate import SettableLearningRate
from keras_bp.optimizers._replicas import local

_HALF = ("float16", "bfloat16")


class Update(SettableLearningRate):
    """What an update does with gradients that are complete, and the slots it needs.

    A rule names its slots in `slot_names` and overrides `_rule`, and what else it needs to of the
    first section.
    """

    slot_names = ()
    """Names of the variables that a rule keeps for each weight."""

    # What a rule overrides.

    def _check_variables(self, variables):
        """Raise if the rule cannot be built on these variables."""

    def _create_slots(self, variable):
        """Return the slots of one variable, in the order in which they are saved."""
        return [self.add_variable_from_reference(variable, name) for name in self.slot_names]

    def _start(self, learning_rate, step):
        """Do what is to be done once before an update, whatever the number of variables.

        Args:
            learning_rate: scalar float64 tensor.
            step: scalar float64 tensor, the number of this update, from 1.
        """

    def _survey(self, gradients, variables, reached, learning_rate, step):
        """Look at all gradients together, before any variable moves.

        Args:
            gradients: list of tensors and `tf.IndexedSlices`, clipped.
            variables: list of their variables.
            reached: list with a scalar bool tensor for each, whether the update has a gradient of
                it, or `None` where it surely has; or `None` for all.
            learning_rate: scalar float64 tensor.
            step: scalar float64 tensor, the number of this update, from 1.

        Returns:
            The gradients that the update goes on with.
        """
        return gradients

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

    def _skip(self, variable):
        """Do what an update owes a variable that has no gradient in it."""

    def _by_rows(self, variable):
        """Tell whether a sparse gradient makes the rule touch the gradient's rows alone."""
        return False

    def _decay(self, variable, gradient, decay):
        """Apply the decay before the rule; return what is left of it for the rule to do."""
        # w -= decay w, not w *= 1 - decay: that factor has few digits of the decay left.
        descend(variable, decay, tf.convert_to_tensor(variable))

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
        # Before anything is created: a refusal leaves no half-built optimizer.
        self._check_variables(variables)
        self._decays = decayed(variables, self.exclude_from_decay, self._exact_exclusions)
        super().build(variables)
        slots, self._masters, self._reached_rows = [], [], []
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
            slots.append([] if overwritten else self._create_slots(variable))
        # As a function: Keras would take what a list holds for the optimizer's own variables.
        self._slots_of = slots.__getitem__

    def _add_row_variable(self, variable, name, dtype):
        """Add a variable with one number for each row of another; a scalar has one row."""
        reference = variable.value if isinstance(variable, keras.Variable) else variable
        with self._distribution_strategy.extended.colocate_vars_with(reference):
            return self.add_variable(
                (*variable.shape, 1)[:1],
                dtype=dtype,
                name=f"{path_of(variable).replace('/', '_')}_{name}",
            )

    def _update(self, gradients, variables, reached=None):
        """Clip, decay, apply the rule, average, count."""
        bounds = self.clipvalue, self.clipnorm, self.global_clipnorm
        gradients = clipped(gradients, *bounds)
        rate = tf.cast(tf.convert_to_tensor(self.learning_rate), tf.float64)
        step = tf.cast(local(self._iterations), tf.float64) + 1
        self._start(rate, step)
        gradients = self._survey(gradients, variables, reached, rate, step)
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
                tf.cond(is_reached, update, functools.partial(self._skip, variable))
        updated = {self._get_variable_index(variable) for variable in variables}
        for index, variable in enumerate(self._trainable_variables):
            if index not in updated:
                self._skip(variable)
        if self.use_ema:
            self._update_averages()
        local(self._iterations).assign_add(1)

    def _target(self, variable):
        """Return the `tf.Variable` that the rule updates: the variable, or its float32 copy."""
        master = self._masters[self._get_variable_index(variable)]
        return local(variable if master is None else master)

    def _up_to_date_target(self, variable):
        """Return the target; a float32 copy takes over what was set from outside since."""
        own, target = local(variable), self._target(variable)
        if own is not target:
            same = tf.cast(target, own.dtype) == own
            target.assign(tf.where(same, target, tf.cast(own, target.dtype)))
        return target

    def _complete(self, gradient, variable):
        """Return a gradient as the rule takes it: in its dtype, dense unless it goes by rows."""
        target = self._target(variable)
        gradient = tf.cast(gradient, target.dtype)
        if isinstance(gradient, tf.IndexedSlices) and not self._by_rows(variable):
            return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, target.shape[0])
        return gradient

    def _update_variable(self, gradient, variable, rate, coefficients):
        index = self._get_variable_index(variable)
        own, target = local(variable), self._up_to_date_target(variable)
        gradient = self._complete(gradient, variable)
        decay = None
        if self.weight_decay and self._decays[index]:
            decay = tf.cast(rate * self.weight_decay, target.dtype)
            decay = self._decay(target, gradient, decay)
        slots = [local(slot) for slot in self._slots_of(index)]
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
