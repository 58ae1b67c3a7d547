"""The switch between the gradient that a feedback rule trains with and the true one."""

import contextlib
import threading

import tensorflow as tf

# A replica of a MirroredStrategy is traced in a thread of its own, and has a switch of its own;
# one outside of them holds for all, as the replicas' threads begin inside its block.
_of_thread, _of_all, _lock = threading.local(), [0], threading.Lock()


@contextlib.contextmanager
def exact_gradients():
    """Let the feedback ops give the true gradient while the block runs.

    Inside the block the backward pass of `keras_bp.ops.feedback_dense`, `feedback_conv2d`,
    `broadcast_error` and `detach`, and so of the layers on them, is that of backpropagation. What
    counts is where the gradient is taken, `tape.gradient(...)`, not where the tape has recorded:
    one persistent tape gives both gradients of one forward pass. In a `tf.function` the switch is
    read while the function is traced; of a `tf.function` that makes the forward pass alone,
    TensorFlow traces the backward pass with it, and the switch is read there. It holds in all
    threads, and so in the replicas of a strategy; set in a replica, in this one.

    Example:
    ```python
    with tf.GradientTape(persistent=True) as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    trained_with = tape.gradient(loss, model.trainable_variables)
    with keras_bp.feedback.exact_gradients():
        true = tape.gradient(loss, model.trainable_variables)
    ```
    """
    if _in_replica():
        before = getattr(_of_thread, "exact", False)
        _of_thread.exact = True
        try:
            yield
        finally:
            _of_thread.exact = before
        return
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def gives_exact_gradients():
    """Tell whether the feedback ops are to give the true gradient."""
    return _of_all[0] > 0 or getattr(_of_thread, "exact", False)


def _in_replica():
    return not tf.distribute.in_cross_replica_context() and tf.distribute.has_strategy()


def _count(step):
    with _lock:
        _of_all[0] += step
