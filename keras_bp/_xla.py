"""Which compiler the operations that are being traced are for."""

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def compiled_by_xla():
    """Tell whether the function that is being traced is under jit_compile=True.

    TensorFlow has no public way to ask. A function that was traced elsewhere and is called inside
    a compiled one has answered no: this may choose between forms that XLA compiles both, and never
    decide what it gets to see.
    """
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )
