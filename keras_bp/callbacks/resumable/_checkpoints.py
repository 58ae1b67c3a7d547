"""Numbered checkpoints in a directory that belongs to one training."""

import contextlib
import json
import os
import pathlib
import re
import threading
import warnings

import tensorflow as tf

try:
    import fcntl
except ImportError:  # Windows, where directories are not locked
    fcntl = None  # type: ignore[assignment]

# Errors of TensorFlow's reader on truncated or altered files.
_UNREADABLE = (tf.errors.OpError, OSError, ValueError, LookupError)
_FILE = re.compile(r"epoch-(\d+)(?:-batch-(\d+))?\.(index|data-.*)$")
_PARTIAL = "partial"
# What TensorFlow leaves behind when it is killed while it writes; "partial" is where we write.
_LEFT_BEHIND = re.compile(rf"{_PARTIAL}$|epoch-\d+(-batch-\d+)?_temp")


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
    """Checkpoints in a directory, complete or absent, of named tensors and a dictionary.

    A checkpoint is written under another name, flushed to the disk and renamed, the index last;
    only then are older ones removed. So a process that is killed and a machine that loses power
    leave the earlier checkpoints. Reading verifies a checksum of every tensor.

    Each has a place, the number of epochs that are done and of the batches in the next one, (3, 0)
    or (3, 17), by which they are ordered.

    Args:
        directory: string or `os.PathLike`; it is made if it does not exist.
        keep: the number of checkpoints that are kept.

    Raises:
        ValueError: if the directory cannot be written to, or if another training does.
    """

    # The thread that writes to a directory, which an interrupted `fit` leaves to the next one.
    _writers: dict = {}

    def __init__(self, directory, keep=2):
        self._directory = os.fspath(directory)
        self._keep = keep
        self._failure = None
        try:
            tf.io.gfile.makedirs(self._directory)
            probe = os.path.join(self._directory, f".probe-{os.getpid()}")
            with tf.io.gfile.GFile(probe, "w") as file:
                file.write("may this be written?")
            tf.io.gfile.remove(probe)
            self._wait_for_writer()
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

    def save(self, place, tensors, metadata):
        """Write a checkpoint in the background, once the one before is written.

        Args:
            place: tuple (epochs, batches).
            tensors: dictionary name -> tensor.
            metadata: dictionary for JSON. Nothing changes either any more.

        Raises:
            RuntimeError: if a later training has the directory.
        """
        self._lock.check()
        self._wait_for_writer()

        def write():
            try:
                self._write(place, {"more": tf.constant(json.dumps(metadata)), **tensors})
            except Exception as error:  # which nobody would see in this thread
                self._failure = place, error

        # Not a daemon: a process that ends in the meantime waits for it.
        writer = self._writers[os.path.realpath(self._directory)] = threading.Thread(target=write)
        writer.start()

    def failure(self, wait=False):
        """Return the place of a checkpoint that could not be written, with the error, only once.

        The earlier checkpoints are still there. None if there was no failure so far, or, with
        `wait`, none at all.
        """
        if wait:
            self._wait_for_writer()
        failure, self._failure = self._failure, None
        return failure

    def _wait_for_writer(self):
        writer = self._writers.pop(os.path.realpath(self._directory), None)
        if writer is not None:
            writer.join()

    def _write(self, place, tensors):
        partial = os.path.join(self._directory, _PARTIAL)
        try:
            tf.io.gfile.makedirs(partial)
            tf.raw_ops.SaveV2(
                prefix=os.path.join(partial, _name(place)),
                tensor_names=list(tensors),
                shape_and_slices=[""] * len(tensors),
                tensors=list(tensors.values()),
            )
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
        # One that is further on could not be read, or another worker did not have it.
        kept = [p for p in self.places() if p <= [*place]][: self._keep]
        for name in sorted(tf.io.gfile.listdir(self._directory), reverse=True):  # an index first
            match = _FILE.match(name)
            if match and _place(match) not in kept:
                tf.io.gfile.remove(os.path.join(self._directory, name))

    def newest(self, read, gather=lambda facts: [facts]):
        """Return what `read` makes of the newest complete checkpoint, None if there is none.

        Args:
            read: function of a place and an `Entries`, with a RefusedError for a checkpoint that is
                not of this training.
            gather: function that returns what each worker says. All take the same checkpoint.

        Raises:
            ValueError: if there are checkpoints, but none is readable, or if the newest that is
                readable has other variables.
        """
        of_all = gather(self.places())
        common = [p for p in of_all[0] if all(p in places for places in of_all)]
        # One that only the first worker has tells whether it is this training's.
        for place in map(tuple, common or of_all[0][:1]):
            result = refused = unreadable = None
            try:
                result = read(place, Entries(self._directory, place))
            except RefusedError as error:
                refused = error
            except _UNREADABLE as error:
                unreadable = error
            answers = gather([refused and str(refused), unreadable and str(unreadable)])
            for text, _ in answers:
                if text:
                    raise refused or RefusedError(text)
            problems = [text for _, text in answers if text]
            if common and not problems:
                return result
            warnings.warn(
                f"The checkpoint {_name(place)} cannot be read; trying an earlier one: {problems}"
                if common
                else "There is no checkpoint of all workers yet: the training begins anew",
                RuntimeWarning,
                stacklevel=4,
            )
        if common:
            raise ValueError(
                "`backup_dir` must hold a readable checkpoint: remove it to start over. "
                f"Received: backup_dir={self._directory!r}, where none can be read"
            )
        return None

    def close(self):
        """Let another training have the directory."""
        self._wait_for_writer()
        self._lock.release()

    def places(self):
        """List the places of the checkpoints, the newest first."""
        found = map(_FILE.match, tf.io.gfile.listdir(self._directory))
        return sorted((_place(m) for m in found if m and m[3] == "index"), reverse=True)


def _name(place):
    epochs, batches = place
    return f"epoch-{epochs}-batch-{batches}" if batches else f"epoch-{epochs}"


def _place(match):
    return [int(match[1]), int(match[2] or 0)]


class Entries:
    """The tensors of the checkpoint of a place in a directory."""

    def __init__(self, directory, place):
        self._path = os.path.join(directory, _name(place))
        self._reader = tf.train.load_checkpoint(self._path)
        self._shapes = self._reader.get_variable_to_shape_map()
        self._dtypes = self._reader.get_variable_to_dtype_map()

    def metadata(self):
        """Return the dictionary, or whatever its place holds."""
        try:
            return json.loads(self.array("more", tf.string, ()))
        except (ValueError, RecursionError) as error:
            if isinstance(error, RefusedError):
                raise
            raise RefusedError(
                "`backup_dir` must hold checkpoints that this version of ResumableTraining wrote. "
                f"Received: {self._path!r}, whose metadata is not JSON"
            ) from error

    def array(self, name, dtype, shape):
        """Return the array of a name, of a type and a shape."""
        # Before it is read: a shape that is not ours may not fit into memory.
        if self._dtypes.get(name) != dtype or self._shapes[name] != list(shape):
            raise RefusedError(
                "`backup_dir` must hold checkpoints that this version of ResumableTraining wrote. "
                f"Received: {self._path!r}, in which {name!r} is not {dtype.name} of shape "
                f"{tuple(shape)}"
            )
        return self._reader.get_tensor(name)

    def variants(self, names):
        """Return those of some tensors that hold the state of an iterator, by name."""
        names = [name for name in names if self._dtypes.get(name) == tf.variant]
        if not names:
            return {}
        states = tf.raw_ops.RestoreV2(
            prefix=self._path,
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            dtypes=[tf.variant] * len(names),
        )
        return dict(zip(names, states, strict=True))


def _flush(path):
    """Wait until a file or a directory's list of files is on the disk, if it is a local one."""
    if os.name != "posix" or not os.path.exists(path):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
