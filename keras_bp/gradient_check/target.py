"""What is checked: a model, a layer or a function, called in one way."""

import inspect

import keras
import tensorflow as tf


class Target:
    """A Keras model, a layer or a function of tensors, callable on a structure of inputs.

    Several inputs are spread over the arguments where the target requires more than one
    (`call(query, value)`, `f(x, w)`, `f(*tensors)`), a dictionary by name; else they are passed as
    they come, as one argument. A layer is called with `training=True`, a function where it has
    that argument.

    Args:
        target: A `keras.Layer` (a model is one) or another callable.

    Attributes:
        wrapped: `target` itself.
        layer: `target` where it is a layer, else `None`.

    Raises:
        TypeError: If `target` is neither, or a class instead of an instance.
    """

    def __init__(self, target):
        if isinstance(target, type) or not callable(target):
            raise TypeError(
                "target must be a keras.Model, a keras.Layer (an instance, not the class) or a "
                f"function of tensors. Received: target={target!r} of type {type(target).__name__}"
            )
        self.wrapped = target
        self.layer = target if isinstance(target, keras.Layer) else None
        parameters = _parameters(target if self.layer is None else target.call)
        has_training = self.layer is not None or any(p.name == "training" for p in parameters)
        self._names = [
            p.name
            for p in parameters
            if p.kind in _POSITIONAL and p.default is p.empty and p.name != "training"
        ]
        self._is_spread = len(self._names) > 1 or any(
            p.kind is p.VAR_POSITIONAL for p in parameters
        )
        self._options = {"training": True} if has_training else {}

    def __call__(self, inputs):
        """Apply the target to a structure of tensors, in training mode."""
        if self._is_spread and isinstance(inputs, dict):
            return self.wrapped(**inputs, **self._options)
        if self._is_spread and isinstance(inputs, (list, tuple)):
            return self.wrapped(*inputs, **self._options)
        return self.wrapped(inputs, **self._options)

    def input_names(self, inputs):
        """Name the leaves of `inputs`: by key, argument or `Input`, else `inputs[0]` and so on."""
        paths = [path for path, _ in keras.tree.flatten_with_path(inputs)]
        given = [symbol.name for symbol in getattr(self.wrapped, "_inputs", ())]
        named = not any(name.startswith("keras_tensor") for name in given)
        if len(given) == len(paths) and named and not isinstance(inputs, dict):
            return given
        names = []
        for path in paths:
            name = "inputs"
            if path and isinstance(path[0], str):
                name, *path = path
            elif path and self._is_spread and path[0] < len(self._names):
                name, path = self._names[path[0]], path[1:]
            names.append(name + "".join(f"[{key}]" for key in path))
        return names

    def build(self, inputs):
        """Create the weights of an unbuilt layer, from the inputs' shapes.

        In the stateless scope the call leaves no trace: batch statistics and seeds stay as they
        were. A layer that cannot be built there (a stateful recurrent one) is simply called.
        """
        if self.layer is None or all(layer.built for layer in self.layer._flatten_layers()):
            return
        try:
            with keras.StatelessScope():
                self(inputs)
        except Exception:
            self(inputs)

    def require_finite_weights(self):
        """Raise a ValueError that names the first weight with a NaN or an infinity."""
        for weight in self.layer.weights if self.layer else ():
            value = tf.convert_to_tensor(weight.value)
            if value.dtype.is_floating and not tf.reduce_all(tf.math.is_finite(value)):
                raise ValueError(
                    "target's weights must be finite. Received: NaN or infinity in weight "
                    f"'{weight.path}'"
                )


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _parameters(function):
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:  # some callables written in C tell no signature
        return []
