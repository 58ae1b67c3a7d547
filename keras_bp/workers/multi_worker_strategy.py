"""A MultiWorkerMirroredStrategy that does not wait forever."""

import socket
import time

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp.workers._cluster import read_cluster


def multi_worker_strategy(seconds=300.0):
    """Wait until all workers are up, and return their `tf.distribute.MultiWorkerMirroredStrategy`.

    TensorFlow's own constructor waits up to an hour for a worker that does not come up, and says
    nothing. This function looks for the others first, at the addresses in TF_CONFIG, while it
    listens at its own. Call it at the start of the program, before anything is computed.

    Every worker must have one device: with several GPUs on a machine, start a worker for each,
    with CUDA_VISIBLE_DEVICES set to one of them. Worker 0 is the chief.

    Args:
        seconds: number above 0, how long the others may take to come up. Defaults to 300.

    Returns:
        The strategy.

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
    ```
    """
    check_number("seconds", seconds, 0.0, low_open=True)
    workers, index = read_cluster()
    _wait_for_all(workers, index, seconds)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    if strategy.num_replicas_in_sync != len(workers):
        raise ValueError(
            "Every worker must have one device: start a worker for each GPU, and set "
            f"CUDA_VISIBLE_DEVICES. Received: {strategy.num_replicas_in_sync} devices of "
            f"{len(workers)} workers"
        )
    return strategy


def _wait_for_all(workers, index, seconds):
    """Return once each of the other addresses has accepted a connection."""
    deadline = time.monotonic() + seconds
    waiting = {number: address for number, address in enumerate(workers) if number != index}
    try:
        # On all interfaces, as TensorFlow's server that takes this place: the name by which the
        # others know this machine may not be its own.
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
                # Where a worker has seen all others, TensorFlow's server listens in its place; in
                # the moment between the two nobody does, and it is tried again.
                try:
                    socket.create_connection(address, timeout=min(left, 5.0)).close()
                    del waiting[number]
                except OSError:
                    time.sleep(min(left, 0.1))


def _text(address):
    return f"{address[0]}:{address[1]}"
