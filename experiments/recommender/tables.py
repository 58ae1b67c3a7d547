"""The tables and the picture of the experiment."""

import numpy as np
import study
import towers
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

BANDS = (100, 1000, 10_000)  # ranks of an item by popularity, at which bands end
SHARE = 0.95  # of Adam's recall: the common target


def steps_to(recall, curve, steps):
    """Return after how many steps a curve reaches a recall, or `None`; straight between looks."""
    looks = study.first_crossing(recall, [0.0, *curve])
    return None if np.isnan(looks) else looks * steps / len(curve)


def section(shared, rates, of, bounds, times):
    """Return the tables of one data set.

    Args:
        shared: dictionary, the settings of all its trainings.
        rates: dictionary, optimizer -> its rate.
        of: dictionary, optimizer -> what its trainings returned, one for each seed.
        bounds: dictionary, what the rankings without a training returned.
        times: dictionary, optimizer -> median and least seconds of a step.
    """
    targets = [SHARE * result["recall"] for result in of["Adam"]]
    rows = []
    for name, results in of.items():
        apart = max(
            abs(result["test_recall"] - adam["test_recall"])
            for result, adam in zip(results, of["Adam"], strict=True)
        )
        median, least = times[name]
        rows.append(
            [
                name,
                f"{rates[name]:g}",
                study.mean_spread([r["test_recall"] for r in results], 4),
                study.mean_spread([r["test_ndcg"] for r in results], 4),
                f"{apart:.1e}" if name != "Adam" else "",
                best_look(results, shared["steps"]),
                f"{median * 1e3:.2f} ({least * 1e3:.2f})",
                ", ".join(f"{times[dense][0] / median:.1f}" for dense in towers.DENSE),
                *to_target(targets, results, shared["steps"], median),
            ]
        )
    for name, shown in (("popularity", "popularity"), ("truth", "true scores")):
        if f"{name} recall" in bounds:
            figures = (f"{bounds[f'{name} {key}']:.4f}" for key in ("recall", "ndcg"))
            rows.append([f"({shown})", "", *figures, *[""] * 6])
    header = [
        "Optimizer",
        "Rate",
        "Recall@20",
        "NDCG@20",
        "Largest difference from Adam's recall",
        "Validation recall: last, best (at step)",
        "ms a step, median (least)",
        "Speedup over " + ", ".join(towers.DENSE),
        "Steps to the target",
        "Seconds to the target",
    ]
    bands = band_names()
    by_band = [["(test interactions)", *(f"{number:,}" for number in bounds["bands"])]]
    by_band += [
        [name, *(_mean([r["bands"][band] for r in results]) for band in range(len(bands)))]
        for name, results in of.items()
    ]
    return (
        f"**{shared['data']}**, {shared['steps']:,} steps of {shared['batch']} pairs, "
        f"tables of {shared['columns']} columns, {_count(len(targets), 'seed')}:\n\n"
        f"{study.table(header, rows)}\n"
        "Share of the test's items among the first 20, by the item's rank of popularity:\n\n"
        f"{study.table(['Optimizer', *bands], by_band)}"
    )


def to_target(targets, results, steps, seconds):
    """Return after how many steps, and seconds, trainings reach each its target: two cells.

    Args:
        targets: list of recalls, one for each seed.
        results: list of what the trainings returned.
        steps: int, of a training.
        seconds: float, of a step.
    """
    needed = [
        steps_to(target, result["curve"], steps)
        for target, result in zip(targets, results, strict=True)
    ]
    reached = [number for number in needed if number is not None]
    if len(reached) < len(needed):
        return f"{len(reached)} of {_count(len(needed), 'seed')} reached it", ""
    return study.mean_spread(needed, 0), study.mean_spread([n * seconds for n in needed], 1)


def best_look(results, steps):
    """Return the validation's recall at the last look and, if another is higher, at the best."""
    curves = np.array([result["curve"] for result in results])
    cell, looks = study.mean_spread(curves[:, -1], 4), curves.shape[1]
    best = looks - curves[:, ::-1].argmax(axis=1)  # the last one of equal looks
    if np.all(best == looks):
        return cell
    at = " to ".join(f"{steps * look // looks:,}" for look in sorted({min(best), max(best)}))
    return f"{cell}, {study.mean_spread(curves.max(axis=1), 4)} ({at})"


def by_rate(searched):
    """Return a table of the searched rates.

    Args:
        searched: dictionary, data set -> what `study.Study.search_rates` returned, or nothing.
    """
    kinds = {f"{data}: {name}": by for data, of in searched.items() for name, by in of.items()}
    if not kinds:
        return ""
    return study.rates_table(kinds, "items of the validation that were missed, in percent")


def by_rows(times, threads):
    """Return a table of the steps' times by the rows of the items' table.

    Args:
        times: dictionary, number of rows -> name -> median and least seconds of a step.
        threads: int, that they were timed with.
    """
    names = min(times.values(), key=len)

    def cell(of, name):
        median, least = of[name]
        return f"{median * 1e3:.2f} ({least * 1e3:.2f}), {median / of['DeferredAdam'][0]:.1f}x"

    rows = [[name, *(cell(of, name) for of in times.values())] for name in names]
    header = ["Optimizer", *(f"{count:,} items" for count in times)]
    return (
        f"Milliseconds a step with {_count(threads, 'thread')}, median (least), and the median "
        f"over `DeferredAdam`'s, by the rows of the items' table:\n\n{study.table(header, rows)}"
    )


def band_names():
    """Return the names of the bands of ranks."""
    begins = [1, *(end + 1 for end in BANDS[:-1])]
    names = [f"{begin:,} to {end:,}" for begin, end in zip(begins, BANDS, strict=True)]
    return [*names, f"above {BANDS[-1]:,}"]


def _count(number, noun):
    return f"{number} {noun}" + "s" * (number != 1)


def _mean(values):
    return study.mean_spread(values, 3) if None not in values else ""


def draw(parts):
    """Return the picture: recall by seconds, and by popularity, a row for each data set.

    Args:
        parts: list of the settings, the results by optimizer and the times of each data set.
    """
    figure = Figure(figsize=(11, 4.2 * len(parts)), layout="constrained")
    rows = figure.subplots(len(parts), 2, squeeze=False)
    for (shared, of, times), (left, right) in zip(parts, rows, strict=True):
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
            xscale="log",
            xlabel="seconds of training",
            ylabel="recall@20, validation",
            title=shared["data"],
        )
        right.set(
            xlabel="the item's rank of popularity",
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
