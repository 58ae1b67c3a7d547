"""Starts several workers on this machine: `python -m keras_bp.workers --workers 2 train.py`.

Each runs the script with a TF_CONFIG of its own, as `keras_bp.workers.multi_worker_strategy` reads
it, and its lines are shown with its number. As soon as one fails, the others are ended, which would
wait for it; with `--restarts` all start again, for scripts that go on from a checkpoint.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

_POLL_SECONDS, _GRACE_SECONDS = 0.1, 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status: that of the worker that failed first."""
    parser = argparse.ArgumentParser(prog="python -m keras_bp.workers", description=__doc__)
    parser.add_argument("--workers", type=_count, default=2, help="how many (default: 2)")
    parser.add_argument("--restarts", type=int, default=0, help="after a failure (default: 0)")
    parser.add_argument("script", help="the Python script that every worker runs")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    given = parser.parse_args(arguments)
    if not os.path.isfile(given.script):
        parser.error(f"`script` must be a file. Received: {given.script!r}")
    command = [sys.executable, "-u", given.script, *given.arguments]
    for restart in range(given.restarts + 1):
        worker, status = _run(command, given.workers)
        if status == 0:
            return 0
        left = given.restarts - restart
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        then = f"; starting all again, {left - 1} more times" if left else ""
        print(f"worker {worker} {how}{then}", file=sys.stderr, flush=True)
    return status if status > 0 else 128 - status


def _count(text):
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"it must be 1 or more. Received: {text}")
    return count


def _run(command, count):
    """Run the command as each of `count` workers; return the first that fails, with its status."""
    # All at once, so that no port is given out twice.
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    for free in sockets:
        free.close()
    workers, readers = [], []
    try:
        for index in range(count):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            workers.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, "TF_CONFIG": config},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            )
            readers.append(threading.Thread(target=_show, args=(index, workers[-1].stdout)))
            readers[-1].start()
        while True:
            statuses = [worker.poll() for worker in workers]
            for index, status in enumerate(statuses):
                if status:
                    return index, status
            if None not in statuses:
                return 0, 0
            time.sleep(_POLL_SECONDS)
    finally:
        _end(workers)
        for reader in readers:
            reader.join()


def _show(index, lines):
    with lines:
        for line in lines:
            text = line.decode(errors="replace").rstrip("\n")
            sys.stdout.write(f"[{index}] {text}\n")
            sys.stdout.flush()


def _end(workers):
    """End the workers that still run, those that do not listen after some seconds by force."""
    running = [worker for worker in workers if worker.poll() is None]
    for worker in running:
        worker.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for worker in running:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


if __name__ == "__main__":
    sys.exit(main())
