"""Train a recommender of 100,000 items by six optimizers: how good, and after how long.

    python experiments/recommender [--quick | --full] [--ratings FILE.csv] [--timing]

A table for users and one for items are trained on synthetic interactions whose law is known, and on
those of a file if one is given: recall@20 and NDCG@20 over all items, seconds to a common target,
recall of popular and rare items. The steps are timed first, by one process with all cores, before
anything is trained; `--timing` does only that. An interrupted run resumes with the same command.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for what the experiments share
import functools

import interactions
import keras
import numpy as np
import ranking
import study
import tables
import timing
import towers

# "memory": gigabytes at the peak, of the process that times and of each that trains.
SIZES = {
    "quick": {
        "synthetic": {"users": 1000, "items": 5000, "rank": 2, "strength": 3.0, "each": 50},
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
        "memory": {"timing": 1.0, "training": 1.0},
    },
    "full": {
        "synthetic": {"users": 5000, "items": 100_000, "rank": 4, "strength": 3.0, "each": 100},
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
        "memory": {"timing": 5.0, "training": 1.5},
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
SYNTHETIC = "synthetic interactions"


class Looks(keras.callbacks.Callback):
    """Ranks the validation's items after each epoch, and puts the recall into the history.

    Args:
        judge: function of the model that returns what `ranking.rank_items` does.
    """

    def __init__(self, judge):
        super().__init__()
        self.judge = judge

    def on_epoch_end(self, epoch, logs=None):
        """Keras's hook: rank."""
        logs["recall"] = self.judge(self.model)["recall"]


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
        callbacks=[look, *(callbacks(folder) if job["optimizer"] in towers.DENSE else ())],
    ).history
    result = {
        "recall": round(history["recall"][-1], 5),
        "curve": [round(float(value), 5) for value in history["recall"]],
    }
    if job["test"]:
        known = np.concatenate([data.train, data.validation])
        found = judge(model, data, data.test, known)
        band = bands(data)
        result |= {"test_recall": float(found["recall"]), "test_ndcg": float(found["ndcg"])}
        result["bands"] = [
            float(found["hit"][band == number].mean()) if np.any(band == number) else None
            for number in range(len(tables.BANDS) + 1)
        ]
    return result


def bands(data):
    """Return the number of the band of popularity of each item in `data.test`."""
    rank = np.argsort(np.argsort(-data.counts(), kind="stable"))[data.test[:, 1]]
    return np.searchsorted(tables.BANDS, rank, side="right")


def limits(job, folder, load):
    """Return test figures of popularity alone, and of the true scores if they are known.

    And how many interactions of the test are in each band of popularity.
    """
    data = load(job["data"])
    known = np.concatenate([data.train, data.validation])
    nothing = np.zeros((data.users, 1)), np.zeros((data.items, 1))
    factors = {"popularity": (*nothing, np.log(data.counts() + 1.0)), "truth": data.truth}
    found = {
        name: ranking.rank_items(*scores, data.test, known)
        for name, scores in factors.items()
        if scores
    }
    figures = {
        f"{name} {key}": float(value[key])
        for name, value in found.items()
        for key in ("recall", "ndcg")
    }
    return figures | {"bands": np.bincount(bands(data), minlength=len(job["bands"]) + 1).tolist()}


def compare(trainings, shared, sizes, times, run):
    """Return the section of one data set, its searched rates, and what its picture shows.

    Args:
        trainings: the `Study`.
        shared: dictionary, the settings that all jobs have.
        sizes: dictionary, one of `SIZES`.
        times: dictionary, optimizer -> median and least seconds of a step.
        run: dictionary of the functions that train and rank by the limits, of a job and its folder.
    """
    rates, searched = RATES, {}
    if sizes["grid"]:
        searched = trainings.search_rates(
            {name: grid for name, (*_, grid) in towers.RULES.items() if grid},
            lambda name, rate: (
                shared | {"looks": 1, "optimizer": name, "rate": rate, "seed": 0, "test": False}
            ),
            run["train"],
            missed,
        )
        rates = {name: study.best_rate(losses) for name, losses in searched.items()}
    rates = {name: rates[towers.EXACT.get(name, name)] for name in towers.RULES}
    final = [
        shared | {"optimizer": name, "rate": rate, "seed": seed, "test": True}
        for seed in range(1, sizes["seeds"] + 1)
        for name, rate in rates.items()  # the longest one first
    ]
    results = trainings.run(final, run["train"])
    limited = interactions.source(shared) | {"limits": True, "bands": list(tables.BANDS)}
    [bounds] = trainings.run([limited], run["limits"])
    of = {
        name: [r for job, r in zip(final, results, strict=True) if job["optimizer"] == name]
        for name in rates
    }
    section = tables.section(shared, rates, of, bounds, times)
    return section, searched, (shared, of, times)


def missed(result):
    """Return how much of the validation's items a training missed, in percent."""
    return 100 * (1 - result["recall"])


def data_sets(sizes, ratings=None):
    """Return the name of each data set -> the settings that all its trainings have.

    Args:
        sizes: dictionary, one of `SIZES`.
        ratings: path of a CSV file, or `None`.
    """
    settings = {key: sizes[key] for key in ("columns", "batch", "steps", "looks", "judged")}
    sets = {SYNTHETIC: settings | {"data": SYNTHETIC, "synthetic": sizes["synthetic"]}}
    if ratings is not None:
        interactions.read(ratings)  # refuses a bad file before anything is trained
        of_file = {"data": ratings.name, "sha256": interactions.digest(ratings)}
        sets[ratings.name] = settings | {"steps": sizes["file_steps"]} | of_file
    return sets


def main(arguments=None):
    """Time and train what is missing, and leave tables and picture."""
    parser = study.parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--ratings", type=pathlib.Path, help="CSV file with a column of users and one of items"
    )
    parser.add_narrowing_argument(
        "--timing", action="store_true", help="measure the time of a step only"
    )
    options = parser.parse_args(arguments)
    if options.record and options.ratings is None:
        raise SystemExit(
            "--record must come with --ratings: the page has both data sets. Received: none"
        )
    sizes = SIZES["full" if options.full else "quick"]
    shared = data_sets(sizes, options.ratings)
    if options.timing:
        options.processes = 1
    memory = sizes["memory"]
    study.check_memory(max(memory["timing"], memory["training"] * options.processes))
    trainings = study.Study(__file__, options, arguments)

    @functools.lru_cache(maxsize=1)
    def load(data):
        if data == SYNTHETIC:
            return interactions.synthetic(**sizes["synthetic"], seed=0)
        return interactions.read(options.ratings)

    functions = {"train": train, "limits": limits, "times": timing.steps}
    run = {name: functools.partial(function, load=load) for name, function in functions.items()}
    run["train"] = functools.partial(run["train"], callbacks=trainings.callbacks)
    jobs = timing.jobs(shared, sizes)
    if options.processes > 1 and trainings.leads and trainings.missing(jobs.values()):
        timing.alone(options)
        trainings.records()  # the process that timed the steps has shown them
    times = dict(zip(jobs, trainings.run(list(jobs.values()), run["times"]), strict=True))
    rows = {sizes["synthetic"]["items"]: SYNTHETIC} | {rows: rows for rows in sizes["rows"]}
    by_rows = {number: times[rows[number]] for number in sorted(rows)}
    by_rows = tables.by_rows(by_rows, jobs[SYNTHETIC]["threads"])
    if options.timing:
        trainings.report(by_rows)
        return
    parts = [compare(trainings, each, sizes, times[name], run) for name, each in shared.items()]
    sections, searched, shown = zip(*parts, strict=True)
    text = [*sections, by_rows, tables.by_rate(dict(zip(shared, searched, strict=True)))]
    trainings.report("\n".join(text), lambda: tables.draw(shown))


if __name__ == "__main__":
    main()
