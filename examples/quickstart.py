"""Train on scikit-learn's handwritten digits, check the gradients and watch them while it learns.

Run it with `python examples/quickstart.py`. The layers, the loss and the callbacks are this
package's; `compile`, `fit`, the optimizer and its schedule are Keras's. It leaves a TensorBoard
run and a picture of it in tb_logs/quickstart.
"""

import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _shared import CommandLine, digits

from keras_bp import check_gradients
from keras_bp.callbacks import GradientMonitor, TrainingDashboard
from keras_bp.layers import BatchNormalization, Dense, Dropout
from keras_bp.losses import SparseCategoricalCrossentropy

BATCH_SIZE = 32
SEED = 0


def build_model(steps):
    """Return a compiled model whose learning rate falls to 0 over `steps` update steps."""
    layers = [keras.Input((64,))]
    for i, units in enumerate((256, 128), 1):
        layers.append(Dense(units, "relu", kernel_initializer="he_normal", name=f"hidden_{i}"))
        layers += [BatchNormalization(name=f"norm_{i}"), Dropout(0.4, name=f"dropout_{i}")]
    model = keras.Sequential([*layers, Dense(10, name="logits")], name="digits")
    optimizer = keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(3e-3, steps))
    loss = SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def main(arguments=None):
    options = CommandLine(__file__, __doc__, epochs=30).parse_args(arguments)
    keras.utils.set_random_seed(SEED)
    x, x_test, y, y_test = digits(SEED)
    model = build_model(steps=options.epochs * math.ceil(len(x) / BATCH_SIZE))

    report = check_gradients(model, x[:16], y[:16], model.loss, max_entries=20)
    print(report, end="\n\n")

    picture = options.folder / "training.png"
    training = model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=options.epochs,
        validation_data=(x_test, y_test),  # only watched: nothing is chosen by it
        callbacks=[GradientMonitor(log_dir=options.folder), TrainingDashboard(picture)],
    )

    difference = f"relative difference {report.relative_difference:.1e}"
    print(f"\ngradient check: {report.verdict}, {difference}")
    print(f"test accuracy: {training.history['val_accuracy'][-1]:.2%} of {len(x_test)} digits")
    print(f"picture of the run: {picture}")
    print(f"look inside: tensorboard --logdir {options.log_dir}")


if __name__ == "__main__":
    main()
