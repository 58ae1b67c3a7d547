"""The base of every optimizer: how a gradient gets from `apply` to the rule.

The class reads in the order of the steps in its docstring.
"""

import functools
import itertools
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_bp import gradients as gradient_tools
from keras_bp._arguments import as_call, check_integer, check_number
from keras_bp._keras import outside_of_traces
from keras_bp._paths import path_of
from keras_bp._types import LearningRate
from keras_bp.optimizers._averages import AveragedWeights
from keras_bp.optimizers._limits import LimitedUpdates
from keras_bp.optimizers._variables import (
    GradientSum,
    check_listed_once,
    check_pairs,
    deduplicated,
    in_full_precision,
    local,
    shrink,
    split_overwritten,
)

_HALF = ("float16", "bfloat16")


class Optimizer(LimitedUpdates, AveragedWeights):
    """The base of every optimizer: what happens to a gradient before the rule.

    A `keras.optimizers.Optimizer`, so that `compile`, `fit`, `apply`, `apply_gradients` and files
    work as usual. In `apply` the gradients pass, in this order,

    1. the sum over the replicas, so that each replica sees the gradient of the global batch;
    2. the division by `loss_scale_factor`; with one, a step with a gradient that is not finite is
       skipped whole: no variable, slot or sum changes, and the step is not counted. Inside a
       `keras.optimizers.LossScaleOptimizer` it is too, whichever replica's gradient it is (the
       scale is lowered where the first replica's is not finite). Over several workers take
       `loss_scale_factor`: each worker's LossScaleOptimizer decides for itself, and the others
       wait for its gradient;
    3. the sum of a sparse gradient's rows per id;
    4. the mean over `gradient_accumulation_steps` micro-steps: all that follows happens once per
       update;
    5. `skip_above_zscore` and `clip_above_zscore`, then clipping, also where the norm's square
       overflows, then `adaptive_clip`. In float32 an entry over 1.8e19 that is not clipped makes
       the averages of squares infinite that Adam and others keep, and its steps 0 from then on. In
       arrays of more than 32,768 entries, which Adam and the rules built on it update by a kernel
       of TensorFlow, it makes them NaN;
    6. weight decay, `w -= learning_rate * weight_decay * w`;
    7. the rule, whose move `update_clip` and `cautious` limit; then the variable's constraint,
       Lookahead, and the average of `use_ema` or `swa_start`.

    `iterations`, schedules and averages count updates, not micro-steps. Micro-steps that are left
    over when training ends are applied as a mean of fewer: `fit` does so by itself, a custom loop
    calls `flush()`. A sparse gradient costs a micro-step what its rows cost.

    Variables in float16 or bfloat16 are updated through a copy in float32, as all slots are in
    float32 then: otherwise small updates would round to nothing, and squares of gradients to 0.

    **Rates by layer.** Each variable's rate and decay is the optimizer's times a factor; all else
    is common: one schedule, one global norm, one count of updates.

        rate = learning_rate * multiplier * layer_decay^(levels above the variable's layer)
        decay = weight_decay * multiplier

    A level is a layer with a matrix, together with the normalization that follows it. A block, or a
    model in the model, is one level. The order is that of the variables; where this is not the
    order of depth, or too coarse, `layer_order` names it.

    At a factor of 0 a variable is frozen: neither it nor its slots change, and its gradient does
    not count in the norm. (A schedule-free rule still goes from its average to its training weights
    and back.) `describe` shows the result. The factors can be set anew between fits, by a new
    dictionary; so can `weight_decay` and the bounds. The next step uses them.

    Layers that are frozen by `trainable = False`, and a `compile` with the same optimizer, keep
    their slots. An optimizer that has not seen them before cannot train them later: build it, by
    `optimizer.build(model.trainable_variables)`, before they are frozen.

    All arguments but the learning rate are given by keyword. The factor on a schedule, below, is
    part of the saved state, not of the configuration.

    A rule derives from this class, names its slots and arguments, and overrides `_coefficients` and
    `_rule`.

    Args:
        learning_rate: number >= 0, a schedule, or a callable without arguments that returns the
            rate. It stays settable: on top of a schedule, setting a number scales the schedule
            (where the schedule is 0, only 0 can be set).
        weight_decay: number >= 0, lambda, or `None` for no decay.
        clipnorm: number > 0, the largest norm of each gradient, or `None`.
        clipvalue: number > 0, the largest size of each entry, or `None`.
        global_clipnorm: number > 0, the largest norm of all gradients together, or `None`. At
            most one of the three can be given.
        use_ema: whether to keep an exponential moving average of the weights, which takes their
            place at the end of `fit`. Defaults to `False`.
        ema_momentum: number in [0, 1], the average's decay per update. Defaults to 0.99.
        ema_overwrite_frequency: integer >= 1, after how many updates the average takes the
            weights' place, again and again, or `None` for at the end only.
        loss_scale_factor: number > 0 by which the loss is multiplied, or `None`.
        gradient_accumulation_steps: integer >= 2, micro-steps per update, or `None` for 1.
        exclude_from_decay: which variables do not decay: `"bias_and_normalization"`, or a regular
            expression that is searched in the variables' paths (`"block_1/"`, `"embeddings$"`), or
            a list of these. `describe` shows the paths. They are those of Keras's `variable.path`,
            with the names of blocks and of `Sequential` models, but not those of functional models
            in the model. They are saved: patterns hold in a loaded model, where Keras leaves out
            more names. Defaults to `None`: all decay.
        learning_rate_multipliers: dictionary, a preset or regular expression as above -> number
            >= 0, the factor on the rate of the variables in whose paths it is found:
            `{"embeddings": 0.1, "block_1/": 0.5}`. The longest match counts, of two as
            long the later one; without any the factor is 1.
        weight_decay_multipliers: the same for the decay.
        layer_decay: number in (0, 1], the factor on the rate from a layer to the one before it, or
            `None`. 0.65 to 0.9 are usual to fine-tune what is pre-trained.
        layer_order: list of patterns, of the first layer to the last, or a function of a path
            that returns the layer's place as an integer (registered with Keras, to be saved). What
            no pattern names counts as the last layer. Defaults to `None`: as above.
        cautious: whether an entry moves only where the update goes against its gradient. The others
            stay, and those that move are scaled up: of n entries u with the gradients g,
            u <- u (u g > 0) n / (1 + number of u g > 0), so that a scalar moves by half. Of a
            sparse gradient only its own rows move. Defaults to `False`.
        adaptive_clip: number > 0, the largest norm of a unit's gradient as a share of its weights'
            (a unit: a column of a kernel, a filter, a table's row), or `None`. Not of the output
            layer, the last one that has a matrix. 0.01 is usual.
        update_clip: number > 0, the largest root of the mean square of each variable's update as a
            multiple of its rate, or `None`. 1 is Adafactor's.
        clip_above_zscore: number > 0, or `None`. Where the norm of all gradients is z > this number
            of standard deviations above its mean over the last updates, it is clipped to
            mean + clip_above_zscore^2 / z * deviation: the larger it is, the more. The first 25
            updates only count. 2.5 is ZClip's. An outlier counts as what it is clipped to: norms
            that become larger for good stay clipped, and the mean follows them slowly.
        skip_above_zscore: number > 0, or `None`. An update whose norm is more than this number of
            standard deviations above the mean, or not finite, is skipped whole and not counted.
        swa_start: integer >= 1, the first update whose weights are averaged, all with equal share,
            to take their place at the end of `fit`, in place of `use_ema`; or `None`. Where batch
            normalization is used, pass some batches through the model with `training=True` then:
            its moving statistics are those of the training weights.
        lookahead_steps: integer >= 2, after how many updates the weights go back to the slow ones,
            which have come towards them; or `None`. Weights that are set from outside, by
            `load_weights` for instance, are drawn to the slow ones too: load the optimizer as well.
        lookahead_alpha: number in (0, 1], the slow weights' share of the way. Defaults to 0.5.
        name: string, or `None` for one made from the class's name.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range, or excludes another; by `build`, if an expression
            matches nothing; by `apply`, if a gradient has another shape than its variable; by both,
            if a variable is listed twice.

    Example:
        >>> class SignDescent(keras_bp.optimizers.Optimizer):
        ...     def _rule(self, variable, gradient, slots, coefficients, decay):
        ...         variable.assign_sub(coefficients[0] * tf.sign(gradient))
        >>> w = tf.Variable([1.0, 2.0])
        >>> SignDescent(0.1, clipvalue=1.0).apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy()
        array([0.9, 2.1], dtype=float32)

    References:
        Cautious: Liang et al., 2024, "Cautious optimizers: improving training with one line of
        code", algorithm 1. Adaptive clipping: Brock et al., 2021, "High-performance large-scale
        image recognition without normalization", equation 3. Update clipping: Shazeer and Stern,
        2018, "Adafactor: adaptive learning rates with sublinear memory cost", section 5. Outliers:
        Kumar et al., 2025, "ZClip: adaptive spike mitigation for LLM pre-training", algorithm 1.
        Averages from a step on: Izmailov et al., 2018, "Averaging weights leads to wider optima and
        better generalization". Lookahead: Zhang et al., 2019, "Lookahead optimizer: k steps
        forward, 1 step back", algorithm 1.
    """

    slot_names: tuple[str, ...] = ()
    """Names of the variables that a rule keeps for each weight."""

    argument_names: tuple[str, ...] = ()
    """Names of the arguments that a class adds to its base's, for `get_config`: attributes."""

    decays_in_rule: bool = False
    """Whether the rule decays the weights itself, instead of the base before it."""

    refused_options: tuple[str, ...] = ()
    """Names of the base's options that would make another algorithm of the rule."""

    def __init__(
        self,
        learning_rate: LearningRate,
        *,
        weight_decay: float | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        **kwargs: typing.Any,
    ) -> None:
        if weight_decay is not None:
            kwargs["weight_decay"] = check_number("weight_decay", weight_decay, 0.0)
        if loss_scale_factor is not None:
            factor = check_number("loss_scale_factor", loss_scale_factor, 0.0, low_open=True)
            kwargs["loss_scale_factor"] = factor
        if gradient_accumulation_steps is not None:
            steps = check_integer("gradient_accumulation_steps", gradient_accumulation_steps, 2)
            kwargs["gradient_accumulation_steps"] = steps
        super().__init__(learning_rate, name=name, **kwargs)
        self._early_weights: tuple | None = None

    @property
    def iterations(self) -> keras.Variable:
        """The number of updates made: a variable. Micro-steps do not count."""
        return self._iterations

    # What a rule overrides.

    def _check_variables(self, variables):
        """Raise an error if the rule cannot be built on these variables."""

    def _check_gradients(self, gradients, variables):
        """Raise if the rule cannot use these gradients."""

    def _create_slots(self, variable):
        """Return the slots of one variable, in the order in which they are saved."""
        return [self.add_variable_from_reference(variable, name) for name in self.slot_names]

    def _create_shared(self):
        """Create the variables that all weights share; they are saved after the slots."""

    def _start(self, learning_rate, step):
        """Prepare an update: what is needed once, whatever the number of variables.

        Args:
            learning_rate: scalar float64 tensor.
            step: scalar float64 tensor, the number of this update, from 1.
        """

    def _observe(self, gradients, variables, reached, learning_rate, step):
        """See all gradients together, before any variable moves.

        Args:
            gradients: list of tensors and `tf.IndexedSlices`, clipped.
            variables: list of their variables.
            reached: list with a scalar bool tensor for each, whether the update has a gradient for
                it, or `None` where it certainly has; or `None` for all.
            learning_rate: scalar float64 tensor.
            step: scalar float64 tensor, the number of this update, from 1.

        Returns:
            The gradients and the learning rate that the update continues with.
        """
        return gradients, learning_rate

    def _coefficients(self, learning_rate, step, dtype):
        """Return the rule's scalars, once per update and dtype, as a tuple of float64 tensors.

        Where rates differ from variable to variable, they are vectors that hold one for each: so
        what is computed from the rate must be so entry by entry.

        Args:
            learning_rate: float64 tensor, scalar or vector.
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
            decay: float, the variable's `weight_decay` with `decays_in_rule`, or `None` where it
                does not decay or the base has done it.
        """
        raise NotImplementedError(f"{type(self).__name__} must override `_rule`.")

    def _skip(self, variable):
        """Treat a variable that has no gradient in an update."""

    def _by_rows(self, variable):
        """Tell whether a sparse gradient makes the rule touch the gradient's rows alone."""
        return False

    def _rule_name(self, variable):
        """Return the name of the rule that updates a variable, for `describe`."""
        return type(self).__name__

    # Building.

    def add_variable(
        self,
        shape: tuple,
        initializer: typing.Any = "zeros",
        dtype: str | None = None,
        **kwargs: typing.Any,
    ) -> keras.Variable:
        """Add a variable, as Keras does, in float32 for half precision."""
        dtype = "float32" if keras.backend.standardize_dtype(dtype) in _HALF else dtype
        return super().add_variable(shape, initializer, dtype, **kwargs)

    def build(self, variables: list) -> None:
        """Create the slots for a list of variables."""
        variables = list(variables)
        if self.built or not variables:  # Keras's loader of .h5 files lists none, and then trains
            return
        # Before anything is created, so that an error leaves no half-built optimizer.
        check_listed_once(variables)
        self._check_variables(variables)
        self._find_factors(variables)
        self._create_variables(variables)

    @outside_of_traces()
    def _create_variables(self, variables):
        super().build(variables)
        slots, self._masters, self._reached_rows = [], [], []
        if self.gradient_accumulation_steps:
            self._accumulated_steps = self.add_variable((), dtype="int64", name="accumulated_steps")
        for variable in variables:
            overwritten = self._overwrite_variable_with_gradient(variable)
            if self.gradient_accumulation_steps:
                self._reached_rows.append(self._add_row_variable(variable, "reached_rows", "bool"))
            half = keras.backend.standardize_dtype(variable.dtype) in _HALF and not overwritten
            master = self.add_variable_from_reference(variable, "float32") if half else None
            self._masters.append(master)
            slots.append([] if overwritten else self._create_slots(variable))
        # As a function: Keras would track what a list holds as variables of the optimizer.
        self._slots_of = lambda index: [local(slot) for slot in slots[index]]
        self._create_shared()
        self._create_norm_statistics()
        self._create_slow_weights(variables)
        if self._early_weights is not None:
            self.set_weights(self._early_weights)

    def set_weights(self, weights: typing.Sequence) -> None:
        """Set the optimizer's variables, in their order; before `build`, as soon as it is built."""
        self._early_weights = None if self.built else tuple(np.asarray(w) for w in weights)
        if self.built:
            super().set_weights(weights)

    def _add_row_variable(self, variable, name, dtype):
        """Add a variable with one number for each row of another; a scalar has one row."""
        reference = variable.value if isinstance(variable, keras.Variable) else variable
        path = path_of(variable).replace("/", "_")
        with self._distribution_strategy.extended.colocate_vars_with(reference):
            return self.add_variable((*variable.shape, 1)[:1], dtype=dtype, name=f"{path}_{name}")

    # Steps 1 to 3: incoming gradients.

    # In a user's tf.function AutoGraph would needlessly rewrite this and all below.
    @tf.autograph.experimental.do_not_convert
    def apply(self, grads: list, trainable_variables: list | None = None) -> None:
        """Make one step, or one micro-step, with a gradient for each variable.

        Args:
            grads: list of tensors, `tf.IndexedSlices` or None, as from `tape.gradient`.
            trainable_variables: list of the variables, in the same order; may be left out once
                the optimizer is built. The first list builds it.
        """
        grads = [gradient_tools.as_gradient(gradient) for gradient in grads]
        if not grads:
            return
        if self._restore is not None:
            raise RuntimeError(
                "`apply` must not be called while the averages are in the variables' place: call "
                "`use_training_weights` first"
            )
        with keras.name_scope(self.name, caller=self):
            grads, variables = self._match(grads, trainable_variables)
            grads = gradient_tools.sum_over_replicas([in_full_precision(g) for g in grads])
            grads, variables, values, overwritten = split_overwritten(grads, variables)
            if self.loss_scale_factor is not None:
                grads = [gradient_tools.unscale(g, self.loss_scale_factor) for g in grads]
            grads = [deduplicated(gradient) for gradient in grads]

            def accept():
                self._overwrite(values, overwritten)
                self._accumulate(grads, variables)

            if self._skips_nonfinite_steps():
                tf.cond(gradient_tools.all_finite(grads), accept, lambda: None)
            else:
                accept()

    def _match(self, grads, variables):
        """Return gradients and variables of equal number, without those that have no gradient."""
        if variables is None:
            if not self.built:
                raise ValueError(
                    "`trainable_variables` must be given with the first gradients, unless "
                    "`build` was called. Received: trainable_variables=None"
                )
            variables = self._trainable_variables
        variables = list(variables)
        check_pairs(grads, variables)
        self.build(variables)
        self._check_variables_are_known(variables)
        grads, variables = self._filter_empty_gradients(grads, variables)
        self._check_gradients(grads, variables)
        return grads, variables

    def __setattr__(self, name: str, value: typing.Any) -> None:
        # keras.optimizers.LossScaleOptimizer sets this to None in the optimizer that it wraps,
        # which learns of it in no other way. A property's setter would not be called: TensorFlow
        # ignores an assignment that does not change the attribute.
        if name == "loss_scale_factor":
            self._has_scale_around = value is None and hasattr(self, name)
        if name in self.refused_options and value:
            raise ValueError(
                f"`{name}` must be left at its default in {type(self).__name__}, of which it "
                f"would make another algorithm. Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    def _skips_nonfinite_steps(self):
        """Tell whether a step with a gradient that is not finite is to be skipped.

        It is with a `loss_scale_factor`. A LossScaleOptimizer around it looks at the gradient
        before the sum over the replicas, and at the first replica's only: the others' are checked
        here.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return self.loss_scale_factor is not None or (self._has_scale_around and replicas > 1)

    def _overwrite(self, values, variables):
        """Overwrite variables; of several micro-steps' values the largest counts."""
        for value, variable in zip(values, variables, strict=True):
            own = local(variable)
            value = tf.cast(value, own.dtype)
            if self.gradient_accumulation_steps:
                largest = local(self._accumulated_gradients[self._get_variable_index(variable)])
                first = local(self._accumulated_steps) == 0
                value = tf.where(first, value, tf.maximum(value, tf.cast(largest, own.dtype)))
                largest.assign(tf.cast(value, largest.dtype))
            own.assign(value)

    # Step 4: the mean over micro-steps.

    def _accumulate(self, gradients, variables):
        """Update at once, or add a step's gradients to the sums until these are full."""
        if not self.gradient_accumulation_steps:
            self._update(gradients, variables)
            return
        sparse = {}
        for gradient, variable in zip(gradients, variables, strict=True):
            self._sum_of(variable).add(gradient)
            is_sparse = isinstance(gradient, tf.IndexedSlices)
            sparse[self._get_variable_index(variable)] = is_sparse
        steps = local(self._accumulated_steps)
        steps.assign_add(1)
        full = steps >= self.gradient_accumulation_steps
        tf.cond(full, lambda: self._update_from_sums(sparse), lambda: None)

    def _sum_of(self, variable):
        i = self._get_variable_index(variable)
        return GradientSum(local(self._accumulated_gradients[i]), local(self._reached_rows[i]))

    def _update_from_sums(self, sparse):
        """Update with the mean gradients and empty the sums.

        Args:
            sparse: dictionary, for the variables that have a gradient in this step, whether it is
                sparse. Others are updated if they had one in an earlier micro-step.
        """
        steps = local(self._accumulated_steps)
        gradients, variables, reached = [], [], []
        for index, variable in enumerate(self._trainable_variables):
            if self._overwrite_variable_with_gradient(variable):
                continue
            total = self._sum_of(variable)
            reached.append(None if index in sparse else total.is_reached())
            # A scalar has no rows to gather, even if the rule works by rows.
            by_rows = sparse.get(index, len(variable.shape) > 0)
            # A cautious update must know which rows have a gradient.
            by_rows = by_rows and (self._by_rows(variable) or self.cautious)
            gradients.append(total.mean(steps, by_rows))
            variables.append(variable)
        steps.assign(0)
        self._update(gradients, variables, reached)

    def flush(self) -> None:
        """Apply the micro-steps that are left over, as an update with their mean gradient.

        Without any left, or without accumulation, it does nothing. Call it outside of
        `tf.function`, at the end of a custom loop; `fit` calls it by itself.
        """
        if not self.built or not self.gradient_accumulation_steps:
            return
        if int(self._accumulated_steps.numpy()) > 0:
            self._distribution_strategy.run(self._update_from_sums, args=({},))

    # Steps 5 to 7: an update.

    def _update(self, gradients, variables, reached=None):
        """Clip, decay, apply the rule, average, count."""
        # As if they had no gradient.
        moving = [not self.is_frozen(variable) for variable in variables]
        reached = reached and list(itertools.compress(reached, moving))
        gradients, variables = (
            list(itertools.compress(each, moving)) for each in (gradients, variables)
        )
        self._without_outliers(
            gradients,
            lambda usual: self._update_from(self._clipped(usual, variables), variables, reached),
        )

    def _update_from(self, gradients, variables, reached):
        """Update with clipped gradients."""
        rate = tf.cast(tf.convert_to_tensor(self.learning_rate), tf.float64)
        step = tf.cast(local(self._iterations), tf.float64) + 1
        self._begin_slow_weights(step)
        self._start(rate, step)
        gradients, rate = self._observe(gradients, variables, reached, rate, step)
        scalars = self._scalars_by_factor(
            rate, step, {self._target(variable).dtype for variable in variables}
        )
        for gradient, variable, is_reached in zip(
            gradients, variables, reached or [None] * len(variables), strict=True
        ):
            update = functools.partial(self._update_variable, gradient, variable, scalars)
            if is_reached is None:
                update()
            else:
                tf.cond(is_reached, update, functools.partial(self._skip, variable))
        updated = {self._get_variable_index(variable) for variable in variables}
        for index, variable in enumerate(self._trainable_variables):
            if index not in updated:
                self._skip(variable)
        self._look_ahead(step)
        self._update_averages()
        local(self._iterations).assign_add(1)

    def _target(self, variable):
        """Return the `tf.Variable` that the rule updates: the variable, or its float32 copy."""
        master = self._masters[self._get_variable_index(variable)]
        return local(variable if master is None else master)

    def _up_to_date_target(self, variable):
        """Return the target, with a float32 copy updated if its variable was set from outside."""
        own, target = local(variable), self._target(variable)
        if own is not target:
            same = tf.cast(target, own.dtype) == own
            target.assign(tf.where(same, target, tf.cast(own, target.dtype)))
        return target

    def _complete(self, gradient, variable):
        """Return a gradient as the rule expects it: in its dtype, dense unless it works by rows."""
        target = self._target(variable)
        gradient = tf.cast(gradient, target.dtype)
        if isinstance(gradient, tf.IndexedSlices) and not self._by_rows(variable):
            return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, target.shape[0])
        return gradient

    def _update_variable(self, gradient, variable, scalars):
        index = self._get_variable_index(variable)
        own, target = local(variable), self._up_to_date_target(variable)
        rate, coefficients = scalars[target.dtype, self._rate_factors[index]]
        given, gradient = gradient, self._complete(gradient, variable)
        decay = self._decay_of(variable)
        if decay and not self.decays_in_rule:
            shrink(target, gradient, tf.cast(rate * decay, target.dtype))
            decay = None
        rule = functools.partial(
            self._rule, target, gradient, self._slots_of(index), coefficients, decay
        )
        self._limited(rule, target, given, self._by_rows(variable), rate)
        if own is not target:
            own.assign(tf.cast(target, own.dtype))
        if variable.constraint is not None:
            own.assign(variable.constraint(own))

    # The end of `fit`, and files.

    def finalize_variable_values(self, var_list: list) -> None:
        """Keras's hook at the end of `fit`: flush, and put the averages in the weights' place."""
        self._put_back()
        self.flush()
        super().finalize_variable_values(var_list)

    def __repr__(self) -> str:
        rate = {"learning_rate": self._learning_rate}
        return as_call(type(self), {**vars(self), **rate}, changed=True)

    def get_config(self) -> dict[str, typing.Any]:
        """Return the constructor's arguments, for `from_config`."""
        names = [n for c in type(self).__mro__[::-1] for n in vars(c).get("argument_names", ())]
        own = {name: getattr(self, name) for name in names}
        return {**own, **super().get_config()}
