"""Layer that sends the output's error straight to the hidden layers."""

import math

import keras
import tensorflow as tf

from keras_bp import ops
from keras_bp._keras import serializable
from keras_bp.layers._kernel_feedback import get_initializer


@serializable
class DirectFeedback(keras.layers.Layer):
    """Hands the network's output on, and its error to each hidden layer.

    Direct feedback alignment: the layer stands behind the last one of a network and is called with
    its output z and the hidden layers' outputs h_1, h_2, .... It returns z. Backward, from the
    error e = dL/dz of an example as the loss gives it,

        dz = e,    dh_l = e B_l

    with a fixed random matrix B_l for each hidden layer. `Detach` after each h_l, on its way to the
    next layer, keeps away what backpropagation would bring. Of a chain of layers
    `keras_bp.feedback.direct_feedback_model` makes such a network.

    Where z is a sigmoid or a softmax whose logits travel along with it, as those of Keras's and
    this package's layers do, and the loss takes these, then e is their error, `prediction - target`
    for a cross-entropy of probabilities.

    Args:
        feedback_initializer: Initializer of the B_l, of shape `(outputs, n)`, where n is the number
            of entries of h_l for an example, or `None`, the default, for uniform numbers within
            +-1 / sqrt(outputs).
        **kwargs: Arguments of every Keras layer, such as `name` and `dtype`.

    Call arguments:
        inputs: List `[z, h_1, ...]` of tensors: z of shape `(batch, outputs)`, each h of shape
            `(batch, ...)`, known but for the batch.

    Output shape:
        That of z, and its dtype, whatever the layer's.

    Raises:
        ValueError: If the inputs are not such a list.

    Example:
        >>> x, hidden = keras.Input((4,)), keras_bp.layers.Dense(8, "tanh")
        >>> h = hidden(x)
        >>> z = keras_bp.layers.Dense(3)(keras_bp.layers.Detach()(h))
        >>> model = keras.Model(x, keras_bp.layers.DirectFeedback()([z, h]))
        >>> model.layers[-1].weights[0].shape
        TensorShape([3, 8])

    References:
        Nøkland, 2016, "Direct feedback alignment provides learning in deep neural networks",
        equation 7.
    """

    def __init__(self, feedback_initializer=None, **kwargs):
        super().__init__(**kwargs)
        # Outputs in float32 stay so where the hidden layers compute in half precision.
        self.autocast = False
        self.feedback_initializer = get_initializer(feedback_initializer, "fan_in")

    def build(self, input_shape):
        """Create the fixed matrix of each hidden layer."""
        outputs, *hidden = _checked(input_shape)
        self.feedback_matrices = [
            self.add_weight(
                name=f"feedback_{number}",
                shape=(outputs[1], math.prod(shape[1:])),
                initializer=_its_own(self.feedback_initializer, number),
                trainable=False,
            )
            for number, shape in enumerate(hidden)
        ]

    def call(self, inputs):
        """Return the first of the inputs."""
        z, *hidden = (tf.convert_to_tensor(tensor) for tensor in inputs)
        hidden = [tf.cast(h, z.dtype) for h in hidden]
        feedback = [
            tf.cast(keras.ops.convert_to_tensor(b), z.dtype) for b in self.feedback_matrices
        ]
        outputs = ops.broadcast_error(z, hidden, feedback)
        logits = getattr(inputs[0], "_keras_logits", None)
        if logits is not None:
            # A loss that finds these differentiates by them, and not by the probabilities.
            outputs._keras_logits = ops.broadcast_error(logits, hidden, feedback)
            name = getattr(inputs[0], "_keras_bp_activation", None)
            if name is not None:
                outputs._keras_bp_activation = name
        return outputs

    def compute_output_spec(self, inputs):
        """Return shape and dtype of the first of the inputs."""
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)

    def get_config(self):
        """Return the arguments that make the same layer again."""
        initializer = keras.initializers.serialize(self.feedback_initializer)
        return {**super().get_config(), "feedback_initializer": initializer}


def _its_own(initializer, number):
    """Return the initializer of one matrix: called twice, Keras's draw the same numbers again."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    seed = config.get("seed")
    if isinstance(seed, int):
        config["seed"] += number
    elif seed is not None:  # a generator, which draws others each time
        return initializer
    return type(initializer).from_config(config)


def _checked(shapes):
    shapes = list(shapes)
    known = len(shapes) > 1 and all(isinstance(shape, list | tuple) for shape in shapes)
    if not (
        known
        and len(shapes[0]) == 2
        and all(shape and None not in shape[1:] for shape in map(tuple, shapes))
    ):
        raise ValueError(
            "`inputs` must be a list [outputs, hidden, ...] of two tensors or more: outputs of "
            "shape (batch, outputs), the others of known shape but for the batch. "
            f"Received: shapes {shapes}"
        )
    return [tuple(shape) for shape in shapes]
