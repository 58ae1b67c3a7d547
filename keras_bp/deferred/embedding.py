"""Embedding that reads the rows that `DeferredAdam` has skipped as if it had not."""

from typing import Any

import keras
import tensorflow as tf

from keras_bp._arguments import check_table
from keras_bp._keras import serializable
from keras_bp.deferred.rows import DeferredRows, DeferredTable
from keras_bp.layers.embedding import Embedding


@serializable
class DeferredEmbedding(Embedding):
    """Embedding for tables that `keras_bp.optimizers.DeferredAdam` trains.

    `DeferredAdam` updates a row only when it is in the batch; Adam would have moved it in the steps
    between, too. This layer holds what follows from these missed steps (Adam's averages, the number
    of each row's last update) as weights, and reads every row as Adam would have left it:

        outputs = embeddings[u] - what row u missed since its last update

    Reading changes nothing: training, `evaluate`, `predict`, `export` and a loaded file all see
    the same table, without the optimizer. With another optimizer no step is ever missed, and the
    layer is an `Embedding` with unused weights; after a loop with `DeferredAdam`, call its
    `catch_up()` before another optimizer continues.

    `layer.embeddings` is the table up to date, as a tensor that can be read and differentiated.
    The first of `layer.weights` is the table as stored, which may be behind within a training. It
    is brought up to date by `optimizer.catch_up()`, at the end of `fit`, and outside of a step when
    it is read by `get_weights`, `numpy` or `np.array` and before it is set (`set_weights`,
    `assign`): so the weights of two models can be exchanged and averaged. All else reads it as
    stored: its `value`, arithmetic, slices, `tf.convert_to_tensor`, `keras.ops`, and the weight
    norms of `GradientMonitor`.
    The layer has seven weights, an `Embedding` one: a table goes in by `weights=table` and out as
    `layer.embeddings`.

    Args:
        input_dim: positive integer, the number of rows; ids lie in [0, input_dim).
        output_dim: positive integer, the length of a row.
        embeddings_initializer: initializer of the table. Defaults to `"uniform"`.
        mask_zero: whether id 0 stands for padding and is masked. Defaults to `False`.
        weights: array (input_dim, output_dim), the first table, or `None`.
        **kwargs: arguments of every Keras layer, such as `name`, `dtype` and `trainable`.

    Call arguments:
        inputs: integer tensor of any shape, dense or ragged. Negative ids count from the end. An
            id out of range raises an error on a CPU, but where XLA compiles (`jit_compile=True`) it
            silently reads the first or last row, as in Keras's layer.

    Output shape:
        `(*inputs.shape, output_dim)`.

    Raises:
        ValueError: if the table's dtype is not float32 or float64, if `input_dim` or `output_dim`
            is not a positive integer, or if LoRA or quantization is asked for.
        TypeError: if a regularizer or a constraint is given, which would read every row as it is
            stored in every step.

    Example:
        >>> layer = keras_bp.layers.DeferredEmbedding(10, 4)
        >>> layer(np.array([[1, 2, 1]])).shape
        TensorShape([1, 3, 4])
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        mask_zero: bool = False,
        weights: Any = None,
        **kwargs: Any,
    ) -> None:
        for name in ("embeddings_regularizer", "embeddings_constraint", "lora_rank"):
            if kwargs.pop(name, None) is not None:
                raise TypeError(
                    f"`{name}` must be None: it reads every row as it is stored. Received: {name}"
                )
        kwargs.update(embeddings_initializer=embeddings_initializer, mask_zero=mask_zero)
        super().__init__(input_dim, output_dim, **kwargs)
        if weights is not None:
            # Not by set_weights, as Keras does, which would require the other weights too.
            table = check_table("weights", weights, (input_dim, output_dim))
            self.build()
            self._embeddings.assign(table)

    def build(self, input_shape: Any = None) -> None:
        """Create the table, and the state of its rows' missed steps."""
        if self.built:
            return
        dtype = self.variable_dtype
        if dtype not in ("float32", "float64"):
            raise ValueError(
                "`dtype` must keep the table in float32 or float64; a mixed policy does. "
                f"Received: dtype={dtype!r}"
            )
        if self.quantization_mode:
            raise ValueError(
                "`dtype` must not quantize the table, which is trained. "
                f"Received: dtype={self.dtype_policy.name!r}"
            )
        # As Keras's `build` does, whose `add_weight` has no other class of variables.
        self._embeddings = DeferredTable(
            self.embeddings_initializer,
            shape=(self.input_dim, self.output_dim),
            dtype=dtype,
            autocast=False,
            name="embeddings",
        )
        # DeferredAdam finds them by this attribute when it is built on the variable.
        self._embeddings.deferred_rows = DeferredRows(
            self._add_state, rows=self.input_dim, columns=self.output_dim, dtype=dtype
        )

    def _add_state(self, shape, dtype, name, initializer="zeros"):
        return self.add_weight(
            shape=shape, dtype=dtype, name=name, initializer=initializer, trainable=False
        )

    @property
    def embeddings(self) -> tf.Tensor:
        """The table up to date: a tensor of shape (input_dim, output_dim)."""
        return self._look_up(tf.range(self.input_dim))

    def _look_up(self, ids):
        flat = tf.reshape(ids, [-1])
        missed = self._embeddings.deferred_rows.missed(flat)
        rows = super()._look_up(flat) - tf.stop_gradient(missed)
        return tf.reshape(rows, tf.concat([tf.shape(ids), [self.output_dim]], axis=0))

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the table itself is trained."""
        raise ValueError("DeferredEmbedding cannot train a low-rank update; use Embedding.")

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: copy `layer.embeddings` into an `Embedding` and quantize that."""
        raise ValueError("DeferredEmbedding cannot be quantized; use Embedding.")

    def save_own_variables(self, store: Any) -> None:
        """Save the table and the state of its rows' missed steps."""
        for place, variable in enumerate(self.weights):
            # As they are: saving changes nothing.
            store[str(place)] = variable.value.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Load the table and the state of its rows' missed steps."""
        keras.layers.Layer.load_own_variables(self, store)
