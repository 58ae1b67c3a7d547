"""In which layers the gradients of several tasks conflict, in TensorBoard and as numbers."""

import contextlib
import warnings
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_integer, check_path
from keras_bp._paths import variable_paths
from keras_bp._types import Path
from keras_bp.callbacks._charts import conflict_image
from keras_bp.multitask import MultiTaskModel
from keras_bp.recording import LayerSelection, RecordingCallback, StepRecorder

_ALL = "global"


class GradientConflict(RecordingCallback):
    """Writes how the tasks' gradients compare in each layer (cosine, size), at every update step.

    It watches a plain `fit` of a `keras_bp.multitask.MultiTaskModel`. For the gradients g_s and g_t
    of two tasks, over the trainable variables of a layer that two or more tasks share,

        cosine = g_s . g_t / (|g_s| |g_t|)
        magnitude similarity = 2 |g_s| |g_t| / (|g_s|^2 + |g_t|^2)

    Two tasks conflict in a step where the cosine is below 0. These are the gradients that the
    combiner receives: before it changes them, after loss weights, without penalties, and over the
    whole batch with replicas. Their products are formed in float64 inside the compiled step, and
    the results are written from Python about once per second. The weights are
    the same, bit for bit, with and without the callback.

    Scalars against the number of update steps made (1 after the first), every `every` steps, for
    each layer and each pair of tasks that share it; tasks are named as the model's outputs, in
    their order (that of `model.output_names`):

    - `gradient_cosine/<layer path>/<task>-<task>`, in [-1, 1].
    - `gradient_magnitude_similarity/<layer path>/<task>-<task>`, in (0, 1].

    and at each epoch's end:

    - `conflicting_steps/<layer path>`: the share of the epoch's steps (of all, whatever `every` is)
      in which any two of the tasks conflict in this layer.
    - an image, `gradient_conflict`: layers (rows) against pairs of tasks (columns), and as colour
      the cosine's mean over the epoch.

    Each of them also exists for all shared layers together, under the path `global`.

    Where one of two tasks is left out of a step (its gradient is not finite), or its gradient is 0
    in the layer, they have no cosine: nothing is written, and the step does not count for them.

    Paths of layers, update steps and how they are counted are those of `GradientMonitor`. With
    `gradient_accumulation_steps` a point stands for the gradients of all micro-batches of an
    update, concatenated; what an earlier `fit` left over is not in it. A task that is left out
    of one micro-batch counts as left out of the update.

    Args:
        log_dir: string or `os.PathLike`, the directory of the event file, which lies directly in
            it; made if it does not exist. Defaults to `"tb_logs"`. It may be that of a
            `GradientMonitor` of the same `fit`; an earlier run in it stays by itself, as there.
        every: integer >= 1, update steps between two points of the scalars. Defaults to 1.
        layers: list of paths of the layers to write, or `None` for all. A path includes
            the layers inside it. `global` counts all shared layers nevertheless.

    Raises:
        TypeError: if an argument is of another kind; and by `fit`, if the model is not a
            `MultiTaskModel`.
        ValueError: if one is out of its range; and by `fit`, before the first update, if no event
            file can be created in `log_dir`, if no layer is shared, if `layers` names one that
            does not exist or no shared layer, or if the optimizers inside a composite
            accumulate the gradients of different numbers of steps.

    It works with jit and eagerly, with `steps_per_execution` (each step is written), and under
    `tf.distribute.MirroredStrategy`. A write that fails later gives one RuntimeWarning, and the
    training continues. The next `fit` with the same callback continues the file, and `table` unless
    tasks or shared layers have changed. `train_on_batch` is not recorded.

    Example:
        >>> inputs = keras.Input((4,))
        >>> trunk = keras.layers.Dense(8, "relu", name="trunk")(inputs)
        >>> outputs = {name: keras.layers.Dense(1, name=name)(trunk) for name in ("down", "up")}
        >>> combine = keras_bp.multitask.PCGrad()
        >>> model = keras_bp.multitask.MultiTaskModel(inputs, outputs, combiner=combine)
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).normal(size=(64, 4))
        >>> conflict = keras_bp.callbacks.GradientConflict("tb_logs/conflict")
        >>> y = {"down": -x[:, :1], "up": x[:, :1]}
        >>> _ = model.fit(x, y, verbose=0, callbacks=[conflict])
        >>> [(row["layer"], row["tasks"], row["steps"]) for row in conflict.table()]
        [('trunk', ('down', 'up'), 2), ('global', ('down', 'up'), 2)]

    References:
        Yu et al., 2020, "Gradient surgery for multi-task learning", definitions 1 and 2; Shi et
        al., 2023, "Recon: reducing conflicting gradients from the root for multi-task learning",
        for the share of conflicting steps in each layer.
    """

    def __init__(
        self, log_dir: Path = "tb_logs", every: int = 1, layers: Sequence[str] | None = None
    ) -> None:
        check_path("log_dir", log_dir)
        check_integer("every", every, 1)
        super().__init__(log_dir=log_dir)
        self.every = every
        self.layers = layers
        self._selection = LayerSelection(layers)
        self._names = None
        self._training, self._epoch = _Tally(), _Tally()

    def table(self) -> list[dict]:
        """Return what was measured since the first `fit`, for each layer and pair of tasks.

        Returns:
            A list of dictionaries, layers in the model's order and `"global"` last, with

            - `"layer"`: string, the layer's path,
            - `"tasks"`: tuple of the two tasks' names,
            - `"cosine"`: float, the mean cosine,
            - `"conflicting"`: float, the share of the steps whose cosine is below 0,
            - `"magnitude_similarity"`: float, its mean,
            - `"steps"`: integer, the number of steps in which there was a cosine; where there was
              none, the three before are NaN.

            It is empty before the first update. All update steps count, whatever `every` is.
        """
        if self._names is None:
            return []
        cosines, magnitudes, conflicting = self._training.means()
        return [
            {
                "layer": self._names[0][layer],
                "tasks": self._names[1][pair],
                "cosine": float(cosines[layer, pair]),
                "conflicting": float(conflicting[layer, pair]),
                "magnitude_similarity": float(magnitudes[layer, pair]),
                "steps": int(self._training.steps[layer, pair]),
            }
            for layer, pair in zip(*np.nonzero(self._sharing), strict=True)
        ]

    # Keras's hooks, and those of RecordingCallback.

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: write the summary of the epoch's steps."""
        super().on_epoch_end(epoch, logs)
        if np.any(self._epoch.steps):
            self._write_epoch()
        self._epoch = _Tally()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Keras's hook: leave model, combiner and optimizer as they were."""
        if self._recording and self._recorder.sees_update and self._recorder.shared is None:
            warnings.warn(
                f"GradientConflict saw no tasks: the train step of model {self.model.name!r} "
                "calls none of `model.listeners`",
                RuntimeWarning,
                stacklevel=2,
            )
        super().on_train_end(logs)

    def _new_recorder(self):
        return _ConflictRecorder(self.model, self.layers)

    def _begin(self):
        if not isinstance(self.model, MultiTaskModel):
            raise TypeError(
                "GradientConflict needs a keras_bp.multitask.MultiTaskModel, whose step has a "
                f"gradient for each task. Received: model {self.model.name!r} of type "
                f"{type(self.model).__name__}"
            )
        self._selection.check(self.model)
        self._epoch = _Tally()

    def _take(self, updates):
        gramians = self._recorder.gramians(updates)
        if gramians is None:
            return
        self._name(gramians.shape[-1])
        measured = _similarities(gramians, self._recorder.pairs)
        self._training.add(*measured)
        self._epoch.add(*measured)
        steps = range(self._last_step - len(gramians) + 1, self._last_step + 1)
        for step, cosines, magnitudes in zip(steps, *measured, strict=True):
            if step % self.every == 0:
                self._write_step(cosines[self._sharing], magnitudes[self._sharing], step)

    def _name(self, tasks):
        """Find the names of layers and pairs; reset the tallies if they changed."""
        s, t = np.triu_indices(tasks, 1)
        names = _unique(self.model.output_names)
        pairs = [(names[a], names[b]) for a, b in zip(s, t, strict=True)]
        sharing = self._recorder.pairs[:, s, t]
        now = self._recorder.shared, pairs, sharing.tolist()
        if self._names == now:
            return
        self._names, self._sharing = now, sharing
        self._training, self._epoch = _Tally(), _Tally()
        self._labels = _unique([f"{a}-{b}" for a, b in pairs])
        places = [f"{now[0][layer]}/{self._labels[pair]}" for layer, pair in np.argwhere(sharing)]
        kinds = "gradient_cosine", "gradient_magnitude_similarity"
        self._tags = [tuple(f"{kind}/{place}" for kind in kinds) for place in places]
        self._all_tags = tuple(tag for pair in self._tags for tag in pair)

    def _write_step(self, cosines, magnitudes, step):
        values = np.column_stack([cosines, magnitudes])
        if np.isfinite(values).all():
            self._file.write_scalars(self._all_tags, values.ravel(), step)
            return
        for tags, pair in zip(self._tags, values, strict=True):
            if np.isfinite(pair).all():
                self._file.write_scalars(tags, pair, step)

    def _write_epoch(self):
        layers = self._names[0]
        shares = dict(zip(layers, self._epoch.conflicting_steps(), strict=True))
        shares = {f"conflicting_steps/{k}": v for k, v in shares.items() if np.isfinite(v)}
        self._file.write_scalars(tuple(shares), shares.values(), self._last_step)
        picture = conflict_image(self._epoch.means()[0], layers, self._labels)
        self._file.write_image("gradient_conflict", *picture, self._last_step)
        self._file.flush()


def _unique(names):
    """Return the names, with a number where one occurs twice, as of a layer with two outputs."""
    return [
        name if names.count(name) == 1 else f"{name}_{names[:place].count(name)}"
        for place, name in enumerate(names)
    ]


class _ConflictRecorder(StepRecorder):
    """Also records the Gram matrix of each shared layer's task gradients.

    It is one of the model's `listeners` while a step is traced. For each update step the layers'
    Gram matrices

        M_st = sum over the layer's shared variables of g_s . g_t

    are in the step's row; NaN where one of the two tasks was left out of the step. Under
    accumulation they are summed over the update's micro-batches: the products of the concatenated
    gradients.

    Args:
        model: a compiled `MultiTaskModel`.
        layers: list of the paths of the layers to record, as for `LayerSelection`, or None for
            all. All of them count for "global".

    Attributes:
        shared: list of the paths of the layers that tasks share, in the model's order, and at its
            end "global", for all together; None until a step was traced.
        pairs: bool array (len(shared), tasks, tasks), which tasks share the layer.

    Raises:
        ValueError: in the first step, if tasks share no layer, or no selected one.
    """

    def __init__(self, model, layers):
        self._layers = layers
        self.shared = self.pairs = None
        super().__init__(model)

    @contextlib.contextmanager
    def watching(self):
        """Return the context in which the step is to be traced."""
        self._model.listeners.append(self._hear)
        try:
            with super().watching():
                yield
        finally:
            self._model.listeners.remove(self._hear)

    def _hear(self, variables, task_gradients, combined):
        given = np.array([[g is not None for g in task] for task in task_gradients])
        self._replica.combined = variables, combined, given

    def gramians(self, updates):
        """Return the Gramians in `Updates`.

        Returns:
            A float64 array of shape (updates, len(shared), tasks, tasks), or None where the train
            step combined nothing.
        """
        if self.shared is None:
            return None
        tasks = len(self._model.outputs)
        return updates.measured.reshape(len(updates.losses), -1, tasks, tasks)[:, self._columns]

    def _find(self):
        # For every layer: which ones are shared is known only when the step is traced.
        paths, selection = variable_paths(self._model), LayerSelection(self._layers)
        variables = self._model.trainable_variables
        layers = dict.fromkeys(paths[id(variable)][0] for variable in variables)
        self._recorded = [layer for layer in layers if layer in selection]
        self._measured = (len(self._recorded) + 1) * len(self._model.outputs) ** 2
        super()._find()

    def _measures(self, factor):
        seen = vars(self._replica).pop("combined", None)
        if seen is None:
            return [tf.zeros(self._measured, tf.float64)]
        # Micro-batches may carry different loss scales.
        row = self._row(*seen) / factor**2
        return [tf.reshape(row, [-1])]

    def _row(self, variables, combined, given):
        """Return the Gramians of the layers and of all, of shape (layers + 1, tasks, tasks)."""
        paths = variable_paths(self._model)
        gramians, pairs = {}, {}
        for variable, gramian, owners in zip(variables, combined.gramians, given.T, strict=True):
            if gramian is not None:
                layer = paths[id(variable)][0]
                gramians.setdefault(layer, []).append(gramian)
                pairs[layer] = pairs.get(layer, False) | np.outer(owners, owners)
        if self.shared is None:
            self._choose(pairs)
        missing = tf.fill(combined.gramian.shape, tf.constant(np.nan, tf.float64))
        row = [tf.add_n(gramians.get(layer, [missing])) for layer in self._recorded]
        present = combined.present[:, None] & combined.present[None, :]
        return tf.where(present, tf.stack([*row, combined.gramian]), np.nan)

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


class _Tally:
    """Sums of the measurements of some steps.

    Attributes:
        steps: int array (layers, pairs), the number of steps in which there was a cosine.
    """

    def __init__(self):
        self.steps = self._sums = self._layers = 0

    def add(self, cosines, magnitudes):
        """Add cosines and magnitude similarities, arrays of shape (steps, layers, pairs)."""
        known, conflicts = np.isfinite(cosines), cosines < 0
        self.steps = self.steps + known.sum(axis=0)
        self._sums = self._sums + np.array(
            [np.nansum(cosines, axis=0), np.nansum(magnitudes, axis=0), conflicts.sum(axis=0)]
        )
        steps = [conflicts.any(axis=2).sum(axis=0), known.any(axis=2).sum(axis=0)]
        self._layers = self._layers + np.array(steps)

    def means(self):
        """Return mean cosine, mean magnitude similarity and share of conflicting steps.

        Three arrays (layers, pairs), NaN where there was no step.
        """
        with np.errstate(invalid="ignore"):
            return self._sums / self.steps

    def conflicting_steps(self):
        """Return for each layer the share of steps in which any two tasks conflict."""
        with np.errstate(invalid="ignore"):
            return self._layers[0] / self._layers[1]


def _similarities(gramians, pairs):
    """Return the cosines and the magnitude similarities of each pair of tasks.

        cosine = g_s . g_t / (|g_s| |g_t|),    similarity = 2 |g_s| |g_t| / (|g_s|^2 + |g_t|^2)

    Args:
        gramians: array of shape (steps, layers, tasks, tasks).
        pairs: bool array of shape (layers, tasks, tasks), which tasks share the layer.

    Returns:
        Two arrays of shape (steps, layers, tasks (tasks - 1) / 2), the pairs in the order (0, 1),
        (0, 2), ...; NaN where the two share nothing, or a gradient is 0 or not finite.
    """
    s, t = np.triu_indices(gramians.shape[-1], 1)
    squares = np.diagonal(gramians, axis1=-2, axis2=-1)
    a, b = squares[..., s], squares[..., t]
    known = pairs[..., s, t] & (a > 0) & (b > 0) & np.isfinite(a) & np.isfinite(b)
    a, b = np.where(known, a, np.nan), np.where(known, b, np.nan)
    norms = np.sqrt(a) * np.sqrt(b)
    # Two sums may round to a cosine beyond 1.
    return np.clip(gramians[..., s, t] / norms, -1.0, 1.0), 2.0 * norms / (a + b)
