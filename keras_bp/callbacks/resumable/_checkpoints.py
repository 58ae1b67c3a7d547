"""Numbered checkpoints in a directory that belongs to one training."""

import contextlib
import json
import os
import pathlib
import re
import warnings

import tensorflow as tf

try:
    import fcntl
except ImportError:  # Windows, where directories are not locked
    fcntl = None  # type: ignore[assignment]

# Errors of TensorFlow's reader on truncated or altered files.
_UNREADABLE = (tf.errors.OpError, OSError, ValueError, LookupError)
_FILE = re.compile(r"epoch-(\d+)\.(index|data-.*)$")
_PARTIAL = "partial"
# What TensorFlow leaves behind when it is killed while it writes; "partial" is where we write.
_LEFT_BEHIND = re.compile(rf"{_PARTIAL}$|epoch-\d+_temp")


class RefusedError(ValueError):
    """The directory's checkpoints are whole, but not this training's."""


class DirectoryLock:
    """The right of one training to write to a directory, until it completes or its process dies.

    The operating system holds the lock for the process, so a dead one leaves none. Within the
    process the newest training has it: Keras calls no hook of a `fit` that an error has ended, and
    a notebook's next `fit` must not be refused. A `fit` that lost the lock is told so by `check`.
    Remote directories (gs://) are not locked.

    Args:
        directory: string, a directory that exists.

    Raises:
        ValueError: if a training in another process has it.
    """

    _held: dict = {}

    def __init__(self, directory):
        self._directory, self._file = directory, None
        if fcntl is None or not os.path.isdir(directory):
            return
        self._key = os.path.realpath(directory)
        # Closed first: closing any handle of a file ends the process's lock on it.
        if self._key in self._held:
            self._held.pop(self._key).close()
        file = open(os.path.join(directory, "lock"), "a+")  # noqa: SIM115
        try:
            # Not `flock`, which lives on in a child that was forked to load data.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read(100) or "unknown"
            file.close()
            raise RefusedError(
                "`backup_dir` must not be that of a training that still runs, nor of an "
                "interrupted one until its process ends or completes a `fit` there: give each its "
                f"own. Received: backup_dir={directory!r}, in use by process {holder}"
            ) from error
        except OSError as error:  # a file system without locks
            warnings.warn(
                f"{directory!r} cannot be locked: see to it that no other training writes there "
                f"({error})",
                RuntimeWarning,
                stacklevel=5,
            )
        with contextlib.suppress(OSError):  # a full disk; it is only for the message
            file.truncate(0)
            file.write(f"{os.getpid()} on {os.uname().nodename}")
            file.flush()
        self._file = self._held[self._key] = file

    def check(self):
        """Raise a RuntimeError if a later `fit` of this process took the directory."""
        if self._file is not None and self._held.get(self._key) is not self._file:
            raise RuntimeError(
                f"A later `fit` of this process writes its checkpoints to {self._directory!r}; "
                "this one saves no more there. Give each training a `backup_dir` of its own."
            )

    def release(self):
        """Let another training have the directory."""
        if self._file is not None and self._held.get(self._key) is self._file:
            self._held.pop(self._key).close()


class Checkpoints:
    """Numbered checkpoints, complete or absent, of named variables and a dictionary.

    A checkpoint is written under another name, flushed to the disk and renamed, the index last;
    only then are older ones removed. So a process that is killed and a machine that loses power
    leave the earlier checkpoints. Reading verifies a checksum of every tensor.

    Args:
        directory: string or `os.PathLike`; it is made if it does not exist.
        keep: the number of checkpoints that are kept.

    Raises:
        ValueError: if the directory cannot be written to, or if another training does.
    """

    def __init__(self, directory, keep=2):
        self._directory = os.fspath(directory)
        self._keep = keep
        try:
            tf.io.gfile.makedirs(self._directory)
            probe = os.path.join(self._directory, f".probe-{os.getpid()}")
            with tf.io.gfile.GFile(probe, "w") as file:
                file.write("may this be written?")
            tf.io.gfile.remove(probe)
            self._lock = DirectoryLock(self._directory)
        except (tf.errors.OpError, OSError) as error:
            raise ValueError(
                "`backup_dir` must name a directory that can be written to. "
                f"Received: backup_dir={directory!r} ({error})"
            ) from error
        for name in tf.io.gfile.listdir(self._directory):
            if _LEFT_BEHIND.match(name.rstrip("/")):
                tf.io.gfile.rmtree(os.path.join(self._directory, name))
        # That the directory itself outlives a power cut; not all of its parents may be opened.
        for parent in pathlib.Path(os.path.abspath(self._directory)).parents:
            with contextlib.suppress(OSError):
                _flush(parent)

    def save(self, number, variables, metadata):
        """Write a checkpoint: a dictionary name -> `tf.Variable`, and metadata for JSON.

        Raises:
            tf.errors.OpError, OSError: if it cannot be written; the earlier ones are still there.
            RuntimeError: if a later training has the directory.
        """
        self._lock.check()
        partial = os.path.join(self._directory, _PARTIAL)
        text = tf.Variable(json.dumps(metadata), dtype=tf.string, trainable=False)
        try:
            checkpoint = tf.train.Checkpoint(more=text, **variables)
            checkpoint.write(os.path.join(partial, f"epoch-{number}"))
            # The index, without which there is no checkpoint, comes after the data.
            names = sorted(tf.io.gfile.listdir(partial))
            for name in names:
                _flush(os.path.join(partial, name))
            for name in names:
                final = os.path.join(self._directory, name)
                tf.io.gfile.rename(os.path.join(partial, name), final, overwrite=True)
            _flush(self._directory)
        finally:
            if tf.io.gfile.exists(partial):
                tf.io.gfile.rmtree(partial)
        kept = self._numbers()[: self._keep]
        for name in sorted(tf.io.gfile.listdir(self._directory), reverse=True):  # an index first
            match = _FILE.match(name)
            if match and int(match[1]) not in kept:
                tf.io.gfile.remove(os.path.join(self._directory, name))

    def newest(self, check, variables):
        """Read the newest checkpoint that is complete.

        Args:
            check: function of a checkpoint's number and metadata, with the error for a checkpoint
                that is not of this training.
            variables: dictionary name -> `tf.Variable`, what to read.

        Returns:
            Arrays by name, and what `check` returned; or None if there is no checkpoint.

        Raises:
            ValueError: if there are checkpoints, but none is readable, or if the newest that is
                readable has other variables.
        """
        numbers = self._numbers()
        for number in numbers:
            path = os.path.join(self._directory, f"epoch-{number}")
            try:
                return _read(path, lambda metadata, n=number: check(n, metadata), variables)
            except RefusedError:
                raise
            except _UNREADABLE as error:
                warnings.warn(
                    f"The checkpoint epoch-{number} cannot be read; trying an earlier one: {error}",
                    RuntimeWarning,
                    stacklevel=4,
                )
        if numbers:
            raise ValueError(
                "`backup_dir` must hold a readable checkpoint: remove it to start over. "
                f"Received: backup_dir={self._directory!r}, where none can be read"
            )
        return None

    def close(self):
        """Let another training have the directory."""
        self._lock.release()

    def _numbers(self):
        """List the numbers of the checkpoints, the newest first."""
        found = map(_FILE.match, tf.io.gfile.listdir(self._directory))
        return sorted((int(m[1]) for m in found if m and m[2] == "index"), reverse=True)


def _read(path, check, variables):
    reader = tf.train.load_checkpoint(path)
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()

    def tensor(name, dtype, shape):
        key = f"{name}/.ATTRIBUTES/VARIABLE_VALUE"
        # Before it is read: a shape that is not ours may not fit into memory.
        if dtypes.get(key) != dtype or shapes[key] != list(shape):
            raise RefusedError(
                "`backup_dir` must hold checkpoints that ResumableTraining wrote. Received: "
                f"{path!r}, in which {name!r} is not {dtype.name} of shape {tuple(shape)}"
            )
        return reader.get_tensor(key)

    try:
        metadata = json.loads(tensor("more", tf.string, ()))
    except (ValueError, RecursionError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError(
            "`backup_dir` must hold checkpoints that ResumableTraining wrote. Received: "
            f"{path!r}, whose metadata is not JSON"
        ) from error
    checked = check(metadata)
    return {name: tensor(name, v.dtype, v.shape) for name, v in variables.items()}, checked


def _flush(path):
    """Wait until a file or a directory's list of files is on the disk, if it is a local one."""
    if os.name != "posix" or not os.path.exists(path):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
