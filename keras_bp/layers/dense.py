"""Dense layer whose backward pass is written out."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_bp import ops
from keras_bp._arguments import as_floating, check_flag, check_positive_integer
from keras_bp._keras import serializable, set_logits

# Keras's activations that `ops.dense` knows: (the function that a layer holds, the op's name).
_FUSED = [
    (None, None),
    (keras.activations.linear, None),
    (keras.activations.relu, "relu"),
    (keras.activations.tanh, "tanh"),
]
# A loss needs the logits of these: the affine map and the activation stay two ops.
_WITH_LOGITS = [(keras.activations.sigmoid, ops.sigmoid), (keras.activations.softmax, ops.softmax)]


@serializable
class Dense(keras.layers.Dense):
    """Densely connected layer, `g(x kernel + bias)`, with its gradient in closed form.

    Drop-in for `keras.layers.Dense`: the same constructor, weights, files, LoRA and quantization.
    Its backward pass is that of `keras_bp.ops.dense`: one rule for the product, the bias and the
    activation, which keeps only the input, the kernel and the activation:

        dz = da * g'(z),    dkernel = x^T dz,    dbias = sum(dz),    dx = dz kernel^T

    with the activations `linear`, `relu`, `tanh`, `sigmoid` and `softmax`; any other is applied as
    Keras does. After `sigmoid` and `softmax` the output carries its logits, so that a
    cross-entropy of probabilities, Keras's or this package's, is computed from the logits and its
    gradient is `dz = a - y`. Quantized layers and sparse inputs run Keras's own code.

    Args:
        units: positive integer, the length of the output's last axis.
        activation: name or function of an activation, or `None` for none.
        use_bias: whether a bias is added. Defaults to `True`.
        kernel_initializer: initializer of the kernel. Defaults to `"glorot_uniform"`.
        bias_initializer: initializer of the bias. Defaults to `"zeros"`.
        kernel_regularizer: regularizer of the kernel, or `None`.
        bias_regularizer: regularizer of the bias, or `None`.
        activity_regularizer: regularizer of the output, or `None`.
        kernel_constraint: constraint of the kernel, or `None`.
        bias_constraint: constraint of the bias, or `None`.
        lora_rank: positive integer, the rank of a low-rank update that is trained in place of the
            kernel, or `None`.
        lora_alpha: number that scales the low-rank update by `lora_alpha / lora_rank`.
        quantization_config: a `keras.quantizers.QuantizationConfig`, or `None`.
        **kwargs: arguments of every Keras layer, such as `name`, `dtype` and `trainable`.

    Call arguments:
        inputs: tensor of shape `(batch, ..., features)`, rank 2 or more.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        ValueError: if `units` or `lora_rank` is not a positive integer, or an input's last axis is
            not as long as at the build.

    Example:
        >>> layer = keras_bp.layers.Dense(8, activation="relu")
        >>> layer(np.ones((2, 3), "float32")).shape
        TensorShape([2, 8])

    References:
        Rumelhart, Hinton and Williams, 1986, "Learning representations by back-propagating errors",
        equations 4 to 7.
    """

    def __init__(
        self,
        units: int,
        activation: str | Callable | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ) -> None:
        check_positive_integer("units", units)
        if lora_rank is not None:
            check_positive_integer("lora_rank", lora_rank)
        super().__init__(
            units,
            activation=activation,
            use_bias=check_flag("use_bias", use_bias),
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            quantization_config=quantization_config,
            **kwargs,
        )

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Apply the layer; `training` changes nothing."""
        if isinstance(inputs, tf.SparseTensor):
            return super().call(inputs, training=training)
        inputs = as_floating(inputs, self.compute_dtype)
        weights = [self.kernel] if self.bias is None else [self.kernel, self.bias]
        weights = [keras.ops.convert_to_tensor(weight) for weight in weights]
        dtype = keras.backend.result_type(inputs.dtype, *(weight.dtype for weight in weights))
        inputs, kernel, *rest = (tf.cast(tensor, dtype) for tensor in (inputs, *weights))
        bias = rest[0] if rest else None
        for function, name in _FUSED:
            if self.activation is function:
                return ops.dense(inputs, kernel, bias, name)
        logits = ops.dense(inputs, kernel, bias)
        for function, activate in _WITH_LOGITS:
            if self.activation is function:
                outputs = activate(logits)
                set_logits(outputs, logits, activate.__name__)
                return outputs
        return self.activation(logits)

    def quantize(
        self, mode: str | None = None, type_check: bool = True, config: Any = None
    ) -> None:
        """Quantize the weights in place, as `keras.layers.Dense.quantize` does."""
        # Keras refuses subclasses of its Dense, as they might compute something else. This one
        # computes the same.
        type_check = type_check and type(self) is not Dense
        super().quantize(mode, type_check=type_check, config=config)
