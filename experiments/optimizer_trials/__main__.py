"""Every optimizer and option on small tasks, each of which breaks some: solved or not, how soon.

Run it with `python experiments/optimizer_trials`, which is `--quick`: some optimizers on three
tasks, one seed. `--full` tries all on 13 tasks, in three seeds. Each optimizer gets the same number
of rates, seeds and update steps on each task, and the warm-up and the schedule that its users take.
A task is solved at the first step, of 20 at which it is looked, where its figure is at the target.
It leaves the tables and a picture in tb_logs/optimizer_trials.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for what the experiments share
import study

# isort: split
import functools
import math
import typing

import keras
import tensorflow as tf
from tables import SUGGESTED, draw, report
from tasks import ERRORS, TASKS

from keras_bp import optimizers, suggest_optimizer
from keras_bp.schedules import CosineAnnealing, Warmup

RATES = 6
QUICK = ["SGD, momentum", "AdamW", "AdamW, global_clipnorm", "Muon", SUGGESTED]
SIZES = {  # of None, all
    "quick": {
        "tasks": ["saddle", "conv net", "spikes"],
        "optimizers": QUICK,
        "epochs": 20,
        "seeds": 1,
    },
    "full": {"tasks": None, "optimizers": None, "epochs": 20, "seeds": 3},
}


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

    def settings(self):
        """Return what a job says of it: its rates, schedule and options."""
        count = RATES if self.make else 1
        rates = [float(f"{self.rate * 10 ** (i / 2):.1e}") for i in range(count)]
        return {"rates": rates, "schedule": self.schedule, "options": self.options}


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


def tried(job, folder):
    """Return what is recorded of an optimizer on a task."""
    entry, task, seeds = entries()[job["optimizer"]], TASKS[job["task"]], job["seeds"]
    try:
        trainer = Trainer(task, entry, job["epochs"])
        runs = [[trainer.run(rate, seed) for seed in range(seeds)] for rate in job["rates"]]
    except ValueError as error:
        return {"left out": str(error)}
    columns = ("reached", "best", "diverged")
    return {"class": type(trainer.optimizer).__name__} | {
        column: [[run[i] for run in of_rate] for of_rate in runs]
        for i, column in enumerate(columns)
    }


def main(arguments=None):
    """Run the experiment."""
    parser = study.parser(__doc__.splitlines()[0])
    entered = entries()
    names = list(entered)
    parser.add_narrowing_argument("--tasks", nargs="+", choices=TASKS, metavar="TASK")
    parser.add_narrowing_argument("--optimizers", nargs="+", choices=names, metavar="NAME")
    options = parser.parse_args(arguments)
    size = SIZES["full" if options.full else "quick"]
    tasks = options.tasks or size["tasks"] or list(TASKS)
    chosen = options.optimizers or size["optimizers"] or names
    extent = {"epochs": size["epochs"], "seeds": size["seeds"]}
    jobs = [
        {"task": task, "target": TASKS[task].target, "optimizer": name}
        | entered[name].settings()
        | extent
        for task in tasks
        for name in chosen
        if entered[name].only is None or task in entered[name].only
    ]
    tf.get_logger().setLevel("ERROR")  # it warns of many functions with one name
    trials = study.Study(__file__, options, arguments)
    results = [job | result for job, result in zip(jobs, trials.run(jobs, tried), strict=True)]
    rows, text = report(results)
    trials.report(text, lambda: draw(rows, size["epochs"]))


if __name__ == "__main__":
    main()
