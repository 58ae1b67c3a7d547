"""Every optimizer and option on small tasks, each of which breaks some: solved or not, how soon.

Run it with `python experiments/optimizer_trials.py`. Each optimizer gets the same number of rates,
seeds and update steps on each task, and the warm-up and the schedule that its users take. A task is
solved at the first step, of 20 at which it is looked, where its figure is at the target. A result
is appended to a file as soon as it is there: a run that was stopped, or that was given a `--budget`
of seconds, continues when it is started again, and `--report` prints the tables of what there is.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import sys
import time
import typing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))  # where the tasks lie
from _optimizer_tasks import ERRORS, TASKS  # noqa: E402

from keras_bp import optimizers, suggest_optimizer  # noqa: E402
from keras_bp.schedules import CosineAnnealing, Warmup  # noqa: E402

EPOCHS, RATES, SEEDS = 20, 6, 1
SUGGESTED = "suggest_optimizer"


class Entry(typing.NamedTuple):
    """An optimizer as it is tried.

    Attributes:
        make: the class, or `None` for what `suggest_optimizer` returns, whose rate stays as it is.
        rate: its least rate; the five others lie a factor of sqrt(10) apart.
        schedule: "cosine" (after a warm-up), "warm-up" (then constant) or "constant".
        options: dictionary, other arguments.
        only: names of the tasks on which it is tried, or `None` for all.
    """

    make: typing.Callable | None
    rate: float
    schedule: str = "cosine"
    options: dict = {}
    only: tuple | None = None

    def rates(self):
        """Return the rates at which it is tried."""
        count = RATES if self.make else 1
        return [float(f"{self.rate * 10 ** (i / 2):.1e}") for i in range(count)]


# name -> least rate, schedule, arguments, tasks.
RULES = {
    "SGD": (0.01,),
    "Momentum": (0.1,),
    "Nesterov": (0.01,),
    "RMSprop": (1e-3,),
    "Adam": (1e-3,),
    "AdamW": (1e-3,),
    # Without sparse gradients these two are Adam.
    "LazyAdam": (1e-3, "cosine", {}, ("embedding",)),
    "DeferredAdam": (1e-3, "cosine", {}, ("embedding",)),
    "Lamb": (3e-3,),
    "HypergradientAdam": (1e-3, "constant"),
    "Prodigy": (0.1,),
    "DoG": (0.1, "constant", {"use_ema": True}),
    "ScheduleFreeAdamW": (1e-3, "warm-up"),
    "ScheduleFreeRAdam": (1e-3, "constant"),
    "ScheduleFreeSGD": (0.1, "warm-up"),
    "Lion": (3e-4,),
    "Nadam": (1e-3,),
    "Adagrad": (0.01, "constant"),
    "Adadelta": (0.3, "constant"),
    "Adamax": (1e-3,),
    "Adafactor": (3e-3,),
    "Ftrl": (0.01, "constant"),
    "Muon": (1e-3,),
}
BASES = {
    "AdamW": (optimizers.AdamW, 1e-3, "cosine", {}),
    "SGD, momentum": (optimizers.SGD, 0.01, "cosine", {"momentum": 0.9}),
}
OPTIONS = {
    "global_clipnorm": {"global_clipnorm": 1.0},
    "cautious": {"cautious": True},
    "adaptive_clip": {"adaptive_clip": 0.01},
    "update_clip": {"update_clip": 1.0},
    "clip_above_zscore": {"clip_above_zscore": 2.5},
    "skip_above_zscore": {"skip_above_zscore": 6.0},
    "use_ema": {"use_ema": True},
    "swa_start": {"swa_start": None},  # half of the steps
    "lookahead": {"lookahead_steps": 5},
}


def entries():
    """Return name -> `Entry` of all that is tried."""
    classes = {name: getattr(optimizers, name) for name in optimizers.__all__}
    found = {
        name: Entry(rule, *RULES[name])
        for name, rule in classes.items()
        if isinstance(rule, type) and issubclass(rule, optimizers.Optimizer)
        if rule is not optimizers.Optimizer
    }
    for base, (make, rate, schedule, arguments) in BASES.items():
        found.setdefault(base, Entry(make, rate, schedule, arguments))
        for option, added in OPTIONS.items():
            found[f"{base}, {option}"] = Entry(make, rate, schedule, arguments | added)
    # For comparison, Keras's own two.
    found["Keras's AdamW"] = Entry(keras.optimizers.AdamW, 1e-3)
    found["Keras's SGD, momentum"] = Entry(keras.optimizers.SGD, 0.01, options={"momentum": 0.9})
    models = tuple(name for name, task in TASKS.items() if task.figure == ERRORS)
    found[SUGGESTED] = Entry(None, 1.0, only=models)
    return found


def shape(kind, steps):
    """Return the schedule with a largest rate of 1."""
    warmup = max(steps // 20, 1)
    after = CosineAnnealing(1.0, steps - warmup) if kind == "cosine" else 1.0
    return (lambda step: 1.0) if kind == "constant" else Warmup(after, warmup, 1 / (warmup + 1))


class Trainer:
    """A task with an optimizer, traced once for all rates and seeds.

    Raises:
        ValueError: if the optimizer refuses the task's variables.
    """

    def __init__(self, task, entry, epochs):
        self.task, self.epochs = task, epochs
        self.problem = task.make()
        steps = epochs * task.steps
        self.rate = tf.Variable(0.0)
        if entry.make is None:
            self.optimizer = self.suggested(steps)
        else:
            schedule, options = shape(entry.schedule, steps), dict(entry.options)
            if "swa_start" in options:
                options["swa_start"] = steps // 2
            self.optimizer = entry.make(
                lambda: self.rate * schedule(self.optimizer.iterations), **options
            )
        variables = self.problem.variables
        self.optimizer.build(variables)
        model = self.problem.model
        everything = [*(model.variables if model else variables), *self.optimizer.variables]
        state = list({id(variable): variable for variable in everything}.values())
        name = type(self.optimizer).__name__
        self.averages = self.optimizer.use_ema or name.startswith("ScheduleFree")

        # Without autograph, which would have to find this code's file.
        function = functools.partial(tf.function, autograph=False)

        @function
        def train(seed, first):
            def step(number, _):
                with tf.GradientTape() as tape:
                    loss = self.problem.loss(seed, number)
                self.optimizer.apply(tape.gradient(loss, variables), variables)
                return number + 1, loss

            end = first + task.steps
            return tf.while_loop(lambda number, _: number < end, step, (first, 0.0))[1]

        self.train = train
        self.measure = function(self.problem.measure)
        self.read = function(lambda: [tf.identity(variable) for variable in state])

        @function
        def write(values):
            for variable, value in zip(state, values, strict=True):
                variable.assign(value)

        self.write = write
        self.start, self.initial = self.read(), {}

    def suggested(self, steps):
        """Return the suggested optimizer, for so many steps on the task's examples."""
        task = self.task
        # Of a task that draws its examples anew each is met once.
        examples = task.examples or steps * task.batch
        epochs = max(round(steps * task.batch / examples), 1)
        return suggest_optimizer(
            self.problem.model, examples=examples, epochs=epochs, batch_size=task.batch
        ).optimizer

    def run(self, rate, seed):
        """Train once; return (steps to the target or None, best figure, whether it diverged)."""
        self.write(self.start)
        if seed not in self.initial:
            self.initial[seed] = self.problem.initial(seed)
        for variable, value in zip(self.problem.variables, self.initial[seed], strict=True):
            variable.assign(value)
        self.rate.assign(rate)
        best = math.inf
        for epoch in range(1, self.epochs + 1):
            steps = epoch * self.task.steps
            loss = float(self.train(tf.constant(seed), tf.constant(steps - self.task.steps)))
            figure = self.figure()
            if not math.isfinite(loss + figure):
                return None, best, True
            best = min(best, figure)
            if figure <= self.task.target:
                return steps, best, False
        return None, best, False

    def figure(self):
        """Measure; at the average, where the optimizer makes one, and come back."""
        if not self.averages:
            return float(self.measure())
        self.optimizer.use_average_weights()
        figure = float(self.measure())
        self.optimizer.use_training_weights()
        return figure


def tried(task_name, name, entry, options):
    """Return the result of an optimizer on a task: what goes into the file."""
    task, start = TASKS[task_name], time.process_time()
    result = {"task": task_name, "optimizer": name, "epochs": options.epochs}
    result |= {"seeds": options.seeds, "rates": entry.rates()}
    if entry.only and task_name not in entry.only:
        return result | {"left out": True}
    try:
        trainer = Trainer(task, entry, options.epochs)
        runs = [[trainer.run(r, s) for s in range(options.seeds)] for r in entry.rates()]
    except ValueError as error:
        return result | {"left out": str(error)}
    columns = ("reached", "best", "diverged")
    result["class"] = type(trainer.optimizer).__name__
    result["seconds"] = round(time.process_time() - start, 2)
    return result | {
        column: [[run[i] for run in of_rate] for of_rate in runs]
        for i, column in enumerate(columns)
    }


def load(path):
    """Return the results that a file holds; of a line that was cut off, none."""
    results = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return results


class Row(typing.NamedTuple):
    """An optimizer on a task, at its best rate.

    Attributes:
        rate: the rate.
        edge: whether it is the least or the largest that was tried.
        steps: list, the steps to the target of the seeds that reached it.
        seeds: how many there were.
        best: the best figure, the median over the seeds.
        solving: at how many of the rates all seeds reached the target.
        diverged: the share of all trainings that diverged.
    """

    rate: float
    edge: bool
    steps: list
    seeds: int
    best: float
    solving: int
    diverged: float

    @classmethod
    def of(cls, result):
        """Return the row of a result: the best of its rates."""
        seeds, rows = result["seeds"], []
        diverged = np.mean(result["diverged"])
        reached = [[steps for steps in runs if steps is not None] for runs in result["reached"]]
        solving = sum(len(steps) == seeds for steps in reached)
        for rate, steps, best in zip(result["rates"], reached, result["best"], strict=True):
            edge = rate in (result["rates"][0], result["rates"][-1])
            rows.append(cls(rate, edge, steps, seeds, float(np.median(best)), solving, diverged))
        return min(rows, key=lambda row: (-len(row.steps), row.median, row.best))

    @property
    def solved(self):
        """Whether all seeds reached the target."""
        return len(self.steps) == self.seeds

    @property
    def median(self):
        """The median of the steps, of the seeds that reached the target."""
        return float(np.median(self.steps)) if self.steps else math.inf

    @property
    def to_all(self):
        """The median of the steps if all seeds reached the target, else infinite."""
        return self.median if self.solved else math.inf

    def rates(self):
        """Write the rate, and at how many rates it is solved."""
        return f"{self.rate:g}{'*' if self.edge else ''} ({self.solving})"

    def __str__(self):
        if self.solved:
            return f"{self.median:.0f} ({min(self.steps)}–{max(self.steps)})"
        if self.steps:
            return f"{len(self.steps)} of {self.seeds}"
        return "NaN" if self.diverged == 1 else f"no: {self.best:.2g}"


def read_rows(results):
    """Return {optimizer: {task: `Row`}}, those first that solve the most, and in fewer steps."""
    rows = {}
    order = list(TASKS)
    for result in sorted(results, key=lambda result: order.index(result["task"])):
        if "left out" not in result:
            rows.setdefault(result["optimizer"], {})[result["task"]] = Row.of(result)
    fewest = {
        task: min((of[task].to_all for of in rows.values() if task in of), default=math.inf)
        for task in TASKS
    }

    def rank(name):
        solved = [task for task, row in rows[name].items() if row.solved]
        slower = [math.log(rows[name][task].median / fewest[task]) for task in solved]
        return -len(solved), np.mean(slower) if slower else 0.0

    return {name: rows[name] for name in sorted(rows, key=rank)}


def table(rows, cell, last, title="Optimizer"):
    """Print a table of Markdown: a row per optimizer, a column per task."""
    tasks = [task for task in TASKS if any(task in of_tasks for of_tasks in rows.values())]
    print(f"| {title} | {' | '.join(tasks)} | {last} |")
    print("|---" * (len(tasks) + 2) + "|")
    for name, of_tasks in rows.items():
        cells = [cell(of_tasks[task]) if task in of_tasks else "" for task in tasks]
        yield name, cells, list(of_tasks.values())


def report(results):
    """Print the tables."""
    rows = read_rows(results)
    untuned = rows.pop(SUGGESTED, {})
    classes = {
        r["task"]: r["class"] for r in results if r["optimizer"] == SUGGESTED and "class" in r
    }
    print("Update steps to the target at the best rate: median (least–most) of the seeds.\n")
    for name, cells, all_of in table(rows, str, "solved"):
        print(
            f"| {name} | {' | '.join(cells)} | {sum(r.solved for r in all_of)} of {len(all_of)} |"
        )
    print("\nThe best rate, with a star if the least or the largest of those tried (at how many of")
    print("the rates all seeds reach the target), and the share of all trainings that diverged.\n")
    for name, cells, all_of in table(rows, Row.rates, "diverged"):
        print(f"| {name} | {' | '.join(cells)} | {np.mean([r.diverged for r in all_of]):.0%} |")
    if untuned:
        print("\nThe suggested optimizer, untuned, beside the tuned ones.\n")
        print("| Task | suggested | steps | best | median of the field |\n|---|---|---|---|---|")
        for task, row in untuned.items():
            field = {name: of[task] for name, of in rows.items() if task in of}
            best = min(field, key=lambda name: field[name].to_all)
            middle = np.median([row.to_all for row in field.values()])
            middle = f"{middle:.0f}" if middle < math.inf else "not solved"
            print(f"| {task} | {classes[task]} | {row} | {best}: {field[best]} | {middle} |")
    return rows


def draw(rows, path):
    """Write a picture: how many steps each optimizer took on each task, of those that it had."""
    tasks = [task for task in TASKS if any(task in of_tasks for of_tasks in rows.values())]
    shares = np.full((len(rows), len(tasks)), np.nan)
    figure = Figure(figsize=(2.6 + 0.5 * len(tasks), 1.6 + 0.2 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for i, of_tasks in enumerate(rows.values()):
        for j, task in enumerate(tasks):
            if task in of_tasks and of_tasks[task].solved:
                shares[i, j] = of_tasks[task].median / (EPOCHS * TASKS[task].steps)
            else:
                text = f"{len(of_tasks[task].steps)}" if task in of_tasks else "·"
                ax.text(j, i, text, ha="center", va="center", fontsize=7, color="gray")
    image = ax.imshow(shares, cmap="viridis_r", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=7)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=ax, format=PercentFormatter(1), shrink=0.5)
    bar.set_label("steps to the target, of those allowed")
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    names = list(entries())
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="times a training is looked at")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings at each rate")
    parser.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        help="seconds after which it stops, to go on later",
    )
    parser.add_argument("--report", action="store_true", help="only print the tables of the file")
    parser.add_argument(
        "--log-dir",
        type=pathlib.Path,
        default="tb_logs",
        help="where the folder `optimizer_trials` goes, with the file of results",
    )
    options = parser.parse_args(arguments)
    for name in ("epochs", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1. Received: {getattr(options, name)}")

    folder = options.log_dir / "optimizer_trials"
    folder.mkdir(parents=True, exist_ok=True)
    path, start = folder / "results.jsonl", time.monotonic()
    done = {(r["task"], r["optimizer"], r["epochs"], r["seeds"]) for r in load(path)}
    for task in () if options.report else options.tasks:
        for name in options.optimizers:
            if (task, name, options.epochs, options.seeds) in done:
                continue
            if time.monotonic() - start > options.budget:
                print("the budget is used up; start it again to go on")
                return
            with path.open("a") as file:
                file.write(json.dumps(tried(task, name, entries()[name], options)) + "\n")
    results = [
        result
        for result in load(path)
        if (result["epochs"], result["seeds"]) == (options.epochs, options.seeds)
        if result["task"] in options.tasks and result["optimizer"] in options.optimizers
    ]
    rows = report(results)
    draw(rows, folder / "trials.png")
    print(f"\npicture: {folder / 'trials.png'}")
    errors = [
        row.best
        for of_tasks in rows.values()
        for task, row in of_tasks.items()
        if TASKS[task].figure == ERRORS
    ]
    if errors:
        print(f"test accuracy: {1 - min(errors):.2%}, the best of the classifiers")


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")  # it warns of many functions with one name
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    main()
