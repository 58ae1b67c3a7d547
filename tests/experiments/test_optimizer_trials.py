"""The experiment `optimizer_trials`: steps to a target, rates, and who is refused."""

import json
import re

import pytest


def test_two_tasks_are_tried(experiment, monkeypatch, capsys, tmp_path):
    trials = experiment("optimizer_trials")
    monkeypatch.setattr(trials, "RATES", 1)
    monkeypatch.setitem(trials.SIZES["quick"], "epochs", 2)
    names = ["SGD, momentum, swa_start", "suggest_optimizer"]
    trials.run("--tasks", "saddle", "conv net", "--optimizers", *names)
    lines = capsys.readouterr().out.splitlines()
    for expected in (
        r"\| Optimizer \| saddle \| conv net \| solved \|$",
        r"\| SGD, momentum, swa_start \| no: 1 \| no: 0\.\d+ \| 0 of 2 \|$",
        r"\| conv net \| SGD \| no: 0\.\d+ \| ",
        r"3 trainings, ",  # the advice is for networks
    ):
        assert any(re.match(expected, line) for line in lines), expected
    folder = tmp_path / "tb_logs/optimizer_trials/quick"
    assert (folder / "optimizer_trials.png").exists()
    for line in (folder / "records.jsonl").read_text().splitlines():
        job = json.loads(line)["job"]  # all that a rate, a target or an option changes
        options = {"momentum": 0.9, "swa_start": None} if "SGD" in job["optimizer"] else {}
        assert job["rates"] == ([0.01] if options else [1.0]) and job["options"] == options
        assert job["target"] == {"saddle": 0.05, "conv net": 0.05}[job["task"]]


def test_the_best_rate_solves_it_for_most_seeds_and_then_soonest(experiment):
    trials = experiment("optimizer_trials")
    result = {
        "task": "saddle",
        "optimizer": "SGD",
        "seeds": 2,
        "rates": [0.1, 0.2, 0.4],
        "reached": [[50, None], [100, 80], [150, 60]],
        "best": [[0.1, 0.3], [0.1, 0.1], [0.1, 0.1]],
        "diverged": [[False, False], [False, False], [True, False]],
    }
    (row,) = trials.report([result])[0]["SGD"].values()
    assert (row.rate, row.steps, row.median, row.edge, row.solving) == (
        0.2,
        [100, 80],
        90,
        False,
        2,
    )
    assert row.diverged == pytest.approx(1 / 6)
    assert str(row) == "90 (80–100)"
