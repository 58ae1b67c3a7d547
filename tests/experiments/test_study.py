"""A study records each training as it ends, and resumes where it was interrupted."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import study as study_module

JOBS = [{"rate": rate, "seed": seed} for rate in (0.1, 0.2) for seed in (1, 2)]
MORE = [{"rate": 0.3, "seed": seed} for seed in (1, 2)]


@pytest.fixture
def study(tmp_path):
    """Return a function that makes a study of one process in the test's folder."""

    def make(*arguments):
        arguments = ["--out", str(tmp_path / "out"), "--processes", "1", *arguments]
        options = study_module.parser("A test.").parse_args(arguments)
        (tmp_path / "name").mkdir(exist_ok=True)
        return study_module.Study(tmp_path / "name/__main__.py", options, arguments)

    return make


def product(job, folder):
    return {"product": job["rate"] * job["seed"]}


def test_what_was_trained_is_not_trained_again(study):
    trained = []

    def train(job, folder):
        trained.append(job)
        if len(trained) == 3:
            (folder / "half").write_text("done")
            raise RuntimeError("interrupted")
        return {**product(job, folder), "half": (folder / "half").exists()}

    with pytest.raises(RuntimeError, match="interrupted"):
        study().run(JOBS, train)
    again = study()
    results = again.run(JOBS, train)
    assert trained == [*JOBS[:3], *JOBS[2:]]
    assert [result["product"] for result in results] == [0.1, 0.2, 0.2, 0.4]
    # The folder of the training that was interrupted is given to it again, then removed.
    assert [result["half"] for result in results] == [False, False, True, False]
    assert not [path for path in (again.out / "jobs").iterdir() if path.is_dir()]


def test_a_grid_goes_on_beyond_an_edge_that_is_best(study):
    optima = {"inside": 0.01, "above": 0.1, "far below": 1e-6, "diverges": 0.0003}

    def train(job, folder):
        if job["kind"] == "diverges" and job["rate"] > 0.0005:
            return {"loss": float("nan")}
        return {"loss": abs(np.log(job["rate"] / optima[job["kind"]]))}

    searched = study().search_rates(
        dict.fromkeys(optima, (0.003, 0.01, 0.03)),
        lambda kind, rate: {"kind": kind, "rate": rate},
        train,
        lambda result: result["loss"],
    )
    assert {kind: list(losses) for kind, losses in searched.items()} == {
        "inside": [0.003, 0.01, 0.03],
        "above": [0.003, 0.01, 0.03, 0.09, 0.3],
        "far below": [0.0003, 0.0009, 0.003, 0.01, 0.03],
        "diverges": [0.0003, 0.0009, 0.003, 0.01, 0.03],
    }
    assert [study_module.best_rate(losses) for losses in searched.values()] == [
        0.01,
        0.09,
        0.0003,
        0.0003,
    ]
    lines = study_module.rates_table(searched, "loss").splitlines()
    assert lines[2] == "| inside | 0.003: 1.2, **0.01: 0.0**, 0.03: 1.1 |"
    assert lines[4].endswith("(the best is at the edge) |")


def test_a_grid_whose_next_rate_is_in_it_is_refused(study):
    with pytest.raises(ValueError, match=r"twice .* Received: \[0.006, 0.009, 0.01\], and 0.01"):
        study().search_rates(
            {"kind": (0.006, 0.009)},
            lambda kind, rate: {"rate": rate},
            lambda job, folder: {"loss": -job["rate"]},
            lambda result: result["loss"],
        )


def test_of_rates_with_the_same_loss_the_lowest_is_the_best():
    for losses in ({0.1: 1.0, 0.3: 1.0, 1.0: 2.0}, {1.0: 2.0, 0.3: 1.0, 0.1: 1.0}):
        assert study_module.best_rate(losses) == 0.1
    assert study_module.best_rate({0.3: np.nan, 0.1: np.nan}) == 0.1
    assert study_module.best_rate({0.1: np.nan, 0.3: 5.0}) == 0.3


def test_the_seconds_of_a_training_are_those_of_all_its_parts(study, monkeypatch):
    clock = iter([0.0, 5.0, 100.0, 107.0])
    monkeypatch.setattr(study_module.time, "perf_counter", lambda: next(clock))

    def fail(job, folder):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        study().run(JOBS[:1], fail)
    again = study()
    again.run(JOBS[:1], product)
    assert again.record(JOBS[0])["seconds"] == 12.0


def test_a_line_that_a_killed_process_left_half_is_trained_again(study, capsys):
    first = study()
    first.run(JOBS[:2], product)
    path = first.out / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-5] + b'\n{"a": 1}\n[]\n\xff\xfe\n')
    capsys.readouterr()
    again = study()
    output = capsys.readouterr().out
    assert output.count("a damaged line is left out") == 4
    assert "1 recorded trainings, 0 begun ones" in output
    assert [result["product"] for result in again.run(JOBS[:2], product)] == [0.1, 0.2]
    assert [result["product"] for result in study().run(JOBS[:2], product)] == [0.1, 0.2]


def test_a_file_in_place_of_the_folder_is_refused(study, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit, match="--out must be a folder.*out"):
        study()


def test_a_job_that_another_process_trains_is_left_to_it(study, monkeypatch):
    mine, other = study(), study()

    def train(job, folder):
        assert not other._train(job, product)
        return product(job, folder)

    mine.run(JOBS[:1], train)
    assert not other._train(JOBS[0], product)
    assert len(other.records()) == 1


def test_progress_tells_the_figures_and_the_time_left(study, capsys):
    study().run(JOBS, product)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[  1/4] rate: 0.1, seed: 1: product 0.1  (0 s; ")
    assert len(lines) == 4


def test_p_is_that_of_a_paired_t_test():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    t = values.mean() / (values.std(ddof=1) / np.sqrt(5))
    # The distribution function of Student's t with four degrees of freedom, in closed form.
    s = t / np.sqrt(4 + t**2)
    assert study_module.paired_p(values) == pytest.approx(2 * (0.5 - 0.75 * (s - s**3 / 3)))
    assert np.isnan(study_module.paired_p([1.0]))
    assert np.isnan(study_module.paired_p([2.0, 2.0]))  # where no test can be made


def test_a_mean_that_rounds_to_0_has_no_sign():
    assert study_module.mean_spread([-0.06, 0.04], 1) == "0.0 ± 0.1"
    assert study_module.mean_spread([-0.16, 0.04], 1) == "-0.1 ± 0.1"


def test_report_puts_the_tables_between_the_marks_of_the_readme(study, tmp_path):
    readme = tmp_path / "name/README.md"
    begin, end = study_module.BEGIN, study_module.END
    readme.parent.mkdir()
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    recorded = study("--record", "--full")
    recorded.run(JOBS, product)
    recorded.report(study_module.table(["a", "b"], [[1, study_module.mean_spread([1.0, 2.0])]]))
    text = readme.read_text()
    assert text.startswith(f"before\n{begin}\n\n| a | b |\n| --- | --- |\n| 1 | 1.50 ± 0.71 |\n")
    assert text.endswith(f"{end}\nafter\n") and "old" not in text and "4 trainings" in text
    records = (tmp_path / "name/records.jsonl").read_text().splitlines()
    assert [json.loads(line)["job"] for line in records] == JOBS


def test_a_record_needs_the_full_form_and_a_page_with_marks(study, tmp_path):
    with pytest.raises(SystemExit, match="--record must come with --full"):
        study("--record")
    with pytest.raises(SystemExit, match="README.md must hold the lines .* Received: none"):
        study("--record", "--full")


def narrowed(*arguments):
    parser = study_module.parser("A test.")
    parser.add_narrowing_argument("--problems", nargs="+", choices=["a", "b"], default=["a", "b"])
    parser.add_narrowing_argument("--timing", action="store_true")
    parser.add_argument("--data-dir")
    return parser.parse_args(arguments)


def test_a_part_of_the_results_does_not_go_into_the_page():
    assert narrowed("--problems", "b", "--timing").problems == ["b"]
    assert narrowed("--record", "--full", "--data-dir", "data").record
    with pytest.raises(SystemExit, match=r"--record must come without --problems: .* \['b'\]$"):
        narrowed("--full", "--record", "--problems", "b")
    with pytest.raises(SystemExit, match="--record must come without --timing: .* --timing True$"):
        narrowed("--full", "--record", "--timing")


def test_only_the_process_that_leads_draws(study, monkeypatch):
    drawn = []

    def draw():
        drawn.append(Figure())
        return drawn[0]

    this = study()
    this.run(JOBS[:1], product)
    this.report("", draw)
    assert len(drawn) == 1 and (this.out / "name.png").exists()
    monkeypatch.setenv(study_module.WORKER, str(os.getppid()))
    study().report("", draw)
    assert len(drawn) == 1


def test_what_a_killed_process_left_of_a_recorded_job_is_removed(study):
    this = study()
    this.run(JOBS[:1], product)
    (name,) = this.records()
    (this._job_folder(name) / "checkpoints").mkdir(parents=True)
    other = this.out / "jobs/another"  # of a job that is not of this run
    other.mkdir()
    this.report("")
    assert [path for path in (this.out / "jobs").iterdir() if path.is_dir()] == [other]


def test_jobs_that_differ_in_a_type_are_two(study):
    jobs = [{"rate": 1}, {"rate": "1"}, {"rate": None}, {"rate": "null"}]
    results = iter(range(4))
    found = study().run(jobs, lambda job, folder: {"place": next(results)})
    assert [result["place"] for result in found] == [0, 1, 2, 3]


def test_records_of_another_version_and_of_other_jobs_count_no_more(study, tmp_path, capsys):
    study().run(JOBS, product)
    options = study_module.parser("").parse_args(["--out", str(tmp_path / "out")])
    options.processes = 1
    newer = study_module.Study(tmp_path / "name/__main__.py", options, version=2)
    capsys.readouterr()
    newer.run(JOBS[:2], lambda job, folder: {"new": 1.0})
    assert capsys.readouterr().out.startswith("[  1/2] rate: 0.1, seed: 1: new 1 ")
    newer.report("")
    assert "2 trainings, " in capsys.readouterr().out
    assert study().run(JOBS[:1], None) == [{"product": 0.1}]  # the older ones are still there


def test_a_process_that_ends_with_an_error_leaves_its_jobs_to_the_others(study, capsys):
    this = study()
    this._log(1).write_text("MemoryError\n")
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    ended.wait()
    this.workers.append((1, ended))
    this._look_after_workers()
    assert "Process 1 of this study ended with an error:\nMemoryError" in capsys.readouterr().out
    assert this.workers == [] and len(this.run(JOBS, product)) == 4


@pytest.mark.parametrize(("leads", "numbers"), [(True, [1, 1, 2]), (False, [0, 0, 0])])
def test_processes_start_when_there_is_work_for_them(study, monkeypatch, leads, numbers):
    study().run(JOBS[:1], product)
    started = []
    ended = types.SimpleNamespace(poll=lambda: 0, wait=lambda: 0)
    popen = lambda *_, **__: started.append(1) or ended  # noqa: E731
    monkeypatch.setattr(study_module.subprocess, "Popen", popen)
    if not leads:
        monkeypatch.setenv(study_module.WORKER, str(os.getppid()))
    this = study("--processes", "3")
    this.run(JOBS[:1], None)
    assert not started  # all is recorded
    for jobs, number in zip((JOBS[:3], JOBS[:3], [*JOBS, *MORE]), numbers, strict=True):
        this.run(jobs, product)
        assert len(started) == number


def test_two_processes_share_the_trainings(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "__main__.py").write_text(
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(study_module.IMAGES.parent.parent / 'experiments')!r})\n"
        "import study\n"
        "def train(job, folder):\n"
        "    end = time.monotonic() + 60.0\n"
        "    there = folder.parents[1] / 'there'\n"
        "    if study.WORKER in os.environ:\n"
        "        there.touch()\n"
        "    while not there.exists() and time.monotonic() < end:\n"
        "        time.sleep(0.05)\n"
        "    time.sleep(0.3)\n"
        "    return {'leads': study.WORKER not in os.environ}\n"
        "this = study.Study(__file__, study.parser('').parse_args())\n"
        "results = this.run([{'seed': seed} for seed in range(4)], train)\n"
        "this.report(str(sorted({result['leads'] for result in results})))\n"
    )
    command = [sys.executable, str(folder), "--processes", "2", "--out", str(tmp_path / "out")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "4 trainings" in output and "[False, True]" in output


TRAINING = """
import os, signal, sys, time
import keras, numpy as np
import study

# What a shell starts with `&`, the tests for instance, ignores this signal.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Slow(keras.callbacks.Callback):
    epochs = []  # of this process

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if "SLOW" in os.environ and self.epochs[-1] == 2:
            (self.folder / "within").touch()
            while len(list(self.folder.parent.glob("*/within"))) < 2:  # the other one may be late
                time.sleep(0.1)
            time.sleep(1.0)

def main(arguments=None):
    this = study.Study(__file__, study.parser("").parse_args(arguments), arguments)

    def train(job, folder):
        keras.utils.set_random_seed(job["seed"])
        layers = [keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile("adam", "mse")
        x = np.random.default_rng(0).normal(size=(64, 4))
        options = {"batch_size": 4, "epochs": 4, "verbose": 0}
        model.fit(x, x[:, :1], callbacks=[Slow(folder), *this.callbacks(folder)], **options)
        return {"weights": [weight.tolist() for weight in model.get_weights()]}

    return this.run([{"seed": seed} for seed in range(2)], train)

if __name__ == "__main__":
    main()
"""


def test_an_interrupt_within_the_trainings_of_two_processes(tmp_path, monkeypatch):
    """Ctrl-C reaches the process that leads; the other one is told. Both trainings resume."""
    monkeypatch.syspath_prepend(str(study_module.IMAGES.parents[1] / "experiments"))
    script = tmp_path / "toy/__main__.py"
    script.parent.mkdir()
    script.write_text(TRAINING)
    command = [sys.executable, script.parent, "--processes", "2", "--out", tmp_path / "out"]
    environment = os.environ | {"SLOW": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 120.0
    while len(list(tmp_path.glob("out/jobs/*/within"))) < 2 and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60.0)
    assert process.returncode == 130 and "The same command resumes the run." in output
    assert "SIGTERM" in (tmp_path / "out/worker_1.log").read_text()

    spec = importlib.util.spec_from_file_location("toy", script)
    toy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toy)
    resumed = toy.main(["--processes", "1", "--out", str(tmp_path / "out")])
    assert toy.Slow.epochs == [2, 3, 2, 3]
    assert resumed == toy.main(["--processes", "1", "--out", str(tmp_path / "uninterrupted")])
    assert toy.Slow.epochs[4:] == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("arguments", [["--processes", "0"], ["--processes", "-1"]])
def test_no_processes_are_refused(study, arguments):
    with pytest.raises(SystemExit, match="--processes must be at least 1. Received"):
        study(*arguments)


def test_too_little_memory_is_said_before_the_start():
    with pytest.raises(SystemExit, match=r"needs 1000000.0 GB of memory, [\d.]+ GB are free"):
        study_module.check_memory(1e6)
    study_module.check_memory(0.01)
