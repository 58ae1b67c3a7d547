"""Three tasks that differ, on one encoder: when does combining their gradients pay, and why?

    python experiments/multi_task --quick
    python experiments/multi_task --full

A network predicts segmentation, depth and normals of rendered scenes (`scenes.py`), as on NYUv2.
Each combiner of `keras_bp.multitask` trains it; then settings in which one thing is different
(the scale of a loss, the width, how much the tasks share, and which tasks there are) tell what
decides. In trainings with equal weights `GradientConflict` measures how the tasks' gradients
compare in each layer, over the training.

It leaves tables, and pictures of them, of the conflicts and of the scenes, in
tb_logs/multi_task/full or quick.
"""

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
from measures import measure

from keras_bp import multitask
from keras_bp.callbacks import GradientConflict
from keras_bp.visualization import plot_gradient_conflict

BASES = "Combiner", "LossWeighting", "MultiTaskModel"
COMBINERS = [name for name in multitask.__all__ if name not in BASES]
TASKS = ["segmentation", "depth", "normals"]
BASE = {"tasks": TASKS, "width": 16, "shared": 4, "loss_weights": {}}
# What is different from BASE, by the setting's name.
SETTINGS = {
    "base": {},
    "depth loss x 100": {"loss_weights": {"depth": 100.0}},
    "a quarter of the width": {"width": 4},
    "two shared layers": {"shared": 2},
    "related tasks": {"tasks": ["depth", "disparity"]},
    "an unrelated task": {"tasks": [*TASKS, "unrelated"]},
}
SUBSET = "Sum", "PCGrad", "IMTLG", "GradNorm", "BlockwiseUPGrad"
SIZES = {
    "quick": {
        "scenes": 200,
        "epochs": 1,
        "seeds": 2,
        "rates": [3e-3],
        "combiners": ["Sum", "IMTLG"],
        "settings": ["base", "depth loss x 100"],
    },
    "full": {
        "scenes": 1300,
        "epochs": 6,
        "seeds": 3,
        "rates": [1e-3, 3e-3, 6e-3],
        "combiners": COMBINERS,
        "settings": list(SETTINGS),
    },
}
BATCH, TEST = 16, 300
SEEDS = {"train": 0, "validation": 1, "test": 2}  # of the scenes
GRID_SEED = 100  # of the training that chooses the rate


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
    if job["data"] == "validation":
        return {"loss": model.evaluate(x, y, batch_size=100, verbose=0, return_dict=True)["loss"]}
    # Called as they are: tracing a graph for so few takes longer.
    parts = [model(x[start : start + 100], training=False) for start in range(0, len(x), 100)]
    predicted = {task: np.concatenate([part[task] for part in parts]) for task in tasks}
    measured = [task for task in tasks if task != "unrelated"]
    result = {"measures": {task: measure(task, predicted[task], y[task]) for task in measured}}
    if watched:
        result["conflict"] = conflicts.read(folder / "events", job["epochs"])
    return result


def jobs_of(size, setting, combiners, rate, tasks=None):
    """Return the jobs of a setting, for each combiner and seed; `tasks` replaces its own."""
    common = BASE | SETTINGS[setting] | {"rate": rate, "data": "test"}
    common |= {key: size[key] for key in ("scenes", "epochs")}
    if tasks:
        common["tasks"] = tasks
    return [
        common | {"setting": setting, "combiner": name, "seed": seed}
        for name in combiners
        for seed in range(size["seeds"])
    ]


def main(arguments=None):
    """Choose the rate, train in each setting by each combiner, and report."""
    options = study.parser(__doc__.split("\n")[0]).parse_args(arguments)
    size = SIZES["full" if options.full else "quick"]
    study.check_memory(1.2 * options.processes)
    study_ = study.Study(__file__, options, arguments)

    def train_job(job, folder):
        return train(study_, job, folder)

    grid = [
        job | {"data": "validation", "seed": GRID_SEED}
        for rate in size["rates"]
        for job in jobs_of(size | {"seeds": 1}, "base", ["Sum"], rate)
    ]
    losses = [result["loss"] for result in study_.run(grid, train_job)]
    rate = size["rates"][int(np.nanargmin(losses))]

    jobs = {}
    for setting in size["settings"]:
        names = size["combiners"]
        if setting != "base":
            names = [name for name in names if name in SUBSET]
        jobs[setting] = jobs_of(size, setting, names, rate)
    jobs["alone"] = [job for task in TASKS for job in jobs_of(size, "base", ["Sum"], rate, [task])]
    results = study_.run_named(jobs, train_job)
    runs = {name: list(zip(part, results[name], strict=True)) for name, part in jobs.items()}
    rates = study.table(
        ["Peak rate", "Loss on validation scenes"],
        [[rate_, f"{loss:.4f}"] for rate_, loss in zip(size["rates"], losses, strict=True)],
    )
    if study_.leads:
        pictures = {
            "scenes.png": report.draw_scenes(scenes.make_data(6, SEEDS["test"], scenes.SIZE)),
            "multi_task_conflicts.png": plot_gradient_conflict(report.conflict_rows(runs["base"])),
        }
        for name, figure in pictures.items():
            figure.savefig(study_.out / name)
            if options.record:
                shutil.copy(study_.out / name, study.IMAGES / name)
    study_.report(report.tables(runs, rates), lambda: report.draw(runs))


if __name__ == "__main__":
    main()
