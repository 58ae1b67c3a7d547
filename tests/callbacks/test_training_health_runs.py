"""Trainings that go well, in which TrainingHealth finds nothing."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits, make_moons

import keras_bp
from keras_bp.callbacks import TrainingHealth

L = keras.layers
SGD, Adam = keras.optimizers.SGD, keras.optimizers.Adam
CLASSES = "sparse_categorical_crossentropy"


def digits(*shape):
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32").reshape(-1, *(shape or (64,)))
    return x[:1440], y[:1440], (x[1440:], y[1440:])


def moons():
    x, y = make_moons(400, noise=0.2, random_state=0)
    x, y = x.astype("float32"), y[:, None].astype("float32")
    return x[:300], y[:300], (x[300:], y[300:])


def spiral():
    generator = np.random.default_rng(0)
    angle = np.sqrt(generator.random((400, 1))) * 3 * np.pi
    y = generator.integers(0, 2, (400, 1)).astype("float32")
    x = np.hstack([angle * np.cos(angle), angle * np.sin(angle)]) * (2 * y - 1) / 10
    return x.astype("float32"), y, None


def sequences():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(600, 20, 3)).astype("float32")
    y = (x[:, -5:, 0].sum(axis=1, keepdims=True) > 0).astype("float32")
    return x[:480], y[:480], (x[480:], y[480:])


def words():
    generator = np.random.default_rng(0)
    x = generator.integers(1, 500, (1000, 12))
    y = ((x < 60).sum(axis=1, keepdims=True) > 1).astype("float32")
    return x[:800], y[:800], (x[800:], y[800:])


def line():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 8)).astype("float32")
    noise = 0.1 * generator.normal(size=(500, 1))
    y = (2 * x[:, :1] + np.sin(3 * x[:, 1:2]) + noise).astype("float32")
    return x[:400], y[:400], (x[400:], y[400:])


def mlp(*units, activation="relu", inputs=64, outputs=10, between=lambda: [], **options):
    layers = [keras.Input((inputs,))]
    for size in units:
        layers += [L.Dense(size, activation, **options), *between()]
    head = {1: "sigmoid", 10: "softmax"}[outputs]
    return keras.Sequential([*layers, L.Dense(outputs, head)])


def normalized(*units):
    layers = [keras.Input((64,))]
    for size in units:
        layers += [L.Dense(size), L.BatchNormalization(), L.ReLU()]
    return keras.Sequential([*layers, L.Dense(10, "softmax")])


def convolutions(normalize=False):
    layers = [keras.Input((8, 8, 1))]
    # With normalization weights of any size do.
    weights = keras.initializers.RandomNormal(stddev=1.0) if normalize else "glorot_uniform"
    for filters in 8, 16:
        layers.append(L.Conv2D(filters, 3, padding="same", kernel_initializer=weights))
        layers += [L.BatchNormalization(), L.ReLU()] if normalize else [L.ReLU()]
        layers.append(L.MaxPooling2D())
    return keras.Sequential([*layers, L.Flatten(), L.Dense(10, "softmax")])


def recurrent(*layers):
    return keras.Sequential([keras.Input((20, 3)), *layers, L.Dense(1, "sigmoid")])


def embedding(*layers):
    layers = [keras.Input((12,)), L.Embedding(500, 16), *layers]
    return keras.Sequential([*layers, L.Dense(16, "relu"), L.Dense(1, "sigmoid")])


def residual():
    """Residual branches that begin at 0, as they do since "Fixup" and "ReZero"."""
    inputs = keras.Input((64,))
    x = L.Dense(32)(inputs)
    for _ in range(4):
        branch = L.Dense(32, "relu")(x)
        x = L.Add()([x, L.Dense(32, kernel_initializer="zeros")(branch)])
    return keras.Model(inputs, L.Dense(10, "softmax")(x))


class TwoHeads(keras.Model):
    """Subclassed; both heads' sigmoids saturate as it learns."""

    def __init__(self):
        super().__init__()
        # Created in another order than called.
        self.heads = [L.Dense(1, "sigmoid"), L.Dense(1, "sigmoid")]
        self.trunk = L.Dense(32, "relu")

    def call(self, x):
        x = self.trunk(x)
        return keras.ops.concatenate([head(x) for head in self.heads], axis=-1)


def heads_data():
    x, y, _ = digits()
    return x, np.stack([y == 0, y == 1], axis=1).astype("float32"), None


# Each a model, data, an optimizer, a loss and the epochs of a full run.
RUNS = {
    "digits, Adam": (lambda: mlp(64, 32), digits, Adam, CLASSES, 30),
    "digits, SGD": (lambda: mlp(64, 32), digits, lambda: SGD(0.1), CLASSES, 30),
    "digits, batch normalization": (lambda: normalized(64, 32), digits, Adam, CLASSES, 15),
    "digits, dropout": (
        lambda: mlp(128, 64, between=lambda: [L.Dropout(0.3)]),
        *(digits, Adam, CLASSES, 15),
    ),
    "digits, 20 layers, He": (
        lambda: mlp(*[64] * 20, kernel_initializer="he_normal"),
        *(digits, lambda: Adam(3e-4), CLASSES, 10),
    ),
    "digits, 10 layers, tanh": (
        lambda: mlp(*[64] * 10, activation="tanh"),
        *(digits, lambda: Adam(3e-4), CLASSES, 10),
    ),
    "digits, sigmoid": (lambda: mlp(64, 64, activation="sigmoid"), digits, Adam, CLASSES, 15),
    "digits, a head of zeros": (
        lambda: keras.Sequential(
            [mlp(64, 32).layers[0], L.Dense(10, "softmax", kernel_initializer="zeros")]
        ),
        *(digits, Adam, CLASSES, 15),
    ),
    "digits, momentum and cosine": (
        lambda: mlp(64, 32),
        digits,
        lambda: SGD(keras.optimizers.schedules.CosineDecay(0.05, 450), momentum=0.9),
        *(CLASSES, 10),
    ),
    "digits, accumulation": (
        lambda: mlp(64, 32),
        *(digits, lambda: Adam(3e-3, gradient_accumulation_steps=4), CLASSES, 15),
    ),
    "digits, this package's AdamW": (
        lambda: mlp(64, 32),
        digits,
        lambda: keras_bp.optimizers.AdamW(keras_bp.schedules.Warmup(1e-3, 90)),
        *(CLASSES, 15),
    ),
    "digits, convolutions": (convolutions, lambda: digits(8, 8, 1), Adam, CLASSES, 8),
    "digits, normalized convolutions": (
        lambda: convolutions(normalize=True),
        *(lambda: digits(8, 8, 1), Adam, CLASSES, 8),
    ),
    "digits, residual": (residual, digits, Adam, CLASSES, 10),
    "digits, two heads": (TwoHeads, heads_data, lambda: Adam(0.01), "binary_crossentropy", 10),
    "moons": (
        lambda: mlp(16, 16, inputs=2, outputs=1),
        *(moons, lambda: Adam(0.01), "binary_crossentropy", 30),
    ),
    "spiral": (
        lambda: mlp(16, 8, inputs=2, outputs=1),
        *(spiral, lambda: Adam(0.01), "binary_crossentropy", 50),
    ),
    "simple RNN": (
        lambda: recurrent(L.SimpleRNN(16)),
        *(sequences, Adam, "binary_crossentropy", 10),
    ),
    "two LSTMs": (
        lambda: recurrent(L.LSTM(16, return_sequences=True), L.LSTM(16)),
        *(sequences, Adam, "binary_crossentropy", 10),
    ),
    "GRU": (lambda: recurrent(L.GRU(16)), sequences, Adam, "binary_crossentropy", 10),
    "words": (
        lambda: embedding(L.GlobalAveragePooling1D()),
        *(words, Adam, "binary_crossentropy", 10),
    ),
    "words, LSTM": (
        lambda: embedding(L.Bidirectional(L.LSTM(8))),
        *(words, Adam, "binary_crossentropy", 6),
    ),
    "regression": (
        lambda: keras.Sequential([L.Dense(32, "relu"), L.Dense(32, "relu"), L.Dense(1)]),
        *(line, Adam, "mse", 30),
    ),
    "regression, SGD to the minimum": (
        lambda: keras.Sequential([L.Dense(1)]),
        *(line, lambda: SGD(0.2), "mse", 200),
    ),
}


# Those whose first two epochs take but a second or two.
QUICK = [
    "digits, batch normalization",
    "simple RNN",
    "words",
]


def fit(run, epochs=None):
    model, data, optimizer, loss, full = RUNS[run]
    model, (x, y, validation) = model(), data()
    # Two epochs take less than XLA does.
    model.compile(optimizer(), loss, jit_compile="auto" if epochs is None else False)
    found = []
    health = TrainingHealth(action=found.append)
    options = {"validation_data": validation, "callbacks": [health], "verbose": 0}
    history = model.fit(x, y, batch_size=32, epochs=epochs or full, **options)
    return found, history.history["loss"]


@pytest.mark.parametrize("run", QUICK)
def test_nothing_is_found_as_a_training_begins(run):
    found, _ = fit(run, epochs=2)
    assert found == []


@pytest.mark.long
@pytest.mark.parametrize("run", RUNS)
def test_nothing_is_found_in_a_full_training(run):
    found, losses = fit(run)
    assert found == []
    assert losses[-1] < 0.9 * losses[0]
