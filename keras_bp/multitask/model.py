"""A model of several tasks, whose step combines the tasks' gradients."""

import functools
from collections.abc import Callable
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from keras_bp._keras import (
    compiled_by_xla,
    functional_structures,
    in_compiled_losses,
    mask_of,
    serializable,
    set_mask,
)
from keras_bp.gradients import map_values
from keras_bp.multitask.combiner import Combiner, gradients_of_tasks
from keras_bp.multitask.loss_weightings import LossWeighting


@serializable
class MultiTaskModel(keras.Model):
    """A functional model with an output for each task, trained by a combiner of gradients.

    `compile(loss={...})`, `fit`, `evaluate`, `save`, jit and `tf.distribute.MirroredStrategy` work
    as those of `keras.Model`. The train step makes one pass forward, and for each output y_t one
    back: with the loss L = sum_t L_t(y_t), the gradient of task t is

        g_t = (dy_t / dW)^T dL/dy_t

    Loss weights, sample weights and masks are thus in the tasks' gradients as they are in the loss.
    The combiner joins those of the variables that two or more tasks share; each head gets its own
    task's gradient. Penalties (regularizers, `add_loss`) belong to no task: their gradient is added
    to the combined one.

    A task whose gradient is not finite is left out of the step; `logs["left_out"]` counts how often
    that has happened since the model was created, and `left_out()` says for which tasks. Inside a
    `LossScaleOptimizer` the whole step is skipped instead, since only that lowers the scale.

    `listeners` is a list of functions that the step calls, as it is traced, with the tasks'
    gradients and their combination: `listener(variables, task_gradients, combined)`, where
    `variables` are the trainable ones; `task_gradients` holds a list for each task with its
    gradient of each variable, or None where it does not depend on it (of this replica's batch, a
    loss scale still in it); and `combined` is the `CombinedGradients` of `Combiner.combine_tasks`,
    such as each variable's Gram matrix, over all replicas. A listener may add operations to the
    step; it is called again only when the step is retraced (`make_train_function(force=True)`).
    Keras does not track the list, and it is not saved; `append` to it.

    `MultiTaskModel.from_config(model.get_config())` creates a copy; `keras.models.clone_model` does
    not pass on `combiner`.

    Args:
        inputs: as for `keras.Model`.
        outputs: as for `keras.Model`, two or more: one for each task.
        name: string, the model's name. Defaults to an automatic one.
        combiner: a `Combiner`, such as `PCGrad()`, created in the strategy's scope like the model.
            The state of a random order and learned weights are among the model's `variables`, like
            the state of a `Dropout`.

    Raises:
        TypeError: if `combiner` is not a `Combiner`.
        ValueError: if there is only one output, or no output has a loss.

    Example:
    ```python
    inputs = keras.Input((64,))
    trunk = keras_bp.layers.Dense(128, "relu")(inputs)
    digit = keras_bp.layers.Dense(10, name="digit")(trunk)
    even = keras_bp.layers.Dense(1, name="even")(trunk)
    model = keras_bp.multitask.MultiTaskModel(
        inputs, {"digit": digit, "even": even}, combiner=keras_bp.multitask.PCGrad()
    )
    model.compile(
        keras_bp.optimizers.Adam(1e-3),
        loss={
            "digit": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "even": keras.losses.BinaryCrossentropy(from_logits=True),
        },
    )
    model.fit(x, {"digit": y, "even": y % 2 == 0}, epochs=5)
    ```
    """

    # By the names of these arguments Keras recognizes a functional model, which it can save and
    # create again.
    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        combiner: Combiner | None = None,
        **kwargs: Any,
    ) -> None:
        if combiner is None:
            combiner = kwargs.pop("combine", None)  # the name that it had first
        if not isinstance(combiner, Combiner):
            raise TypeError(
                "`combiner` must be a keras_bp.multitask.Combiner, such as PCGrad(). "
                f"Received: combiner={combiner!r}"
                + " (`clone_model` passes none on: use `from_config`)"
                * (combiner is None)
            )
        if len(keras.tree.flatten(outputs)) < 2:
            raise ValueError(
                "`outputs` must be two or more, one per task. "
                f"Received: {len(keras.tree.flatten(outputs))} output"
            )
        super().__init__(inputs, outputs, name=name, **kwargs)
        self.combiner = combiner
        combiner.build(len(self.outputs))
        # Keras and TensorFlow track them here: they are in `.keras` files and in checkpoints.
        self._combine_seed = getattr(combiner, "seed_generator", None)
        for number, variable in enumerate(combiner.variables):
            setattr(self, f"_combine_variable_{number}", variable)
        # Past the `__setattr__` of Keras and TensorFlow, which would track the list's items.
        self.listeners: list[Callable[..., None]]
        object.__setattr__(self, "listeners", [])
        # Not a metric: those are reset by `evaluate`, and summed over the replicas.
        self._left_out = tf.Variable(
            tf.zeros(len(self.outputs), tf.int64),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def left_out(self) -> dict[str, int]:
        """Return how often each task was left out, as a dictionary by the outputs' names."""
        return dict(zip(self.output_names, self._left_out.numpy().tolist(), strict=True))

    def train_step(self, data: Any) -> dict[str, Any]:
        """Keras's hook: one step on a batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape(persistent=True) as tape:
            # Copies, as one task's output may be computed from another's.
            y_pred = keras.tree.map_structure(_copied, self(x, training=True))
            outputs = keras.tree.flatten(y_pred)
            # A tape of its own: the other one would go back through the trunk needlessly.
            with tf.GradientTape(watch_accessed_variables=False) as tape_of_loss:
                tape_of_loss.watch([output for output in outputs if output.dtype.is_floating])
                loss, losses = self._loss_of_tasks(x, y, y_pred, sample_weight)
                scaled = self.optimizer.scale_loss(loss)
            penalty = self._scaled_penalty()
        self._track_loss(loss, x)
        variables = self.trainable_variables
        upstream = _upstream(tape_of_loss, scaled, outputs)
        if losses is not None:
            losses = _complete(losses, upstream)
        may_skip = hasattr(self.optimizer, "inner_optimizer")
        learned = [tf.convert_to_tensor(variable) for variable in self.combiner.variables]
        parts = tape, outputs, upstream, variables, losses
        overwritten = any(map(_is_overwritten, variables))
        one_pass = self.combiner.makes_one_pass(len(outputs)) and not overwritten
        if self.listeners and one_pass:  # heard beside the training, of which no bit changes
            self._combine_apart(*parts)
            for variable, value in zip(self.combiner.variables, learned, strict=True):
                variable.assign(value)
        if (self.listeners or overwritten) and not one_pass:
            gradients, present = self._combine_apart(*parts)
        else:
            gradients, present = self.combiner.from_tape(
                *parts, rows_may_differ=not compiled_by_xla()
            )
        if penalty is not None:
            own = tape.gradient(penalty, variables)
            gradients = [_sum(a, b) for a, b in zip(gradients, own, strict=True)]
        self._left_out.assign_add(tf.cast(~present, tf.int64))
        if may_skip:
            everywhere = tf.reduce_all(present)
            gradients = [_or_nan(gradient, everywhere) for gradient in gradients]
            for variable, before in zip(self.combiner.variables, learned, strict=True):
                variable.assign(tf.where(everywhere, variable, before))
        self.optimizer.apply(gradients, variables)
        logs = self.compute_metrics(x, y, y_pred, sample_weight)
        return {**logs, "left_out": tf.reduce_sum(self._left_out)}

    def get_config(self) -> dict[str, Any]:
        """Return the config of the functional model, and the combiner."""
        # Keras 3.13 and 3.14 write the graph of `keras.Model` itself only.
        plain = keras.Model(*functional_structures(self), name=self.name)
        combiner = keras.saving.serialize_keras_object(self.combiner)
        return {**plain.get_config(), "trainable": self.trainable, "combiner": combiner}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        """Create the model from what `get_config` returned."""
        rest = dict(config)
        saved = rest.pop("combine" if "combine" in rest else "combiner")  # the name it had first
        combiner = keras.saving.deserialize_keras_object(saved, custom_objects)
        graph = ("name", "trainable", "layers", "input_layers", "output_layers")
        plain = keras.Model.from_config({key: rest.pop(key) for key in graph}, custom_objects)
        inputs, outputs = functional_structures(plain)
        kept = {"name": plain.name, "trainable": plain.trainable, "combiner": combiner}
        return cls(inputs, outputs, **kept, **rest)

    def _combine_apart(self, tape, outputs, upstream, variables, losses):
        """Combine gradients of which each task's is needed too."""
        task_gradients = gradients_of_tasks(tape, outputs, upstream, variables)
        overwritten = _take_overwritten(task_gradients, variables)
        combined = self.combiner.combine_tasks(task_gradients, losses)
        for listener in self.listeners:
            listener(variables, task_gradients, combined)
        gradients = [
            value if gradient is None else gradient
            for gradient, value in zip(combined.gradients, overwritten, strict=True)
        ]
        return gradients, combined.present

    def _loss_of_tasks(self, x, y, y_pred, sample_weight):
        """Return the loss, and the list of the tasks' losses where the combiner needs them."""
        arguments = (x, y, y_pred, sample_weight)
        if not isinstance(self.combiner, LossWeighting) or self._compile_loss is None:
            return self.compute_loss(*arguments, training=True), None
        if not self._compile_loss.built:
            # `fit` has built it; otherwise the first call does, which counts in its metrics.
            self._compile_loss(y, y_pred, sample_weight)
            for metric in self._compile_loss.metrics:
                metric.reset_state()
        outputs = keras.tree.flatten(y_pred)
        losses = [None] * len(outputs)
        with in_compiled_losses(self._compile_loss, lambda entry: _noted(entry, outputs, losses)):
            return self.compute_loss(*arguments, training=True), losses

    def _scaled_penalty(self):
        if not self.losses:
            return None
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        penalty = sum(tf.reduce_sum(loss) for loss in self.losses) / replicas
        return self.optimizer.scale_loss(penalty)

    def _track_loss(self, loss, x):
        # Keras's own step shows the loss of the whole batch here; there is no public way.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        batch_size = tf.shape(keras.tree.flatten(x)[0])[0]
        self._loss_tracker.update_state(loss * replicas, sample_weight=batch_size)


def _copied(output):
    copy = tf.identity(output)
    if (mask := mask_of(output)) is not None:
        set_mask(copy, mask)
    return copy


def _noted(entry, outputs, losses):
    """Return a loss that adds its value, weighted, to that of the output in `losses`."""

    def loss(y_true, y_pred, sample_weight=None):
        value = entry.loss(y_true, y_pred, sample_weight)
        weight = 1.0 if entry.loss_weights is None else entry.loss_weights
        for number, output in enumerate(outputs):
            if output is y_pred:  # which may have several losses
                own = tf.cast(value, tf.float32) * weight
                losses[number] = own if losses[number] is None else losses[number] + own
        return value

    return loss


def _upstream(tape, loss, outputs):
    """Return the gradient with respect to each output, None for one that has no loss."""
    gradients = tape.gradient(loss, outputs)
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            "`loss` must be given in `compile` for at least one of the outputs. "
            "Received: outputs that the loss does not depend on"
        )
    return gradients


def _complete(losses, upstream):
    """Return the losses, 0 for an output without one; raise an error if one was not recorded."""
    for number, (loss, gradient) in enumerate(zip(losses, upstream, strict=True)):
        if loss is None and gradient is not None:
            raise ValueError(
                "`compute_loss` must hand the outputs, unchanged, to the losses of `compile`, so "
                "that `combiner` knows each task's. "
                f"Received: no loss for output {number}"
            )
    return [tf.zeros(()) if loss is None else loss for loss in losses]


def _is_overwritten(variable):
    return getattr(variable, "overwrite_with_gradient", False)


def _take_overwritten(task_gradients, variables):
    """Remove and return float8 scales: a variable's next value, in place of a gradient."""
    values = [None] * len(variables)
    for i, variable in enumerate(variables):
        if _is_overwritten(variable):
            scales = [task[i] for task in task_gradients if task[i] is not None]
            # The largest scale or history of magnitudes, which is valid for all tasks.
            values[i] = functools.reduce(tf.maximum, scales) if scales else None
            for task in task_gradients:
                task[i] = None
    return values


def _sum(a, b):
    if a is None or b is None:
        return b if a is None else a
    return tf.convert_to_tensor(a) + tf.convert_to_tensor(b)


def _or_nan(gradient, finite):
    return map_values(
        lambda values: tf.where(finite, values, tf.constant(np.nan, values.dtype)), gradient
    )
