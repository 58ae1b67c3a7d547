"""Workers find one another, or say which is missing, or what TF_CONFIG should be.

Those that differ are in tests/distribution/test_two_workers.py, with two processes.
"""

import json
import socket
import sys
import threading
import time

import pytest
import tensorflow as tf

from keras_bp.workers import check_same, multi_worker_strategy

# The waiting by itself: the strategy can only be made in a process that has computed nothing.
from keras_bp.workers.multi_worker_strategy import _wait_for_all

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


def test_workers_that_never_come_up(monkeypatch):
    (host, port), other = free_addresses(2)
    workers = [f"{host}:{port}", f"{host}:{other[1]}", f"{host}:{port - 1}"]
    monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config(workers)))
    # The third is there: not waited for.
    with socket.create_server((host, port - 1)), pytest.raises(TimeoutError) as caught:
        multi_worker_strategy(seconds=0.5)
    assert str(caught.value).endswith(
        f"within `seconds`. Received: seconds=0.5; worker 0 waited for worker 1 ({workers[1]})"
    )
    # Its own port is free again.
    socket.create_server((host, port)).close()


def test_workers_that_come_up_at_different_times():
    addresses = free_addresses(3)
    ready = []

    def come_up(index, after):
        time.sleep(after)
        _wait_for_all(addresses, index, 30)
        # TensorFlow's server takes the place of the one that waited.
        with socket.create_server(addresses[index]):
            ready.append(index)
            while len(ready) < 3:
                time.sleep(0.01)

    threads = [threading.Thread(target=come_up, args=(n, n * 0.3)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(ready) == [0, 1, 2]


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
    monkeypatch.setattr(module, "_Strategy", lambda: replicas)
    with pytest.raises(ValueError, match=r"must have one device.*Received: 2 devices of 1 workers"):
        multi_worker_strategy()


def test_one_program_is_the_same_as_itself(replicas):
    for strategy in (replicas, tf.distribute.get_strategy()):
        check_same(strategy, size=3, shapes=[(2, 3), None], text="ä")
