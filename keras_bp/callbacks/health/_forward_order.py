"""A model's layers in the order in which its forward pass calls them."""

import typing

import keras
import numpy as np

from keras_bp._keras import flat_layers
from keras_bp._paths import layer_paths
from keras_bp.recording import activation_of, can_die

_LINEAR_MAPS = keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D
_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.UnitNormalization,
)


class Link(typing.NamedTuple):
    """A hidden dense or convolutional layer and its neighbours, as indices of outputs."""

    layer: int
    output: int
    """The layer itself, or the activation layer that is the only one to take its outputs."""
    source: int | None
    """The layer that feeds it, None where unknown."""
    units: int
    widening: float
    """The number of its outputs over that of its inputs, from the kernel's shape."""
    alone: bool
    """Whether the next layers take this layer's outputs only."""
    normalized: bool
    """Whether a next layer normalizes them."""


class ForwardOrder:
    """A model's layers in the order of the forward pass, for the checks of `TrainingHealth`.

    There are two lists: the layers that hold trainable variables, with the paths of
    `variable_paths`, and those that `model.summary()` lists and whose outputs are recorded, with
    the paths of `layer_paths`. The place of a layer of the first list is the index of the layer of
    the second that it is or lies in.

    Args:
        model: a built `keras.Model`.
        recorder: a `StepRecorder` of the outputs of every layer, which has recorded a step.
        layers: list, the paths of the layers that hold trainable variables.
        layer_of_variable: array, the index of the layer of each of the recorder's variables.

    Attributes:
        layers: tuple of the paths of the layers with trainable variables, in the order of the
            calls. One array entry for each of them:
        order: its index in the given layers,
        called: whether it was called (layers that were not come first),
        places: the index of its place in the outputs, -1 for none,
        sizes: the number of entries of its variables,
        tables: whether it is an embedding.
        outputs: tuple of the paths of the layers that were called, in order. One array
            entry for each of them:
        output_order: its index in the recorder's layers,
        hidden: whether its outputs go into a layer with weights, as far as known,
        can_die: whether its activation may be 0 for all inputs.
        links: list, the `Link`s of the hidden dense and convolutional layers.
    """

    def __init__(self, model, recorder, layers, layer_of_variable):
        paths, seen = layer_paths(model), recorder.outputs
        called = [layer for layer in seen.called if layer in paths]
        number = {layer: i for i, layer in enumerate(called)}
        self.outputs = tuple(paths[layer] for layer in called)
        self.output_order = np.array([recorder.layers.index(layer) for layer in called], int)
        self.can_die = np.array([can_die(layer) for layer in called], bool)
        followers = _followers(seen.sources)
        hidden = [any(layer.weights for layer in _downstream(layer, followers)) for layer in called]
        self.hidden = np.array(hidden, bool)
        self.links = [
            _link(layer, number, seen.sources, followers)
            for layer, is_hidden in zip(called, hidden, strict=True)
            if is_hidden and isinstance(layer, _LINEAR_MAPS)
        ]

        variables = recorder.variables
        # A shared variable belongs to the layer that is called first.
        owners = {id(v): number[layer] for layer in reversed(called) for v in layer.weights}
        missing = len(called)
        places = np.full(len(layers), missing)
        np.minimum.at(places, layer_of_variable, [owners.get(id(v), missing) for v in variables])
        places[places == missing] = -1
        self.order = np.argsort(places, kind="stable")
        self.places = places[self.order]
        self.called = self.places >= 0
        self.layers = tuple(layers[i] for i in self.order)
        self.sizes = np.bincount(layer_of_variable, [np.prod(v.shape) for v in variables])
        self.sizes = self.sizes[self.order]
        every = flat_layers(model)
        embeddings = [layer for layer in every if isinstance(layer, keras.layers.Embedding)]
        tables = {id(v) for layer in embeddings for v in layer.weights}
        self.tables = np.bincount(layer_of_variable, [id(v) in tables for v in variables]) > 0
        self.tables = self.tables[self.order]


def _followers(sources):
    """Return for each layer those that are called with its outputs."""
    followers = {layer: [] for layer in sources}
    for layer, its_sources in sources.items():
        for source in its_sources:
            if source is not None and source is not layer:
                followers[source].append(layer)
    return followers


def _downstream(layer, followers):
    """List the layers that are called with a layer's outputs, up to those that hold weights."""
    found, waiting = [], list(followers[layer])
    while waiting:
        follower = waiting.pop()
        if follower not in found:
            found.append(follower)
            waiting += [] if follower.weights else followers[follower]
    return found


def _link(layer, number, sources, followers):
    """Return a layer's `Link`."""
    downstream = _downstream(layer, followers)
    alone = all(len(sources[other]) == 1 for other in downstream)
    normalized = any(isinstance(other, _NORMALIZATIONS) for other in downstream)
    own, output = sources[layer], layer
    if len(followers[layer]) == 1 and _is_activation(followers[layer][0]):
        (output,) = followers[layer]
    source = number.get(own[0]) if len(own) == 1 and own[0] is not layer else None
    *_, inputs, units = layer.kernel.shape
    about = source, units, units / inputs, alone, normalized
    return Link(number[layer], number[output], *about)


def _is_activation(layer):
    return not layer.weights and activation_of(layer) is not None
