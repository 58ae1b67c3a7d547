"""The gradients that a picture of backpropagation shows."""

import contextlib
import dataclasses

import keras
import numpy as np
import tensorflow as tf

from keras_bp import layers


@dataclasses.dataclass(frozen=True)
class Backward:
    """One backward pass.

    Attributes:
        loss: float, the loss that is differentiated.
        batch_size: integer.
        dz: dictionary, the name of a dense layer -> float64 array of shape (batch, units).
        dw: dictionary, the name of a dense layer -> float64 array of shape (inputs, units).
    """

    loss: float
    batch_size: int
    dz: dict
    dw: dict


def backward(model, dense_layers, x, y):
    """Run a model forward and backward, in training mode, and leave it as it was.

    In a stateless scope the statistics of batch normalization, the seeds of dropout and the
    metrics of the losses are not assigned to.

    Args:
        model: a built and compiled `keras.Model`.
        dense_layers: list of the `Dense` layers in it, each of which is called once.
        x: the inputs, as for `fit`.
        y: the targets, as for `fit`.

    Returns:
        A `Backward`; `dz` is that of each example's own loss: with a mean over m examples,
        m times the gradient of the mean.
    """
    x, y = (keras.tree.map_structure(tf.convert_to_tensor, data) for data in (x, y))
    # All are handed in, since in the scope Keras finds no other variables to penalize.
    variables = [(variable, variable.value) for variable in model.variables]
    with keras.StatelessScope(variables) as scope, _pre_activations(dense_layers) as z:
        kernels = [scope.get_current_value(layer.kernel) for layer in dense_layers]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(kernels)
            loss = model.compute_loss(x, y, model(x, training=True))
        z = [z[layer.name] for layer in dense_layers]
        dz, dw = tape.gradient(loss, [z, kernels], unconnected_gradients="zero")
    batch_size = len(z[0])
    names = [layer.name for layer in dense_layers]
    return Backward(
        loss=float(loss),
        batch_size=batch_size,
        dz={n: batch_size * g.numpy().astype(np.float64) for n, g in zip(names, dz, strict=True)},
        dw={n: g.numpy().astype(np.float64) for n, g in zip(names, dw, strict=True)},
    )


@contextlib.contextmanager
def _pre_activations(dense_layers):
    """Let layers note what they hand to their activation; yield name -> that tensor."""
    activations = [layer.activation for layer in dense_layers]
    noted = {}
    try:
        for layer in dense_layers:
            # Past Keras's __setattr__, which tracks what a layer holds.
            vars(layer)["activation"] = _noting(layer, noted)
        yield noted
    finally:
        for layer, activation in zip(dense_layers, activations, strict=True):
            vars(layer)["activation"] = activation


def _noting(layer, noted):
    activation = layer.activation

    def note_and_activate(z):
        noted[layer.name] = z
        a = activation(z)
        if type(layer) is layers.Dense and hasattr(a, "_keras_logits"):
            # As the layer itself does after sigmoid and softmax: without, the package's losses
            # take the logits of one for those of the other.
            a._keras_bp_activation = activation.__name__
        return a

    return note_and_activate
