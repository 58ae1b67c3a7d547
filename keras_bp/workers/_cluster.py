"""The workers of a training, as TF_CONFIG names them."""

import json
import os

_EXPECTED = (
    "The environment variable TF_CONFIG must be JSON such as "
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
)


def read_cluster():
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
    # Worker 0 is the chief: tasks of other types have no place in this loop.
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
