"""Schedules that are found in the first steps, on tasks of families that were never learnt from.

Run it with `python experiments/schedule_families.py`. It is `schedule_discovery` on cheap tasks,
autoencoders and models of the next character, which the package's meta-learner has not learnt from;
all trainings by Adam, in NumPy, but for the optimizers that need no rate. Every method computes the
same number of update steps, probes and range tests included. The oracle is the best of a grid of 30
schedules on the task, and a regret is how far the last training loss is behind the oracle's, as a
share of the fall from the first loss to the oracle's. It leaves a picture in
tb_logs/schedule_families.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_bp import LearningRateCurve
from keras_bp.optimizers import DoG, HypergradientAdam, Prodigy, ScheduleFreeAdamW
from keras_bp.schedules import CosineAnnealing, OneCycle
from keras_bp.tuning.discovery import discover

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # where tools/ lies
from tools import discovery  # noqa: E402
from tools.discovery import simulation  # noqa: E402

RATE = 1e-3  # Adam's own


def untuned(steps):
    """Return name -> rates of the schedules that take Adam's default rate for their peak."""
    return {
        "constant": RATE * discovery.shape(0.0, "constant", steps),
        "cosine": RATE * discovery.shape(0.0, "cosine", steps),
        "warm-up, linear": RATE * discovery.shape(0.1, "linear", steps),
    }


def self_tuning(steps):
    """Return name -> function that makes an optimizer that needs no rate."""
    return {
        "ScheduleFreeAdamW": ScheduleFreeAdamW,
        "Prodigy, cosine": lambda: Prodigy(CosineAnnealing(1.0, steps)),
        "DoG, averaged": lambda: DoG(use_ema=True),
        "HypergradientAdam": HypergradientAdam,
    }


def range_test(task, seed):
    """Do `find_learning_rate`'s sweep on a simulated training; return its curve."""
    steps = min(max(task.total_steps // 5, 20), 100)
    rates, losses, averages, average = np.geomspace(1e-7, 10.0, steps), [], [], 0.0
    weights, generator = task.weights[None].copy(), np.random.default_rng(seed)
    rule = simulation.Rule(task.optimizer, weights.shape)
    for rate in rates:
        loss, gradients = task.gradients(weights, generator)
        weights += rule.update(gradients, np.array([rate]))
        losses.append(float(loss[0]))
        average = 0.98 * average + 0.02 * losses[-1]
        averages.append(average / (1 - 0.98 ** len(losses)))
        if averages[-1] > 4 * min(averages):
            break
    count = len(losses)
    return LearningRateCurve(
        rates[:count], np.array(losses), np.array(averages), steps, "completed"
    )


def final_weights(task, seed, self_tuned):
    """Return {method: final weights}, the best of the grid and the first weights among them."""
    steps = task.total_steps
    grid = discovery.schedules(discovery.HAND_TUNED[task.optimizer], steps)
    weights = simulation.train(task, np.column_stack([grid, *untuned(steps).values()]), seed)
    best = simulation.final_losses(task, weights[:-3]).argmin()
    results = {"start": task.weights, "oracle": weights[best]}
    results |= dict(zip(untuned(steps), weights[-3:], strict=True))

    curve = range_test(task, seed)
    left = steps - len(curve.losses)
    rates = OneCycle(curve.suggest(), left)(np.arange(left)).numpy()
    (results["one-cycle, range test"],) = simulation.train(task, rates[:, None], seed)

    for name, make in self_tuning(steps).items() if self_tuned else ():
        optimizer, generator = make(), np.random.default_rng(seed)
        variable = tf.Variable(task.weights)
        for _ in range(steps):
            _, gradients = task.gradients(variable.numpy()[None], generator)
            optimizer.apply([tf.constant(gradients[0])], [variable])
        optimizer.finalize_variable_values([variable])
        results[name] = variable.numpy()

    probe, _ = simulation.probe(task, max(steps // 20, 20), seed)
    left = steps - len(probe.rows)
    rates = discover(probe, steps).schedule(left)(np.arange(left)).numpy()
    (results["DiscoveredSchedule"],) = simulation.train(task, rates[:, None], seed)
    return results


def regrets_of(task, seeds, self_tuned):
    """Return {method: regret}, of losses that are means over the seeds."""
    runs = [final_weights(task, seed, self_tuned) for seed in seeds]
    losses = {
        name: np.mean([simulation.final_losses(task, run[name][None]) for run in runs])
        for name in runs[0]
    }
    start, tuned = losses.pop("start"), losses.pop("oracle")
    found = np.array([run["DiscoveredSchedule"] for run in runs])
    outputs = task.network.forward(found, task.x)[-1]
    accuracy = np.mean(outputs.argmax(axis=-1) == task.y) if task.y.ndim == 1 else np.nan
    return {
        name: min((loss - tuned) / (start - tuned), 1) for name, loss in losses.items()
    }, accuracy


def draw(regrets, path):
    """Write a picture: the regrets of each method, one point per task."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    ax = figure.subplots()
    colors = dict(zip(discovery.HELD_OUT, ("tab:blue", "tab:orange"), strict=True))
    for family, of_methods in regrets.items():
        for row, values in enumerate(of_methods.values()):
            rows = np.full(len(values), row + (0.1 if family == "bigrams" else -0.1))
            label = family if row == 0 else None
            ax.scatter(100 * np.array(values), rows, color=colors[family], alpha=0.5, label=label)
    ax.axvline(5, color="gray", linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(of_methods)), of_methods)
    ax.set_xscale("symlog", linthresh=5)
    ticks = [-5, -2, 0, 2, 5, 10, 20, 50, 100]
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    ax.set(title="Families not learnt from, one point per task", xlabel="regret, %")
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.2, axis="x")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=4, help="tasks of each family")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each task")
    parser.add_argument(
        "--schedules-only", action="store_true", help="leave the optimizers that need no rate out"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        help="passes over a task's examples, for the steps that it comes with",
    )
    parser.add_argument(
        "--log-dir",
        type=pathlib.Path,
        default="tb_logs",
        help="where the folder `schedule_families` goes",
    )
    options = parser.parse_args(arguments)
    for name in ("tasks", "seeds", "epochs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1. Received: {value}")

    regrets, accuracies = {}, []
    for family in discovery.HELD_OUT:
        own = regrets[family] = {}
        # With other numbers than those on which the learner was tested when it was made.
        for number in range(1000, 1000 + options.tasks):
            task = discovery.make_task(family, number)
            task.optimizer = "adam"
            if options.epochs:
                task.total_steps = options.epochs * len(task.x) // task.batch_size
            of_methods, accuracy = regrets_of(
                task, range(1, options.seeds + 1), not options.schedules_only
            )
            accuracies.append(accuracy)
            for name, regret in of_methods.items():
                own.setdefault(name, []).append(regret)

    print(f"{options.tasks} tasks of each family, {options.seeds} seed(s), mean and median regret")
    print(f"{'':24}" + "".join(f"{family:>20}" for family in regrets) + f"{'above 5 %':>12}")
    for name in own:
        columns = [values[name] for values in regrets.values()]
        cells = "".join(f"{np.mean(c):11.2%} {np.median(c):8.2%}" for c in columns)
        print(f"{name:24}{cells}{np.mean(np.concatenate(columns) > 0.05):12.0%}")

    folder = options.log_dir / "schedule_families"
    folder.mkdir(parents=True, exist_ok=True)
    draw(regrets, folder / "regrets.png")
    print(f"\npicture: {folder / 'regrets.png'}")
    print(f"training accuracy: {np.nanmean(accuracies):.2%} of the next characters")


if __name__ == "__main__":
    main()
