"""Sequences of batches and rates, played through an embedding and an optimizer of the package."""

import keras
import numpy as np
import tensorflow as tf

from keras_bp.layers import DeferredEmbedding, Embedding
from keras_bp.optimizers import DeferredAdam


class Listed(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rates from a list, that of update t in the place t - 1."""

    def __init__(self):
        self.rates = tf.Variable(tf.zeros(1, tf.float32), shape=[None], trainable=False)

    def __call__(self, step):
        """Return the rate of an update."""
        return tf.gather(self.rates, step)


class Replay:
    """A table and an optimizer, traced once for all sequences.

    The loss of a batch with the rows w_1, ..., w_B is

        sum_i (h_i / 2 (w_i - c_i)^2 + z_i w_i) + s / 2 (sum_i w_i - q)^2

    Args:
        optimizer: class, `DeferredAdam` or one for Keras's embeddings.
        rows: int, the rows of the table.
        columns: int.
        dtype: "float32" or "float64".
        box: float, the weights are projected onto [-box, box] after each update, or `None`.
        **arguments: of the optimizer, without the rate.
    """

    def __init__(self, optimizer, rows, columns, dtype="float64", box=None, **arguments):
        self.deferred, self.box, self.dtype = optimizer is DeferredAdam, box, dtype
        self.rates = Listed()
        options = {}
        if box is not None and not self.deferred:
            options = {"embeddings_constraint": lambda w: tf.clip_by_value(w, -box, box)}
        layer = DeferredEmbedding if self.deferred else Embedding
        self.layer = layer(rows, columns, dtype=dtype, **options)
        self.layer.build()
        self.optimizer = optimizer(self.rates, **arguments)
        self.optimizer.build(self.layer.trainable_weights)
        state = [*self.layer.weights[1:], *self.optimizer.variables]
        self._at_first = [
            (variable, variable.numpy()) for variable in state if "taken_over" not in variable.path
        ]
        self._play = tf.function(self._steps, autograph=False)

    def run(self, table, ids, rates, h=0.0, c=0.0, z=0.0, s=0.0, q=0.0):
        """Return what the layer reads in each step, and the table after the last.

        Args:
            table: array (rows, columns), the weights before the first update.
            ids: array (steps, B), -1 for none.
            rates: array (steps,).
            h: number or array (steps, B).
            c: number or array (steps, B, columns).
            z: number or array (steps, B, columns).
            s: number or array (steps,).
            q: number or array (steps, columns).
        """
        steps, batch = ids.shape
        self.layer.weights[0].assign(table)
        for variable, value in self._at_first:
            variable.assign(value)
        self.rates.rates.assign(rates.astype("float32"))
        shapes = {"h": (batch, 1), "c": (batch, 0), "z": (batch, 0), "s": (1, 1), "q": (1, 0)}
        given = {"h": h, "c": c, "z": z, "s": s, "q": q}
        columns = table.shape[1]
        arrays = [
            np.broadcast_to(
                np.reshape(given[name], (steps, rows, -1)) if np.ndim(given[name]) else given[name],
                (steps, rows, width or columns),
            )
            for name, (rows, width) in shapes.items()
        ]
        inputs = tf.constant(ids), *(tf.constant(a, self.dtype) for a in arrays)
        # TensorFlow warns of a method that is traced for each of many objects.
        reads = self._play.get_concrete_function(*inputs)(*inputs)
        after = self.layer.embeddings.numpy()
        return reads.numpy(), after if self.box is None else np.clip(after, -self.box, self.box)

    def _steps(self, ids, *arrays):
        steps, batch = tf.shape(ids)[0], ids.shape[1]
        columns = self.layer.output_dim

        def body(t, reads):
            kept = tf.where(ids[t] >= 0)[:, 0]
            present = tf.gather(ids[t], kept)
            h, c, z = (tf.gather(array[t], kept) for array in arrays[:3])
            s, q = (array[t][0] for array in arrays[3:])
            with tf.GradientTape() as tape:
                rows = self.layer(present)
                loss = tf.reduce_sum(0.5 * h * (rows - c) ** 2 + z * rows)
                loss += tf.reduce_sum(0.5 * s * (tf.reduce_sum(rows, axis=0) - q) ** 2)
            variables = self.layer.trainable_weights
            gradients = tape.gradient(loss, variables)
            if self.box is not None:
                inside = tf.clip_by_value(rows, -self.box, self.box)
                if self.deferred:
                    # The step and those that are missed after it have one sign, that of m: to
                    # project once, where the row is read next, is to project after each.
                    # (Each id is there once in these batches.)
                    table = variables[0].value
                    table.scatter_add(tf.IndexedSlices(inside - rows, present))
                rows = inside
            self.optimizer.apply(gradients, variables)
            return t + 1, reads.write(t, tf.scatter_nd(kept[:, None], rows, (batch, columns)))

        reads = tf.TensorArray(self.dtype, steps, element_shape=(batch, columns))
        return tf.while_loop(lambda t, _: t < steps, body, (0, reads))[1].stack()
