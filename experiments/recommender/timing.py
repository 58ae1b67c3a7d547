"""The seconds of a training step, measured by one process while nothing is trained."""

import functools
import os
import pathlib
import subprocess
import sys
import time

import interactions
import numpy as np
import towers

SCALED = [towers.KERAS, "Adam", "DeferredAdam", "LazyAdam, row"]  # timed with other tables too


def steps(job, folder, load):
    """Return median and least seconds of a training step for each optimizer, interleaved."""
    data = interactions.popular(job["rows"]) if "rows" in job else load(job["data"])
    taken, times = {}, {name: [] for name in job["optimizers"]}
    for name in times:
        model = towers.compiled(data, name, 1e-3, 0, job["columns"])
        pairs = iter(towers.batches(data, job["batch"], 500, 0).repeat())
        model.make_train_function()
        taken[name] = functools.partial(model.train_function, pairs)
    for turn in range(job["rounds"] + 1):
        for name, step in taken.items():
            for _ in range(10 if name in towers.DENSE else 100):
                start = time.perf_counter()
                step()
                if turn:  # the first one traces
                    times[name].append(time.perf_counter() - start)
    return {name: [float(np.median(t)), min(t)] for name, t in times.items()}


def jobs(shared, sizes):
    """Return a name -> the job that times the optimizers' steps with it.

    The names are those of the data sets, and the numbers of rows of the items' table.

    Args:
        shared: dictionary, data set -> the settings that all jobs on it have.
        sizes: dictionary, one of `SIZES`.
    """
    own = {"columns": sizes["columns"], "batch": sizes["batch"], "rounds": sizes["rounds"]}
    own |= {"timing": True, "threads": len(os.sched_getaffinity(0))}
    all_jobs = {rows: {"rows": rows, "optimizers": SCALED} | own for rows in sizes["rows"]}
    for name, settings in shared.items():
        all_jobs[name] = interactions.source(settings) | {"optimizers": list(towers.TIMED)} | own
    return all_jobs


def alone(options):
    """Time the steps in a process of its own, with all cores and before anything is trained.

    TensorFlow's threads cannot change later, and those that train have a part of the cores each.
    """
    command = [sys.executable, str(pathlib.Path(__file__).parent), "--timing"]
    command += ["--full" if options.full else "--quick"]
    for name in ("out", "ratings"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    if subprocess.call(command):
        raise SystemExit("The process that times the steps ended with an error.")
