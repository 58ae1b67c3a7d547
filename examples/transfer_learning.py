"""Transfer learning: first the head, then all layers, the lower ones at lower rates.

Run it with `python examples/transfer_learning.py`. A convolutional network learns
scikit-learn's digits, then the remainder that each leaves when it is divided by three, from 45
images, a fifth of them with a wrong label:

1. a new head is trained on the frozen layers below;
2. all layers are unfrozen and trained on with a warm-up, at one rate or with `layer_decay=0.75`,
   each layer at three quarters of the rate of the one above.

Each way takes the rate at which it is best on other images, and is then tested on the rest, beside
the head alone and a network with new weights.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _shared import CommandLine
from sklearn.datasets import load_digits

from keras_bp.layers import Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import Adam
from keras_bp.schedules import Warmup

RATES = 1e-4, 5e-4, 2e-3, 1e-2
PRETRAINING, LABELLED, VALIDATION, WRONG = 900, 45, 150, 0.2
FIRST_EPOCHS, BATCH, WARMUP_STEPS = 10, 30, 15
LAYER_DECAY = 0.75


def build_model(classes):
    layers = [keras.Input((64,)), keras.layers.Reshape((8, 8, 1))]
    for k, filters in enumerate((16, 32, 32, 64), 1):
        options = dict(padding="same", activation="relu", kernel_initializer="he_normal")
        layers += [keras.layers.Conv2D(filters, 3, name=f"conv_{k}", **options)]
        layers += [keras.layers.MaxPooling2D()] if k % 2 == 0 else []
    dense = Dense(64, "relu", kernel_initializer="he_normal", name="dense")
    return keras.Sequential([*layers, keras.layers.Flatten(), dense, Dense(classes, name="head")])


class Training:
    """A model to be trained again and again, from other weights at another rate."""

    def __init__(self, classes, frozen=False, **options):
        self.model = build_model(classes)
        for layer in self.model.layers[:-1]:
            layer.trainable = not frozen
        # Setting a variable, not a schedule, spares another tracing of the step.
        self.rate, rise = tf.Variable(0.0), Warmup(1.0, WARMUP_STEPS)
        optimizer = Adam(lambda: self.rate * rise(optimizer.iterations), **options)
        optimizer.build(self.model.trainable_variables)
        self.start = [v.numpy() for v in optimizer.variables]
        loss = SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(optimizer, loss, jit_compile=False)

    def run(self, weights, rate, epochs, x, y, seed):
        """Train, and return the weights."""
        self.model.set_weights(weights)
        self.model.optimizer.set_weights(self.start)
        self.rate.assign(rate)
        generator = np.random.default_rng(seed)
        rows = np.concatenate([generator.permutation(len(x)) for _ in range(epochs)])
        self.model.fit(x[rows], y[rows], batch_size=BATCH, shuffle=False, verbose=0)
        return self.model.get_weights()


def data(seed):
    """Return (images, digits) to begin with; (images, remainders) to train, validate and test."""
    generator = np.random.default_rng(seed)
    x, y = load_digits(return_X_y=True)
    order = generator.permutation(len(x))
    x, y = (x[order] / 16).astype("float32"), y[order]
    ends = np.cumsum([PRETRAINING, LABELLED, VALIDATION])
    parts = list(zip(np.split(x, ends), np.split(y, ends), strict=True))
    digits, *parts = parts[0], *((x, y % 3) for x, y in parts[1:])
    labels = parts[0][1]
    wrong = generator.random(LABELLED) < WRONG
    labels[wrong] = (labels[wrong] + generator.integers(1, 3, wrong.sum())) % 3
    return digits, *parts


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=40, of="passes over the labelled images")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each kind")
    options = parser.parse_args(arguments)

    first, head = Training(10), Training(3, frozen=True)
    ways = {
        "new weights": Training(3),
        "one rate": Training(3),
        f"layer_decay={LAYER_DECAY}": Training(3, layer_decay=LAYER_DECAY),
    }
    results = {(name, rate): [] for name in ways for rate in RATES} | {("head alone", 1e-2): []}
    for seed in range(options.seeds):
        digits, labelled, *rest = data(seed)
        keras.utils.set_random_seed(seed)
        fresh = build_model(3).get_weights()

        def measure(model, rest=rest):
            return [np.mean(np.argmax(model(x), axis=1) == y) for x, y in rest]

        below = first.run(build_model(10).get_weights(), 3e-3, FIRST_EPOCHS, *digits, seed)[:-2]
        trained = head.run([*below, *fresh[-2:]], 1e-2, options.epochs, *labelled, seed)
        results["head alone", 1e-2].append(measure(head.model))
        for name, way in ways.items():
            for rate in RATES:
                start = fresh if name == "new weights" else trained
                way.run(start, rate, options.epochs, *labelled, seed)
                results[name, rate].append(measure(way.model))

    print(f"test accuracy at each rate, mean of {options.seeds} seed(s)")
    print(f"{'':20}" + "".join(f"{rate:>9g}" for rate in RATES) + "    at the best rate")
    best = {}
    for name in dict.fromkeys(name for name, _ in results):
        validated = {r: np.mean(both, 0) for (n, r), both in results.items() if n == name}
        rate = max(validated, key=lambda rate: validated[rate][0])
        best[name] = np.array(results[name, rate])[:, 1]
        cells = "".join(f"{validated[r][1]:9.1%}" if r in validated else " " * 9 for r in RATES)
        print(f"{name:20}{cells}{best[name].mean():11.1%} +- {best[name].std():.1%}")
    name, top = f"layer_decay={LAYER_DECAY}", RATES[-1]
    at_top, one = (np.array(results[n, top])[:, 1] for n in (name, "one rate"))
    gains = {"the best rates": best[name] - best["one rate"], f"{top:g}": at_top - one}
    print(f"\n{name} minus one rate, seed by seed")
    for rate, gain in gains.items():
        print(f"    at {rate:17}{gain.mean():+.1%} +- {gain.std():.1%}")
    print(f"\ntest accuracy: {best[name].mean():.2%} with {name}")


if __name__ == "__main__":
    main()
