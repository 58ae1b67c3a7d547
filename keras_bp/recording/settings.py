"""What a run was made with, as its event file tells it."""

import json
import re
import warnings
import zlib
from typing import Any

import keras
import numpy as np
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from keras_bp import _keras
from keras_bp._paths import block_of, owners, variable_paths
from keras_bp._versions import versions
from keras_bp.recording.event_file import EventFile
from keras_bp_runs.events import SETTINGS
from keras_bp_runs.run import as_json, flat_settings

_LONG = "layers", "summary"


def model_id(model: keras.Model | None) -> str:
    """Return a string that tells a model's weights from another's, `""` if they are unknown.

    Without the numbers in paths, which change when a process makes the same model again.
    """
    if model is None or not _keras.is_built(model):
        return ""
    paths = variable_paths(model)
    weights = [(re.sub(r"_\d+", "", paths[id(w)][1]), tuple(w.shape)) for w in model.weights]
    return f"{zlib.crc32(repr(weights).encode()):08x}"


def settings_of(model: keras.Model | None, fit: dict[str, Any]) -> dict[str, Any]:
    """Return what a training is made with, as JSON can hold it.

    Args:
        model: the model, built and compiled; None in a custom loop that knows none.
        fit: dictionary, what Keras tells callbacks of the `fit`.
    """
    common = {"seed": _keras.global_seed(), "versions": versions()}
    if model is None:
        return common
    return {
        "model": _name(model),
        "parameters": sum(int(np.prod(w.shape)) for w in model.weights),
        "trainable_parameters": sum(int(np.prod(w.shape)) for w in model.trainable_weights),
        **_training(model, fit),
        **common,
        "layers": _layers(model),
        "summary": _summary(model),
    }


def write_settings(
    file: EventFile, settings: dict[str, Any], step: int, before: str | None = None
) -> str:
    """Write settings for TensorBoard's pages HParams and Text, and as JSON; return the JSON.

    Nothing is written if they are the same as `before`.
    """
    content = json.dumps(settings)
    if content == before:
        return content
    file.write_json(SETTINGS, content, step)
    flat = flat_settings({name: v for name, v in settings.items() if name not in _LONG})
    known = {name: v for name, v in flat.items() if isinstance(v, bool | int | float | str)}
    file.write_summary(hparams_pb(known), step)
    rows = [f"| {name} | {'' if v is None else v} |" for name, v in flat.items()]
    file.write_text("settings/training", "\n".join(["| | |", "|---|---|", *rows]), step)
    if "summary" in settings:
        lines = settings["summary"].splitlines()
        file.write_text("settings/model", "\n".join(f"    {line}" for line in lines), step)
    return content


def _training(model, fit):
    """Return the settings of a compiled model and of its `fit`."""
    adapter = getattr(_keras.epoch_iterator(model), "data_adapter", None)
    optimizer = getattr(model, "optimizer", None)
    return {
        "optimizer": None if optimizer is None else _optimizer(optimizer),
        "loss": _named(getattr(model, "loss", None)),
        "batch_size": _plain(getattr(adapter, "batch_size", None)),
        "epochs": fit.get("epochs"),
        "steps_per_epoch": fit.get("steps"),
        "precision": model.dtype_policy.name,
        "jit_compile": bool(model.jit_compile),
        "run_eagerly": bool(model.run_eagerly),
        "steps_per_execution": model.steps_per_execution,
        "replicas": model.distribute_strategy.num_replicas_in_sync,
    }


def _name(model):
    """Return a model's name, without the number that Keras appends to one that it has given."""
    given = re.sub(r"(?<!^)(?=[A-Z])", "_", type(model).__name__).lower()
    return given if re.fullmatch(rf"{given}_\d+", model.name) else model.name


def _optimizer(optimizer):
    try:
        with warnings.catch_warnings():  # a lambda in it cannot be loaded again
            warnings.simplefilter("ignore")
            config = optimizer.get_config()
    except Exception:  # a user's own may raise anything, which is no reason to end a training
        config = {}
    config.pop("variable_paths", None)  # the layers tell them
    return _plain({"class_name": type(optimizer).__name__, "config": config})


def _plain(value):
    """Return a config as plain JSON: a serialized object as its class and arguments, and so on."""
    if isinstance(value, dict):
        if {"class_name", "config"} <= set(value):
            kind, config = value["class_name"], value["config"]
            if kind == "__lambda__":
                return "lambda"
            if not isinstance(config, dict):  # a function's name
                return config
            return {"class": kind, **_plain({k: v for k, v in config.items() if k != "name"})}
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    short = np.float32(number)  # Keras tells a float32 by the digits of a float64
    return as_json(float(str(short)) if short == number else number)


def _named(value):
    """Return the name of a loss, or of each in a structure of them."""
    if isinstance(value, dict):
        return {str(name): _named(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_named(each) for each in value]
    if value is None or isinstance(value, str):
        return value
    return getattr(value, "__name__", type(value).__name__)


def _layers(model):
    """Return the layers that hold variables, in order."""
    paths, owner = variable_paths(model), owners(model)
    layers: dict[str, dict[str, Any]] = {}
    for variable in model.weights:
        path = paths[id(variable)][0]
        about = {"path": path, "class": type(owner[id(variable)]).__name__, "block": block_of(path)}
        layer = layers.setdefault(path, {**about, "parameters": 0})
        layer["parameters"] += int(np.prod(variable.shape))
    return list(layers.values())


def _summary(model):
    lines: list[str] = []
    try:
        model.summary(print_fn=lambda line, **_: lines.append(line), expand_nested=True)
    except Exception:  # as for the optimizer
        lines = ["(it raised an error)"]
    return "\n".join(lines)
