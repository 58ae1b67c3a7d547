"""Norms of a step in a custom loop."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._keras import compiled_by_xla
from keras_bp._paths import path_of, variable_paths
from keras_bp.gradients import squared_norms, sum_over_replicas
from keras_bp.recording.callback import LayerSelection
from keras_bp.recording.histograms import row_blocks


def record_custom_loop(
    write: Callable[[tuple[str, ...], list[float], int | None], None],
    model: keras.Model | None,
    selection: LayerSelection,
    gradients: Sequence[Any],
    variables: Sequence[Any],
    loss: Any,
    step: Any,
) -> None:
    """Compute a step's norms, eagerly or in its graph, and pass them to a Python function.

    Args:
        write: function of tags (tuple), values (list of floats) and step (integer or None).
        model: the model that names the layers, or None.
        selection: the `LayerSelection` of the layers to write; the global norm counts all.
        gradients: as in `GradientMonitor.record`.
        variables: as there.
        loss: as there.
        step: as there.
    """
    gradients, variables = list(gradients), list(variables)
    if len(gradients) != len(variables):
        raise ValueError(
            "`gradients` must hold one gradient for each variable. "
            f"Received: {len(gradients)} gradients and {len(variables)} variables"
        )
    if compiled_by_xla():
        raise ValueError(
            "`record` writes from Python, which a function with jit_compile=True cannot call: "
            "return the gradients from it and call `record` outside. Received: a call inside"
        )
    layers = _layers(model, variables)
    names = list(dict.fromkeys(layers))
    columns = np.array([names.index(layer) for layer in layers])
    chosen = [i for i, name in enumerate(names) if name in selection]
    kinds = [f"gradient_norm/{names[i]}" for i in chosen] + ["gradient_norm/global"]
    kinds += [f"weight_norm/{names[i]}" for i in chosen] + ["loss/batch"] * (loss is not None)
    tags = tuple(kinds)

    def take(squares, weights, loss, step):
        norms = [np.bincount(columns, s, len(names))[chosen] for s in (squares, weights)]
        values = np.sqrt([*norms[0], np.sum(squares), *norms[1]])
        write(tags, [*values, float(loss)][: len(tags)], None if step < 0 else int(step))

    total = sum_over_replicas([*gradients, None if loss is None else tf.convert_to_tensor(loss)])
    *gradients, loss = total
    weights = [tf.reduce_sum(squared_norms([*row_blocks(v)])) for v in variables]
    arguments = [squared_norms(gradients), tf.stack(weights), 0.0 if loss is None else loss]
    arguments += [tf.constant(-1, tf.int64) if step is None else tf.cast(step, tf.int64)]
    context = tf.distribute.get_replica_context()
    if tf.get_static_value(context.replica_id_in_sync_group) != 0:
        return
    if tf.executing_eagerly():
        take(*(np.asarray(argument) for argument in arguments))
    else:
        tf.numpy_function(take, arguments, [])


def _layers(model, variables):
    """Return the path of each variable's layer."""
    known = {} if model is None else variable_paths(model)
    layers = []
    for variable in variables:
        name = path_of(variable)
        layer = name.rpartition("/")[0] or name
        layers.append(known[id(variable)][0] if id(variable) in known else layer)
    return layers
