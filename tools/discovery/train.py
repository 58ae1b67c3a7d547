"""Makes the coefficients that the package comes with: python -m tools.discovery.train.

On tasks of each family it makes a probe, and trains all schedules side by side, from the probe's
reference rate. Each learner is judged by the regret of what it chooses for a family that it has not
learnt from; the best one learns from all families but the held-out ones, on which it is judged
last. The seeds are fixed: the same machine makes the same numbers again.
"""

import argparse
import pathlib
import typing

import keras
import numpy as np

from keras_bp.tuning import discovery
from keras_bp.tuning.discovery import PEAKS, features, reference_rate
from tools.discovery import simulation
from tools.discovery.learners import LEARNERS, Apprentice
from tools.discovery.tasks import FAMILIES, HELD_OUT, make_task


class Lessons(typing.NamedTuple):
    """What is learnt from tasks of one family.

    Attributes:
        features: (tasks, features).
        regrets: (tasks, peaks, shapes), at most 1.
    """

    features: np.ndarray
    regrets: np.ndarray


def probe_steps(total_steps):
    """Return the most steps of a probe, a twentieth of all and 20 at least."""
    return max(total_steps // 20, 20)


def learn_task(family, number):
    """Return the features and regrets of one task, or None where its probe has a fault."""
    task = make_task(family, number)
    probe, _ = simulation.probe(task, probe_steps(task.total_steps), [number, 1])
    if probe.fault is not None:
        return None
    steps = task.total_steps - len(probe.rows)
    rates = simulation.schedules(reference_rate(probe) * PEAKS, steps)
    weights = simulation.train(task, rates, [number, 2])
    losses = simulation.final_losses(task, weights).reshape(len(PEAKS), -1)
    start, best = simulation.final_losses(task, task.weights[None])[0], losses.min()
    regrets = np.clip((losses - best) / (start - best), 0.0, 1.0)
    return features(probe, task.total_steps), regrets


def learn(family, tasks):
    """Return the `Lessons` of a family's first tasks."""
    learnt, bar = [], keras.utils.Progbar(tasks, unit_name="task")
    for number in range(tasks):
        learnt.append(learn_task(family, number))
        bar.add(1)
    learnt = [lesson for lesson in learnt if lesson is not None]
    return Lessons(*map(np.array, zip(*learnt, strict=True)))


def regrets_of(learner, lessons):
    """Return the regret of what a `MetaLearner` chooses in each task."""
    expected = learner.regrets(lessons.features).reshape(len(lessons.features), -1)
    chosen = expected.argmin(axis=1)
    return lessons.regrets.reshape(len(expected), -1)[np.arange(len(expected)), chosen]


def fit(name, lessons):
    """Return an `Apprentice` that has learnt from a list of `Lessons`."""
    return Apprentice(name).fit(*map(np.concatenate, zip(*lessons, strict=True)))


def leave_one_out(name, lessons):
    """Return {family: mean regret} of a learner that knows all families but this one."""
    regrets = {}
    for family, own in lessons.items():
        others = [lesson for other, lesson in lessons.items() if other != family]
        regrets[family] = regrets_of(fit(name, others), own).mean()
    return regrets


def main(arguments=None):
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=80, help="tasks of each family")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path(discovery.__file__).parent / "coefficients.npz",
        help="the file to write",
    )
    options = parser.parse_args(arguments)
    if options.tasks < 2:
        parser.error(f"--tasks must be at least 2. Received: {options.tasks}")

    lessons = {}
    for family in FAMILIES:
        lessons[family] = learn(family, options.tasks)
        print(f"{family}: {len(lessons[family].features)} of {options.tasks} tasks", flush=True)
    known = {family: lesson for family, lesson in lessons.items() if family not in HELD_OUT}

    print(
        f"\nmean regret, the family left out{'':4}" + "".join(f"{f:>12}" for f in [*known, "mean"])
    )
    means = {}
    for name in LEARNERS:
        regrets = leave_one_out(name, known)
        means[name] = np.mean(list(regrets.values()))
        print(f"{name:36}" + "".join(f"{r:12.2%}" for r in [*regrets.values(), means[name]]))
    best = min(means, key=means.get)
    learner = fit(best, known.values())
    learner.save(options.output)
    for family in HELD_OUT:
        regrets = regrets_of(learner, lessons[family])
        print(
            f"{best}, held-out {family}: mean regret {regrets.mean():.2%}, median "
            f"{np.median(regrets):.2%}, {np.mean(regrets > 0.05):.0%} of the tasks above 5%"
        )
    print(f"written: {options.output.name}, {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
