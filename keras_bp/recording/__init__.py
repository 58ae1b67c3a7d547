"""How a plain `fit` is watched.

Keras hands callbacks the running mean of the loss, and neither gradients nor the batch's own loss.
This package takes both from a plain `model.fit`: no model is subclassed, no `train_step`
overridden, nothing computed twice, and the weights stay the same, bit for bit.

**Where it looks.** `fit` calls `model.train_function(iterator)` for each batch (or each
`steps_per_execution` batches). In there Keras's `train_step` calls `optimizer.scale_loss(loss)` and
`optimizer.apply(gradients, variables)`, whatever the optimizer: loss and gradients pass through
these two calls. A custom `train_step` may scale no loss; then what `model.compute_loss` returned is
taken for it.

**What is replaced.** A `RecordingTrainFunction` takes the place of `model.train_function` while
`fit` runs. It holds the model's own function, and traces a second one (and a third that also
samples costly quantities, such as angles to the true gradients). Only a call that a callback has
announced with `arm` runs one of these, and only while the Python code of the model's `train_step`
runs, that is while it is traced, do `scale_loss` and `apply`, as attributes of the optimizer, the
model's `compute_loss` and the layers' `call`, where outputs are recorded, also call the recorders.
So `train_on_batch` and `evaluate` are never recorded, and an exception leaves optimizer, model and
layers as they were.

**What is recorded.** No summary can be written and no Python runs inside a compiled step. So a
recorder's operations become part of the traced step, and write to a variable on the device: a ring
of rows, one for each step, with loss, rates, squared norms of gradients and statistics of the
layers' outputs (`StepRecorder`). What follows from these is computed as they are read. Reading a
gradient must not change how the optimizer rounds: see `own_product`. `Recorder` is the base of all
recorders. Several recorders share the traced functions, so that several callbacks can watch one
`fit`.

**Who reads, and when.** A `RecordingCallback` announces the steps in `on_train_batch_begin` and
reads the ring about once per second, before it is full and at each epoch's end; it hands the new
`Updates` to a subclass, which writes an `EventFile`, draws a picture, or looks for faults. An
`UpdateMeter` measures how far weights move between calls, since a step would need a second copy of
the weights for it.

                                                  data -> see_data
    fit -> RecordingTrainFunction -> traced step: scale_loss -> see_loss, apply -> see_update
                                                                               |
    subclass <- Updates <- RecordingCallback <- new_updates() <- rows on the device

A custom loop has no train function: `record_custom_loop` computes the norms where it is called.

`Callback` is the base also of callbacks that record nothing: it shows their arguments, and lets
them be copied.
"""

from keras_bp.recording.callback import Callback, LayerSelection, RecordingCallback
from keras_bp.recording.curvature_meter import Curvature, CurvatureMeter
from keras_bp.recording.custom_loop import record_custom_loop
from keras_bp.recording.event_file import EventFile, make_directory
from keras_bp.recording.histograms import count_sample, count_values, count_variable, rows
from keras_bp.recording.last_batch import LastBatch
from keras_bp.recording.outputs import (
    STATISTICS,
    LayerOutputs,
    activation_of,
    can_die,
    can_saturate,
)
from keras_bp.recording.recorder import (
    Recorder,
    StepRecorder,
    Updates,
    clips,
    is_moved,
    own_product,
)
from keras_bp.recording.sinks import check_sinks
from keras_bp.recording.train_function import RecordingTrainFunction
from keras_bp.recording.update_meter import UpdateMeter

__all__ = [
    "Callback",
    "Curvature",
    "CurvatureMeter",
    "EventFile",
    "LastBatch",
    "LayerOutputs",
    "LayerSelection",
    "Recorder",
    "RecordingCallback",
    "RecordingTrainFunction",
    "STATISTICS",
    "StepRecorder",
    "UpdateMeter",
    "Updates",
    "activation_of",
    "can_die",
    "can_saturate",
    "check_sinks",
    "clips",
    "count_sample",
    "count_values",
    "count_variable",
    "is_moved",
    "make_directory",
    "own_product",
    "record_custom_loop",
    "rows",
]
