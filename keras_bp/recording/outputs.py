"""The outputs of a model's layers, measured while a step is traced."""

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._keras import compiled_by_xla, one_operation
from keras_bp._paths import layer_paths
from keras_bp._trial import replaced_attributes
from keras_bp.gradients import sum_over_replicas
from keras_bp.recording.histograms import NO_SAMPLE, sample_entries

STATISTICS = ("variance", "dead", "saturated", "not_finite", "values", "spread")
"""For each layer: the variance of its outputs; the share of its units that are nonzero in less than
1 % of the batch, NaN if its activation cannot die; the share of its outputs within 0.01 of a bound
of its activation, NaN if it has none; the share of its outputs that are NaN or infinite; the number
of values of a unit, over the batch and all positions; the variance between its units, 0 where all
give the same."""

BOUNDS = {"sigmoid": (0.0, 1.0), "hard_sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
_ACTIVE_SHARE, _NEAR = 0.01, 0.01
# If computed in one kernel with a product and a bias before them, these round differently.
_FUSED = {"Add", "AddV2", "BiasAdd", "Elu", "Sigmoid", "Tanh"}


class LayerOutputs:
    """Listens to the calls of a model's layers.

    A layer is what the model's `summary` lists, in the model or in models inside it, whatever it
    contains. A layer that is called several times counts with its last call.

    Args:
        model: a `keras.Model`.
        every: whether `layers` lists those without weights and activation too. `take` then skips
            a layer that TensorFlow computes in one kernel with an activation or a sum after it:
            another reader of the value between them would change how the step is rounded.

    Attributes:
        called: the layers in the order in which the last step first called them, and
        sources: dictionary, layer -> the layers whose outputs it was called with, None for an
            input that comes from elsewhere; both empty before a step.
    """

    def __init__(self, model: keras.Model, every: bool = False) -> None:
        self._model = model
        self._every = every
        self.called: list[keras.Layer] = []
        self.sources: dict[keras.Layer, list] = {}
        # The replicas of a MirroredStrategy are traced in a thread each.
        self._replica = threading.local()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Listen to the calls made inside the `with` block."""
        with contextlib.ExitStack() as stack:
            for layer in layer_paths(self._model):
                call = self._listening(layer, layer.call)
                stack.enter_context(replaced_attributes(layer, call=call))
            yield

    def _listening(self, layer, call):
        @functools.wraps(call)
        def listening_call(*args, **kwargs):
            outputs = call(*args, **kwargs)
            tensors = [output for output in tf.nest.flatten(outputs) if _has_units(output)]
            if tensors:
                inputs = [i for i in tf.nest.flatten((args, kwargs)) if _has_units(i)]
                self._seen()[layer] = inputs, tensors
            return outputs

        return listening_call

    def _seen(self):
        return vars(self._replica).setdefault("seen", {})

    def layers(self) -> list[keras.Layer]:
        """List the layers of a built model, those that hold weights or an activation or all."""
        every = list(layer_paths(self._model))
        if self._every:
            return every
        return [layer for layer in every if layer.weights or activation_of(layer) is not None]

    def take(self, layers: Sequence[keras.Layer]) -> list:
        """Return the layers' last outputs, None for a layer that was not called since."""
        seen, self._replica.seen = self._seen(), {}
        producers = {id(o): layer for layer, (_, outputs) in seen.items() for o in outputs}
        self.called = list(seen)
        self.sources = {
            layer: [producers.get(id(i)) for i in inputs] for layer, (inputs, _) in seen.items()
        }
        here = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        outputs = [seen[layer][1][0] if layer in seen else None for layer in layers]
        # The values of an inner tf.function or a loop cannot be read outside of it.
        outputs = [
            o if here is None or getattr(o, "graph", None) is here else None for o in outputs
        ]
        return [None if self._every and _is_fused(o) else o for o in outputs]


def statistics(
    layers: Sequence[keras.Layer], outputs: Sequence[Any], in_detail: Any = None
) -> tf.Tensor:
    """Return the statistics of the layers' outputs: float64, (layers, statistics).

    Under a strategy they are those of the whole batch, however the replicas share it.

    Args:
        layers: list of layers.
        outputs: list of their outputs, None where a layer was not called.
        in_detail: scalar bool tensor, whether variance and spread are of use, which may be NaN
            otherwise; None if these and the share that is not finite are of none.
    """
    present = [i for i, output in enumerate(outputs) if output is not None]
    pairs = [(layers[i], _wide(outputs[i])) for i in present]
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    rows = [tf.fill([1, len(STATISTICS)], tf.constant(np.nan, tf.float64))]
    if pairs:
        values = tf.cast(tf.stack([_values_of_a_unit(*pair) for pair in pairs]), tf.float64)
        active = [_active(*pair) if can_die(pair[0]) else None for pair in pairs]
        saturated = tf.cast(tf.stack([_saturated(*pair) for pair in pairs]), tf.float64)
        moments = _moments(pairs, True if several else in_detail)
        if several:
            values, active, saturated, moments = _over_replicas(values, active, saturated, moments)
        dead = tf.cast(tf.stack([_dead(share) for share in active]), tf.float64)
        _, variance, not_finite, spread = tf.unstack(moments, axis=1)
        rows += [tf.stack([variance, dead, saturated, not_finite, values, spread], axis=1)]
    places = [present.index(i) + 1 if i in present else 0 for i in range(len(layers))]
    return tf.gather(tf.concat(rows, axis=0), places)


def samples(outputs: Sequence[Any]) -> list[tf.Tensor]:
    """Sample the layers' outputs, see `sample_entries`.

    Under a strategy they are those of the first replica's part of the batch.
    """
    return [tf.constant(NO_SAMPLE) if o is None else sample_entries(o) for o in outputs]


def activation_of(layer: keras.Layer) -> str | None:
    """Return the name of the activation that a layer has or is, or None."""
    activation = getattr(layer, "activation", None)
    if activation is None:
        return "relu" if isinstance(layer, keras.layers.ReLU) else None
    return getattr(activation, "__name__", None)


def can_saturate(layer: keras.Layer) -> bool:
    """Tell whether a layer's activation has bounds."""
    return activation_of(layer) in BOUNDS


def can_die(layer: keras.Layer) -> bool:
    """Tell whether a layer's activation may be 0 for all inputs."""
    return activation_of(layer) not in (None, "linear", "softmax", *BOUNDS)


def _has_units(output):
    return tf.is_tensor(output) and output.dtype.is_floating and bool(output.shape.rank)


def _is_fused(output):
    """Tell whether an output and its only reader may be computed in one kernel."""
    if output is None or tf.executing_eagerly():
        return False
    consumers = output.consumers()
    return len(consumers) == 1 and consumers[0].type in _FUSED


def _wide(output):
    return tf.cast(output, tf.float64 if output.dtype == tf.float64 else tf.float32)


def _axis_of_units(layer, output):
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if channels_first and output.shape.rank > 2 else output.shape.rank - 1


def _values_of_a_unit(layer, output):
    """Return the number of values of a unit, over the batch and all positions."""
    axis = _axis_of_units(layer, output)
    return tf.size(output) // (output.shape[axis] or tf.shape(output)[axis])


def _active(layer, output):
    """Return the share of the batch in which each unit is not 0."""
    axis, rank = _axis_of_units(layer, output), output.shape.rank
    active = tf.cast(output != 0, tf.float32)
    if axis < rank - 1:
        return tf.reduce_mean(active, [other for other in range(rank) if other != axis])
    # A product with ones takes half as long as a mean over the rows.
    rows = tf.reshape(active, [-1, output.shape[axis] or tf.shape(output)[axis]])
    number = tf.shape(rows)[0]
    return tf.linalg.matvec(rows, tf.ones([number]), transpose_a=True) / tf.cast(number, tf.float32)


def _dead(active):
    """Return the share of the units that are dead, NaN if no shares are known."""
    if active is None:
        return np.float32(np.nan)
    return tf.reduce_mean(tf.cast(active < _ACTIVE_SHARE, tf.float32))


def _saturated(layer, output):
    """Return the share of the outputs that are near a bound, NaN if there is none."""
    if not can_saturate(layer):
        return np.float32(np.nan)
    low, high = BOUNDS[activation_of(layer)]
    near = tf.abs(output - (low + high) / 2) > (high - low) / 2 - _NEAR
    return tf.reduce_mean(tf.cast(near, tf.float32))


def _moments(pairs, in_detail):
    """Return for each layer mean, variance, share that is not finite, and spread: float64."""

    def measured():
        return tf.stack([tf.cast(_moments_of(*pair), tf.float64) for pair in pairs])

    unknown = tf.constant([[np.nan, np.nan, 0.0, np.nan]] * len(pairs), tf.float64)
    if in_detail is None:
        return unknown
    # See `squared_norms`: XLA computes all that reads an array in one loop, and has no tf.cond.
    if in_detail is True or compiled_by_xla():
        return measured()
    # A single NaN or infinity shows in the sum of squares, which takes one operation.
    squares = tf.stack([tf.cast(tf.nn.l2_loss(output), tf.float32) for _, output in pairs])
    known = tf.reduce_all(tf.math.is_finite(squares)) & ~in_detail
    return one_operation(tf.cond(known, lambda: unknown, measured))


def _moments_of(layer, output):
    finite = tf.math.is_finite(output)
    known = tf.where(finite, output, 0)
    variance = tf.math.reduce_variance(known)
    not_finite = 1 - tf.reduce_mean(tf.cast(finite, output.dtype))
    spread = tf.reduce_mean(tf.math.reduce_variance(known, _axis_of_units(layer, output)))
    return tf.stack([tf.reduce_mean(known), variance, not_finite, spread])


def _over_replicas(values, active, saturated, moments):
    """Return what `statistics` measured of each replica's part of the batch for the whole batch.

    A replica weighs as much as it has values: none, where its share of the batch is empty.
    """

    def weighed(share, values):
        return tf.where(values > 0, values * tf.cast(share, tf.float64), 0.0)

    # The variance of the whole is the mean of the variances, and that of the means.
    squares = tf.math.multiply_no_nan(tf.square(moments[:, 0]), values)
    known = [i for i, share in enumerate(active) if share is not None]
    own = [values, weighed(saturated, values), weighed(moments, values[:, None]), squares]
    own += [weighed(active[i], values[i]) for i in known]
    values, saturated, moments, squares, *shares = sum_over_replicas(own)
    mean, variance, *others = tf.unstack(moments / values[:, None], axis=1)
    variance += tf.maximum(squares / values - tf.square(mean), 0.0)
    for i, share in zip(known, shares, strict=True):
        active[i] = share / values[i]
    return values, active, saturated / values, tf.stack([mean, variance, *others], axis=1)
