"""The picture of the experiment: bounds, regret, wrong ends, bias corrections."""

import numpy as np
from matplotlib.figure import Figure
from online import SCENES, of_periods

COLORS = {
    "Adam": "#b8b8b8",
    "DeferredAdam": "#1f77b4",
    "AMSGrad": "#2ca02c",
    "LazyAdam, per row": "#d62728",
    "LazyAdam, global": "#ff7f0e",
}


def _style(name):
    """Return a line's style: Adam's and DeferredAdam's coincide, a broad one under a thin one."""
    return {"color": COLORS[name], "lw": 5 if name == "Adam" else 1.5}


def draw(found):
    """Return the figure of the jobs' results, by part."""
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    axes = figure.subplots(2, 2)
    _bounds(axes[0, 0], found["check"])
    _regret(axes[0, 1], found["reddi"])
    _positions(axes[1, 0], found)
    _corrections(axes[1, 1], found["corrections"])
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _bounds(axis, checked):
    bins = np.linspace(-5, 1, 49)
    for dtype, color in (("float64", "#1f77b4"), ("float32", "#ff7f0e")):
        ratios = [r for job, result in checked if job["dtype"] == dtype for r in result["ratio"]]
        logs = np.log10(np.maximum(ratios, 1e-5))
        axis.hist(logs, bins, alpha=0.6, color=color, label=f"{dtype}, {len(ratios)} sequences")
    axis.axvline(0.0, color="black", lw=1)
    axis.annotate("the bound", (0.0, 0.5), (4, 0), ("data", "axes fraction"), "offset points")
    axis.set(xticks=range(-5, 2), xticklabels=[f"$10^{{{n}}}$" for n in range(-5, 2)])
    axis.set(title="DeferredAdam's largest difference from Adam", xlabel="over the theorem's bound")
    axis.set_ylabel("sequences")
    axis.legend(frameon=False, loc="upper left")


def _regret(axis, played):
    for job, result in played:
        length = len(SCENES[job["scene"]][0])
        ends = length * np.arange(1, job["periods"] + 1)
        regret = of_periods(result, length)
        axis.loglog(ends, regret, label=job["optimizer"], **_style(job["optimizer"]))
    axis.axhline(20 / 101, color="black", lw=1, ls=":")
    axis.annotate("at the wrong end", (ends[0], 20 / 101), (0, -12), "data", "offset points")
    axis.set(title="Losses 1010 w, then 100 times -10 w", xlabel="update")
    axis.set_ylabel("regret of the latest 101 updates, mean")
    axis.legend(frameon=False)


def _positions(axis, found):
    for scene, style in (("adam_fails", "-"), ("lazy_fails", "--")):
        for job, result in found[scene]:
            if job["optimizer"] == "AMSGrad":
                continue
            label = job["optimizer"] if scene == "adam_fails" else None
            share = np.arange(1, job["periods"] + 1) / job["periods"]
            axis.plot(share, result["position"], style, label=label, **_style(job["optimizer"]))
    axis.axhline(-1, color="black", lw=1, ls=":")
    axis.plot([], [], "-k", label="3, -1, -1, every 100 steps")
    axis.plot([], [], "--k", label="34 gradients, every 10 steps")
    axis.set(title="A row with gaps; the best weight is -1", xlabel="share of the run")
    axis.set(ylabel="w", ylim=(-1.1, 1.9))
    axis.legend(frameon=False, ncols=2, fontsize=9)


def _corrections(axis, moved):
    for job, result in moved:
        k = np.arange(1, job["visits"] + 1)
        style = _style(job["optimizer"])
        axis.loglog(k, result["early"], "-", label=job["optimizer"], **style)
        axis.loglog(k, result["late"], "--", **style)
    axis.plot([], [], "-k", label="first seen in update 1")
    axis.plot([], [], "--k", label=f"first seen in update {job['late']:,}")
    axis.set(title="A row's k-th update, until it is next seen", xlabel="k")
    axis.set(ylabel="moved, in learning rates", ylim=(0.8, 300))
    axis.legend(frameon=False, fontsize=9, ncols=2)
