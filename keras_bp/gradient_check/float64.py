"""A scope in which a layer, and all that belongs to it, computes in float64."""

import contextlib

import keras
import tensorflow as tf

from keras_bp import _keras
from keras_bp._trial import restore_attributes


@contextlib.contextmanager
def float64_scope(roots):
    """Let layers and losses compute in float64, and put everything back at the end.

    A float32 sum carries seven digits, all of which a difference quotient with a step of 1e-5
    loses. A float64 copy of the model is not possible: a subclassed model has no config to build it
    from. So the objects themselves are changed temporarily. Each variable holds a float64 copy,
    each layer and loss a float64 dtype policy, each functional model's input a float64 dtype, and
    tensors that a layer keeps as attributes are cast. The variables' own storage is never written
    to: it is set aside, and restored with its bits, its state and its identity, so a train function
    that was traced before still uses it.

    `_trial.unchanged` cannot do this: it copies values and assigns them back, while here the
    storage itself is exchanged and its values are never touched.

    Args:
        roots: a list of `keras.Layer` and `keras.Loss` objects. What they hold is reached from
            them.

    Yields:
        A dictionary from the `id` of each variable to the `tf.Variable` that stands in for it.

    Raises:
        ValueError: if a layer is quantized; float64 has no quantized arithmetic.
    """
    owners = _reachable(roots)
    layers = [owner for owner in owners if isinstance(owner, keras.Layer)]
    for layer in layers:
        if layer.quantization_mode is not None:
            raise ValueError(
                "`target` must not be quantized, since it is checked in float64. Received: layer "
                f"'{layer.name}' with quantization_mode={layer.quantization_mode!r}"
            )
    metrics = {id(v): v for layer in layers for v in layer.metrics_variables}
    # Besides its weights and seeds a layer may hold untracked variables, as a stateful recurrent
    # layer does with its states.
    weights = {id(v): v for layer in layers for v in [*layer.variables, *_held(layer)[1]]}
    symbols = [symbol for layer in layers for symbol in _keras.symbolic_inputs(layer)]

    changed = [*owners, *(weights | metrics).values(), *symbols]
    before = [(vars(owner), dict(vars(owner))) for owner in changed]
    floatx = keras.config.floatx()
    try:
        keras.config.set_floatx("float64")  # losses and random numbers made inside a call
        stand_ins = {}
        for owner in owners:
            stand_ins.update(_compute_in_float64(owner))
        for symbol in symbols:
            _keras.set_float_dtype(symbol, "float64")
        # A metric casts what it is given to its own dtype, so it keeps that.
        stand_ins.update({key: _stand_in(v, v.dtype) for key, v in metrics.items()})
        for key, variable in weights.items():
            is_float = keras.backend.is_float_dtype(variable.dtype)
            stand_ins[key] = _stand_in(variable, "float64" if is_float else variable.dtype)
        yield stand_ins
    finally:
        keras.config.set_floatx(floatx)
        # All attributes are restored: a call also leaves graph tensors among a layer's losses and
        # wherever a layer's author stores them.
        restore_attributes(before)


def _reachable(roots):
    """List the layers and losses that `roots` hold, each once."""
    found = {}
    waiting = list(roots)
    while waiting:
        owner = waiting.pop()
        if id(owner) not in found:
            found[id(owner)] = owner
            waiting += _held(owner)[0]
    return list(found.values())


def _held(owner):
    """List the layers and losses, and the variables, among an object's attributes.

    This finds more than the tracked sublayers: a Sequential's inner functional model, a layer's
    loss.
    """
    leaves = list(_leaves(list(vars(owner).values())))
    return (
        [leaf for leaf in leaves if isinstance(leaf, (keras.Layer, keras.Loss))],
        [leaf for leaf in leaves if isinstance(leaf, keras.Variable)],
    )


def _leaves(value):
    """Flatten containers. `keras.tree` cannot: Keras keeps a dict whose keys have no order."""
    if isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _compute_in_float64(owner):
    """Change a layer's or a loss's dtype policy and the tensors that it keeps.

    The attributes are written past `__setattr__`, which would track them as new ones. The stand-ins
    of those that are a `tf.Variable` are returned.
    """
    attributes = vars(owner)
    stand_ins = {}
    _keras.set_float_dtype(owner, "float64")
    if isinstance(owner, keras.Layer):
        _keras.clear_losses(owner)
    for name, value in list(attributes.items()):
        if isinstance(value, tf.Variable):
            dtype = tf.float64 if value.dtype.is_floating else value.dtype
            attributes[name] = tf.Variable(tf.cast(value, dtype), trainable=value.trainable)
            stand_ins[id(value)] = attributes[name]
        elif isinstance(value, tf.Tensor) and not tf.is_symbolic_tensor(value):
            if value.dtype.is_floating:
                attributes[name] = tf.cast(value, tf.float64)
    return stand_ins


def _stand_in(variable, dtype):
    """Give a Keras variable a new `tf.Variable` of this dtype to hold, and return that."""
    value = tf.cast(tf.convert_to_tensor(variable.value), dtype)
    stand_in = tf.Variable(value, trainable=variable.trainable)
    _keras.set_value(variable, stand_in, dtype)
    return stand_in
