"""The base of every optimizer, and the arguments that all of them take."""

from keras_bp._arguments import check_integer, check_number
from keras_bp.optimizers._decay_exclusion import check_patterns, exactly
from keras_bp.optimizers._intake import Intake


class Optimizer(Intake):
    """The base of every optimizer: the way of a gradient up to the rule.

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
    4. the mean over `gradient_accumulation_steps` micro-steps: all that follows happens once an
       update;
    5. clipping;
    6. weight decay, `w -= learning_rate * weight_decay * w`;
    7. the rule; then the variable's constraint, and the average of `use_ema`.

    `iterations`, schedules and averages count updates, not micro-steps. Micro-steps that are left
    over when training ends are applied as a mean of fewer: `fit` does so by itself, a loop of
    one's own calls `flush()`. A sparse gradient costs a micro-step what its rows cost.

    Variables in float16 or bfloat16 are updated through a copy in float32, as all slots are in
    float32 then: otherwise small updates would round to nothing, and squares of gradients to 0.

    All arguments but the learning rate are given by keyword. The factor on a schedule, below, is
    part of the saved state, not of the configuration.

    A rule derives from this class, names its slots, and overrides `_coefficients` and `_rule`.

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
        ema_momentum: number in [0, 1], the average's decay an update. Defaults to 0.99.
        ema_overwrite_frequency: integer >= 1, after how many updates the average takes the
            weights' place, again and again, or `None` for at the end only.
        loss_scale_factor: number > 0 by which the loss is multiplied, or `None`.
        gradient_accumulation_steps: integer >= 2, micro-steps an update, or `None` for 1.
        exclude_from_decay: which variables do not decay: `"bias_and_normalization"`, or a regular
            expression that is searched in the variables' paths (`"block_1/"`, `"embeddings$"`), or
            a list of these. It is saved with the optimizer. Leave its start open: the paths of a
            `Sequential` model's variables lack the model's name once it is loaded from a file.
            Defaults to `None`: all decay.
        name: string, or `None` for one made from the class's name.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range; by `build`, if an expression matches nothing; by
            `apply`, if a gradient has another shape than its variable.

    Example:
        >>> class SignDescent(keras_bp.optimizers.Optimizer):
        ...     def _rule(self, variable, gradient, slots, coefficients, decay):
        ...         variable.assign_sub(coefficients[0] * tf.sign(gradient))
        >>> w = tf.Variable([1.0, 2.0])
        >>> SignDescent(0.1, clipvalue=1.0).apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy()
        array([0.9, 2.1], dtype=float32)
    """

    def __init__(
        self,
        learning_rate,
        *,
        weight_decay=None,
        clipnorm=None,
        clipvalue=None,
        global_clipnorm=None,
        use_ema=False,
        ema_momentum=0.99,
        ema_overwrite_frequency=None,
        loss_scale_factor=None,
        gradient_accumulation_steps=None,
        exclude_from_decay=None,
        name=None,
        **kwargs,
    ):
        if weight_decay is not None:
            check_number("weight_decay", weight_decay, 0.0)
        for bound, value in (
            ("clipnorm", clipnorm),
            ("clipvalue", clipvalue),
            ("global_clipnorm", global_clipnorm),
            ("loss_scale_factor", loss_scale_factor),
        ):
            if value is not None:
                check_number(bound, value, 0.0, low_open=True)
        check_number("ema_momentum", ema_momentum, 0.0, 1.0)
        if ema_overwrite_frequency is not None:
            check_integer("ema_overwrite_frequency", ema_overwrite_frequency, 1)
        if gradient_accumulation_steps is not None:
            check_integer("gradient_accumulation_steps", gradient_accumulation_steps, 2)
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )
        self.exclude_from_decay = check_patterns(exclude_from_decay)
        self._exact_exclusions = []

    def flush(self):
        """Apply the micro-steps that are left over, as an update with their mean gradient.

        It does nothing where none are left, or without accumulation. Call it outside of
        `tf.function`, at the end of a loop of one's own; `fit` calls it by itself.
        """
        if not self.built or not self.gradient_accumulation_steps:
            return
        if int(self._accumulated_steps.numpy()) > 0:
            self._distribution_strategy.run(self._update_from_sums, args=({},))

    def finalize_variable_values(self, var_list):
        """Keras's hook at the end of `fit`: flush, and put the averages in the weights' place."""
        self.flush()
        super().finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Set `exclude_from_decay`, as Keras's method does: variables, or patterns of paths."""
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay` must be called before the optimizer is built."
            )
        self._exact_exclusions = [exactly(variable) for variable in var_list or []]
        self.exclude_from_decay = check_patterns(self._exact_exclusions + list(var_names or []))

    def get_config(self):
        """Return the constructor's arguments, for `from_config`."""
        # A plain list: Keras tracks the lists of an optimizer, and its own cannot be pickled.
        patterns = list(self.exclude_from_decay) or None
        return {**super().get_config(), "exclude_from_decay": patterns}
