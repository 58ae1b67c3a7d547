"""A study: many trainings, each recorded as it ends, so that an interrupted study resumes.

Every experiment is a folder that Python runs, `python experiments/NAME`, and describes its
trainings as jobs: dictionaries of settings, the seed among them. `Study.run` trains those that are
not yet recorded, in as many processes as there are cores, and returns the results of all. A
training that was interrupted resumes by `ResumableTraining`. `Study.report` leaves the tables and
the picture.
"""

import argparse
import atexit
import contextlib
import datetime
import fcntl
import gc
import hashlib
import json
import math
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import ttest_1samp  # scikit-learn, of the extra `examples`, brings it

from keras_bp.callbacks import ProgressLine, ResumableTraining

WORKER = "KERAS_BP_STUDY_WORKER"  # in the processes that a study starts: the id of its own
BEGIN, END = "<!-- results: written by `--record` -->", "<!-- end of the results -->"
IMAGES = pathlib.Path(__file__).parent.parent / "docs/images"


class Parser(argparse.ArgumentParser):
    """A parser that refuses `--record` with an option that leaves out a part of the results."""

    def __init__(self, **options):
        super().__init__(**options)
        self._narrowing = []

    def add_narrowing_argument(self, name, **options):
        """Add an argument with which the tables are not those of the experiment's page."""
        self._narrowing.append(self.add_argument(name, **options))

    def parse_args(self, arguments=None):
        """Return the parsed arguments."""
        options = super().parse_args(arguments)
        for action in self._narrowing:
            option, value = action.option_strings[0], getattr(options, action.dest)
            if options.record and value != action.default:
                raise SystemExit(
                    f"--record must come without {option}: it writes the whole page. "
                    f"Received: {option} {value}"
                )
        return options


def parser(description):
    """Return a parser of the arguments that every experiment has.

    `--quick` and `--full` set `options.full`; an experiment has its settings for either.
    """
    parser = Parser(description=description)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="in two minutes; the default")
    size.add_argument("--full", action="store_true", help="as recorded in the experiment's README")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=int, default=cores, help="default: one per core")
    parser.add_argument("--out", type=pathlib.Path, help="default: tb_logs/NAME/full or quick")
    parser.add_argument("--record", action="store_true", help="write tables into the README")
    return parser


def check_memory(gigabytes):
    """End the program, before it starts, if so much memory is not free.

    In the processes that a study starts nothing is checked: the first one has, for all.
    """
    if WORKER in os.environ:
        return
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    with contextlib.suppress(OSError):  # on Linux, with what the page cache would give back
        found = re.search(r"MemAvailable: +(\d+)", pathlib.Path("/proc/meminfo").read_text())
        free = int(found[1]) * 1024 / 1e9
    if free < gigabytes:
        raise SystemExit(
            f"This run needs {gigabytes:.1f} GB of memory, {free:.1f} GB are free. "
            "Give fewer --processes, or end other programs."
        )


def mean_spread(values, digits=2):
    """Return "mean ± standard deviation" of a figure over the seeds, and never -0.0."""
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):z.{digits}f} ± {spread:.{digits}f}"


def paired_p(differences):
    """Return the two-sided p of a paired t test, from the difference of each seed.

    It is NaN for a single seed, and where all seeds have the same difference.
    """
    if len(differences) < 2 or np.ptp(differences) == 0:
        return np.nan
    return float(ttest_1samp(differences, 0.0).pvalue)


def first_crossing(target, curve):
    """Return where a curve first reaches a target, as a fractional index; NaN if it does not.

    Between two places the curve is taken to be straight.
    """
    reached = np.flatnonzero(np.array(curve) >= target)
    if not len(reached):
        return np.nan
    after = reached[0]
    if after == 0:
        return 0.0
    before = curve[after - 1]
    return float(after - 1 + (target - before) / (curve[after] - before))


def best_rate(losses):
    """Return the rate of the lowest loss in a dictionary from rates to losses.

    NaN is the worst loss; of rates with the same loss the lowest one is the best.
    """
    known = {rate: loss for rate, loss in losses.items() if not math.isnan(loss)}
    return min(sorted(known), key=known.get) if known else min(losses)


def at_edge(losses):
    """Tell whether the best of two or more rates is the lowest or the highest of them."""
    return len(losses) > 1 and best_rate(losses) in (min(losses), max(losses))


def rates_cell(losses, digits=1):
    """Return the losses of one kind of training by rate, as text, that of the best rate in bold."""
    best, rates = best_rate(losses), sorted(losses)
    cells = [f"{rate:g}: {losses[rate]:.{digits}f}" for rate in rates]
    cells[rates.index(best)] = f"**{cells[rates.index(best)]}**"
    return ", ".join(cells) + " (the best is at the edge)" * at_edge(losses)


def rates_table(searched, measure, digits=1):
    """Return a table of what `Study.search_rates` found, the best rates in bold.

    Args:
        searched: dictionary from the kind of training, a label, to its losses by rate.
        measure: string, what the losses are.
        digits: integer, of the losses after the point.
    """
    rows = [[kind, rates_cell(losses, digits)] for kind, losses in searched.items()]
    return table(["Training", f"Rate: {measure}"], rows)


def table(header, rows):
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


class Study:
    """The trainings of one experiment, and what is recorded of them.

    Args:
        script: `__file__` of the experiment's `__main__.py`.
        options: the parsed arguments of `parser`.
        arguments: list of strings, the command line that they were parsed from, or `None` for
            `sys.argv`'s: the other processes get the same.
        version: integer. Records of other versions are not used: raise it with each change of the
            code that changes what comes out of a job and that the job's settings do not show.

    The folder `options.out` holds `records.jsonl`, a line for each job that has ended, and a folder
    for each job that has not. Several processes may work in it: a job is locked while it is
    trained, and the lock of a process that has died is void.
    """

    def __init__(self, script, options, arguments=None, version=1):
        if options.processes < 1:
            raise SystemExit(f"--processes must be at least 1. Received: {options.processes}")
        self.folder = pathlib.Path(script).resolve().parent
        if options.record:
            _check_readme(self.folder / "README.md", options)
        self.name, self.version = self.folder.name, version
        size = "full" if options.full else "quick"
        self.out = options.out or pathlib.Path("tb_logs", self.name, size)
        self.options, self.leads, self.workers = options, WORKER not in os.environ, []
        self._arguments = sys.argv[1:] if arguments is None else arguments
        self._to_start = list(range(1, options.processes if self.leads else 1))
        # Records by the job's name; of these, the names of this study's jobs, in order.
        self._known, self._names, self._read_to = {}, {}, 0
        self._arrived, self._started = 0, None
        with contextlib.suppress(RuntimeError):  # TensorFlow has already started
            cores = len(os.sched_getaffinity(0))
            tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // options.processes))
        try:
            (self.out / "jobs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemExit(f"--out must be a folder to write to. Received: {error}") from None
        recorded = len(self.records())  # what was there before is no progress
        if self.leads:
            begun = sum(path.is_dir() for path in (self.out / "jobs").iterdir())
            if recorded or begun:
                print(f"Resumes: {self.out} has {recorded} recorded trainings, {begun} begun ones.")

    def run(self, jobs, train):
        """Return the result of each job, in order; train those that are not recorded yet.

        Args:
            jobs: list of dictionaries: the settings that make a training what it is.
            train: function of a job and of its folder, for checkpoints and events, that returns
                what is recorded: a dictionary of numbers, strings and lists.
        """
        self._started = self._started or time.monotonic()
        names = [self._name(job) for job in jobs]
        self._names |= dict.fromkeys(names)
        try:
            while missing := self.missing(jobs):
                self._start_workers(len(missing) - 1)
                trained = [self._train(job, train) for job in missing]
                if not any(trained):  # others train what is left
                    self._look_after_workers()
                    time.sleep(0.5)
        except BaseException as error:  # Ctrl-C, above all
            self._end_workers()
            if self.leads:
                print("\nThe same command resumes the run.", flush=True)
            if isinstance(error, KeyboardInterrupt):
                raise SystemExit(128 + signal.SIGINT) from None
            raise
        return [self._known[name]["result"] for name in names]

    def missing(self, jobs):
        """Return those of a list of jobs that are not recorded yet."""
        known = self.records()
        return [job for job in jobs if self._name(job) not in known]

    def run_named(self, named, train):
        """Run the lists of jobs of a dictionary; return their results under the same names."""
        results = iter(self.run([job for jobs in named.values() for job in jobs], train))
        return {name: [next(results) for _ in jobs] for name, jobs in named.items()}

    def search_rates(self, grids, job_of, train, loss, extensions=2):
        """Return the loss of each kind of training at each rate of its grid.

        A grid whose best rate is its first or last one goes on beyond it, rate by rate.

        Args:
            grids: dictionary from the kind of training to its rates, in order, each of about the
                same ratio to the one before, and that at least 2.
            job_of: function of a kind and a rate that returns the job.
            train: as for `run`.
            loss: function of a result; the rate of the lowest loss is the best one.
            extensions: how many rates may follow beyond the edges of a grid.

        Returns:
            Dictionary from the kind to a dictionary from its rates, in order, to their losses.

        Raises:
            ValueError: if the next rate beyond a grid, of one digit, is already in it.
        """
        found = {kind: {} for kind in grids}
        for extension in range(extensions + 1):
            missing = grids
            if extension:
                missing = {kind: _rates_beyond(losses) for kind, losses in found.items()}
            tried = [(kind, rate) for kind, rates in missing.items() for rate in rates]
            results = self.run([job_of(kind, rate) for kind, rate in tried], train)
            for (kind, rate), result in zip(tried, results, strict=True):
                found[kind][rate] = loss(result)
        return {kind: dict(sorted(losses.items())) for kind, losses in found.items()}

    def records(self):
        """Return what is recorded: dictionaries with job, result and seconds, by the job's name."""
        path = self.out / "records.jsonl"
        if path.exists():
            with open(path, "rb") as file:
                file.seek(self._read_to)
                lines = file.read()
            whole = lines[: lines.rfind(b"\n") + 1]  # a line that is being written waits
            self._read_to += len(whole)
            for line in whole.splitlines():
                try:
                    record = json.loads(line)
                    name = _name(record["job"], record.get("version", 1))
                except (ValueError, KeyError, TypeError):  # a process was killed in a line, or so
                    if self.leads:
                        print(f"{path}: a damaged line is left out.", flush=True)
                    continue
                new = name not in self._known
                self._known[name] = record
                if new and name in self._names:
                    self._arrived += 1
                    self._show(record)
        return self._known

    def record(self, job):
        """Return the record of a job that has been run."""
        return self._known[self._name(job)]

    def callbacks(self, folder, **options):
        """Return the callbacks of a training that resumes: give them to `fit`, last."""
        shown = [ProgressLine()] if self.leads and sys.stdout.isatty() else []
        return [*shown, ResumableTraining(folder / "checkpoints", **options)]

    def report(self, text, draw=None):
        """Print and leave the tables, and the picture; with `--record`, put them into the README.

        Call it after `run`.

        Args:
            text: the tables in Markdown.
            draw: function without arguments that returns a matplotlib figure, or `None`. Only the
                process that leads calls it.
        """
        for _, worker in self.workers:
            worker.wait()
        self._look_after_workers()
        if not self.leads:
            return
        for name in self._names:  # a process was killed between a job's record and its folder
            shutil.rmtree(self._job_folder(name), ignore_errors=True)
        text = f"{text.rstrip()}\n\n{self._cost()}\n"
        (self.out / "results.md").write_text(text)
        print(f"\n{text}\nresults: {self.out / 'results.md'}")
        picture = self.out / f"{self.name}.png"
        if draw:
            draw().savefig(picture, dpi=110)
            print(f"picture: {picture}", flush=True)
        if self.options.record:
            readme = self.folder / "README.md"
            before, rest = readme.read_text().split(BEGIN)
            _, after = rest.split(END)
            readme.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
            lines = [json.dumps(self._known[name]) + "\n" for name in self._names]
            (self.folder / "records.jsonl").write_text("".join(lines))
            if draw:
                shutil.copy(picture, IMAGES / picture.name)

    def _train(self, job, train):
        """Train a job, unless another process does; return whether it was trained."""
        if not self.leads and os.getppid() != int(os.environ[WORKER]):
            raise SystemExit("The process that leads the study has ended.")
        name = self._name(job)
        folder = self._job_folder(name)
        with _locked(folder.with_suffix(".lock")) as locked:
            if not locked or name in self.records():
                return False
            folder.mkdir(exist_ok=True)
            (folder / "job.json").write_text(name)
            seconds, cpu_seconds = _spent(folder)
            start, cpu_start = time.perf_counter(), time.process_time()
            try:
                result = train(job, folder)
            finally:
                seconds += time.perf_counter() - start
                cpu_seconds += time.process_time() - cpu_start
                (folder / "spent.new").write_text(json.dumps([seconds, cpu_seconds]))
                (folder / "spent.new").replace(folder / "spent.json")
            record = {"job": job, "version": self.version, "result": result}
            record |= {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2)}
            record |= {"machine": machine()}
            _append(self.out / "records.jsonl", record)
            shutil.rmtree(folder)
        self.records()
        # Models of past jobs would stay in Keras's state.
        keras.backend.clear_session()
        gc.collect()
        return True

    def _start_workers(self, number_wanted):
        """Start the other processes, but no more than there is work for."""
        while self._to_start and len(self.workers) < number_wanted:
            if not self.workers:
                atexit.register(self._end_workers)  # for Ctrl-C outside of `run`
            number = self._to_start.pop(0)
            with open(self._log(number), "w") as log:
                # In a session of its own Ctrl-C reaches this process only, which tells it.
                worker = subprocess.Popen(
                    [sys.executable, str(self.folder), *map(str, self._arguments)],
                    env={**os.environ, WORKER: str(os.getpid())},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.workers.append((number, worker))

    def _end_workers(self):
        """Tell the other processes to end: ResumableTraining saves at this signal."""
        for _, worker in self.workers:
            if worker.poll() is None:
                worker.terminate()
        for _, worker in self.workers:
            worker.wait()

    def _look_after_workers(self):
        """Tell of processes that have ended with an error: the others train what they left."""
        for number, worker in list(self.workers):
            if worker.poll():
                last = "\n".join(self._log(number).read_text().splitlines()[-15:])
                print(f"Process {number} of this study ended with an error:\n{last}", flush=True)
                self.workers.remove((number, worker))

    def _log(self, number):
        return self.out / f"worker_{number}.log"

    def _name(self, job):
        return _name(job, self.version)

    def _job_folder(self, name):
        return self.out / "jobs" / hashlib.sha256(name.encode()).hexdigest()[:16]

    def _show(self, record):
        """Print how far the study is: the training that has just ended, and the time left."""
        if not self.leads:
            return
        done = sum(name in self._known for name in self._names)
        minutes = (time.monotonic() - self._started) / 60
        left = minutes / self._arrived * (len(self._names) - done)
        figures = [
            f"{name} {value:.4g}"
            for name, value in record["result"].items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        settings = _name(record["job"])[1:-1].replace('"', "")
        print(
            f"[{done:3}/{len(self._names)}] {settings}: {', '.join(figures[:3])}  "
            f"({record['seconds']:.0f} s; {left:.0f} min left of what is known)",
            flush=True,
        )

    def _cost(self):
        records = [self._known[name] for name in self._names]
        seconds, cpu_seconds = (
            sum(record[key] for record in records) for key in ("seconds", "cpu_seconds")
        )
        where = records[-1].get("machine", machine())
        return (
            f"{len(records)} trainings, {cpu_seconds / 60:.1f} CPU minutes; they took "
            f"{seconds / 60:.0f} minutes in sum, beside whatever else ran. {where}."
        )


def machine():
    """Return what a run was made with, as a sentence: versions, cores, day."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
    return (
        f"Keras {keras.__version__}, TensorFlow {tf.__version__}, "
        f"Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores of {model}, "
        f"{datetime.date.today()}"
    )


def _rates_beyond(losses):
    """Return the rate beyond the edge at which the best one lies, in a list; none elsewhere."""
    if not at_edge(losses):
        return []
    rates, best = sorted(losses), best_rate(losses)
    neighbour = rates[1] if best == rates[0] else rates[-2]
    beyond = float(f"{best**2 / neighbour:.1g}")
    if beyond in losses:
        raise ValueError(
            "`grids` must hold rates of at least twice the one before, as the next one beyond is "
            f"rounded to one digit. Received: {rates}, and {beyond:g} as the next one"
        )
    return [beyond]


def _name(job, version=1):
    return json.dumps(job if version == 1 else job | {"version": version}, sort_keys=True)


def _check_readme(path, options):
    if not options.full:
        raise SystemExit("--record must come with --full: it writes the page. Received: --quick")
    text = path.read_text() if path.exists() else ""
    if not text.count(BEGIN) == text.count(END) == 1:
        raise SystemExit(f"{path} must hold the lines {BEGIN!r} and {END!r} once. Received: none")


def _append(path, record):
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
            if file.read() != b"\n":  # half a line, of a process that was killed
                file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _spent(folder):
    """Return the seconds that earlier processes have spent on a job, and their CPU seconds."""
    path = folder / "spent.json"
    return json.loads(path.read_text()) if path.exists() else (0.0, 0.0)


@contextlib.contextmanager
def _locked(path):
    """Lock a file, unless another process holds it; the value tells whether it is locked."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
