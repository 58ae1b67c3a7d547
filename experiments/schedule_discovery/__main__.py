"""Does a schedule that is found in the first steps of a training end where a tuned one does?

    python experiments/schedule_discovery --quick
    python experiments/schedule_discovery --full --data-dir DATA

`DiscoveredSchedule` against untuned schedules, optimizers that need no rate, and the best of 30
hand-tuned schedules, on digits, Fashion-MNIST, CIFAR-10 and the characters of a text; on three
further networks with batch normalization; and on cheap tasks of two families that its meta-learner
has not learnt from. `--quick` takes digits and two tasks; `--problems` and `--methods` narrow
either. It leaves results.md and schedule_discovery.png in tb_logs/schedule_discovery/full or quick.
An interrupted run resumes with the training that it was at, which begins anew: it takes seconds.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for what the experiments share
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # where tools/ lies
import study  # isort: skip

import families
import numpy as np
import problems
from matplotlib.figure import Figure

from keras_bp.tuning.discovery import SHAPES
from tools import discovery

PEAKS = discovery.HAND_TUNED["adam"]
FAMILIES = {"autoencoder": "autoencoders", "bigrams": "next characters"}
SIZES = {
    "quick": {
        "problems": ("digits",),
        "methods": ("constant", "warm-up, linear", problems.DISCOVERED),
        "peaks": PEAKS[3:],
        "seeds": 2,
        "finalists": 2,
        "epochs": None,
        "tasks": 1,
        "all_methods": 0,
        "task_steps": None,
    },
    "full": {
        "problems": (*problems.PROBLEMS, *problems.NORMALIZED),
        "methods": problems.METHODS,
        "peaks": PEAKS,
        "seeds": 3,
        "finalists": 4,
        "epochs": None,
        "tasks": 20,
        "all_methods": 4,
        "task_steps": None,
    },
}
TICKS = [-5, 0, 5, 10, 20, 50, 100]


def setting(problem, size):
    """Return what is common to all jobs of a problem."""
    _, _, batch_size, epochs, examples = (problems.PROBLEMS | problems.NORMALIZED)[problem]
    epochs = size["epochs"] or epochs
    return {"problem": problem, "examples": examples, "batch_size": batch_size, "epochs": epochs}


def grid(problem, size):
    """Return the schedules to tune by hand; of the further networks only those of one shape."""
    shapes = SHAPES if problem in problems.PROBLEMS else SHAPES[-1:]
    return [
        {"peak": peak, "warmup_share": share, "decay": decay}
        for peak in size["peaks"]
        for share, decay in shapes
    ]


def methods_of(problem, size):
    """Return the methods to compare; on the further networks only schedules."""
    wanted = size["methods"]
    if problem in problems.NORMALIZED:
        wanted = [name for name in wanted if name in (*problems.UNTUNED, problems.DISCOVERED)]
    return wanted


def trainer(data_dir):
    """Return the function that trains a job."""

    def train(job, folder):
        if "family" in job:
            return families.run(job, folder)
        keys = ("problem", "examples", "batch_size", "epochs")
        bench = problems.bench(*(job[key] for key in keys), data_dir)
        if "peak" in job:
            rates = discovery.shape(job["warmup_share"], job["decay"], bench.steps)
            return bench.schedule(job["seed"], job["peak"] * rates)
        if job["method"] == "first weights":
            return bench.start(job["seed"])
        return bench.train(job["method"], job["seed"])

    return train


def losses_of(results):
    """Return training losses, infinite where a training has diverged."""
    return np.nan_to_num([result["loss"] for result in results], nan=np.inf)


def oracles(run_named, size):
    """Return {problem: (schedule, results of the seeds)} of the best by hand.

    All schedules are trained from the first seed, the best few of them from the others too.
    """
    grids = {problem: grid(problem, size) for problem in size["problems"]}
    jobs = {
        problem: [setting(problem, size) | one | {"seed": 1} for one in schedules]
        for problem, schedules in grids.items()
    }
    first = run_named(jobs)
    finalists = {
        (problem, i): [jobs[problem][i] | {"seed": 2 + k} for k in range(size["seeds"] - 1)]
        for problem, results in first.items()
        for i in np.argsort(losses_of(results))[: size["finalists"]]
    }
    found = {}
    for (problem, i), results in run_named(finalists).items():
        of_seeds = [first[problem][i], *results]
        best = found.get(problem)
        if best is None or losses_of(of_seeds).mean() < losses_of(best[1]).mean():
            found[problem] = grids[problem][i], of_seeds
    return found


def compare(run_named, size):
    """Return {problem: {method: results of the seeds}}, the first weights' among them."""
    jobs = {
        (problem, name): [
            setting(problem, size) | {"method": name, "seed": seed}
            for seed in range(1, size["seeds"] + 1)
        ]
        for problem in size["problems"]
        for name in ("first weights", *methods_of(problem, size))
    }
    found = {problem: {} for problem in size["problems"]}
    for (problem, name), results in run_named(jobs).items():
        found[problem][name] = results
    return found


def regrets_of(compared, tuned):
    """Return {problem: {method: regrets of the seeds in percent}}."""
    found = {}
    for problem, results in compared.items():
        start = losses_of(results["first weights"]).mean()
        best = losses_of(tuned[problem][1]).mean()
        found[problem] = {
            name: 100 * (losses_of(of_seeds) - best) / (start - best)
            for name, of_seeds in results.items()
            if name != "first weights"
        }
    return found


def family_jobs(size):
    """Return {family: jobs}; the optimizers that need no rate train the first tasks alone."""
    quick = [name for name in size["methods"] if name not in problems.SELF_TUNING]
    return {
        family: [
            {
                "family": family,
                "task": task,
                "methods": list(size["methods"] if task < size["all_methods"] else quick),
                "steps": size["task_steps"],
                "seed": seed,
            }
            for task in range(size["tasks"])
            for seed in range(1, size["seeds"] + 1)
        ]
        for family in FAMILIES
    }


def problems_table(compared, tuned):
    """Return the table of the problems, and of the best schedule by hand of each."""
    header = ["Problem", "weights", "steps", "first loss", "oracle", "oracle's loss"]
    rows = []
    for problem, results in compared.items():
        first, (one, best) = results["first weights"], tuned[problem]
        schedule = f"peak {one['peak']:g}, {one['warmup_share']:.0%} warm-up, {one['decay']}"
        losses = [study.mean_spread(losses_of(of), 4) for of in (first, best)]
        peaks = [f"{r['peak']:.2g}" for r in results.get(problems.DISCOVERED, [])]
        row = [problem, f"{first[0]['weights']:,}", first[0]["steps"], losses[0], schedule]
        rows.append([*row, losses[1], ", ".join(peaks)])
    return study.table([*header, "peaks of DiscoveredSchedule"], rows)


def methods_table(values, digits, mean=False):
    """Return a table of {problem: {method: values of the seeds}}, a column for each problem.

    Args:
        values: the dictionary.
        digits: integer, after the point.
        mean: whether a last column has the mean of `problems.PROBLEMS`.
    """
    shared = [own for problem, own in values.items() if problem in problems.PROBLEMS]
    mean = mean and len(shared) > 1
    rows = []
    for name in dict.fromkeys(name for own in values.values() for name in own):
        row = [own.get(name) for own in values.values()]
        row += [np.mean([own[name] for own in shared], axis=0)] if mean else []
        rows.append([name, *("" if v is None else study.mean_spread(v, digits) for v in row)])
    last = [f"mean of {len(shared)}"] if mean else []
    return study.table(["Method", *values, *last], rows)


def accuracies_of(compared, tuned):
    """Return {problem: {method: test accuracies of the seeds in percent}}, the oracle's first."""
    return {
        problem: {
            name: [100 * result["accuracy"] for result in of_seeds]
            for name, of_seeds in ({"oracle": tuned[problem][1]} | results).items()
            if name != "first weights"
        }
        for problem, results in compared.items()
    }


def family_regrets(jobs, results, size):
    """Return {number of tasks: {family: {method: regrets in percent}}}."""
    found = {}
    for count in sorted({min(size["all_methods"], size["tasks"]), size["tasks"]} - {0}):
        until = slice(count * size["seeds"])
        found[count] = {
            family: families.regrets(jobs[family][until], results[family][until]) for family in jobs
        }
    return found


def family_table(found, count):
    """Return the table of the regrets of the first tasks of each family."""
    header = ["Method"]
    for family in found:
        header += [f"{FAMILIES[family]}: mean ± deviation of the tasks", "median"]
    rows = []
    for name in next(iter(found.values())):
        values = [own[name] for own in found.values()]
        cells = [cell for v in values for cell in (study.mean_spread(v), f"{np.median(v):z.2f}")]
        rows.append([name, *cells, f"{100 * np.mean(np.concatenate(values) > 5):.0f}"])
    return (
        f"### Regrets on {count} tasks of each family, %\n\n"
        "A task's regret is that of the mean loss of its seeds, and counts as 100 % at most.\n\n"
        + study.table([*header, "above 5 %, % of tasks"], rows)
    )


def draw(regrets, found):
    """Return a picture: the regret of each method, a panel for each problem and family."""
    panels = {name: own for name, own in regrets.items() if name in problems.PROBLEMS}
    for of_families in found.values():  # of the most tasks, where there are several
        for family, own in of_families.items():
            panels[FAMILIES[family]] = panels.get(FAMILIES[family], {}) | own
    names = list(dict.fromkeys(name for own in panels.values() for name in own))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (2 + 2.6 * columns, 0.8 + rows * (0.7 + 0.24 * len(names)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for ax in axes.ravel()[len(panels) :]:
        ax.remove()
    for ax, (title, own) in zip(axes.ravel(), panels.items(), strict=False):
        for row, name in enumerate(names):
            values = own.get(name, [])
            color = "tab:orange" if name == problems.DISCOVERED else "tab:blue"
            ax.scatter(values, np.full(len(values), row), color=color, alpha=0.6, s=18)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.axvline(5, color="gray", linewidth=0.8, linestyle=":")
        ax.set_yticks(range(len(names)), names)
        ax.set_xscale("symlog", linthresh=5)
        ax.set_xticks(TICKS, TICKS, fontsize=8)
        ax.minorticks_off()
        ax.set(ylim=(len(names) - 0.5, -0.5), xlim=(-6, 110))
        ax.set_title(title, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.2, axis="x")
    figure.supxlabel("regret, % of the fall to the best of the hand-tuned", fontsize=10)
    return figure


def chosen(options, size):
    """Return the size with the problems and methods that were asked for."""
    if options.problems:
        size = size | {"problems": tuple(options.problems)}
    if options.methods:
        size = size | {"methods": tuple(options.methods)}
    sources = {(problems.PROBLEMS | problems.NORMALIZED)[name][0] for name in size["problems"]}
    for source in sources - {"digits", "characters"}:  # before anything is trained
        problems.load_images(source, options.data_dir, 1)
    return size


def main(arguments=None):
    parser = study.parser(__doc__.splitlines()[0])
    known = (*problems.PROBLEMS, *problems.NORMALIZED)
    parser.add_narrowing_argument(
        "--problems", nargs="+", choices=known, help="instead of the size's own"
    )
    parser.add_narrowing_argument("--methods", nargs="+", choices=problems.METHODS, help="likewise")
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder that holds NAME.npz")
    options = parser.parse_args(arguments)
    size = chosen(options, SIZES["full" if options.full else "quick"])
    study.check_memory(1.2 * options.processes)
    this = study.Study(__file__, options, arguments, version=2)
    train = trainer(options.data_dir)

    def run_named(named):
        return this.run_named(named, train)

    tuned = oracles(run_named, size)
    compared = compare(run_named, size)
    jobs = family_jobs(size)
    results = run_named(jobs)
    regrets, found = regrets_of(compared, tuned), family_regrets(jobs, results, size)

    text = f"### Problems\n\n{problems_table(compared, tuned)}\n"
    text += f"### Regrets, %\n\n{methods_table(regrets, 1, mean=True)}\n"
    text += f"### Test accuracies, %\n\n{methods_table(accuracies_of(compared, tuned), 1)}\n"
    text += "\n".join(family_table(own, count) for count, own in found.items())
    this.report(text, lambda: draw(regrets, found))


if __name__ == "__main__":
    main()
