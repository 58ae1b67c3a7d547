"""A live picture of losses, gradients, learning rate and weights.

Run it with `python examples/training_dashboard.py`, and look at the picture while it learns: a
viewer that reloads tb_logs/training_dashboard/dashboard.png sees a new one every few seconds. With
`--gif` the same picture's course is written as an animation, too. The data are scikit-learn's
digits, the network is a small convolutional one, the learning rate warms up and falls.
"""

import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _shared import CommandLine, digits

from keras_bp.callbacks import TrainingDashboard
from keras_bp.layers import BatchNormalization, Dense, Dropout
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import AdamW
from keras_bp.schedules import WarmupCosine

BATCH_SIZE = 32
SEED = 0


def build_model(steps):
    """Return a compiled model whose learning rate ends at 0 after `steps` update steps."""
    convolution = dict(kernel_size=3, padding="same", activation="relu")
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Reshape((8, 8, 1)),
            keras.layers.Conv2D(16, name="conv_1", **convolution),
            BatchNormalization(momentum=0.9, name="norm_1"),
            keras.layers.Conv2D(32, name="conv_2", **convolution),
            BatchNormalization(momentum=0.9, name="norm_2"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            Dropout(0.5),
            Dense(64, activation="relu", name="hidden"),
            Dense(10, name="logits"),
        ],
        name="digits",
    )
    schedule = WarmupCosine(2e-3, total_steps=steps, warmup_steps=max(1, steps // 10))
    loss = SparseCategoricalCrossentropy(from_logits=True)
    model.compile(AdamW(schedule), loss, metrics=["accuracy"])
    return model


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=30)
    parser.add_argument("--gif", action="store_true", help="write an animation, too")
    options = parser.parse_args(arguments)

    keras.utils.set_random_seed(SEED)
    x, x_test, y, y_test = digits(SEED)
    model = build_model(steps=options.epochs * math.ceil(len(x) / BATCH_SIZE))

    pictures = [options.folder / "dashboard.png"]
    pictures += [options.folder / "dashboard.gif"] * options.gif
    training = model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=options.epochs,
        validation_data=(x_test, y_test),
        callbacks=[TrainingDashboard(path) for path in pictures],
        verbose=2,
    )

    print(f"\ntest accuracy: {training.history['val_accuracy'][-1]:.2%} of {len(x_test)} digits")
    for path in pictures:
        print(f"picture of the training: {path}")


if __name__ == "__main__":
    main()
