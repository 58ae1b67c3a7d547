"""Which layers several tasks pull in opposite directions, in TensorBoard and as numbers."""

import warnings

import numpy as np

from keras_bp._arguments import check_integer
from keras_bp.callbacks._conflict_image import conflict_image
from keras_bp.callbacks._conflict_recorder import ConflictRecorder
from keras_bp.callbacks._conflict_tally import ConflictTally, similarities
from keras_bp.callbacks._event_file import EventFile
from keras_bp.callbacks._layer_selection import LayerSelection
from keras_bp.callbacks._log_dir import check_log_dir
from keras_bp.callbacks._recording_callback import RecordingCallback
from keras_bp.multitask import MultiTaskModel


class GradientConflict(RecordingCallback):
    """Writes how the tasks' gradients lie to one another in each layer, step by step.

    It watches a plain `fit` of a `keras_bp.multitask.MultiTaskModel`. For the gradients g_s and g_t
    of two tasks, over the trainable variables of a layer that two or more tasks share,

        cosine = g_s . g_t / (|g_s| |g_t|)
        magnitude similarity = 2 |g_s| |g_t| / (|g_s|^2 + |g_t|^2)

    Two tasks conflict in a step where the cosine is below 0. These are the gradients that the
    combiner is given: before any of it is taken away, after loss weights, without penalties, and
    over the whole batch where there are replicas. Their products are formed in float64 inside the
    compiled step, and what they give is written from Python about once a second. The weights are
    the same, bit for bit, with and without the callback.

    Scalars against the number of update steps made (1 after the first), every `every` steps, for
    each layer and each pair of tasks that share it; tasks are named as the model's outputs, in
    their order (that of `model.output_names`):

    - `gradient_cosine/<layer path>/<task>-<task>`, in [-1, 1].
    - `gradient_magnitude_similarity/<layer path>/<task>-<task>`, in (0, 1].

    and at each epoch's end:

    - `conflicting_steps/<layer path>`: the share of the epoch's steps, all of them and not every
      `every`-th, in which any two of the tasks conflict in this layer.
    - an image, `gradient_conflict`: layers (rows) against pairs of tasks (columns), and as colour
      the cosine's mean over the epoch.

    Each of them is there also for all shared layers together, under the path `global`.

    Where one of two tasks is left out of a step (its gradient is not finite), or its gradient is 0
    in the layer, they have no cosine: nothing is written, and the step is not counted for them.

    Paths of layers, update steps and how they are counted are those of `GradientMonitor`. With
    `gradient_accumulation_steps` a point stands for the gradients of all micro-batches of an
    update, laid end to end; what an earlier `fit` left over is not in it. A task that is left out
    of one micro-batch counts as left out of the update.

    Args:
        log_dir: string or `os.PathLike`, the directory of the event file, which lies directly in
            it; made if it does not exist. Defaults to `"tb_logs"`. It may be that of a
            `GradientMonitor` of the same run.
        every: integer >= 1, update steps between two points of the scalars. Defaults to 1.
        layers: list of paths of the layers to write, or `None` for all. A path stands for the
            layers inside it too. `global` counts all shared layers all the same.

    Raises:
        TypeError: if an argument is of another kind; and by `fit`, if the model is no
            `MultiTaskModel`.
        ValueError: if one is out of its range; and by `fit`, before the first update, if no event
            file can be created in `log_dir`, if no layer is shared, if `layers` names one that
            does not exist or none that is shared, or if the optimizers inside a composite
            accumulate the gradients of different numbers of steps.

    It works with jit and eagerly, with `steps_per_execution` (each step is written), and under
    `tf.distribute.MirroredStrategy`. A write that fails later gives one RuntimeWarning, and the
    training goes on. The next `fit` with the same callback writes on, and counts on in `table`
    unless tasks or shared layers are others. `train_on_batch` is not recorded.

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

    def __init__(self, log_dir="tb_logs", every=1, layers=None):
        check_log_dir(log_dir)
        check_integer("every", every, 1)
        super().__init__()
        self.log_dir = log_dir
        self.every = every
        self.layers = layers
        self._selection = LayerSelection(layers)
        self._file = None
        self._names = None
        self._training, self._epoch = ConflictTally(), ConflictTally()

    def table(self):
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

    def on_epoch_end(self, epoch, logs=None):
        """Keras's hook: write what the epoch's steps were like."""
        super().on_epoch_end(epoch, logs)
        if np.any(self._epoch.steps):
            self._write_epoch()
        self._epoch = ConflictTally()

    def on_train_end(self, logs=None):
        """Keras's hook: leave model, combiner and optimizer as they were."""
        if self._recording and self._recorder.sees_update and self._recorder.shared is None:
            warnings.warn(
                f"GradientConflict saw no tasks: the train step of model {self.model.name!r} does "
                "not call `combine_tasks` of `model.combiner`",
                RuntimeWarning,
                stacklevel=2,
            )
        super().on_train_end(logs)

    def _new_recorder(self):
        return ConflictRecorder(self.model, self.layers)

    def _begin(self):
        if not isinstance(self.model, MultiTaskModel):
            raise TypeError(
                "GradientConflict needs a keras_bp.multitask.MultiTaskModel, whose step has a "
                f"gradient for each task. Received: model {self.model.name!r} of type "
                f"{type(self.model).__name__}"
            )
        self._selection.check(self.model)
        self._open()
        self._epoch = ConflictTally()

    def _end(self):
        if self._file is not None:
            self._file.close()
        self._file = None

    def _open(self):
        if self._file is None:
            self._file = EventFile(self.log_dir)

    def _take(self, updates):
        gramians = self._recorder.gramians(len(updates.losses))
        if gramians is None:
            return
        self._open()  # a fit inside this one has closed it
        self._name(gramians.shape[-1])
        measured = similarities(gramians, self._recorder.pairs)
        self._training.add(*measured)
        self._epoch.add(*measured)
        steps = range(self._last_step - len(gramians) + 1, self._last_step + 1)
        for step, cosines, magnitudes in zip(steps, *measured, strict=True):
            if step % self.every == 0:
                self._write_step(cosines[self._sharing], magnitudes[self._sharing], step)

    def _name(self, tasks):
        """Find the names of layers and pairs; what other ones have left is forgotten."""
        s, t = np.triu_indices(tasks, 1)
        names = _unique(self.model.output_names)
        pairs = [(names[a], names[b]) for a, b in zip(s, t, strict=True)]
        sharing = self._recorder.pairs[:, s, t]
        now = self._recorder.shared, pairs, sharing.tolist()
        if self._names == now:
            return
        self._names, self._sharing = now, sharing
        self._training, self._epoch = ConflictTally(), ConflictTally()
        self._labels = _unique([f"{a}-{b}" for a, b in pairs])
        places = [f"{now[0][layer]}/{self._labels[pair]}" for layer, pair in np.argwhere(sharing)]
        kinds = "gradient_cosine", "gradient_magnitude_similarity"
        self._tags = [tuple(f"{kind}/{place}" for kind in kinds) for place in places]
        self._all_tags = tuple(tag for both in self._tags for tag in both)

    def _write_step(self, cosines, magnitudes, step):
        values = np.column_stack([cosines, magnitudes])
        if np.isfinite(values).all():
            self._file.write_scalars(self._all_tags, values.ravel(), step)
            return
        for tags, both in zip(self._tags, values, strict=True):
            if np.isfinite(both).all():
                self._file.write_scalars(tags, both, step)

    def _write_epoch(self):
        layers = self._names[0]
        shares = dict(zip(layers, self._epoch.conflicting_steps(), strict=True))
        shares = {f"conflicting_steps/{k}": v for k, v in shares.items() if np.isfinite(v)}
        self._file.write_scalars(tuple(shares), shares.values(), self._last_step)
        picture = conflict_image(self._epoch.means()[0], layers, self._labels)
        self._file.write_image("gradient_conflict", *picture, self._last_step)
        self._file.flush()


def _unique(names):
    """Return the names, those numbered that are there twice, as of a layer with two outputs."""
    return [
        name if names.count(name) == 1 else f"{name}_{names[:place].count(name)}"
        for place, name in enumerate(names)
    ]
