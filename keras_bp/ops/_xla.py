"""Which compiler the operations that are being traced are for."""

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def compiled_by_xla():
    """Tell whether the function that is being traced is under jit_compile=True.

    TensorFlow has no public way to ask; a function is traced anew for XLA, never shared.
    """
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )
