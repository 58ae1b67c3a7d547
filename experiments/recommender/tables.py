"""The tables and the picture of the experiment."""

import numpy as np
import study
import towers
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

BANDS = (100, 1000, 10_000)  # places of an item by popularity, at which bands end
SHARE = 0.95  # of Adam's recall: the common quality


def steps_to(recall, curve, steps):
    """Return after how many steps a curve reaches a recall, or `None`; straight between looks."""
    looks = study.first_crossing(recall, [0.0, *curve])
    return None if np.isnan(looks) else looks * steps / len(curve)


def section(data, shared, rates, of, bounds, times):
    """Return the tables of one data set."""
    targets = [SHARE * result["recall"] for result in of["Adam"]]
    rows = []
    for name, results in of.items():
        grid = towers.RULES[towers.EXACT.get(name, name)][-1]
        ends = grid[0], grid[-1]
        needed = [
            steps_to(target, result["curve"], shared["steps"])
            for target, result in zip(targets, results, strict=True)
        ]
        apart = max(
            abs(result["test_recall"] - adam["test_recall"])
            for result, adam in zip(results, of["Adam"], strict=True)
        )
        reached = None not in needed
        rows.append(
            [
                name,
                f"{rates[name]:g}" + " (end of the grid)" * (rates[name] in ends),
                study.mean_spread([r["test_recall"] for r in results], 4),
                study.mean_spread([r["test_ndcg"] for r in results], 4),
                f"{apart:.1e}" if name != "Adam" else "",
                f"{times[name][0] * 1e3:.2f} ({times[name][1] * 1e3:.2f})",
                *(f"{times[dense][0] / times[name][0]:.1f}" for dense in towers.DENSE),
                study.mean_spread(needed, 0) if reached else "not reached",
                study.mean_spread([n * times[name][0] for n in needed], 1) if reached else "",
            ]
        )
    for name in ("popularity", "truth"):
        if f"{name} recall" in bounds:
            figures = (f"{bounds[f'{name} {key}']:.4f}" for key in ("recall", "ndcg"))
            rows.append([f"({name})", "", *figures, *[""] * 6])
    header = [
        "Optimizer",
        "Rate",
        "Recall@20",
        "NDCG@20",
        "Largest difference to Adam's recall",
        "ms a step, median (least)",
        *(f"{name}'s time over it" for name in ("Adam", towers.KERAS)),
        "Steps to the quality",
        "Seconds",
    ]
    bands = band_names()
    by_band = [
        [name, *(_mean([r["bands"][band] for r in results]) for band in range(len(bands)))]
        for name, results in of.items()
    ]
    return (
        f"**{data}**, {shared['steps']:,} steps of {shared['batch']} pairs, "
        f"tables of {shared['columns']} columns, {len(targets)} "
        f"{'seeds' if len(targets) > 1 else 'seed'}; the quality is {SHARE:.0%} of the recall that "
        f"Adam ends at on the validation's items; steps timed with {times['threads']} "
        f"{'threads' if times['threads'] > 1 else 'thread'}.\n\n{study.table(header, rows)}\n"
        "Share of the wanted items that were among the first 20, by the item's place in the order "
        f"of popularity:\n\n{study.table(['Optimizer', *bands], by_band)}"
    )


def by_rows(times):
    """Return a table of the steps' times by the rows of the items' table.

    Args:
        times: dictionary, number of rows -> name -> median and least seconds of a step.
    """
    names = [name for name in min(times.values(), key=len) if name != "threads"]

    def cell(of, name):
        median, least = of[name]
        return f"{median * 1e3:.2f} ({least * 1e3:.2f}), {median / of['DeferredAdam'][0]:.1f}x"

    rows = [[name, *(cell(of, name) for of in times.values())] for name in names]
    header = ["Optimizer", *(f"{count:,} items" for count in times)]
    return (
        "Milliseconds a step, median (least), and the median over `DeferredAdam`'s, by the rows of "
        f"the items' table:\n\n{study.table(header, rows)}"
    )


def band_names():
    """Return the names of the bands of places."""
    begins = [1, *(end + 1 for end in BANDS[:-1])]
    names = [f"{begin:,} to {end:,}" for begin, end in zip(begins, BANDS, strict=True)]
    return [*names, f"above {BANDS[-1]:,}"]


def _mean(values):
    return study.mean_spread(values, 3) if None not in values else ""


def draw(parts):
    """Return the picture: recall by seconds, and by popularity, a row for each data set."""
    figure = Figure(figsize=(11, 4.2 * len(parts)), layout="constrained")
    rows = figure.subplots(len(parts), 2, squeeze=False)
    for (data, of, times, shared), (left, right) in zip(parts, rows, strict=True):
        for place, (name, results) in enumerate(of.items()):
            curves = np.array([result["curve"] for result in results])
            looks = shared["steps"] / curves.shape[1] * np.arange(1, curves.shape[1] + 1)
            # What lies under the curve of the same iterates shows.
            broad = {"linewidth": 5, "alpha": 0.4} if name in towers.EXACT else {}
            style = {"color": f"C{place}", "label": name} | broad
            seconds = looks * times[name][0]
            left.plot(seconds, curves.mean(0), marker=".", **style)
            if len(curves) > 1:
                low, high = curves.min(0), curves.max(0)
                left.fill_between(seconds, low, high, alpha=0.2, color=f"C{place}", linewidth=0)
            bands = np.array([result["bands"] for result in results], float).mean(0)
            right.plot(range(len(bands)), bands, marker="o", **style)
        left.set(
            xscale="log", xlabel="seconds of training", ylabel="recall@20, validation", title=data
        )
        right.set(
            xlabel="the item's place by popularity",
            ylabel="share found among the first 20, test",
            xticks=range(len(BANDS) + 1),
            xticklabels=band_names(),
        )
        left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.xaxis.set_major_formatter("{x:g}")
        left.xaxis.set_minor_locator(NullLocator())
        right.legend(frameon=False)
        for axes in (left, right):
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
    return figure
