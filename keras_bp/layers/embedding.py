"""Embedding that reads the rows it needs, never the whole table."""

from typing import Any

import keras
import tensorflow as tf

from keras_bp._arguments import check_flag, check_positive_integer, check_table
from keras_bp._keras import serializable


@serializable
class Embedding(keras.layers.Embedding):
    """Look-up of rows in a table: `outputs[..., :] = embeddings[inputs[...], :]`.

    Drop-in for `keras.layers.Embedding`: the same constructor, weights and files. Its gradient is
    sparse, the rows of the ids in the batch:

        d embeddings[u] = sum of d outputs[k] over all k with inputs[k] = u

    Keras reads the whole table before it looks up rows; as soon as an optimizer updates single rows
    TensorFlow then copies the table (12 ms per step for 100,000 x 64). This layer reads only the
    rows, so that with `LazyAdam` a step costs what its rows cost. Layers with LoRA
    or quantization, and sparse inputs, run Keras's own code.

    Args:
        input_dim: positive integer, the number of rows; ids lie in [0, input_dim).
        output_dim: positive integer, the length of a row.
        embeddings_initializer: initializer of the table. Defaults to `"uniform"`.
        embeddings_regularizer: regularizer of the table, or `None`. It makes the gradient dense.
        embeddings_constraint: constraint of the table, or `None`. It reads and writes all rows.
        mask_zero: whether id 0 stands for padding and is masked. Defaults to `False`.
        weights: array (input_dim, output_dim), the first table, or `None`.
        lora_rank: positive integer, the rank of a low-rank update that is trained in place of the
            table, or `None`.
        lora_alpha: number that scales the low-rank update by `lora_alpha / lora_rank`.
        quantization_config: a `keras.quantizers.QuantizationConfig`, or `None`.
        **kwargs: arguments of every Keras layer, such as `name`, `dtype` and `trainable`.

    Call arguments:
        inputs: integer tensor of any shape, dense or ragged. Negative ids count from the end. An
            id out of range raises an error on a CPU, but where XLA compiles (`jit_compile=True`) it
            silently reads the first or last row, as in Keras's layer.

    Output shape:
        `(*inputs.shape, output_dim)`.

    Raises:
        ValueError: if `input_dim` or `output_dim` is not a positive integer, or `weights` is of
            another shape.

    Example:
        >>> layer = keras_bp.layers.Embedding(10, 4)
        >>> layer(np.array([[1, 2, 1]])).shape
        TensorShape([1, 3, 4])
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        weights: Any = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ) -> None:
        check_positive_integer("input_dim", input_dim)
        check_positive_integer("output_dim", output_dim)
        if weights is not None:
            weights = check_table("weights", weights, (input_dim, output_dim))
        if lora_rank is not None:
            check_positive_integer("lora_rank", lora_rank)
        super().__init__(
            input_dim,
            output_dim,
            embeddings_initializer=embeddings_initializer,
            embeddings_regularizer=embeddings_regularizer,
            embeddings_constraint=embeddings_constraint,
            mask_zero=check_flag("mask_zero", mask_zero),
            weights=weights,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            quantization_config=quantization_config,
            **kwargs,
        )

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        """Add a weight, as Keras does, but one that a mixed policy does not cast in full."""
        return super().add_weight(*args, **{"autocast": False, **kwargs})

    def call(self, inputs: Any) -> Any:
        """Look up the rows of the ids in `inputs`."""
        if self.lora_enabled or self.quantization_mode or isinstance(inputs, tf.SparseTensor):
            return super().call(inputs)
        if isinstance(inputs, tf.RaggedTensor):
            return inputs.with_flat_values(self.call(inputs.flat_values))
        ids = tf.convert_to_tensor(inputs)
        if ids.dtype not in (tf.int32, tf.int64):
            ids = tf.cast(ids, tf.int32)
        ids = tf.where(ids < 0, ids + self.input_dim, ids)
        return tf.cast(self._look_up(ids), self.compute_dtype)

    def _look_up(self, ids):
        # From the tf.Variable: a Keras variable would be read in full first.
        return tf.gather(self._embeddings.value, ids)

    def quantize(
        self, mode: str | None = None, type_check: bool = True, config: Any = None
    ) -> None:
        """Quantize the weights in place, as `keras.layers.Embedding.quantize` does."""
        # Keras refuses subclasses of its Embedding, as they might compute something else.
        type_check = type_check and type(self) is not Embedding
        super().quantize(mode, type_check=type_check, config=config)
