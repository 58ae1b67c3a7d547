"""Each task's gradient from one tape."""

import tensorflow as tf


def tape_gradients(tape, losses, variables):
    """Return the gradients of each loss, one list a task, and the losses as a list.

    A loss that is None has None for every gradient.
    """
    losses = _checked_losses(losses)
    if not isinstance(variables, list | tuple):
        raise TypeError(
            "`variables` must be a list or tuple of variables. "
            f"Received: variables={variables!r} (of type {type(variables).__name__})"
        )
    # TensorFlow's own error, at the second gradient, does not say which tape is meant.
    if len(losses) > 1 and not getattr(tape, "_persistent", True):
        raise ValueError(
            "`tape` must be persistent, since each task's gradient is taken from it: "
            f"tf.GradientTape(persistent=True). Received: a tape that is not, and {len(losses)} "
            "losses"
        )
    variables = list(variables)
    nothing = [None] * len(variables)
    return [nothing if x is None else tape.gradient(x, variables) for x in losses], losses


def _checked_losses(losses):
    if isinstance(losses, dict):
        losses = list(losses.values())
    if not isinstance(losses, list | tuple):
        raise TypeError(
            "`losses` must be a list, tuple or dict with a loss for each task. "
            f"Received: losses={losses!r} (of type {type(losses).__name__})"
        )
    for number, loss in enumerate(losses):
        if loss is None:
            continue
        if not tf.is_tensor(loss):
            raise TypeError(
                "`losses` must hold tensors that the tape has recorded, or None. "
                f"Received: losses[{number}]={loss!r} (of type {type(loss).__name__})"
            )
        if loss.shape.rank not in (0, None):
            raise ValueError(
                "`losses` must be scalars, as the mean over the batch is. "
                f"Received: losses[{number}] of shape {loss.shape}"
            )
    if all(loss is None for loss in losses):
        raise ValueError(f"`losses` must hold one loss at least. Received: losses={losses!r}")
    return list(losses)
