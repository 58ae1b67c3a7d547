"""How often a callback may draw."""

import contextlib
import time


class DrawingPace:
    """Keeps the time that drawing takes at a share of the time that passes.

    Drawing is due when one more, as long as the last one, would leave the sum within the share of
    the time since the start, and itself within that of the time since the last one: what a long
    pause has saved is not spent at once.

    Args:
        share: number between 0 and 1.
        expected: seconds that the first drawing is taken to need.
    """

    def __init__(self, share, expected):
        self._share = share
        self._last = expected
        self.start()

    def start(self):
        """Begin to count; what a drawing takes is still known from before."""
        self._spent = 0.0
        self._started = self._last_began = time.perf_counter()

    def due(self):
        """Tell whether there is time for a drawing."""
        now = time.perf_counter()
        in_all = self._spent + self._last <= self._share * (now - self._started)
        return in_all and self._last <= self._share * (now - self._last_began)

    @contextlib.contextmanager
    def spending(self):
        """Count the time that the `with` block takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent += time.perf_counter() - began

    @contextlib.contextmanager
    def drawing(self):
        """Count the time that the `with` block takes, as what a drawing takes."""
        before, self._last_began = self._spent, time.perf_counter()
        with self.spending():
            yield
        self._last = self._spent - before
