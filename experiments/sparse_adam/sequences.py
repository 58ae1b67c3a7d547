"""Random sequences of batches, in which rows come back after one step or after thousands."""

import numpy as np
import online
from bound import follow
from constants import constants, quadrature
from replay import Replay

from keras_bp.optimizers import DeferredAdam

BATCH, COLUMNS = 4, 2
# Near the limit of what DeferredAdam accepts: there interpolation is the largest part of the error.
NEAR_LIMIT = [(0.9, 0.95), (0.843, 0.89), (0.96, 0.999), (0.9, 0.95)]
SCHEDULES = ("constant", "cosine", "warm-up", "random", "restarts")


def betas(number, seed=0):
    """Return pairs that DeferredAdam accepts: the usual one, random ones, some near a limit."""
    generator, found = np.random.default_rng(seed), [(0.9, 0.999)]
    while len(found) < number:
        beta_1 = round(generator.uniform(0.05, 0.96), 3)
        beta_2 = round(1 - 10 ** generator.uniform(-3.5, -0.3), 5)
        try:
            for dtype in ("float32", "float64"):
                quadrature(beta_1, beta_2, dtype)
        except ValueError:
            continue
        found.append((beta_1, beta_2))
    for place in range(2, number, 3):
        found[place] = NEAR_LIMIT[place // 3 % len(NEAR_LIMIT)]
    return found


def rates(generator, steps):
    """Return a schedule at random: its largest rate is from 1e-4 to 0.03."""
    t, kind = np.arange(steps), generator.choice(SCHEDULES)
    shape = {
        "constant": np.ones(steps),
        "cosine": (1 + np.cos(np.pi * t / steps)) / 2,
        "warm-up": np.minimum(1, (t + 1) / (steps / 5)) / np.sqrt(1 + 5 * t / steps),
        "random": generator.uniform(size=steps),
        "restarts": t * 5 % steps / steps,  # from 0 upwards, five times
    }
    return (10 ** generator.uniform(-4, -1.5) * shape[kind]).astype("float32")


def draw(generator, steps, active, dtype, loss, epsilon):
    """Return one sequence: a dictionary of arrays, as `bound.follow` takes them for many.

    Ids are Zipf's, with repeats in a batch; each row, and the whole table, is silent at times.
    """
    shape = (steps, BATCH)
    exponent = generator.uniform(0.5, 2.0)
    weights = np.arange(1, active + 1) ** -exponent
    ids = generator.choice(active, shape, p=weights / weights.sum())
    begin, end = np.sort(generator.integers(0, steps + 1, (2, active + 1)), axis=0)
    silent = (np.arange(steps)[:, None] >= begin) & (np.arange(steps)[:, None] < end)
    silent[:, :-1] &= generator.uniform(size=active) < 0.7
    silent[:, -1] &= generator.uniform() < 0.3
    silent[:, -1] |= generator.uniform(size=steps) < generator.choice([0.0, 0.5, 0.95])
    ids[silent[np.arange(steps)[:, None], ids] | silent[:, -1:]] = -1
    # The gradients' size: what is interpolated bends where it is near epsilon.
    unit = 10 ** generator.uniform(np.log10(epsilon) - 1, 3)
    curvature = generator.uniform(0, 1, shape) * unit * (loss == "separate")
    drift = generator.normal(size=(active, COLUMNS))[ids]
    return {
        "ids": ids,
        "rates": rates(generator, steps),
        "table": generator.normal(size=(active, COLUMNS)).astype(dtype),
        "h": curvature.astype(dtype),
        "c": generator.normal(size=(*shape, COLUMNS)).astype(dtype),
        "z": (unit * (drift + generator.normal(size=(*shape, COLUMNS)))).astype(dtype),
        "s": (generator.uniform(size=steps) * unit / BATCH * (loss == "coupled")).astype(dtype),
        "q": generator.normal(size=(steps, COLUMNS)).astype(dtype),
    }


def check(job, folder=None):
    """Run a job's sequences; return how large the difference is beside its bound, for each."""
    dtype, rows, active = job["dtype"], job["rows"], job["active"]
    known = constants(*job["betas"], dtype)
    generator = np.random.default_rng(job["seed"])
    places = np.stack(
        [generator.permutation(rows)[:active] for _ in range(job["sequences"])]
    )  # of the rows that are read, in the table
    arguments = job["steps"], active, dtype, job["loss"], job["epsilon"]
    drawn = [draw(generator, *arguments) for _ in range(job["sequences"])]
    batches = {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}
    replay = Replay(
        DeferredAdam,
        rows,
        COLUMNS,
        dtype,
        beta_1=job["betas"][0],
        beta_2=job["betas"][1],
        epsilon=job["epsilon"],
    )
    turn = replay.layer.weights[0].deferred_rows.turn

    def sweep(t):
        swept = (t * turn + np.arange(turn)) % rows
        return (places[..., None] == swept).any(axis=-1)

    epsilon = float(np.dtype(dtype).type(job["epsilon"]))
    expected = follow(batches, known, dtype, epsilon, sweep)
    ratios, errors = [], []
    for number, one in enumerate(drawn):
        table = np.zeros((rows, COLUMNS), dtype)
        table[places[number]] = one["table"]
        ids = np.where(one["ids"] >= 0, places[number][one["ids"]], -1)
        arrays = {name: one[name] for name in ("rates", "h", "c", "z", "s", "q")}
        reads, after = replay.run(table, ids, **arrays)
        # What the model reads in each step, and the whole table at the end.
        present = one["ids"] >= 0
        found = np.concatenate([reads[present], after[places[number]]])
        right, bounds = (
            np.concatenate([expected[in_steps][number][present], expected[at_end][number]])
            for in_steps, at_end in (("reads", "table"), ("read_bounds", "table_bounds"))
        )
        wrong = np.abs(found - right)
        ratios.append(float(np.max(wrong / bounds)))
        errors.append(float(wrong.max() / one["rates"].max()))
    return {
        "ratio": ratios,
        "error": errors,  # in learning rates
        "exponent": [_exponent(one, known, epsilon) for one in drawn],
    }


def _exponent(one, known, epsilon):
    """Return (1 + rho) L / epsilon times the sum of alpha_t: Theorem 2's a-priori exponent."""
    alpha = online.step_sizes(one["rates"], known.beta_1, known.beta_2)
    repeats = [np.sum(one["h"] * (one["ids"] == i), axis=1).max() for i in range(len(one["table"]))]
    lipschitz = max(*repeats, BATCH**2 * one["s"].max())
    return float((1 + known.rho) * lipschitz / epsilon * alpha.sum())
