"""Layer that hands its input on and nothing back."""

import keras

from keras_bp import ops
from keras_bp._keras import serializable


@serializable
class Detach(keras.layers.Layer):
    """Hands its input on, and no gradient back.

    Between the hidden layers of a network that direct feedback alignment trains: what reaches a
    hidden layer then comes from `DirectFeedback` alone. Inside
    `keras_bp.feedback.exact_gradients()` the gradient passes.

    Args:
        **kwargs: Arguments of every Keras layer, such as `name` and `dtype`.

    Call arguments:
        inputs: Floating-point tensor of any shape.

    Output shape:
        That of the inputs, and their dtype, whatever the layer's.

    Example:
        >>> keras_bp.layers.Detach()(np.ones((2, 3), "float32")).shape
        TensorShape([2, 3])
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.autocast = False

    def call(self, inputs):
        """Return the inputs."""
        return ops.detach(inputs)

    def compute_output_spec(self, inputs):
        """Return shape and dtype of the inputs."""
        return keras.KerasTensor(inputs.shape, inputs.dtype)
