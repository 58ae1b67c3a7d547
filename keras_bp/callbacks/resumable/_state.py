"""All that the next batch of a training depends on, and what tells one training from another."""

import base64
import inspect
import json
import re
import warnings
import zlib

import keras
import numpy as np
import tensorflow as tf

from keras_bp._keras import all_optimizers, fit_arguments, flat_layers
from keras_bp.callbacks._training_variables import TrainingVariables
from keras_bp.callbacks.resumable._checkpoints import RefusedError
from keras_bp.callbacks.resumable._data import checked_states

FORMAT = 4
"""The number of the form of the metadata, to be raised with each change of it."""

_UNKNOWN = object()
# No others: a checkpoint from somebody else must not name files, such as "Makefile".
_WORDS = {"min", "max", "auto"}
# What `_matches` compares the metadata with.
_METADATA = {
    "format": int,
    "place": [int],
    "stopped": bool,
    "signature": [str],
    "history": {str: [object]},
    "logs": {str: object},
    "data": {str: object},
    "callbacks": [{str: object}],
}
_STATES = (int, [int], float | None), (str, [int], int, int, float)
_DATA = {
    **dict.fromkeys(("calls", "passed", "per_call"), int),
    "finished": bool,
    **dict.fromkeys(("begun", "now"), _STATES),
}
# Of a config: what depends on the first batch, on how an inner model was trained, and on where a
# class is defined.
_NOT_SETTINGS = {"build_config", "build_input_shape", "compile_config", "module", "registered_name"}


class TrainingState:
    """All that the next batch of a training depends on, for one checkpoint.

    The model's weights and seed generators, inside an epoch the metrics, the optimizer's variables,
    Keras's global seed generator, and those attributes of callbacks that are numbers, arrays of
    these, "min", "max" or "auto", or lists, tuples and dictionaries (with any strings as keys) of
    these. Where the data stand, and Python's and NumPy's generators, is told by a `DataPosition`.

    Args:
        model: a built and compiled `keras.Model` whose optimizer is built, in a `fit`.
        callbacks: list of callbacks, before they have counted anything.
        params: dictionary, what `fit` told the callbacks.

    Attributes:
        variables: the `TrainingVariables`.
    """

    def __init__(self, model, callbacks, params):
        self._callbacks = callbacks
        self._kinds = [
            {n: "unknown" if _encoded(v) is _UNKNOWN else _kind(v) for n, v in vars(c).items()}
            for c in callbacks
        ]
        # Of the beginning: a callback may change a layer's settings.
        layers = flat_layers(model, include_self=True)
        self._identity = [
            *_settings("model", _config_of(model.get_config), layers),
            *_loss_settings(model),
            *_data_settings(model, params),
            f"{model.distribute_strategy.num_replicas_in_sync} replicas",
        ]
        self.look_at(model)

    def look_at(self, model):
        """Hold the variables of the model, and of the optimizer that it has by now."""
        self._classes = [f"callback {type(callback).__name__}" for callback in self._callbacks]
        self._model = model
        optimizers = all_optimizers(model.optimizer)
        self._classes += [line for o in optimizers for line in _optimizer_settings(o)]
        self._classes += [f"layer {type(layer).__name__}" for layer in model.layers]
        self.variables = TrainingVariables(model)

    def _signature(self):
        """Return what identifies a training: classes, variables, settings and data, as strings.

        Keras numbers automatic names within a process (`dense_1`), so only the last word of a name
        counts: kernel, bias, momentum.
        """
        named = self.variables.named
        words = (v.path.replace("/", "_").rpartition("_")[2] for v in named.values())
        variables = [
            f"{key.partition('_')[0]} {word} {tuple(v.shape)} {v.dtype}"
            for (key, v), word in zip(named.items(), words, strict=True)
        ]
        return [*self._classes, *variables, *self._identity]

    def metadata(self, place, stopped, history, logs, data):
        """Return the state outside of variables, as JSON can hold it.

        Args:
            place: tuple (epochs, batches), as of `Checkpoints`.
            stopped: whether the training was stopped.
            history: dictionary of the epochs' logs.
            logs: dictionary of the last batch's.
            data: what `DataPosition.description` returned.
        """
        return {
            "format": FORMAT,
            "place": place,
            "stopped": stopped,
            "signature": self._signature(),
            "history": {name: list(values) for name, values in history.items()},
            "logs": logs,
            "data": data,
            "callbacks": [self._attributes(index) for index in range(len(self._callbacks))],
        }

    def _attributes(self, place):
        attributes = vars(self._callbacks[place])
        counted = {n: _encoded(v) for n, v in attributes.items() if self._counts(place, n, v)}
        return {name: value for name, value in counted.items() if value is not _UNKNOWN}

    def _counts(self, place, name, value):
        """Tell whether an attribute of a callback is part of the state, if a file can hold it.

        Arguments are not: Keras's callbacks flip the sign of `min_delta` each time they begin. Nor
        is what was of another kind as the training began, such as a path or a function.
        """
        owner = type(self._callbacks[place])
        given = {*vars(keras.callbacks.Callback())}  # the model, and what `fit` was called with
        for base in owner.__mro__:
            given |= {*inspect.signature(base.__init__).parameters}
        before, kind = self._kinds[place].get(name, "nothing"), _kind(value)
        of_class = inspect.getattr_static(owner, name, None)
        return (
            name not in given
            and (before in (kind, "nothing") or (kind == "nothing" and before != "unknown"))
            # A method or property; a plain value may be the default of all instances.
            and not (callable(of_class) or hasattr(of_class, "__get__"))
        )

    def check(self, place, metadata):
        """Return a checkpoint's metadata, decoded; refuse all that `metadata` would not have made.

        Nothing is changed.
        """

        def refuse(reason):
            raise RefusedError(
                "`backup_dir` must hold checkpoints that this version of ResumableTraining wrote. "
                f"Received: the one of epoch {place[0]}, batch {place[1]}, {reason}"
            )

        if type(metadata) is not dict or metadata.get("format") != FORMAT:
            found = metadata.get("format") if type(metadata) is dict else type(metadata).__name__
            refuse(f"whose metadata are of the form {found!r} instead of {FORMAT}")
        for key, form in _METADATA.items():
            if not _matches(metadata.get(key, _UNKNOWN), form):
                refuse(f"whose {key!r} is missing or not of its form")
        if metadata["place"] != list(place):
            refuse(f"whose 'place' is {metadata['place']}")
        if any(len(values) > place[0] for values in metadata["history"].values()):
            refuse("whose 'history' has more epochs")
        data = metadata["data"]
        for key, form in _DATA.items():
            if not _matches(data.get(key, _UNKNOWN), form):
                refuse(f"whose 'data' have no {key!r} or one not of its form")
        if not 0 <= data["calls"] <= place[1] or not 0 <= data["passed"]:
            refuse(f"whose 'data' are at {data['calls']} and {data['passed']}")
        self._compare(metadata["signature"])
        per_call = self._model.steps_per_execution
        if place[1] and data["per_call"] != per_call:
            raise RefusedError(
                "`steps_per_execution` of `compile` must be the one of the interrupted epoch. "
                f"Received: {per_call}, after {data['per_call']}"
            )
        try:
            data = {**data, **{key: checked_states(data[key]) for key in ("begun", "now")}}
            callbacks = [
                {name: _decoded(value) for name, value in attributes.items()}
                for attributes in metadata["callbacks"]
            ]
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            refuse(f"whose random states or 'callbacks' are none ({error})")
        if len(callbacks) != len(self._callbacks):
            refuse(f"with {len(callbacks)} callbacks")
        for index, attributes in enumerate(callbacks):
            for name, value in attributes.items():
                if not self._counts(index, name, value):
                    owner = type(self._callbacks[index]).__name__
                    refuse(f"which sets {name!r} of {owner} to a {type(value).__name__}")
        return {**metadata, "data": data, "callbacks": callbacks}

    def _compare(self, saved):
        own = self._signature()
        if saved == own:
            return
        pairs = enumerate(zip([*saved, None], [*own, None], strict=False))
        number, (theirs, ours) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
        raise RefusedError(
            "`backup_dir` must hold checkpoints of the same model, optimizer and loss, "
            f"on the same data. Received: one with {len(saved)} classes, variables and settings "
            f"where this training has {len(own)}; number {number} is {theirs!r} there and "
            f"{ours!r} here"
        )

    def restore(self, arrays, callbacks):
        """Assign arrays to the variables of these names, and what `check` returned to callbacks."""
        self.variables.assign(arrays)
        for callback, attributes in zip(self._callbacks, callbacks, strict=True):
            for name, value in attributes.items():
                setattr(callback, name, value)


def _matches(value, form):
    """Tell whether a value is of a type, or of a list, tuple or dictionary of such forms."""
    if isinstance(form, dict):
        return type(value) is dict and all(_matches(v, form[str]) for v in value.values())
    if isinstance(form, list):
        return type(value) is list and all(_matches(part, form[0]) for part in value)
    if isinstance(form, tuple):
        known = type(value) is list and len(value) == len(form)
        return known and all(_matches(*pair) for pair in zip(value, form, strict=True))
    return isinstance(value, form)


# What tells trainings apart


def _config_of(get_config):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras's, of lambdas, whose source it looks for
            return get_config()
    except (NotImplementedError, TypeError, ValueError, AttributeError, OSError):
        return {}


def _settings(kind, config, layers=()):
    """List the settings that a config tells."""
    # Keras numbers automatic names within a process.
    names = dict.fromkeys([*(layer.name for layer in layers), *_names(config)])
    return [f"{kind} {n}" for n in _lines(config, {n: f"name {i}" for i, n in enumerate(names)})]


def _optimizer_settings(optimizer):
    """List an optimizer's settings, but not a constant rate, which callbacks change."""
    config = _config_of(optimizer.get_config)
    lines = _settings("optimizer", {"class_name": type(optimizer).__name__, "config": config})
    return [n for n in lines if not re.search(r"(?<!/learning_rate)/config/learning_rate = ", n)]


def _loss_settings(model):
    """List the settings of the losses that a model was compiled with."""
    lines = []
    for loss in keras.tree.flatten(model.loss):
        name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
        config = _config_of(loss.get_config) if hasattr(loss, "get_config") else {}
        lines += _settings("loss", {"class_name": name, "config": config})
    weights = _config_of(model.get_compile_config).get("loss_weights")
    return [*lines, *_settings("loss", {"weights": weights})]


def _names(value):
    """List the names of what a config holds: layers, operations (`x + y`), seed generators."""
    if isinstance(value, list | tuple):
        return [name for part in value for name in _names(part)]
    if not isinstance(value, dict):
        return []
    config = value.get("config") if "class_name" in value else None
    name = config.get("name") if isinstance(config, dict) else None
    # A dtype's name is a setting.
    parts = [part for key, part in value.items() if key != "dtype"]
    return [*([name] if isinstance(name, str) else []), *_names(parts)]


def _lines(value, names, path=""):
    """List the entries of a nested config as text."""
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":  # its code holds the path of its file
            return [f"{path} = lambda"]
        parts = [(key, value[key]) for key in sorted(value, key=str) if key not in _NOT_SETTINGS]
    elif isinstance(value, list | tuple) and any(isinstance(v, dict | list | tuple) for v in value):
        parts = enumerate(value)
    elif value is None:  # an option that a later version of Keras may have added
        return []
    else:
        flat = value if isinstance(value, list | tuple) else [value]
        renamed = [names.get(v, v) if isinstance(v, str) else v for v in flat]
        text = json.dumps(renamed, default=lambda unknown: type(unknown).__name__)[1:-1]
        return [f"{path} = {text if len(text) <= 80 else zlib.crc32(text.encode())}"]
    return [line for key, part in parts for line in _lines(part, names, f"{path}/{key}")]


def _data_settings(model, params):
    """List what is known of the data of the `fit` that is running."""
    lines = [f"data in {params.get('steps')} batches"]
    arguments = fit_arguments(model)
    for name in ("x", "y", "sample_weight"):
        for leaf in keras.tree.flatten(arguments.get(name)):
            lines.append(f"data {name} {_data_setting(leaf)}")
    return lines


def _data_setting(leaf):
    if hasattr(leaf, "element_spec"):
        return f"dataset of {leaf.element_spec}"
    leaf = leaf.to_numpy() if hasattr(leaf, "to_numpy") else leaf  # of pandas
    if not isinstance(leaf, np.ndarray | tf.Tensor) or not leaf.shape or not len(leaf):
        return type(leaf).__name__
    # Some rows: all of a large array would take seconds.
    rows = np.ascontiguousarray(leaf[:: -(-len(leaf) // 256)])
    text = "" if rows.dtype.hasobject else f", checksum {zlib.crc32(rows.tobytes())}"
    return f"array of shape {tuple(leaf.shape)}, {rows.dtype}{text}"


# Values of callbacks' attributes, as JSON can hold them


def _kind(value):
    """Return the name of a value's type, with one name for all numbers and arrays of these."""
    if value is None:
        return "nothing"
    if isinstance(value, bool | int | float | np.ndarray | np.generic):
        return "number"
    return "list" if type(value) is tuple else type(value).__name__


def _encoded(value):
    """Return a value as JSON can hold it, or `_UNKNOWN`.

    Plain values stay as they are; all others become a dictionary with the name of their type.
    """
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str:
        return value if value in _WORDS else _UNKNOWN
    if isinstance(value, np.ndarray | np.generic):
        value = np.asarray(value)
        try:
            known = tf.as_dtype(value.dtype) != tf.string  # as which objects count
        except TypeError:
            known = False
        if not known:
            return _UNKNOWN
        text = base64.b64encode(value.tobytes()).decode()
        return {"array": [value.dtype.name, list(value.shape), text]}
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
        if _encoded(value) is _UNKNOWN or isinstance(value, list):
            raise ValueError(f"{value!r} is no state")
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {key: _decoded(part) for key, part in content.items()}
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](_decoded(part) for part in content)
    if kind != "array":
        raise ValueError(f"{kind!r} is no kind of state")
    name, shape, text = content
    dtype = tf.as_dtype(name).as_numpy_dtype
    # A copy, which can be written to; without a shape, one of NumPy's numbers.
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape).copy()[()]
