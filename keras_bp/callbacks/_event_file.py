"""Writing to a TensorBoard event file without ever stopping the training that it describes."""

import os
import warnings

import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.scalar.summary import scalar_pb

_BUCKETS = 30


class EventFile:
    """An event file in `log_dir`; after a failed write it warns once and writes no more.

    Args:
        log_dir: string or `os.PathLike`, the directory; it is made if it does not exist.

    Raises:
        ValueError: if the file cannot be created there.
    """

    def __init__(self, log_dir):
        self._log_dir = os.fspath(log_dir)
        try:
            self._writer = tf.summary.create_file_writer(self._log_dir)
        except (tf.errors.OpError, OSError) as error:
            raise ValueError(
                "Argument `log_dir` must name a directory in which a TensorBoard event file can "
                f"be created. Received: log_dir={log_dir!r} ({_message(error)})"
            ) from error
        self._templates = {}

    def write_scalars(self, tags, values, step):
        """Write one value for each tag, all in one record of the file."""
        summary = self._templates.get(tags)
        if summary is None:
            summary = self._templates[tags] = scalar_pb(tags[0], 0.0)
            for tag in tags[1:]:
                summary.MergeFrom(scalar_pb(tag, 0.0))
        for entry, value in zip(summary.value, values, strict=True):
            entry.tensor.float_val[0] = value
        self._write(summary, step)

    def write_histogram(self, tag, values, step):
        """Write the histogram of the finite entries of an array.

        The buckets are counted by NumPy: `tf.summary.histogram` makes an array of 30 float64
        for each entry (6 GB for an embedding of 25 million) and fails on a NaN.
        """
        summary = tf.compat.v1.Summary()
        tensor = tf.make_tensor_proto(_buckets(values), dtype=tf.float64)
        entry = summary.value.add(tag=tag, tensor=tensor)
        plugin = histogram_metadata.create_summary_metadata(display_name=None, description=None)
        entry.metadata.MergeFromString(plugin.SerializeToString())
        self._write(summary, step)

    def flush(self):
        """Hand over to the file system what has been written so far."""
        self._attempt(lambda writer: writer.flush())

    def close(self):
        """Flush and close the file."""
        self._attempt(lambda writer: writer.close())
        self._writer = None

    def _write(self, summary, step):
        def write(writer):
            with writer.as_default():
                tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)

        self._attempt(write)

    def _attempt(self, action):
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


def _message(error):
    """Return what a TensorFlow or system error says, without the name of the kernel."""
    return getattr(error, "message", None) or str(error)


def _buckets(values):
    """Count the finite entries in 30 buckets of equal width: rows (left, right, count)."""
    values = np.asarray(values, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        return np.zeros((_BUCKETS, 3))
    if values.min() == values.max():
        # TensorBoard's form for a single value: buckets without width, all counted in the last.
        counts, edges = np.zeros(_BUCKETS), np.full(_BUCKETS + 1, values[0])
        counts[-1] = values.size
    else:
        counts, edges = np.histogram(values, _BUCKETS)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)
