"""An interactive page that shows backpropagation through a small network, step by step."""

import base64
import contextlib
import json
import os
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp import _keras
from keras_bp._arguments import check_integer, check_path
from keras_bp._trial import replaced_attributes, unchanged
from keras_bp.visualization.backprop import (
    check_batch,
    check_loss,
    columns_of,
    pre_activations,
)

_TEMPLATE = pathlib.Path(__file__).with_suffix(".html")
_PLACE_OF_DATA = "<!-- data -->"
_MOST_STATES = 201
_MOST_NUMBERS = 850_000  # float32 in base64: 4.5 MB
# Between dense layers, when the network does not train.
_CHANGE_NOTHING = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.Reshape,
)
# Losses whose gradient the page can write out.
_LOSSES = {
    "binary_crossentropy": "binary",
    "BinaryCrossentropy": "binary",
    "categorical_crossentropy": "categorical",
    "CategoricalCrossentropy": "categorical",
    "mean_squared_error": "squared",
    "MeanSquaredError": "squared",
    "sparse_categorical_crossentropy": "sparse",
    "SparseCategoricalCrossentropy": "sparse",
}


def backprop_page(
    model: keras.Model,
    x: Any,
    y: Any,
    path: str | os.PathLike,
    *,
    steps: int = 100,
    batch_size: int | None = None,
    examples: int = 8,
) -> pathlib.Path:
    r"""Write an interactive page of backpropagation: one HTML file, which needs no network.

    The model is trained for `steps` steps with its own loss and optimizer. On the page, sliders go
    through these steps, the examples, and the pass itself: forward layer by layer, then backward.
    Neurons are coloured by their activation on the way forward, and by $\delta = dL/dz$ on the way
    back; a line's width is its weight, and its colour the weight, then $dL/dw$. Bars show the
    gradient norm of each kernel, a curve the loss. A click on a neuron or a weight shows its
    numbers, and the equation of that place with these numbers put in:

        z_j = sum_i w_ij a_i + b_j      a_j = f(z_j)
        delta_j = f'(z_j) sum_k w_jk delta_k
        dL/dw_ij = a_i delta_j

    The model, its optimizer and all random state are left as they were.

    An example's numbers are those of its own loss, with the model in inference mode: without
    dropout, and with the moving statistics of batch normalization. Those of all examples are the
    means of $z$ and $a$, and the gradients of the loss over `x`, penalties of regularizers
    included. They come from automatic differentiation. The equations name the activation; where
    it is another one than linear, ReLU, sigmoid, tanh or softmax, the number that
    automatic differentiation gives stands in its derivative's place.

    The file stays below 5 MB: of a long training, or a large model, fewer steps are kept, evenly
    spaced, 201 at most. Of layers with more than 24 neurons the first 12 and the last 12 are drawn.

    Args:
        model: a `keras.Model`, Sequential or functional, built, and compiled with a loss that
            averages over the batch and an optimizer. A chain of `Dense` layers, and between them
            the layers that `plot_backprop` takes; without branches and activity regularizers.
        x: array of shape `(batch, ...)`, the inputs.
        y: array of shape `(batch, ...)`, the targets, as `fit` takes them.
        path: string or `os.PathLike`, the file that is written, in a directory that exists. A file
            that is there is replaced.
        steps: integer, 0 or more, the training steps. Defaults to 100.
        batch_size: integer above 0, the examples of a step, shuffled as in `fit`. Defaults to
            `None`, all.
        examples: integer above 0, how many examples are shown, the first of `x`: put those there
            that you want to see. Defaults to 8.

    Returns:
        A `pathlib.Path`, the file.

    Raises:
        TypeError: if an argument has a wrong type.
        ValueError: if the model is not built, not compiled, of another kind, too large, or has a
            layer that cannot be drawn, which the message names; if `x` and `y` differ in their
            numbers of examples; or if a number is out of its range.
        OSError: if the file cannot be written; nothing is trained then.

    Example:
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((2,)),
        ...         keras_bp.layers.Dense(3, activation="tanh"),
        ...         keras_bp.layers.Dense(1, activation="sigmoid"),
        ...     ]
        ... )
        >>> model.compile("sgd", "binary_crossentropy")
        >>> x, y = keras_bp.reference.spiral()
        >>> page = keras_bp.visualization.backprop_page(model, x.T, y.T, "page.html", steps=5)

    References:
        Rumelhart, Hinton and Williams, 1986, "Learning representations by back-propagating errors",
        equations 4 to 7.
    """
    chain = _chain_of(model)
    check_loss(model)
    if model.optimizer is None:
        raise ValueError(
            "`model` must be compiled with an optimizer. "
            f"Received: model {model.name!r}, compiled without one"
        )
    check_batch(x, y)
    x, y = keras.tree.lists_to_tuples(keras.tree.map_structure(_tensor, (x, y)))
    size = len(keras.tree.flatten(x)[0])
    steps = check_integer("steps", steps, 0)
    batch_size = size if batch_size is None else check_integer("batch_size", batch_size, 1)
    shown = min(check_integer("examples", examples, 1), size)
    path = pathlib.Path(check_path("path", path))

    layers = [layer for layer, _ in chain]
    sizes = [(layer.kernel.shape[0], layer.units) for layer in layers]
    penalized = any(layer.kernel_regularizer or layer.bias_regularizer for layer in layers)
    # Weights, their gradients and those of penalties; and the numbers of `_backward`, for all
    # examples and for each that is shown.
    weights = sum((inputs + 1) * units for inputs, units in sizes)
    views = sum(inputs + 2 * units for inputs, units in sizes) + sizes[-1][1] + 1
    numbers = (3 if penalized else 2) * weights + (shown + 1) * views
    kept = min(_MOST_STATES, steps + 1, _MOST_NUMBERS // numbers)
    if kept < min(2, steps + 1):
        raise ValueError(
            "`model` must be small enough for two steps of its training in a page of 5 MB: at most "
            f"{_MOST_NUMBERS // 2} numbers a step. Received: model {model.name!r} with {weights} "
            f"weights, which with {shown} examples takes {numbers}"
        )
    wanted = np.unique(np.linspace(0, steps, kept).round().astype(int))

    with _replacing(path) as file:
        states = _train(model, layers, x, y, wanted, batch_size, shown, penalized)
        header = {
            "model": model.name,
            "loss": _loss_name(model),
            "rule": _LOSSES.get(_loss_name(model)),
            "optimizer": type(model.optimizer).__name__,
            "size": size,
            "batch_size": min(batch_size, size),
            "examples": shown,
            "steps": wanted.tolist(),
            "penalized": penalized,
            "input": _keras.graph_input_names(_keras.functional_of(model))[0],
            "layers": [
                {
                    "name": layer.name,
                    "inputs": inputs,
                    "units": units,
                    "activation": ", ".join(functions) or "linear",
                    "bias": layer.use_bias,
                }
                for (layer, functions), (inputs, units) in zip(chain, sizes, strict=True)
            ],
            "targets": _targets(model, y, shown, sizes[-1][1]),
        }
        file.write(_page(header, states))
    return path


def _page(header, states):
    numbers = np.concatenate(states)
    # A name may hold what would end the element.
    text = json.dumps(header, allow_nan=False).replace("<", "\\u003c")
    data = (
        f'<script id="header" type="application/json">{text}</script>\n'
        f'<script id="numbers" type="text/plain">{base64.b64encode(numbers).decode()}</script>'
    )
    return _TEMPLATE.read_text(encoding="utf-8").replace(_PLACE_OF_DATA, data)


@contextlib.contextmanager
def _replacing(path):
    """Open a file that takes a path's place at the exit, and not at all after an exception."""
    if path.is_dir():
        raise IsADirectoryError(f"`path` must be a file. Received: the directory {path}")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    file = open(beside, "w", encoding="utf-8")
    try:
        with file:
            yield file
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


# The model


def _chain_of(model):
    """List (dense layer, names of the functions that its pre-activation goes through)."""
    columns_of(model)  # refuses other layers
    graph = _keras.functional_of(model)
    chain, last = [], None
    for node in _keras.graph_nodes(graph):
        operation, sources = node.operation, [id(tensor) for tensor in node.input_tensors]
        if node.is_input != (last is None) or sources != ([] if last is None else [last]):
            raise ValueError(
                "`model` must be a chain of layers, each called on the output of the one before. "
                f"Received: model {model.name!r}, which branches at {operation.name!r}"
            )
        (output,) = node.outputs
        last = id(output)
        if getattr(operation, "activity_regularizer", None) is not None:
            raise ValueError(
                "`model` must have no activity regularizer: the page's equations have no term "
                f"for it. Received: layer {operation.name!r} with one"
            )
        if isinstance(operation, keras.layers.Dense):
            chain.append((operation, _functions(operation)))
        elif chain and not isinstance(operation, _CHANGE_NOTHING):
            chain[-1][1].extend(_functions(operation))
    if not chain:
        raise ValueError(
            f"`model` must have a Dense layer. Received: model {model.name!r}, which has none"
        )
    return chain


def _functions(layer):
    """List the names of the functions that a layer applies after its weights, if any."""
    if isinstance(layer, keras.layers.Dense | keras.layers.Activation):
        function = layer.activation
        if function in (None, keras.activations.linear):
            return []
        return [getattr(function, "__name__", type(function).__name__)]
    kind = type(layer).__name__
    return [kind.lower() if kind in ("ReLU", "Softmax") else kind]


def _loss_name(model):
    loss = keras.tree.flatten(model.loss)[0]
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    return getattr(loss, "__name__", type(loss).__name__)


def _targets(model, y, shown, units):
    """Return the targets of the examples shown, a list of numbers for each, or `None`."""
    if len(keras.tree.flatten(y)) > 1:
        return None
    targets = np.asarray(keras.tree.flatten(y)[0])[:shown].reshape(shown, -1)
    if targets.dtype.kind not in "biuf":
        return None
    if _LOSSES.get(_loss_name(model)) == "sparse":
        targets = (targets[:, :1] == np.arange(units)) if targets.shape[1] == 1 else targets
    finite = np.isfinite(targets).all() and targets.shape[1] == units
    return targets.astype(np.float64).tolist() if finite else None


# The training


def _tensor(data):
    """Return an array as `fit` passes it on."""
    data = np.asarray(data)
    return tf.convert_to_tensor(data, keras.config.floatx() if data.dtype.kind == "f" else None)


def _train(model, layers, x, y, wanted, batch_size, shown, penalized):
    """Train a model and leave it as it was; list the numbers of each step that is wanted."""
    data = tf.data.Dataset.from_tensors((x, y))
    size = len(keras.tree.flatten(x)[0])
    if batch_size < size:
        data = data.unbatch().shuffle(size).batch(batch_size)
    single = [
        keras.tree.map_structure(lambda array, i=i: array[i : i + 1], (x, y)) for i in range(shown)
    ]
    states = []

    def backward(x, y):
        return _backward(model, layers, x, y)

    if not model.run_eagerly:
        backward = _keras.traced(backward, reduce_retracing=True)

    def record(done):
        if done not in wanted:
            return
        passes = [backward(*batch) for batch in ((x, y), *single)]
        state = [weight for layer in layers for weight in _weights(layer)]
        state += passes[0][0]
        if penalized:
            state += [gradient for layer in layers for gradient in _penalties(layer)]
        state += [number for _, numbers in passes for number in numbers]
        # As they are now: some are variables.
        states.append(np.concatenate([np.ravel(part) for part in state]).astype("<f4"))

    class Recorder(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            record(batch + 1)

    with unchanged(model):
        record(0)
        if wanted[-1]:
            # `fit` makes its own train function, with one step per call.
            vars(model).update(train_function=None, steps_per_execution=1)
            _keras.set_initial_epoch(model, None)
            steps = int(wanted[-1])
            model.fit(
                data.repeat(),
                steps_per_epoch=steps,
                shuffle=False,  # the data are
                callbacks=[Recorder()],
                verbose=0,
            )
    return states


def _weights(layer):
    """Return a layer's kernel and bias, a bias of zeros where it has none."""
    return layer.kernel.value, layer.bias.value if layer.use_bias else tf.zeros(layer.units)


def _penalties(layer):
    """Return the gradients of the penalties on a layer's kernel and bias."""
    gradients = []
    for weight, variable in zip(_weights(layer), (layer.kernel, layer.bias), strict=True):
        gradient = None
        # Keras penalizes what is trained.
        if variable is not None and variable.trainable and variable.regularizer is not None:
            with tf.GradientTape() as tape:
                penalty = variable.regularizer(variable)
            gradient = tape.gradient(penalty, weight)
        gradients.append(tf.zeros_like(weight) if gradient is None else gradient)
    return gradients


def _backward(model, layers, x, y):
    """Run a model forward and backward in inference mode.

    Returns:
        Tuple of two lists of float64 tensors. The gradients of the batch's loss with respect to
        each layer's kernel and bias; and the loss, for each layer the means of its inputs and of z
        and the gradient with respect to z, summed over the batch, and the mean output.
    """
    inputs = {}
    weights = [weight for layer in layers for weight in _weights(layer)]
    with contextlib.ExitStack() as stack:
        z = stack.enter_context(pre_activations(layers))
        for layer in layers:
            call = _noting_inputs(layer, inputs)
            stack.enter_context(replaced_attributes(layer, call=call))
        with tf.GradientTape() as tape:
            tape.watch(weights)  # frozen ones too
            outputs = model(x, training=False)
            loss = model.compute_loss(x, y, outputs)
        z = [z[layer.name] for layer in layers]
        gradients, dz = tape.gradient(loss, [weights, z], unconnected_gradients="zero")
    numbers = [loss]
    for layer, pre_activation, gradient in zip(layers, z, dz, strict=True):
        numbers += [_mean(inputs[layer.name]), _mean(pre_activation), _total(gradient)]
    numbers.append(_mean(keras.tree.flatten(outputs)[0]))
    return [tf.cast(g, tf.float64) for g in gradients], [tf.cast(n, tf.float64) for n in numbers]


def _noting_inputs(layer, noted):
    call = layer.call

    def note_and_call(inputs, *args, **kwargs):
        noted[layer.name] = inputs
        return call(inputs, *args, **kwargs)

    return note_and_call


def _mean(batch):
    batch = tf.cast(batch, tf.float64)
    return tf.reshape(tf.reduce_mean(batch, axis=0), [-1])


def _total(batch):
    return tf.reduce_sum(tf.cast(batch, tf.float64), axis=0)
