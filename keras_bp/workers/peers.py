"""The other workers: a connection to each, which opens when it is up and closes when it is gone."""

import atexit
import faulthandler
import functools
import hashlib
import json
import os
import re
import select
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence

import tensorflow as tf

from keras_bp._keras import abort_collectives

Address = tuple[str, int]

# A machine that is lost or cut off says nothing: the kernel asks it after 3 s of silence, three
# times, 2 s apart. Threads of ours could not answer for a process that is busy in C.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}
# One that ends stays for what the others may still fetch from it, longer than they wait for it.
_GRACE_SECONDS, _LINGER_SECONDS = 3.0, 6.0
_LAST_SECONDS = 10.0  # for a process that has failed, to end by itself
_HELLO_BYTES, _ENDED = 20, b"ended"
_NO_WORD = "died without a word: killed, or out of memory"


class Peers:
    """The connections to all other workers.

    Of each two, the one with the higher number calls the other at its address in TF_CONFIG, while
    that waits for its own TensorFlow server to take the port; the connection stays open. When a
    process ends, in whatever way, its kernel closes it.

    Args:
        workers: the addresses of all, as (host, port).
        index: the number of this one.
        seconds: how long the others may take to come up.

    Raises:
        ValueError: if this worker's address is in use.
        TimeoutError: if a worker does not come up in time.
    """

    def __init__(self, workers: Sequence[Address], index: int, seconds: float) -> None:
        self._workers, self._index = workers, index
        self._sockets = _connect(workers, index, seconds)
        self._in_training, self._leaving, self._gone = False, False, ""
        self._over = threading.Event()  # all have ended, or one too early
        if self._sockets:
            atexit.register(self._say_goodbye, os.getpid())
            if hasattr(os, "register_at_fork"):  # a child would hold them open
                os.register_at_fork(after_in_child=lambda: _close(self._sockets))
            sys.excepthook = functools.partial(self._fail, sys.excepthook)
            threading.Thread(target=self._watch, name="keras_bp-workers", daemon=True).start()

    def start_training(self) -> None:
        """From now on a worker that is gone makes TensorFlow's collectives fail.

        Before, while TensorFlow connects the workers, it ends this process: nothing else gets it
        out of there.
        """
        self._in_training = True

    def name(self, number: int) -> str:
        """Return a worker's number and address, for an error."""
        return f"worker {number} ({_text(self._workers[number])})"

    def _watch(self):
        selector, said = selectors.DefaultSelector(), dict.fromkeys(self._sockets, b"")
        for number, connection in self._sockets.items():
            connection.setblocking(True)
            selector.register(connection, selectors.EVENT_READ, number)
        ended, deadline = [], None
        while len(ended) < len(said) or deadline is not None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            for key, _ in selector.select(left):
                number = key.data
                try:
                    words = key.fileobj.recv(4096)
                except OSError as error:
                    words, said[number] = b"", f"does not answer ({error})".encode()
                said[number] += words
                if words:
                    continue
                selector.unregister(key.fileobj)
                if said[number] != _ENDED:
                    why = said[number].decode(errors="replace")
                    self._stop(f"{self.name(number)} {why or _NO_WORD}")
                    return self._over.set()
                ended.append(number)
                deadline = time.monotonic() + _GRACE_SECONDS
            if len(ended) == len(said):
                self._over.set()
            if deadline is not None and time.monotonic() >= deadline:
                # This one may need it no more: only a collective operation will fail.
                names = " and ".join(self.name(number) for number in sorted(ended))
                abort_collectives(f"{names} ended before the training of this one did")
                deadline = None

    def _stop(self, what):
        if self._leaving:
            return
        self._gone = f"{what}; worker {self._index} cannot go on without it"
        print(self._gone, file=sys.stderr, flush=True)
        if not self._in_training:
            os.kill(os.getpid(), signal.SIGKILL)
        abort_collectives(self._gone)

    def _fail(self, shown, kind, error, trace):
        """Show an error with the worker behind it, and tell the others of it."""
        if isinstance(error, tf.errors.OpError):  # TensorFlow's own may have come first
            self._over.wait(1.0)
            words = str(error).partition("unhealthy")[2]  # so it calls a process that is stopped
            silent = " and ".join(self.name(int(n)) for n in re.findall(r"task:(\d+)", words))
            note = self._gone or (silent and f"{silent} does not answer")
            if note and note not in str(error):
                error.add_note(note)
        shown(kind, error, trace)
        first = next(iter(str(error).splitlines()), "")
        self._tell(f"failed with {kind.__name__}: {first}"[:300].encode())
        # Threads that Keras and TensorFlow leave behind, for data, can keep the process alive.
        faulthandler.dump_traceback_later(_LAST_SECONDS, exit=True, file=sys.__stderr__)

    def _say_goodbye(self, process):
        if os.getpid() == process and not self._leaving:
            self._tell(_ENDED)
            # The result of the last collective may lie here, for another to fetch.
            self._over.wait(_LINGER_SECONDS)

    def _tell(self, words):
        self._leaving = True
        for connection in self._sockets.values():
            try:
                connection.sendall(words)
                connection.shutdown(socket.SHUT_WR)
            except OSError:  # it is gone
                pass


def _connect(workers, index, seconds):
    """Return a connection to each of the other workers, by number."""
    deadline = time.monotonic() + seconds
    cluster = hashlib.sha256(json.dumps(workers).encode()).digest()[: _HELLO_BYTES - 4]
    hello = cluster + index.to_bytes(4)
    called, up = {}, {}  # those whose answer is awaited; those that are there
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
        while len(up) < len(workers) - 1:
            left = deadline - time.monotonic()
            if left <= 0:
                _close(called, up)
                missing = [n for n in range(len(workers)) if n != index and n not in up]
                raise TimeoutError(
                    "All workers in TF_CONFIG must come up within `seconds`. Received: "
                    f"seconds={seconds:g}; worker {index} waited for "
                    + ", ".join(f"worker {n} ({_text(workers[n])})" for n in missing)
                )
            for number in range(index):
                if number not in called and number not in up:
                    connection = _call(workers[number], min(left, 5.0), hello)
                    if connection is not None:
                        called[number] = connection
            waiting = [own, *called.values(), *up.values()]
            readable = select.select(waiting, [], [], min(left, 0.1))[0]
            for number, connection in [*called.items(), *up.items()]:
                if connection not in readable:
                    continue
                # One that was up and says something again has ended: it may come up once more.
                greeted = called.pop(number, None) and _read(connection)
                if greeted == cluster + number.to_bytes(4):
                    up[number] = connection
                else:
                    up.pop(number, None)
                    connection.close()
            if own in readable:
                connection, _ = own.accept()
                words = _read(connection)
                number = int.from_bytes(words[-4:])
                if words[:-4] == cluster and index < number < len(workers) and number not in up:
                    connection.sendall(hello)
                    up[number] = connection
                else:
                    connection.close()
    for connection in up.values():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return up


def _call(address, seconds, hello):
    """Return a connection to an address, greeted, or None."""
    try:
        connection = socket.create_connection(address, timeout=seconds)
        connection.sendall(hello)
        return connection
    except OSError:  # not there yet
        return None


def _read(connection):
    """Return the other side's greeting, or less where it is another program."""
    words = b""
    connection.settimeout(1.0)
    try:
        while len(words) < _HELLO_BYTES:
            more = connection.recv(_HELLO_BYTES - len(words))
            if not more:
                break
            words += more
    except OSError:
        pass
    return words


def _close(*groups):
    for connections in groups:
        for connection in connections.values():
            connection.close()


def _text(address):
    return f"{address[0]}:{address[1]}"
