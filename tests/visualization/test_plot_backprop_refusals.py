"""What cannot be drawn is refused by name."""

import keras
import numpy as np
import pytest

import keras_bp
from keras_bp.visualization import plot_backprop

X, Y = np.zeros((2, 4)), np.zeros((2, 1))


def _sequential(*layers, shape=(4,), loss="mean_squared_error"):
    model = keras.Sequential([keras.Input(shape), *layers])
    model.compile(loss=loss)
    return model


class _Subclass(keras.layers.Dense):
    pass


def _called_twice():
    a, shared = keras.Input((4,)), keras.layers.Dense(4, name="bad")
    return keras.Model(a, shared(shared(a)))


def _broadcast_sum():
    a = keras.Input((4,))
    one, four = keras.layers.Dense(1)(a), keras.layers.Dense(4)(a)
    return keras.Model(a, keras.layers.Add(name="bad")([one, four]))


def _with_lora():
    layer = keras.layers.Dense(4, name="bad")
    model = _sequential(layer)
    layer.enable_lora(2)
    return model


def _quantized():
    model = _sequential(keras_bp.layers.Dense(4, name="bad"))
    model.layers[-1].quantize("int8")
    return model


# Keras's own, while it quantizes.
@pytest.mark.parametrize(
    "make, kind",
    [
        (lambda: _sequential(keras.layers.Conv1D(4, 1, name="bad"), shape=(4, 1)), "Conv1D"),
        (lambda: _sequential(_Subclass(4, name="bad")), "_Subclass"),
        (lambda: _sequential(keras.layers.Dense(4, name="bad"), shape=(4, 3)), "Dense"),
        (lambda: _sequential(_sequential(keras.layers.Dense(1)), keras.layers.Dense(1)), ""),
        (_called_twice, "Dense"),
        (_broadcast_sum, "Add"),
        (_with_lora, "Dense"),
        (_quantized, "Dense"),
    ],
    ids=["conv", "subclass", "sequence", "nested", "twice", "broadcast", "lora", "int8"],
)
def test_layers(make, kind):
    model = make()
    if not model.compiled:
        model.compile(loss="mean_squared_error")
    name = "bad" if kind else "sequential"
    with pytest.raises(ValueError, match=rf"`model` .*Received: the layer '{name}\w*' of .*{kind}"):
        plot_backprop(model, X, Y)


class _Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize(
    "model, message",
    [
        (keras.Sequential([keras.layers.Dense(1)]), "must be built.*not built"),
        (_Subclassed(), "Sequential or a functional model.*_Subclassed"),
    ],
)
def test_models(model, message):
    model.compile(loss="mean_squared_error")
    with pytest.raises(ValueError, match=f"`model` .*{message}"):
        plot_backprop(model, X, Y)


def test_no_model():
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: model=3 of type"):
        plot_backprop(3, X, Y)


@pytest.mark.parametrize("compiled", [True, False])
def test_no_loss(compiled):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    if compiled:
        model.compile("sgd")
    message = "compiled without a loss" if compiled else "not compiled"
    with pytest.raises(ValueError, match=f"`model` must be compiled with a loss.*{message}$"):
        plot_backprop(model, X, Y)


def test_no_dense_layer():
    with pytest.raises(ValueError, match="`model` must have a Dense layer. Received: model 'none'"):
        model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()], name="none")
        model.compile(loss="mean_squared_error")
        plot_backprop(model, X, X)


@pytest.mark.parametrize(
    "x, y, error, message",
    [
        (X[:0], Y[:0], ValueError, "`x` and `y` must hold .* Received: arrays of 0 examples"),
        (X, Y[:1], ValueError, "`x` and `y` must hold .* Received: arrays of 1 and 2 examples"),
        ([[0.0] * 4], Y[:1], TypeError, "`x` must be an array.*Received: x="),
        (X, 1.0, TypeError, "`y` must be an array.*Received: y=1.0"),
    ],
)
def test_batches(x, y, error, message):
    with pytest.raises(error, match=message):
        plot_backprop(_sequential(keras.layers.Dense(1)), x, y)
