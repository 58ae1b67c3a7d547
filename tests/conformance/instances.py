"""One instance of every public class, what it does, and what it is made of."""

import atexit
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf
from trainings import KINDS, LAYERS, SCHEDULES, TRAININGS, make_optimizer

import keras_bp
from keras_bp import callbacks, reference
from keras_bp.callbacks import health_checks
from keras_bp.recording import EventFile

_x = np.linspace(-1, 1, 8).reshape(2, 4)


def _run():
    """Return a run of two steps."""
    log_dir = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, log_dir)
    file = EventFile(log_dir)
    for step in (1, 2):
        file.write_scalars(("loss",), [1 / step], step)
    file.close()
    return keras_bp.read_run(log_dir)


# The bases hold no rule; their documentation says what a rule has to add.
BASES = {"optimizers.Optimizer", "multitask.Combiner", "multitask.LossWeighting"}
OTHERS = {
    "GradientCheckReport": lambda: keras_bp.check_gradients(
        lambda x: tf.reduce_sum(x[0] * x[0]), [tf.Variable([1.0, 2.0])]
    ),
    "Replay": lambda: keras_bp.Replay(
        [], 0.5, None, None, [0], np.array([0.5]), [1], "all is finite"
    ),
    "Run": _run,
    "RunComparison": lambda: keras_bp.compare_runs([_run(), _run()]),
    "tuning.LearningRateCurve": lambda: keras_bp.LearningRateCurve(
        np.array([0.1, 1.0]), np.array([2.0, 1.0]), np.array([2.0, 1.5]), 2, "end"
    ),
    "tuning.Suggestion": lambda: keras_bp.Suggestion(keras_bp.optimizers.SGD(0.1), "why"),
    "callbacks.GradientConflict": lambda: callbacks.GradientConflict("logs", layers=["trunk"]),
    "callbacks.DiscoveredSchedule": lambda: callbacks.DiscoveredSchedule(500, 25, fallback=0.1),
    "callbacks.GradientMonitor": lambda: callbacks.GradientMonitor("logs", layers=["head"]),
    "callbacks.OptimizerSwitch": lambda: callbacks.OptimizerSwitch(0.1, patience=3),
    "callbacks.ProgressLine": lambda: callbacks.ProgressLine(),
    "callbacks.Rescue": lambda: callbacks.Rescue("faults", spike=8.0),
    "callbacks.ResumableTraining": lambda: callbacks.ResumableTraining("checkpoints"),
    "callbacks.SwapEMAWeights": lambda: callbacks.SwapEMAWeights(True),
    "callbacks.TrainingDashboard": lambda: callbacks.TrainingDashboard("picture.png"),
    "callbacks.TrainingHealth": lambda: callbacks.TrainingHealth(["saturation"]),
    "callbacks.health_checks.Finding": lambda: health_checks.Finding(
        "saturation", "hidden", 10, 0.9, 0.5, "what", "do"
    ),
    **{
        f"callbacks.health_checks.{name}": getattr(health_checks, name)
        for name in health_checks.__all__
        if name != "Finding"
    },
    "curvature.HessianEigenvalue": lambda: keras_bp.curvature.HessianEigenvalue(2.0, 0.1, 5, []),
    "curvature.NoiseScale": lambda: keras_bp.curvature.NoiseScale(50.0, 40.0, 60.0, 5.0, 0.1),
    "feedback.Alignment": lambda: keras_bp.feedback.Alignment(30.0, 0.9),
    "reference.Adam": lambda: reference.Adam(0.1, beta_1=0.8),
    "reference.AdamW": lambda: reference.AdamW(0.1),
    "reference.BatchNormalization": lambda: reference.BatchNormalization(3, momentum=0.8),
    "reference.BatchNormalizationCache": lambda: reference.BatchNormalizationCache(_x, _x, _x),
    "reference.Cache": lambda: reference.Cache({1: _x}, {1: _x}, {}),
    "reference.GradientCheckResult": lambda: reference.GradientCheckResult(1e-9),
    "reference.Gradients": lambda: reference.Gradients({1: _x}, {1: _x}, {1: _x}, {1: _x}),
    "reference.LAMB": lambda: reference.LAMB(0.1),
    "reference.Momentum": lambda: reference.Momentum(0.1),
    "reference.NAG": lambda: reference.NAG(0.1),
    "reference.Network": lambda: reference.Network([2, 3, 1], keep_prob=0.5),
    "reference.Optimizer": lambda: reference.Optimizer(0.1),
    "reference.RMSprop": lambda: reference.RMSprop(0.1),
    "reference.SGD": lambda: reference.SGD(0.1),
    "visualization.ComputationGraph": lambda: keras_bp.visualization.ComputationGraph(
        "net", 0.5, 4, (), (), {}
    ),
    "visualization.OptimizerComparison": lambda: keras_bp.visualization.OptimizerComparison(
        {"Adam": _x}, {"Adam": _x}, {"Adam": _x[:, 0]}, (0, 1)
    ),
}


def _optimizer(name):
    schedule = next(t[3] for t in TRAININGS if t[2] == name)
    return lambda: make_optimizer(name, schedule)


def _of(module, name, *arguments, **options):
    return lambda: getattr(module, name)(*arguments, **options)


def _multi_task_model():
    inputs = keras.Input((2,))
    outputs = {name: keras_bp.layers.Dense(1, name=name)(inputs) for name in "ab"}
    combine = keras_bp.multitask.PCGrad()
    return keras_bp.multitask.MultiTaskModel(inputs, outputs, name="both", combiner=combine)


_NO_RULES = "Combiner", "LossWeighting", "MultiTaskModel"
_COMBINERS = [n for n in keras_bp.multitask.__all__ if n not in _NO_RULES]
SERIALIZABLE = {
    **{f"multitask.{n}": _of(keras_bp.multitask, n) for n in _COMBINERS},
    "multitask.MultiTaskModel": _multi_task_model,
    **{f"layers.{n}": _of(keras_bp.layers, n, **LAYERS[n]) for n in KINDS["layers"]},
    **{f"losses.{n}": _of(keras_bp.losses, n, reduction="sum") for n in KINDS["losses"]},
    **{f"optimizers.{n}": _optimizer(n) for n in KINDS["optimizers"]},
    **{f"schedules.{n}": _of(keras_bp.schedules, n, *SCHEDULES[n]) for n in KINDS["schedules"]},
}
INSTANCES = {**SERIALIZABLE, **OTHERS}


def what_it_does(item):
    """Return what an instance computes: arrays that differ where it is another one."""
    if isinstance(item, keras.Model):
        return [output.numpy() for output in item(np.ones((3, 2))).values()]
    if isinstance(item, keras.layers.Layer):
        ids = isinstance(item, keras_bp.layers.Embedding)
        x = np.array([[1, 2, 1]]) if ids else np.arange(24.0, dtype="float32").reshape(2, 3, 4)
        if isinstance(item, keras.layers.Conv2D):
            x = x[..., None]
        if isinstance(item, keras_bp.layers.DirectFeedback):
            x = [x[:, 0], x]
        if isinstance(item, keras_bp.layers.Dropout):
            # As with Keras's, a copy holds the seed, not how far its sequence has come.
            item.seed_generator.state.assign([item.seed, 0])
        return [item(x, training=isinstance(item, keras_bp.layers.Dropout)).numpy()]
    if isinstance(item, keras.losses.Loss):
        predictions = np.array([[0.2, 0.7, 0.1], [0.5, 0.3, 0.2]], "float32")
        sparse = type(item).__name__.startswith("Sparse")
        return [item(np.array([1, 2]) if sparse else np.eye(3)[[1, 2]], predictions).numpy()]
    if isinstance(item, keras.optimizers.Optimizer):
        variable = tf.Variable([[1.0, -2.0], [0.5, 3.0]], name="kernel")
        for step in range(4):
            item.apply([tf.constant([[0.3, 1.0 - step], [step / 2, -3.0]])], [variable])
        return [variable.numpy()]
    if isinstance(item, keras.optimizers.schedules.LearningRateSchedule):
        return [item(np.arange(12)).numpy()]
    if isinstance(item, keras_bp.multitask.Combiner):
        asks = isinstance(item, keras_bp.multitask.LossWeighting)
        losses = tf.constant([0.5, 2.0]) if asks else None
        return [item(tf.constant([[1.0, 2.0, -3.0], [-2.0, 1.0, 0.5]]), losses).numpy()]
    return []


def made_of(item):
    """Return plain values and arrays for `np.testing.assert_equal`."""
    if hasattr(item, "get_config"):
        return [type(item), item.get_config()]
    if isinstance(item, tf.Variable):
        return item.numpy()
    if isinstance(item, keras_bp.Run):
        return [item.directory, item.settings, item.table]
    if isinstance(item, np.random.Generator):
        return made_of(item.bit_generator.state)
    if isinstance(item, dict):
        return {key: made_of(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [made_of(value) for value in item]
    if type(item).__module__.startswith(("keras_bp.", "keras_bp_runs.")):
        return [type(item), made_of(vars(item))]
    return item
