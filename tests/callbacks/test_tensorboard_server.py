"""A real TensorBoard server shows what the monitor has written."""

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import keras
import numpy as np
import pytest

from keras_bp.callbacks import GradientMonitor


@contextlib.contextmanager
def server(log_dir):
    """Serve a directory on a free loopback port; yield a function that gets a page's JSON."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
    command += ["--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = None
            for line in process.stderr:
                found = re.search(r"http://127\.0\.0\.1:\d+", line)
                if found:
                    address = found.group()
                    break
            assert address, "TensorBoard did not start"

            def get(path, **query):
                url = f"{address}/data/{path}?{urllib.parse.urlencode(query)}"
                with urllib.request.urlopen(url, timeout=30) as answer:
                    return json.load(answer)

            yield get
        finally:
            process.terminate()
            process.wait(30)


def patiently(get):
    """Ask again until the server has read the files."""
    for _ in range(100):
        answer = get()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError("TensorBoard shows no run")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_tensorboard_shows_the_run(data, tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="d1")])
    model.compile("sgd", "mse", run_eagerly=True)
    monitor = GradientMonitor(tmp_path / "run", histograms_every=2)
    model.fit(*data, batch_size=5, epochs=2, verbose=0, callbacks=[monitor])
    with server(tmp_path) as get:
        scalars = patiently(lambda: get("plugin/scalars/tags"))["run"]
        assert {"gradient_norm/d1", "learning_rate", "loss/batch", "epoch/loss"} <= set(scalars)
        series = get("plugin/scalars/scalars", run="run", tag="gradient_norm/d1")
        assert [step for _, step, _ in series] == list(range(1, 11))
        assert all(np.isfinite(value) and value > 0 for _, _, value in series)

        histograms = get("plugin/histograms/tags")["run"]
        assert set(histograms) == {
            f"{kind}/d1/{v}" for kind in ("weights", "gradients") for v in ("kernel", "bias")
        }
        buckets = get("plugin/histograms/histograms", run="run", tag="gradients/d1/kernel")
        assert [(step, sum(b[2] for b in rows)) for _, step, rows in buckets] == [
            (step, 4) for step in (2, 4, 6, 8, 10)
        ]

        layout = get("plugin/custom_scalars/layout")
        charts = {c["title"]: c["multiline"]["tag"] for c in layout["category"][0]["chart"]}
        [expression] = charts["Gradient norm of each layer"]
        shown = get("plugin/custom_scalars/scalars", run="run", tag=expression)
        assert list(shown["tag_to_events"]) == ["gradient_norm/d1"]

        images = get("plugin/images/tags")["run"]["gradient_flow"]
        assert "its logarithm as colour" in images["description"]
