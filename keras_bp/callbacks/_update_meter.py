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

    @property
    def running(self):
        """Whether the values before are held."""
        return self._before is not None

    def measures(self, variables):
        """Tell whether these are its variables, in their order."""
        return list(map(id, self._variables)) == list(map(id, variables))

    def start(self):
        """Hold the values as they are."""
        self._before = [tf.convert_to_tensor(v.value) for v in self._variables]

    def stop(self):
        """Return squared norms, (3, variables): of the update, of the weights before and after."""
        after = [_wide(tf.convert_to_tensor(v.value)) for v in self._variables]
        before, self._before = map(_wide, self._before), None
        # Eagerly: to trace this once costs as much as some forty measurements.
        squares = [
            tf.nn.l2_loss(tensor)
            for b, a in zip(before, after, strict=True)
            for tensor in (a - b, b, a)
        ]
        halves = tf.stack([tf.cast(square, tf.float64) for square in squares]).numpy()
        return 2.0 * halves.reshape(-1, 3).T


def _wide(tensor):
    return tf.cast(tensor, tf.float64 if tensor.dtype == tf.float64 else tf.float32)
