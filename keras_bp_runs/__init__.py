"""What the directory of a run holds, read with NumPy and TensorBoard's message types alone.

TensorBoard's plugin reads runs while a server starts, so nothing here imports TensorFlow, Keras or
keras_bp.
"""

from keras_bp_runs.compare import RunComparison, compare_runs
from keras_bp_runs.events import RunFiles
from keras_bp_runs.run import Run, read_run

__all__ = ["Run", "RunComparison", "RunFiles", "compare_runs", "read_run"]
