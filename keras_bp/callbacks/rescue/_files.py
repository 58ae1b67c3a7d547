"""The folder of a fault: its batch, the model before its step, and what is known of it."""

import contextlib
import json
import os
import re
import shutil
import zipfile

import keras
import numpy as np
import tensorflow as tf

from keras_bp._keras import global_seed_state

_BATCH, _REPORT = "batch.npz", "report.json"
_ODD = ValueError, LookupError, TypeError, AttributeError  # of JSON that is none of ours
_MODEL, _WEIGHTS = "model.keras", "model.weights.h5"


def write_fault(directory, name, model, data, report):
    """Write the folder of a fault, and return its path.

    It is complete or absent: it is written under another name and renamed.

    Args:
        directory: string or `os.PathLike`, where the folder is made.
        name: string, that of the folder, with a number behind it where there is such a one.
        model: the model, as the step found it.
        data: its batch, any nest of tensors, those of all replicas included.
        report: dictionary for JSON.

    Raises:
        OSError: or another error, if it cannot be written; nothing of it is left then.
    """
    path, number = os.path.join(os.fspath(directory), name), 2
    while os.path.exists(path):
        path, number = os.path.join(os.fspath(directory), f"{name}-{number}"), number + 1
    partial = path + ".partial"
    try:
        os.makedirs(partial, exist_ok=True)
        arrays: dict = {}
        batch = keras.utils.unpack_x_y_sample_weight(data)
        names = "x", "y", "sample_weight"
        parts = dict(zip(names, batch, strict=True))
        structure = {n: _packed(part, n, arrays, model) for n, part in parts.items()}
        for i, seed in enumerate(_seeds(model)):
            arrays[f"seed/{i}"] = np.asarray(seed)
        np.savez(os.path.join(partial, _BATCH), **arrays)
        report = {**report, **_write_model(partial, model)}
        report["batch_structure"] = structure
        report["dtype_policy"] = keras.dtype_policies.serialize(model.dtype_policy)
        with open(os.path.join(partial, _REPORT), "w") as file:
            json.dump(report, file, indent=1)
        os.rename(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return path


def _write_model(folder, model):
    """Write a model, or its weights if Keras cannot save it; return what the report says of it."""
    try:
        model.save(os.path.join(folder, _MODEL))
        return {}
    except OSError:
        raise
    except Exception as error:  # Keras has no common error for a lambda or a missing `get_config`
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, _MODEL))
        model.save_weights(os.path.join(folder, _WEIGHTS))
        return {"model_not_saved": str(error)}


def read_fault(path, model=None):
    """Return the model, with the state before the step, its batch and the report.

    Args:
        path: string or `os.PathLike`, the folder or a file in it.
        model: a compiled model of the same architecture that takes the saved weights, or None to
            load the saved one, with Keras's `safe_mode`.

    Returns:
        The model, a tuple (x, y, sample_weight) and a dictionary.

    Raises:
        ValueError: if it is no such folder.
    """
    folder = os.fspath(path)
    folder = folder if os.path.isdir(folder) else os.path.dirname(folder)
    missing = [n for n in (_BATCH, _REPORT) if not os.path.exists(os.path.join(folder, n))]
    if missing:
        raise ValueError(
            f"`path` must name a folder that Rescue has written. Received: path={path!r}, without "
            f"{' and '.join(missing)}"
        )
    try:
        with open(os.path.join(folder, _REPORT)) as file:
            report = json.load(file)
        with (
            open(os.path.join(folder, _BATCH), "rb") as opened,  # NumPy leaves a broken one open
            np.load(opened, allow_pickle=False) as file,
        ):
            arrays = {name: file[name] for name in file.files}
        structure, policy = report.pop("batch_structure"), report.pop("dtype_policy", None)
        names = "x", "y", "sample_weight"
        batch = tuple(_unpacked(structure[name], arrays) for name in names)
    except (OSError, EOFError, zipfile.BadZipFile, *_ODD) as error:
        raise ValueError(
            f"`path` must name a folder that Rescue has written, whole. Received: path={path!r} "
            f"({error})"
        ) from error
    saved = os.path.join(folder, _MODEL)
    if model is not None:
        if model.compiled and model.optimizer and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)  # the file holds its loss scale
        model.load_weights(saved if os.path.exists(saved) else os.path.join(folder, _WEIGHTS))
    elif os.path.exists(saved):
        model = _loaded(saved, policy)
    else:
        raise ValueError(
            f"`model` must be given where Keras could not save it. Received: model=None and "
            f"path={path!r} ({report.get('model_not_saved')})"
        )
    seeds = [arrays[n] for n in sorted((n for n in arrays if n.startswith("seed/")), key=_number)]
    own = _seeds(model)
    if [tuple(s.shape) for s in seeds] == [tuple(v.shape) for v in own]:
        for variable, value in zip(own, seeds, strict=True):
            variable.assign(value)
    return model, batch, report


def _loaded(path, policy):
    """Load a model under the policy that it had, for which Keras scales its loss."""
    current = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy and keras.dtype_policies.get(policy) or current)
    try:
        return keras.saving.load_model(path)
    finally:
        keras.config.set_dtype_policy(current)


def _number(name):
    return int(re.sub(r"\D", "", name) or 0)


def _seeds(model):
    """List the states of seed generators, which Keras's files leave out."""
    weights = {id(v) for v in model.weights}
    return [*(v for v in model.variables if id(v) not in weights), global_seed_state()]


def _packed(value, name, arrays, model):
    """Put a nest's tensors into `arrays`, and return its structure for JSON."""
    if value is None or isinstance(value, tf.experimental.Optional):
        return None
    if isinstance(value, dict):
        return {"dict": {k: _packed(v, f"{name}/{k}", arrays, model) for k, v in value.items()}}
    if isinstance(value, list | tuple):
        parts = [_packed(v, f"{name}/{i}", arrays, model) for i, v in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": parts}
    replicas = model.distribute_strategy.experimental_local_results(value)
    if isinstance(replicas[0], tf.SparseTensor):
        value = replicas[0] if len(replicas) == 1 else tf.sparse.concat(0, list(replicas))
        parts = [value.indices, value.values, value.dense_shape]
    elif isinstance(replicas[0], tf.RaggedTensor):
        value = tf.concat(replicas, 0)
        parts = [value.flat_values, *value.nested_row_splits]
    else:
        each = [np.asarray(part) for part in replicas]
        array = each[0] if len(each) == 1 else np.concatenate(each, 0)
        dtype = array.dtype.name
        if array.dtype.hasobject:  # bytes
            array = array.astype("S")
        elif not array.dtype.isbuiltin:  # bfloat16 and the like, which a file does not hold
            array = array.view(f"u{array.dtype.itemsize}")
        arrays[name] = array
        return {"array": name, "dtype": dtype}
    kind = "sparse" if isinstance(value, tf.SparseTensor) else "ragged"
    named = enumerate(parts)
    return {kind: [_packed(part, f"{name}/{kind}/{i}", arrays, model) for i, part in named]}


def _unpacked(structure, arrays):
    """Return the nest of a structure."""
    if structure is None:
        return None
    if "array" in structure:
        array, dtype = arrays[structure["array"]], structure["dtype"]
        if dtype == "object":
            return tf.constant(array.astype(object), tf.string)
        wanted = tf.as_dtype(dtype).as_numpy_dtype
        return tf.constant(array if array.dtype == wanted else array.view(wanted))
    ((kind, content),) = structure.items()
    if kind == "dict":
        return {key: _unpacked(part, arrays) for key, part in content.items()}
    parts = [_unpacked(part, arrays) for part in content]
    if kind == "sparse":
        return tf.SparseTensor(*parts)
    if kind == "ragged":
        return tf.RaggedTensor.from_nested_row_splits(parts[0], parts[1:])
    return tuple(parts) if kind == "tuple" else parts
