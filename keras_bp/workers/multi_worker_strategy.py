"""A MultiWorkerMirroredStrategy that does not wait forever."""

import json
import os
import socket
import time
from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_number

_EXPECTED = (
    "The environment variable TF_CONFIG must be JSON such as "
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
)


class _Strategy(tf.distribute.MultiWorkerMirroredStrategy):
    """TensorFlow's, whose `reduce` also takes what Keras's `fit` hands it.

    Keras reduces a whole batch, a structure, where it only wants shapes, and a metric's value along
    an axis that a number does not have.
    """

    def reduce(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
        """Reduce a value over the workers; of a structure return this worker's part."""
        if tf.nest.is_nested(value):
            return tf.nest.map_structure(lambda v: self.experimental_local_results(v)[0], value)
        if axis is not None and self.experimental_local_results(value)[0].shape.rank == 0:
            axis = None
        return super().reduce(reduce_op, value, axis)


def multi_worker_strategy(seconds: float = 300.0) -> tf.distribute.MultiWorkerMirroredStrategy:
    """Wait until all workers are up, and return their `tf.distribute.MultiWorkerMirroredStrategy`.

    TensorFlow's own constructor silently waits up to an hour for a missing worker. This function
    first contacts the others, at the addresses in TF_CONFIG, while it listens at its own. Call it
    at the start of the program, before anything is computed.

    Keras's `fit`, `evaluate` and `predict` work with it, which they do not with TensorFlow's: build
    and compile the model in the strategy's scope. Every worker runs the same script on the same
    data, of which it takes its share; `batch_size` is that of all workers together.

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
    _wait_for_all(workers, index, seconds)
    strategy = _Strategy()
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


def _wait_for_all(workers, index, seconds):
    """Return once each of the other addresses has accepted a connection."""
    deadline = time.monotonic() + seconds
    waiting = {number: address for number, address in enumerate(workers) if number != index}
    try:
        # On all interfaces, as TensorFlow's server will: the name by which the others know this
        # machine may not be its own.
        own = socket.create_server(("", workers[index][1]), backlog=len(workers))
    except OSError as error:
        raise ValueError(
            f"The port of this worker, number {index} in TF_CONFIG, must be free. Received: "
            f"{_text(workers[index])} ({error})"
        ) from error
    with own:
        while waiting:
            for number, address in list(waiting.items()):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(
                        "All workers in TF_CONFIG must come up within `seconds`. Received: "
                        f"seconds={seconds}; worker {index} waited for "
                        + ", ".join(f"worker {n} ({_text(a)})" for n, a in waiting.items())
                    )
                # Once a worker has seen all others, TensorFlow's server listens in its place. Until
                # then the connection fails and is tried again.
                try:
                    socket.create_connection(address, timeout=min(left, 5.0)).close()
                    del waiting[number]
                except OSError:
                    time.sleep(min(left, 0.1))


def _text(address):
    return f"{address[0]}:{address[1]}"
