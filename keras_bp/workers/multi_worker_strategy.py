"""A MultiWorkerMirroredStrategy that does not wait forever."""

import faulthandler
import json
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import (
    COUNTS_WORKERS,
    WANTS_SHAPES,
    called_by,
    first_batch,
    global_seed,
    running_call,
)
from keras_bp.workers.check_same import check_same, gather
from keras_bp.workers.peers import Peers
from keras_bp.workers.slurm import slurm_config

_EXPECTED = (
    "The environment variable TF_CONFIG must be JSON such as "
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    "; under SLURM, start the script with srun, which stands for it"
)


# Of `fit`, `evaluate` and `predict`: a worker that has another one takes other steps.
_ARGUMENTS = [
    *("batch_size", "epochs", "initial_epoch", "steps_per_epoch", "steps"),
    *("validation_steps", "validation_batch_size", "validation_freq"),
]


# Keras's callbacks that write, and the attribute that says where.
_WRITERS = {"CSVLogger": "filename", "ModelCheckpoint": "filepath", "TensorBoard": "log_dir"}


class _Strategy(tf.distribute.MultiWorkerMirroredStrategy):
    """TensorFlow's, whose `reduce` also takes what Keras's `fit` hands it, and which checks.

    Keras reduces a whole batch, a structure, where it only wants shapes, and a metric's value along
    an axis that a number does not have.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Args: names: those of the workers, for errors."""
        super().__init__()
        self._names = names
        # Which workers had data at the last step.
        self._had_data = tf.Variable([1] * len(names), trainable=False, dtype=tf.int64)

    @tf.autograph.experimental.do_not_convert
    def reduce(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
        """Reduce a value, or each of a structure, over the workers.

        Of a batch of which `fit` only wants the shapes, return this worker's part.
        """
        call = running_call()
        if tf.nest.is_nested(value):
            if not call or not called_by(WANTS_SHAPES):
                return tf.nest.map_structure(lambda v: self.reduce(reduce_op, v, axis), value)
            # The data were distributed by the user.
            if isinstance(data := call[1]["x"], tf.distribute.DistributedDataset):
                self._check(call, data)
            return tf.nest.map_structure(lambda v: self.experimental_local_results(v)[0], value)
        if call and called_by(COUNTS_WORKERS):
            return self._count(value)
        if axis is not None and self.experimental_local_results(value)[0].shape.rank == 0:
            axis = None
        return super().reduce(reduce_op, value, axis)

    def experimental_distribute_dataset(self, dataset: Any, options: Any = None) -> Any:
        """Share a data set out; from `fit`, `evaluate` and `predict` check first."""
        call, first, known = running_call(), None, False
        if call:
            # `fit` has shared out its own data before those of its validation.
            validates = call[0] == "fit" and "epoch_iterator" in call[1]
            self._check(call, dataset, validates)
            known = bool(_lengths(call[1]["val_x" if validates else "x"]))
            batch = first_batch()
            if batch is not None:
                signature = dataset.element_spec
                first = tf.data.Dataset.from_generator(lambda: [batch], output_signature=signature)
                first = super().experimental_distribute_dataset(_owned(first), options)
                first = keep_for_iterators(first)
        dataset = _owned(dataset)
        # Of each batch of arrays every worker gets a part, if an empty one: nobody need ask at each
        # step who has data left.
        self.extended.experimental_enable_get_next_as_optional = not known
        try:
            data = super().experimental_distribute_dataset(dataset, options)
        finally:
            self.extended.experimental_enable_get_next_as_optional = True
        return self._watched(data, first)

    def distribute_datasets_from_function(self, dataset_fn: Any, options: Any = None) -> Any:
        """Take this worker's share of the data from a function."""
        data = super().distribute_datasets_from_function(lambda c: _owned(dataset_fn(c)), options)
        return self._watched(data)

    def _watched(self, data, first=None):
        """Let distributed data begin anew, and with `first` where a batch is wanted for its shape.

        Keras takes that batch from the data themselves, which read ahead: of a generator all that
        they have read is lost, another number of batches on each worker.
        """
        strategy, kind = self, type(data)

        class Data(kind):
            def __iter__(self):
                if first is not None and called_by(WANTS_SHAPES):
                    return iter(first)
                strategy._had_data.assign(tf.ones_like(strategy._had_data))
                return super().__iter__()

        data.__class__ = Data  # Keras and TensorFlow ask for its class
        return keep_for_iterators(data)

    def _count(self, has_data):
        """Return the number of workers that have data at this step.

        One that has none takes part with an empty batch. That is the last of an epoch, where the
        examples do not fill it; if another one follows, this worker's data are shorter.
        """
        count, index = len(self._names), self.cluster_resolver.task_id
        place = tf.one_hot(index, count, dtype=tf.int64) * tf.reshape(has_data, [])
        have_data = super().reduce("SUM", place, axis=None)
        total = tf.reduce_sum(have_data, keepdims=True)
        short = tf.boolean_mask(list(self._names), tf.equal(self._had_data, 0))
        goes_on = tf.equal(tf.size(short), 0) | tf.equal(total[0], 0)
        reason = (
            "All workers must have the same number of batches. One had none left, and others "
            "had two more or longer:"
        )
        with tf.control_dependencies([tf.debugging.Assert(goes_on, [reason, short])]):
            self._had_data.assign(tf.where(total > 0, have_data, 1))
        return total

    def _check(self, call, data, validates=False):
        """Check before training that all workers call the same method with the same."""
        name, values = call
        model = values["self"]
        optimizer = getattr(model, "optimizer", None)
        cardinality = data.cardinality
        number = int(cardinality() if callable(cardinality) else cardinality)
        kind, x = ("validation ", values["val_x"]) if validates else ("", values["x"])
        facts = {
            "method": name,
            **{key: values[key] for key in _ARGUMENTS if key in values},
            "validation": values.get("validation_data") is not None,
            "seed": global_seed(),
            "jit_compile": bool(model.jit_compile),
            "steps_per_execution": model.steps_per_execution,
            "model": _described(model.variables),
            "optimizer": _described(optimizer.variables if optimizer else []),
            f"number of {kind}batches": {-1: "infinite", -2: "unknown"}.get(number, number),
            f"number of {kind}examples": _lengths(x),
            f"form of {kind}batches": [str(spec) for spec in tf.nest.flatten(data.element_spec)],
        }
        check_same(self, **facts)
        if name == "fit" and not validates:
            self._check_callbacks(values["callbacks"])
        if model.steps_per_execution != 1:
            raise ValueError(
                "Over workers `steps_per_execution` must be 1: model.compile(..., "
                f"steps_per_execution=1). Received: {model.steps_per_execution}"
            )
        if model.jit_compile and name != "predict" and "CPU" in self.extended.worker_devices[0]:
            raise ValueError(
                "Over workers without a GPU `jit_compile` must be False, as XLA has no operations "
                "over several CPUs: model.compile(..., jit_compile=False). Received: True"
            )

    def _check_callbacks(self, callbacks):
        """Refuse Keras's callbacks by which several workers would write the same file."""
        callbacks = tf.nest.flatten(getattr(callbacks, "callbacks", callbacks))
        backs_up = any(isinstance(c, keras.callbacks.BackupAndRestore) for c in callbacks)
        paths = [
            f"{name}({os.path.abspath(getattr(callback, where))!r})"
            for callback in callbacks
            for name, where in _WRITERS.items()
            if isinstance(callback, getattr(keras.callbacks, name))
        ]
        of_all = gather(self, [backs_up, paths])
        if any(backs_up for backs_up, _ in of_all):
            raise ValueError(
                "Over workers `callbacks` must hold keras_bp.callbacks.ResumableTraining in place "
                "of BackupAndRestore, by which they write one file, and may begin at different "
                "epochs."
            )
        written = [path for _, paths in of_all for path in set(paths)]
        for path in written:
            if written.count(path) > 1:
                raise ValueError(
                    "`callbacks` must hold what writes a file on one worker only: `[...] if "
                    "strategy.cluster_resolver.task_id == 0 else []`, or with a path of its own on "
                    f"each. Received: {path} on several workers"
                )


def keep_for_iterators(data: Any) -> Any:
    """Let what the iterators over distributed data read live until they have ended.

    An iterator of TensorFlow (2.21) reads ahead in a thread. When it is dropped, TensorFlow frees
    the outermost data set, which it made for this iterator, and then ends the thread. If the thread
    is reading just then, as it may be where `fit` drops an iterator between two validations, the
    process ends with a segmentation fault.
    """
    kind: Any = type(data)

    class Data(kind):
        def __iter__(self):
            made, with_options = [], tf.data.Dataset.with_options

            def keep(dataset, *args, **kwargs):
                made.append(with_options(dataset, *args, **kwargs))
                return made[-1]

            tf.data.Dataset.with_options = keep
            try:
                iterator = super().__iter__()
            finally:
                tf.data.Dataset.with_options = with_options
            iterator.read = made  # an object's attributes are freed in the order they were set in
            return iterator

    data.__class__ = Data
    return data


def _lengths(x):
    """List the numbers of examples of arrays; of other data, none."""
    return [v.shape[0] for v in tf.nest.flatten(x) if getattr(v, "shape", ())]


def _owned(dataset):
    """Return data of unknown length, of a generator perhaps, in memory that TensorFlow owns.

    It takes a generator's arrays without a copy, if they happen to lie at a multiple of 64 bytes,
    and over workers writes into them: the caller's own data would silently change.
    """
    if not isinstance(dataset, tf.data.Dataset) or int(dataset.cardinality()) >= 0:
        return dataset

    def copy(value):
        known = value.dtype.is_floating or value.dtype.is_integer or value.dtype.is_bool
        return tf.raw_ops.DeepCopy(x=value) if known else value

    def copied(*batch):
        batch = batch if isinstance(dataset.element_spec, tuple) else batch[0]
        return tf.nest.map_structure(copy, batch, expand_composites=True)

    return dataset.map(copied)


def _described(variables):
    return [f"{v.path} {tuple(v.shape)} {v.dtype}" for v in variables]


def multi_worker_strategy(seconds: float = 300.0) -> tf.distribute.MultiWorkerMirroredStrategy:
    """Wait until all workers are up, and return their `tf.distribute.MultiWorkerMirroredStrategy`.

    TensorFlow's own constructor silently waits up to an hour for a missing worker. This function
    first contacts the others, at the addresses in TF_CONFIG (which it makes of SLURM's variables,
    if `srun` has started the program), while it listens at its own. Call it at the start of the
    program, before anything is computed.

    Keras's `fit`, `evaluate` and `predict` work with it, which they do not with TensorFlow's: build
    and compile the model in the strategy's scope. Every worker runs the same script on the same
    data, of which it takes its share; `batch_size` is that of all workers together. Each call first
    compares the model, the data and the arguments over all workers, and raises a ValueError on all
    where one differs.

    The workers stay connected. When one ends before the others, whether killed, by an error or
    because its machine is lost, the next operation over all workers fails on the others, with its
    number and address: a `tf.errors.UnavailableError`.

    Every worker must have one device: with several GPUs on a machine, start a worker for each,
    with CUDA_VISIBLE_DEVICES set to one of them. Worker 0 is the chief.

    Args:
        seconds: number above 0, how long the others may take to come up. Defaults to 300.

    Raises:
        TypeError: if `seconds` is not a number.
        ValueError: if it is out of range, if TF_CONFIG is malformed, if this worker's address is in
            use, or if a worker has several devices.
        TimeoutError: if a worker does not come up in time.

    Example:
    ```python
    strategy = keras_bp.workers.multi_worker_strategy(seconds=60)
    with strategy.scope():
        model = build_model()
        model.compile("adam", "mse")
    model.fit(x, y, batch_size=64, epochs=5)
    ```
    """
    check_number("seconds", seconds, 0.0, low_open=True)
    workers, index = _read_cluster()
    peers = Peers(workers, index, seconds)
    handler = signal.getsignal(signal.SIGTERM)
    # Where a worker dies just now, TensorFlow waits for it for an hour, and lets no thread run.
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        strategy = _Strategy([peers.name(number) for number in range(len(workers))])
    finally:
        faulthandler.cancel_dump_traceback_later()
    if handler is not None and threading.current_thread() is threading.main_thread():
        # TensorFlow listens in its place, and does nothing.
        signal.signal(signal.SIGTERM, handler)
    peers.start_training()
    if strategy.num_replicas_in_sync != len(workers):
        raise ValueError(
            "Every worker must have one device: start a worker for each GPU, and set "
            f"CUDA_VISIBLE_DEVICES. Received: {strategy.num_replicas_in_sync} devices of "
            f"{len(workers)} workers"
        )
    return strategy


def _read_cluster():
    """Return the addresses of all workers, as (host, port), and the index of this one.

    Raises:
        ValueError: if TF_CONFIG is not set, or not of that form.
    """
    if "TF_CONFIG" not in os.environ and (config := slurm_config(os.environ)):
        os.environ["TF_CONFIG"] = json.dumps(config)  # which TensorFlow reads
    text = os.environ.get("TF_CONFIG")
    try:
        config = json.loads(text or "")
    except ValueError as error:
        raise _wrong(f"TF_CONFIG={text!r}, which is not JSON ({error})") from error
    cluster = config.get("cluster") if isinstance(config, dict) else None
    task = config.get("task") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise _wrong(f"TF_CONFIG={text!r}, without a `cluster` and a `task`")
    # Worker 0 is the chief: there are no tasks of other types.
    if list(cluster) != ["worker"] or task.get("type") != "worker":
        raise _wrong(f"cluster={cluster!r}, task={task!r}; all must be of type 'worker'")
    names = cluster["worker"]
    if not isinstance(names, list) or not names:
        raise _wrong(f"cluster={cluster!r}, without a list of addresses")
    workers = [_address(name) for name in names]
    if len(set(workers)) < len(workers):
        raise _wrong(f"cluster={cluster!r}, which names an address twice")
    index = task.get("index")
    if type(index) is not int or not 0 <= index < len(workers):
        raise _wrong(f"index={index!r}; it must lie in 0 to {len(workers) - 1}")
    return workers, index


def _address(name):
    host, _, port = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise _wrong(f"the address {name!r}, which is not 'host:port'")
    return host, int(port)


def _wrong(received):
    return ValueError(f"{_EXPECTED}. Received: {received}")
