"""Each update step's loss, learning rates and squared gradient norms, kept on the device."""

import contextlib
import threading

import keras
import numpy as np
import tensorflow as tf

from keras_bp.gradients import squared_norm, sum_over_replicas


class GradientRecorder:
    """Records update steps inside the traced (and perhaps XLA-compiled) train function.

    No summary can be written and no Python runs inside a compiled step, so each update step fills
    one row of a variable, which `new_rows` reads after the call. A row holds

        number, loss, a learning rate for each rule, a squared norm for each variable

    in float64, so that the numbers, 1 for the recorder's first update step, stay exact. An update
    step is one in which the optimizer's `iterations` advance: not a micro-step that only
    accumulates, and not a step that loss scaling skips because a gradient is not finite. Rows go
    round in a ring with one place for each step of a call; a step that is no update goes to an
    extra row that nobody reads.

    Args:
        model: a compiled `keras.Model`.

    Attributes:
        variables: the trainable variables, in the order of the row's norms, and
        rules: the optimizers that hold a rule, the model's or those inside a composite, in the
            order of the row's learning rates; both None until model and optimizer are built.
        updates_before: the number of update steps that the optimizer made before.
        sees_loss: whether the train step handed its loss to `optimizer.scale_loss`.

    Raises:
        ValueError: if the optimizers inside a composite accumulate over different numbers of
            micro-steps; where they are not built yet, in the first step.
    """

    def __init__(self, model):
        self._model = model
        self._optimizer = model.optimizer
        self.variables = None
        self.rules = None
        self.updates_before = 0
        self.sees_loss = False
        self._rows_read = 0
        # The replicas of a MirroredStrategy are traced in a thread each.
        self._replica = threading.local()
        if model.built and self._optimizer.built:
            self._build()
            self.updates_before = int(self._counts()[0])

    def _build(self):
        """Lay out the rows, as soon as the variables and the optimizers are all there."""
        self.rules = _rules(self._optimizer)
        cycles = {rule.gradient_accumulation_steps or 1 for rule in self.rules}
        if len(cycles) > 1:
            raise ValueError(
                "GradientMonitor needs optimizers that accumulate over the same number of "
                "micro-steps, since there is no common update step otherwise. Received: "
                f"gradient_accumulation_steps={sorted(cycles)} in {self._optimizer.name!r}"
            )
        (self._cycle,) = cycles
        self.variables = list(self._model.trainable_variables)
        width = 2 + len(self.rules) + len(self.variables)
        self._rows = self._variable((self._model.steps_per_execution + 1, width))
        # Sum and number of the micro-batches' losses since the last update; number of updates.
        self._totals = self._variable((3,))

    def _build_optimizer(self, variables):
        """Build the optimizer, under the names that its `apply` is about to give."""
        name, optimizer = self._optimizer.name, self._optimizer
        composite = hasattr(optimizer, "optimizers")
        scope = keras.name_scope(name, caller=optimizer)
        with contextlib.nullcontext() if composite else scope:
            optimizer.build(variables)
        optimizer.built = True

    def _variable(self, shape):
        # Each replica writes a copy of its own, all with the same values.
        with tf.init_scope(), self._model.distribute_strategy.scope():
            return tf.Variable(
                tf.zeros(shape, tf.float64),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

    def see_loss(self, loss, scale_loss):
        """Take the loss that the step is about to scale, and the factor of the scaling."""
        self._replica.loss = loss
        # Asking the optimizer for 1 scaled is right for every kind of loss scaling.
        self._replica.factor = tf.cast(scale_loss(tf.ones((), tf.float32)), tf.float64)

    @contextlib.contextmanager
    def see_update(self, gradients, variables):
        """Record the step whose gradients are applied inside the `with` block."""
        if self.variables is None:
            if not self._optimizer.built:
                self._build_optimizer(list(variables))
            self._build()
        loss, factor = self._take_loss()
        squares = self._squared_norms(gradients, variables, factor)
        rates = [tf.cast(rule.learning_rate, tf.float64) for rule in self.rules]
        updates_before, steps_before = self._counts()
        yield
        updates, steps = self._counts()

        updated = updates > updates_before
        # A micro-batch that loss scaling skipped is no part of the mean gradient.
        taken = updated | (steps != steps_before)
        loss_sum = self._totals[0] + tf.where(taken, loss, 0.0)
        losses = self._totals[1] + tf.cast(taken, tf.float64)
        number = self._totals[2] + tf.cast(updated, tf.float64)
        zero = tf.zeros((), tf.float64)
        self._totals.assign(tf.where(updated, [zero, zero, number], [loss_sum, losses, number]))

        row = tf.concat([[number, loss_sum / losses, *rates], squares], axis=0)
        ring = self._model.steps_per_execution
        place = tf.where(updated, tf.cast(number, tf.int64) % ring, ring)
        self._rows.assign(tf.tensor_scatter_nd_update(self._rows, [[place]], [row]))

    def _take_loss(self):
        """Return the batch's own loss and the factor that its gradients carry."""
        seen = vars(self._replica)
        self.sees_loss = "loss" in seen
        loss = tf.cast(seen.pop("loss", np.nan), tf.float64)
        factor = seen.pop("factor", tf.ones((), tf.float64))
        return sum_over_replicas([loss])[0], factor

    def _squared_norms(self, gradients, variables, factor):
        """Return the squared norm of each variable's true gradient, in one float64 vector."""
        gradients = dict(zip(map(id, variables), gradients, strict=True))
        gradients = [
            # The "gradient" of such a variable (a float8 scale) is its next value.
            None if getattr(v, "overwrite_with_gradient", False) else gradients.get(id(v))
            for v in self.variables
        ]
        gradients = sum_over_replicas([_own_product(gradient) for gradient in gradients])
        if self._cycle > 1:
            # Of use in the last micro-step only, but under a tf.cond XLA would compile the
            # optimizer's own branches otherwise, with another rounding.
            gradients = self._mean_gradients(gradients, factor)
            factor = tf.ones_like(factor)
        squares = [squared_norm(gradient) for gradient in gradients]
        return tf.stack([tf.cast(square, tf.float64) for square in squares]) / factor**2

    def _mean_gradients(self, gradients, factor):
        """Return the means over the micro-batches, as the optimizer is about to take them."""
        means = []
        for gradient, variable in zip(gradients, self.variables, strict=True):
            if gradient is not None:
                total = _accumulator(self.rules, variable)
                own = tf.convert_to_tensor(gradient)
                own = tf.cast(own, total.dtype) / tf.cast(factor, total.dtype)
                gradient = (own + total) / self._cycle
            means.append(gradient)
        return means

    def _counts(self):
        """Return the number of update steps, and one that moves with every (micro-)step taken."""
        # A rule without variables never advances, so the one that has advanced most counts.
        updates = [tf.cast(rule.iterations, tf.int64) for rule in self.rules]
        # Keras's optimizers count all micro-steps, this package's those since the last update.
        steps = [getattr(rule, "_accumulated_steps", rule._iterations) for rule in self.rules]
        steps = [tf.cast(step, tf.int64) for step in steps]
        return tf.reduce_max(tf.stack(updates)), tf.reduce_max(tf.stack(steps))

    def new_rows(self):
        """Return the rows of the update steps since the last call, oldest first.

        Returns:
            A float64 array of shape (update steps, row width).
        """
        if self.variables is None:
            return np.zeros((0, 0))
        strategy = self._model.distribute_strategy
        rows = strategy.experimental_local_results(self._rows)[0].numpy()[:-1]
        rows = rows[rows[:, 0] > self._rows_read]
        self._rows_read += len(rows)
        return rows[np.argsort(rows[:, 0])]


def _rules(optimizer):
    """List the optimizers that hold a rule, looking into wrappers and composites."""
    if hasattr(optimizer, "inner_optimizer"):
        return _rules(optimizer.inner_optimizer)
    if hasattr(optimizer, "optimizers"):
        return [rule for inner in optimizer.optimizers for rule in _rules(inner)]
    return [optimizer]


def _accumulator(rules, variable):
    """Find the variable in which the gradients since the last update are summed."""
    # Keras has no public way to it.
    rule = next(r for r in rules if r._var_key(variable) in r._trainable_variables_indices)
    return rule._accumulated_gradients[rule._get_variable_index(variable)]


def _own_product(tensor):
    """Return the tensor, computed anew where it is a product, so that it gains no reader.

    TensorFlow's graph optimizer reorders a product of products, a * b * rate, where nobody else
    reads a * b, and XLA fuses likewise. Another reader would thus change how the optimizer's step
    is rounded: for Keras's BatchNormalization, whose gamma has such a gradient, under SGD. The
    product in float64 is not merged with the one that the optimizer reads.
    """
    if tf.executing_eagerly() or not isinstance(tensor, tf.Tensor) or tensor.op.type != "Mul":
        return tensor
    a, b = (tf.cast(_own_product(factor), tf.float64) for factor in tensor.op.inputs)
    return a * b
