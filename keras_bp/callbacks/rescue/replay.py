"""Runs one batch forward and backward, layer by layer, and tells where NaN or infinity begins."""

import dataclasses
import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._html import table
from keras_bp._paths import layer_paths, variable_paths
from keras_bp._types import Path
from keras_bp.callbacks.rescue._files import read_fault
from keras_bp.gradients import squared_norms
from keras_bp.recording import LayerOutputs

_MOST_EXAMPLES, _MOST_EAGER = 5, 256


@dataclasses.dataclass(frozen=True)
class LayerPass:
    """A layer in the forward and backward pass of a batch.

    Attributes:
        layer: string, its path, as in `GradientMonitor`.
        outputs: float, the norm of its outputs.
        not_finite: float, the share of its outputs that are NaN or infinite.
        gradient: float, the norm of the loss's gradient with respect to its outputs.
        weights: float, the norm of the gradient of its weights, None if it has none that train.
    """

    layer: str
    outputs: float
    not_finite: float
    gradient: float
    weights: float | None


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a batch does in a model: the norms layer by layer, and where NaN or infinity begins.

    `str(replay)` is a table and a sentence.

    Attributes:
        layers: list of `LayerPass`, in the order of the forward pass.
        loss: float, the batch's loss.
        began_in: `"data"`, `"weights"`, `"forward"`, `"loss"` or `"backward"`, where NaN or
            infinity begins; None if all is finite.
        began_at: string, the layer's path, or the name of the input or variable; None for the
            loss.
        examples: list of int, the examples of the batch that show it; where all is finite, the
            five with the largest losses.
        losses: array (examples,), each example's own loss; empty where it cannot be told.
        labels: list, the targets of `examples`, as far as they are numbers.
        description: string, all of it in a sentence.
        report: dictionary, what `Rescue` has noted.
    """

    layers: list[LayerPass]
    loss: float
    began_in: str | None
    began_at: str | None
    examples: list[int]
    losses: np.ndarray
    labels: list[Any]
    description: str
    report: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        width = max([5, *(len(row.layer) for row in self.layers)])
        rows = [f"{'layer':{width}}    outputs  not finite    gradient  of weights"]
        for row in self.layers:
            of_weights = "" if row.weights is None else f"{row.weights:12.3g}"
            numbers = f"{row.outputs:11.3g} {row.not_finite:11.1%} {row.gradient:11.3g}"
            rows.append(f"{row.layer:{width}}{numbers}{of_weights}")
        rows.append(f"loss {self.loss:.6g}")
        for example, label in zip(self.examples, self.labels, strict=True):
            own = f"{self.losses[example]:.6g}" if len(self.losses) else "unknown"
            target = "" if label is None else f", target {label}"
            rows.append(f"  example {example}: loss {own}{target}")
        return "\n".join([*rows, self.description])

    def _repr_html_(self) -> str:
        rows = [
            [r.layer, *("" if n is None else f"{n:.3g}" for n in dataclasses.astuple(r)[1:])]
            for r in self.layers
        ]
        header = "layer", "outputs", "share not finite", "gradient", "gradient of weights"
        marked = [r.layer == self.began_at for r in self.layers]
        return table(f"loss {self.loss:.6g}. {self.description}", header, rows, marked)


def replay(path: Path, model: keras.Model | None = None) -> Replay:
    """Run a batch that `Rescue` has saved forward and backward, and tell where its fault begins.

    It runs eagerly and layer by layer, with the weights, the seeds and the loss scale that the step
    began with. `python -m keras_bp replay PATH` prints it.

    Args:
        path: string or `os.PathLike`, the folder that `Rescue` has written, or a file in it.
        model: a compiled model of the same architecture, which takes the saved weights. Defaults to
            `None`: the saved model is loaded, with Keras's `safe_mode`, which refuses a file that
            could run code; classes and losses of your own must be registered with Keras.

    Returns:
        A `Replay`.

    Raises:
        ValueError: if there is no such folder, or if the model was not compiled.

    Example:
    ```python
    replay = keras_bp.replay("faults/step-312")
    print(replay)
    replay.began_in, replay.began_at, replay.examples
    ```
    """
    model, batch, report = read_fault(path, model)
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled with the loss that trained it. "
            f"Received: model {model.name!r}, which is not"
        )
    return explain(model, batch, report)


def explain(model: keras.Model, batch: tuple, report: dict | None = None) -> Replay:
    """Run a batch forward and backward as a training step does, but for the update.

    Batch statistics and seeds move on.

    Args:
        model: a compiled model.
        batch: tuple (x, y, sample_weight).
        report: dictionary, what is known of it.
    """
    x, y, sample_weight = batch
    outputs = LayerOutputs(model, every=True)
    refused = loss = None
    with outputs.watched(), tf.GradientTape() as tape:
        predicted = model(x, training=True)
        arguments = {"x": x, "y": y, "y_pred": predicted, "sample_weight": sample_weight}
        try:
            loss = model.compute_loss(**arguments, training=True)
        except tf.errors.InvalidArgumentError as error:  # a label outside of the classes
            refused = getattr(error, "message", str(error)).partition(" [Op:")[0]
            refused = re.sub(r"^\{\{.*?\}\}", "", refused).strip()  # the node in TensorFlow's graph
        scaled = None if loss is None else _scaled(model, loss)
    paths = layer_paths(model)
    every = outputs.layers()
    by_layer = dict(zip(every, outputs.take(every), strict=True))
    called = [layer for layer in outputs.called if by_layer.get(layer) is not None]
    values = [by_layer[layer] for layer in called]
    trained = [layer.trainable_variables for layer in called]
    gradients = [None] * (len(called) + sum(map(len, trained)))
    if scaled is not None:
        variables = [variable.value for own in trained for variable in own]
        gradients = tape.gradient(scaled, [*values, *variables])
    factor = _scaled(model, tf.ones(()))
    of_outputs, rest = gradients[: len(called)], gradients[len(called) :]
    rows = []
    for layer, value, gradient, own in zip(called, values, of_outputs, trained, strict=True):
        of_weights, rest = rest[: len(own)], rest[len(own) :]
        norms = [_norm([value]), _norm([gradient]) / factor, _norm(of_weights) / factor]
        rows.append(
            LayerPass(
                paths[layer],
                float(norms[0]),
                float(np.mean(~np.isfinite(_array(value)))),
                float(norms[1]),
                float(norms[2]) if own else None,
            )
        )
    loss = float("nan") if loss is None else float(loss)
    count = int(tf.nest.flatten(x)[0].shape[0])
    losses = np.array([]) if refused else _losses(model, arguments, count)
    found = _beginning(model, rows, values, of_outputs, arguments, losses, loss, refused)
    began_in, began_at, examples, description = found
    if began_in is None and len(losses):
        examples = np.argsort(-losses, kind="stable")[:_MOST_EXAMPLES].tolist()
        largest = losses[examples[0]]
        description += f" Example {examples[0]} has the largest loss, {largest:.4g}"
        if losses.min() >= 0 and losses.sum() > 0:
            description += f", {largest / losses.sum():.0%} of the sum over the batch"
        description += "."
    labels = [_label(y, example) for example in examples]
    return Replay(
        rows, loss, began_in, began_at, examples, losses, labels, description, report or {}
    )


def _beginning(model, rows, values, gradients, arguments, losses, loss, refused):
    """Return where it began, in what, the examples that show it, and a sentence."""
    count = int(tf.nest.flatten(arguments["x"])[0].shape[0])
    for name in ("x", "y", "sample_weight"):
        for path, leaf in keras.tree.flatten_with_path(arguments[name]):
            if tf.is_tensor(leaf) and leaf.dtype.is_floating and not _is_finite(leaf):
                examples = _examples(leaf, count)
                name = "/".join(map(str, (name, *path)))
                where = f"`{name}` holds NaN or infinity in {_named(examples)}"
                first = next((row.layer for row in rows if row.not_finite), None)
                then = f"; the first layer that shows it is `{first}`" if first else ""
                return "data", name, examples, f"The data: {where}{then}."
    paths = variable_paths(model)
    for variable in model.weights:
        if "float" in variable.dtype and not _is_finite(tf.convert_to_tensor(variable)):
            path = paths[id(variable)][1]
            text = f"The weights: `{path}` held NaN or infinity before the step."
            return "weights", path, [], text
    for row, value in zip(rows, values, strict=True):
        if row.not_finite:
            examples = _examples(value, count)
            text = (
                f"Forward: NaN or infinity begins in layer `{row.layer}`, in "
                f"{row.not_finite:.1%} of its outputs, in {_named(examples)}."
            )
            return "forward", row.layer, examples, text
    if refused:
        return "loss", None, [], f"The loss refuses the batch: {refused}."
    if not np.isfinite(loss):
        examples = np.flatnonzero(~np.isfinite(losses)).tolist()
        text = "The loss is NaN or infinite, though all layers' outputs are finite"
        where = f": in {_named(examples)}" if len(losses) else ""
        return "loss", None, examples, f"{text}{where}."
    for place in reversed(range(len(rows))):
        after = rows[place + 1].layer if place + 1 < len(rows) else None
        if not np.isfinite(rows[place].gradient):
            examples = _examples(gradients[place], count)
            name = "the loss" if after is None else f"layer `{after}`"
            text = f"Backward: NaN or infinity begins in the backward pass of {name}"
            return "backward", after, examples, f"{text}, in {_named(examples)}."
        if rows[place].weights is not None and not np.isfinite(rows[place].weights):
            name = rows[place].layer
            text = f"Backward: NaN or infinity begins in the gradient of the weights of `{name}`."
            return "backward", name, [], text
    return None, None, [], "Loss and gradients are finite."


def _named(examples):
    if not examples:
        return "no single example"
    listed = ", ".join(map(str, examples[:_MOST_EXAMPLES]))
    more = len(examples) - _MOST_EXAMPLES
    return f"example{'s' * (len(examples) > 1)} {listed}" + (
        f" and {more} more" if more > 0 else ""
    )


def _scaled(model, loss):
    return loss if model.optimizer is None else model.optimizer.scale_loss(loss)


def _array(value):
    return np.asarray(tf.cast(value, tf.float64))


def _is_finite(value):
    return bool(np.isfinite(_array(value)).all())


def _norm(gradients):
    return np.sqrt(float(tf.reduce_sum(squared_norms(gradients))))


def _examples(value, count):
    """List the examples in which a tensor is not finite, none if it has no axis of examples."""
    if value is None or value.shape.rank == 0 or value.shape[0] != count:
        return []
    odd = ~np.isfinite(_array(value)).reshape(count, -1)
    return np.flatnonzero(odd.any(axis=1)).tolist()


def _losses(model, arguments, count):
    """Return each example's own loss; none where the batch does not fall into examples.

    They are computed in a graph, since one by one 4,096 take 6 s instead of 0.3. Of a model that
    runs eagerly there are none if the batch has more than 256 examples.
    """

    def of(example):
        parts = tf.nest.map_structure(
            lambda t: t[example : example + 1] if tf.is_tensor(t) else t, arguments
        )
        return tf.cast(model.compute_loss(**parts, training=True), tf.float64)

    def of_all():
        return tf.map_fn(of, tf.range(count), fn_output_signature=tf.float64)

    try:
        if not model.run_eagerly:
            return tf.function(of_all, autograph=False).get_concrete_function()().numpy()
        return np.array([float(of(e)) for e in range(count if count <= _MOST_EAGER else 0)])
    except (ValueError, TypeError, IndexError, tf.errors.OpError):
        return np.array([])


def _label(y, example):
    """Return an example's target: a number, the class of a one-hot vector, or its shape."""
    leaves = [leaf for leaf in tf.nest.flatten(y) if tf.is_tensor(leaf)]
    if len(leaves) != 1 or not leaves[0].shape.rank:
        return None
    target = np.asarray(leaves[0][example])
    if target.size == 1:
        return target.item()
    if target.ndim == 1 and target.sum() == 1 and target.max() == 1:
        return int(target.argmax())
    return target.tolist() if target.size <= _MOST_EXAMPLES else f"of shape {target.shape}"
