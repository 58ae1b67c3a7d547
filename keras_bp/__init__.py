"""Backpropagation made explicit, correct, fast and visible, for Keras 3 on TensorFlow."""

try:
    import keras
except ImportError as error:  # KERAS_BACKEND names a framework that is not installed
    raise ImportError(
        "keras_bp could not import Keras, which it needs on the TensorFlow backend: install keras "
        "and tensorflow, and set KERAS_BACKEND=tensorflow in the environment (or remove the "
        f"variable) before Python starts. Received: {error}"
    ) from error

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "keras_bp runs on Keras's TensorFlow backend only: set KERAS_BACKEND=tensorflow in the "
        'environment (or `"backend": "tensorflow"` in keras.json) before Python starts. '
        f"Received: backend={keras.config.backend()!r}"
    )

from keras_bp._versions import show_versions, unsupported

if reason := unsupported():
    raise ImportError(reason)

# Every subpackage is imported here: keras.saving.load_model finds a class by its registered name
# only once the module that registers it has run.
from keras_bp import (
    callbacks,
    curvature,
    deferred,
    feedback,
    gradients,
    layers,
    losses,
    multitask,
    ops,
    optimizers,
    reference,
    schedules,
    tuning,
    visualization,
    workers,
)
from keras_bp.callbacks.rescue.replay import Replay, replay
from keras_bp.gradient_check import GradientCheckReport, check_gradients
from keras_bp.saving import to_keras
from keras_bp.tuning import (
    LearningRateCurve,
    Suggestion,
    find_learning_rate,
    suggest_optimizer,
)
from keras_bp_runs import Run, RunComparison, compare_runs, read_run

__version__ = "0.1.0"

__all__ = [
    "GradientCheckReport",
    "LearningRateCurve",
    "Replay",
    "Run",
    "RunComparison",
    "Suggestion",
    "callbacks",
    "check_gradients",
    "compare_runs",
    "curvature",
    "deferred",
    "feedback",
    "find_learning_rate",
    "gradients",
    "layers",
    "losses",
    "multitask",
    "ops",
    "optimizers",
    "read_run",
    "reference",
    "replay",
    "schedules",
    "show_versions",
    "suggest_optimizer",
    "to_keras",
    "tuning",
    "visualization",
    "workers",
]
