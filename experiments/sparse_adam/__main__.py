"""Is DeferredAdam Adam, and what is proved of either? The numbers of docs/sparse_adam.md.

    python experiments/sparse_adam [--quick | --full]

Random sequences of batches through `DeferredAdam`, beside textbook Adam in extended precision and
the theorem's bound of the difference; online problems in which Adam, or LazyAdam, goes to the wrong
end; how far a row's k-th update carries it by each bias correction. It leaves a table and a
picture.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for what the experiments share
import study

# isort: split
import numpy as np
import online
import pictures
import sequences
from constants import constants

from keras_bp.deferred.optimizer import _TOLERANCE

SIZES = {
    "quick": {
        "jobs": 6,
        "sequences": 10,
        "steps": [100, 200],
        "periods": {"reddi": 30, "adam_fails": 60, "lazy_fails": 40},
        "corrections": {"late": 2000, "gap": 100, "visits": 30},
        "grid": 5,
    },
    "full": {
        "jobs": 40,
        "sequences": 25,
        "steps": [200, 200, 600, 200, 2500],
        "periods": {"reddi": 400, "adam_fails": 150, "lazy_fails": 160},
        "corrections": {"late": 10_000, "gap": 100, "visits": 100},
        "grid": 16,
    },
}
LOSSES, ROWS, EPSILONS = ("linear", "separate", "coupled"), (30, 900, 5000), (1e-7, 1e-8, 1e-3)
SHOWN = [(0.9, 0.999), (0.9, 0.99), (0.5, 0.9), (0.9, 0.95)]


def main(arguments=None):
    """Run the checks that are not recorded yet, and report them all."""
    options = study.parser(__doc__.splitlines()[0]).parse_args(arguments)
    size = SIZES["full" if options.full else "quick"]
    work = study.Study(__file__, options, arguments, version=2)
    parts = {"check": checks(size), "grid": grids(size), **online_jobs(size)}
    results = work.run_named(parts, train)
    found = {part: list(zip(jobs, results[part], strict=True)) for part, jobs in parts.items()}
    text = "\n".join(tables(found)) if work.leads else ""  # some seconds
    work.report(text, lambda: pictures.draw(found))


def checks(size):
    """Return jobs with random sequences: betas, dtypes, losses and lengths take turns."""
    pairs = sequences.betas(max(3, size["jobs"] // 3))
    jobs = []
    for number in range(size["jobs"]):
        # A third of the jobs has Adam's usual betas.
        betas = pairs[0] if number % 3 == 0 else pairs[1 + number % (len(pairs) - 1)]
        jobs.append(
            {
                "part": "check",
                "betas": betas,
                "dtype": ("float64", "float32")[number // 3 % 2],
                # Of the third near a limit by another rule, so that each loss meets each dtype.
                "loss": LOSSES[number // (12 if number % 3 == 1 else 2) % 3],
                "rows": ROWS[number // 5 % 3],
                "active": 24,
                "epsilon": EPSILONS[number // 4 % 3],
                "steps": size["steps"][number % len(size["steps"])],
                "sequences": size["sequences"],
                "seed": number,
            }
        )
    return jobs


def grids(size):
    """Return a job for each dtype: kappa over all betas that are accepted."""
    return [
        {"part": "grid", "dtype": dtype, "points": size["grid"]} for dtype in ("float32", "float64")
    ]


def online_jobs(size):
    """Return the online problems and the bias corrections, each with the optimizers that matter."""
    jobs = {
        scene: [
            {"part": "online", "scene": scene, "optimizer": name, "periods": periods}
            for name in online.OPTIMIZERS
            # A row that is in every batch is the same to all.
            if not (scene == "reddi" and name.startswith("LazyAdam"))
        ]
        for scene, periods in size["periods"].items()
    }
    jobs["corrections"] = [
        {"part": "corrections", "optimizer": name, **size["corrections"]}
        for name in online.OPTIMIZERS
        if name != "AMSGrad"
    ]
    return jobs


def train(job, folder):
    """Return the result of one job."""
    parts = {
        "check": sequences.check,
        "grid": grid,
        "online": online.play,
        "corrections": online.corrections,
    }
    return parts[job["part"]](job, folder)


def grid(job, folder=None):
    """Return kappa, relative to the tolerance that `build` checks, over a grid of betas."""
    tolerance, worst = _TOLERANCE[job["dtype"]][0], []
    for beta_1 in np.linspace(0.02, 0.97, job["points"]).tolist():
        for beta_2 in (1 - np.logspace(-4, -0.2, job["points"])).tolist():
            try:
                known = constants(beta_1, beta_2, job["dtype"], resolution=0.5)
            except ValueError:
                continue
            worst.append([known.kappa / tolerance, beta_1, beta_2, known.condition])
    return {
        "accepted": len(worst),
        "of": job["points"] ** 2,
        "worst": max(worst),
        "condition": max(line[-1] for line in worst),
    }


def tables(found):
    """Return the tables in Markdown, each after a line that says what it is."""
    yield "**The constants.** κ: what Lemma 2 proves, and the largest value on a grid of x.\n"
    header = ["betas", "dtype", "K", "J", "κ, Lemma 2", "κ, grid", "λ", "ρ", "r / (1 - r)"]
    rows = []
    for beta_1, beta_2 in SHOWN:
        for dtype in ("float32", "float64"):
            one = constants(beta_1, beta_2, dtype)
            proved = f"{one.kappa_proved:.1e}" if one.kappa_proved < 1e-2 else "-"
            row = [f"{beta_1}, {beta_2}", dtype, one.nodes, one.window, proved]
            row += [f"{one.kappa:.1e}", f"{one.condition:.1f}", f"{one.rho:.2f}"]
            rows.append([*row, f"{one.r / (1 - one.r):.2f}"])
    yield study.table(header, rows)
    yield "**All betas.** κ over the tolerance that `build` checks, 2e-5 and 1e-8.\n"
    rows = []
    for job, result in found["grid"]:
        ratio, beta_1, beta_2, _ = result["worst"]
        row = [job["dtype"], f"{result['accepted']} of {result['of']}", f"{ratio:.2f}"]
        rows.append([*row, f"{beta_1:.2f}, {beta_2:.4f}", f"{result['condition']:.1f}"])
    yield study.table(["dtype", "pairs accepted", "largest", "at the betas", "largest λ"], rows)
    yield (
        "**The theorem.** The largest difference of DeferredAdam from Adam over its bound, by "
        "sequence, over all reads and the table at the end.\n"
    )
    yield study.table(*theorem(found["check"]))
    yield (
        "**Online linear losses.** The best fixed weight is -1, the worst in [-1, 1] is 1. Regret "
        "and Theorem 3's bound of it are per visit; a bound above 2 mean |g| is vacuous.\n"
    )
    yield study.table(*regrets(found))
    late, gap, visits = (found["corrections"][0][0][name] for name in ("late", "gap", "visits"))
    yield (
        "**Bias correction.** By how many learning rates the k-th update moves a row, until it is "
        f"seen again, {gap} steps later.\n"
    )
    ks = [*(k for k in (1, 2, 10) if k < visits), visits]
    header = ["optimizer", "first seen in update", *(f"k = {k}" for k in ks)]
    rows = [
        [job["optimizer"], first, *(f"{result[name][k - 1]:.2f}" for k in ks)]
        for job, result in found["corrections"]
        for name, first in (("early", 1), ("late", late))
    ]
    yield study.table(header, rows)


def regrets(found):
    """Return header and rows of the online problems' table."""
    header = ["problem", "optimizer", "visits", "w, last period", "regret", "regret, last period"]
    header += ["bound after a quarter", "bound at the end", "2 mean \\|g\\|"]
    rows = []
    for scene, (gradients, *_) in online.SCENES.items():
        for job, result in found[scene]:
            quarter = max(job["periods"] // 4, 1) - 1
            row = [scene, job["optimizer"], job["periods"] * len(gradients)]
            row += [f"{result['position'][-1]:.2f}", f"{result['regret'][-1]:.3f}"]
            row.append(f"{online.of_periods(result, len(gradients))[-1]:.3f}")
            row += [f"{result['bound'][place]:.2f}" for place in (quarter, -1)]
            rows.append([*row, f"{online.DIAMETER * np.mean(np.abs(gradients)):.2f}"])
    return header, rows


def theorem(checked):
    """Return header and rows of the theorem's table: by dtype and loss, and all."""
    header = ["dtype", "loss", "sequences", "median", "largest", "above 1"]
    header += ["largest difference, in learning rates", "largest exponent of the a-priori bound"]
    rows = []
    groups = [(dtype, loss) for dtype in ("float64", "float32") for loss in LOSSES]
    for dtype, loss in [*groups, (None, None)]:
        results = [
            result
            for job, result in checked
            if dtype in (None, job["dtype"]) and loss in (None, job["loss"])
        ]
        if not results:
            continue
        ratio, error, exponent = (
            np.concatenate([result[name] for result in results])
            for name in ("ratio", "error", "exponent")
        )
        rows.append(
            [
                dtype or "all",
                loss or "all",
                len(ratio),
                f"{np.median(ratio):.2f}",
                f"{ratio.max():.2f}",
                int(np.sum(~(ratio <= 1))),
                f"{error.max():.1e}",
                f"{exponent.max():.0e}" if exponent.max() else "0",
            ]
        )
    return header, rows


if __name__ == "__main__":
    main()
