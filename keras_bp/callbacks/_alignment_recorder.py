"""The angle between the gradients that a step trains with and the true ones."""

import contextlib

import tensorflow as tf

from keras_bp._trial import replaced_attributes
from keras_bp.callbacks._gradients import own_product
from keras_bp.callbacks._step_recorder import StepRecorder
from keras_bp.feedback import alignment_sums, exact_gradients
from keras_bp.gradients import sum_over_replicas
from keras_bp.layers import DirectFeedback, FeedbackConv2D, FeedbackDense


def recorder_for(model, outputs):
    """Return a `StepRecorder` that measures alignment if the model has feedback layers."""
    # Keras has no public name for all layers inside one another.
    feedback = any(
        isinstance(layer, FeedbackDense | FeedbackConv2D | DirectFeedback)
        for layer in model._flatten_layers()
    )
    return (AlignmentRecorder if feedback else StepRecorder)(model, outputs)


class AlignmentRecorder(StepRecorder):
    """Records also how the gradients lie to the true ones, in the steps that are sampled.

    A tape of its own around the train step sees the same forward pass as the step's, and gives
    the true gradient of the loss that the step shows to `optimizer.scale_loss`. So nothing is
    computed twice but the backward pass, and batch statistics and random states move once.

    Under accumulation it is the last micro-batch that is measured.
    """

    def __init__(self, model, outputs):
        super().__init__(model, outputs)
        self._measured = False

    def _create_rows(self):
        super()._create_rows()
        self._sums = self._variable((len(self.variables), 5))

    @contextlib.contextmanager
    def watching(self):
        """Return the context in which the step is to be traced."""
        train_step = self._model.train_step

        def taped_train_step(*args, **kwargs):
            with tf.GradientTape() as self._replica.tape:
                return train_step(*args, **kwargs)

        taped = {"train_step": taped_train_step} if self.sampling else {}
        with replaced_attributes(self._model, **taped), super().watching():
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
            # Scaled like the step's, so that half precision loses as little of it.
            true = tape.gradient(loss, list(variables), output_gradients=factor)
        both = [
            dict(zip(map(id, variables), of_one, strict=True))
            for of_one in ([own_product(gradient) for gradient in gradients], true)
        ]
        both = [[of_one.get(id(v)) for v in self.variables] for of_one in both]
        self._sums.assign(alignment_sums(*map(sum_over_replicas, both)))
        self._measured = True

    def alignment_sums(self):
        """Return the last sums, (variables, 5), or None where the train step shows no loss."""
        return self._read(self._sums) if self._measured else None
