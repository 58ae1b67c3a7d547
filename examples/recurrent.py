"""LSTM and GRU read documents, clipped, and with a rate of dropout for each layer.

Run it with `python examples/recurrent.py`. The documents are the help texts of the functions of
nine modules, their first 40 words; a recurrent network says which module a text is of. A simple
recurrent network, an LSTM and a GRU are trained by RMSprop, with their gradients clipped at a
global norm of 1 and without; then a GRU without dropout, with one rate, and with one rate for each
layer. It leaves a picture, and a TensorBoard run of each training, in tb_logs/recurrent.
"""

import collections
import importlib
import inspect
import os
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _shared import CommandLine, read_scalars, smooth, tidy
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split

from keras_bp.callbacks import GradientMonitor
from keras_bp.layers import Dense, Dropout, Embedding
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import RMSprop

MODULES = ("numpy", "matplotlib.pyplot", "keras.layers", "keras.ops") + tuple(
    f"scipy.{name}" for name in ("linalg", "optimize", "signal", "special", "stats")
)
WORDS = 40  # of each document
VOCABULARY = 2000
UNITS = 48
BATCH_SIZE = 32
SEED = 0
NO_DROPOUT = 0.0, 0.0, 0.0
# Cell, bound of the global norm, dropout of the word vectors, the recurrent state, the output.
RUNS = {
    "SimpleRNN": ("SimpleRNN", None, NO_DROPOUT),
    "SimpleRNN, clipped": ("SimpleRNN", 1.0, NO_DROPOUT),
    "LSTM": ("LSTM", None, NO_DROPOUT),
    "LSTM, clipped": ("LSTM", 1.0, NO_DROPOUT),
    "GRU": ("GRU", None, NO_DROPOUT),
    "GRU, clipped": ("GRU", 1.0, NO_DROPOUT),
    "GRU, dropout 0.3": ("GRU", 1.0, (0.3, 0.3, 0.3)),
    "GRU, dropout by layer": ("GRU", 1.0, (0.5, 0.1, 0.3)),
}


def load_data():
    """Return (train texts, test texts, train labels, test labels), the texts as word numbers."""
    texts = {}
    for label, name in enumerate(MODULES):
        for _, member in sorted(inspect.getmembers(importlib.import_module(name), callable)):
            words = re.findall("[a-z]+", (inspect.getdoc(member) or "").lower())[:WORDS]
            if len(words) == WORDS:
                texts.setdefault(tuple(words), label)  # a function may be in two modules
    x, x_test, y, y_test = train_test_split(
        list(texts), list(texts.values()), test_size=0.25, random_state=SEED
    )
    counts = collections.Counter(word for words in x for word in words)
    numbers = {word: i for i, (word, _) in enumerate(counts.most_common(VOCABULARY), 1)}
    x, x_test = (np.array([[numbers.get(w, 0) for w in words] for words in t]) for t in (x, x_test))
    return x, x_test, np.array(y), np.array(y_test)


def build_model(cell, dropout):
    of_words, of_state, of_output = dropout
    return keras.Sequential(
        [
            keras.Input((WORDS,), dtype="int32"),
            Embedding(VOCABULARY + 1, 32, name="words"),
            Dropout(of_words),
            getattr(keras.layers, cell)(UNITS, recurrent_dropout=of_state, name="recurrent"),
            Dropout(of_output),
            Dense(len(MODULES), name="logits"),
        ]
    )


def train(cell, bound, dropout, seed, data, epochs, log_dir):
    """Return ({tag: values of all updates}, test losses of the epochs, accuracies in both sets)."""
    keras.utils.set_random_seed(seed)
    x, x_test, y, y_test = data
    model = build_model(cell, dropout)
    loss = SparseCategoricalCrossentropy(from_logits=True)
    # Without XLA, which compiles for longer than a small network trains.
    model.compile(
        RMSprop(2e-3, global_clipnorm=bound), loss, metrics=["accuracy"], jit_compile=False
    )
    monitor = GradientMonitor(log_dir)
    options = dict(batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    history = model.fit(x, y, validation_data=(x_test, y_test), callbacks=[monitor], **options)
    _, train_accuracy = model.evaluate(x, y, BATCH_SIZE, verbose=0)  # without dropout
    history = history.history
    accuracies = train_accuracy, history["val_accuracy"][-1]
    return read_scalars(monitor.run_dir), history["val_loss"], accuracies


def draw(runs, path):
    """Write a picture: the gradients' norms, and the test losses, of the first seed."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    norm, cells, dropout = axes
    colors = {"SimpleRNN": "C0", "LSTM": "C1", "GRU": "C2"}
    for name, (series, losses) in runs.items():
        epochs = range(1, len(losses) + 1)
        if "," not in name:
            norm.plot(smooth(series["gradient_norm/global"]), color=colors[name], label=name)
        if "dropout" not in name:
            style = "-" if "clipped" in name else ":"
            color = colors[RUNS[name][0]]
            cells.plot(epochs, losses, style, marker=".", color=color, label=name)
        if name == "GRU, clipped" or "dropout" in name:
            label = name.removeprefix("GRU, ").replace("clipped", "none")
            dropout.plot(epochs, losses, marker=".", label=label.removeprefix("dropout "))
    norm.axhline(1, color="gray", linestyle=":")
    norm.set(title="Gradients' norm, not clipped, median of 20", xlabel="updates", yscale="log")
    cells.set(title="Test loss: clipped at 1 and not", xlabel="epochs")
    dropout.set(title="Test loss: a GRU, by its dropout", xlabel="epochs")
    for ax in axes:
        ax.margins(y=0.15)
        ax.legend(frameon=False, fontsize="small", ncols=2 if ax is cells else 1)
    tidy(*axes)
    figure.savefig(path, dpi=90)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=12, of="passes over the training texts")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each network")
    options = parser.parse_args(arguments)

    data = load_data()
    share = np.bincount(data[3]).max() / len(data[3])
    print(f"{len(data[0])} training and {len(data[1])} test texts of {WORDS} words, ", end="")
    print(f"{len(MODULES)} modules, the largest {share:.1%}; medians of {options.seeds} seeds")
    print(f"{'':24}{'largest norm':>13}{'clipped':>9}", end="")
    print(f"{'train':>9}{'test':>9}{'from':>9}{'to':>9}{'test loss':>11}")
    first, medians = {}, {}
    for name, (cell, bound, dropout) in RUNS.items():
        trained = []
        for seed in range(options.seeds):
            log_dir = options.folder / f"{name.replace(',', '').replace(' ', '_')}_{seed}".lower()
            trained.append(train(cell, bound, dropout, seed, data, options.epochs, log_dir))
        first[name] = trained[0][:2]
        norms = np.concatenate([series["gradient_norm/global"] for series, _, _ in trained])
        share = f"{np.mean(norms > bound):.0%}" if bound else "never"
        seen, unseen = np.transpose([accuracies for *_, accuracies in trained])
        medians[name] = np.median(unseen)
        print(f"{name:24}{norms.max():13.1f}{share:>9}{np.median(seen):9.2%}", end="")
        print(f"{medians[name]:9.2%}{min(unseen):9.2%}{max(unseen):9.2%}", end="")
        print(f"{np.median([losses[-1] for _, losses, _ in trained]):11.3f}", flush=True)

    draw(first, options.folder / "losses.png")
    print(f"\npicture of norms and losses: {options.folder / 'losses.png'}")
    last = list(medians)[-1]
    print(f"test accuracy: {medians[last]:.2%} of {len(data[1])} texts, {last}")


if __name__ == "__main__":
    main()
