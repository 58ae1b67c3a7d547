"""Where a run's scalars go besides its event file: lines of a file, services, functions."""

import contextlib
import csv
import errno
import importlib
import io
import json
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_bp._types import Sink
from keras_bp_runs.run import as_json

_EXPECTED = (
    "`sinks` must be a list of paths that end in .jsonl or .csv, of 'wandb' and 'mlflow', and of "
    "functions of (step, dictionary)."
)
_BATCH = 1000  # the metrics that MLflow takes at once


def check_sinks(sinks: Sequence[Sink] | None) -> list[Sink]:
    """Return the argument `sinks` as a list.

    Raises:
        TypeError: if it is no list, or something in it is no sink.
        ValueError: if a string is neither a path with a known suffix nor a known service.
    """
    if sinks is None:
        return []
    if not isinstance(sinks, list | tuple):
        raise TypeError(f"{_EXPECTED} Received: sinks={sinks!r}")
    for sink in sinks:
        if not callable(sink) and not isinstance(sink, str | os.PathLike):
            raise TypeError(f"{_EXPECTED} Received: {sink!r}")
        if not callable(sink) and _kind(sink) not in _KINDS:
            raise ValueError(f"{_EXPECTED} Received: {sink!r}")
    return list(sinks)


class Sinks:
    """Passes scalars on, those of a step together; what fails is told once and left out.

    Args:
        sinks: list, as `check_sinks` returns it.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks: list[Any] = [
            _Function(sink) if callable(sink) else _KINDS[_kind(sink)](sink) for sink in sinks
        ]
        self._step, self._values = 0, dict[str, np.float32]()

    def open(self, step: int) -> None:
        """Open files and find the services' runs; `step` update steps were made before.

        Raises:
            ImportError: if a service's package is not installed.
            ValueError: if no run of a service is active, or a file cannot be written.
        """
        for sink in self._sinks:
            sink.open(step)

    def write(self, tags: Sequence[str], values: Iterable[np.float32], step: int) -> None:
        """Take scalars of a step, of the same step as before or a later one."""
        if step != self._step:
            self._pass_on()
        self._step = step
        self._values.update(zip(tags, values, strict=True))

    def flush(self) -> None:
        """Pass on what has come."""
        self._pass_on()
        self._each(lambda sink: sink.flush())

    def close(self) -> None:
        """Pass on what has come, and close the files."""
        self.flush()
        self._each(lambda sink: sink.close())

    def _pass_on(self):
        step, values, self._values = self._step, self._values, {}
        if values:
            self._each(lambda sink: sink.write(step, values))

    def _each(self, action):
        for sink in list(self._sinks):
            try:
                action(sink)
            except Exception as error:  # a user's function, a full disk, a service that is gone
                self._sinks.remove(sink)
                with contextlib.suppress(Exception):
                    sink.close()
                warnings.warn(
                    f"The sink {sink.name} failed, and nothing more is passed to it; the training "
                    f"goes on, and so do the event file and the other sinks. The error: {error!r}",
                    RuntimeWarning,
                    stacklevel=5,
                )


class _Function:
    """A sink; also the base of those with a name."""

    def __init__(self, sink):
        self._sink, self.name = sink, repr(sink)

    def open(self, step):
        pass

    def write(self, step, values):
        self._sink(step, {tag: float(value) for tag, value in values.items()})

    def flush(self):
        pass

    def close(self):
        pass


class _Lines(_Function):
    """Lines at the end of a file: each step is there as soon as the next one comes."""

    head = ""

    def __init__(self, sink):
        super().__init__(sink)
        self._path = None
        self._file: Any = None

    def open(self, step):
        """Open the file; a training that begins anew does not go on with another one's."""
        path = os.fspath(self._sink)
        if self._path is None:
            self._path = path if step else _unused(path)
            if self._path != path:
                print(f"{path} holds an earlier run: this one goes to {self._path}")
        try:
            os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
            # Without a buffer: a process that is killed has written whole lines.
            self._file = open(self._path, "ab", buffering=0)
        except OSError as error:
            raise ValueError(
                f"`sinks` must name files that can be written. Received: {path!r} ({error})"
            ) from error
        if not self._file.tell():
            self._append(self.head)

    def write(self, step, values):
        self._append(self.lines(step, values))

    def _append(self, text):
        data, place = text.encode(), self._file.tell()
        if self._file.write(data) < len(data):
            self._file.truncate(place)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)

    def close(self):
        if self._file is not None:
            self._file.close()


class _JSONLines(_Lines):
    """An object per step: `{"step": 1, "loss/batch": 0.5}`."""

    def lines(self, step, values):
        # As few digits as float32 needs.
        numbers = {tag: as_json(float(str(value))) for tag, value in values.items()}
        return json.dumps({"step": step, **numbers}) + "\n"


class _CSV(_Lines):
    """A line per step and tag, since later steps may have other tags."""

    head = "step,tag,value\n"

    def lines(self, step, values):
        text = io.StringIO()
        rows = ([step, tag, str(value)] for tag, value in values.items())
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()


class _WandB(_Function):
    """The active run of Weights & Biases, against an axis of its own.

    The run's own count of steps is the user's, whose other calls of `log` it may follow.
    """

    def open(self, step):
        wandb = _imported("wandb")
        if wandb.run is None:
            raise ValueError(
                "`sinks` may hold 'wandb' where a run is active: call `wandb.init` before. "
                "Received: no active run"
            )
        self._run, self._known = wandb.run, set()

    def write(self, step, values):
        for tag in values.keys() - self._known:
            self._run.define_metric(tag, step_metric="update_step")
            self._known.add(tag)
        self._run.log({"update_step": step, **{tag: float(v) for tag, v in values.items()}})


class _MLflow(_Function):
    """The active run of MLflow, in as few requests as it allows."""

    def open(self, step):
        mlflow = _imported("mlflow")
        run = mlflow.active_run()
        if run is None:
            raise ValueError(
                "`sinks` may hold 'mlflow' where a run is active: call `mlflow.start_run` before. "
                "Received: no active run"
            )
        self._client, self._run = mlflow.MlflowClient(), run.info.run_id
        self._metric, self._waiting = mlflow.entities.Metric, []

    def write(self, step, values):
        now = int(time.time() * 1000)
        # It refuses some characters: a tag may hold "(model)".
        named = {"".join(c if c.isalnum() or c in "_-. /" else "_" for c in t): t for t in values}
        self._waiting += [self._metric(n, float(values[t]), now, step) for n, t in named.items()]
        while len(self._waiting) >= _BATCH:
            self._send()

    def flush(self):
        while self._waiting:
            self._send()

    def _send(self):
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        self._client.log_batch(self._run, metrics=batch)


_KINDS: dict[str, type] = {".jsonl": _JSONLines, ".csv": _CSV, "wandb": _WandB, "mlflow": _MLflow}


def _kind(sink):
    text = os.fspath(sink)
    return os.path.splitext(text)[1] or text


def _imported(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"`sinks` holds {name!r}, which needs `pip install {name}`") from error


def _unused(path):
    """Return a path, with `-2`, `-3`, ... before the suffix if there is such a file with lines."""
    stem, suffix = os.path.splitext(path)
    number, free = 1, path
    while os.path.exists(free) and os.path.getsize(free):
        number += 1
        free = f"{stem}-{number}{suffix}"
    return free
