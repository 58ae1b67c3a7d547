"""A TensorBoard event file whose failed writes never stop the training."""

import itertools
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar.summary import scalar_pb
from tensorboard.plugins.text.summary import text_pb

from keras_bp._types import Path

_NUMBERS = itertools.count()
_WRITER = "keras_bp"
_NO_ZERO_BYTES = float(np.frombuffer(b"\x01\x01\x01\x01", "<f4")[0])


class EventFile:
    """An event file in `log_dir`; after a failed write it warns once and writes no more.

    The records are made here and written by `tf.io.TFRecordWriter`: through
    `tf.summary.experimental.write_raw_pb` each would take some 300 times as long.

    Args:
        log_dir: string or `os.PathLike`, the directory; it is made if it does not exist.
        step: integer, the number of update steps made before.
        starts: whether a training starts or goes on, the file being the first of its callbacks'.
            TensorBoard then leaves out what earlier files hold of steps after `step`: a process
            that was killed had made them, and they are made again.
        model: string that tells models apart, `""` for an unknown one; `run_directory` reads it.
        writes: whether there is to be a file at all: of several workers, one writes.
        sinks: open `Sinks`, to which scalars are passed too, or None.

    Raises:
        ValueError: if the file cannot be created there.
    """

    def __init__(
        self,
        log_dir: Path,
        step: int = 0,
        starts: bool = False,
        model: str = "",
        writes: bool = True,
        sinks: Any = None,
    ) -> None:
        self._sinks = sinks
        self._log_dir, self._source = os.fspath(log_dir), f"{_WRITER} {model}"
        self._templates: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._writer: Any = None
        try:
            if writes:
                self._create(step, starts)
        except (tf.errors.OpError, OSError) as error:
            raise _cannot_create(log_dir, error) from error

    def _create(self, step: int, starts: bool) -> None:
        # TensorBoard reads a directory's files in the order of their names.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
        name += f".{os.getpid()}.{next(_NUMBERS):06d}.v2"
        tf.io.gfile.makedirs(self._log_dir)
        self._path, self._begun = os.path.join(self._log_dir, name), step
        self._writer = tf.io.TFRecordWriter(self._path)
        source, start = SourceMetadata(writer=self._source), SessionLog(status=SessionLog.START)
        first = [Event(file_version="brain.Event:2", source_metadata=source, step=step)]
        first += [Event(session_log=start, step=step + 1)] * starts
        for event in first:
            event.wall_time = time.time()
            self._writer.write(event.SerializeToString())
        self._writer.flush()

    def write_scalars(self, tags: tuple[str, ...], values: Iterable[float], step: int) -> None:
        """Write one value for each tag, all in one record of the file."""
        if tags not in self._templates:
            # The values lie where two records that differ in all their bytes differ.
            zeros, others = (_scalars(tags, value) for value in (0.0, _NO_ZERO_BYTES))
            self._templates[tags] = zeros, np.flatnonzero(zeros != others)
        record, places = self._templates[tags]
        with np.errstate(over="ignore"):
            numbers = np.array([*values], "<f4")
        record[places] = numbers.view(np.uint8)
        about = Event(step=step, wall_time=time.time()).SerializeToString()
        self._attempt(lambda writer: writer.write(about + record.tobytes()))
        if self._sinks is not None:
            self._sinks.write(tags, numbers, step)

    def write_histogram(self, tag: str, buckets: np.ndarray, step: int) -> None:
        """Write a histogram: an array of rows (left edge, right edge, count)."""
        metadata = histogram_metadata.create_summary_metadata(display_name=None, description=None)
        self._write_tensor(tag, tf.make_tensor_proto(buckets, tf.float64), metadata, step)

    def write_image(self, tag: str, image: np.ndarray, description: str, step: int) -> None:
        """Write an image: uint8 array of shape (height, width, 3); the description in Markdown."""
        metadata = image_metadata.create_summary_metadata(display_name="", description=description)
        height, width = image.shape[:2]
        content = [str(width).encode(), str(height).encode(), tf.io.encode_png(image).numpy()]
        self._write_tensor(tag, tf.make_tensor_proto(content, tf.string), metadata, step)

    def write_text(self, tag: str, text: str, step: int) -> None:
        """Write a text, in Markdown."""
        event = Event()
        event.summary.MergeFrom(text_pb(tag, text))
        self._write(event, step)

    def write_json(self, tag: str, content: str, step: int) -> None:
        """Write JSON for this package's own readers."""
        metadata = SummaryMetadata(plugin_data={"plugin_name": _WRITER})
        self._write_tensor(tag, tf.make_tensor_proto(content, tf.string), metadata, step)

    def write_summary(self, summary: Summary, step: int) -> None:
        """Write a `Summary`, a plugin's configuration."""
        event = Event()
        event.summary.MergeFromString(summary.SerializeToString())
        self._write(event, step)

    def flush(self) -> None:
        """Flush what has been written so far to the file system."""
        if self._sinks is not None:
            self._sinks.flush()
        self._attempt(lambda writer: writer.flush())
        if self._was_removed():
            self._attempt(lambda _: self._create(self._begun, False))

    def close(self) -> None:
        """Flush and close the file."""
        if self._sinks is not None:
            self._sinks.close()
        self._was_removed()
        self._attempt(lambda writer: writer.close())
        self._writer = None

    def _write_tensor(self, tag, tensor, metadata, step):
        value = Summary.Value(tag=tag)
        value.tensor.MergeFromString(tensor.SerializeToString())
        value.metadata.MergeFrom(metadata)
        self._write(Event(summary=Summary(value=[value])), step)

    def _write(self, event, step):
        event.step, event.wall_time = step, time.time()
        self._attempt(lambda writer: writer.write(event.SerializeToString()))

    def _was_removed(self) -> bool:
        """Tell whether the file is gone, with a warning: what is written to it is lost."""
        removed = self._writer is not None and not tf.io.gfile.exists(self._path)
        if removed:
            warnings.warn(
                f"The TensorBoard event file {self._path!r} was removed while it was written to: "
                "its events are lost. The training goes on, and later ones go to a new file.",
                RuntimeWarning,
                stacklevel=4,
            )
        return removed

    def _attempt(self, action: Callable) -> None:
        if self._writer is None:
            return
        try:
            action(self._writer)
        except (tf.errors.OpError, OSError) as error:
            self._writer = None
            warnings.warn(
                f"Writing the TensorBoard event file in {self._log_dir!r} failed, and nothing "
                f"more is written there; the training goes on. The error: {_message(error)}",
                RuntimeWarning,
                stacklevel=4,
            )


def _scalars(tags, value):
    """Return the bytes of a record without step that holds one value for each tag."""
    event = Event()
    for tag in tags:
        event.summary.MergeFrom(scalar_pb(tag, value))
    return np.frombuffer(event.SerializeToString(), np.uint8).copy()


def make_directory(log_dir: Path) -> None:
    """Make a directory for event files.

    Raises:
        ValueError: if it cannot be made.
    """
    try:
        tf.io.gfile.makedirs(os.fspath(log_dir))
    except (tf.errors.OpError, OSError) as error:
        raise _cannot_create(log_dir, error) from error


def run_directory(log_dir: Path, step: int, model: str = "") -> str:
    """Return the directory for the events of a training that has made `step` update steps.

    TensorBoard joins all that a directory holds into one line, so a directory is for one run. A
    training goes on with the newest run if it has made steps since that run began, of the same
    `model` where both are known; else it gets a directory of its own inside `log_dir`, `run-2`,
    `run-3`, ...
    """
    first = os.fspath(log_dir)
    entries = tf.io.gfile.listdir(first) if tf.io.gfile.isdir(first) else []
    found = (re.fullmatch(r"run-(\d+)/?", entry) for entry in entries)
    number = max([1, *(int(match[1]) for match in found if match)])
    if not _trainings(first):
        return first
    newest = os.path.join(first, f"run-{number}") if number > 1 else first
    trainings = _trainings(newest)
    models = {name for _, name in trainings if name}
    same = not model or not models or model in models
    goes_on = not trainings or same and step > min(began for began, _ in trainings)
    return newest if goes_on else os.path.join(first, f"run-{number + 1}")


def _trainings(directory):
    """Return for each file with steps in a directory the number of steps before, and the model."""
    found = []
    for path in tf.io.gfile.glob(os.path.join(directory, "*tfevents*")):
        events = LegacyEventFileLoader(path).Load()
        first = next(events, Event())
        later = (e.HasField("summary") and e.step > first.step for e in events)
        # The others are of other programs, or of a training that stopped before its first step.
        writer, _, model = first.source_metadata.writer.partition(" ")
        if writer == _WRITER and any(later):
            found.append((first.step, model))
    return found


def _cannot_create(log_dir, error):
    return ValueError(
        "`log_dir` must name a directory in which a TensorBoard event file can be created. "
        f"Received: log_dir={log_dir!r} ({_message(error)})"
    )


def _message(error):
    """Return the message of a TensorFlow or system error, without the name of the kernel."""
    return getattr(error, "message", None) or str(error)
