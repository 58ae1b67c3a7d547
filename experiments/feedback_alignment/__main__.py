"""Convolutional networks trained without the transposed weights, by depth.

How well, and how fast, do feedback alignment and direct feedback alignment train convolutions, and
how does that change with depth? Networks of 3, 6 and 10 convolutions are trained by backpropagation
(BP), by sign-symmetric feedback (sign), by feedback alignment (FA) and by direct feedback alignment
(DFA), each at the best rate of a grid. As controls, random convolutions stay as they are, and the
output layer is trained alone (frozen), or by BP with the normalization's offsets and scales (norm).

Run it with `python experiments/feedback_alignment`, which is `--quick`, on scikit-learn's digits;
`--full --data-dir DIR` reads DIR/cifar10.npz. It leaves tables and a picture in
tb_logs/feedback_alignment. An interrupted run resumes when the same command is given again.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for what the experiments share
import study

# isort: split
import augmentation
import image_data
import networks
import numpy as np
from matplotlib.figure import Figure

from keras_bp.feedback import alignment
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import Adam
from keras_bp.schedules import CosineAnnealing

RULES = tuple(networks.LAYERS)
# `budgets` are (training images, epochs) of further trainings of the smallest network by BP: on the
# images as they are, and on images shifted by up to `shift` pixels, and mirrored if that is over 1.
SIZES = {
    "quick": {
        "data": "digits",
        "channels": (8, 16, 32),
        "depths": (3, 6),
        "rates": (0.01, 0.03),
        "grid": {"images": 600, "epochs": 3, "held_out": 400},
        "images": 1400,
        "epochs": 8,
        "seeds": 1,
        "batch_size": 64,
        "budgets": ((1400, 12),),
        "shift": 1,
        "budget_seeds": 1,
        "targets": (0.5, 0.9),
        "gigabytes": 0.8,
    },
    "full": {
        "data": "cifar10",
        "channels": (16, 32, 64),
        "depths": (3, 6, 10),
        "rates": (0.001, 0.003, 0.01),
        "grid": {"images": 10_000, "epochs": 2, "held_out": 2_500},
        "images": 20_000,
        "epochs": 5,
        "seeds": 3,
        "batch_size": 64,
        "budgets": ((50_000, 4), (50_000, 8), (50_000, 16)),
        "shift": 4,
        "budget_seeds": 2,
        "targets": (0.4, 0.5),
        "gigabytes": 5.0,
    },
}
BIOTORCH = 14.2  # test error of its LeNet by BP, %, after 250 epochs of 50,000 images
COLORS = {
    "BP": "black",
    "sign": "tab:green",
    "FA": "tab:orange",
    "DFA": "tab:blue",
    "frozen": "tab:purple",
    "norm": "tab:pink",
}


def epochs_to(accuracy, curve):
    """Return after how many epochs a training reaches an accuracy; NaN if it does not.

    Between the ends of two epochs the accuracy is taken to change linearly, from 10 % at the start.

    Args:
        accuracy: number, 0 to 1.
        curve: the accuracy after each epoch.
    """
    return study.first_crossing(accuracy, [0.1, *curve])


def train(job, data, callbacks):
    """Train a network; return its accuracy after each epoch and, of final ones, the angles."""
    x, x_test, y, y_test = data
    images = job["images"]
    if job["held_out"]:
        x_test, y_test = (part[images : images + job["held_out"]] for part in (x, y))
    x, y = x[:images], y[:images]
    batches = {"x": x, "y": y, "batch_size": job["batch_size"]}
    if shift := job.get("shift", 0):
        mirror = shift > 1  # most mirrored digits are not digits
        batches = augmentation.AugmentedBatches(
            **batches, shift=shift, mirror=mirror, seed=job["seed"]
        )
        batches = {"x": batches, "shuffle": False}
    model = networks.build(job["rule"], job["depth"], x.shape[1:], job["channels"], job["seed"])
    steps = job["epochs"] * -(-images // job["batch_size"])
    model.compile(
        Adam(CosineAnnealing(job["rate"], steps)),
        SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        **batches,
        epochs=job["epochs"],
        validation_data=(x_test, y_test),
        validation_batch_size=1000,
        callbacks=callbacks,
        verbose=0,
    )
    curve = [round(float(accuracy), 4) for accuracy in history.history["val_accuracy"]]
    result = {"accuracy": curve[-1], "curve": curve}
    if not job["held_out"]:
        layers = alignment(model, x[:512], y[:512])
        result["angles"] = [
            round(layer.angle, 1) for name, layer in layers.items() if name.startswith("conv")
        ]
    return result


def study_jobs(this, size, train_job):
    """Run the grids and the trainings at the rates that they find.

    Returns:
        The held-out error of each (depth, rule) by rate; the results of its seeds; and those of
        BP's budgets, by (training images, epochs), the smallest network's among them: of images as
        they are, and of augmented ones, none for the smallest.
    """
    common = {key: size[key] for key in ("data", "channels", "batch_size")}
    kinds = [(depth, rule) for depth in size["depths"] for rule in RULES]

    def job_of(kind, rate, settings):
        depth, rule = kind
        return {**common, "depth": depth, "rule": rule, "rate": rate, **settings}

    searched = this.search_rates(
        dict.fromkeys(kinds, size["rates"]),
        lambda kind, rate: job_of(kind, rate, {**size["grid"], "seed": 0}),
        train_job,
        error,
    )

    def final(kind, images, epochs, seeds, **shift):
        rate = study.best_rate(searched[kind])
        settings = {"images": images, "epochs": epochs, "held_out": 0, **shift}
        return [job_of(kind, rate, {**settings, "seed": seed + 1}) for seed in range(seeds)]

    smallest = size["images"], size["epochs"]
    jobs = {kind: final(kind, *smallest, size["seeds"]) for kind in kinds}
    for name, shift in (("plain", {}), ("augmented", {"shift": size["shift"]})):
        for budget in size["budgets"]:
            jobs[name, budget] = final(kinds[0], *budget, size["budget_seeds"], **shift)
    results = this.run_named(jobs, train_job)
    finals = {kind: results[kind] for kind in kinds}
    longer = {smallest: (results[kinds[0]], [])}
    for budget in size["budgets"]:
        longer[budget] = results["plain", budget], results["augmented", budget]
    return searched, finals, longer


def error(result):
    return 100 * (1 - result["accuracy"])


def errors(results):
    return [error(result) for result in results]


def tables(size, searched, finals, longer):
    """Return the tables of depths and rules, of BP's error by budget, and of the rates."""
    targets = size["targets"]
    rows = []
    for (depth, rule), results in finals.items():
        reached = [[epochs_to(target, r["curve"]) for r in results] for target in targets]
        ahead = np.subtract(errors(finals[depth, "norm"]), errors(results))  # seed by seed
        angles = np.transpose([result["angles"] for result in results])  # by convolution
        rows.append(
            [depth, rule, study.best_rate(searched[depth, rule])]
            + [study.mean_spread(errors(results))]
            + ["-" if rule == "norm" else study.mean_spread(ahead, 1)]
            + ["-" if np.isnan(e).any() else study.mean_spread(e, 1) for e in reached]
            + [study.mean_spread(angles[place], 0) if len(angles) else "-" for place in (0, -1)]
        )
    by_rule = study.table(
        ["Convolutions", "Rule", "Rate", "Test error, %", "Ahead of norm, points"]
        + [f"Epochs to {target:.0%}" for target in targets]
        + ["Angle, first", "last"],
        rows,
    )
    rows = [
        [f"{images:,}", epochs, f"{images * epochs:,}", len(plain)]
        + [study.mean_spread(errors(each)) if each else "-" for each in (plain, augmented)]
        for (images, epochs), (plain, augmented) in longer.items()
    ]
    header = ["Training images", "Epochs", "Images seen", "Seeds", "BP's test error, %"]
    header.append("shifted and mirrored" if size["shift"] > 1 else "shifted")
    by_rate = study.table(
        ["Rule", *(f"{depth} convolutions" for depth in size["depths"])],
        [
            [rule, *(study.rates_cell(searched[depth, rule]) for depth in size["depths"])]
            for rule in RULES
        ],
    )
    grid = size["grid"]
    return (
        f"{by_rule}\nThe network of {size['depths'][0]} convolutions:\n\n"
        f"{study.table(header, rows)}\nHow the rates were chosen: "
        f"{grid['images']:,} training images, {grid['epochs']} epochs, judged on "
        f"{grid['held_out']:,} others, one seed; each rate with its held-out error, %:\n\n{by_rate}"
    )


def draw(size, finals, longer):
    """Return a figure: errors by depth, by epoch, by budget, and angles by layer."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    (by_depth, by_epoch), (angles, by_budget) = figure.subplots(2, 2)
    depths, deepest = size["depths"], size["depths"][-1]
    for rule in RULES:
        color = COLORS[rule]
        last = [errors(finals[depth, rule]) for depth in depths]
        spread = [np.std(values, ddof=1) if len(values) > 1 else 0 for values in last]
        means = np.mean(last, axis=1)
        by_depth.errorbar(depths, means, spread, fmt="o-", capsize=3, color=color, label=rule)
        runs = finals[deepest, rule]
        curves = 100 * (1 - np.mean([run["curve"] for run in runs], axis=0))
        by_epoch.plot(np.arange(len(curves)) + 1, curves, "o-", color=color)
        means = np.mean([run["angles"] for run in runs], axis=0)
        angles.plot(np.arange(len(means)) + 1, means, "o-", color=color)
    seen = [images * epochs for images, epochs in longer]
    for place, style in enumerate(("o-", "o--")):
        curve = [
            np.mean(errors(each[place])) if each[place] else np.nan for each in longer.values()
        ]
        label = ("as they are", "augmented")[place]
        by_budget.plot(seen, curve, style, color="black", label=label)
    by_budget.legend(frameon=False, title="images")
    if size["data"] == "cifar10":
        by_budget.plot(250 * 50_000, BIOTORCH, "*", markersize=12, color="gray")
        by_budget.annotate(
            "BioTorch's LeNet",
            (250 * 50_000, BIOTORCH),
            (-6, 8),
            textcoords="offset points",
            ha="right",
        )
        seen.append(250 * 50_000)
    by_budget.set_xscale("log")
    by_budget.set_xticks(seen, [f"{number / 1000:,.0f}" for number in seen])
    by_budget.minorticks_off()
    by_depth.set_xticks(depths)
    by_depth.set(xlabel="convolutions", ylabel="test error, %", title=f"{size['data']}, by depth")
    by_epoch.set_xticks(np.arange(size["epochs"]) + 1)
    by_epoch.set(xlabel="epoch", ylabel="test error, %", title=f"{deepest} convolutions")
    angles.axhline(90, color="gray", linestyle=":")
    angles.set(xlabel="convolution", ylabel="degrees", title="angle to the true gradient")
    by_budget.set(
        xlabel="thousands of training images seen",
        ylabel="test error, %",
        title=f"BP, {depths[0]} convolutions, by budget",
    )
    figure.legend(*by_depth.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def main(arguments=None):
    parser = study.parser(__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder of cifar10.npz, for --full")
    options = parser.parse_args(arguments)
    size = SIZES["full" if options.full else "quick"]
    study.check_memory(size["gigabytes"] * options.processes)
    data = image_data.load_images(size["data"], options.data_dir)
    this = study.Study(__file__, options, arguments, version=2)
    found = study_jobs(this, size, lambda job, folder: train(job, data, this.callbacks(folder)))
    this.report(tables(size, *found), lambda: draw(size, *found[1:]))


if __name__ == "__main__":
    main()
