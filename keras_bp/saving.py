"""Models that plain Keras can load, without this package."""

from typing import Any

import keras
import tensorflow as tf

from keras_bp import _keras
from keras_bp._paths import variable_paths

__all__ = ["to_keras"]

_PACKAGE = f"{_keras.PACKAGE}>"
# Classes that compute what a Keras class of another name does, with the arguments that it lacks.
_OTHERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "DeferredEmbedding": ("Embedding", ()),
    "Detach": ("Identity", ()),
    "FeedbackConv2D": ("Conv2D", ("feedback", "feedback_initializer")),
    "FeedbackDense": ("Dense", ("feedback", "feedback_initializer")),
}


def to_keras(model: keras.Model) -> keras.Model:
    """Return the model with each layer of this package replaced by its namesake in Keras.

    The new model computes the same outputs from the same weights, and its `.keras` file is loaded,
    exported and served where this package is not installed. Layers that only change the backward
    pass become the layer whose forward pass they have: `FeedbackDense` a `Dense`,
    `DeferredEmbedding` an `Embedding`, `Detach` an `Identity`. It is not compiled, since what
    remains to be done is inference: compile it to train on.

    Args:
        model: a built `keras.Model`: `Sequential`, functional (a `MultiTaskModel` too) or a class
            of your own that Keras can save. It stays as it is.

    Returns:
        A new `keras.Model`.

    Raises:
        TypeError: if `model` is no `keras.Model`.
        ValueError: if it is not built, or holds a layer of this package that has no namesake
            (`DirectFeedback`), that a class of your own creates, or that derives from one.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras_bp.layers.Dense(3, "relu")])
        >>> plain = keras_bp.to_keras(model)
        >>> type(plain.layers[0]) is keras.layers.Dense
        True
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    config = _plain(keras.saving.serialize_keras_object(model))
    # Safe mode refuses lambdas of a file, and these are the model's own.
    plain = keras.saving.deserialize_keras_object(config, safe_mode=False)
    # A model without `call` is built again only if its constructor builds its layers.
    if not (_keras.is_built(model) and _keras.is_built(plain)):
        raise ValueError(
            "`model` must be built, also as its config makes it: give it an Input, or call it on a "
            f"batch. Received: model {model.name!r}"
        )
    kept = [layer for layer in _keras.flat_layers(plain, include_self=True) if _is_ours(layer)]
    if kept:
        raise ValueError(
            "`model` must be made of layers that have a namesake in Keras. Received: "
            + ", ".join(f"{type(layer).__name__} {layer.name!r}" for layer in kept)
        )
    # In order, as names may differ: Keras numbers those that a constructor does not give. What
    # only our layers hold comes last.
    for ours, theirs in zip(_by_layer(model), _by_layer(plain), strict=True):
        for variable, new in zip(ours, theirs, strict=False):
            new.assign(_value(variable))
    return plain


def _is_ours(layer):
    # A class of the user's that derives from one of ours needs ours, too.
    return any(base.__module__.startswith(f"{_keras.PACKAGE}.") for base in type(layer).__mro__)


def _plain(config: Any) -> Any:
    """Return a serialized object with Keras's classes, not compiled."""
    if isinstance(config, list | tuple):
        return [_plain(item) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: _plain(item) for key, item in config.items() if key != "compile_config"}
    registered = config.get("registered_name")
    if not (isinstance(registered, str) and registered.startswith(_PACKAGE)):
        return config
    own = registered.removeprefix(_PACKAGE)
    if own == "MultiTaskModel":
        arguments = {k: v for k, v in config["config"].items() if k != "combiner"}
        functional = {"module": "keras", "class_name": "Model", "registered_name": None}
        return {**config, **functional, "config": arguments}
    name, dropped = _OTHERS.get(own, (own, ()))
    if not hasattr(keras.layers, name):
        return config
    arguments = {k: v for k, v in config["config"].items() if k not in dropped}
    plain = {"module": "keras.layers", "class_name": name, "registered_name": None}
    return {**config, **plain, "config": arguments}


def _by_layer(model):
    """List the weights of each layer that has some, in the model's order."""
    weights, layers = {id(variable): variable for variable in model.weights}, {}
    for key, (layer, _) in variable_paths(model).items():
        layers.setdefault(layer, []).append(weights[key])
    return layers.values()


def _value(variable):
    """Return a weight's value, a deferred table's as its layer reads it."""
    value = tf.convert_to_tensor(variable.value)
    if not hasattr(variable, "deferred_rows"):
        return value
    return value - variable.deferred_rows.missed(tf.range(len(value)))
