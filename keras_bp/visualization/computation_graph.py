"""The computation graph of one training step: what is computed, what flows back, what is kept."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from keras_bp import _keras
from keras_bp._arguments import check_path, check_suffix
from keras_bp._types import Path
from keras_bp.visualization._graph_drawing import Drawing
from keras_bp.visualization._graph_tracing import Trace, key_of
from keras_bp.visualization.backprop import check_batch, check_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A trainable variable in a `ComputationGraph`.

    Attributes:
        name: string, the variable's path, such as `"hidden/kernel"`.
        shape: tuple of integers.
        norm: float, the L2 norm of its value.
        gradient_norm: float, the L2 norm of the loss's gradient, `None` if there is none.
    """

    name: str
    shape: tuple[int, ...]
    norm: float
    gradient_norm: float | None


@dataclasses.dataclass(frozen=True)
class Node:
    """An operation, an input or a target in a `ComputationGraph`.

    Attributes:
        name: string: the layer's; with `/Z` for its linear part and `/A` for its activation.
        kind: string: `"input"`, `"target"`, `"linear"` (with a kernel), `"activation"`, `"model"`
            (a model inside), `"layer"` (any other), `"operation"` (outside of layers) or `"loss"`.
        equation: string, what it computes.
        parameters: tuple of strings, the names of the trainable variables that it reads.
        kept: integer, how many values inside of it, neither its inputs nor its outputs, the
            backward pass reads; `None` if that is not known, as of a recurrent layer's steps.
    """

    name: str
    kind: str
    equation: str
    parameters: tuple[str, ...]
    kept: int | None


@dataclasses.dataclass(frozen=True)
class Edge:
    """A tensor on its way from a node to another in a `ComputationGraph`.

    Attributes:
        source: string, the name of the node that computes it.
        target: string, the name of the node that takes it.
        shape: tuple of integers.
        norm: float, the tensor's L2 norm; `None` if it holds integers.
        gradient_norm: float, the L2 norm of the gradient that comes back along this edge: where
            several edges leave a node with one tensor, their gradients sum up to the tensor's.
            `None` if there is none.
        kept: boolean, whether the backward pass of the node at either end reads the tensor.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    norm: float | None
    gradient_norm: float | None
    kept: bool


@dataclasses.dataclass(frozen=True, repr=False)
class ComputationGraph:
    """One training step of a model as a graph; `trace_computation_graph` returns it.

    Attributes:
        model: string, the model's name.
        loss: float, the loss of the batch, penalties included.
        batch_size: integer.
        nodes: tuple; each has `name`, `kind`, `equation`, `parameters` and `kept`. Every node comes
            after those that it depends on; the last is the loss.
        edges: tuple; each has `source`, `target`, `shape`, `norm`, `gradient_norm` and `kept`.
        parameters: dictionary, the name of a trainable variable -> its `name`, `shape`, `norm` and
            `gradient_norm`.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="line")])
        >>> model.compile(loss="mean_squared_error")
        >>> x, y = np.ones((4, 2)), np.zeros((4, 1))
        >>> graph = keras_bp.visualization.trace_computation_graph(model, x, y)
        >>> [node.name for node in graph.nodes][-2:]
        ['line', 'loss']
        >>> [(edge.target, edge.shape, edge.kept) for edge in graph.edges if edge.kept]
        [('line', (4, 2), True)]
    """

    model: str
    loss: float
    batch_size: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    parameters: dict[str, Parameter]

    def plot(self, path: Path | None = None) -> "Figure":
        """Draw the graph, as `plot_computation_graph` describes it.

        Args:
            path: string or `os.PathLike` that ends with `.png` or `.svg`, a file to write.
                Defaults to `None`: none.

        Raises:
            ImportError: if Matplotlib is not installed.
            TypeError: if `path` is not a path.
            ValueError: if it has another ending.
        """
        if path is not None:
            _check_file(path)
        figure = Drawing(self).draw()
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def __repr__(self) -> str:
        return (
            f"<ComputationGraph of {self.model!r}: {len(self.nodes)} nodes, {len(self.edges)} "
            f"edges, {len(self.parameters)} parameters>"
        )


def plot_computation_graph(
    model: keras.Model, x: Any, y: Any, path: Path | None = None
) -> "Figure":
    r"""Draw the computation graph of one training step, forward and backward.

    From top to bottom:

    - A box is an operation: a layer, in two boxes if it has an activation, `Z` for its linear part
      and `A` for the activation; an operation outside of layers; the loss. A model inside the model
      is one box.
    - A line between boxes is a tensor, with its shape and its L2 norm, in the forward pass; and
      beside it, upwards, the norm of the gradient of the loss with respect to it. Where a tensor
      goes to several boxes, each sends back a gradient of its own, and they are added: the chain
      rule.
    - At the right of a box are its parameters, with the norms of value and gradient.
    - What is tinted is kept from the forward pass for the backward pass: a linear map's input, the
      output of a ReLU, sigmoid or tanh. "keeps" counts values inside of a box, such as the mask of
      a dropout. This is read from TensorFlow's graph: the forward pass's tensors that the
      operations of the backward pass read. Parameters, which stay in any case, and scalars are not
      marked; nor is what is only needed for a gradient that training does not compute, that with
      respect to `x`.

    A loss that computes from logits, as those of Keras and of this package do behind a sigmoid or
    a softmax, takes `Z`: then no gradient flows through `A`.

    The gradients are those of the next training step on this batch: of the mean loss, with dropout,
    and with the batch's own statistics in batch normalization. Model, optimizer, metrics and seeds
    are left as they are.

    Args:
        model: a `keras.Model`, Sequential, functional or subclassed, built, and compiled with a
            loss. It is traced once, as `fit` traces it; the layers that it holds directly are
            followed wherever its `call` calls them outside of a loop or another `tf.function`.
        x: array of shape `(batch, ...)`, or a list or a dictionary of them: a batch of inputs.
        y: the batch's targets, as `fit` takes them.
        path: string or `os.PathLike` that ends with `.png` or `.svg`, a file to write. Defaults to
            `None`: none.

    Raises:
        ImportError: if Matplotlib is not installed.
        TypeError: if `model` is not a `keras.Model`, the batch not arrays, or `path` not a path.
        ValueError: if the model is not compiled with a loss, not built, or none of its layers can
            be followed; if the batch is empty, or `x` and `y` differ in their numbers of examples;
            or if `path` has another ending.

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
        >>> figure = keras_bp.visualization.plot_computation_graph(model, x.T, y.T)
        >>> figure.savefig("graph.png")
    """
    if path is not None:
        _check_file(path)
    return trace_computation_graph(model, x, y).plot(path)


def trace_computation_graph(model: keras.Model, x: Any, y: Any) -> ComputationGraph:
    """Return the computation graph of one training step as data, with all norms.

    `plot_computation_graph` draws it, and says what it holds.

    Args:
        model: as for `plot_computation_graph`.
        x: likewise.
        y: likewise.

    Raises:
        TypeError: as `plot_computation_graph`.
        ValueError: likewise.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    if not _keras.is_built(model):
        raise ValueError(
            "`model` must be built: begin it with a keras.Input, or call it once. "
            f"Received: model {model.name!r}, which is not built"
        )
    check_loss(model)
    check_batch(x, y)
    x, y = (keras.tree.map_structure(tf.convert_to_tensor, data) for data in (x, y))
    trace = Trace(model)
    weights = [tf.convert_to_tensor(variable) for variable in model.variables]
    try:
        # Variables that a metric makes in its first step are made after the scope, not in a graph.
        with keras.StatelessScope():
            step = tf.function(trace.step, autograph=False).get_concrete_function(weights, x, y)
    except Exception as error:
        if model.run_eagerly:
            error.add_note("The model is traced as a graph, as `fit` does without `run_eagerly`.")
        raise
    finally:
        for layer in _keras.flat_layers(model, include_self=True):
            _keras.clear_losses(layer)  # tensors of the graph
    loss, *norms = step(weights, x, y).numpy().tolist()
    parts = _parts(trace, iter([None if norm == -math.inf else norm for norm in norms]))
    return ComputationGraph(model.name, loss, len(keras.tree.flatten(x)[0]), *parts)


def _parts(trace, norms):
    """Return nodes, edges and parameters, given what the traced step has returned."""
    parameters = {
        name: Parameter(name, tuple(weight.shape), next(norms), next(norms))
        for name, weight in trace.parameters.values()
    }
    nodes, edges = [], []
    for call in trace.calls:
        names = tuple(trace.parameters[key][0] for key in call.parameters)
        nodes.append(Node(call.name, call.kind, call.equation, names, call.kept_inside))
        for tensor, source in call:
            producer = trace.producers[key_of(source)]
            kept = key_of(tensor) in call.kept or key_of(source) in producer.kept
            about = producer.name, call.name, tuple(tensor.shape)
            edges.append(Edge(*about, next(norms), next(norms), kept))
    return tuple(nodes), tuple(edges), parameters


def _check_file(path):
    check_path("path", path)
    check_suffix("path", path, (".png", ".svg"))
