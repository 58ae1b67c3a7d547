"""Checkpoints that are whole or not there."""

import json
import os
import re
import warnings

import tensorflow as tf

# What TensorFlow's reader and JSON raise on files that are cut off or altered.
_UNREADABLE = (tf.errors.OpError, OSError, ValueError, LookupError)
_INDEX = re.compile(r"epoch-(\d+)\.index$")


class Checkpoints:
    """Numbered checkpoints of named variables and a dictionary, the newest few in a directory.

    `tf.train.CheckpointManager` writes a checkpoint's files aside and renames them, its index last:
    a process that is killed leaves the checkpoints of before. Reading checks a checksum of every
    tensor.

    Args:
        directory: string or `os.PathLike`; it is made if it does not exist.
        keep: how many checkpoints are kept.

    Raises:
        ValueError: if the directory cannot be written to.
    """

    def __init__(self, directory, keep=2):
        self._directory = os.fspath(directory)
        self._keep = keep
        self._manager = None
        try:
            tf.io.gfile.makedirs(self._directory)
            probe = os.path.join(self._directory, f".probe-{os.getpid()}")
            with tf.io.gfile.GFile(probe, "w") as file:
                file.write("may this be written?")
            tf.io.gfile.remove(probe)
        except (tf.errors.OpError, OSError) as error:
            raise ValueError(
                "`directory` must name a directory that can be written to. "
                f"Received: directory={directory!r} ({error})"
            ) from error

    def save(self, number, variables, more):
        """Write a checkpoint: a dictionary name -> `tf.Variable`, and one for JSON."""
        if self._manager is None:
            self._more = tf.Variable("", dtype=tf.string, trainable=False)
            self._manager = self._new_manager(tf.train.Checkpoint(more=self._more, **variables))
        self._more.assign(json.dumps(more))
        self._manager.save(checkpoint_number=number)

    def newest(self, names):
        """Read the newest checkpoint that is whole.

        Args:
            names: function of the dictionary that returns the names of the variables to read.

        Returns:
            Arrays by name, and the dictionary; or None where there is no checkpoint.

        Raises:
            ValueError: if there are checkpoints, but none that can be read.
        """
        # By their files: the list that TensorFlow keeps beside them may be lost.
        found = map(_INDEX.match, tf.io.gfile.listdir(self._directory))
        numbers = sorted((int(match[1]) for match in found if match), reverse=True)
        for number in numbers:
            path = os.path.join(self._directory, f"epoch-{number}")
            try:
                return _read(path, names)
            except Refused:
                raise
            except _UNREADABLE as error:
                warnings.warn(
                    f"The checkpoint epoch-{number} cannot be read, and one from before it is "
                    f"looked for: {error}",
                    RuntimeWarning,
                    stacklevel=4,
                )
        if numbers:
            raise ValueError(
                "`directory` holds checkpoints, but none that can be read: remove it to begin "
                f"anew. Received: directory={self._directory!r}"
            )
        return None

    def _new_manager(self, checkpoint):
        def create():
            return tf.train.CheckpointManager(
                checkpoint, self._directory, self._keep, checkpoint_name="epoch"
            )

        try:
            return create()
        except ValueError:  # the list is damaged; it is written anew
            tf.io.gfile.remove(os.path.join(self._directory, "checkpoint"))
            return create()


class Refused(ValueError):
    """What a checkpoint holds is whole, but of something else."""


def _read(path, names):
    reader = tf.train.load_checkpoint(path)

    def tensor(name):
        return reader.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE")

    more = json.loads(tensor("more"))
    return {name: tensor(name) for name in names(more)}, more
