"""Three tasks that differ, on one encoder: when does combining their gradients pay, and why?

    python experiments/multi_task --quick
    python experiments/multi_task --full

A network predicts segmentation, depth and normals of rendered scenes (`scenes.py`), as on NYUv2.
Combiners of `keras_bp.multitask` train it, in settings in which one thing is different (the scale
of a loss, the width, how much the tasks share, and which tasks there are): some at rates of their
own, all at one rate. In trainings with equal weights `GradientConflict` measures how the tasks'
gradients compare in each layer, over the training.

It leaves tables, and pictures of them, of the conflicts and of the scenes, in
tb_logs/multi_task/full or quick.
"""

import functools
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for what the experiments share
import study

# isort: split
import conflicts
import network
import numpy as np
import report
import scenes
from comparison import ALONE, BY_HAND
from measures import REFERENCE, improvement, measure

from keras_bp import multitask
from keras_bp.callbacks import GradientConflict
from keras_bp.visualization import plot_gradient_conflict

BASES = "Combiner", "LossWeighting", "MultiTaskModel"
SUBSET = ["Sum", "GradNorm", "BlockwiseUPGrad", "PCGrad"]
COMBINERS = [*SUBSET, *(name for name in multitask.__all__ if name not in (*BASES, *SUBSET))]
TASKS = ["segmentation", "depth", "normals"]
BASE = {"tasks": TASKS, "width": 16, "shared": 4, "loss_weights": {}}
# What is different from BASE, by the setting's name.
SETTINGS = {
    "base": {},
    "an unrelated task": {"tasks": [*TASKS, "unrelated"]},
    "depth loss x 100": {"loss_weights": {"depth": 100.0}},
    "a quarter of the width": {"width": 4},
    "two shared layers": {"shared": 2},
    "related tasks": {"tasks": ["depth", "disparity"]},
}
# "groups": settings and combiners, in the order of the training, each at a rate of its own from
# "rates" and beyond; "one rate": overrides for the comparison at one rate.
SIZES = {
    "quick": {
        "scenes": 200,
        "epochs": 1,
        "seeds": 2,
        "rates": [3e-3, 6e-3],
        "groups": [("base", ["Sum", "GradNorm"]), (ALONE, TASKS)],
        "one rate": {"rates": [6e-3], "groups": [("depth loss x 100", ["Sum", "IMTLG"])]},
    },
    "full": {
        "scenes": 1300,
        "epochs": 6,
        "seeds": 5,
        "rates": [6e-3, 1.2e-2],
        "groups": [
            ("base", SUBSET),
            ("an unrelated task", SUBSET),
            ("base", [BY_HAND, "CAGrad", "UncertaintyWeighting"]),
            ("two shared layers", SUBSET),
            ("an unrelated task", [BY_HAND]),
            (ALONE, TASKS),
        ],
        "one rate": {
            "seeds": 3,
            "rates": [6e-3],
            "groups": [
                ("base", COMBINERS),
                *((name, [*SUBSET, "IMTLG"]) for name in SETTINGS if name != "base"),
            ],
        },
    },
}
BATCH, TEST = 16, 300
SEEDS = {"train": 0, "validation": 1, "test": 2}  # of the scenes
GRID_SEED = 10  # of the trainings that choose the rates


def load(part, count, tasks):
    """Return images and the tasks' labels of a part of the scenes.

    The labels of "unrelated" are another scene's depth.
    """
    x, labels = scenes.make_data(count, SEEDS[part], network.SIZE)
    order = np.random.default_rng(3).permutation(count)
    depth = labels["depth"]
    labels = labels | {"disparity": 1.0 / depth, "unrelated": depth[order]}
    return x, {task: labels[task] for task in tasks}


def train(study_, job, folder):
    """Train as a job says; return the measures of each task, and how gradients compared."""
    tasks, count = job["tasks"], job["scenes"]
    x, y = load("train", count, tasks)
    combiner = getattr(multitask, job["combiner"])() if len(tasks) > 1 else None
    keys = "width", "shared", "rate", "loss_weights", "seed"
    steps = job["epochs"] * -(-count // BATCH)
    model = network.build(tasks, combiner, steps=steps, **{key: job[key] for key in keys})
    watched = job["combiner"] == "Sum" and job["data"] == "test" and len(tasks) > 1
    watch = [GradientConflict(folder / "events")] if watched else []
    callbacks = [*watch, *study_.callbacks(folder)]
    model.fit(x, y, batch_size=BATCH, epochs=job["epochs"], verbose=0, callbacks=callbacks)
    x, y = load(job["data"], TEST, tasks)
    # Called as they are: tracing a graph for so few takes longer.
    parts = [model(x[start : start + 100], training=False) for start in range(0, len(x), 100)]
    predicted = {task: np.concatenate([part[task] for part in parts]) for task in tasks}
    measured = [task for task in tasks if task != "unrelated"]
    result = {"measures": {task: measure(task, predicted[task], y[task]) for task in measured}}
    if watched:
        result["conflict"] = conflicts.read(folder / "events", job["epochs"], steps)
    return result


def trainings(size):
    """Return each training's job, but for rate, data and seed, by (setting, combiner).

    It is a list of dictionaries, one for each group. Trainings of one task are by (`ALONE`, task).
    `BY_HAND` are equal weights but for the depths', whose gradients are some four times as long
    as the segmentation's in the base setting.
    """
    common = BASE | {key: size[key] for key in ("scenes", "epochs")}
    groups = []
    for setting, names in size["groups"]:
        if setting == ALONE:
            single = common | {"setting": "base", "combiner": "Sum"}
            groups.append({(ALONE, task): single | {"tasks": [task]} for task in names})
        else:
            job = common | SETTINGS[setting] | {"setting": setting}
            jobs = {(setting, name): job | {"combiner": name} for name in names}
            if BY_HAND in names:
                weights = dict.fromkeys({"depth", "unrelated"}.intersection(job["tasks"]), 0.25)
                by_hand = {"setting": "depth loss x 0.25", "loss_weights": weights}
                jobs[setting, BY_HAND] |= by_hand | {"combiner": "Sum"}
            groups.append(jobs)
    return groups


def train_all(study_, size):
    """Return the losses by rate, and the results at the best rate, by (setting, combiner).

    A single rate is taken as it is: its loss is NaN.
    """
    rates, searched, results = size["rates"], {}, {}
    train_job = functools.partial(train, study_)

    def loss(result):
        # By what the combiners are compared by. The sum of the losses would have each chosen by
        # the task of the largest loss, which only equal weights follow.
        return -improvement(result["measures"], REFERENCE)

    for jobs in trainings(size):  # a study that was interrupted has whole groups

        def job_of(kind, rate, jobs=jobs):
            return jobs[kind] | {"rate": rate, "data": "validation", "seed": GRID_SEED}

        searched |= {kind: dict.fromkeys(rates, np.nan) for kind in jobs}
        if len(rates) > 1:
            searched |= study_.search_rates(dict.fromkeys(jobs, rates), job_of, train_job, loss)
        finals = {
            kind: [
                job | {"rate": study.best_rate(searched[kind]), "data": "test", "seed": seed}
                for seed in range(size["seeds"])
            ]
            for kind, job in jobs.items()
        }
        results |= study_.run_named(finals, train_job)
    return searched, results


def main(arguments=None):
    """Choose each training's rate, train from several seeds, and report."""
    options = study.parser(__doc__.split("\n")[0]).parse_args(arguments)
    size = SIZES["full" if options.full else "quick"]
    study.check_memory(1.2 * options.processes)
    study_ = study.Study(__file__, options, arguments)
    searched, results = train_all(study_, size)
    _, at_one_rate = train_all(study_, size | size["one rate"])
    if study_.leads:
        rows = report.conflict_rows(results["base", "Sum"])
        pictures = {
            "scenes.png": report.draw_scenes(scenes.make_data(6, SEEDS["test"], scenes.SIZE)),
            "multi_task_conflicts.png": plot_gradient_conflict(rows),
        }
        for name, figure in pictures.items():
            figure.savefig(study_.out / name)
            if options.record:
                shutil.copy(study_.out / name, study.IMAGES / name)
    study_.report(report.tables(results, searched, at_one_rate), lambda: report.draw(results))


if __name__ == "__main__":
    main()
