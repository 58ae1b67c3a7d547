"""The tables and pictures of the study."""

import numpy as np
from matplotlib.figure import Figure
from measures import improvement, mean_of
from scenes import CLASSES
from study import mean_spread, table

ALONE = "one task alone"  # in the place of a setting, for networks of one task
BY_HAND = "depth loss x 0.25"  # a setting of equal weights only, beside the base setting
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


def measures_by_combiner(runs):
    """Return the list of measures of each seed, by combiner."""
    found = {}
    for job, result in runs:
        found.setdefault(job["combiner"], []).append(result["measures"])
    return found


def deltas(runs):
    """Return each seed's improvement over equal weights' mean in percent, by combiner."""
    found = measures_by_combiner(runs)
    base = mean_of(found["Sum"])
    return {name: [improvement(run, base) for run in seeds] for name, seeds in found.items()}


def wins(found, name):
    """Tell whether a combiner is ahead of equal weights by more than both spreads together."""
    spreads = [np.std(found[n], ddof=1) if len(found[n]) > 1 else np.inf for n in (name, "Sum")]
    return name != "Sum" and np.mean(found[name]) - np.mean(found["Sum"]) > sum(spreads)


def alone(runs):
    """Return the measures of the networks of one task, as a list with an entry for each seed."""
    seeds = {}
    for job, result in runs:
        seeds.setdefault(job["seed"], {}).update(result["measures"])
    return list(seeds.values())


def tables(runs, rates):
    """Return all tables in Markdown; `runs` are (job, result) by setting, and "alone"."""
    single = alone(runs["alone"])
    return "\n".join(
        [
            rates,
            "The base setting, by combiner; Δ in percent, over equal weights and over networks",
            "of one task:\n",
            _base_table(runs["base"], single),
            "Δ over equal weights in percent; bold where it is larger than both spreads together:",
            "",
            _settings_table(runs),
            "Equal weights, by setting and pair of tasks, all shared layers, means over training",
            "and seeds; the ratio is that of the longer gradient to the shorter one:\n",
            _conflict_table(runs),
            "The base setting by layer, in the first epoch and in the last:\n",
            _layer_table(runs["base"]),
        ]
    )


def _base_table(runs, single):
    found, over_equal, base = measures_by_combiner(runs), deltas(runs), mean_of(single)
    rows = []
    for name, seeds in [("(one task alone)", single), *found.items()]:
        row = [name]
        for task, key, _, digits in SHOWN:
            row.append(mean_spread([run[task][key] for run in seeds], digits))
        row.append(mean_spread(over_equal[name], 1) if name in over_equal else "")
        row.append(mean_spread([improvement(run, base) for run in seeds], 1))
        rows.append(row)
    header = ["Combiner", *(title for _, _, title, _ in SHOWN), "Δ equal", "Δ alone"]
    return table(header, rows)


def _settings_table(runs):
    settings = [name for name in runs if name != "alone"]
    names = [name for name in deltas(runs[settings[-1]]) if name != "Sum"]
    rows = []
    for setting in settings:
        found = deltas(runs[setting])
        cells = [mean_spread(found[name], 1) for name in names]
        cells = [f"**{c}**" if wins(found, n) else c for n, c in zip(names, cells, strict=True)]
        rows.append([setting, mean_spread(found["Sum"], 1), *cells])
    return table(["Setting", "Sum (equal weights)", *names], rows)


def watched(runs):
    """Return arrays (seeds, epochs), as `conflicts.read` names them, by (layer, pair)."""
    found = {}
    for _, result in runs:
        for row in result.get("conflict", []):
            place = found.setdefault((row["layer"], row["pair"]), {})
            for key in ("cosine", "conflicting", "ratio", "steps"):
                place.setdefault(key, []).append(row[key])
    return {place: {k: np.array(v) for k, v in parts.items()} for place, parts in found.items()}


def conflict_rows(runs):
    """Return the means over training and seeds, as `GradientConflict.table` has them."""
    return [
        {"layer": layer, "tasks": tuple(pair.split("-")), "steps": int(parts["steps"].sum())}
        | {key: float(parts[key].mean()) for key in ("cosine", "conflicting")}
        for (layer, pair), parts in watched(runs).items()
    ]


def _conflict_table(runs):
    rows = []
    for setting in runs:
        for (layer, pair), parts in watched(runs[setting]).items():
            if layer == "global":
                rows.append([setting, pair, *_cells(parts, slice(None))])
    return table(["Setting", "Tasks", "Cosine", "Conflicting steps, %", "Ratio"], rows)


def _layer_table(runs):
    rows = []
    for (layer, pair), parts in watched(runs).items():
        first, last = (_cells(parts, slice(n, n + 1 or None)) for n in (0, -1))
        rows.append([layer, pair, *(f"{a}; {b}" for a, b in zip(first, last, strict=True))])
    return table(["Layer", "Tasks", "Cosine", "Conflicting steps, %", "Ratio"], rows)


def _cells(parts, epochs):
    means = {key: values[:, epochs].mean(axis=1) for key, values in parts.items()}
    return (
        mean_spread(means["cosine"], 3),
        mean_spread(100.0 * means["conflicting"], 1),
        mean_spread(means["ratio"], 1),
    )


def draw(runs):
    """Draw the improvement over equal weights by setting, and the cosines over training."""
    settings = [name for name in runs if name != "alone"]
    found = watched(runs["base"])
    pairs = list(dict.fromkeys(pair for _, pair in found))
    columns = 3
    heights = [1.6] + [1.0] * (-(-len(settings) // columns) - 1) + [1.2]
    figure = Figure(figsize=(11.0, 2.4 * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for number, setting in enumerate(settings):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        _draw_deltas(axes, deltas(runs[setting]), setting)
    first = None
    for number, pair in enumerate(pairs):
        axes = first = figure.add_subplot(grid[-1, number], sharey=first)
        for (layer, other), parts in found.items():
            if other == pair and layer != "global":
                values = parts["cosine"]
                axes.plot(np.arange(1, values.shape[1] + 1), values.mean(axis=0), "o-", label=layer)
        axes.axhline(0.0, color="0.6", lw=1)
        axes.set(title=pair.replace("-", " and "), xlabel="epoch")
        axes.set_ylabel("cosine" if number == 0 else "")
    if pairs:
        axes.legend(frameon=False)
    return figure


def _draw_deltas(axes, found, setting):
    for place, (name, values) in enumerate(reversed(found.items())):
        color = "tab:green" if wins(found, name) else "tab:gray" if name == "Sum" else "tab:blue"
        axes.plot(values, [place] * len(values), "o", color=color, alpha=0.5)
        axes.plot(np.mean(values), place, "|", color="black", markersize=12)
    axes.axvline(0.0, color="0.6", lw=1)
    axes.set_yticks(range(len(found)), list(reversed(found)))
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set(title=setting, xlabel="better than equal weights, %")


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
