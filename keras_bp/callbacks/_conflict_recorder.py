"""Each update step's Gramians of the tasks' gradients, layer by layer, kept on the device."""

import contextlib

import numpy as np
import tensorflow as tf

from keras_bp._paths import variable_paths
from keras_bp._trial import replaced_attributes
from keras_bp.callbacks._layer_selection import LayerSelection
from keras_bp.callbacks._step_recorder import StepRecorder

_ALL = "global"


class ConflictRecorder(StepRecorder):
    """Records also what the tasks' gradients of each shared layer make with one another.

    It listens to `combine_tasks` of the model's combiner, through which a `MultiTaskModel` gets
    its one gradient from the tasks' own. For each update step the layers' Gramians

        M_st = sum over the layer's shared variables of g_s . g_t

    fill a place of a ring, as the rows of a `StepRecorder` do; NaN where one of the two tasks was
    left out of the step. Under accumulation they are summed over the update's micro-batches: the
    products of the gradients laid end to end.

    Args:
        model: a compiled `MultiTaskModel`.
        layers: list of the paths of the layers to record, as for `LayerSelection`, or None for
            all. All of them count for "global".

    Attributes:
        shared: list of the paths of the layers that tasks share, in the model's order, and at its
            end "global", for all together; None until a step was traced.
        pairs: bool array (len(shared), tasks, tasks), which tasks share the layer.

    Raises:
        ValueError: in the first step, if tasks share no layer, or none of those selected.
    """

    def __init__(self, model, layers):
        super().__init__(model)
        self._layers = layers
        self.shared = self.pairs = None
        self._gramians = self._sums = None

    @contextlib.contextmanager
    def watching(self):
        """Return the context in which the step is to be traced."""
        combine = self._model.combiner
        combine_tasks = combine.combine_tasks

        def watched_combine_tasks(task_gradients, losses=None):
            combined = combine_tasks(task_gradients, losses)
            given = np.array([[g is not None for g in task] for task in task_gradients])
            self._replica.combined = combined, given
            return combined

        with (
            replaced_attributes(combine, combine_tasks=watched_combine_tasks),
            super().watching(),
        ):
            yield

    @contextlib.contextmanager
    def see_update(self, gradients, variables):
        """Record the step whose gradients are applied inside the `with` block."""
        seen = vars(self._replica).pop("combined", None)
        # Read before the base takes it.
        factor = vars(self._replica).get("factor", tf.ones((), tf.float64))
        with super().see_update(gradients, variables):
            if seen is not None:
                # Micro-batches may carry different loss scales.
                row = self._row(variables, *seen) / factor**2
                before = self._totals[1], self._totals[2]
            yield
        if seen is not None:
            self._record(row, *before)

    def restart(self):
        """Record on, after steps that were not recorded perhaps."""
        super().restart()
        if self._sums is not None:
            self._sums.assign(tf.zeros_like(self._sums))

    def gramians(self, count):
        """Return the Gramians of the last `count` updates that `new_updates` has returned.

        Returns:
            A float64 array of shape (count, len(shared), tasks, tasks), or None where the train
            step combined nothing.
        """
        if self.shared is None:
            return None
        numbers = np.arange(self._rows_read - count + 1, self._rows_read + 1)
        return self._read(self._gramians)[numbers % self.places][:, self._columns]

    def _create_rows(self):
        # For every layer: which of them are shared is known only as the step is traced, where a
        # replica can create no variable.
        super()._create_rows()
        paths, selection = variable_paths(self._model), LayerSelection(self._layers)
        layers = dict.fromkeys(paths[id(variable)][0] for variable in self.variables)
        self._recorded = [layer for layer in layers if layer in selection]
        tasks = len(self._model.outputs)
        shape = len(self._recorded) + 1, tasks, tasks
        self._gramians = self._variable((self.places + 1, *shape))
        self._sums = self._variable(shape) if self._cycle > 1 else None

    def _row(self, variables, combined, given):
        """Return the Gramians of the layers and of all, of shape (layers + 1, tasks, tasks)."""
        paths = variable_paths(self._model)
        of_layers, pairs = {}, {}
        for variable, gramian, owners in zip(variables, combined.gramians, given.T, strict=True):
            if gramian is not None:
                layer = paths[id(variable)][0]
                of_layers.setdefault(layer, []).append(gramian)
                pairs[layer] = pairs.get(layer, False) | np.outer(owners, owners)
        if self.shared is None:
            self._choose(pairs)
        nothing = tf.fill(combined.gramian.shape, tf.constant(np.nan, tf.float64))
        row = [tf.add_n(of_layers.get(layer, [nothing])) for layer in self._recorded]
        there = combined.present[:, None] & combined.present[None, :]
        return tf.where(there, tf.stack([*row, combined.gramian]), np.nan)

    def _choose(self, pairs):
        """Find the recorded layers that tasks share."""
        if not pairs:
            raise ValueError(
                "GradientConflict needs a model in which two or more tasks share trainable "
                f"weights. Received: model {self._model.name!r}, in which none do"
            )
        chosen = [layer for layer in self._recorded if layer in pairs]
        if not chosen:
            raise ValueError(
                f"`layers` must name layers that two or more tasks share: {list(pairs)}. "
                f"Received: layers={self._layers!r}"
            )
        self.shared = [*chosen, _ALL]
        self._columns = [*map(self._recorded.index, chosen), -1]
        everywhere = np.any(list(pairs.values()), axis=0)
        self.pairs = np.array([*(pairs[layer] for layer in chosen), everywhere])

    def _record(self, row, losses_before, updates_before):
        losses, updates = self._totals[1], self._totals[2]
        updated = updates > updates_before
        if self._sums is not None:
            row += self._sums
            # A micro-batch that loss scaling skipped has no part in the update.
            taken = tf.where(losses > losses_before, row, self._sums)
            self._sums.assign(tf.where(updated, tf.zeros_like(row), taken))
        place = tf.where(updated, tf.cast(updates, tf.int64) % self.places, self.places)
        self._gramians.assign(tf.tensor_scatter_nd_update(self._gramians, [[place]], [row]))
