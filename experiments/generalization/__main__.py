"""Does SGD with momentum generalize better than Adam, for a small residual network?

`python experiments/generalization --full --data-dir DIR` trains on CIFAR-10, DIR/cifar10.npz;
without `--data-dir` Keras downloads it. `--quick`, the default, trains on scikit-learn's digits;
`--dataset` takes mnist and fashion_mnist too. Adam and SGD with momentum train the same network,
each without and with decoupled weight decay, each at the best rate of a grid that is judged on
training images that are held out, then from several seeds on all training images. It leaves
tables, the records of all trainings and a picture in tb_logs/generalization.
"""

import functools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for what the experiments share
import study  # first: it makes TensorFlow quiet

# isort: split
import image_data
import keras
import numpy as np
from augmentation import AugmentedBatches
from matplotlib.figure import Figure
from residual_network import build_model

from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import SGD, Adam, AdamW
from keras_bp.schedules import WarmupCosine

# Grids of equal size, each rate about three times the one before. The decays shrink the weights by
# the same share per step at the same place of the grid: 0.003 x 0.1 = 0.1 x 0.003. As SGD's
# momentum sums ten gradients, its decay of 0.003 is what a penalty of 0.0003 / 2 |w|^2 would make.
ADAM_RATES, SGD_RATES = (3e-4, 1e-3, 3e-3, 1e-2), (0.01, 0.03, 0.1, 0.3)
NO_DECAY = {"exclude_from_decay": "bias_and_normalization"}
OPTIMIZERS = {
    "Adam": (Adam, {}, ADAM_RATES),
    "AdamW": (AdamW, {"weight_decay": 0.1, **NO_DECAY}, ADAM_RATES),
    "SGD": (functools.partial(SGD, momentum=0.9), {}, SGD_RATES),
    "SGDW": (
        functools.partial(SGD, momentum=0.9),
        {"weight_decay": 0.003, **NO_DECAY},
        SGD_RATES,
    ),
}
LABELS = {
    "Adam": "Adam",
    "AdamW": "AdamW, decay 0.1",
    "SGD": "SGD, momentum 0.9",
    "SGDW": "SGD, momentum 0.9, decay 0.003",
}
PAIRS = {"without decay": ("SGD", "Adam"), "with decay": ("SGDW", "AdamW")}
COLORS = {"Adam": "tab:blue", "AdamW": "tab:cyan", "SGD": "tab:orange", "SGDW": "tab:red"}
MIRRORED = ("fashion_mnist", "cifar10")  # digits are others in a mirror

SIZES = {
    "quick": {
        "dataset": "digits",
        "width": 8,
        "epochs": 6,
        "batch_size": 32,
        "grid_images": 700,
        "held_out": 300,
        "seeds": 2,
    },
    "full": {
        "dataset": "cifar10",
        "width": 16,
        "epochs": 10,
        "batch_size": 128,
        "grid_images": 10_000,
        "held_out": 5_000,
        "seeds": 5,
    },
}


def train(job, folder, data, callbacks):
    """Train as a job says; return the errors and losses, in percent and nats.

    Args:
        job: the settings.
        folder: the job's own.
        data: training images and labels, then those that it is judged on after each epoch.
        callbacks: function of the folder: the callbacks of `fit`.
    """
    x, y, x_judged, y_judged = data
    keras.utils.set_random_seed(job["seed"])
    shift, mirror = x.shape[1] // 8, job["dataset"] in MIRRORED
    batches = AugmentedBatches(x, y, job["batch_size"], shift, mirror, job["seed"])
    steps = job["epochs"] * len(batches)
    optimizer, settings, _ = OPTIMIZERS[job["optimizer"]]
    schedule = WarmupCosine(job["rate"], steps, warmup_steps=max(1, steps // 20))
    model = build_model(x.shape[1:], job["width"])
    model.compile(
        optimizer(schedule, **settings),
        SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    history = model.fit(
        batches,
        epochs=job["epochs"],
        validation_data=(x_judged, y_judged),
        validation_batch_size=1000,
        shuffle=False,  # the batches are
        verbose=0,
        callbacks=callbacks(folder),
    ).history
    loss, accuracy = model.evaluate(x[:10_000], y[:10_000], batch_size=1000, verbose=0)
    errors = [round(100 * (1 - value), 3) for value in history["val_accuracy"]]
    return {
        "error": errors[-1],
        "training_error": round(100 * (1 - accuracy), 3),
        "training_loss": loss,
        "loss": history["val_loss"][-1],
        "error_by_epoch": errors,
    }


def search_rates(this_study, settings, data):
    """Return the held-out error, in percent, of each optimizer at each rate of its grid."""
    x, _, y, _ = data
    images, judged = settings["grid_images"], settings["held_out"]
    held_out = slice(images, images + judged)
    parts = x[:images], y[:images], x[held_out], y[held_out]
    return this_study.search_rates(
        {name: grid for name, (*_, grid) in OPTIMIZERS.items()},
        lambda name, rate: job_of(settings, name, rate, 0, images, f"{judged} held out"),
        lambda job, folder: train(job, folder, parts, this_study.callbacks),
        lambda result: result["error"],
    )


def job_of(settings, optimizer, rate, seed, images, judged):
    kept = {name: settings[name] for name in ("dataset", "width", "epochs", "batch_size")}
    kept |= {"optimizer": optimizer, "rate": rate, "seed": seed}
    return {**kept, "images": images, "judged": judged}


def result_table(rates, results, seconds):
    rows = []
    for name, trainings in results.items():
        test, training = (
            np.array([training[key] for training in trainings])
            for key in ("error", "training_error")
        )
        decay = OPTIMIZERS[name][1].get("weight_decay", 0)
        rows.append(
            [
                LABELS[name],
                f"{rates[name]:g}",
                f"{rates[name] * decay:g}" if decay else "-",
                study.mean_spread(test),
                study.mean_spread(training),
                study.mean_spread(test - training),
                study.mean_spread([training["loss"] for training in trainings], 3),
                f"{np.mean(seconds[name]):.0f}",
            ]
        )
    return study.table(
        [
            "Optimizer",
            "Rate",
            "Rate x decay",
            "Test error, %",
            "Training error, %",
            "Gap",
            "Test loss",
            "CPU seconds",
        ],
        rows,
    )


def difference_table(results):
    """Return the table of SGD's difference from Adam, seed by seed: below 0 SGD is ahead."""
    rows = []
    for label, (sgd, adam) in PAIRS.items():
        test, training = (
            [a[key] - b[key] for a, b in zip(results[sgd], results[adam], strict=True)]
            for key in ("error", "training_error")
        )
        p = study.paired_p(test)
        p = "-" if np.isnan(p) else f"{p:.2g}"
        rows.append([label, study.mean_spread(test), p, study.mean_spread(training)])
    header = ["Test error, points", "p, paired t test", "Training error, points"]
    return study.table(["SGD minus Adam", *header], rows)


def draw(results, dataset):
    """Return a figure: test error by epoch, and the errors on training and test images."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_epoch, at_end = figure.subplots(1, 2, width_ratios=(1, 1.1))
    for row, (name, trainings) in enumerate(results.items()):
        errors = np.array([training["error_by_epoch"] for training in trainings])
        epochs, mean = range(1, errors.shape[1] + 1), errors.mean(0)
        by_epoch.plot(epochs, mean, color=COLORS[name], label=LABELS[name])
        by_epoch.fill_between(
            epochs, errors.min(0), errors.max(0), color=COLORS[name], alpha=0.2, linewidth=0
        )
        training = [training["training_error"] for training in trainings]
        at_end.plot(
            [np.mean(training), mean[-1]], [row, row], color=COLORS[name], alpha=0.4, zorder=0
        )
        rows = [row] * len(trainings)
        at_end.scatter(
            training, rows, facecolor="white", edgecolor=COLORS[name], label="training images"
        )
        at_end.scatter(errors[:, -1], rows, color=COLORS[name], alpha=0.7, label="test images")
        if row == 0:
            at_end.legend(frameon=False, fontsize="small")
    by_epoch.set(
        xlabel="epoch", ylabel="test error, %", title=f"{dataset}: mean and range of seeds"
    )
    by_epoch.legend(frameon=False, fontsize="small")
    labels = [LABELS[name].replace(", decay", ",\ndecay") for name in results]
    at_end.set_yticks(range(len(results)), labels)
    at_end.set(xlabel="error, %", ylim=(len(results) - 0.5, -0.5), title="At the end, by seed")
    for ax in (by_epoch, at_end):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.2)
    return figure


def main(arguments=None):
    parser = study.parser(__doc__.splitlines()[0])
    parser.add_narrowing_argument("--dataset", choices=("digits", *image_data.SHAPES))
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder that holds DATASET.npz")
    options = parser.parse_args(arguments)
    settings = dict(SIZES["full" if options.full else "quick"])
    settings["dataset"] = options.dataset or settings["dataset"]
    if settings["dataset"] != "digits":
        study.check_memory(2.5 * options.processes)
    data = image_data.load_images(settings["dataset"], options.data_dir)
    images, needed = len(data[0]), settings["grid_images"] + settings["held_out"]
    if images < needed:
        raise SystemExit(
            f"--dataset must have {needed} training images or more: {settings['grid_images']} to "
            f"train on and {settings['held_out']} to choose the rates on. Received: {images}"
        )
    this_study = study.Study(__file__, options, arguments, version=2)
    errors = search_rates(this_study, settings, data)
    rates = {name: study.best_rate(by_rate) for name, by_rate in errors.items()}
    x, x_test, y, y_test = data
    jobs = {
        name: [
            job_of(settings, name, rate, seed + 1, images, "test images")
            for seed in range(settings["seeds"])
        ]
        for name, rate in rates.items()
    }
    results = this_study.run_named(
        jobs,
        lambda job, folder: train(job, folder, (x, y, x_test, y_test), this_study.callbacks),
    )
    seconds = {
        name: [this_study.record(job)["cpu_seconds"] for job in of_one]
        for name, of_one in jobs.items()
    }
    searched = {LABELS[name]: by_rate for name, by_rate in errors.items()}
    text = (
        f"{settings['dataset']}, {images:,} training images, {len(x_test):,} test images, "
        f"{settings['epochs']} epochs of batches of {settings['batch_size']}; mean ± standard "
        f"deviation of {settings['seeds']} seeds:\n\n{result_table(rates, results, seconds)}\n"
        f"The difference seed by seed; below 0 SGD is ahead:\n\n{difference_table(results)}\n"
        f"How the rates were chosen: {settings['grid_images']:,} training images, judged on "
        f"{settings['held_out']:,} others, one seed:\n\n"
        + study.rates_table(searched, "held-out error, %")
    )
    this_study.report(text, lambda: draw(results, settings["dataset"]))


if __name__ == "__main__":
    main()
