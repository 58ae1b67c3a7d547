"""Models that plain Keras can load, without this package."""

import inspect
from typing import Any

import keras
import tensorflow as tf

from keras_bp import _keras
from keras_bp._paths import slots_of, variable_paths

__all__ = ["to_keras"]

_PACKAGE = f"{_keras.PACKAGE}>"
# Classes that compute what a Keras class of another name does, with the arguments that it lacks.
_OTHERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "DeferredEmbedding": ("Embedding", ()),
    "Detach": ("Identity", ()),
    "FeedbackConv2D": ("Conv2D", ("feedback", "feedback_initializer")),
    "FeedbackDense": ("Dense", ("feedback", "feedback_initializer")),
}
_TRAINING = "compile", "train_step", "make_train_function", "fit"
_MODULES = keras.layers, keras.losses, keras.optimizers, keras.optimizers.schedules
# Arguments with another value than this train otherwise than in the namesake, or not at all.
_SAME: dict[str, dict[str, Any]] = {
    "Adafactor": {"name": None},  # always
    "ScheduleFreeAdamW": {"name": None},
    "Muon": {"name": None},  # always: on the output layer, and on attention and convolutions
    "Lamb": {"weight_decay": None},
    "SparseCategoricalCrossentropy": {"axis": -1},
}
_SAME_FOR_ALL = {"gradient_accumulation_steps": None}


def to_keras(model: keras.Model) -> keras.Model:
    """Return the model with each layer of this package replaced by its namesake in Keras.

    The new model computes the same outputs from the same weights, and its `.keras` file is loaded,
    exported and served where this package is not installed. Layers that only change the backward
    pass become the layer whose forward pass they have: `FeedbackDense` a `Dense`,
    `DeferredEmbedding` an `Embedding`, `Detach` an `Identity`.

    A compiled model is compiled again, with Keras's losses and optimizer and with the optimizer's
    state, so that a training goes on as it would have, if Keras has all of it: the three losses,
    and `SGD`, `RMSprop`, `Adam`, `AdamW`, `Adamax`, `Nadam`, `Adagrad`, `Adadelta`, `Lion`, `Ftrl`
    and (without weight decay) `Lamb` with the arguments of their namesakes, at a constant rate or
    one of Keras's schedules. Otherwise the new model is not
    compiled; nor where the class has a training step or a `compile` of its own, where the optimizer
    was built for other variables than those that are trainable now, for a loss or metric that is
    not registered with Keras, accumulation, or variables in half precision.
    Keras forgets which variables are excluded from weight decay when it saves the model.

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
    for state, new in zip(_seeds(model), _seeds(plain), strict=True):
        new.assign(state)
    if getattr(model, "optimizer", None) is not None:
        _compile_as(model, plain)
    return plain


def _arguments_of_compile(model):
    """Return what a plain model is to be compiled with, or `None` if Keras has not all of it."""
    found = inspect.getattr_static
    own = [found(type(model), name) is not found(keras.Model, name) for name in _TRAINING]
    # Ours keeps a float32 copy of a half-precision variable.
    half = any(variable.dtype in ("float16", "bfloat16") for variable in model.trainable_variables)
    # A callback's factor on a schedule, which in Keras no schedule has.
    factors = [v for v in model.optimizer.variables if v.name == "learning_rate_factor"]
    config = model.get_compile_config()
    if config is None or any(own) or half or any(float(factor) != 1 for factor in factors):
        return None
    # With the scale of the loss that `compile` puts around it in mixed_float16.
    config["optimizer"] = keras.saving.serialize_keras_object(model.optimizer)
    config.pop("auto_scale_loss", None)
    config = _plain(config)
    # What is left of ours; and a lambda, which would lose the names that it refers to.
    if any(word in repr(config) for word in (f"'{_PACKAGE}", "'__lambda__'")):
        return None
    try:
        arguments = keras.saving.deserialize_keras_object(config, safe_mode=False)
    except TypeError:  # a class or function that is not registered
        return None
    optimizers = _keras.all_optimizers(arguments["optimizer"])
    ours = any(map(_is_ours, [*optimizers, *keras.tree.flatten(arguments["loss"])]))
    return None if ours else arguments


def _compile_as(model, plain):
    """Compile a plain model as ours is, with the optimizer's state, if Keras has all of it."""
    arguments = _arguments_of_compile(model)
    if arguments is None:
        return
    leaves, variables = _keras.leaf_optimizers(model.optimizer), model.trainable_variables
    if model.optimizer.built:
        stepped = [v for v in model.weights if any(_keras.updates(leaf, v) for leaf in leaves)]
        if set(map(id, stepped)) != set(map(id, variables)):
            return
    plain.compile(**arguments, auto_scale_loss=False)  # the scale is there, if there is one
    plain_variables = plain.trainable_variables
    for leaf, new in zip(leaves, _keras.leaf_optimizers(plain.optimizer), strict=True):
        decays = zip(plain_variables, _which_decay(leaf, variables), strict=True)
        new.exclude_from_weight_decay([variable for variable, decay in decays if not decay])
    if model.optimizer.built:
        plain.optimizer.build(plain_variables)
        states = _state(model.optimizer, variables), _state(plain.optimizer, plain_variables)
        for variable, new in zip(*states, strict=True):
            new.assign(variable)


def _which_decay(optimizer, variables):
    if _is_ours(optimizer):
        if not optimizer.built:
            optimizer = type(optimizer).from_config(optimizer.get_config())
            optimizer.build(variables)
        return [factor > 0 for factor in optimizer._decay_factors]
    if not optimizer.built:  # Keras's then need not know
        return [True] * len(variables)
    return [_keras.decays(optimizer, variable) for variable in variables]


def _state(optimizer, variables):
    """List an optimizer's variables, its slots last and by variable: in Keras the order varies."""
    places = {id(variable): place for place, variable in enumerate(variables)}
    slots = {}
    for leaf in _keras.leaf_optimizers(optimizer):
        for variable, name, slot in slots_of(leaf, variables):
            slots[id(slot)] = places[id(variable)], name
    state = [v for v in optimizer.variables if v.name != "learning_rate_factor"]
    return sorted(state, key=lambda variable: slots.get(id(variable), (-1, "")))


def _seeds(model):
    """List the states that random layers draw from, which are no weights."""
    generators = [getattr(x, "seed_generator", None) for x in _keras.flat_layers(model)]
    return [generator.state for generator in generators if generator is not None]


def _is_ours(layer):
    # A class of the user's that derives from one of ours needs ours, too.
    return any(base.__module__.startswith(f"{_keras.PACKAGE}.") for base in type(layer).__mro__)


def _plain(config: Any) -> Any:
    """Return a serialized object with Keras's classes; a model's without its compilation."""
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
    module = next((module for module in _MODULES if hasattr(module, name)), None)
    arguments = {k: v for k, v in config["config"].items() if k not in dropped}
    same = _SAME_FOR_ALL | _SAME.get(own, {})
    if module is None or any(arguments.get(name, value) != value for name, value in same.items()):
        return config
    # What Keras's class does not take must be as it is there, which is our default.
    ours = _parameters(keras.saving.get_registered_object(registered))
    for key in ("exclude_from_decay", "variable_paths"):  # passed on by variable
        arguments.pop(key, None)
    for key in (ours.keys() & arguments) - _parameters(getattr(module, name)).keys():
        if arguments.pop(key) != ours[key].default:
            return config
    plain = {"module": module.__name__, "class_name": name, "registered_name": None}
    return {**config, **plain, "config": arguments}


def _parameters(cls):
    """Return the parameters of a class by name, with those that it passes on to its bases."""
    every = dict[str, inspect.Parameter]()
    for base in reversed(cls.__mro__):
        every |= inspect.signature(base.__init__).parameters
    return every


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
