"""Starts several workers on this machine: `python -m keras_bp.workers --workers 2 train.py`.

Each runs the script with a TF_CONFIG of its own, as `keras_bp.workers.multi_worker_strategy` reads
it, and its lines are shown with its number. As soon as one fails, the others are ended; with
`--restarts` all start again, for scripts that go on from a checkpoint. SIGTERM and SIGINT are
passed on, once, and the workers have a minute to save and end; a second signal ends them at once.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

_POLL_SECONDS, _GRACE_SECONDS, _SAVE_SECONDS = 0.1, 5.0, 60.0
_SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status: that of the worker that failed first."""
    parser = argparse.ArgumentParser(prog="python -m keras_bp.workers", description=__doc__)
    parser.add_argument("--workers", type=_at_least(1), default=2, help="how many (default: 2)")
    parser.add_argument(
        "--restarts", type=_at_least(0), default=0, help="after a failure (default: 0)"
    )
    parser.add_argument("script", help="the Python script that every worker runs")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    given = parser.parse_args(arguments)
    if not os.path.isfile(given.script):
        parser.error(f"`script` must be a file. Received: {given.script!r}")
    command = [sys.executable, "-u", given.script, *given.arguments]
    signals: list[int] = []
    handlers = {n: signal.signal(n, lambda number, _: signals.append(number)) for n in _SIGNALS}
    try:
        return _run_again(command, given.workers, given.restarts, signals)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _run_again(command, count, restarts, signals):
    for restart in range(restarts + 1):
        worker, status = _run(command, count, signals)
        if status == 0:
            return 0
        left = 0 if signals else restarts - restart
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        then = f"; starting all again, {left - 1} more times" if left else ""
        print(f"worker {worker} {how}{then}", file=sys.stderr, flush=True)
        if not left:
            break
    return status if status > 0 else 128 - status


def _at_least(least):
    def integer(text):  # the name is argparse's, for an error
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"it must be {least} or more. Received: {text}")
        return int(text)

    return integer


def _run(command, count, signals):
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
                    process_group=0,  # a terminal's Ctrl-C would reach it twice
                )
            )
            readers.append(threading.Thread(target=_show, args=(index, workers[-1].stdout)))
            readers[-1].start()
        deadline = None
        while True:
            statuses = [worker.poll() for worker in workers]
            failed = [(index, status) for index, status in enumerate(statuses) if status]
            if None not in statuses or (failed and deadline is None):
                return failed[0] if failed else (0, 0)
            if signals and deadline is None:
                deadline = time.monotonic() + _SAVE_SECONDS
                for worker in workers:
                    worker.send_signal(signals[0])
            if len(signals) > 1 or (deadline is not None and time.monotonic() > deadline):
                for worker in workers:
                    worker.kill()
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
