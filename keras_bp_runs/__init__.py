"""What the directory of a run holds, read with NumPy and TensorBoard's message types alone.

TensorBoard's plugin reads runs while a server starts, so nothing here imports TensorFlow, Keras or
keras_bp.
"""

from keras_bp_runs.events import RunFiles

__all__ = ["RunFiles"]
