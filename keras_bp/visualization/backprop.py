"""A picture of one backward pass through a network."""

import collections
import contextlib
import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp import _keras, layers
from keras_bp._trial import replaced_attributes
from keras_bp.visualization._figure import new_figure, tidy
from keras_bp.visualization._network import Network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def plot_backprop(model: keras.Model, x: Any, y: Any) -> "Figure":
    r"""Draw a network with the results of one backward pass.

    The network is drawn from left to right, one circle per neuron:

    - A circle's colour is $\frac{1}{m} \sum_i |dZ_i|$, the neuron's gradient with respect to its
      pre-activation, averaged in absolute value over the m examples. $dZ_i$ is that of the
      example's own loss: it does not shrink with the batch. A neuron without
      a gradient (a ReLU that is off for the whole batch) is grey. Inputs have no $dZ$.
    - A line's colour and width are its weight.
    - A bar below a layer is $\|dW\|_2$, the norm of the gradient of the batch's loss with respect
      to the layer's kernel, penalties of regularizers included.

    Of layers with more than 12 neurons the first 6 and the last 6 are drawn, with a note. Branches
    of a functional model are drawn one above the other.

    The gradients are those of the next training step on this batch: with dropout, and with the
    batch's own statistics in batch normalization. Model, optimizer, metrics and seeds are left as
    they are.

    Args:
        model: a `keras.Model`, Sequential or functional, built, and compiled with a loss that
            averages over the batch, as losses do by default. It consists of `Dense` layers (of
            Keras or of keras_bp); between them may be layers that keep each neuron separate:
            activations, dropout and noise, normalizations, `Flatten` and `Reshape`; branches may
            be joined by `Concatenate`, `Add` and the like. Only the inputs and the dense layers
            are drawn.
        x: array of shape `(batch, ...)`, or a list or a dictionary of them: a batch of inputs,
            which goes through the network at once.
        y: the batch's targets, as `fit` takes them.

    Raises:
        ImportError: if Matplotlib is not installed.
        TypeError: if `model` is not a `keras.Model`, or the batch not arrays.
        ValueError: if it is not compiled with a loss, not built, of another kind, or has a layer
            that cannot be drawn, which the message names; or if the batch is empty, or `x` and `y`
            differ in their numbers of examples.

    Example:
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((2,)),
        ...         keras_bp.layers.Dense(8, activation="tanh"),
        ...         keras_bp.layers.Dense(1, activation="sigmoid"),
        ...     ]
        ... )
        >>> model.compile(loss="binary_crossentropy")
        >>> x, y = keras_bp.reference.spiral()
        >>> figure = keras_bp.visualization.plot_backprop(model, x.T, y.T)
        >>> figure.savefig("backprop.png")

    References:
        Rumelhart, Hinton and Williams, 1986, "Learning representations by back-propagating errors",
        equations 4 to 7.
    """
    columns = columns_of(model)
    check_loss(model)
    dense = [column.layer for column in columns if column.layer is not None]
    if not dense:
        raise ValueError(
            f"`model` must have a Dense layer. Received: model {model.name!r}, which has none"
        )
    check_batch(x, y)
    passed = _backward(model, dense, x, y)

    network = Network(columns, passed)
    figure = new_figure("plot_backprop", network.size)
    drawing, bars = figure.subplots(
        2, 1, sharex=True, height_ratios=[network.size[1] - network.bar_height, network.bar_height]
    )
    network.draw(drawing)
    network.draw_bars(bars)
    tidy(bars)
    bars.grid(visible=False, axis="x")
    examples = "1 example" if passed.batch_size == 1 else f"{passed.batch_size} examples"
    figure.suptitle(f"Backpropagation of a loss of {passed.loss:.4g} over {examples}")
    return figure


def check_loss(model):
    """Refuse a model that is not compiled with a loss."""
    if not model.compiled or model.loss is None:
        raise ValueError(
            "`model` must be compiled with a loss: call model.compile(optimizer, loss). "
            f"Received: model {model.name!r}, "
            + ("compiled without a loss" if model.compiled else "not compiled")
        )


def check_batch(x, y):
    """Refuse inputs and targets that are no arrays, or of different numbers of examples."""
    for name, data in (("x", x), ("y", y)):
        if not all(getattr(leaf, "shape", ()) for leaf in keras.tree.flatten(data)):
            raise TypeError(
                f"`{name}` must be an array, or a list or a dictionary of arrays, with an axis of "
                f"examples. Received: {name}={data!r}"
            )
    sizes = {len(leaf) for leaf in keras.tree.flatten([x, y])}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "`x` and `y` must hold equally many examples, one or more. Received: arrays of "
            f"{' and '.join(map(str, sorted(sizes)))} examples"
        )


# The columns of the drawing: which layers are drawn, and which neurons feed which


@dataclasses.dataclass(frozen=True, eq=False)
class _Column:
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
        TypeError: if `model` is not a `keras.Model`.
        ValueError: if it is of another kind, or not built, or has a layer that cannot be drawn.
    """
    graph = _graph(model)
    nodes = _keras.graph_nodes(graph)
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
    order = _keras.graph_input_names(graph)
    inputs = sorted((c for c in columns if c.layer is None), key=lambda c: order.index(c.name))
    return inputs + sorted((c for c in columns if c.layer), key=lambda c: c.stage)


def _graph(model):
    """Return the functional model that holds a model's nodes."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model. Received: model={model!r} of type "
            f"{type(model).__name__}"
        )
    graph = _keras.functional_of(model)
    if graph is None:
        raise ValueError(
            "`model` must be built: begin it with a keras.Input, or call it once. "
            f"Received: model {model.name!r}, which is not built"
        )
    if _keras.graph_nodes(graph) is None:
        raise ValueError(
            "`model` must be a Sequential or a functional model, whose layers are known. "
            f"Received: model {model.name!r} of type {type(model).__name__}"
        )
    return graph


def _column(node, sources, calls):
    operation = node.operation
    if node.is_input:
        units = math.prod(node.outputs[0].shape[1:])
        return _Column(operation.name, units, 0, None, [])
    whole = not operation.quantization_mode and not operation.lora_enabled
    if calls > 1 or len(node.input_tensors[0].shape) != 2 or not whole:
        raise _refusal(node)
    stage = 1 + max(column.stage for column, _ in sources[0])
    return _Column(operation.name, operation.units, stage, operation, sources[0])


def _passed_on(node, sources):
    """Return the sources of a tensor without neurons of its own."""
    operation, shapes = node.operation, [tensor.shape for tensor in node.input_tensors]
    if isinstance(operation, _KEEP_NEURONS):
        return sources[0]
    if isinstance(operation, _MERGE_NEURONS) and len(set(shapes)) == 1:
        return [source for inputs in sources for source in inputs]
    if isinstance(operation, keras.layers.Concatenate) and {len(shape) for shape in shapes} == {2}:
        result, first = [], 0
        for inputs, shape in zip(sources, shapes, strict=True):
            result += [(column, first + row) for column, row in inputs]
            first += shape[-1]
        return result
    raise _refusal(node)


def _refusal(node):
    shapes = ", ".join(str(tensor.shape) for tensor in node.input_tensors)
    return ValueError(
        f"`model` can be drawn if it consists of {_ACCEPTED}. Received: the layer "
        f"{node.operation.name!r} of type {type(node.operation).__name__}, called on {shapes}"
    )


# The gradients


@dataclasses.dataclass(frozen=True)
class _Backward:
    """One backward pass.

    Attributes:
        loss: float, the loss that is differentiated.
        batch_size: integer.
        dz: dictionary, the name of a dense layer -> float64 array of shape (batch, units).
        dw: dictionary, the name of a dense layer -> float64 array of shape (inputs, units).
    """

    loss: float
    batch_size: int
    dz: dict
    dw: dict


def _backward(model, dense_layers, x, y):
    """Run a model forward and backward, in training mode, and leave it as it was.

    In a stateless scope the statistics of batch normalization, the seeds of dropout and the
    metrics of the losses are not assigned to.

    Args:
        model: a built and compiled `keras.Model`.
        dense_layers: list of the `Dense` layers in it, each of which is called once.
        x: the inputs, as for `fit`.
        y: the targets, as for `fit`.

    Returns:
        A `_Backward`; `dz` is that of each example's own loss: with a mean over m examples,
        m times the gradient of the mean.
    """
    x, y = (keras.tree.map_structure(tf.convert_to_tensor, data) for data in (x, y))
    # All are passed, since in the scope Keras finds no other variables to penalize.
    variables = [(variable, variable.value) for variable in model.variables]
    # Without `collect_losses` the penalties on activities would be left out.
    scope = keras.StatelessScope(variables, collect_losses=True)
    with scope, pre_activations(dense_layers) as z:
        kernels = [scope.get_current_value(layer.kernel) for layer in dense_layers]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(kernels)
            loss = model.compute_loss(x, y, model(x, training=True))
        z = [z[layer.name] for layer in dense_layers]
        dz, dw = tape.gradient(loss, [z, kernels], unconnected_gradients="zero")
    batch_size = len(z[0])
    names = [layer.name for layer in dense_layers]
    return _Backward(
        loss=float(loss),
        batch_size=batch_size,
        dz={n: batch_size * g.numpy().astype(np.float64) for n, g in zip(names, dz, strict=True)},
        dw={n: g.numpy().astype(np.float64) for n, g in zip(names, dw, strict=True)},
    )


@contextlib.contextmanager
def pre_activations(dense_layers):
    """Let layers note their activation's input; yield name -> that tensor."""
    noted = {}
    with contextlib.ExitStack() as stack:
        for layer in dense_layers:
            note = functools.partial(noted.setdefault, layer.name)
            stack.enter_context(replaced_attributes(layer, activation=noting(layer, note)))
        yield noted


def noting(layer, note):
    """Return a layer's activation that also calls `note` with its input."""
    activation = layer.activation

    def note_and_activate(z):
        note(z)
        a = activation(z)
        with_logits = activation in (keras.activations.sigmoid, keras.activations.softmax)
        if type(layer) is layers.Dense and with_logits:
            # As the layer itself does: the package's losses find its logits.
            _keras.set_logits(a, z, activation.__name__)
        return a

    return note_and_activate
