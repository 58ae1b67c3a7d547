"""Layers that feedback alignment trains: by a fixed matrix each, or by the output's error."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bp._arguments import (
    as_floating,
    check_choice,
    check_flag,
    check_positive_integer,
)
from keras_bp._keras import logits_of, serializable, set_logits
from keras_bp.feedback import ops

_KINDS = ("random", "sign")
_PADDINGS = ("valid", "same")


class _KernelFeedback(keras.layers.Layer):
    """Mixin for a Keras layer with a kernel: a second kernel for the backward pass.

    A base before `Dense` or `Conv2D`, it adds the weight, its entry in files and its configuration.
    """

    lora_rank: int | None

    def _set_feedback(self, feedback, initializer):
        self.feedback = check_choice("feedback", feedback, _KINDS)
        self.feedback_initializer = _initializer(initializer, "fan_out")

    def build(self, input_shape: Any) -> None:
        """Create the weights: Keras's, and the fixed `feedback_kernel` of the kernel's shape."""
        if self.quantization_mode is not None:
            raise ValueError(
                f"`{type(self).__name__}` cannot be quantized: the inputs' gradient would go "
                f"through the kernel. Received: dtype={self.dtype_policy.name!r}"
            )
        # Keras takes no further weight once it has added LoRA's.
        rank, self.lora_rank = self.lora_rank, None
        super().build(input_shape)
        self.feedback_kernel = self.add_weight(
            name="feedback_kernel",
            shape=self._kernel.shape,
            initializer=self.feedback_initializer,
            trainable=False,
        )
        if rank:
            self.enable_lora(rank, lora_alpha=self.lora_alpha)

    def _op_arguments(self, inputs, kernel):
        """Return inputs, kernel and the backward pass's kernel as tensors of one dtype."""
        inputs = as_floating(inputs, self.compute_dtype)
        kernel = keras.ops.convert_to_tensor(kernel)
        dtype = keras.backend.result_type(inputs.dtype, kernel.dtype)
        inputs, kernel = tf.cast(inputs, dtype), tf.cast(kernel, dtype)
        back = tf.cast(keras.ops.convert_to_tensor(self.feedback_kernel), dtype)
        if self.feedback == "sign":
            back = tf.sign(kernel) * tf.abs(back)
        return inputs, kernel, back

    def quantize(
        self, mode: str | None = None, type_check: bool = True, config: Any = None
    ) -> None:
        """Refuse, as the inputs' gradient would go through the kernel."""
        # On this error `keras.Model.quantize` skips the layer, with a warning.
        raise NotImplementedError(
            f"`{type(self).__name__}` cannot be quantized. Received: mode={mode!r}"
        )

    def save_own_variables(self, store: Any) -> None:
        """Save Keras's weights and the feedback kernel."""
        super().save_own_variables(store)
        if self.built:
            store["feedback_kernel"] = self.feedback_kernel

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved."""
        if self.built and "feedback_kernel" not in store.keys():
            raise ValueError(
                f"The file must hold the `feedback_kernel` of layer {self.name!r}; weights of the "
                f"Keras layer go in by `set_weights`. Received: entries {sorted(store.keys())}"
            )
        super().load_own_variables(store)
        if self.built:
            self.feedback_kernel.assign(store["feedback_kernel"])

    def get_config(self) -> dict[str, Any]:
        """Return the layer's arguments."""
        config = super().get_config()
        config.pop("quantization_config", None)
        config["feedback"] = self.feedback
        config["feedback_initializer"] = keras.initializers.serialize(self.feedback_initializer)
        return config


@serializable
class FeedbackDense(_KernelFeedback, keras.layers.Dense):
    """Densely connected layer whose backward pass takes a fixed random matrix for the kernel's.

    Feedback alignment: the layer computes what `Dense` computes, but passes the error on to the
    layer before it through `feedback_kernel`, B, of the kernel's shape, drawn once and never
    trained:

        dx = dz B^T    where backpropagation has    dx = dz kernel^T

    Kernel and bias get their ordinary gradients from the signal that comes in, `dkernel = x^T dz`
    and `dbias = sum(dz)`; training turns the kernels so that B^T becomes useful. In a network
    the rule is `delta_l = (delta_{l+1} B_{l+1}^T) * f'(z_l)`. The first layer's B is not used, as
    nothing is trained before it; the last layer gets the true gradient.

    The errors of a deep network keep their size where B's entries have the variance 1 / units,
    `VarianceScaling(1, "fan_out", "uniform")`; the default has a third of it.

    Activation, regularizers, constraints, inputs of any rank and LoRA are those of Keras's layer;
    with LoRA too the inputs' gradient goes through B. Quantization and sparse inputs are refused.
    Weights of a `Dense` go in by `set_weights([kernel, bias, B])`.

    Args:
        units: positive integer, the length of the output's last axis.
        activation: name or function of an activation, or `None` for none.
        use_bias: whether a bias is added. Defaults to `True`.
        feedback: `"random"`, the default, or `"sign"` for sign-symmetric feedback, `sign(kernel)
            |B|`: the kernel's signs, but not its values.
        feedback_initializer: initializer of B, or `None`, the default, for uniform numbers within
            +-1 / sqrt(units).
        **kwargs: further arguments of `keras.layers.Dense`, such as `kernel_initializer`,
            `lora_rank`, `name` and `dtype`.

    Call arguments:
        inputs: tensor of shape `(batch, ..., features)`, rank 2 or more.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        ValueError: if `units` is not a positive integer, `feedback` is another string, or the
            layer's dtype is quantized.
        TypeError: if the inputs are sparse.

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
        units: int,
        activation: str | Callable | None = None,
        use_bias: bool = True,
        feedback: str = "random",
        feedback_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        check_positive_integer("units", units)
        super().__init__(
            units, activation=activation, use_bias=check_flag("use_bias", use_bias), **kwargs
        )
        self._set_feedback(feedback, feedback_initializer)

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Apply the layer; `training` changes nothing."""
        if isinstance(inputs, tf.SparseTensor):
            raise TypeError(
                f"`inputs` must be dense in `{type(self).__name__}`; the first layer of a network "
                f"may as well be a `Dense`. Received: inputs={inputs}"
            )
        inputs, kernel, back = self._op_arguments(inputs, self.kernel)
        bias = None
        if self.bias is not None:
            bias = tf.cast(keras.ops.convert_to_tensor(self.bias), inputs.dtype)
        outputs = ops.feedback_dense(inputs, kernel, back, bias)
        return outputs if self.activation is None else self.activation(outputs)


@serializable
class FeedbackConv2D(_KernelFeedback, keras.layers.Conv2D):
    """Two-dimensional convolution whose backward pass takes a fixed random kernel for its own.

    Feedback alignment, as in `FeedbackDense`: the layer computes what `Conv2D` computes, but the
    error goes to the layer before it through `feedback_kernel`, B, of the kernel's shape, drawn
    once and never trained:

        dx = conv_transpose(dz, B)    where backpropagation has    conv_transpose(dz, kernel)

    Kernel and bias get their ordinary gradients from the signal that comes in.

    Args:
        filters: positive integer, the number of the output's channels.
        kernel_size: integer or pair of integers.
        strides: integer or pair of integers. Defaults to `(1, 1)`.
        padding: `"valid"`, the default, or `"same"`.
        feedback: `"random"`, the default, or `"sign"` for sign-symmetric feedback, `sign(kernel)
            |B|`: the kernel's signs, but not its values.
        feedback_initializer: initializer of B, or `None`, the default, for uniform numbers within
            +-1 / sqrt(fan out), where fan out is filters times positions in the kernel.
        **kwargs: further arguments of `keras.layers.Conv2D`, such as `activation`,
            `dilation_rate`, `data_format`, `name` and `dtype`; `groups` must be 1.

    Call arguments:
        inputs: tensor of shape `(batch, height, width, channels)`.

    Output shape:
        `(batch, new height, new width, filters)`.

    Raises:
        ValueError: if `feedback` is another string, `groups` is not 1, or the layer's dtype is
            quantized.

    Example:
        >>> layer = keras_bp.layers.FeedbackConv2D(8, 3, activation="relu")
        >>> layer(np.ones((2, 5, 5, 3), "float32")).shape
        TensorShape([2, 3, 3, 8])

    References:
        Bartunov et al., 2018, "Assessing the scalability of biologically-motivated deep learning
        algorithms and architectures", section 2.2.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        feedback: str = "random",
        feedback_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        check_positive_integer("filters", filters)
        if not isinstance(padding, str) or padding.lower() not in _PADDINGS:
            check_choice("padding", padding, _PADDINGS)
        super().__init__(filters, kernel_size, strides=strides, padding=padding, **kwargs)
        if self.groups != 1:
            raise ValueError(
                f"`groups` must be 1 in `{type(self).__name__}`. Received: groups={self.groups}"
            )
        self._set_feedback(feedback, feedback_initializer)

    def convolution_op(self, inputs: Any, kernel: Any) -> tf.Tensor:
        """Convolve; Keras's `call` adds bias and activation."""
        inputs, kernel, back = self._op_arguments(inputs, kernel)
        return ops.feedback_conv2d(
            inputs,
            kernel,
            back,
            strides=self.strides,
            padding=self.padding,
            dilations=self.dilation_rate,
            data_format=self.data_format,
        )


@serializable
class DirectFeedback(keras.layers.Layer):
    """Returns the network's output, and sends its error back to each hidden layer.

    Direct feedback alignment: the layer follows the last one of a network and is called with its
    output z and the hidden layers' outputs h_1, h_2, .... It returns z. Backward, from the error
    e = dL/dz of each example,

        dz = e,    dh_l = e B_l

    with a fixed random matrix B_l for each hidden layer. A `Detach` between h_l and the next layer
    stops the gradient of backpropagation. `keras_bp.feedback.direct_feedback_model` makes such a
    network of a chain of layers.

    Where z is a sigmoid or softmax that carries its logits, as Keras's and this package's layers
    leave them, and the loss uses these, e is their error: `prediction - target` for a cross-entropy
    of probabilities.

    Args:
        feedback_initializer: initializer of the B_l, of shape `(outputs, n)`, where n is the number
            of entries of h_l for an example, or `None`, the default, for uniform numbers within
            +-1 / sqrt(outputs).
        **kwargs: arguments of every Keras layer, such as `name` and `dtype`.

    Call arguments:
        inputs: list `[z, h_1, ...]` of tensors: z of shape `(batch, outputs)`, each h of shape
            `(batch, ...)`, known except for the batch.

    Output shape:
        That of z, and its dtype, whatever the layer's.

    Raises:
        ValueError: if the inputs are not such a list.

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

    def __init__(self, feedback_initializer: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Outputs stay in float32 where the hidden layers compute in half precision.
        self.autocast = False
        self.feedback_initializer = _initializer(feedback_initializer, "fan_in")

    def build(self, input_shape: Any) -> None:
        """Create the fixed matrix of each hidden layer."""
        outputs, *hidden = _checked(input_shape)
        self.feedback_matrices = [
            self.add_weight(
                name=f"feedback_{number}",
                shape=(outputs[1], math.prod(shape[1:])),
                initializer=_independent(self.feedback_initializer, number),
                trainable=False,
            )
            for number, shape in enumerate(hidden)
        ]

    def call(self, inputs: Sequence[Any]) -> tf.Tensor:
        """Return the first of the inputs."""
        z, *hidden = (tf.convert_to_tensor(tensor) for tensor in inputs)
        hidden = [tf.cast(h, z.dtype) for h in hidden]
        feedback = [
            tf.cast(keras.ops.convert_to_tensor(b), z.dtype) for b in self.feedback_matrices
        ]
        outputs = ops.broadcast_error(z, hidden, feedback)
        logits, activation = logits_of(inputs[0])
        if activation is not None:
            # A loss that finds these differentiates with respect to them, not to the probabilities.
            set_logits(outputs, ops.broadcast_error(logits, hidden, feedback), activation)
        return outputs

    def compute_output_spec(self, inputs: Sequence[Any]) -> keras.KerasTensor:
        """Return shape and dtype of the first of the inputs."""
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the layer's arguments."""
        initializer = keras.initializers.serialize(self.feedback_initializer)
        return {**super().get_config(), "feedback_initializer": initializer}


@serializable
class Detach(keras.layers.Layer):
    """Returns its input, and passes no gradient back.

    Use it between the hidden layers of a network that direct feedback alignment trains, so that
    the gradient of a hidden layer comes from `DirectFeedback` alone. Inside
    `keras_bp.feedback.exact_gradients()` the gradient passes.

    Args:
        **kwargs: arguments of every Keras layer, such as `name` and `dtype`.

    Call arguments:
        inputs: floating-point tensor of any shape.

    Output shape:
        That of the inputs, and their dtype, whatever the layer's.

    Example:
        >>> keras_bp.layers.Detach()(np.ones((2, 3), "float32")).shape
        TensorShape([2, 3])
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.autocast = False

    def call(self, inputs: Any) -> tf.Tensor:
        """Return the inputs."""
        return ops.detach(inputs)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Return shape and dtype of the inputs."""
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def _initializer(initializer, mode):
    """Return an initializer; `None` stands for a uniform one within +-1 / sqrt(fan).

    Args:
        initializer: anything that `keras.initializers.get` takes.
        mode: `"fan_out"` or `"fan_in"`, the one that the backward pass sums over.
    """
    if initializer is None:
        return keras.initializers.VarianceScaling(1 / 3, mode, "uniform")
    return keras.initializers.get(initializer)


def _independent(initializer, number):
    """Return the initializer of one matrix, as Keras's draw the same numbers at each call."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    seed = config.get("seed")
    if isinstance(seed, int):
        config["seed"] += number
    elif seed is not None:  # a generator, which draws different numbers each time
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
            "shape (batch, outputs), the others of a shape that is known except for the batch. "
            f"Received: shapes {shapes}"
        )
    return [tuple(shape) for shape in shapes]
