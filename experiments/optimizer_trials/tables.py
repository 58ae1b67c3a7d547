"""The tables and the picture: who solves what, in how many steps, at which rates."""

import math
import typing

import numpy as np
import study
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from tasks import TASKS

SUGGESTED = "suggest_optimizer"
STEPS = """\
Median of the seeds (least–most) at the best rate; "2 of 3" where not all reached it, "no" with the
median of the best figures where none did, and "NaN" where every training at every rate diverged.\
"""
RATES_TRIED = """\
The best rate, with a star if it is the least or the largest of those tried; in parentheses at how
many of the rates all seeds reach the target; and the share of all trainings that diverged.\
"""


class Row(typing.NamedTuple):
    """An optimizer on a task, at its best rate.

    Attributes:
        rate: the rate.
        edge: whether it is the least or the largest that was tried.
        steps: list, the steps to the target of the seeds that reached it.
        seeds: how many there were.
        best: the best figure, the median over the seeds.
        solving: at how many of the rates all seeds reached the target.
        diverged: the share of all trainings that diverged.
    """

    rate: float
    edge: bool
    steps: list
    seeds: int
    best: float
    solving: int
    diverged: float

    @classmethod
    def of(cls, result):
        """Return the row of a result: the best of its rates."""
        seeds, rows = result["seeds"], []
        diverged = np.mean(result["diverged"])
        reached = [[steps for steps in runs if steps is not None] for runs in result["reached"]]
        solving = sum(len(steps) == seeds for steps in reached)
        for rate, steps, best in zip(result["rates"], reached, result["best"], strict=True):
            edge = rate in (result["rates"][0], result["rates"][-1])
            rows.append(cls(rate, edge, steps, seeds, float(np.median(best)), solving, diverged))
        return min(rows, key=lambda row: (-len(row.steps), row.median, row.best))

    @property
    def solved(self):
        """Whether all seeds reached the target."""
        return len(self.steps) == self.seeds

    @property
    def median(self):
        """The median of the steps, of the seeds that reached the target."""
        return float(np.median(self.steps)) if self.steps else math.inf

    @property
    def to_all(self):
        """The median of the steps if all seeds reached the target, else infinite."""
        return self.median if self.solved else math.inf

    def rates(self):
        """Write the rate, and at how many rates it is solved."""
        return f"{self.rate:g}{'*' if self.edge else ''} ({self.solving})"

    def __str__(self):
        if self.solved:
            return f"{self.median:.0f} ({min(self.steps)}–{max(self.steps)})"
        if self.steps:
            return f"{len(self.steps)} of {self.seeds}"
        return "NaN" if self.diverged == 1 else f"no: {self.best:.2g}"


def read_rows(results):
    """Return {optimizer: {task: `Row`}}, those first that solve the most, and in fewer steps."""
    rows = {}
    order = list(TASKS)
    for result in sorted(results, key=lambda result: order.index(result["task"])):
        if "left out" not in result:
            rows.setdefault(result["optimizer"], {})[result["task"]] = Row.of(result)
    fewest = {
        task: min((of[task].to_all for of in rows.values() if task in of), default=math.inf)
        for task in TASKS
    }

    def rank(name):
        solved = [task for task, row in rows[name].items() if row.solved]
        slower = [math.log(rows[name][task].median / fewest[task]) for task in solved]
        return -len(solved), np.mean(slower) if slower else 0.0

    return {name: rows[name] for name in sorted(rows, key=rank)}


def table(rows, cell, last, title):
    """Return a table: a row per optimizer, a column per task, and what `last` makes of a row."""
    tasks = [task for task in TASKS if any(task in of_tasks for of_tasks in rows.values())]
    lines = [
        [name, *(cell(of[task]) if task in of else "" for task in tasks), last(list(of.values()))]
        for name, of in rows.items()
    ]
    return study.table(["Optimizer", *tasks, title], lines)


def report(results):
    """Return the rows, without the suggested optimizer, and the tables."""
    rows = read_rows(results)
    untuned = rows.pop(SUGGESTED, {})
    classes = {
        r["task"]: r["class"] for r in results if r["optimizer"] == SUGGESTED and "class" in r
    }
    steps = table(rows, str, lambda of: f"{sum(r.solved for r in of)} of {len(of)}", "solved")
    rates = table(
        rows, Row.rates, lambda of: f"{np.mean([r.diverged for r in of]):.0%}", "diverged"
    )
    text = f"## Steps to the target\n\n{STEPS}\n\n{steps}\n## Rates\n\n{RATES_TRIED}\n\n{rates}"
    if untuned:
        lines = []
        for task, row in untuned.items():
            field = {name: of[task] for name, of in rows.items() if task in of}
            best = min(field, key=lambda name: field[name].to_all)
            middle = np.median([row.to_all for row in field.values()])
            middle = f"{middle:.0f}" if middle < math.inf else "not solved"
            lines.append([task, classes[task], row, f"{best}: {field[best]}", middle])
        text += "\n## The suggested optimizer, untuned, beside the tuned ones\n\n"
        text += study.table(["Task", "suggested", "steps", "best", "median of the field"], lines)
    return rows, text


def draw(rows, epochs):
    """Return a picture: how many steps each optimizer took on each task, of those that it had."""
    tasks = [task for task in TASKS if any(task in of_tasks for of_tasks in rows.values())]
    shares = np.full((len(rows), len(tasks)), np.nan)
    figure = Figure(figsize=(2.6 + 0.5 * len(tasks), 1.6 + 0.2 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for i, of_tasks in enumerate(rows.values()):
        for j, task in enumerate(tasks):
            if task in of_tasks and of_tasks[task].solved:
                shares[i, j] = of_tasks[task].median / (epochs * TASKS[task].steps)
            else:
                text = f"{len(of_tasks[task].steps)}" if task in of_tasks else "·"
                ax.text(j, i, text, ha="center", va="center", fontsize=7, color="gray")
    image = ax.imshow(shares, cmap="viridis_r", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=7)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=ax, format=PercentFormatter(1), shrink=0.5)
    bar.set_label("steps to the target, of those allowed")
    return figure
