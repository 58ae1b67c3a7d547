"""Dense layer that is trained by feedback alignment."""

import keras
import tensorflow as tf

from keras_bp import ops
from keras_bp._keras import serializable
from keras_bp.layers._arguments import check_positive_integer
from keras_bp.layers._kernel_feedback import KernelFeedback


@serializable
class FeedbackDense(KernelFeedback, keras.layers.Dense):
    """Densely connected layer whose backward pass takes a fixed random matrix for the kernel's.

    Feedback alignment: the layer computes what `Dense` computes, but hands the error on to the
    layer before it through `feedback_kernel`, B, of the kernel's shape, drawn once and never
    trained:

        dx = dz B^T    where backpropagation has    dx = dz kernel^T

    Kernel and bias get their ordinary gradients from the signal that comes in, `dkernel = x^T dz`
    and `dbias = sum(dz)`; the kernels turn in training towards what makes B^T useful. In a network
    the rule is `delta_l = (delta_{l+1} B_{l+1}^T) * f'(z_l)`. The first layer's B is not used, as
    nothing is trained before it; the last layer gets the true gradient.

    The errors of a deep network keep their size where B's entries have the variance 1 / units,
    `VarianceScaling(1, "fan_out", "uniform")`; the default has a third of it.

    Activation, regularizers, constraints, inputs of any rank and LoRA are those of Keras's layer;
    with LoRA too the inputs' gradient goes through B. Quantization and sparse inputs are refused.
    Weights of a `Dense` go in by `set_weights([kernel, bias, B])`.

    Args:
        units: Positive integer, the length of the output's last axis.
        activation: Name or function of an activation, or `None` for none.
        use_bias: Whether a bias is added. Defaults to `True`.
        feedback: `"random"`, the default, or `"sign"` for sign-symmetric feedback, `sign(kernel)
            |B|`: the kernel's signs, but not its values.
        feedback_initializer: Initializer of B, or `None`, the default, for uniform numbers within
            +-1 / sqrt(units).
        **kwargs: Further arguments of `keras.layers.Dense`, such as `kernel_initializer`,
            `lora_rank`, `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., features)`, rank 2 or more.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        ValueError: If `units` is not a positive integer, `feedback` is no rule, or the layer's
            dtype is quantized.
        TypeError: If the inputs are sparse.

    Example:
        >>> layer = keras_bp.layers.FeedbackDense(8, activation="tanh")
        >>> layer(np.ones((2, 3), "float32")).shape
        TensorShape([2, 8])
        >>> [weight.name for weight in layer.non_trainable_weights]
        ['feedback_kernel']

    References:
        Lillicrap et al., 2016, "Random synaptic feedback weights support error backpropagation for
        deep learning", equation 2. Liao, Leibo and Poggio, 2016, "How important is weight symmetry
        in backpropagation?", for sign-symmetric feedback.
    """

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        feedback="random",
        feedback_initializer=None,
        **kwargs,
    ):
        check_positive_integer(units, "units")
        super().__init__(units, activation=activation, use_bias=use_bias, **kwargs)
        self._set_feedback(feedback, feedback_initializer)

    def call(self, inputs, training=None):
        """Apply the layer; `training` changes nothing."""
        if isinstance(inputs, tf.SparseTensor):
            raise TypeError(
                f"`{type(self).__name__}` needs dense inputs; a first layer may as well be a "
                f"`Dense`. Received: {inputs}"
            )
        inputs, kernel, back = self._op_arguments(inputs, self.kernel)
        bias = None
        if self.bias is not None:
            bias = tf.cast(keras.ops.convert_to_tensor(self.bias), inputs.dtype)
        outputs = ops.feedback_dense(inputs, kernel, back, bias)
        return outputs if self.activation is None else self.activation(outputs)
