"""Vanishing and exploding gradients, named while a network trains.

Run it with `python examples/training_health.py`. Two networks that do not learn scikit-learn's
digits, 20 layers of sigmoid units and a recurrent network that reads the pixels one by one, are
trained with TrainingHealth beside them. What it says is printed as it is found, and its advice is
taken: ReLU with He initialization, and clipping. It leaves a picture, and a TensorBoard run of each
training, in tb_logs/training_health.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _shared import CommandLine, digits, read_scalars, smooth, tidy
from matplotlib.figure import Figure

from keras_bp.callbacks import GradientMonitor, TrainingHealth
from keras_bp.layers import Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import SGD, Adam

BATCH_SIZE = 64
DEPTH = 20
GAIN = 1.15  # of the recurrent weights: in 64 time steps a signal may grow 1.15^64 = 7700 times
SEED = 2


def build_deep(activation, initializer):
    hidden = [
        Dense(64, activation=activation, kernel_initializer=initializer, name=f"layer_{i}")
        for i in range(1, DEPTH)
    ]
    model = keras.Sequential([keras.Input((64,)), *hidden, Dense(10, name=f"layer_{DEPTH}")])
    return model, Adam(1e-3)


def build_recurrent(**clipping):
    recurrent = keras.layers.SimpleRNN(
        64,
        activation="relu",
        recurrent_initializer=keras.initializers.Orthogonal(GAIN),
        name="recurrent",
    )
    pixels = keras.layers.Reshape((64, 1))
    model = keras.Sequential([keras.Input((64,)), pixels, recurrent, Dense(10, name="logits")])
    return model, SGD(0.2, **clipping)


RUNS = {
    "sigmoid": lambda: build_deep("sigmoid", "glorot_uniform"),
    "ReLU and He": lambda: build_deep("relu", "he_normal"),
    "recurrent": build_recurrent,
    "recurrent, clipped": lambda: build_recurrent(global_clipnorm=0.4),
}
MENDED = "ReLU and He", "recurrent, clipped"
SICK, WELL = "tab:red", "tab:blue"


def train(name, data, epochs, log_dir):
    """Return (gradient norms: layer -> values of all steps, losses, findings, test accuracy)."""
    keras.utils.set_random_seed(SEED)  # the same batches for all
    x, x_test, y, y_test = data
    model, optimizer = RUNS[name]()
    loss = SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    health = TrainingHealth(action=lambda finding: print(f"    {finding}", flush=True))
    monitor = GradientMonitor(log_dir)
    callbacks = [health, monitor, keras.callbacks.TerminateOnNaN()]
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=callbacks)
    print(f"    {health.report.splitlines()[0]}")
    series = read_scalars(monitor.run_dir)
    norms = {tag.partition("/")[2]: v for tag, v in series.items() if tag.startswith("gradient")}
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    return norms, series["loss/batch"], health.findings, accuracy


def draw_losses(ax, name, run, total, color):
    """Draw the running median of the loss, and a cross where it ends before its time."""
    _, losses, _, accuracy = run
    losses = [loss for loss in losses if np.isfinite(loss)]
    medians = smooth(losses)
    label = f"{name}: {accuracy:.0%} of the test digits"
    if len(losses) < total:
        ax.plot(len(losses), medians[-1], "X", color=color, markersize=9)
        label = f"{name}: NaN from step {len(losses) + 1} on"
    ax.plot(range(1, len(losses) + 1), medians, color=color, label=label)


def draw_finding(ax, finding, x, y, offset):
    """Point at the place of a finding."""
    text = f"step {finding.step}: {finding.check} in {finding.layer}"
    arrow = {"arrowstyle": "->", "color": SICK}
    options = {"xytext": offset, "textcoords": "offset points", "arrowprops": arrow}
    ax.annotate(text, (x, y), color=SICK, va="center", **options)


def draw(runs, total, path):
    """Write a picture: gradient norms and losses, one row per kind of network."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2, width_ratios=(1.2, 1))
    colors = dict(zip(RUNS, (SICK, WELL) * 2, strict=True))
    layers = np.arange(1, DEPTH + 1)
    for name in list(RUNS)[:2]:
        norms = [np.median(runs[name][0][f"layer_{i}"][:10]) for i in layers]
        axes[0, 0].plot(layers, norms, "o-", color=colors[name], markersize=3)
        for finding in runs[name][2][:1]:
            draw_finding(axes[0, 0], finding, layers[0], norms[0], (60, 0))
    for name in list(RUNS)[2:]:
        norms = runs[name][0]["recurrent/simple_rnn_cell"]
        axes[1, 0].plot(range(1, len(norms) + 1), norms, color=colors[name], linewidth=0.8)
        for finding in runs[name][2][:1]:
            draw_finding(axes[1, 0], finding, finding.step, norms[finding.step - 1], (40, 0))
    for i, name in enumerate(RUNS):
        draw_losses(axes[i // 2, 1], name, runs[name], total, colors[name])
    for loss_ax in axes[:, 1]:
        loss_ax.legend(frameon=False)
        loss_ax.set(title="Training loss, median of 20 steps", xlim=(0, total), ylim=(0, 3))
        loss_ax.set_xlabel("update steps")
    title = f"{DEPTH} layers: gradient norm of each layer, median of the first 10 steps"
    axes[0, 0].set(title=title, xlabel="layer", yscale="log", xticks=layers)
    title = "64 time steps: gradient norm of the recurrent layer, before clipping"
    axes[1, 0].set(title=title, xlabel="update steps", yscale="log", xlim=(0, total))
    tidy(*axes.flat)
    figure.savefig(path, dpi=100)


def main(arguments=None):
    options = CommandLine(__file__, __doc__, epochs=20).parse_args(arguments)

    data = digits(SEED)
    runs = {}
    for name in RUNS:
        print(f"{name}:", flush=True)
        run = options.folder / name.replace(",", "").replace(" ", "_").lower()
        runs[name] = train(name, data, options.epochs, run)
        print(f"    test digits: {runs[name][-1]:.2%}")
    total = options.epochs * -(-len(data[0]) // BATCH_SIZE)
    picture = options.folder / "gradients.png"
    draw(runs, total, picture)
    print(f"\npicture of norms and losses: {picture}")
    worst = min(runs[name][-1] for name in MENDED)
    print(
        f"test accuracy: {worst:.2%} of {len(data[1])} digits, in the worse of the mended networks"
    )


if __name__ == "__main__":
    main()
