"""Where a dashboard's figure can be seen: in a file, in a notebook, in a window."""

import io
import itertools
import os
import pathlib
import sys

import numpy as np

# A GIF holds at most so many pictures: 35 MB of them, until it is written.
_FRAMES = 40
_MILLISECONDS_A_FRAME = 200
_MILLISECONDS_AT_THE_END = 3000

_NUMBERS = itertools.count()


def screen_for(path, figure):
    """Return what shows a figure: in the file `path`, and where that is None, to who looks on."""
    if path is not None:
        kind = GifFile if pathlib.Path(path).suffix.lower() == ".gif" else PngFile
        return kind(path, figure)
    return Notebook(figure) if _in_notebook() else Window(figure)


class Screen:
    """Shows a figure. It draws with a canvas of its own and knows nothing of what is drawn.

    Args:
        figure: a `matplotlib.figure.Figure`.
    """

    def __init__(self, figure):
        self._figure = figure

    def begin(self):
        """Make ready for a `fit`; raise what is wrong."""

    def show(self):
        """Draw the figure and show it."""
        raise NotImplementedError(f"{type(self).__name__} must override `show`.")

    def refresh(self):
        """Do what has to be done about once a second between two drawings."""

    def end(self):
        """End, after the `fit`'s last picture."""

    def abandon(self):
        """End, after a `fit` that an exception has ended."""


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
                "Argument `path` must name a file that can be written. "
                f"Received: path={self._given!r} ({error})"
            ) from error

    def _put(self, picture):
        """Write a picture's bytes."""
        # Put in place at one blow, the file is whole at any moment, also after a kill.
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
    """Writes each picture to a PNG file, over the one before."""

    def show(self):
        """Draw the figure and write the file anew."""
        self._put(_png(self._canvas))


class GifFile(_File):
    """Collects pictures, and writes them as an animation in the end.

    Where they are too many, every second one is left out, and from then on twice as many drawings
    pass from one to the next. The last picture of all is always among them.
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
            self._frames.pop()  # which was there only as the last one
        # The other method is ten times as slow.
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
        durations = [_MILLISECONDS_A_FRAME] * len(others) + [_MILLISECONDS_AT_THE_END]
        file = io.BytesIO()
        first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
        self._put(file.getvalue())

    def abandon(self):
        """Write the file."""
        self.end()


class Notebook(Screen):
    """Shows the figure below the cell that runs, each picture in the place of the one before."""

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
    """Shows the figure in a window of pyplot's backend, until somebody closes it."""

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
            # Not `pyplot.figure`, whose figure would be the one that others then draw into.
            manager = pyplot.new_figure_manager(0, FigureClass=lambda: self._figure)
        except ImportError as error:  # the backend that was chosen finds no screen
            raise _no_window(error) from error
        # A backend that draws into files only has nothing to show a window with.
        if type(manager).show is FigureManagerBase.show:
            raise _no_window(f"Matplotlib's backend {pyplot.get_backend()!r} opens no window")
        self._manager = manager
        manager.set_window_title("Training dashboard")
        manager.canvas.mpl_connect("close_event", self._forget)
        manager.show()
        self.refresh()

    def show(self):
        """Draw the figure anew."""
        if self._manager is not None:
            self._manager.canvas.draw()
            self.refresh()

    def refresh(self):
        """Let the window react to the mouse."""
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


def _in_notebook():
    # A notebook's kernel has imported IPython before it runs anything, and is told from IPython in
    # a terminal, which can show no picture, by the application that has started it.
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _no_window(reason):
    return ValueError(
        "Argument `path` must name a .png or .gif file where there is neither a notebook nor a "
        f"window to draw in. Received: path=None ({reason})"
    )
