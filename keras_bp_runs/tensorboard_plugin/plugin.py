"""The server's side of the tab: which pages there are, and what they answer."""

import functools
import importlib.resources
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import werkzeug
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin

from keras_bp_runs.run import as_json
from keras_bp_runs.tensorboard_plugin.log_dir import KINDS, LogDir, Run

_TYPES = {".js": "text/javascript", ".css": "text/css"}
_MOST_COLUMNS = 1024
_LAST_STEP = 2**53  # that a browser can name


class GradientsPlugin(base_plugin.TBPlugin):
    """The tab Gradients, shown where there is a run that keras_bp has written.

    Args:
        context: TensorBoard's `TBContext`.
    """

    plugin_name = "gradients"

    def __init__(self, context: base_plugin.TBContext) -> None:
        spec = getattr(context.flags, "logdir_spec", None)
        self._log_dir = LogDir.of(context.logdir, spec)
        # The tab shows the newest run first: of 2.5 GB that are not in memory, finding the records
        # takes as long as reading the file, which begins before a browser can ask.
        self._log_dir.read_ahead()

    def is_active(self) -> bool:
        """Tell TensorBoard whether there is something to show; it asks as its page is opened."""
        self._log_dir.read_ahead()
        return self._log_dir.newest() is not None

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Tell TensorBoard the tab's name and its module."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Gradients")

    def get_plugin_apps(self) -> dict[str, Callable]:
        """Return the pages, below `data/plugin/gradients`."""
        pages = {
            "/runs": self._runs,
            "/run": self._run,
            "/columns": self._columns,
            "/scale": self._scale,
            "/histograms": self._histograms,
        }
        apps = {route: _page(answer) for route, answer in pages.items()}
        # The files are listed here, so no request can name another one.
        for file in (importlib.resources.files(__package__) / "static").iterdir():
            suffix = file.name[file.name.rfind(".") :]
            if suffix in _TYPES:
                apps[f"/{file.name}"] = _page(functools.partial(_static, file, _TYPES[suffix]))
        return apps

    def _runs(self, arguments):
        kinds = {kind: {"title": title, "log": not fixed} for kind, (title, fixed) in KINDS.items()}
        # The list of directories is some seconds old: of those that were removed there is no file.
        runs = [name for name, run in self._log_dir.runs().items() if run.is_there()]
        return {"runs": runs, "newest": self._log_dir.newest() if runs else None, "kinds": kinds}

    def _run(self, arguments):
        return self._get_run(arguments).describe()

    def _scale(self, arguments):
        if arguments.get("kind") not in KINDS:
            raise werkzeug.exceptions.NotFound("There is no such kind.")
        scale = self._log_dir.scale(arguments["kind"])
        return dict(zip(("low", "high", "complete"), scale, strict=True))

    def _histograms(self, arguments):
        step = arguments.get("step", type=int)
        return self._get_run(arguments).histograms(arguments.get("layer", ""), step)

    def _columns(self, arguments):
        """Return a header in JSON, the columns' first steps and the two arrays, a row per layer."""
        run, what = self._get_run(arguments), arguments.get("what", "")
        first, last = (arguments.get(end, type=int) for end in ("first", "last"))
        most = min(arguments.get("most", _MOST_COLUMNS, type=int), _MOST_COLUMNS)
        if not run.holds(what) or first is None or last is None or most < 2:
            raise werkzeug.exceptions.NotFound("The run has no such columns.")
        first, last = (min(max(end, 0), _LAST_STEP) for end in (first, last))
        names, columns = run.columns(what, first, last, most)
        if not columns.exact:
            self._log_dir.read_ahead(run.name, what)
        header = {"names": names, "width": columns.width, "exact": columns.exact}
        text = json.dumps({**header, "columns": len(columns.starts)}).encode()
        text += b" " * (-len(text) % 8)  # the arrays that follow are aligned
        arrays = [columns.starts.astype("<f8"), columns.low.T, columns.high.T]
        parts = [np.ascontiguousarray(array).tobytes() for array in arrays]
        return b"".join([struct.pack("<Q", len(text)), text, *parts])

    def _get_run(self, arguments) -> Run:
        run = self._log_dir.runs().get(arguments.get("run", ""))
        if run is None or not run.is_there():
            raise werkzeug.exceptions.NotFound("There is no such run.")
        run.open()
        return run


def _static(file, content_type, arguments):
    return file.read_bytes(), content_type


def _page(answer):
    """Make a WSGI application of a function from a request's arguments to what to answer."""

    @werkzeug.Request.application
    def serve(request):
        if request.method not in ("GET", "HEAD"):
            raise werkzeug.exceptions.MethodNotAllowed(["GET", "HEAD"])
        content: Any = answer(request.args)
        if isinstance(content, dict):
            content = json.dumps(_strict(content), allow_nan=False), "application/json"
        elif isinstance(content, bytes):
            content = content, "application/octet-stream"
        return http_util.Respond(request, *content)

    return serve


def _strict(value):
    """Return a value with NaN and infinities as strings: JSON, and the browser, have none."""
    if isinstance(value, dict):
        return {str(key): _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return as_json(value)
