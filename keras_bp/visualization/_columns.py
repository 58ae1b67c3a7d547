"""A model as columns of neurons: which layers are drawn, and which neurons feed which."""

import collections
import dataclasses
import math

import keras

from keras_bp import layers

# Subclasses may compute anything.
_DENSE = (keras.layers.Dense, layers.Dense)
# Layers whose output k belongs to the neuron that their input k belongs to.
_KEEP_NEURONS = (
    keras.layers.Activation,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.ELU,
    keras.layers.Flatten,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.GroupNormalization,
    keras.layers.Identity,
    keras.layers.LayerNormalization,
    keras.layers.LeakyReLU,
    keras.layers.Normalization,
    keras.layers.PReLU,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.Reshape,
    keras.layers.Softmax,
)
_MERGE_NEURONS = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
)
_ACCEPTED = (
    "Dense (of Keras or of keras_bp, neither quantized nor with LoRA, each called once on inputs "
    "of shape (batch, features)), between them "
    + ", ".join(kind.__name__ for kind in _KEEP_NEURONS)
    + ", and to join branches Concatenate of shapes (batch, features), "
    + ", ".join(kind.__name__ for kind in _MERGE_NEURONS)
    + " of equal shapes"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """An input or a dense layer.

    Attributes:
        name: string, the layer's name.
        units: integer.
        stage: integer, 0 for an input, else one more than the last column that feeds it.
        layer: the `Dense` layer, or `None` for an input.
        sources: list of (column, first row): the column's neuron u feeds this one's through the
            kernel's row `first row + u`.
    """

    name: str
    units: int
    stage: int
    layer: keras.Layer | None
    sources: list


def columns_of(model):
    """Return the columns of a model, inputs first.

    Args:
        model: a built Sequential or functional `keras.Model`.

    Raises:
        TypeError: if `model` is no `keras.Model`.
        ValueError: if it is of another kind, or not built, or has a layer that cannot be drawn.
    """
    graph = _graph(model)
    depths = sorted(graph._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in graph._nodes_by_depth[depth]]
    calls = collections.Counter(id(node.operation) for node in nodes)
    neurons, columns = {}, []
    for node in nodes:
        sources = [neurons[id(tensor)] for tensor in node.input_tensors]
        if node.is_input or type(node.operation) in _DENSE:
            column = _column(node, sources, calls[id(node.operation)])
            columns.append(column)
            result = [(column, 0)]
        else:
            result = _passed_on(node, sources)
        (output,) = node.outputs
        neurons[id(output)] = result
    # Inputs in the order in which the model takes them, whatever their depth.
    order = [tensor._keras_history.operation.name for tensor in graph.inputs]
    inputs = sorted((c for c in columns if c.layer is None), key=lambda c: order.index(c.name))
    return inputs + sorted((c for c in columns if c.layer), key=lambda c: c.stage)


def _graph(model):
    """Return the functional model that holds a model's nodes."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model. Received: model={model!r} of type "
            f"{type(model).__name__}"
        )
    graph = model._functional if isinstance(model, keras.Sequential) else model
    if graph is None:
        raise ValueError(
            "`model` must be built: begin it with a keras.Input, or call it once. "
            f"Received: model {model.name!r}, which is not built"
        )
    if not hasattr(graph, "_nodes_by_depth"):
        raise ValueError(
            "`model` must be a Sequential or a functional model, whose layers are known. "
            f"Received: model {model.name!r} of type {type(model).__name__}"
        )
    return graph


def _column(node, sources, calls):
    operation = node.operation
    if node.is_input:
        units = math.prod(node.outputs[0].shape[1:])
        return Column(operation.name, units, 0, None, [])
    whole = not operation.quantization_mode and not operation.lora_enabled
    if calls > 1 or len(node.input_tensors[0].shape) != 2 or not whole:
        raise _refusal(node)
    stage = 1 + max(column.stage for column, _ in sources[0])
    return Column(operation.name, operation.units, stage, operation, sources[0])


def _passed_on(node, sources):
    """Return the sources of a tensor that no neurons of its own stand for."""
    operation, shapes = node.operation, [tensor.shape for tensor in node.input_tensors]
    if isinstance(operation, _KEEP_NEURONS):
        return sources[0]
    if isinstance(operation, _MERGE_NEURONS) and len(set(shapes)) == 1:
        return [source for of_one_input in sources for source in of_one_input]
    if isinstance(operation, keras.layers.Concatenate) and {len(shape) for shape in shapes} == {2}:
        result, first = [], 0
        for of_one_input, shape in zip(sources, shapes, strict=True):
            result += [(column, first + row) for column, row in of_one_input]
            first += shape[-1]
        return result
    raise _refusal(node)


def _refusal(node):
    shapes = ", ".join(str(tensor.shape) for tensor in node.input_tensors)
    return ValueError(
        f"`model` can be drawn if it consists of {_ACCEPTED}. Received: the layer "
        f"{node.operation.name!r} of type {type(node.operation).__name__}, called on {shapes}"
    )
