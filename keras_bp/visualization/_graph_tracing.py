"""The tracing of a training step, and the way back through it, node by node."""

import collections
import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf

from keras_bp import _keras
from keras_bp._paths import variable_paths
from keras_bp._trial import replaced_attributes
from keras_bp.visualization.backprop import noting

# Operations whose outputs hold the values of their inputs.
_SAME = {"Identity", "IdentityN", "Snapshot", "Cast"}
_RESHAPED = {"Reshape", "ExpandDims", "Squeeze"}
# Operations that look at a tensor's shape only.
_SHAPES = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}
_GIVEN = {"Const", "Placeholder"}
_ACTIVATIONS = (
    keras.layers.ReLU,
    keras.layers.Softmax,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
)
_SIGNS = {"AddV2": "X + Y", "Sub": "X − Y", "Mul": "X ⊙ Y", "MatMul": "X Y", "ConcatV2": "[X, Y]"}
_LAYERS = {
    "Add": "X + Y",
    "Subtract": "X − Y",
    "Multiply": "X ⊙ Y",
    "Concatenate": "[X, Y]",
    "Dropout": "mask ⊙ X",
    "BatchNormalization": "γ X̂ + β",
    "LayerNormalization": "γ X̂ + β",
    "GroupNormalization": "γ X̂ + β",
    "Embedding": "rows of W",
}


class Call(list):
    """A node while it is traced: a list of its inputs, each (tensor, the source's tensor)."""

    def __init__(self, name, kind, equation, inputs, outputs):
        super().__init__(inputs)
        self.name, self.kind, self.equation, self.outputs = name, kind, equation, outputs
        self.parameters, self.learns, self.kept_inside, self.kept = [], False, 0, set()
        self.gradients = {}


class Trace:
    """Traces a model's step, and goes back through it node by node.

    A node's backward pass is differentiated by itself, with its inputs held fixed: so what comes
    back along each edge is known, and what the node's own backward pass reads.
    """

    def __init__(self, model):
        self._model = model
        self.calls = []
        self.producers = {}  # the key of a tensor -> the call that it is an output of
        self._names = collections.Counter()
        self._inside = False

    def step(self, weights, x, y):
        """Run forward and backward; return the loss, then the norms of what `_measured` lists."""
        self._graph = tf.compat.v1.get_default_graph()
        paths = variable_paths(self._model)
        pairs = list(zip(self._model.variables, weights, strict=True))
        self.parameters = {
            key_of(weight): (paths[id(variable)][1], weight)
            for variable, weight in pairs
            if any(variable is other for other in self._model.trainable_variables)
        }
        for kind, data in (("input", x), ("target", y)):
            for name, tensor in self._named(kind, data):
                self._add(name, kind, "", [], [tensor])
        # Without `collect_losses` Keras leaves out the penalties of outputs.
        with keras.StatelessScope(pairs, collect_losses=True), self._listening():
            outputs = self._model(x, training=True)
            if len(self.calls) == len(keras.tree.flatten([x, y])):
                raise ValueError(
                    "`model` must call its layers itself, outside of loops and other tf.functions. "
                    f"Received: model {self._model.name!r}, none of whose layers was seen"
                )
            self._sources(self._tensors(outputs))
            loss = self._model.compute_loss(x, y, outputs)
        known = [t for t in self._before([loss], self.producers) if key_of(t) in self.producers]
        self._add("loss", "loss", "", [(tensor, tensor) for tensor in known], [loss])
        self._go_back(loss)
        return tf.stack([tf.cast(loss, tf.float64), *map(_norm, self._measured())])

    # Forward

    def _named(self, kind, data):
        flat = keras.tree.flatten(data)
        names = ["x" if kind == "input" else "y"]
        if kind == "input" and _keras.symbolic_inputs(_keras.functional_of(self._model)):
            names = _keras.graph_input_names(_keras.functional_of(self._model))
        elif kind == "target" and isinstance(data, dict):
            names = [f"y of {name}" for name in sorted(data)]
        elif kind == "target" and len(flat) > 1 and hasattr(self._model, "output_names"):
            names = [f"y of {name}" for name in self._model.output_names]
        if len(names) != len(flat):
            names = [f"{names[0]}[{i}]" for i in range(len(flat))]
        return zip(names, flat, strict=True)

    @contextlib.contextmanager
    def _listening(self):
        """Listen to the calls of the layers, and of Keras's operations in a functional model."""
        nodes = _keras.graph_nodes(_keras.functional_of(self._model)) or []
        callees = {id(layer): layer for layer in self._model.layers}
        callees |= {id(n.operation): n.operation for n in nodes if not n.is_input}
        with contextlib.ExitStack() as stack:
            for callee in callees.values():
                stack.enter_context(replaced_attributes(callee, call=self._heard(callee)))
            yield

    def _heard(self, callee):
        call = callee.call

        @functools.wraps(call)
        def heard_call(*args, **kwargs):
            if self._inside or tf.compat.v1.get_default_graph() is not self._graph:
                return call(*args, **kwargs)
            self._inside, z = True, []
            activation = getattr(callee, "activation", None)
            splits = activation not in (None, keras.activations.linear) and callee.weights
            noted = {"activation": noting(callee, z.append)} if splits else {}
            try:
                with replaced_attributes(callee, **noted):
                    outputs = call(*args, **kwargs)
            finally:
                self._inside = False
            inputs = self._tensors((args, kwargs))
            same = {key_of(tensor) for tensor in inputs}

            def own(output):
                if self._is_tensor(output) and key_of(output) in same:
                    return _keras.copy_annotations(output, tf.identity(output))
                return output

            outputs = keras.tree.map_structure(own, outputs)
            self._see(callee, inputs, self._tensors(outputs), z)
            return outputs

        return heard_call

    def _see(self, callee, inputs, outputs, z):
        """Add the nodes of a call, two if its activation was called once, with `z`."""
        if not outputs:  # a mask
            return
        sources = self._sources(inputs)
        own = getattr(callee, "activation", None)
        named = "" if own is None else getattr(own, "__name__", type(own).__name__)
        if len(z) == 1 and self._is_tensor(z[0]):
            self._add(f"{callee.name}/Z", "linear", _equation(callee), sources, z)
            self._add(f"{callee.name}/A", "activation", f"A = {named}(Z)", [(z[0], z[0])], outputs)
            return
        kind, equation = "layer", _LAYERS.get(type(callee).__name__, type(callee).__name__)
        if isinstance(callee, keras.Model):
            kind = "model"
        elif not isinstance(callee, keras.Layer):
            kind = "operation"
        elif hasattr(callee, "kernel"):
            kind, equation = "linear", _equation(callee)
        elif not callee.weights and (named or isinstance(callee, _ACTIVATIONS)):
            kind, equation = "activation", f"A = {named or type(callee).__name__}(X)"
        self._add(callee.name, kind, equation, sources, outputs)

    def _add(self, name, kind, equation, inputs, outputs):
        self._names[name] += 1
        if self._names[name] > 1:
            name = f"{name} ({self._names[name]})"
        call = Call(name, kind, equation, inputs, outputs)
        self.producers |= {key_of(output): call for output in outputs}
        stops = {key_of(tensor) for tensor, _ in inputs}
        found = self._before(outputs, stops) if inputs else []
        reached = {key_of(tensor) for tensor in found}
        call.parameters = [key for key in self.parameters if key in reached]
        call.learns = bool(call.parameters) or any(
            self.producers[key_of(source)].learns for _, source in inputs
        )
        self.calls.append(call)
        return call

    def _is_tensor(self, value):
        here = tf.is_tensor(value) and getattr(value, "graph", None) is self._graph
        return here and (value.dtype.is_floating or value.dtype.is_integer)

    def _tensors(self, structure):
        flat = {key_of(t): t for t in keras.tree.flatten(structure) if self._is_tensor(t)}
        return list(flat.values())

    def _sources(self, tensors):
        """Return pairs of a tensor and the output of a node that it is, constants left out."""
        pairs = [(tensor, self._source(tensor)) for tensor in tensors]
        return [(tensor, source) for tensor, source in pairs if source is not None]

    def _source(self, tensor):
        """Return the output of a node that a tensor is, adding nodes for what is between."""
        operation = tensor.op
        if key_of(tensor) in self.producers:
            return tensor
        if key_of(tensor) in self.parameters or operation.type in _SHAPES:
            return None
        custom = operation.type == "IdentityN" and _has_own_gradient(operation)
        if operation.type in _SAME and not custom:
            return self._source(operation.inputs[tensor.value_index])
        inputs = self._arguments(operation) if custom else list(operation.inputs)
        sources = self._sources([i for i in inputs if self._is_tensor(i)])
        reads = any(key_of(i) in self.parameters for i in map(_origin, inputs))
        if not sources and not reads:
            return None
        equation = "custom gradient" if custom else _SIGNS.get(operation.type, operation.type)
        name = operation.name.rpartition("/")[2]
        self._add(name, "operation", equation, sources, list(operation.outputs))
        return tensor

    def _arguments(self, operation):
        """List the arguments of a custom gradient's operation, which come after its results."""
        inputs = list(operation.inputs)
        for first in range(1, len(inputs)):
            key = key_of(inputs[first])
            if any(key_of(tensor) == key for tensor in self._before(inputs[:first], {key})):
                return inputs[first:]
        return []

    def _before(self, tensors, stops):
        """List what tensors are computed from, back to parameters and tensors of these keys."""
        found, waiting = {}, list(tensors)
        seen = {key_of(tensor) for tensor in tensors}
        while waiting:
            operation = waiting.pop().op
            if operation.type in _SHAPES:
                continue
            for tensor in operation.inputs:
                key = key_of(tensor)
                if key in stops or key in self.parameters:
                    found[key] = tensor
                elif key not in seen:
                    seen.add(key)
                    waiting.append(tensor)
        return list(found.values())

    # Backward

    def _go_back(self, loss):
        totals = collections.defaultdict(list)
        totals[key_of(loss)] = [tf.ones_like(loss)]
        self._parameter_gradients = collections.defaultdict(list)
        self._forward = {operation.name for operation in self._graph.get_operations()}
        for call in reversed(self.calls):
            outputs = [output for output in call.outputs if totals[key_of(output)]]
            received = [tf.add_n(totals[key_of(output)]) for output in outputs]
            learn = [(t, s) for t, s in call if self.producers[key_of(s)].learns]
            rest = [(t, s) for t, s in call if not self.producers[key_of(s)].learns]
            rest = [(t, s) for t, s in rest if self.producers[key_of(s)].kind != "target"]
            weights = [(self.parameters[key][1],) * 2 for key in call.parameters]
            about = call, outputs, received
            pairs = self._differentiate(*about, learn + weights, marks=True)
            # Of no use to the training.
            pairs += self._differentiate(*about, rest, marks=False)
            for (tensor, source), gradient in pairs:
                key = key_of(source)
                if key in self.parameters and key in call.parameters:
                    self._parameter_gradients[key].append(gradient)
                    continue
                call.gradients[key_of(tensor)] = gradient
                totals[key].append(tf.cast(gradient, source.dtype))

    def _differentiate(self, call, outputs, received, pairs, marks):
        """Return (pair, gradient) for the pairs whose tensors have one; mark what is kept."""
        pairs = [(tensor, source) for tensor, source in pairs if tensor.dtype.is_floating]
        if not outputs or not pairs:
            return []
        before = len(self._graph.get_operations())
        fixed = [tensor for tensor, _ in call]
        targets = [tensor for tensor, _ in pairs]
        gradients = tf.gradients(outputs, targets, grad_ys=received, stop_gradients=fixed)
        found = [
            (pair, tf.convert_to_tensor(gradient))
            for pair, gradient in zip(pairs, gradients, strict=True)
            if gradient is not None
        ]
        made = {operation.name for operation in self._graph.get_operations()[before:]}
        if marks:
            self._mark(call, self._read([gradient for _, gradient in found], made))
        return found

    def _read(self, gradients, made):
        """List the tensors of the forward pass from which gradients were computed."""
        read, seen, waiting = {}, set(), [gradient.op for gradient in gradients]
        while waiting:
            operation = waiting.pop()
            if operation.name in seen or operation.type in _SHAPES:
                continue
            seen.add(operation.name)
            for tensor in operation.inputs:
                if tensor.op.name in made:
                    waiting.append(tensor.op)
                elif tensor.op.name in self._forward:
                    read[key_of(tensor)] = tensor
        return list(read.values())

    def _mark(self, call, read):
        # A view counts as the tensor itself, and so does a copy in another dtype.
        own = {key_of(_origin(tensor)): key_of(tensor) for tensor, _ in call}
        own |= {key_of(_origin(output)): key_of(output) for output in call.outputs}
        inside = {}
        for tensor in read:
            origin = _origin(tensor)
            if key_of(origin) in own:
                call.kept.add(own[key_of(origin)])
            elif tensor.dtype == tf.variant:  # the lists of a loop
                call.kept_inside = None
            elif self._is_computed(call, origin):
                inside[key_of(origin)] = tensor.shape.num_elements()
        inside = {key: n for key, n in inside.items() if n != 1}
        known = None not in inside.values() and call.kept_inside is not None
        call.kept_inside = sum(inside.values()) if known else None

    def _is_computed(self, call, tensor):
        """Tell whether a tensor is neither a parameter nor a constant, nor a shape."""
        if tensor.dtype.is_integer:  # indices, or shapes
            return bool(self._before([tensor], {key_of(value) for value, _ in call}))
        return key_of(tensor) not in self.parameters and tensor.op.type not in _GIVEN

    def _measured(self):
        """Yield what `step` returns the norms of, `None` for what has none."""
        for key, (_, weight) in self.parameters.items():
            gradients = self._parameter_gradients.get(key)
            yield from (weight, tf.add_n(gradients) if gradients else None)
        for call in self.calls:
            for tensor, _ in call:
                yield from (tensor, call.gradients.get(key_of(tensor)))


def key_of(tensor):
    return tensor.op.name, tensor.value_index


def _norm(tensor):
    """Return the L2 norm in float64, of what has none minus infinity."""
    if tensor is None or not tensor.dtype.is_floating:
        return tf.constant(-np.inf, tf.float64)
    return tf.sqrt(2.0 * tf.nn.l2_loss(tf.cast(tensor, tf.float64)))  # few operations


def _origin(tensor):
    """Return the tensor whose values another one holds, perhaps in another shape or dtype."""
    while tensor.op.type in _SAME | _RESHAPED:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def _has_own_gradient(operation):
    try:
        return bool(operation.get_attr("_gradient_op_type"))
    except ValueError:
        return False


def _equation(layer):
    return ("Z = X ∗ W" if "Conv" in type(layer).__name__ else "Z = X W") + " + b" * (
        getattr(layer, "bias", None) is not None
    )
