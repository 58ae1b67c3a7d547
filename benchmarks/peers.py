"""Time one training step of the same models in Keras, this package, PyTorch and JAX.

    python benchmarks/peers.py --environments FOLDER [--only NAME] [--columns ours ...]

Each column is a process of its own with 2 threads on 2 cores; the processes are timed in turn, in
`--rounds` rounds of `--seconds`, so that a change of the machine's pace meets all of them. A step
is what that library's user writes: the batch, float32 and in memory, goes in, and at the end the
loss is read, with all weights updated. The numbers of parameters are compared. PyTorch and JAX are
installed into virtual environments in FOLDER, which are kept for the next run; the package does not
depend on them. Printed is a table in Markdown: milliseconds a step, the medians and below them the
minima, each with its ratio to the row's fastest.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
import venv
from typing import NamedTuple

import numpy as np

HERE = pathlib.Path(__file__).parent
THREADS = 2
CLASSES = 10
NUMBER_OF_BATCHES = 8


class Workload(NamedTuple):
    """A model: its name, the shape of its inputs, the batch size, and how many ids if they are."""

    name: str
    title: str
    shape: tuple
    batch: int
    ids: int = 0

    def data(self):
        """Return the inputs and labels of some batches."""
        rng = np.random.default_rng(0)
        shape = NUMBER_OF_BATCHES, self.batch, *self.shape
        # Each token of a sequence has a label.
        labels = rng.integers(CLASSES, size=shape[:-1] if len(self.shape) == 2 else shape[:2])
        inputs = rng.integers(self.ids, size=shape) if self.ids else rng.normal(size=shape)
        return inputs.astype("int32" if self.ids else "float32"), labels.astype("int32")


WORKLOADS = [
    Workload("mlp", "MLP 4x512, batch 128, AdamW", (512,), 128),
    Workload("mlp_norm", "MLP 4x512 with batch normalization", (512,), 128),
    Workload("conv", "3 convolutions with batch norm, 32x32x3, batch 64", (32, 32, 3), 64),
    Workload("embedding", "embedding 100,000 x 64, 512 ids", (), 512, ids=100_000),
    Workload("transformer", "transformer block, 4 heads, 256 wide, 64 x 64", (64, 256), 64),
]
FILTERS = 32, 64, 128

# Column: environment and the worker's command line.
COLUMNS = {
    "Keras": ("here", "_peer_keras.py", "keras"),
    "Keras jit": ("here", "_peer_keras.py", "keras", "--jit"),
    "ours": ("here", "_peer_keras.py", "keras_bp"),
    "ours jit": ("here", "_peer_keras.py", "keras_bp", "--jit"),
    "torch fused": ("torch", "_peer_torch.py", "fused"),
    "torch.compile": ("torch", "_peer_torch.py", "compile"),
    "torch SparseAdam": ("torch", "_peer_torch.py", "sparse"),
    "JAX + optax": ("jax", "_peer_jax.py"),
}
# For PyTorch 2.13.0 there is a wheel without CUDA where these tables were made.
PACKAGES = {"torch": ["torch==2.13.0", "numpy"], "jax": ["jax==0.10.2", "optax"]}


def serve(make_step):
    """Answer the questions that come by standard input, one a line; run by a worker.

    Args:
        make_step: function of a `Workload` that returns the number of trainable parameters, and a
            function of a batch's number that makes one step and waits for its end; or None.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get between the answers
    count = 0
    for line in sys.stdin:
        question = json.loads(line)
        if "workload" in question:
            step = None  # drop the last one's arrays first
            made = make_step(WORKLOADS[question["workload"]])
            answer, step = made if made is not None else (None, None)
            for number in range(10 if step else 0):  # traces and compiles
                step(number % NUMBER_OF_BATCHES)
        else:
            answer, end = [], time.perf_counter() + question["seconds"]
            while len(answer) < 5 or time.perf_counter() < end:
                start = time.perf_counter()
                step(count % NUMBER_OF_BATCHES)
                answer.append(time.perf_counter() - start)
                count += 1
        answers.write(json.dumps(answer) + "\n")


class Worker:
    """A process of one column.

    Args:
        environments: path of the folder of virtual environments.
        environment: name of the environment, or `"here"` for the one that runs this.
        command: the worker's command line.
    """

    def __init__(self, environments, environment, *command):
        python = sys.executable
        if environment != "here":
            python = python_in(environments / environment, PACKAGES[environment])
        names = "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
        settings = dict.fromkeys(names, str(THREADS)) | {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TORCHINDUCTOR_CACHE_DIR": str(environments / "inductor"),
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        }
        self._process = subprocess.Popen(
            [python, str(HERE / command[0]), *command[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
        )

    def ask(self, **question):
        """Send a question."""
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()

    def answer(self):
        """Wait for the answer and return it."""
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"A worker has ended: {self._process.args}")
        return json.loads(line)

    def end(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def python_in(folder, packages):
    """Return the interpreter of a virtual environment, which is made if it is not there."""
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        print(f"Installing {' '.join(packages)} into {folder}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        complete.touch()
    return str(python)


def measure(workers, index, rounds, seconds):
    """Return the times of each column's steps, for the columns that have the workload."""
    for worker in workers.values():  # they build it at the same time
        worker.ask(workload=index)
    parameters = {column: worker.answer() for column, worker in workers.items()}
    parameters = {column: count for column, count in parameters.items() if count is not None}
    if len(set(parameters.values())) != 1:
        raise AssertionError(f"The models differ in their parameters: {parameters}")
    times = {column: [] for column in parameters}
    for turn in range(rounds):
        for column in list(times)[:: -1 if turn % 2 else 1]:
            workers[column].ask(seconds=seconds)
            times[column] += workers[column].answer()
    return times


def cells(times, statistic):
    """Return a row's cells: milliseconds, and the ratio to the fastest."""
    values = {column: statistic(own) * 1e3 for column, own in times.items()}
    best = min(values.values())
    texts = [f"{values[c]:.2f} ({values[c] / best:.2f})" if c in values else "" for c in COLUMNS]
    return " | ".join(texts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environments", type=pathlib.Path, required=True, help="their folder")
    parser.add_argument("--only", default="", help="only workloads whose title contains this")
    parser.add_argument("--columns", nargs="+", choices=list(COLUMNS), default=list(COLUMNS))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each column")
    parser.add_argument("--seconds", type=float, default=0.7, help="seconds a turn")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # the workers inherit it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    environments = arguments.environments.resolve()
    workers = {}
    try:
        for column in arguments.columns:
            workers[column] = Worker(environments, *COLUMNS[column])
        print(
            f"| one training step, ms | | {' | '.join(COLUMNS)} |\n{'|---' * (2 + len(COLUMNS))}|"
        )
        for index, workload in enumerate(WORKLOADS):
            if arguments.only.lower() in workload.title.lower():
                times = measure(workers, index, arguments.rounds, arguments.seconds)
                print(f"| {workload.title} | median | {cells(times, np.median)} |")
                print(f"| | minimum | {cells(times, min)} |", flush=True)
    finally:
        for worker in workers.values():
            worker.end()


if __name__ == "__main__":
    main()
