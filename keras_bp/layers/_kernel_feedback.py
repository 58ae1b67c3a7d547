"""What the layers of feedback alignment share."""

import keras
import tensorflow as tf

from keras_bp.layers._arguments import floating_inputs

_RULES = ("random", "sign")


def get_initializer(initializer, mode):
    """Return an initializer; `None` stands for a uniform one within +-1 / sqrt(fan).

    Args:
        initializer: Anything that `keras.initializers.get` takes.
        mode: `"fan_out"` or `"fan_in"`, the one that the backward pass sums over.
    """
    if initializer is None:
        return keras.initializers.VarianceScaling(1 / 3, mode, "uniform")
    return keras.initializers.get(initializer)


class KernelFeedback:
    """Mixin for a Keras layer with a kernel: another one for its backward pass.

    It adds the weight, its place in files and its configuration. A mixin, since `Dense` and
    `Conv2D` have no ancestor but `Layer` in common, and a `build` and a file format each.
    """

    def _set_feedback(self, feedback, initializer):
        if feedback not in _RULES:
            raise ValueError(f"`feedback` must be one of {_RULES}. Received: feedback={feedback!r}")
        self.feedback = feedback
        self.feedback_initializer = get_initializer(initializer, "fan_out")

    def build(self, input_shape):
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
        inputs = floating_inputs(inputs, self.compute_dtype)
        kernel = keras.ops.convert_to_tensor(kernel)
        dtype = keras.backend.result_type(inputs.dtype, kernel.dtype)
        inputs, kernel = tf.cast(inputs, dtype), tf.cast(kernel, dtype)
        back = tf.cast(keras.ops.convert_to_tensor(self.feedback_kernel), dtype)
        if self.feedback == "sign":
            back = tf.sign(kernel) * tf.abs(back)
        return inputs, kernel, back

    def quantize(self, mode=None, type_check=True, config=None):
        """Refuse, as the inputs' gradient would go through the kernel."""
        # The error that makes `keras.Model.quantize` pass over a layer, with a warning.
        raise NotImplementedError(
            f"`{type(self).__name__}` cannot be quantized. Received: mode={mode!r}"
        )

    def save_own_variables(self, store):
        """Write Keras's weights, and the feedback's beside them."""
        super().save_own_variables(store)
        if self.built:
            store["feedback_kernel"] = self.feedback_kernel

    def load_own_variables(self, store):
        """Read what `save_own_variables` has written."""
        if self.built and "feedback_kernel" not in store.keys():
            raise ValueError(
                f"The file must hold the `feedback_kernel` of layer {self.name!r}; weights of the "
                f"Keras layer go in by `set_weights`. Received: entries {sorted(store.keys())}"
            )
        super().load_own_variables(store)
        if self.built:
            self.feedback_kernel.assign(store["feedback_kernel"])

    def get_config(self):
        """Return the arguments that make the same layer again."""
        config = super().get_config()
        config.pop("quantization_config", None)
        config["feedback"] = self.feedback
        config["feedback_initializer"] = keras.initializers.serialize(self.feedback_initializer)
        return config
