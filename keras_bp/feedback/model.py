"""A chain of layers that direct feedback alignment trains."""

from typing import Any

import keras

from keras_bp.feedback.layers import Detach, DirectFeedback


def direct_feedback_model(
    model: keras.Model,
    feedback_initializer: Any = None,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Return a model of the same layers that direct feedback alignment trains.

    The output's error goes to each hidden layer through that layer's fixed random matrix, and not
    from layer to layer: `delta_l = (e B_l) * f'(z_l)`; the output layer gets its true gradient. The
    new model shares its layers, and so the weights, with the given one, which backpropagation still
    trains as before.

    The layers form blocks: each begins with a layer that trains a weight of two axes or more
    (dense, convolution, recurrent, a model), and continues with the others: activations, `PReLU`
    too, normalizations, dropout, pooling and layers that are frozen. The error reaches the outputs
    of all blocks but the last, and goes back inside a block by the chain rule.

    Args:
        model: a built `keras.Sequential` or functional model: a chain, with one input, and one
            output of shape `(batch, outputs)`.
        feedback_initializer: as in `keras_bp.layers.DirectFeedback`.
        seed: integer that the matrices are drawn from, or `None`, the default, for random ones.
            Only without an initializer, which has its own seed.
        name: string, the name of the new model, or `None`.

    Returns:
        A functional `keras.Model`, not compiled, with the same outputs for the same inputs.

    Raises:
        TypeError: if `model` is neither Sequential nor functional.
        ValueError: if it is not built, not a chain, has a single block, or an output of another
            rank; or if `seed` is given with an initializer.

    Example:
    ```python
    layers = [keras.Input((64,)), Dense(240, "tanh"), Dense(240, "tanh"), Dense(10)]
    model = keras_bp.feedback.direct_feedback_model(keras.Sequential(layers), seed=0)
    model.compile("adam", SparseCategoricalCrossentropy(from_logits=True))
    ```

    References:
        Nøkland, 2016, "Direct feedback alignment provides learning in deep neural networks".
    """
    if seed is not None:
        if feedback_initializer is not None:
            raise ValueError(
                "`seed` must be None where `feedback_initializer` is given, which has its own. "
                f"Received: seed={seed!r}"
            )
        feedback_initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed)
    inputs, output, hidden = _chain(model)
    if not hidden:
        raise ValueError(
            "`model` must have two layers or more with a kernel. "
            f"Received: model {model.name!r} with the layers {[x.name for x in model.layers]}"
        )
    if len(output.shape) != 2:
        raise ValueError(
            "`model` must have an output of shape (batch, outputs). "
            f"Received: model {model.name!r} with an output of shape {output.shape}"
        )
    feedback = DirectFeedback(feedback_initializer, name="direct_feedback")
    return keras.Model(inputs, feedback([output, *hidden]), name=name)


def _begins_a_block(layer):
    if isinstance(layer, keras.layers.PReLU) or "Normalization" in type(layer).__name__:
        return False
    return any(len(weight.shape) > 1 for weight in layer.trainable_weights)


def _chain(model):
    """Call the layers again, with detached blocks; return input, output and hidden outputs."""
    if not (isinstance(model, keras.Sequential) or hasattr(model, "outputs")):
        raise TypeError(
            "`model` must be a keras.Sequential or a functional keras.Model. "
            f"Received: {type(model).__name__}"
        )
    if not model.built:
        raise ValueError(
            "`model` must be built: begin it with a `keras.Input`, or call it once. "
            f"Received: model {model.name!r}, which is not built"
        )
    if not len(model.inputs) == len(model.outputs) == 1:
        raise ValueError(
            "`model` must be a chain of layers, with one input and one output. Received: model "
            f"{model.name!r} with {len(model.inputs)} inputs and {len(model.outputs)} outputs"
        )
    hidden, last, begun = [], None, False

    def call(layer, *args, **kwargs):
        nonlocal last, begun
        tensors = keras.tree.flatten((args, kwargs))
        tensors = [tensor for tensor in tensors if isinstance(tensor, keras.KerasTensor)]
        if len(tensors) != 1 or last is not None and tensors[0] is not last:
            raise ValueError(
                "`model` must be a chain of layers, each called with the output of the one before. "
                f"Received: model {model.name!r}, in which layer {layer.name!r} is not"
            )
        if _begins_a_block(layer):
            if begun:
                hidden.append(tensors[0])
                args = (Detach(name=f"detach_{len(hidden)}")(tensors[0]), *args[1:])
            begun = True
        last = layer(*args, **kwargs)
        return last

    if isinstance(model, keras.Sequential):
        (tensor,) = model.inputs
        inputs = keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name)
        last = inputs
        for layer in model.layers:
            call(layer, last)
    else:
        clone = keras.models.clone_model(
            model, clone_function=lambda layer: layer, call_function=call
        )
        (inputs,) = clone.inputs
    return inputs, last, hidden
