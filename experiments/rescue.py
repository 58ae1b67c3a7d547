"""Twelve planted faults: what becomes of each training without `Rescue`, with it, and unharmed.

Run it with `python experiments/rescue.py`. Each fault is planted in one of six trainings, in
three seeds. A result is appended to a file as soon as it is there: a run that was stopped continues
when it is started again. `--quick` takes one seed and few epochs, `--report` prints the table of
what there is.
"""

import argparse
import functools
import json
import os
import pathlib
import shutil
import tempfile
import time
import typing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_bp
from keras_bp.callbacks import Rescue
from keras_bp.optimizers import SGD, Adam, AdamW, RMSprop
from keras_bp.schedules import CosineAnnealing, Warmup

SEEDS, PLACE = 3, 700  # the example that is harmed
L = keras.layers


# The trainings


class Training(typing.NamedTuple):
    """A training that goes well.

    Attributes:
        data: function that returns x and y.
        model: function that returns a model.
        optimizer: function of a factor on the rate that returns an optimizer.
        loss: the loss.
        epochs: passes over the data.
        batch_size: examples in a batch.
        policy: the dtype policy.
    """

    data: typing.Callable
    model: typing.Callable
    optimizer: typing.Callable
    loss: str
    epochs: int
    batch_size: int = 32
    policy: str = "float32"


@functools.cache
def digits(shape):
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype("float32").reshape(-1, *shape), y.astype("int32")


@functools.cache
def curve():
    """10,000 points of a smooth function of four numbers, with noise."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(10_000, 4)).astype("float32")
    y = np.sin(x[:, :1] + x[:, 1:2] * x[:, 2:3]) + 0.1 * generator.normal(size=(10_000, 1))
    return x, y.astype("float32")


def dense(inputs, outputs, activation=None):
    layers = [
        L.Dense(64, "relu"),
        L.Dense(64, "relu"),
        L.Dense(outputs, activation, dtype="float32"),
    ]
    return keras.Sequential([keras.Input((inputs,)), *layers])


def convolutional():
    layers = [L.Conv2D(16, 3, use_bias=False), L.BatchNormalization(), L.ReLU()]
    layers += [L.Conv2D(32, 3, use_bias=False), L.BatchNormalization(), L.ReLU(), L.Dropout(0.2)]
    layers += [L.GlobalAveragePooling2D(), L.Dense(10, "softmax")]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def recurrent():
    layers = [L.SimpleRNN(48), L.Dense(10, "softmax")]
    return keras.Sequential([keras.Input((8, 8)), *layers])


def unit_length():
    """Examples are divided by their length; at a length of 0 its derivative is infinite."""

    def divided(x):
        return x / (1e-3 + keras.ops.sum(x * x, axis=-1, keepdims=True) ** 0.5)

    layers = [L.Dense(64, use_bias=False), L.Lambda(divided), L.Dense(64, "relu")]
    return keras.Sequential([keras.Input((64,)), *layers, L.Dense(10, "softmax")])


def with_schedule(rule, rate, steps, **options):
    def optimizer(factor=1.0):
        return rule(Warmup(CosineAnnealing(rate * factor, steps - 50), 50), **options)

    return optimizer


CLASSES = "sparse_categorical_crossentropy"
TRAININGS = {
    "dense, Adam": Training(
        lambda: digits((64,)),
        lambda: dense(64, 10, "softmax"),
        lambda factor=1.0: Adam(1e-3 * factor),
        CLASSES,
        10,
    ),
    "convolutional, SGD, cosine": Training(
        lambda: digits((8, 8, 1)),
        convolutional,
        with_schedule(SGD, 0.1, 57 * 8, momentum=0.9),
        CLASSES,
        8,
    ),
    "dense in float16, Adam": Training(
        lambda: digits((64,)),
        lambda: dense(64, 10, "softmax"),
        lambda factor=1.0: keras.optimizers.Adam(1e-3 * factor),
        CLASSES,
        10,
        policy="mixed_float16",
    ),
    "regression, AdamW, cosine": Training(
        curve, lambda: dense(4, 1), with_schedule(AdamW, 3e-3, 800), "mse", 8, batch_size=100
    ),
    "regression, SGD": Training(
        curve,
        lambda: dense(4, 1),
        lambda factor=1.0: keras.optimizers.SGD(0.02 * factor, momentum=0.9),
        "mse",
        8,
        batch_size=100,
    ),
    "recurrent, RMSprop": Training(
        lambda: digits((8, 8)),
        recurrent,
        lambda factor=1.0: RMSprop(1e-3 * factor),
        CLASSES,
        10,
    ),
    "divided by length, Adam": Training(
        lambda: digits((64,)),
        unit_length,
        lambda factor=1.0: Adam(1e-3 * factor),
        CLASSES,
        10,
    ),
}


# The faults


class Fault(typing.NamedTuple):
    """A fault that is planted.

    Attributes:
        training: the training's name.
        harm: function of x, y and the sample weights (all copies) that changes an example.
        rate: factor on the rate, from the beginning.
        jump: factor on it from the middle of the training on.
    """

    training: str
    harm: typing.Callable | None = None
    rate: float = 1.0
    jump: float = 1.0


def set_input(value):
    def harm(x, y, weights):
        x[PLACE].flat[3] = value

    return harm


def scale_input(factor):
    def harm(x, y, weights):
        x[PLACE] *= factor

    return harm


def set_target(value):
    def harm(x, y, weights):
        y[PLACE] = value

    return harm


def set_weight(value):
    def harm(x, y, weights):
        weights[PLACE] = value

    return harm


FAULTS = {
    "NaN in an input": Fault("dense, Adam", set_input(np.nan)),
    "infinity in an input": Fault("convolutional, SGD, cosine", set_input(np.inf)),
    "overflow in float16": Fault("dense in float16, Adam", scale_input(60_000.0)),
    "one target of 10,000 is 10,000": Fault("regression, AdamW, cosine", set_target(1e4)),
    "a missing target, NaN": Fault("regression, SGD", set_target(np.nan)),
    "a label outside of the classes": Fault("dense, Adam", set_target(10)),
    "a sample weight of 10 million": Fault("recurrent, RMSprop", set_weight(1e7)),
    "an input in another unit, times 10^6": Fault("regression, SGD", scale_input(1e6)),
    "an infinite derivative: an empty image": Fault("divided by length, Adam", scale_input(0.0)),
    "rate 30 times too high, SGD": Fault("regression, SGD", rate=30.0),
    "rate 1000 times too high, Adam": Fault("dense, Adam", rate=1000.0),
    "rate 30 times too high from the middle on": Fault("regression, SGD", jump=30.0),
}


def compiled(training, rate=1.0):
    """Return the model, with a factor on its rate."""
    keras.config.set_dtype_policy(training.policy)
    try:
        model = training.model()
        model.compile(training.optimizer(rate), training.loss, auto_scale_loss=False)
        return model
    finally:
        keras.config.set_dtype_policy("float32")


def train(training, seed, fault=None, rescue=None, epochs=None):
    """Train; return the loss of the unharmed data at the end, and the share in the right class."""
    epochs = epochs or training.epochs
    keras.utils.set_random_seed(seed)
    model = compiled(training, fault.rate if fault else 1.0)
    x, y = training.data()
    data = [x.copy(), y.copy(), np.ones(len(x), "float32")]
    callbacks = [rescue] if rescue else []
    if fault and fault.harm:
        fault.harm(*data)
    if fault and fault.jump != 1.0:

        def jump(epoch, rate):
            return rate * fault.jump if epoch == epochs // 2 else rate

        callbacks.append(keras.callbacks.LearningRateScheduler(jump))
    x_all, y_all, weights = data
    options = {"batch_size": training.batch_size, "epochs": epochs, "verbose": 0}
    try:
        model.fit(x_all, y_all, sample_weight=weights, callbacks=callbacks, **options)
    except Exception as error:
        return type(error).__name__, 0.0
    predicted = model.predict(x, batch_size=500, verbose=0).argmax(axis=-1)
    return float(model.evaluate(x, y, batch_size=500, verbose=0)), float(np.mean(predicted == y))


def is_harmed(part, whole):
    return np.array_equal(part, whole[PLACE], equal_nan=True)


def is_named(fault, rescue):
    """Tell whether the batch that was kept holds the harmed example, and `replay` names it."""
    if not rescue.rescues:
        return False
    if not fault.harm:
        return rescue.rescues[0].action == "lowered"
    x, y = TRAININGS[fault.training].data()
    data = [x.copy(), y.copy(), np.ones(len(x), "float32")]
    fault.harm(*data)
    for rescued in rescue.rescues:
        if rescued.path is None or rescued.action != "skipped":
            continue
        with np.load(pathlib.Path(rescued.path) / "batch.npz") as kept:
            batch = [kept[name] for name in ("x", "y", "sample_weight")]
        rows = range(len(batch[0]))
        if not any(all(map(is_harmed, (part[row] for part in batch), data)) for row in rows):
            return False
    return True


def measure(name, seeds, epochs, path):
    """Append what is missing of one fault's results to the file."""
    fault, done = FAULTS[name], {tuple(r["key"]) for r in load(path)}
    training = TRAININGS[fault.training]
    for seed in range(seeds):
        runs = {
            (fault.training, seed, epochs, "unharmed"): (None, False),
            (name, seed, epochs, "harmed"): (fault, False),
            (name, seed, epochs, "rescued"): (fault, True),
        }
        for key, (planted, rescues) in runs.items():
            if key in done:
                continue
            folder, begun = tempfile.mkdtemp(), time.process_time()
            rescue = Rescue(folder, verbose=0) if rescues else None
            loss, right = train(training, seed, planted, rescue, epochs)
            result = {"key": key, "loss": loss}
            if training.loss == CLASSES:
                result["right"] = right
            if rescue:
                result |= {
                    "named": is_named(fault, rescue),
                    "rescues": [[r.step, r.fault, r.action] for r in rescue.rescues],
                    "factor": rescue.rate_factor,
                    "says": explained(rescue, training),
                }
            result["seconds"] = round(time.process_time() - begun, 1)
            shutil.rmtree(folder)
            keras.backend.clear_session()
            with path.open("a") as file:
                file.write(json.dumps(result) + "\n")


def explained(rescue, training):
    """Return what `replay` says of the first fault."""
    paths = [rescued.path for rescued in rescue.rescues if rescued.path]
    # A model of our own: Keras's `safe_mode` refuses a Lambda.
    return keras_bp.replay(paths[0], compiled(training)).description if paths else None


def load(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(path, seeds, epochs):
    """Print the table."""
    found, rescued = {tuple(r["key"]): r for r in load(path)}, 0
    print("| Fault | Training | Unharmed | Harmed | Rescued | Batch named | Rescues, first seed |")
    print("|---|---|---|---|---|---|---|")
    for name, fault in FAULTS.items():
        keys = {"unharmed": fault.training, "harmed": name, "rescued": name}
        runs = {
            kind: [found.get((first, seed, epochs, kind)) for seed in range(seeds)]
            for kind, first in keys.items()
        }
        if not all(all(each) for each in runs.values()):
            continue
        losses = {kind: [run["loss"] for run in each] for kind, each in runs.items()}
        is_named = all(run["named"] for run in runs["rescued"])
        known = all(isinstance(loss, float) for loss in losses["rescued"])
        rescued += known and np.median(losses["rescued"]) <= max(losses["unharmed"])
        acts = [action for _, _, action in runs["rescued"][0]["rescues"]]
        counted = ", ".join(f"{acts.count(a)} {a}" for a in dict.fromkeys(acts))
        cells = [name, fault.training, *map(shown, losses.values()), "yes" if is_named else "no"]
        print("| " + " | ".join([*cells, counted]) + " |")
    print(f"\n{rescued} of {len(FAULTS)} end, in the median, no higher than the unharmed seeds do.")
    rights = [r["right"] for (*_, kind), r in found.items() if kind == "rescued" and "right" in r]
    if rights:
        print(f"training accuracy: {min(rights):.2%} after a rescue, at least")


def shown(losses):
    return ", ".join(loss if isinstance(loss, str) else f"{loss:.4g}" for loss in losses)


def main(arguments=None):
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of each kind")
    parser.add_argument("--epochs", type=int, help="passes over the data (default: 8 or 10)")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs")
    parser.add_argument("--report", action="store_true", help="only print the table of the file")
    parser.add_argument(
        "--log-dir",
        type=pathlib.Path,
        default="tb_logs",
        help="where the folder `rescue` goes, with the file of results",
    )
    options = parser.parse_args(arguments)
    for name in ("seeds", "epochs"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1. Received: {getattr(options, name)}")
    folder = options.log_dir / "rescue"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.jsonl"
    seeds, epochs = (1, 2) if options.quick else (options.seeds, options.epochs)
    for name in () if options.report else options.faults:
        measure(name, seeds, epochs, path)
        print(name, flush=True)
    report(path, seeds, epochs)


if __name__ == "__main__":
    main()
