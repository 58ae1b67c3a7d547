"""The gradients' norm as the rules receive it, after clipping."""

import tensorflow as tf

from keras_bp import gradients as gradient_tools
from keras_bp.optimizers import Optimizer

_BOUNDS = ("clipvalue", "clipnorm", "global_clipnorm")


def clips(rule):
    """Tell whether an optimizer clips gradients."""
    return any(getattr(rule, bound, None) is not None for bound in _BOUNDS)


def applied_square(rule, received, own):
    """Return the squared norm of all gradients of one rule, after its clipping.

    Args:
        rule: an optimizer that clips.
        received: list of its gradients, complete and unscaled, or None.
        own: list of this replica's part of them.
    """
    if isinstance(rule, Optimizer):
        bounds = {bound: getattr(rule, bound) for bound in _BOUNDS}
        clipped = gradient_tools.clip(received, **bounds)
    else:
        # Keras's optimizers clip what the replica has, before the sum over the replicas, and a
        # sparse gradient by the norm of its rows as they come: only their own code tells.
        present = rule._clip_gradients([g for g in own if g is not None])
        clipped = gradient_tools.sum_over_replicas(present)
    squares = [tf.cast(gradient_tools.squared_norm(g), tf.float64) for g in clipped]
    return tf.add_n([tf.zeros((), tf.float64), *squares])
