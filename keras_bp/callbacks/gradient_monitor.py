"""What the gradients of every update step do, in TensorBoard."""

import collections
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_flag, check_integer, check_path
from keras_bp._keras import flat_layers, is_built
from keras_bp._paths import layer_paths, slots_of, variable_paths
from keras_bp._types import Path, Sink
from keras_bp.callbacks._alignment import AlignmentRecorder
from keras_bp.callbacks._charts import GradientFlowImage, layout
from keras_bp.feedback import (
    DirectFeedback,
    FeedbackConv2D,
    FeedbackDense,
)
from keras_bp.recording import (
    STATISTICS,
    CurvatureMeter,
    LayerSelection,
    RecordingCallback,
    StepRecorder,
    can_die,
    can_saturate,
    check_sinks,
    clips,
    count_sample,
    count_variable,
    make_directory,
    record_custom_loop,
    rows,
)
from keras_bp_runs import Run, read_run

_WINDOW = 100


class GradientMonitor(RecordingCallback):
    """Writes what the gradients do in a plain `model.fit` to TensorBoard, at every update step.

    Keras hands a callback no gradients. While the train function runs, this callback listens to the
    optimizer's `scale_loss` and `apply`, through which every optimizer of Keras receives the loss
    and the gradients; no `train_step` is overridden and no model subclassed. The norms are computed
    inside the compiled step and written from Python about once per second. The weights are the
    same, bit for bit, with and without the monitor. (With `activations`, up to rounding: TensorFlow
    does not fuse a layer with an activation layer after it if the value between them is read.)

    Scalars against the number of update steps made (1 after the first), every `every` steps:

    - `gradient_norm/<layer path>`: L2 norm over the layer's trainable variables, in units of loss
      per unit of weight. `gradient_norm/global`: L2 norm over all trainable variables.
    - `learning_rate`: the rate that this update used, also if a schedule or a rule such as `DoG`
      sets it. A composite (`keras.optimizers.MultiOptimizer`) has one for each
      optimizer in it, `learning_rate/0`, `learning_rate/1`, ..., in the order of its `optimizers`.
      Where rates differ by layer, also `learning_rate/x0.5`, ...: the rate of the variables whose
      factor is 0.5, which `keras_bp.optimizers.describe` lists.
    - `loss/batch`: the loss of this batch alone, penalties included; of a custom `train_step` that
      calls no `scale_loss`, what `compute_loss` returned.
    - where the optimizer clips, `gradient_norm_applied/global`: the norm of all gradients after
      clipping, and `clip_rate`: the share of the last 100 updates whose norm was clipped.
    - with `activations`, `dead_units/<layer path>`: the share of the layer's units that are 0 in
      more than 99 % of the batch, and for sigmoid and tanh `saturated_units/<layer path>`: the
      share of the outputs within 0.01 of a bound.

    and every `updates_every` steps, measured between calls of the step:

    - `update_ratio/<layer path>`: norm of the update over norm of the weights before it, healthy
      near 1e-3. With `steps_per_execution` the update is that of a whole call, over its steps.
    - `weight_norm/<layer path>`: L2 norm over the layer's trainable variables after the update;
      of a `DeferredEmbedding` as stored, with the rows that are behind.
    - in a model with layers of feedback alignment, `alignment_angle/<layer path>`, the degrees
      between the gradient that the layer is trained with and the true one, over its trainable
      variables, and `sign_concordance/<layer path>`, the share of equal signs, as
      `keras_bp.feedback.alignment` has them; of the last micro-batch where steps accumulate.

    Where asked for, every so many update steps, measured beside the step (`keras_bp.curvature`):

    - `gradient_noise_scale`, in examples: tr(Sigma) / |G|^2, the batch size at which noise and
      signal of the gradient are equal; with `..._low` and `..._high`, a 95 % interval. From the
      halves of a batch (of each micro-batch, on each replica), averaged over some 40 measurements.
    - `critical_learning_rate`: that at which the loss of the update's batch, along the update that
      the optimizer made, rises above its value before; and `critical_sharpness`, 2 / that rate. Of
      a composite in terms of its first optimizer's rate; infinity and 0 if no rate raises the loss.
    - `hessian/largest_eigenvalue`: of the Hessian of the loss on the batch, the largest in
      magnitude, with its sign; power iteration goes on from the last measurement.

    With `steps_per_execution` they are of the last step's batch, at the weights before the call,
    along its mean update; where gradients accumulate, the last two of the last micro-batch.

    At each epoch's end, against the same number of update steps: `epoch/<metric>`, training and
    validation metrics; histograms `weights/<variable path>` of each weight, trainable or not; and
    an image, `gradient_flow`, of the whole training: layers against steps, log norm as colour, in
    one range for all images of a run; of more than 30 layers the first, the last and the ten of the
    most extreme norms are named.
    With `histograms_every`, histograms also every so many steps, with `gradients/<variable path>`
    and, with `activations`, `activations/<layer path>`: of 4,096 entries each where there are more,
    as shares of all; and with the optimizer's state after the update,
    `optimizer/<variable path>/<slot>`: `.../momentum` and `.../velocity` of Adam, its m and v, and
    whatever else is kept for each weight, the averages of `use_ema` too. Entries that are not
    finite are left out.

    In TensorBoard the page Custom Scalars shows all layers of a kind in one chart, more than 15 in
    charts of up to 10 neighbours, by block, below the others. The button below a chart makes its
    axis logarithmic, which the layout of the page cannot.

    Gradients are those of the true loss, as the optimizer receives them: before clipping, without
    the factor of a loss scale, the rows of a sparse gradient summed per id. A variable without a
    gradient counts as 0.

    Update steps count, not batches. With `gradient_accumulation_steps` a point stands for the mean
    of the micro-batches' gradients and losses (what an earlier `fit` left over counts in the
    gradient only). A step that loss scaling skips is no update and writes nothing. The count
    continues from the optimizer's `iterations` at the first step, or from the monitor's last step
    if that is larger: over epochs, over a second `fit` and in the training of a saved model. It
    never decreases.

    Paths are built from the layers' names, outermost first, the model's own name left out: `d1`,
    `block/conv` for the layer conv in a model block. The layer is the innermost one that holds the
    variable: `lstm/lstm_cell`, `attention/query`; outputs are those of the layers that
    `model.summary()` lists: `lstm`, `attention`. A shared layer is written once, where it comes
    first. Variables that the model holds outside any layer belong to the layer `(model)`. Keras
    numbers automatic names within a process (dense, dense_1): name the layers of runs to compare.

    In a custom loop, call `record`, which writes the norms.

    Args:
        log_dir: string or `os.PathLike`, the directory of the event file, which lies directly in
            it; made if it does not exist. Defaults to `"tb_logs"`. TensorBoard shows a directory as
            one run. If there is an earlier run of this package's callbacks in it, a training that
            goes on (of a saved model, for instance) continues that run, and one that begins anew,
            or is of a model with other weights, gets a directory of its own inside, `run-2`,
            `run-3`, ..., which all callbacks of the `fit` share and one printed line tells.
        every: integer >= 1, update steps between two points of the scalars. Defaults to 1.
        histograms_every: integer >= 1, update steps between two rounds of histograms, or `None`
            for the weights' at each epoch's end only. Defaults to `None`.
        activations: whether to measure the layers' outputs, which takes the most time: in a small
            convolutional network half as much as a step. Defaults to `False`.
        layers: list of paths of the layers to write, as above, or `None` for all. A path includes
            the layers inside it. The global norms count all layers nevertheless.
        updates_every: integer >= 1, update steps between two measurements of updates and weights.
            Defaults to 50.
        sinks: list of where the scalars go besides the event file, or `None`: paths that end in
            `.jsonl` (an object per step) or `.csv` (lines of step, tag and value), which are made
            if they do not exist; `"wandb"` and `"mlflow"`, for the active run of Weights & Biases
            or MLflow; and functions of the step and a dictionary of floats by tag. A training that
            begins anew leaves the lines of an earlier one alone and writes to `run-2.jsonl`. A
            sink that fails gives a RuntimeWarning, and the others go on. Defaults to `None`.
        noise_scale_every: integer >= 1, update steps between two measurements of the gradient
            noise scale, each of which takes about as long as a step, or `None` for none. Defaults
            to `None`.
        sharpness_every: likewise, of the critical learning rate, each some 4 forward passes.
        hessian_every: likewise, of the largest eigenvalue of the Hessian, each up to 10 products
            that take two steps each.

    Attributes:
        run_dir: the directory of the event file, `log_dir` or one inside it.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range; and by `fit`, before the first update, if no event
            file can be created in `log_dir`, if a sink's file cannot be written or its service has
            no active run, if the model has no optimizer, if it is built and has no trainable
            weights, if `layers` names a layer that does not exist, or if the optimizers inside a
            composite accumulate the gradients of different numbers of steps.
        ImportError: by `fit`, if a sink's package is not installed.

    It works with jit and eagerly, with `steps_per_execution` (each step is written), and under
    `tf.distribute.MirroredStrategy` (gradients and losses are summed). A write that fails later, on
    a full disk or in a directory that was removed, gives a RuntimeWarning, and the training goes
    on. Several monitors may watch one `fit`, each in a `log_dir` of its own. After the training, or
    an exception, model and optimizer are as they were, and the next `fit` with the same monitor
    continues the file.
    Noise and curvature need a `train_step` that minimizes what `compute_loss` returns; while they
    are measured, the weights before the update are kept too.
    `train_on_batch` is not recorded. A custom `train_step` is monitored if it calls the
    `scale_loss` and `apply` (or `apply_gradients`) of `model.optimizer` once, as Keras's does.

    Example:
    ```python
    monitor = keras_bp.callbacks.GradientMonitor(log_dir="tb_logs/run1")
    model.fit(x, y, epochs=5, callbacks=[monitor])
    ```
    """

    def __init__(
        self,
        log_dir: Path = "tb_logs",
        every: int = 1,
        histograms_every: int | None = None,
        activations: bool = False,
        layers: Sequence[str] | None = None,
        updates_every: int = 50,
        sinks: Sequence[Sink] | None = None,
        noise_scale_every: int | None = None,
        sharpness_every: int | None = None,
        hessian_every: int | None = None,
    ) -> None:
        check_path("log_dir", log_dir)
        check_integer("every", every, 1)
        check_integer("updates_every", updates_every, 1)
        optional = {
            "histograms_every": histograms_every,
            "noise_scale_every": noise_scale_every,
            "sharpness_every": sharpness_every,
            "hessian_every": hessian_every,
        }
        for name, steps in optional.items():
            if steps is not None:
                check_integer(name, steps, 1)
        activations = check_flag("activations", activations)
        super().__init__(log_dir)
        self.every = every
        self.histograms_every = histograms_every
        self.activations = activations
        self.layers = layers
        self._selection = LayerSelection(layers)
        self.updates_every = updates_every
        self.noise_scale_every = noise_scale_every
        self.sharpness_every = sharpness_every
        self.hessian_every = hessian_every
        self.sinks = check_sinks(sinks)
        self._curvature = CurvatureMeter(
            noise=noise_scale_every, sharpness=sharpness_every, hessian=hessian_every
        )

    def _forget(self) -> None:
        super()._forget()
        self._scalars: Any = None
        self._has_layout = False
        self._chosen = None
        self._flow = GradientFlowImage()

    def record(
        self,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        *,
        loss: Any = None,
        step: Any = None,
    ) -> None:
        """Write the norms of one step of a custom loop, inside a `tf.function` or outside.

        It writes `gradient_norm/<layer path>`, `gradient_norm/global`, `weight_norm/<layer path>`
        and `loss/batch`; `close` ends the file. Paths are the model's after `set_model`, and else
        the variables' own without the last name: `net/d1` for `net/d1/kernel`.

        Args:
            gradients: list of tensors, `tf.IndexedSlices` or None, as from `tape.gradient`.
            variables: list of the variables, in the same order.
            loss: scalar tensor, or `None` to write none.
            step: integer or scalar tensor, the number of the step, or `None` to continue from the
                last one.

        Raises:
            ValueError: if gradients and variables differ in number, if the event file cannot be
                created, or inside a function that is compiled with `jit_compile=True`, where
                nothing can be written: call it outside, with the gradients that it returns.
        """
        context = tf.distribute.get_replica_context()
        if context is not None and tf.get_static_value(context.replica_id_in_sync_group) == 0:
            make_directory(self.log_dir)  # here, where an error is understandable
        self._custom_loop, self._meter = True, None  # a custom loop may call the hooks too
        write, layers = self._write_custom_loop, self._selection
        record_custom_loop(write, self.model, layers, gradients, variables, loss, step)

    def frame(self) -> Run:
        """Return what was written so far, also while `fit` runs: a `keras_bp.Run` of `run_dir`.

        Raises:
            ValueError: if nothing was written yet.
        """
        self.flush()
        return read_run(self.run_dir or "")

    def close(self) -> None:
        """Write what is left and close the event file, as `fit` does unless interrupted."""
        self._stop()

    def _write_custom_loop(self, tags, values, step):
        step = self._last_step + 1 if step is None else step
        self._last_step = step - 1
        self._open()
        self._describe()
        norms = (tag.removeprefix("gradient_norm/") for tag in tags if tag.startswith("gradient_"))
        self._write_layout(tags, [path for path in norms if path != "global"])
        self._last_step = step
        if self._last_step % self.every == 0:
            self._file.write_scalars(tags, values, self._last_step)

    def _write_layout(self, tags, layers):
        if not self._has_layout:
            self._file.write_summary(layout(tags, layers), self._last_step)
        self._has_layout = True

    def _new_recorder(self):
        feedback = FeedbackDense, FeedbackConv2D, DirectFeedback
        every = flat_layers(self.model, include_self=True)
        aligned = any(isinstance(layer, feedback) for layer in every)
        recorder = AlignmentRecorder if aligned else StepRecorder
        return recorder(self.model, self.activations, self.histograms_every is not None)

    def _begin(self):
        if is_built(self.model):
            self._selection.check(self.model)
        self._scalars = None
        self._counting = False
        self._updates_due, self._histograms_at = 1, 0
        self._histograms_due = self.histograms_every or math.inf

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: record the coming steps, and measure what is due."""
        self._start_if_needed()
        self._counting = self._is_due(self._histograms_due)
        if not self._custom_loop and self._is_due(self._updates_due):
            self._start_meter()
        self._sampling = self._measures() and bool(self._recorder.sampled_kinds)
        super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: write what was due, and the other steps if enough are waiting."""
        if not self._measures() and not self._counting:
            super().on_train_batch_end(batch, logs)
            return
        self._see_call()
        steps = self._take_updates()
        step = self._last_step
        # Without steps, the update is still to come.
        measured = self._stop_meter() if steps else None
        if measured is not None:
            self._write_update(steps, measured)
            self._updates_due = (step // self.updates_every + 1) * self.updates_every
        if steps and self._counting and self.histograms_every:
            self._write_sampled()
            self._write_state()
            self._write_weights()
            self._histograms_due = (step // self.histograms_every + 1) * self.histograms_every

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: write the epoch's metrics, the weights and the picture."""
        super().on_epoch_end(epoch, logs)
        metrics = {f"epoch/{k}": v for k, v in (logs or {}).items() if np.ndim(v) == 0}
        if metrics:
            self._file.write_scalars(tuple(metrics), metrics.values(), self._last_step)
        if self._histograms_at < self._last_step:
            self._write_weights()
        if self._scalars is not None and self._chosen:
            picture = self._flow.draw(list(self._chosen.values()), self._last_step)
            self._file.write_image("gradient_flow", *picture, self._last_step)
        self._file.flush()

    def _take(self, updates):
        if self._scalars is None or self._scalars.recorder is not self._recorder:
            self._choose()
        norms = self._norms(updates.squares)
        self._flow.add(norms[:, list(self._chosen)], self._last_step)
        first = self._last_step - len(norms) + 1
        for step, values in enumerate(self._scalars.rows(updates, norms), first):
            if step % self.every == 0:
                self._file.write_scalars(self._scalars.tags, values, step)
        if self._curvature.measured is not None:
            scalars = self._curvature.measured.scalars()
            self._file.write_scalars(tuple(scalars), scalars.values(), self._last_step)

    def _choose(self):
        """Find the layers to write, by their numbers among the norms and among the outputs."""
        self._selection.check(self.model)
        before = self._chosen
        self._chosen = {i: path for i, path in enumerate(self._layers) if path in self._selection}
        if self._chosen != before:  # of other layers than in an earlier fit
            self._flow = GradientFlowImage()
        paths = layer_paths(self.model)
        outputs = enumerate(paths[layer] for layer in self._recorder.layers)
        self._chosen_outputs = {i: path for i, path in outputs if path in self._selection}
        self._scalars = _UpdateScalars(self._recorder, self._chosen, self._chosen_outputs)
        measured = (f"{kind}/" for kind in self._measured_kinds())
        tags = [*self._scalars.tags, *measured, *self._curvature.tags, "epoch/"]
        self._write_layout(tags, list(self._chosen.values()))

    def _measured_kinds(self):
        """Return the kinds of tags of what is measured of each layer at intervals."""
        return ("update_ratio", "weight_norm", *self._recorder.sampled_kinds)

    def _write_update(self, steps, measured):
        """Write what was measured of the last call, which made so many steps."""
        update, before, after = (self._norms(squares[None])[0] for squares in measured)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = [update / before / steps, after]
        values += self._recorder.sampled_measures(self._layer_of_variable, len(self._layers))
        kinds = self._measured_kinds()[: len(values)]
        tags = [f"{kind}/{path}" for kind in kinds for path in self._chosen.values()]
        values = np.concatenate([measured[list(self._chosen)] for measured in values])
        self._file.write_scalars(tuple(tags), values, self._last_step)

    def _write_weights(self):
        """Write a histogram of each weight of the chosen layers."""
        self._histograms_at = self._last_step
        weights = self.model.weights
        self._write_histograms("weights", weights, lambda i: count_variable(weights[i]))

    def _write_sampled(self):
        """Write the histograms of what the recorder has sampled."""
        gradients, outputs = self._recorder.samples()
        variables = self._recorder.variables
        self._write_histograms("gradients", variables, lambda i: count_sample(gradients[i]))
        for i, path in self._chosen_outputs.items():
            counted = rows(count_sample(outputs[i]))
            self._file.write_histogram(f"activations/{path}", counted, self._last_step)

    def _write_state(self):
        """Write the histograms of what the optimizers keep for the chosen layers' variables."""
        paths = variable_paths(self.model)
        for optimizer in self._recorder.optimizers:
            for variable, name, slot in slots_of(optimizer, self.model.weights):
                layer, path = paths[id(variable)]
                if layer in self._selection:
                    counted = rows(count_variable(slot))
                    tag = f"optimizer/{path}/{name}"
                    self._file.write_histogram(tag, counted, self._last_step)

    def _write_histograms(self, kind, variables, counts_of):
        """Write the histograms of the chosen layers; no other layer's are counted."""
        paths = variable_paths(self.model)
        for i, variable in enumerate(variables):
            layer, path = paths[id(variable)]
            if layer in self._selection:
                self._file.write_histogram(f"{kind}/{path}", rows(counts_of(i)), self._last_step)


class _UpdateScalars:
    """Turns recorded updates into rows of values.

    Args:
        recorder: a `StepRecorder` that has recorded a step.
        layers: dictionary, number of a layer in the norms -> its path.
        outputs: dictionary, number of a layer in the recorder's outputs -> its path.

    Attributes:
        tags: tuple of the tags, in the order of the values.
        recorder: the recorder.
    """

    def __init__(self, recorder, layers, outputs):
        self.recorder = recorder
        self._columns = [*layers, -1]
        self._clips = any(map(clips, recorder.optimizers))
        self._clipped = collections.deque(maxlen=_WINDOW)
        self._sees_loss = recorder.sees_loss
        self._places = []
        rates = len(recorder.optimizers)
        tags = [f"gradient_norm/{path}" for path in [*layers.values(), "global"]]
        names = ["learning_rate"] if rates == 1 else [f"learning_rate/{i}" for i in range(rates)]
        # An optimizer of Keras has one rate.
        factors = [getattr(o, "rate_factors", ()) for o in recorder.optimizers]
        own = {
            f"{names[i]}/x{factor:.6g}": (i, factor)  # factors that look alike share a tag
            for i, each in enumerate(factors)
            for factor in (each if set(each) - {1.0} else ())
        }
        self._own_rates = np.zeros((rates, len(own)))
        for column, (i, factor) in enumerate(own.values()):
            self._own_rates[i, column] = factor
        tags += [*names, *own]
        tags += ["gradient_norm_applied/global", "clip_rate"] * self._clips
        for statistic, shows in (("dead", can_die), ("saturated", can_saturate)):
            for i, path in outputs.items():
                if shows(recorder.layers[i]):
                    tags.append(f"{statistic}_units/{path}")
                    self._places.append((i, STATISTICS.index(statistic)))
        # A loss that the train step does not show has no tag.
        self.tags = (*tags, *["loss/batch"] * self._sees_loss)

    def rows(self, updates, norms):
        """Return the values of each update, (n, tags), from `Updates` and the layers' norms."""
        parts = [norms[:, self._columns], updates.rates, updates.rates @ self._own_rates]
        if self._clips:
            applied, rates = np.sqrt(updates.applied), []
            # Smaller by more than the rounding of two sums.
            for is_clipped in applied < norms[:, -1] * (1 - 1e-5):
                self._clipped.append(is_clipped)
                rates.append(np.mean(self._clipped))
            parts += [applied, rates]
        parts += [updates.outputs[:, layer, statistic] for layer, statistic in self._places]
        return np.column_stack(parts + [updates.losses] * self._sees_loss)
