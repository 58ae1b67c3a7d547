"""The time until TensorBoard's tab Gradients shows a run, in a real browser.

    python benchmarks/gradients_tab.py                 100 layers x 10,000 steps, 400 x 100,000
    python benchmarks/gradients_tab.py 60 5000         so many layers and steps
    python benchmarks/gradients_tab.py --keep runs     and keep the runs, to look at them
    python benchmarks/gradients_tab.py --bytes         tags, and bytes a step, of a monitor's files

It writes synthetic runs, unless they are there, through keras_bp's event file, starts TensorBoard,
and measures in Chromium, without a window, from the navigation to the tab until its heat map is on
the screen: the first time, when the server has just started, and again. It does so with the run's
files on the disk only ("from the disk"), and with them in memory.
"""

import argparse
import collections
import os
import pathlib
import sys
import tempfile
import time

import keras
import numpy as np

from keras_bp.callbacks import GradientMonitor
from keras_bp.recording import EventFile
from keras_bp_runs.events import RunFiles

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "tensorboard_plugin"))

from browser import Browser, tensorboard  # noqa: E402

SIZES = [(100, 10_000), (400, 100_000)]
DRAWN = "performance.getEntriesByName('keras_bp: drawn')"


def write_run(directory, layers, steps, fault=None, seed=0):
    """Write a run of a deep network; with a `fault`, "dead" or "nan", from 40 % of its steps on."""
    rng = np.random.default_rng(seed)
    names = [f"block_{i // 6}/dense_{i % 6}" for i in range(layers - 1)] + ["output"]
    noise = np.exp(0.25 * rng.normal(size=(997, layers)))  # a prime: no stride repeats it
    norms, guilty, onset = 10.0 ** np.linspace(-3, -1, layers), 2 * layers // 5, int(0.4 * steps)
    kinds = [[f"{kind}/{name}" for name in names] for kind in ("update_ratio", "weight_norm")]
    every_step = tuple(f"gradient_norm/{name}" for name in [*names, "global"])
    every_step += ("learning_rate", "loss/batch")
    file = EventFile(directory, starts=True)
    for step in range(1, steps + 1):
        done, late = step / steps, max(step - onset, 0) / steps
        values = norms * (1 - 0.8 * done) * noise[step % 997]
        if fault == "dead":
            values[guilty] *= 10.0 ** -min(4.0, 80 * late)
        if fault == "nan" and late:
            values[: guilty + 1] = np.nan
        if step == steps // 3:
            values[layers // 2] *= 1000  # a spike of one step
        loss = 2 * np.exp(-3 * done) * noise[step % 997, 0]
        whole = [np.sqrt(np.sum(values**2)), 1e-3 * (1 - done), loss]
        file.write_scalars(every_step, [*values, *whole], step)
        if step == 1 or step % 50 == 0:
            ratios, weights = 1e-3 * noise[step % 997], 5 + done + 0.1 * noise[0]
            file.write_scalars((*kinds[0], *kinds[1]), [*ratios, *weights], step)
    file.close()
    return names[guilty], onset


def measure(layers, steps, directory):
    """Write a run, and print how long the tab takes to show it."""
    log_dir = directory / f"{layers}x{steps}"
    if not log_dir.exists():
        write_run(log_dir / "first", layers, steps, "dead")
    size = sum(path.stat().st_size for path in log_dir.rglob("*tfevents*")) / 1e9
    print(f"{layers} layers x {steps:,} steps, {size:.2f} GB")
    for where in ("from the disk", "from memory"):
        if where == "from the disk":
            leave_memory(log_dir)
        measure_server(log_dir, where)


def leave_memory(log_dir):
    """Have the system forget what it keeps in memory of a run's files."""
    for path in log_dir.rglob("*tfevents*"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_server(log_dir, where):
    """Start TensorBoard, and print how long the tab takes to show a run."""
    # The browser is there before the server: what it would read ahead meanwhile counts.
    with Browser() as browser, tensorboard(log_dir) as address:
        for when in ("first", "again"):
            browser.open("about:blank")
            browser.open(f"{address}/data/plugin_entry.html?name=gradients")
            browser.wait(f"{DRAWN}.length", 60)
            drawn = browser.run(f"{DRAWN}[0].startTime") / 1000
            begun = time.perf_counter()
            browser.wait("document.querySelector('#status').textContent === ''", 120)
            exact = drawn + time.perf_counter() - begun
            times = f"on the screen after {drawn:.2f} s, of all steps after {exact:.2f} s"
            print(f"  {where}, {when}: {times}")


def count_bytes(variables, steps=100):
    """Train a network of so many variables, and print what `GradientMonitor` writes of it."""
    layers = [keras.layers.Dense(2, name=f"dense_{i}") for i in range(variables // 2)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    model.compile("adam", "mse")
    x = np.ones((steps, 2), np.float32)
    for histograms_every in (None, steps // 2):
        with tempfile.TemporaryDirectory() as log_dir:
            monitor = GradientMonitor(log_dir, histograms_every=histograms_every)
            model.fit(x, x, batch_size=1, verbose=0, callbacks=[monitor])
            files = RunFiles(monitor.run_dir)
            [path] = pathlib.Path(monitor.run_dir).glob("*tfevents*")
            size = path.stat().st_size / steps
        kinds = collections.Counter(files.tags.values())
        print(
            f"{variables} variables, histograms_every={histograms_every}: {size:,.0f} bytes a step"
        )
        print("  tags: " + ", ".join(f"{number} {kind}" for kind, number in kinds.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("size", nargs="*", type=int, help="layers and steps")
    parser.add_argument("--keep", type=pathlib.Path, help="a directory for the runs")
    parser.add_argument("--bytes", action="store_true", help="count what a monitor writes")
    arguments = parser.parse_args()
    for variables in (10, 100, 400) if arguments.bytes else ():
        count_bytes(variables)
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.keep or pathlib.Path(temporary)
        for layers, steps in [arguments.size] if arguments.size else SIZES * (not arguments.bytes):
            measure(layers, steps, directory)
