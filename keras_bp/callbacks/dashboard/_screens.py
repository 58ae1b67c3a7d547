"""Where a dashboard's figure is shown (in a file, a notebook or a window), and how often."""

import contextlib
import io
import itertools
import os
import pathlib
import time

import numpy as np

from keras_bp._html import in_notebook

# The most pictures in a GIF: 35 MB until it is written.
_FRAMES = 40
_MILLISECONDS_PER_FRAME = 200
_MILLISECONDS_AT_THE_END = 3000

_NUMBERS = itertools.count()


def screen_for(filepath, figure):
    """Return the screen for a figure: the file, or without one the notebook or a window."""
    if filepath is not None:
        kind = GifFile if pathlib.Path(filepath).suffix.lower() == ".gif" else PngFile
        return kind(filepath, figure)
    return Notebook(figure) if in_notebook() else Window(figure)


class Screen:
    """Shows a figure on its own canvas, whatever the figure shows.

    Args:
        figure: a `matplotlib.figure.Figure`.
    """

    def __init__(self, figure):
        self._figure = figure

    def begin(self):
        """Prepare for a `fit`; raise an error if the figure cannot be shown."""

    def show(self):
        """Draw the figure and show it."""
        raise NotImplementedError(f"{type(self).__name__} must override `show`.")

    def refresh(self):
        """Handle events, about once per second between two drawings."""

    def end(self):
        """End, after the `fit`'s last picture."""

    def abandon(self):
        """End, after a `fit` that has raised an exception."""


class _File(Screen):
    def __init__(self, path, figure):
        super().__init__(figure)
        self._given, self._path = path, pathlib.Path(path)
        self._canvas = _agg_canvas(figure)

    def begin(self):
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.is_dir():
                raise IsADirectoryError(f"{self._path} is a directory")
            beside = self._beside()
            beside.touch()
            beside.unlink()
        except OSError as error:
            raise ValueError(
                "`filepath` must name a file that can be written. "
                f"Received: filepath={self._given!r} ({error})"
            ) from error

    def _put(self, picture):
        """Write a picture's bytes."""
        # A rename is atomic: the file is whole at any moment, even after a kill.
        beside = self._beside()
        try:
            beside.write_bytes(picture)
            os.replace(beside, self._path)
        finally:
            beside.unlink(missing_ok=True)

    def _beside(self):
        """Return the path of a new file in the same directory."""
        return self._path.with_name(f".{self._path.name}.{os.getpid()}.{next(_NUMBERS)}")


class PngFile(_File):
    """Writes each picture to a PNG file, replacing the one before."""

    def show(self):
        """Draw the figure and rewrite the file."""
        self._put(_png(self._canvas))


class GifFile(_File):
    """Collects pictures, and writes them as an animation at the end.

    When there are too many, every second one is dropped, and from then on only every second
    drawing is kept. The last picture is always included.
    """

    def __init__(self, path, figure):
        super().__init__(path, figure)
        self._frames = []
        self._drawn, self._every = 0, 1

    def show(self):
        """Draw the figure and keep the picture."""
        from PIL import Image

        self._canvas.draw()
        picture = Image.fromarray(np.asarray(self._canvas.buffer_rgba())).convert("RGB")
        if self._drawn and (self._drawn - 1) % self._every:
            self._frames.pop()  # it was kept only as the last one
        # The default method takes ten times as long.
        quantized = picture.quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        self._frames.append(quantized)
        self._drawn += 1
        if len(self._frames) > _FRAMES:
            self._frames = self._frames[::2]
            self._every *= 2

    def end(self):
        """Write the file."""
        if not self._frames:
            return
        first, *others = self._frames
        durations = [_MILLISECONDS_PER_FRAME] * len(others) + [_MILLISECONDS_AT_THE_END]
        file = io.BytesIO()
        first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
        self._put(file.getvalue())

    def abandon(self):
        """Write the file."""
        self.end()


class Notebook(Screen):
    """Shows the figure below the running cell, each picture in place of the one before."""

    def __init__(self, figure):
        super().__init__(figure)
        self._canvas = _agg_canvas(figure)
        self._handle = None

    def begin(self):
        """Leave the picture below an earlier cell as it is."""
        self._handle = None

    def show(self):
        """Draw the figure and hand the picture to the notebook."""
        from IPython.display import Image, display

        picture = Image(data=_png(self._canvas), format="png")
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)


class Window(Screen):
    """Shows the figure in a window of pyplot's backend, until the user closes it."""

    def __init__(self, figure):
        super().__init__(figure)
        self._manager = None

    def begin(self):
        """Open the window, if it is not open."""
        if self._manager is not None:
            return
        from matplotlib import pyplot
        from matplotlib.backend_bases import FigureManagerBase

        try:
            # Not `pyplot.figure`: pyplot would then draw the user's plots into this figure.
            manager = pyplot.new_figure_manager(0, FigureClass=lambda: self._figure)
        except ImportError as error:  # the chosen backend finds no screen
            raise _no_window(error) from error
        # A backend that only draws into files has no window.
        if type(manager).show is FigureManagerBase.show:
            raise _no_window(f"Matplotlib's backend {pyplot.get_backend()!r} opens no window")
        self._manager = manager
        manager.set_window_title("Training dashboard")
        manager.canvas.mpl_connect("close_event", self._forget)
        manager.show()
        self.refresh()

    def show(self):
        """Draw the figure again."""
        if self._manager is not None:
            self._manager.canvas.draw()
            self.refresh()

    def refresh(self):
        """Let the window handle its events."""
        if self._manager is not None:
            self._manager.canvas.flush_events()

    def abandon(self):
        """Close the window."""
        if self._manager is not None:
            self._manager.destroy()
            self._manager = None

    def _forget(self, event):
        self._manager = None


def _agg_canvas(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return FigureCanvasAgg(figure)


def _png(canvas):
    file = io.BytesIO()
    canvas.print_png(file)
    return file.getvalue()


def _no_window(reason):
    return ValueError(
        "`filepath` must name a .png or .gif file where there is neither a notebook nor a window "
        f"to draw in. Received: filepath=None ({reason})"
    )


class DrawingPace:
    """Keeps the time spent on drawing below a share of the elapsed time.

    A drawing is due when, if it takes as long as the last one, all drawings stay within the share
    of the time since the start, and this one within the share of the time since the last one: time
    saved in a long pause is not spent at once.

    Args:
        share: number between 0 and 1.
        expected: seconds, an estimate for the first drawing.
    """

    def __init__(self, share, expected):
        self._share = share
        self._last = expected
        self.start()

    def start(self):
        """Start the clock; the duration of the last drawing stays known."""
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
        """Count the time that the `with` block takes, and remember it as a drawing's."""
        before, self._last_began = self._spent, time.perf_counter()
        with self.spending():
            yield
        self._last = self._spent - before
