"""Exploding gradients, and the three ways of clipping that mend them.

Run it with `python examples/gradient_clipping.py`. A recurrent network reads scikit-learn's digits
pixel by pixel, 64 steps back to the first one, with recurrent weights a little larger than keeps a
signal's size. Without clipping it diverges; with `clipvalue`, `clipnorm` or `global_clipnorm` the
same network learns. It leaves a picture of the gradient norms in tb_logs/gradient_clipping.
"""

import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _shared import CommandLine, digits, smooth, tidy
from matplotlib.figure import Figure

from keras_bp.gradients import global_norm
from keras_bp.layers import Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import SGD

BATCH_SIZE = 64
GAIN = 1.15  # of the recurrent weights: in 64 time steps a signal may grow 1.15^64 = 7700 times
RATE = 0.2
SEED = 1
CLIPPING = {
    "no clipping": {},
    "clipvalue=0.002": dict(clipvalue=0.002),
    "clipnorm=0.2": dict(clipnorm=0.2),
    "global_clipnorm=0.4": dict(global_clipnorm=0.4),
}


def build_model(time_steps):
    recurrent = keras.layers.SimpleRNN(
        64, activation="relu", recurrent_initializer=keras.initializers.Orthogonal(GAIN)
    )
    return keras.Sequential([keras.Input((time_steps, 1)), recurrent, Dense(10)])


def train(x, y, epochs, clipping):
    """Return (model, losses, gradient norms before clipping); it ends where the loss does."""
    keras.utils.set_random_seed(SEED)  # the same first weights and the same batches for all
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=SEED)
    batches = batches.batch(BATCH_SIZE, drop_remainder=True)
    model = build_model(x.shape[1])
    loss_function = SparseCategoricalCrossentropy(from_logits=True)
    optimizer = SGD(RATE, **clipping)

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)  # which clips them
        return loss, global_norm(gradients)

    losses, norms = [], []
    for batch in batches.repeat(epochs):
        loss, norm = train_step(*batch)
        if not math.isfinite(loss):
            break
        losses.append(float(loss))
        norms.append(float(norm))
    return model, losses, norms


def draw(runs, total, path):
    """Write a picture of the gradient norm and the loss of every step, one line per run."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for name, (losses, norms) in runs.items():
        diverged = len(losses) < total
        [line] = top.plot(norms, label=name, linewidth=2.5 if diverged else 0.7)
        color = line.get_color()
        bottom.plot(smooth(losses), color=color)
        if diverged:
            for ax in (top, bottom):
                ax.axvline(len(losses) - 1, color=color, linestyle=":")
    top.set(title="Norm of all gradients before clipping (dotted: diverged)", yscale="log")
    bottom.set(title="Training loss, median of 20 steps", ylim=(0, 3), xlim=(0, total))
    bottom.set_xlabel("update steps")
    top.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    tidy(top, bottom)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    options = CommandLine(__file__, __doc__, epochs=20).parse_args(arguments)

    x, x_test, y, y_test = digits(SEED)
    x, x_test = x[:, :, None], x_test[:, :, None]  # 64 time steps
    total = options.epochs * (len(x) // BATCH_SIZE)
    print(f"{total} update steps\n{'':20}{'median norm':>12}{'largest norm':>14}", end="")
    print(f"{'last loss':>11}{'test accuracy':>15}")
    runs, accuracies = {}, {}  # the accuracies of those that did not diverge
    for name, clipping in CLIPPING.items():
        model, losses, norms = train(x, y, options.epochs, clipping)
        runs[name] = losses, norms
        print(f"{name:20}{np.median(norms):12.1f}{max(norms):14.1e}", end="")
        if len(losses) < total:
            print(f"  diverged: the loss of step {len(losses) + 1} is not finite", flush=True)
            continue
        logits = keras.ops.convert_to_numpy(model(x_test))
        accuracies[name] = np.mean(logits.argmax(axis=1) == y_test)
        print(f"{np.median(losses[-20:]):11.3f}{accuracies[name]:15.2%}", flush=True)

    draw(runs, total, options.folder / "norms.png")
    print(f"\npicture of the norms: {options.folder / 'norms.png'}")
    print(f"test accuracy: {min(accuracies.values()):.2%} of {len(x_test)} digits in the worst run")


if __name__ == "__main__":
    main()
