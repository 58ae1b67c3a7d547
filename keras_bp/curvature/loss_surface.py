"""The training loss of a batch as a function of the weights."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._keras import is_built, traced
from keras_bp._types import Array
from keras_bp.gradients import map_values, squared_norms, sum_over_replicas, unscale


class LossSurface:
    """The training loss of a batch as a function of the weights, its gradients and curvature.

    The loss is that of the model's `compute_loss` in training mode, penalties included. It is
    computed at weights that are handed over: the model's own, its batch statistics, the seeds of
    its layers, its metrics and its optimizer stay the same, bit for bit. All losses of one call
    draw on the same seeds, so two weights are compared under the same dropout.

    The methods are traced functions, not compiled by XLA. Under a strategy each replica has its
    part of the batch, and losses and gradients are summed over the replicas.

    Args:
        model: a built `keras.Model` that is compiled with a loss.

    Attributes:
        variables: the model's trainable variables; weights, updates and vectors are lists of
            tensors in their order.

    Raises:
        ValueError: if the model is not built, has no trainable variables, or no loss.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> surface = keras_bp.curvature.LossSurface(model)
        >>> batch = tf.ones((4, 2)), tf.ones((4, 1))
        >>> weights = [tf.zeros((2, 1)), tf.zeros((1,))]
        >>> float(surface.loss(weights, [-1 * w for w in weights], 0.0, batch))
        1.0
    """

    def __init__(self, model: keras.Model) -> None:
        if not is_built(model) or not model.trainable_variables:
            raise ValueError(
                "`model` must be built and have trainable variables. "
                f"Received: model {model.name!r}, built={is_built(model)}"
            )
        # What penalizes its outputs itself needs no other loss.
        if not getattr(model, "compiled", False):
            raise ValueError(
                f"`model` must be compiled with a loss. Received: model {model.name!r} without one"
            )
        self._model = model
        self.variables = list(model.trainable_variables)
        self._traced_weights = traced(self._weights, reduce_retracing=True)
        self._traced_update = traced(self._update, reduce_retracing=True)
        self._traced_loss = traced(self._loss, reduce_retracing=True)
        self._traced_gradients = traced(self._gradients, reduce_retracing=True)
        self._traced_parts = traced(self._parts, reduce_retracing=True)
        self._traced_product = traced(self._product, reduce_retracing=True)

    def weights(self) -> list[tf.Tensor]:
        """Return a copy of the model's trainable variables."""
        return self._traced_weights()

    def update_since(self, weights: Sequence[tf.Tensor], updates: int = 1) -> tuple[list, bool]:
        """Return how far the variables have moved in a number of updates, on average.

        Args:
            weights: list of tensors, the weights before.
            updates: integer, the number of updates.

        Returns:
            A list of tensors, and whether anything has moved, and nothing to NaN or infinity.
        """
        update, moved = self._traced_update(weights, tf.constant(updates))
        return update, bool(moved)

    def loss(
        self, weights: Sequence[tf.Tensor], update: Sequence[tf.Tensor], rate: float, batch: Any
    ) -> tf.Tensor:
        """Return the loss at `weights + rate * update`, a float64 scalar.

        Args:
            weights: list of tensors.
            update: list of tensors, likewise.
            rate: float.
            batch: structure of tensors, as `train_step` gets it: x, y and the sample weights.
        """
        return self._traced_loss(weights, update, tf.constant(rate, tf.float64), batch)

    def gradients(self, weights: Sequence[tf.Tensor], batch: Any) -> list[Any]:
        """Return the gradient of the loss, a list of tensors, `tf.IndexedSlices` or None.

        Args:
            weights: list of tensors.
            batch: structure of tensors.
        """
        return self._traced_gradients(weights, batch)

    def parts(self, weights: Sequence[tf.Tensor], batch: Any) -> tuple[tf.Tensor, list[Any]]:
        """Return squared norms of the gradients of two halves of a batch, and their sum.

        Of an odd number of examples the last one is left out; a batch of one is one part. Each half
        is a batch of its own: with batch statistics, masks and dropout as in training with it.

        Args:
            weights: list of tensors.
            batch: structure of tensors, whose first axis is the examples'.

        Returns:
            A float64 tensor of five numbers, which `part_estimates` takes: the squared norm of the
            sum of the parts' gradients, the sum of their squared norms, the number of parts, the
            sum of their numbers of examples, and that of the squares of these. And the sum of the
            gradients, a list of tensors or `tf.IndexedSlices`.
        """
        return self._traced_parts(weights, batch)

    def add_parts(
        self, a: tuple[tf.Tensor, list[Any]], b: tuple[tf.Tensor, list[Any]]
    ) -> tuple[tf.Tensor, list[Any]]:
        """Return what `parts` would of two batches together, of micro-batches for instance."""
        sums = [_sum(*pair) for pair in zip(a[1], b[1], strict=True)]
        square = tf.reduce_sum(squared_norms(sums))
        return tf.concat([[square], a[0][1:] + b[0][1:]], 0), sums

    def hessian_product(
        self, weights: Sequence[tf.Tensor], vector: Sequence[tf.Tensor], batch: Any
    ) -> list[tf.Tensor]:
        """Return the product of the Hessian with a vector, by the gradient of the gradient.

        Args:
            weights: list of tensors.
            vector: list of tensors, likewise.
            batch: structure of tensors.
        """
        return self._traced_product(weights, vector, batch)

    def check(self, name: str, tensors: Sequence[Array]) -> list[tf.Tensor]:
        """Return tensors of the variables' shapes and dtypes; raise an error for others.

        Args:
            name: the argument's name.
            tensors: list of arrays.
        """
        shapes = [tuple(v.shape) for v in self.variables]
        received = [np.shape(tensor) for tensor in tensors]
        if received != shapes:
            raise ValueError(
                f"`{name}` must hold an array for each trainable variable, of the shapes {shapes}. "
                f"Received: arrays of the shapes {received}"
            )
        pairs = zip(tensors, self.variables, strict=True)
        return [tf.cast(tf.convert_to_tensor(tensor), v.dtype) for tensor, v in pairs]

    def _weights(self):
        return [tf.identity(tf.convert_to_tensor(v)) for v in self.variables]

    def _update(self, weights, updates):
        pairs = zip(self.variables, weights, strict=True)
        update = [(tf.convert_to_tensor(v) - w) / tf.cast(updates, w.dtype) for v, w in pairs]
        moved = tf.reduce_any([tf.reduce_any(u != 0) for u in update])
        # A NaN must be seen here: the loss may be finite, as TensorFlow's relu of it is 0.
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(u)) for u in update])
        return update, moved & finite

    def _losses(self, weights, batches):
        """Return the loss of each of some batches, this replica's part, scaled as in training."""
        mapping = list(zip(self.variables, weights, strict=True))
        losses = []
        with keras.StatelessScope(mapping, collect_losses=True, initialize_variables=False):
            for batch in batches:
                x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
                outputs = self._model(x, training=True)
                losses.append(self._model.compute_loss(x, y, outputs, sample_weight, training=True))
        return losses

    def _scaled(self, loss):
        optimizer = getattr(self._model, "optimizer", None)
        return loss if optimizer is None else optimizer.scale_loss(loss)

    def _in_replicas(self, function, *arguments):
        strategy = self._model.distribute_strategy
        results = strategy.run(function, args=arguments)
        return tf.nest.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], results
        )

    def _loss(self, weights, update, rate, batch):
        def loss(weights, update, rate, batch):
            moved = [w + tf.cast(rate, w.dtype) * u for w, u in zip(weights, update, strict=True)]
            [loss] = self._losses(moved, [batch])
            return sum_over_replicas([tf.cast(loss, tf.float64)])[0]

        return self._in_replicas(loss, weights, update, rate, batch)

    def _each_gradient(self, weights, batches):
        """Return the gradient of each batch, this replica's part, without the loss's scaling."""
        with tf.GradientTape(persistent=len(batches) > 1) as tape:
            tape.watch(weights)
            scaled = [self._scaled(loss) for loss in self._losses(weights, batches)]
        factor = self._scaled(tf.ones(()))
        gradients = [tape.gradient(loss, weights) for loss in scaled]
        return [[unscale(gradient, factor) for gradient in each] for each in gradients]

    def _gradients(self, weights, batch):
        def gradients(weights, batch):
            return sum_over_replicas(self._each_gradient(weights, [batch])[0])

        return self._in_replicas(gradients, weights, batch)

    def _parts(self, weights, batch):
        def parts(weights, batch):
            rows = tf.shape(keras.tree.flatten(batch)[0])[0] // 2
            halves = [_rows(batch, 0, rows), _rows(batch, rows, 2 * rows)]
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            each = [
                [map_values(lambda values: values * replicas, gradient) for gradient in own]
                for own in self._each_gradient(weights, halves)
            ]
            own = sum(tf.reduce_sum(squared_norms(gradients)) for gradients in each)
            size = tf.cast(rows, tf.float64)
            numbers = tf.stack([own, 2.0, 2 * size, 2 * size**2])
            sums = [_sum(*pair) for pair in zip(*each, strict=True)]
            numbers, *sums = sum_over_replicas([numbers, *sums])
            square = tf.reduce_sum(squared_norms(sums))
            return tf.concat([[square], numbers], 0), sums

        return self._in_replicas(parts, weights, batch)

    def _product(self, weights, vector, batch):
        def product(weights, vector, batch):
            with tf.GradientTape() as outer:
                outer.watch(weights)
                with tf.GradientTape() as tape:
                    tape.watch(weights)
                    [loss] = self._losses(weights, [batch])
                    loss = self._scaled(loss)
                gradients = tape.gradient(loss, weights)
                present = [i for i, gradient in enumerate(gradients) if gradient is not None]
                gradients = [tf.convert_to_tensor(gradients[i]) for i in present]
            vector = [tf.cast(vector[i], gradients[k].dtype) for k, i in enumerate(present)]
            products = outer.gradient(gradients, weights, output_gradients=vector)
            factor = self._scaled(tf.ones(()))
            products = [
                tf.zeros_like(w) if p is None else tf.convert_to_tensor(unscale(p, factor))
                for p, w in zip(products, weights, strict=True)
            ]
            return sum_over_replicas(products)

        return self._in_replicas(product, weights, vector, batch)


def as_batch(x: Array, y: Array, sample_weight: Array | None) -> tuple:
    """Return the data of a batch as `train_step` gets it, of tensors."""
    parts = (x, y) if sample_weight is None else (x, y, sample_weight)
    return tuple(tf.nest.map_structure(tf.convert_to_tensor, part) for part in parts)


def _rows(batch, first, last):
    """Return some examples of a batch."""

    def rows(leaf):
        if isinstance(leaf, tf.SparseTensor):
            rest = leaf.dense_shape[1:]
            start = tf.concat([[tf.cast(first, tf.int64)], tf.zeros_like(rest)], 0)
            return tf.sparse.slice(
                leaf, start, tf.concat([[tf.cast(last - first, tf.int64)], rest], 0)
            )
        return leaf[first:last]

    return tf.nest.map_structure(lambda leaf: leaf if leaf is None else rows(leaf), batch)


def _sum(a, b):
    """Return the sum of two gradients, dense or sparse."""
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, tf.IndexedSlices) and isinstance(b, tf.IndexedSlices):
        values, indices = tf.concat([a.values, b.values], 0), tf.concat([a.indices, b.indices], 0)
        return tf.IndexedSlices(values, indices, a.dense_shape)
    return tf.convert_to_tensor(a) + tf.convert_to_tensor(b)
