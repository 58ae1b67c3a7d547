"""SIGTERM and Ctrl-C while a `fit` runs."""

import os
import signal
import threading


class Interrupts:
    """SIGTERM and SIGINT, put off until the end of a batch.

    Args:
        running: function that tells whether the `fit` still runs: an error ends it unnoticed.
    """

    def __init__(self, running):
        self.received = None
        self._running = running
        self._process = os.getpid()
        self._before = {}
        self._listen()

    def _listen(self):
        if threading.current_thread() is not threading.main_thread():
            return  # where Python allows no handlers
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            owner = getattr(before, "__self__", None)
            if isinstance(owner, Interrupts) and not owner._running():
                before = owner._before[number]
            # None is one that is not Python's; a signal that is ignored stays so.
            if before not in (None, signal.SIG_IGN):
                self._before[number] = before
                signal.signal(number, self._note)

    def _note(self, number, frame):
        # A child that was forked to load data has these handlers too, and the frames of the `fit`.
        waits = os.getpid() == self._process and self.received is None and self._running()
        if waits:
            self.received = number
        else:
            self.obey(number)

    def restore(self):
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)

    def obey(self, number):
        """Do what the signal would have done; go on listening if that returns."""
        self.received = None
        self.restore()
        handler = self._before.get(number, signal.SIG_DFL)
        if callable(handler):
            handler(number, None)
        elif handler == signal.SIG_DFL:
            raise SystemExit(128 + number)
        self._listen()
