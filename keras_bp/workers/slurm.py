"""TF_CONFIG of a SLURM step: `srun` starts a worker for each task, and says where all are."""

import re
from collections.abc import Mapping
from typing import Any

_FIRST_PORT, _PORTS_PER_JOB, _JOBS = 10000, 64, 300


def slurm_config(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what TF_CONFIG must hold in a task that `srun` started, or None in another process.

    The ports are of the job: two jobs that share a node rarely have the same.

    Args:
        environment: the variables that SLURM sets.

    Raises:
        ValueError: if they are not those of tasks that were laid out node by node.
    """
    names = ["SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"]
    if any(name not in environment for name in names):
        return None
    index = int(environment["SLURM_PROCID"])
    hosts = _hosts(environment["SLURM_STEP_NODELIST"])
    counts = _counts(environment["SLURM_STEP_TASKS_PER_NODE"])
    first = _FIRST_PORT + int(environment.get("SLURM_JOB_ID", 0)) % _JOBS * _PORTS_PER_JOB
    places = [(node, n) for node, count in enumerate(counts) for n in range(count)]
    here = tuple(int(environment.get(name, 0)) for name in ("SLURM_NODEID", "SLURM_LOCALID"))
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", 0)))
    if len(counts) != len(hosts) or tasks != len(places) or places[index] != here:
        received = {n: v for n, v in environment.items() if n in {*names, *_OTHERS}}
        raise ValueError(
            "SLURM must lay tasks out node by node: srun --distribution=block. Received: "
            f"{received}"
        )
    workers = [f"{hosts[node]}:{first + number}" for node, number in places]
    return {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}


_OTHERS = ["SLURM_NODEID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"]


def _hosts(text):
    """List the hosts of, say, node[01-03,07],gpu5."""
    parts = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text)
    return [host for part in parts for host in _expanded(part)]


def _expanded(part):
    head, bracket, rest = part.partition("[")
    if not bracket:
        return [part]
    inside, _, tail = rest.partition("]")
    numbers = []
    for entry in inside.split(","):
        low, _, high = entry.partition("-")
        numbers += [f"{n:0{len(low)}d}" for n in range(int(low), int(high or low) + 1)]
    return [head + number + end for number in numbers for end in _expanded(tail)]


def _counts(text):
    """List the tasks of each node of, say, 2(x3),1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]
