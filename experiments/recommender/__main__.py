"""Train a recommender of 100,000 items by six optimizers: how good, and after how long.

    python experiments/recommender [--quick | --full] [--ratings FILE.csv] [--timing]

A table for users and one for items are trained on made-up interactions whose law is known, and on
those of a file if one is given: recall@20 and NDCG@20 over all items, seconds to a common quality,
recall of popular and rare items. `--timing` measures the time of a step only, which the whole study
reads: run it first, with `--processes 1`, on a machine that does nothing else.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for what the experiments share
import functools

import interactions
import keras
import numpy as np
import ranking
import study
import tables
import tensorflow as tf
import towers

SIZES = {
    "quick": {
        "made": {"users": 1000, "items": 5000, "rank": 2, "strength": 3.0, "each": 50},
        "columns": 32,
        "batch": 256,
        "steps": 600,
        "file_steps": 600,
        "looks": 5,
        "judged": 500,
        "seeds": 1,
        "grid": False,
        "rounds": 2,
        "rows": [50_000],
    },
    "full": {
        "made": {"users": 5000, "items": 100_000, "rank": 4, "strength": 3.0, "each": 100},
        "columns": 64,
        "batch": 256,
        "steps": 3000,
        "file_steps": 1500,
        "looks": 10,
        "judged": 1000,
        "seeds": 3,
        "grid": True,
        "rounds": 8,
        "rows": [10_000, 1_000_000],
    },
}
# Where there is no grid.
RATES = {
    "DeferredAdam": 0.003,
    "LazyAdam, global": 0.01,
    "LazyAdam, row": 0.01,
    "Adagrad": 0.1,
    "SGD, lazy momentum": 3.0,
}
MADE = "made-up interactions"
SCALED = [towers.KERAS, "Adam", "DeferredAdam", "LazyAdam, row"]  # timed with other tables too
MEMORY = 1.5  # gigabytes that a process takes


class Looks(keras.callbacks.Callback):
    """Ranks the validation's items after each epoch, and puts recall and seconds into the history.

    Args:
        judge: function of the model that returns what `ranking.rank_items` does.
    """

    def __init__(self, judge):
        super().__init__()
        self.judge = judge

    def on_epoch_begin(self, epoch, logs=None):
        """Keras's hook: begin to count the seconds of training."""
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Keras's hook: rank."""
        logs["seconds"] = time.perf_counter() - self.begun
        found = self.judge(self.model)
        logs["recall"], logs["ndcg"] = found["recall"], found["ndcg"]


def judge(model, data, pairs, seen):
    """Return how well a model ranks pairs among all that are not in `seen`."""
    users, items = (
        keras.ops.convert_to_numpy(table.embeddings) for table in (model.of_users, model.of_items)
    )
    bias = np.log(data.counts() + 1.0)
    return ranking.rank_items(users, items, bias, pairs, seen)


def train(job, folder, load, callbacks):
    """Return the recall over the training, and that on the test's items at its end.

    Args:
        job: dictionary of settings.
        folder: path of the job's folder.
        load: function of a data set's name that returns its `Interactions`.
        callbacks: function of the folder that returns further callbacks of the training.
    """
    data = load(job["data"])
    keras.utils.set_random_seed(job["seed"])
    settings = (job[key] for key in ("optimizer", "rate", "seed", "columns"))
    model = towers.compiled(data, *settings)
    steps, looks = job["steps"], job["looks"]
    judged = data.validation[data.validation[:, 0] < job["judged"]]
    look = Looks(functools.partial(judge, data=data, pairs=judged, seen=data.train))
    history = model.fit(
        towers.batches(data, job["batch"], steps, job["seed"]),
        epochs=looks,
        steps_per_epoch=steps // looks,
        shuffle=False,
        verbose=0,
        # The others train in seconds: a checkpoint would take longer.
        callbacks=[look, *(callbacks(folder) if job["optimizer"] in towers.EXACT else ())],
    ).history
    result = {
        "recall": round(history["recall"][-1], 5),
        "curve": [round(float(value), 5) for value in history["recall"]],
        "seconds": round(sum(history["seconds"]), 2),
    }
    if job["test"]:
        known = np.concatenate([data.train, data.validation])
        found = judge(model, data, data.test, known)
        place = np.argsort(np.argsort(-data.counts(), kind="stable"))[data.test[:, 1]]
        band = np.searchsorted(tables.BANDS, place, side="right")
        result |= {"test_recall": float(found["recall"]), "test_ndcg": float(found["ndcg"])}
        result["bands"] = [
            float(found["hit"][band == number].mean()) if np.any(band == number) else None
            for number in range(len(tables.BANDS) + 1)
        ]
    return result


def limits(job, folder, load):
    """Return test figures of popularity alone, and of the true scores if they are known."""
    data = load(job["data"])
    known = np.concatenate([data.train, data.validation])
    nothing = np.zeros((data.users, 1)), np.zeros((data.items, 1))
    factors = {"popularity": (*nothing, np.log(data.counts() + 1.0)), "truth": data.truth}
    found = {
        name: ranking.rank_items(*scores, data.test, known)
        for name, scores in factors.items()
        if scores
    }
    return {
        f"{name} {key}": float(value[key])
        for name, value in found.items()
        for key in ("recall", "ndcg")
    }


def time_steps(job, folder, load):
    """Return median and least seconds of a training step for each optimizer, measured by turns."""
    data = interactions.popular(job["rows"]) if "rows" in job else load(job["data"])
    steps, times = {}, {name: [] for name in job["optimizers"]}
    for name in times:
        model = towers.compiled(data, name, 1e-3, 0, job["columns"])
        pairs = iter(towers.batches(data, job["batch"], 500, 0).repeat())
        model.make_train_function()
        steps[name] = functools.partial(model.train_function, pairs)
    for turn in range(job["rounds"] + 1):
        for name, step in steps.items():
            for _ in range(10 if name in towers.DENSE else 100):
                start = time.perf_counter()
                step()
                if turn:  # the first one traces
                    times[name].append(time.perf_counter() - start)
    result = {name: [float(np.median(t)), min(t)] for name, t in times.items()}
    return result | {"threads": tf.config.threading.get_intra_op_parallelism_threads()}


def choose(rates, results):
    """Return optimizer -> the rate with the best recall on the validation's items.

    Args:
        rates: list of (optimizer, rate).
        results: list of what `train` returned for each.
    """
    best = {}
    for (name, rate), result in zip(rates, results, strict=True):
        if result["recall"] > best.get(name, (-1.0, None))[0]:
            best[name] = result["recall"], rate
    return {name: rate for name, (_, rate) in best.items()}


def compare(trainings, data, shared, sizes, run):
    """Return the section of one data set, and what its picture shows, of trainings by all rules.

    Args:
        trainings: the `Study`.
        data: name of the data set.
        shared: dictionary, the settings that all jobs have.
        sizes: dictionary, one of `SIZES`.
        run: dictionary of the functions that train, rank by the limits and time, of a job and its
            folder.
    """
    rates = RATES
    if sizes["grid"]:
        grid = [(name, rate) for name, (*_, some) in towers.RULES.items() for rate in some]
        tried = trainings.run(
            [
                shared | {"looks": 1, "optimizer": name, "rate": rate, "seed": 0, "test": False}
                for name, rate in grid
            ],
            run["train"],
        )
        rates = choose(grid, tried)
    rates = {name: rates[towers.EXACT.get(name, name)] for name in towers.RULES}
    final = [
        shared | {"optimizer": name, "rate": rate, "seed": seed, "test": True}
        for seed in range(1, sizes["seeds"] + 1)
        for name, rate in rates.items()  # the longest one first
    ]
    results = trainings.run(final, run["train"])
    [bounds] = trainings.run(
        [{"data": data, "made": shared["made"], "limits": True}], run["limits"]
    )
    [times] = trainings.run([timing_job(shared, sizes)], run["times"])
    of = {
        name: [r for job, r in zip(final, results, strict=True) if job["optimizer"] == name]
        for name in rates
    }
    return tables.section(data, shared, rates, of, bounds, times), (data, of, times, shared)


def timing_job(shared, sizes):
    """Return the job that times the steps of all optimizers."""
    keys = "data", "made", "columns", "batch"
    own = {"optimizers": list(towers.TIMED), "rounds": sizes["rounds"], "timing": True}
    return {key: shared[key] for key in keys} | own


def time_by_rows(trainings, sizes, run):
    """Return rows of the items' table -> the steps' times, for all sizes that are timed."""
    jobs = [
        {"rows": rows, "columns": sizes["columns"], "batch": sizes["batch"]}
        | {"optimizers": SCALED, "rounds": sizes["rounds"], "timing": True}
        for rows in sizes["rows"]
    ]
    times = dict(zip(sizes["rows"], trainings.run(jobs, run["times"]), strict=True))
    [made] = trainings.run([timing_job(sizes | {"data": MADE}, sizes)], run["times"])
    return dict(sorted((times | {sizes["made"]["items"]: made}).items()))


def main(arguments=None):
    """Train what is missing, and leave tables and picture."""
    parser = study.parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--ratings", type=pathlib.Path, help="CSV file with a column of users and one of items"
    )
    parser.add_narrowing_argument(
        "--timing", action="store_true", help="measure the time of a step only"
    )
    options = parser.parse_args(arguments)
    sizes = SIZES["full" if options.full else "quick"]
    if options.ratings is not None:
        interactions.read(options.ratings)  # refuses a bad file before anything is trained
    study.check_memory(MEMORY * options.processes)
    trainings = study.Study(__file__, options, arguments)

    @functools.lru_cache(maxsize=1)
    def load(data):
        if data == MADE:
            return interactions.make(**sizes["made"], seed=0)
        return interactions.read(options.ratings)

    functions = {"train": train, "limits": limits, "times": time_steps}
    run = {name: functools.partial(function, load=load) for name, function in functions.items()}
    run["train"] = functools.partial(run["train"], callbacks=trainings.callbacks)
    shared = {key: sizes[key] for key in ("columns", "batch", "steps", "looks", "judged")}
    shared = {MADE: shared | {"data": MADE, "made": sizes["made"]}}
    if options.ratings is not None:
        name = options.ratings.name
        shared[name] = shared[MADE] | {"data": name, "made": None, "steps": sizes["file_steps"]}
    by_rows = tables.by_rows(time_by_rows(trainings, sizes, run))
    if options.timing:
        for each in shared.values():
            trainings.run([timing_job(each, sizes)], run["times"])
        trainings.report(by_rows)
        return
    parts = [compare(trainings, data, each, sizes, run) for data, each in shared.items()]
    text = "\n\n".join([*(text for text, _ in parts), by_rows])
    trainings.report(text, lambda: tables.draw([part for _, part in parts]))


if __name__ == "__main__":
    main()
