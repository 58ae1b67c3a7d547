"""How far updates move the weights."""

import tensorflow as tf


class UpdateMeter:
    """Measures the norms of an update and of the weights, from outside of the step.

    Inside of it, each step would hold and read a second copy of all weights. From outside, the
    values before are kept by reference, and only a step that is measured pays for a copy.

    Args:
        variables: list of Keras variables.
    """

    def __init__(self, variables):
        self._variables = variables
        self._before = None
        # A function of its own: of a common one, traced for each model, TensorFlow would warn.
        self._measure = tf.function(lambda *weights: _measure(*weights), autograph=False)

    @property
    def running(self):
        """Whether the values before are held."""
        return self._before is not None

    def start(self):
        """Hold the values as they are."""
        self._before = [tf.convert_to_tensor(v.value) for v in self._variables]

    def stop(self):
        """Return squared norms, (3, variables): of the update, of the weights before and after."""
        after = [tf.convert_to_tensor(v.value) for v in self._variables]
        before, self._before = self._before, None
        return self._measure(before, after).numpy()


def _measure(before, after):
    before, after = ([_wide(tensor) for tensor in tensors] for tensors in (before, after))
    updates = [a - b for b, a in zip(before, after, strict=True)]
    squares = [[2.0 * tf.nn.l2_loss(t) for t in tensors] for tensors in (updates, before, after)]
    return tf.stack([tf.stack([tf.cast(s, tf.float64) for s in row]) for row in squares])


def _wide(tensor):
    return tf.cast(tensor, tf.float64 if tensor.dtype == tf.float64 else tf.float32)
