"""The switch between the gradient that a feedback rule trains with and the true one."""

import contextlib
import threading

# A thread's own: the replicas of a MirroredStrategy are traced in a thread each.
_state = threading.local()


@contextlib.contextmanager
def exact_gradients():
    """Let the feedback ops give the true gradient while the block runs.

    Inside the block the backward pass of `keras_bp.ops.feedback_dense`, `feedback_conv2d`,
    `broadcast_error` and `detach`, and so of the layers on them, is that of backpropagation. What
    counts is where the gradient is taken, `tape.gradient(...)`, not where the tape has recorded:
    one persistent tape gives both gradients of one forward pass. In a `tf.function` the switch is
    read while the function is traced.

    Example:
    ```python
    with tf.GradientTape(persistent=True) as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    trained_with = tape.gradient(loss, model.trainable_variables)
    with keras_bp.feedback.exact_gradients():
        true = tape.gradient(loss, model.trainable_variables)
    ```
    """
    before = gives_exact_gradients()
    _state.exact = True
    try:
        yield
    finally:
        _state.exact = before


def gives_exact_gradients():
    """Tell whether the feedback ops are to give the true gradient."""
    return getattr(_state, "exact", False)
