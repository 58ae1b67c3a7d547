"""Names of a model's layers and variables that are the same in every run."""

import collections
import os
import re

import keras

from keras_bp._keras import flat_layers, updates

MODEL_ITSELF = "(model)"
"""Stands for the layer path of a variable that the model holds itself, outside any layer."""


def variable_paths(model):
    """Map each weight of a model to the path of its layer and to its own path.

    A path is built from the names of the nested layers, without the model's own name: `block/conv`
    is the layer conv of the model block of the model. Keras's `variable.path`
    differs: it depends on where a layer was first called, with the model's name in a
    Sequential model and without the name of a nested functional model.

    A variable belongs to the innermost layer that holds it, and where several layers share it, to
    the first of them in the model's order. If a path is taken, _1, _2, ... is appended.

    Args:
        model: a built `keras.Model`.

    Returns:
        Dictionary `id(variable)` -> (layer path, variable path), in the model's order.
    """
    paths = {}
    # A layer named "global" must not write to the tag of the norm of all layers together.
    taken_layers, full_paths = {"global"}, set()
    for layer, path in _walk(model, ""):
        own = [variable for variable in _own_weights(layer) if id(variable) not in paths]
        if not own:
            continue
        layer_path = _unique(path or MODEL_ITSELF, taken_layers)
        prefix = f"{layer_path}/" if path else ""
        for variable in own:
            paths[id(variable)] = layer_path, _unique(prefix + variable.name, full_paths)
    return paths


def owners(model):
    """Map `id` of each weight of a model to the innermost layer that holds it, as the paths do."""
    found = {}
    for layer, _ in _walk(model, ""):
        for variable in _own_weights(layer):
            found.setdefault(id(variable), layer)
    return found


def block_of(path):
    """Return what the path of a layer has in common with its block's: `block_1` of `block_1/conv`.

    It is the first name up to its first number: layers are often named `conv1_bn` and the like.
    """
    return re.match(r"[^/\d]*\d*", path)[0]


def slots_of(optimizer, variables):
    """List what a built optimizer keeps from update to update, as numbers, of a model's variables.

    The link is the name: every optimizer calls a slot by its variable's path, "/" as "_", and by
    what it is, `net_d1_kernel_velocity`. Slots of variables of the same path are in their order.

    Args:
        optimizer: a `keras.optimizers.Optimizer` that steps variables itself.
        variables: list of variables, those of other optimizers among them.

    Returns:
        List of (variable, what the slot is, slot).
    """
    owners, found, met = {}, [], collections.Counter()
    for variable in variables:
        if updates(optimizer, variable):
            owners.setdefault(path_of(variable).replace("/", "_"), []).append(variable)
    for slot in optimizer.variables:
        stem = slot.name
        while stem and stem not in owners:
            stem = stem.rpartition("_")[0]
        name = slot.name.removeprefix(f"{stem}_")
        # A sum of gradients is 0 after each update.
        if stem and keras.backend.is_float_dtype(slot.dtype) and name != "gradient_accumulator":
            variable = owners[stem][met[slot.name] % len(owners[stem])]
            found.append((variable, name, slot))
        met[slot.name] += 1
    return found


def path_of(variable):
    """Return a variable's path, such as "dense/kernel", in which patterns are searched."""
    if isinstance(variable, keras.Variable):
        return variable.path
    return variable.name.removesuffix(":0")


def layer_paths(model):
    """Map each layer that a model's `summary` lists, and those of models in it, to its path.

    Paths are built as in `variable_paths`. The models themselves are left out.
    """
    paths, taken = {}, set()

    def walk(inner_model, prefix):
        for layer in inner_model.layers:
            if isinstance(layer, keras.Model):
                walk(layer, f"{prefix}{layer.name}/")
            elif layer not in paths:
                paths[layer] = _unique(f"{prefix}{layer.name}", taken)

    walk(model, "")
    return paths


def is_table(variable):
    """Tell whether a variable is the table of an embedding, by Keras's name for it."""
    return path_of(variable).endswith("embeddings")


def short_names(names, longest):
    """Shorten names to `longest` characters, 12 or more, so that none become the same.

    The end of a long name says more than its beginning. Ends that are the same, as those of
    `forward_lstm/lstm_cell` and `backward_lstm/lstm_cell`, are left out instead. Where that does
    not help, _1, _2, ... is appended.

    Args:
        names: list of strings, no two of them the same.
        longest: integer.
    """
    labels = {}

    def shorten(group, left_out):
        """Label a group of names without so many of their last characters, the same in all."""
        by_label = {}
        for name in group:
            rest, tail = name[: len(name) - left_out], "…" * bool(left_out)
            if len(rest + tail) > longest:
                rest = "…" + rest[len(tail) + 1 - longest :]
            by_label.setdefault(rest + tail, []).append(name)
        for label, same in by_label.items():
            labels.update(dict.fromkeys(same, label))
            if len(same) > 1:
                end = os.path.commonprefix([name[::-1] for name in same])[::-1]
                # The rest of the word that differs is shown, if it is short.
                shorten(same, len(end) - min(len(end.partition("/")[0]), longest // 2))

    shorten(names, 0)
    taken = set()
    return [_unique(labels[name], taken) for name in names]


def _walk(layer, path):
    """Yield (layer, path) for a layer and all layers inside it, outer layers first."""
    yield layer, path
    for inner in _inner_layers(layer):
        yield from _walk(inner, f"{path}/{inner.name}" if path else inner.name)


def _inner_layers(layer):
    return flat_layers(layer, recursive=False)


def _own_weights(layer):
    """List the weights that a layer holds and no layer inside it does."""
    inner = {id(weight) for other in _inner_layers(layer) for weight in other.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]


def _unique(path, taken):
    """Return the path, with _1, _2, ... appended if it is taken, and reserve it."""
    candidate, number = path, 0
    while candidate in taken:
        number += 1
        candidate = f"{path}_{number}"
    taken.add(candidate)
    return candidate
