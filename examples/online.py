"""Online updates on a stream that drifts: SGD with momentum, clipped.

Run it with `python examples/online.py`. A synthetic market: whether a price rises follows from 20
signals, by a rule that turns slowly; one example in fifty is an outlier, 50 times as large and with
a label of chance. A network learns the first tenth, then each batch of 8 comes once: it is
predicted, then learned from by one step of momentum, clipped or not (prequential: each example is
a test first). The network that is not updated stands beside. The picture goes to tb_logs/online.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _shared import CommandLine, tidy
from matplotlib.figure import Figure

from keras_bp.layers import Dense
from keras_bp.losses import BinaryCrossentropy
from keras_bp.optimizers import Adam, Momentum

EXAMPLES = 20_000
BATCH_SIZE = 8
RATE = 0.1
SEED = 0
WINDOW = 1000  # examples of an average
RUNS = {
    "not updated": None,
    "momentum, not clipped": lambda: Momentum(RATE),
    "momentum, clipped": lambda: Momentum(RATE, global_clipnorm=1.0),
}


def make_stream():
    """Return (signals, labels, whether each is an outlier), in the order of time."""
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(EXAMPLES, 20))
    first, second = np.linalg.qr(rng.normal(size=(20, 2)))[0].T
    angle = np.linspace(0, np.pi, EXAMPLES)[:, None]  # half a turn: the opposite at the end
    rule = np.cos(angle) * first + np.sin(angle) * second
    y = np.sum(rule * x, axis=1) + 0.3 * rng.normal(size=EXAMPLES) > 0
    outlier = rng.random(EXAMPLES) < 0.02
    x[outlier] *= 50
    y[outlier] = rng.random(outlier.sum()) < 0.5
    return x.astype("float32"), y[:, None].astype("float32"), outlier


def build_model():
    return keras.Sequential([keras.Input((20,)), Dense(16, "relu"), Dense(1)])


def follow(model, optimizer, x, y):
    """Return whether each prediction was right, each made before the step that learns from it."""
    loss_function = BinaryCrossentropy(from_logits=True)

    @tf.function
    def predict_then_learn(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = loss_function(y, logits)
        if optimizer is not None:
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
        return logits

    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH_SIZE, drop_remainder=True)
    logits = np.concatenate([predict_then_learn(*batch) for batch in batches])
    return (logits > 0) == (y[: len(logits)] > 0.5)


def draw(right, path):
    """Write a picture of the accuracy of the last examples, along the stream."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    ax = figure.subplots()
    for name, values in right.items():
        average = np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")
        ax.plot(np.arange(len(average)) + WINDOW, average, label=name)
    ax.axhline(0.5, color="black", linestyle=":", linewidth=1)
    title = f"Accuracy of the last {WINDOW:,} predictions, outliers not counted"
    ax.set(title=title, xlabel="examples of the stream", ylim=(0, 1))
    ax.legend(frameon=False, loc="lower left")
    tidy(ax)
    figure.savefig(path, dpi=100)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=10, of="passes over the first tenth")
    options = parser.parse_args(arguments)

    x, y, outlier = make_stream()
    past, usual = EXAMPLES // 10, ~outlier
    keras.utils.set_random_seed(SEED)
    first = build_model()
    first.compile(Adam(0.01, global_clipnorm=1.0), BinaryCrossentropy(from_logits=True))
    first.fit(x[:past], y[:past], epochs=options.epochs, verbose=0)

    right = {}
    print(f"{'':24}all of the stream   its last tenth")
    for name, make_optimizer in RUNS.items():
        model = build_model()
        model.set_weights(first.get_weights())
        optimizer = make_optimizer and make_optimizer()
        results = follow(model, optimizer, x[past:], y[past:])[:, 0]
        right[name] = results[usual[past:][: len(results)]]
        last = right[name][-past:]
        print(f"{name:24}{right[name].mean():17.2%}{last.mean():17.2%}")

    draw(right, options.folder / "accuracy.png")
    print(f"\npicture of the accuracy: {options.folder / 'accuracy.png'}")
    print(f"test accuracy: {right['momentum, clipped'].mean():.2%} of the stream, clipped")


if __name__ == "__main__":
    main()
