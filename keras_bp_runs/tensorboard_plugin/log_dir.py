"""The runs in TensorBoard's log directory, and what the tab shows of each."""

import math
import os
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_bp_runs.events import RunFiles, event_files
from keras_bp_runs.tensorboard_plugin.extremes import Columns, Extremes

# What is measured of each layer: the first part of the tags, its name, and its scale, where that is
# not logarithmic and fitted: shares from 0 to 1, and degrees.
KINDS: dict[str, tuple[str, tuple[float, float] | None]] = {
    "gradient_norm": ("Gradient norm", None),
    "update_ratio": ("Update ratio", None),
    "weight_norm": ("Weight norm", None),
    "dead_units": ("Dead units", (0.0, 1.0)),
    "saturated_units": ("Saturated units", (0.0, 1.0)),
    "alignment_angle": ("Angle to the true gradient", (0.0, 180.0)),
    "sign_concordance": ("Signs equal to the true gradient's", (0.0, 1.0)),
}
_HISTOGRAMS = ("weights", "gradients", "optimizer", "activations")
_LOOK_AGAIN = 5.0  # seconds
_SAMPLED = 64
# A file that was written to less than so many seconds ago may end with half a record.
_STILL_WRITTEN = 60.0
_WRITER = b"keras_bp"


class Run:
    """A run: its layers by kind, its scalars, histograms and findings.

    Args:
        name: string, as TensorBoard names it.
        directory: string, where its event files lie.
    """

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self._directory = directory
        # A request and the thread that reads ahead take turns.
        self._lock = threading.RLock()
        self._files: Any = None
        self._extremes: dict[str, Extremes] = {}
        self._samples: dict[str, tuple[int, np.ndarray]] = {}
        self._description: dict[str, Any] | None = None

    def is_there(self) -> bool:
        """Tell whether it has files still."""
        return bool(event_files(self._directory))

    def written(self) -> float:
        """Return when it was written to."""
        return max((os.path.getmtime(path) for path in event_files(self._directory)), default=0.0)

    @property
    def is_open(self) -> bool:
        """Whether `open` has found what its files hold."""
        return self._files is not None

    def open(self) -> None:
        """Find what its files hold, if that was not done; other methods need it."""
        with self._lock:
            if self._files is None:
                self._files = RunFiles(self._directory)
                self._list()

    def _list(self):
        """List its layers by kind, and its scalars."""
        self._description = None
        self._layers: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self._scalars = []
        for tag, kind_of_tag in self._files.tags.items():
            kind, _, layer = tag.partition("/")
            if kind_of_tag == "scalars" and kind in KINDS and layer != "global":
                self._layers[kind].append(layer)
            elif kind_of_tag == "scalars":
                self._scalars.append(tag)
        # The loss tells first how a training goes.
        self._scalars.sort(key=lambda tag: (tag.startswith("epoch/"), tag != "loss/batch"))
        for extremes in self._extremes.values():
            extremes.refresh()

    def describe(self) -> dict:
        """Return what the page shows of it besides numbers, as far as it is written."""
        with self._lock:
            if self._files.refresh():
                self._list()
            if self._description is None:
                self._description = self._describe()
            being_written = time.time() - self.written() < _STILL_WRITTEN
            faults = self._files.damage if being_written else self._files.faults
            return {**self._description, "faults": faults}

    def _describe(self):
        layers = {kind: paths for kind, paths in self._layers.items() if paths}
        tags = [self._tags(kind)[0] for kind in layers] + self._scalars
        steps = [self._files.series(tag)[0] for tag in tags]
        ends = [(int(each[0]), int(each[-1])) for each in steps if len(each)]
        return {
            "name": self.name,
            "layers": layers,
            "scalars": self._scalars,
            "first": min((first for first, _ in ends), default=0),
            "last": max((last for _, last in ends), default=0),
            "findings": self._findings(),
            "settings": self._files.settings,
        }

    def columns(self, what: str, first: int, last: int, most: int) -> tuple[list[str], Columns]:
        """Return the names of the rows and the columns of a kind, or of a scalar's tag."""
        with self._lock:
            names = self._layers[what] if what in KINDS else [what]
            return names, self._extremes_of(what).columns(first, last, most)

    def read_more(self, what: str) -> bool:
        """Read some of the records of a kind; tell whether there are others."""
        with self._lock:
            return self._extremes_of(what).read_more()

    def holds(self, what: str) -> bool:
        """Tell whether there is a kind, or a scalar of this tag."""
        with self._lock:  # another request may be listing them anew
            return bool(self._layers.get(what)) if what in KINDS else what in self._scalars

    def sample(self, kind: str) -> np.ndarray:
        """Return some values of a kind, from the whole run; the same until it is twice as long."""
        with self._lock:
            if not self._layers[kind]:
                return np.zeros(0, np.float32)
            tags = self._tags(kind)
            number = len(self._files.series(tags[0])[0])
            if number >= 2 * self._samples.get(kind, (0, None))[0]:
                self._samples[kind] = number, self._files.rows(tags, most=_SAMPLED)[1]
            return self._samples[kind][1]

    def histograms(self, layer: str, step: int | None) -> dict:
        """Return a layer's histograms at the last step not after `step` that has some."""
        with self._lock:
            every = [tag for tag, kind in self._files.tags.items() if kind == "histograms"]
            tags = [tag for tag in every if _layer_of(tag) == layer]
            series = {tag: dict(self._files.histograms(tag)) for tag in tags}
        steps = sorted(set().union(*series.values()))
        shown = max((s for s in steps if step is None or s <= step), default=min(steps, default=0))
        charts = []
        for tag, by_step in series.items():
            if shown in by_step:
                rows = list(by_step.values())
                ends = min(r[0][0] for r in rows), max(r[-1][1] for r in rows)
                buckets = np.asarray(by_step[shown]).tolist()
                charts.append({"tag": tag, "buckets": buckets, "range": list(map(float, ends))})
        return {
            "layer": layer,
            "steps": list(map(int, steps)),
            "step": int(shown),
            "charts": charts,
        }

    def _tags(self, kind):
        return [f"{kind}/{layer}" for layer in self._layers[kind]]

    def _extremes_of(self, what):
        tags = self._tags(what) if what in KINDS else [what]
        if what not in self._extremes or self._extremes[what].tags != tags:  # a layer more
            self._extremes[what] = Extremes(self._files, tags)
        return self._extremes[what]

    def _findings(self):
        """Return the findings of `TrainingHealth`; older runs have them as text only."""
        if self._files.findings:
            return list(self._files.findings)
        found = []
        for tag, kind in self._files.tags.items():
            parts = tag.split("/", 2)
            if kind == "text" and parts[0] == "training_health" and len(parts) == 3:
                layer = None if parts[2] == "model" else parts[2]
                for step, text in self._files.texts(tag):
                    about = {"check": parts[1], "layer": layer, "step": int(step)}
                    # "Dead units in layer `a` at step 7: what was measured. What to try."
                    description = text.partition(": ")[2] or text
                    found.append({**about, "description": description, "advice": ""})
        return sorted(found, key=lambda finding: finding["step"])


def _layer_of(tag):
    """Return the layer of a histogram's tag, None for other histograms."""
    kind, *parts = tag.split("/")
    if kind not in _HISTOGRAMS:
        return None
    # After the layer come the variable, and of an optimizer's state its name.
    names = {"activations": 0, "optimizer": 2}.get(kind, 1)
    return "/".join(parts[: len(parts) - names]) or "(model)"


class LogDir:
    """The runs of keras_bp below the directories that TensorBoard was started with.

    Args:
        roots: dictionary, name or "" -> directory.
    """

    def __init__(self, roots: dict[str, str]) -> None:
        self._roots = roots
        self._runs: dict[str, Run] = {}
        self._looked = -math.inf
        self._lock = threading.Lock()
        self._wanted: dict[tuple[str, str], None] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, logdir: str | None, spec: str | None) -> "LogDir":
        """Return the log directory of TensorBoard's options `--logdir` and `--logdir_spec`."""
        roots = {"": logdir} if logdir else {}
        for part in (spec or "").split(",") if not logdir else ():
            # A name cannot begin with a slash, so that a path may hold a colon.
            name, colon, path = part.partition(":")
            named = colon and not part.startswith("/") and not os.path.splitdrive(part)[0]
            roots[name if named else part] = path if named else part
        return cls({name: os.path.expanduser(path) for name, path in roots.items() if path})

    def runs(self) -> dict[str, Run]:
        """Return the runs by name, in the order of TensorBoard's list."""
        with self._lock:
            if time.monotonic() - self._looked > _LOOK_AGAIN:
                found = dict(self._find())
                self._runs = {
                    name: self._runs.get(name) or Run(name, found[name])
                    for name in sorted(found, key=_natural)
                }
                self._looked = time.monotonic()
            return self._runs

    def newest(self) -> str | None:
        """Return the name of the run that was written to last."""
        runs = self.runs()
        return max(runs, key=lambda name: runs[name].written(), default=None)

    def read_ahead(self, run: str = "", what: str = "") -> None:
        """Have a thread open a run, or the newest, and read all its records of a kind."""
        with self._lock:
            self._wanted[run, what] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._read, daemon=True)
                self._thread.start()
        self._wake.set()

    def scale(self, kind: str) -> tuple[float, float, bool]:
        """Return the ends of a kind's one scale for all runs, of whole decades where it is log.

        They hold 99 of 100 values: what lies beyond has the colour of the end. The last of the
        three tells whether all runs are in it: those that were not opened yet are by the thread.
        """
        _, fixed = KINDS[kind]
        if fixed:
            return *fixed, True
        runs = self.runs()
        closed = [name for name, run in runs.items() if not run.is_open]
        for name in closed:
            self.read_ahead(name)
        samples = [run.sample(kind).ravel() for name, run in runs.items() if name not in closed]
        values = np.concatenate(samples or [np.zeros(0, np.float32)])
        values = values[np.isfinite(values) & (values > 0)]
        if not len(values):
            return 1e-3, 1.0, not closed
        low, high = np.log10(np.quantile(values, [0.005, 0.995]))
        least, most = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
        return 10.0**least, 10.0**most, not closed

    def _find(self) -> Iterator[tuple[str, str]]:
        for root_name, root in self._roots.items():
            seen = set()
            for directory, inner, files in os.walk(root, followlinks=True):
                # Links may make a circle.
                inner[:] = [] if (real := os.path.realpath(directory)) in seen else sorted(inner)
                seen.add(real)
                if any(_is_ours(os.path.join(directory, f)) for f in files if "tfevents" in f):
                    inside = os.path.relpath(directory, root)
                    parts = [part for part in (root_name, inside) if part not in ("", ".")]
                    yield "/".join(parts) or ".", directory

    def _read(self):
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._wanted:
                with self._lock:
                    name, what = next(reversed(self._wanted))
                more = False
                try:
                    run = self.runs().get(name or self.newest() or "")
                    if run is not None:
                        run.open()
                        more = bool(what) and run.read_more(what)
                except Exception:  # of files that were removed meanwhile, and the next asks again
                    pass
                if not more:
                    with self._lock:
                        self._wanted.pop((name, what), None)
                time.sleep(0)  # let a request have its turn


def _is_ours(path):
    """Tell whether an event file's first record names this package as its writer."""
    try:
        with open(path, "rb") as file:
            return _WRITER in file.read(256)
    except OSError:
        return False


def _natural(name):
    """Return the key that sorts run-2 before run-10."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name)
    ]
