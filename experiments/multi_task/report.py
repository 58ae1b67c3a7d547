"""The tables and pictures of the study."""

import numpy as np
from comparison import ALONE, alone, differences, holm, measures_of, p_values
from matplotlib.figure import Figure
from measures import improvement, mean_of
from scenes import CLASSES
from study import at_edge, best_rate, mean_spread, table

SHOWN = [
    ("segmentation", "miou", "mIoU, %", 1),
    ("segmentation", "pixel_accuracy", "Pixels, %", 1),
    ("depth", "absolute", "Depth, m", 3),
    ("depth", "relative", "Depth, %", 2),
    ("normals", "mean", "Normals, mean °", 2),
    ("normals", "median", "Median °", 2),
    ("normals", "11", "< 11.25°, %", 1),
    ("normals", "22", "< 22.5°, %", 1),
    ("normals", "30", "< 30°, %", 1),
]


def tables(results, searched, at_one_rate):
    """Return all tables in Markdown.

    Args:
        results: dictionary of the results of each seed, by (setting, combiner).
        searched: dictionary of what `Study.search_rates` found, by the same.
        at_one_rate: such a dictionary as `results`, of trainings that all have the same rate.
    """
    found = differences(results)
    p = p_values(found)
    rates = {kind: best_rate(losses) for kind, losses in searched.items()}
    return "\n".join(
        [
            "Base setting, own rates; Δ in percent over equal weights, seed by seed:\n",
            _base_table(results, rates, found, holm(p)),
            "Δ over equal weights in percent, seed by seed; in brackets the rate:\n",
            _settings_table(results, rates, found, holm(p)),
            f"{_chance(found, p)} {_edges(searched)}\n",
            "The same at one rate for all:\n",
            _settings_table(at_one_rate, {}, differences(at_one_rate), set()),
            "At that rate, all shared layers: cosine; conflicting steps; ratio of lengths:\n",
            _conflict_table(at_one_rate),
            "The same by layer in the base setting, equal weights at their own rate:\n",
            _layer_table(results["base", "Sum"]),
        ]
    )


def _base_table(results, rates, found, significant):
    rows = []
    for kind, rate in rates.items():
        if kind[0] == "base":
            over = _marked(found, kind, significant) if kind in found else ""
            rows.append([kind[1], f"{rate:g}", *_base_cells(measures_of(results, *kind)), over])
    if single := alone(results):
        own = ", ".join(f"{rate:g}" for (setting, _), rate in rates.items() if setting == ALONE)
        rows.append(["(one task alone)", own, *_base_cells(single), ""])
    return table(["Combiner", "Rate", *(title for _, _, title, _ in SHOWN), "Δ"], rows)


def _base_cells(runs):
    return [mean_spread([run[task][key] for run in runs], n) for task, key, _, n in SHOWN]


def _marked(found, kind, significant):
    cell = mean_spread(found[kind], 1)
    if kind not in significant:
        return cell
    return f"**{cell}**" if np.mean(found[kind]) > 0.0 else f"*{cell}*"


def own_spread(results, setting):
    """Return each seed's improvement of equal weights over their mean."""
    runs = measures_of(results, setting, "Sum")
    return np.array([improvement(run, mean_of(runs)) for run in runs])


def settings_of(results):
    """Return the names of the settings in which combiners are compared."""
    return [name for name in dict.fromkeys(setting for setting, _ in results) if name != ALONE]


def _settings_table(results, rates, found, significant):
    """Return the table of differences, with the rates where they are given."""
    settings = settings_of(results)
    names = list(dict.fromkeys(name for setting, name in found if setting in settings))
    shown = {kind: _marked(found, kind, significant) for kind in found}
    for setting in settings:
        shown[setting, "Sum"] = mean_spread(own_spread(results, setting), 1).removeprefix("-")
    shown |= {kind: f"{shown[kind]} ({rates[kind]:g})" for kind in shown if kind in rates}
    rows = [[s, *(shown.get((s, name), "") for name in ("Sum", *names))] for s in settings]
    return table(["Setting", "Sum (equal weights)", *names], rows)


def _chance(found, p):
    """Return what chance alone would do in as many comparisons."""
    seeds, count = len(next(iter(found.values()))), len(found)
    ahead = sum(bool(np.all(values > 0.0)) for values in found.values())
    plain = sum(value <= 0.05 and np.mean(found[kind]) > 0.0 for kind, value in p.items())
    return (
        f"Of {count} comparisons {ahead} are ahead from each seed (by chance alone "
        f"{count * 0.5**seeds:.1f} would be), {plain} ahead with a p of at most 0.05 by itself "
        f"(by chance {count * 0.025:.1f})."
    )


def _edges(searched):
    grids = {kind: losses for kind, losses in searched.items() if len(losses) > 1}
    edges = [kind for kind, losses in grids.items() if at_edge(losses)]
    named = "; ".join(f"{setting}: {name}" for setting, name in edges)
    return (
        f"The rates of {len(grids)} of {len(searched)} kinds of training were searched, by "
        f"{sum(map(len, grids.values()))} trainings; the best is at the edge of what was tried "
        f"for {len(edges)}{f' ({named})' if edges else ''}."
    )


def watched(runs):
    """Return arrays (seeds, epochs), as `conflicts.read` names them, by (layer, pair)."""
    found = {}
    for result in runs:
        for row in result.get("conflict", []):
            place = found.setdefault((row["layer"], row["pair"]), {})
            for key in ("cosine", "conflicting", "ratio", "steps"):
                place.setdefault(key, []).append(row[key])
    return {place: {k: np.array(v) for k, v in parts.items()} for place, parts in found.items()}


def conflict_rows(runs):
    """Return the means over training and seeds, as `GradientConflict.table` has them."""
    return [
        {"layer": layer, "tasks": tuple(pair.split("-")), "steps": int(parts["steps"].sum())}
        | {key: float(np.nanmean(parts[key])) for key in ("cosine", "conflicting")}
        for (layer, pair), parts in watched(runs).items()
    ]


def _conflict_table(results):
    """Return the table of all shared layers, with a column for each of the base setting's pairs."""
    found = {
        setting: {
            p: _cell(parts) for (layer, p), parts in watched(runs).items() if layer == "global"
        }
        for (setting, name), runs in results.items()
        if name == "Sum"
    }
    pairs = list(next(iter(found.values())))
    rows = []
    for setting, cells in found.items():
        others = [f"{pair}: {cell}" for pair, cell in cells.items() if pair not in pairs]
        rows.append([setting, *(cells.get(pair, "") for pair in pairs), "<br>".join(others)])
    return table(["Setting", *pairs, "others"], rows)


def _layer_table(runs):
    found = watched(runs)
    layers, pairs = (list(dict.fromkeys(kind[n] for kind in found)) for n in (0, 1))
    rows = [[layer, *(_cell(found[layer, pair]) for pair in pairs)] for layer in layers]
    return table(["Layer", *pairs], rows)


def _cell(parts):
    means = {key: np.nanmean(values, axis=1) for key, values in parts.items()}
    steps = mean_spread(100.0 * means["conflicting"], 1)
    return f"{mean_spread(means['cosine'], 3)}; {steps} %; {mean_spread(means['ratio'], 1)}"


def draw(results):
    """Draw the improvement over equal weights by setting, and the cosines over training."""
    settings, conflicts = settings_of(results), watched(results["base", "Sum"])
    pairs = list(dict.fromkeys(pair for _, pair in conflicts))
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    figure = Figure(figsize=(11.0, 3.6 * rows + 2.8), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[3.6 * rows, 2.8])
    found = differences(results)
    significant = holm(p_values(found))
    for number, setting in enumerate(settings):
        axes = upper.add_subplot(rows, columns, number + 1)
        shown = {(setting, "Sum"): own_spread(results, setting)}
        shown |= {kind: values for kind, values in found.items() if kind[0] == setting}
        _draw_deltas(axes, shown, significant, setting)
    for axes, pair in zip(lower.subplots(1, len(pairs), sharey=True), pairs, strict=True):
        for (layer, other), parts in conflicts.items():
            if other == pair and layer != "global":
                mean = np.nanmean(parts["cosine"], axis=0)
                axes.plot(np.arange(1, len(mean) + 1), mean, "o-", label=layer)
        axes.axhline(0.0, color="0.6", lw=1)
        axes.set_title(f"base: {pair.replace('-', ' and ')}", fontsize=10)
        axes.set(xlabel="epoch", ylabel="cosine" if pair == pairs[0] else "")
    axes.legend(frameon=False)
    return figure


def _draw_deltas(axes, shown, significant, title):
    for place, (kind, values) in enumerate(reversed(shown.items())):
        color = "tab:gray" if kind[1] == "Sum" else "tab:blue"
        if kind in significant:
            color = "tab:green" if np.mean(values) > 0.0 else "tab:red"
        axes.plot(values, [place] * len(values), "o", color=color, alpha=0.5)
        axes.plot(np.mean(values), place, "|", color="black", markersize=12)
    names = [name for _, name in shown]
    axes.axvline(0.0, color="0.6", lw=1)
    axes.set_yticks(range(len(shown)), names[::-1])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set(title=title, xlabel="better than equal weights, %")


def draw_scenes(data):
    """Draw images and labels of some scenes, one in each column."""
    x, labels = data
    figure = Figure(figsize=(1.6 * len(x), 6.6), layout="constrained", dpi=100)
    for column in range(len(x)):
        shown = {
            "image": (x[column, :, :, :3] + 1.0) / 2.0,
            "segmentation": labels["segmentation"][column],
            "depth": labels["depth"][column, :, :, 0],
            "normals": (labels["normals"][column] + 1.0) / 2.0,
        }
        for row, (name, picture) in enumerate(shown.items()):
            axes = figure.add_subplot(len(shown), len(x), row * len(x) + column + 1)
            limits = {"segmentation": (0, len(CLASSES) - 1), "depth": (1.0, 9.0)}
            low, high = limits.get(name, (None, None))
            axes.imshow(picture, vmin=low, vmax=high, cmap="viridis")
            axes.set(xticks=[], yticks=[], ylabel="" if column else name)
    return figure
