"""The methods on cheap tasks, in NumPy, of families that the meta-learner has not learnt from."""

import numpy as np
import problems
import tensorflow as tf

from keras_bp import LearningRateCurve
from keras_bp.schedules import OneCycle
from keras_bp.tuning.discovery import discover
from tools import discovery
from tools.discovery import simulation

FIRST = 1000  # the numbers before were used when the learner was made


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


def self_tuned(task, make, seed):
    """Return the weights that an optimizer without a rate ends with."""
    optimizer, generator = make(task.total_steps), np.random.default_rng(seed)
    variable = tf.Variable(task.weights)
    for _ in range(task.total_steps):
        _, gradients = task.gradients(variable.numpy()[None], generator)
        optimizer.apply([tf.constant(gradients[0])], [variable])
    optimizer.finalize_variable_values([variable])
    return variable.numpy()


def train(task, methods, seed):
    """Return {name: final training loss} of methods, of the grid's best, and of the first weights.

    Args:
        task: a `tools.discovery` task.
        methods: names of `problems.METHODS`.
        seed: integer, of the batches.
    """
    steps = task.total_steps

    def by(schedule, left):
        rates = schedule(np.arange(left)).numpy()
        return simulation.train(task, rates[:, None], seed)[0]

    grid = discovery.schedules(discovery.HAND_TUNED[task.optimizer], steps)
    losses = simulation.final_losses(task, simulation.train(task, grid, seed))
    results = {"start": task.weights}
    for name in methods:
        if name in problems.UNTUNED:
            rates = problems.RATE * discovery.shape(*problems.UNTUNED[name], steps)
            (results[name],) = simulation.train(task, rates[:, None], seed)
        elif name in problems.SELF_TUNING:
            results[name] = self_tuned(task, problems.SELF_TUNING[name], seed)
        elif name == problems.RANGE_TEST:
            curve = range_test(task, seed)
            left = steps - len(curve.losses)
            results[name] = by(OneCycle(curve.suggest(), left), left)
        else:
            probe, _ = simulation.probe(task, max(steps // 20, 20), seed)
            left = steps - len(probe.rows)
            results[name] = by(discover(probe, steps).schedule(left), left)
    final = simulation.final_losses(task, np.stack(list(results.values())))
    return {"oracle": float(losses.min())} | dict(zip(results, map(float, final), strict=True))


def run(job, folder):
    """Train a task by the methods of a job; a job is a family, a number and a seed."""
    task = discovery.make_task(job["family"], FIRST + job["task"])
    task.optimizer = "adam"
    task.total_steps = job["steps"] or task.total_steps
    return train(task, job["methods"], job["seed"])


def regrets(jobs, results):
    """Return {method: regrets of the tasks in percent}, of the methods that all jobs have.

    A task's losses are means over its seeds; a regret is at most 100 %.
    """
    tasks = {}
    for job, result in zip(jobs, results, strict=True):
        tasks.setdefault(job["task"], []).append(result)
    names = [name for name in results[0] if all(name in result for result in results)]
    found = {name: [] for name in names if name not in ("start", "oracle")}
    for of_seeds in tasks.values():
        loss = {name: np.mean([result[name] for result in of_seeds]) for name in names}
        fall = loss["start"] - loss["oracle"]
        for name, values in found.items():
            values.append(100 * min((loss[name] - loss["oracle"]) / fall, 1.0))
    return {name: np.array(values) for name, values in found.items()}
