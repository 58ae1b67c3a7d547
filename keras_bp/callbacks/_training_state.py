"""All that the next epoch of a training depends on, as one checkpoint's worth of tensors."""

import base64
import inspect
import io
import random

import keras
import numpy as np
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator


class TrainingState:
    """The variables of a training, and what else it draws on, by name.

    Of the model its weights and seed generators (metrics begin anew in each epoch), of the
    optimizer all its variables, and of Keras its global seed generator; of Python and NumPy the
    state of their global random generators; of callbacks their attributes that are numbers,
    strings, arrays, or lists, tuples and dictionaries of these.

    Args:
        model: a built and compiled `keras.Model` whose optimizer is built.
        callbacks: list of callbacks.
    """

    def __init__(self, model, callbacks):
        self._callbacks = callbacks
        self._classes = [f"callback {type(callback).__name__}" for callback in callbacks]
        self._classes += _optimizer_classes(model.optimizer)
        self._classes += [f"layer {type(layer).__name__}" for layer in model.layers]
        variables = {
            "model": model.variables,
            "optimizer": model.optimizer.variables,
            # Keras has no public name for it.
            "seed": [global_seed_generator().state],
        }
        self.variables = {}
        seen = set()
        for kind, members in variables.items():
            for member in members:
                if id(member) not in seen:
                    seen.add(id(member))
                    self.variables[f"{kind}_{len(self.variables)}"] = member

    def signature(self):
        """Return what tells one training from another: classes and variables, as strings.

        Names that Keras makes up count on in a process (`dense_1`), so of a name only its last
        word counts: kernel, bias, momentum.
        """
        words = (v.path.replace("/", "_").rpartition("_")[2] for v in self.variables.values())
        return self._classes + [
            f"{key.partition('_')[0]} {word} {tuple(v.shape)} {v.dtype}"
            for (key, v), word in zip(self.variables.items(), words, strict=True)
        ]

    def python_side(self):
        """Return what is not in variables, in a form for JSON."""
        version, state, gauss = random.getstate()
        kind, keys, *rest = np.random.get_state()
        return {
            "python": [version, list(state), gauss],
            "numpy": [kind, keys.tolist(), *rest],
            "callbacks": [_attributes(callback) for callback in self._callbacks],
        }

    def restore_variables(self, values):
        """Put back the variables: arrays by their names."""
        for key, variable in self.variables.items():
            variable.assign(values[key])

    def restore_python_side(self, python_side):
        """Put back what is not in variables."""
        version, state, gauss = python_side["python"]
        random.setstate((version, tuple(state), gauss))
        kind, keys, *rest = python_side["numpy"]
        np.random.set_state((kind, np.array(keys, np.uint32), *rest))
        for callback, attributes in zip(self._callbacks, python_side["callbacks"], strict=True):
            for name, value in attributes.items():
                setattr(callback, name, _decoded(value))


def _optimizer_classes(optimizer):
    """Return its class, and those of the optimizers inside of it, whose variables may look alike.

    A `LossScaleOptimizer` holds one, a `MultiOptimizer` several.
    """
    inner = getattr(optimizer, "inner_optimizer", None)
    members = getattr(optimizer, "optimizers", []) if inner is None else [inner]
    classes = [f"optimizer {type(optimizer).__name__}"]
    return classes + [name for member in members for name in _optimizer_classes(member)]


def own_tensor(variable):
    """Return the `tf.Variable` of a Keras variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def _attributes(callback):
    """Return what a callback has counted: its plain attributes, without what it was given.

    Keras's callbacks change the sign of `min_delta`, an argument, each time they begin.
    """
    given = {*inspect.signature(type(callback).__init__).parameters}
    given |= {*vars(keras.callbacks.Callback())}  # the model, and what `fit` was called with
    encoded = {n: _encoded(value) for n, value in vars(callback).items() if n not in given}
    return {name: value for name, value in encoded.items() if value is not _UNKNOWN}


_UNKNOWN = object()


def _encoded(value):
    """Return a value in a form for JSON, or `_UNKNOWN`.

    Plain values stand for themselves, all others are a dictionary with the name of their kind.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        if value.dtype.isbuiltin == 2:  # bfloat16 and the like, whose name a file does not keep
            return {value.dtype.name: _as_text(value.astype(np.float32))}
        return {"array": _as_text(value)}
    if type(value) in (list, tuple):
        parts = [_encoded(part) for part in value]
        known = all(part is not _UNKNOWN for part in parts)
        return {type(value).__name__: parts} if known else _UNKNOWN
    if type(value) is dict and all(type(key) is str for key in value):
        parts = {key: _encoded(part) for key, part in value.items()}
        known = all(part is not _UNKNOWN for part in parts.values())
        return {"dict": parts} if known else _UNKNOWN
    return _UNKNOWN


def _decoded(value):
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {key: _decoded(part) for key, part in content.items()}
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](_decoded(part) for part in content)
    array = np.load(io.BytesIO(base64.b64decode(content)), allow_pickle=False)[()]
    return array if kind == "array" else array.astype(tf.as_dtype(kind).as_numpy_dtype)


def _as_text(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()
