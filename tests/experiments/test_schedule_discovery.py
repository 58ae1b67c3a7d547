"""Discovered schedules against tuned ones: regrets, the oracle, methods, and a small run."""

import re

import numpy as np
import pytest

from keras_bp.schedules import OneCycle
from tools import discovery
from tools.discovery import simulation

TINY = {
    "problems": ("digits",),
    "methods": ("constant", "DiscoveredSchedule"),
    "peaks": (3e-3, 1e-2),
    "seeds": 2,
    "finalists": 1,
    "epochs": 2,
    "tasks": 2,
    "all_methods": 1,
    "task_steps": 96,
}


@pytest.fixture
def script(experiment):
    return experiment("schedule_discovery")


def run_by(losses):
    """Return a `run_named` whose trainings end with `losses(job)`, and the jobs it trained."""
    trained = []

    def run_named(named):
        trained.extend(job for jobs in named.values() for job in jobs)
        return {
            name: [{"loss": losses(job), "accuracy": 0.5} for job in jobs]
            for name, jobs in named.items()
        }

    return run_named, trained


def test_a_small_run(script, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(script, "SIZES", {"quick": TINY | {"peaks": (1e-2,)}})
    script.run("--quick", "--out", tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert re.search(r"\| digits \| 6,570 \| 88 \| 2\.\d{4} ± .* \| peak 0\.01, \d+% warm-up", text)
    assert "### Regrets on 2 tasks of each family, %" in text
    # Seen: 93.6 % after two epochs; chance 10 %.
    accuracies = text[text.index("### Test accuracies") :]
    row = re.search(r"\| DiscoveredSchedule \| (\d+\.\d) ± \d+\.\d \|", accuracies)
    assert float(row[1]) > 80
    assert (tmp_path / "schedule_discovery.png").stat().st_size > 5000
    records = (tmp_path / "records.jsonl").read_text().splitlines()
    # Five schedules, a finalist's second seed; two methods and the first weights; 2 x 2 tasks.
    assert len(records) == 5 + 1 + 6 + 8
    assert '"examples": null' in records[0] and '"epochs": 2' in records[0]

    script.run("--quick", "--out", tmp_path)
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == len(records)


def test_the_oracle_is_the_best_mean_of_the_finalists(script):
    """The best from one seed is not the best of all."""
    size = TINY | {"finalists": 2, "seeds": 3}

    def losses(job):
        if job["decay"] != "cosine" or job["warmup_share"]:
            return 1.0
        high = job["peak"] == 1e-2
        return (0.1 if high else 0.2) + (0.4 * (job["seed"] > 1) if high else 0.0)

    run, trained = run_by(losses)
    one, results = script.oracles(run, size)["digits"]
    assert (one["peak"], one["decay"], one["warmup_share"]) == (3e-3, "cosine", 0.0)
    assert [result["loss"] for result in results] == pytest.approx([0.2] * 3)
    assert len(trained) == 10 + 2 * 2


def test_a_training_that_diverges_is_no_oracle(script):
    run, _ = run_by(lambda job: np.nan if job["peak"] == 1e-2 else 0.3)
    one, _ = script.oracles(run, TINY)["digits"]
    assert one["peak"] == 3e-3


def test_regrets_by_hand(script):
    """From 3 at the first weights to 1: a loss of 2 is half way, 0.9 below the oracle."""
    results = {"first weights": [{"loss": 2.0}, {"loss": 4.0}], "a": [{"loss": 2.0}, {"loss": 0.9}]}
    found = script.regrets_of({"digits": results}, {"digits": (None, [{"loss": 1.0}])})
    np.testing.assert_allclose(found["digits"]["a"], [50.0, -5.0])
    assert list(found["digits"]) == ["a"]


def test_a_table_of_methods_by_hand(script):
    """The mean is that of the four problems, seed by seed; the further networks lack a method."""
    values = {
        "digits": {"a": [1.0, 3.0], "b": [0.0, 0.0]},
        "cifar10": {"a": [5.0, 3.0], "b": [1.0, 2.0]},
        "cifar10, pooled": {"b": [4.0, 4.0]},
    }
    assert script.methods_table(values, 1, mean=True).splitlines()[::2] == [
        "| Method | digits | cifar10 | cifar10, pooled | mean of 2 |",
        "| a | 2.0 ± 1.4 | 4.0 ± 1.4 |  | 3.0 ± 0.0 |",
    ]
    assert "| b | 0.0 ± 0.0 | 1.5 ± 0.7 | 4.0 ± 0.0 |\n" in script.methods_table(values, 1)


def test_regrets_of_tasks_by_hand(script):
    """Of mean losses over the seeds; at most 100 %; of what all tasks were trained by."""
    jobs = [{"task": task} for task in (0, 0, 1)]
    results = [
        {"oracle": 1.0, "start": 5.0, "a": 2.0, "b": 1.0},
        {"oracle": 1.0, "start": 5.0, "a": 4.0, "b": 1.0},
        {"oracle": 0.0, "start": 1.0, "a": 9.0},
    ]
    found = script.families.regrets(jobs, results)
    assert list(found) == ["a"]
    np.testing.assert_allclose(found["a"], [50.0, 100.0])


def test_schedules_of_a_task_end_where_those_of_the_problems_do(script):
    """The untuned ones and the cycle, trained alone; the oracle is the least of the grid."""
    task = discovery.make_task("autoencoder", 1001)
    task.optimizer, task.total_steps = "adam", 96
    found = script.families.train(task, ["cosine", script.problems.RANGE_TEST], 3)
    grid = discovery.schedules(script.PEAKS, 96)
    losses = simulation.final_losses(task, simulation.train(task, grid, 3))
    assert found["oracle"] == pytest.approx(losses.min(), rel=1e-5)
    rates = 1e-3 * np.cos(0.5 * np.pi * np.arange(96) / 96) ** 2
    (weights,) = simulation.train(task, rates[:, None], 3)
    assert found["cosine"] == pytest.approx(task.losses(weights[None])[0], rel=1e-4)
    curve = script.families.range_test(task, 3)
    left = 96 - len(curve.losses)
    rates = OneCycle(curve.suggest(), left)(np.arange(left)).numpy()
    (weights,) = simulation.train(task, rates[:, None], 3)
    assert found[script.problems.RANGE_TEST] == pytest.approx(
        task.losses(weights[None])[0], rel=1e-4
    )
    assert found["start"] == pytest.approx(task.losses(task.weights[None])[0], rel=1e-5)


def test_what_is_said_of_bad_arguments(script, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"--data-dir must be a folder that holds cifar10\.npz"):
        script.run("--quick", "--problems", "cifar10", "--data-dir", tmp_path)
    with pytest.raises(SystemExit):
        script.run("--quick", "--methods", "cosines")
    assert "invalid choice: 'cosines'" in capsys.readouterr().err


def test_what_is_asked_for(script):
    """Problems and methods; on the further networks no optimizer that needs no rate."""
    options = script.study.parser("").parse_args([])
    options.problems, options.data_dir = ["characters", "digits, normalized"], None
    options.methods = ["Prodigy, cosine", "DiscoveredSchedule"]
    size = script.chosen(options, TINY)
    assert size["problems"] == ("characters", "digits, normalized")
    assert script.methods_of("characters", size) == ("Prodigy, cosine", "DiscoveredSchedule")
    assert script.methods_of("digits, normalized", size) == ["DiscoveredSchedule"]
    assert len(script.grid("characters", size)) == 10
    assert script.grid("digits, normalized", size) == [
        {"peak": peak, "warmup_share": 0.1, "decay": "linear"} for peak in TINY["peaks"]
    ]
