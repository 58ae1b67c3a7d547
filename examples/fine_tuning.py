"""Fine-tuning at a low rate, the lower layers at a lower one or frozen.

Run it with `python examples/fine_tuning.py`. A convolutional network learns scikit-learn's digits,
then goes on with few images of another kind, turned by 30 degrees as by another scanner: with all
layers at the first training's rate, at a tenth of it, with the lower layers at a tenth
(`learning_rate_multipliers`) and with them frozen. A network with new weights stands beside. It
tells what each knows of the new images, and still knows of the old ones.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _shared import CommandLine, digits
from scipy.ndimage import rotate

from keras_bp.layers import BatchNormalization, Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import Adam
from keras_bp.schedules import Warmup

RATE = 3e-3  # of the first training
IMAGES = 20  # of the new kind
ANGLE = 30  # degrees
FIRST_EPOCHS = 6
LOWER = ("conv_1", "norm_1", "conv_2", "norm_2")


def warmed(rate, **options):
    return Adam(Warmup(rate, 20), **options)


# A name, the optimizer, whether it starts from the trained weights, whether lower layers train.
WAYS = {
    "new weights": (lambda: warmed(RATE), False, True),
    "all at the first rate": (lambda: warmed(RATE), True, True),
    "all at a tenth": (lambda: warmed(RATE / 10), True, True),
    "lower at a tenth": (
        lambda: warmed(RATE, learning_rate_multipliers={"conv_": 0.1, "norm_": 0.1}),
        *(True, True),
    ),
    "lower frozen": (lambda: warmed(RATE), True, False),
}


def build_model():
    layers = [keras.Input((64,)), keras.layers.Reshape((8, 8, 1))]
    for k, filters in enumerate((16, 32), 1):
        convolution = dict(padding="same", use_bias=False, name=f"conv_{k}")
        layers += [keras.layers.Conv2D(filters, 3, **convolution)]
        layers += [BatchNormalization(momentum=0.9, name=f"norm_{k}"), keras.layers.ReLU()]
        layers += [keras.layers.MaxPooling2D()]
    return keras.Sequential([*layers, keras.layers.Flatten(), Dense(64, "relu"), Dense(10)])


def fit(model, optimizer, x, y, epochs, batch_size):
    loss = SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)  # small: XLA would compile for longer
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)


def turned(x):
    images = rotate(x.reshape(-1, 8, 8), ANGLE, axes=(2, 1), reshape=False, order=1)
    return images.reshape(-1, 64)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=40, of="passes over the new images")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    options = parser.parse_args(arguments)

    accuracies = {name: [] for name in ("before", *WAYS)}
    for seed in range(options.seeds):
        x, x_test, y, y_test = digits(seed)
        new, new_test = turned(x[:IMAGES]), turned(x_test)
        keras.utils.set_random_seed(seed)
        first = build_model()
        fit(first, warmed(RATE), x[IMAGES:], y[IMAGES:], FIRST_EPOCHS, 32)
        tests = (new_test, y_test), (x_test, y_test)

        def measure(model, tests=tests):
            return [np.mean(np.argmax(model(x), axis=1) == y) for x, y in tests]

        accuracies["before"].append(measure(first))
        for name, (optimizer, trained, lower) in WAYS.items():
            keras.utils.set_random_seed(seed)
            model = build_model()
            if trained:
                model.set_weights(first.get_weights())
            for layer in LOWER:
                model.get_layer(layer).trainable = lower
            fit(model, optimizer(), new, y[:IMAGES], options.epochs, 10)
            accuracies[name].append(measure(model))

    print(f"test accuracy, mean of {options.seeds} seed(s)    new images    old images")
    for name, pairs in accuracies.items():
        print("{:36}{:11.2%}{:14.2%}".format(name, *np.mean(pairs, axis=0)))
    accuracy = np.mean(accuracies["all at a tenth"], axis=0)[0]
    print(f"\ntest accuracy: {accuracy:.2%} of the new images, all layers at a tenth of the rate")


if __name__ == "__main__":
    main()
