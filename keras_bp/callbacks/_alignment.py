"""How the gradients of feedback alignment compare with the true ones, in a plain `fit`."""

import contextlib

import numpy as np
import tensorflow as tf

from keras_bp.feedback import Alignment, alignment_sums, exact_gradients
from keras_bp.gradients import sum_over_replicas
from keras_bp.recording import StepRecorder, own_product


class AlignmentRecorder(StepRecorder):
    """In sampled steps, also compares gradients with the true ones: angle and equal signs.

    A second tape around the train step sees the same forward pass as the step's, and gives
    the true gradient of the loss that the step shows to `optimizer.scale_loss`. So only the
    backward pass is computed twice, and batch statistics and random states move once.

    Under accumulation the last micro-batch is measured.
    """

    sampled_kinds = ("alignment_angle", "sign_concordance")

    def __init__(self, model, outputs, sampled):
        super().__init__(model, outputs, sampled)
        self._measured = False

    def _create_rows(self):
        super()._create_rows()
        self._sums = self._zeros(len(self.variables), 5)

    @contextlib.contextmanager
    def in_replica(self):
        """Return the context in which a replica's part of the step is to be traced."""
        with tf.GradientTape() if self.sampling else contextlib.nullcontext() as tape:
            self._replica.tape = tape
            yield

    def see_loss(self, loss, scale_loss):
        """Take the loss that the step is about to scale, and the factor of the scaling."""
        super().see_loss(loss, scale_loss)
        self._replica.scaled = loss, tf.cast(self._replica.factor, loss.dtype)

    @contextlib.contextmanager
    def see_update(self, gradients, variables):
        """Record the step whose gradients are applied inside the `with` block."""
        with super().see_update(gradients, variables):
            seen = vars(self._replica)
            tape, scaled = seen.pop("tape", None), seen.pop("scaled", None)
            if self.sampling and tape is not None and scaled is not None:
                self._measure(gradients, variables, tape, *scaled)
            yield

    def _measure(self, gradients, variables, tape, loss, factor):
        with exact_gradients():
            # Scaled like the step's, so that half precision loses as little.
            true = tape.gradient(loss, list(variables), output_gradients=factor)
        pair = []
        for values in ([own_product(gradient) for gradient in gradients], true):
            by_id = dict(zip(map(id, variables), values, strict=True))
            pair.append(sum_over_replicas([by_id.get(id(v)) for v in self.variables]))
        self._sums.assign(alignment_sums(*pair))
        self._measured = True

    def sampled_measures(self, layer_of_variable, layers):
        """Return the angle and the share of equal signs of each layer."""
        if not self._measured:  # the train step shows no loss
            return []
        sums = self._read(self._sums)
        pairs = [Alignment.of_sums(sums[layer_of_variable == layer]) for layer in range(layers)]
        return list(map(np.asarray, zip(*pairs, strict=True)))
