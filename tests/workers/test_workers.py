"""Workers find one another, or say which is missing, or what TF_CONFIG should be.

Those that differ are in tests/distribution/test_two_workers.py, with two processes.
"""

import json
import os
import socket
import sys
import threading
import time
import weakref

import pytest
import tensorflow as tf

from keras_bp.workers import check_same, multi_worker_strategy

# The waiting by itself: the strategy can only be made in a process that has computed nothing.
from keras_bp.workers.peers import _connect
from keras_bp.workers.slurm import slurm_config

ADDRESSES = ["127.0.0.1:2222", "127.0.0.1:2223"]


def tf_config(workers=ADDRESSES, index=0, kind="worker"):
    return {"cluster": {"worker": workers}, "task": {"type": kind, "index": index}}


def free_addresses(number):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    addresses = [s.getsockname() for s in sockets]
    for free in sockets:
        free.close()
    return addresses


@pytest.mark.parametrize(
    "config, received",
    [
        (None, "TF_CONFIG=None, which is not JSON"),
        ("{'cluster': 1}", "TF_CONFIG=\"{'cluster': 1}\", which is not JSON"),
        ([1], r"TF_CONFIG='\[1\]', without a `cluster` and a `task`"),
        ({"task": {"type": "worker", "index": 0}}, "without a `cluster` and a `task`"),
        ({"cluster": {"worker": ADDRESSES}}, "without a `cluster` and a `task`"),
        ({**tf_config(), "cluster": {}}, r"cluster=\{\}, .* must be of type 'worker'"),
        (
            {**tf_config(), "cluster": {"worker": ADDRESSES, "ps": ADDRESSES}},
            "cluster=.*'ps'.* must be of type 'worker'",
        ),
        (tf_config(kind="chief"), "'chief'.* must be of type 'worker'"),
        (tf_config([]), "without a list of addresses"),
        (tf_config("127.0.0.1:1"), "without a list of addresses"),
        (tf_config([ADDRESSES[0], "127.0.0.1"]), "the address '127.0.0.1', which is not 'host:p"),
        (tf_config(["host:65536"]), "the address 'host:65536', which is not 'host:port'"),
        (tf_config(["host:0"]), "the address 'host:0', which is not 'host:port'"),
        (tf_config([7]), "the address 7, which is not 'host:port'"),
        (tf_config(ADDRESSES[:1] * 2), "which names an address twice"),
        (tf_config(index=2), "index=2; it must lie in 0 to 1"),
        (tf_config(index=-1), "index=-1; it must lie in 0 to 1"),
        (tf_config(index="0"), "index='0'; it must lie in 0 to 1"),
        (tf_config(index=True), "index=True; it must lie in 0 to 1"),
    ],
    ids=str,
)
def test_a_malformed_tf_config(config, received, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=f"TF_CONFIG must be JSON .*Received: .*{received}"):
        multi_worker_strategy()


SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_NODELIST": "node[01-03,07],gpu5",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3),2,1",
    "SLURM_NODEID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "123456",
}
PLACES = [("node01", 0), ("node02", 0), ("node03", 0), ("node07", 0), ("node07", 1), ("gpu5", 0)]


@pytest.mark.parametrize(
    "changes, hosts",
    [
        ({}, PLACES),
        ({"SLURM_PROCID": "4", "SLURM_LOCALID": "1"}, PLACES),
        (
            {
                "SLURM_STEP_NODELIST": "r[1-2]n[09-10]",
                "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
                "SLURM_STEP_NUM_TASKS": "4",
            },
            [("r1n09", 0), ("r1n10", 0), ("r2n09", 0), ("r2n10", 0)],
        ),
        (
            {
                "SLURM_STEP_NODELIST": "node7",
                "SLURM_STEP_TASKS_PER_NODE": "4",
                "SLURM_STEP_NUM_TASKS": "4",
                "SLURM_NODEID": "0",
                "SLURM_LOCALID": "3",
            },
            [("node7", n) for n in range(4)],
        ),
    ],
)
def test_what_slurm_says(changes, hosts):
    environment = SLURM | changes
    port = 10000 + 64 * (123456 % 300)
    assert slurm_config(environment) == {
        "cluster": {"worker": [f"{host}:{port + number}" for host, number in hosts]},
        "task": {"type": "worker", "index": int(environment["SLURM_PROCID"])},
    }


def test_slurm_stands_for_tf_config(monkeypatch):
    """Only where `srun` has started the process, and nobody has set TF_CONFIG."""
    monkeypatch.setenv("TF_CONFIG", "")  # put back after the test
    monkeypatch.delenv("TF_CONFIG")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        TimeoutError, match=r"worker 3 waited for worker 0 \(node01:\d+\), worker 1"
    ):
        multi_worker_strategy(seconds=0.1)
    assert json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 3
    monkeypatch.delenv("TF_CONFIG")
    monkeypatch.delenv("SLURM_STEP_NODELIST")  # as in the script that sbatch runs
    with pytest.raises(ValueError, match="TF_CONFIG must be JSON .* with srun.*TF_CONFIG=None"):
        multi_worker_strategy()


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_NODEID": "0"},
        {"SLURM_LOCALID": "1"},
        {"SLURM_STEP_NUM_TASKS": "5"},
        {"SLURM_STEP_TASKS_PER_NODE": "6"},
    ],
)
def test_tasks_that_slurm_lays_out_otherwise(changes):
    with pytest.raises(ValueError, match="--distribution=block. Received: .*'SLURM_NODEID'"):
        slurm_config(SLURM | changes)


def test_workers_that_never_come_up(monkeypatch):
    (host, port), other = free_addresses(2)
    workers = [f"{host}:{port}", f"{host}:{other[1]}", f"{host}:{port - 1}"]
    monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config(workers)))
    # The third is there: not waited for, though it waits itself. On the port of the second is
    # something else.
    addresses = [(host, port), (host, other[1]), (host, port - 1)]
    third = threading.Thread(target=lambda: pytest.raises(TimeoutError, _connect, addresses, 2, 2))
    third.start()
    with socket.create_server((host, other[1])), pytest.raises(TimeoutError) as caught:
        multi_worker_strategy(seconds=1)
    third.join()
    assert str(caught.value).endswith(
        f"within `seconds`. Received: seconds=1; worker 0 waited for worker 1 ({workers[1]})"
    )
    # Its own port is free again.
    socket.create_server((host, port)).close()


def test_workers_that_come_up_at_different_times():
    addresses = free_addresses(3)
    found, servers = {}, []

    def come_up(index, after):
        time.sleep(after)
        if index == 2:  # a probe of the cluster's, say
            socket.create_connection(addresses[0]).close()
        found[index] = _connect(addresses, index, 30)
        # TensorFlow's server takes the place of the one that waited; the connections stay.
        servers.append(socket.create_server(addresses[index]))

    threads = [threading.Thread(target=come_up, args=(n, n * 0.3)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {index: set(others) for index, others in found.items()} == {
        0: {1, 2},
        1: {0, 2},
        2: {0, 1},
    }
    for index, others in found.items():
        for other, connection in others.items():
            connection.sendall(b"%d" % index)
            found[other][index].settimeout(10)
            assert found[other][index].recv(9) == b"%d" % index
    for connection in [*servers, *(c for others in found.values() for c in others.values())]:
        connection.close()


def test_a_port_that_is_taken(monkeypatch):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config([f"localhost:{port}", "localhost:1"])))
        with pytest.raises(ValueError, match=f"number 0 in TF_CONFIG, must be free.*:{port}"):
            multi_worker_strategy()


@pytest.mark.parametrize("seconds, error", [(0, ValueError), (-1.0, ValueError), ("5", TypeError)])
def test_seconds(seconds, error):
    with pytest.raises(error, match=r"`seconds` must be .*\(0, inf\).*Received: seconds="):
        multi_worker_strategy(seconds)


def test_several_devices_a_worker(monkeypatch, replicas):
    [(host, port)] = free_addresses(1)
    monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config([f"{host}:{port}"])))
    module = sys.modules[multi_worker_strategy.__module__]
    monkeypatch.setattr(module, "_Strategy", lambda names: replicas)
    with pytest.raises(ValueError, match=r"must have one device.*Received: 2 devices of 1 workers"):
        multi_worker_strategy()


def test_tensorflow_fails_to_start(monkeypatch):
    """As where something was computed before. The process, a notebook's, is not ended later."""

    def fails(names):
        raise RuntimeError("Collective ops must be configured at program startup")

    [(host, port)] = free_addresses(1)
    monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config([f"{host}:{port}"])))
    monkeypatch.setattr(sys.modules[multi_worker_strategy.__module__], "_Strategy", fails)
    process_ends = []
    later = lambda seconds, exit: process_ends.append(seconds)  # noqa: E731
    monkeypatch.setattr("faulthandler.dump_traceback_later", later)
    monkeypatch.setattr("faulthandler.cancel_dump_traceback_later", process_ends.clear)
    with pytest.raises(RuntimeError, match="must be configured at program startup"):
        multi_worker_strategy(seconds=60)
    assert not process_ends


def test_one_program_is_the_same_as_itself(replicas):
    for strategy in (replicas, tf.distribute.get_strategy()):
        check_same(strategy, size=3, shapes=[(2, 3), None], text="ä")


def test_what_an_iterator_reads_outlives_it(replicas):
    """Freed before, it ended some processes: the iterator's thread may just be reading it."""
    data = tf.data.Dataset.range(8).batch(4)
    by_function = replicas.distribute_datasets_from_function(lambda context: data)
    for distributed in (replicas.experimental_distribute_dataset(data), by_function):
        ended, iterator = [], iter(distributed)
        [reader], [read] = iterator._iterators, iterator.read
        for name, value in {"reader": reader._iterator, "read": read._variant_tensor}.items():
            weakref.finalize(value, ended.append, name)
        assert read.options().experimental_distribute.num_devices == 2  # that of the iterator
        del reader, read, value
        next(iterator)
        assert not ended
        del iterator
        assert ended == ["reader", "read"]
        assert "keep" not in tf.data.Dataset.with_options.__name__  # TensorFlow's again
