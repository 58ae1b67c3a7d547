"""The outputs of a model's layers, measured while a step is traced."""

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bp._paths import layer_paths
from keras_bp._trial import replaced_attributes
from keras_bp.gradients import sum_over_replicas
from keras_bp.recording.histograms import NO_SAMPLE, sample_entries

STATISTICS = ("variance", "dead", "saturated", "not_finite", "values", "spread")
"""For each layer: the variance of its outputs; the share of its units that are nonzero in less than
1 % of the batch; the share of its outputs within 0.01 of a bound of its activation, NaN if it
has none; the share of its outputs that are NaN or infinite; the number of values of a unit,
over the batch and all positions; the variance between its units, 0 where all give the same."""

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


def statistics(layers: Sequence[keras.Layer], outputs: Sequence[Any]) -> tf.Tensor:
    """Return the statistics of the layers' outputs: float64, (layers, statistics).

    Under a strategy they are those of the whole batch, however the replicas share it.
    """
    present = [i for i, output in enumerate(outputs) if output is not None]
    measured = [_measure(layers[i], outputs[i]) for i in present]
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        measured = _over_replicas(measured)
    rows = [tf.fill([len(STATISTICS)], tf.constant(float("nan"), tf.float64)) for _ in layers]
    for i, (values, active, means) in zip(present, measured, strict=True):
        _, variance, saturated, not_finite, spread = tf.unstack(means)
        dead = tf.reduce_mean(tf.cast(active < _ACTIVE_SHARE, tf.float64))
        rows[i] = tf.stack([variance, dead, saturated, not_finite, values, spread])
    return tf.stack(rows)


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


def _measure(layer, output):
    """Return, of this replica's part of the batch, what `statistics` puts together.

    Returns:
        The number of values of a unit, the share in which each unit is not 0, and the mean, the
        variance, and the means of what is saturated, of what is not finite and of the spread.
    """
    output = tf.cast(output, tf.float64 if output.dtype == tf.float64 else tf.float32)
    finite = tf.math.is_finite(output)
    known = tf.where(finite, output, 0)
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    units = 1 if channels_first and output.shape.rank > 2 else output.shape.rank - 1
    others = [axis for axis in range(output.shape.rank) if axis != units]
    active = tf.reduce_mean(tf.cast(output != 0, output.dtype), others)
    bounds = BOUNDS.get(activation_of(layer))
    saturated = tf.constant(float("nan"), output.dtype)
    if bounds:
        near = (output < bounds[0] + _NEAR) | (output > bounds[1] - _NEAR)
        saturated = tf.reduce_mean(tf.cast(near, output.dtype))
    not_finite = 1 - tf.reduce_mean(tf.cast(finite, output.dtype))
    spread = tf.reduce_mean(tf.math.reduce_variance(known, units))
    variance = tf.math.reduce_variance(known)
    values = tf.reduce_prod(tf.cast(tf.gather(tf.shape(output), others), tf.float64))
    means = tf.stack([tf.reduce_mean(known), variance, saturated, not_finite, spread])
    return values, tf.cast(active, tf.float64), tf.cast(means, tf.float64)


def _over_replicas(measured):
    """Return what `_measure` would of the whole batch, from each replica's part.

    A replica weighs as much as it has values: none, where its share of the batch is empty.
    """
    own = []
    for values, *shares in measured:
        active, means = (tf.where(values > 0, values * share, 0.0) for share in shares)
        # The variance of the whole is the mean of the variances, and that of the means.
        own += [values, active, means, tf.math.multiply_no_nan(tf.square(shares[1][0]), values)]
    totals = iter(sum_over_replicas(own))
    whole = []
    for values, active, means, squares in zip(*[totals] * 4, strict=True):
        mean, variance, *others = tf.unstack(means / values)
        variance += tf.maximum(squares / values - tf.square(mean), 0.0)
        whole.append((values, active / values, tf.stack([mean, variance, *others])))
    return whole
