"""The tab in a real browser: what it shows equals what was written."""

import json
import re
import threading
import warnings

import numpy as np
import pytest
import tensorflow as tf
import werkzeug.serving
from browser import CHROMIUM, Browser, tensorboard
from tensorboard.compat.proto.summary_pb2 import Summary

from keras_bp_runs.tensorboard_plugin import log_dir

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    # The server's threads end with their connections.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
LAYERS = ["stem", "block_1/a", "block_1/b", "block_2/a", "head"]
STEPS = 200
DRAWN = "performance.getEntriesByName('keras_bp: drawn').length"


@pytest.fixture(scope="module")
def browser():
    with Browser() as made:
        yield made


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(0)
    values = 10.0 ** rng.uniform(-3.5, 2.5, (STEPS, len(LAYERS)))
    values[1::10, 0], values[2::10, 0] = 1e-4, 1e3  # often enough to fix the scale
    values[49, 2], values[59, 2] = np.nan, 0.0
    return values.astype(np.float32)


@pytest.fixture
def serve(pages):
    """Return a function that serves the tab of a log directory in this process."""
    servers = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of an HTML library in TensorBoard
        from tensorboard.backend.application import TensorBoardWSGI

    def start(log_dir):
        app = TensorBoardWSGI([pages(log_dir).plugin])
        server = werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=True)
        servers.append((server, threading.Thread(target=server.serve_forever)))
        servers[-1][1].start()
        return f"http://127.0.0.1:{server.port}/data/plugin_entry.html?name=gradients"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def a_finding(step):
    about = {"check": "exploding", "layer": "block_1/b", "step": step, "value": 12.5}
    about |= {"threshold": 10.0, "description": "It grew", "advice": "Lower the rate"}
    value = Summary.Value(tag="keras_bp/finding")
    value.metadata.plugin_data.plugin_name = "keras_bp"
    tensor = tf.make_tensor_proto(json.dumps(about), tf.string)
    value.tensor.MergeFromString(tensor.SerializeToString())
    return "write_summary", Summary(value=[value]), step


def cell(browser, layer, step, map_="first", rows=LAYERS, steps=(1, STEPS)):
    """Return where a cell of a heat map is in the window."""
    plot = browser.run(f"""(() => {{
        const canvas = document.querySelector('#map-{map_} canvas');
        canvas.scrollIntoView({{block: 'nearest'}});
        const {{x, y}} = canvas.getBoundingClientRect();
        return {{...JSON.parse(canvas.dataset.plot), x, y}};
    }})()""")
    across = (step - steps[0] + 0.5) / (steps[1] - steps[0] + 1)
    down = (rows.index(layer) + 0.5) / len(rows)
    x = plot["x"] + plot["left"] + across * plot["width"]
    return x, plot["y"] + plot["top"] + down * plot["height"]


def colour(browser, x, y, map_="first"):
    """Return the colour of a heat map at a place of the window."""
    return browser.run(f"""(() => {{
        const canvas = document.querySelector('#map-{map_} canvas');
        const box = canvas.getBoundingClientRect();
        const data = canvas.getContext('2d').getImageData({x} - box.x, {y} - box.y, 1, 1).data;
        return Array.from(data).slice(0, 3);
    }})()""")


def selected(browser):
    return browser.run("document.querySelector('#selected').innerText")


def choose(browser, name, value):
    """Choose in a control as a user does."""
    browser.run(f"""(() => {{
        const control = document.querySelector('#{name}');
        control.value = {json.dumps(value)};
        control.dispatchEvent(new Event('input', {{bubbles: true}}));
        control.dispatchEvent(new Event('change', {{bubbles: true}}));
    }})()""")


def label(browser, map_="first"):
    return browser.run(f"document.querySelector('#map-{map_} canvas').getAttribute('aria-label')")


def number(text):
    """Return the last number of a text."""
    return float(re.findall(r"[-+.\de]+", text.replace(",", ""))[-1])


def test_the_tab_shows_what_was_written(tmp_path, write, values, browser, serve):
    write(tmp_path / "run", LAYERS, values, more=[a_finding(120)])
    write(tmp_path / "twice", LAYERS, 2 * values)
    # A run of another tool is none of the tab's.
    with tf.summary.create_file_writer(str(tmp_path / "other")).as_default():
        tf.summary.scalar("loss", 1.0, step=1)
    browser.complaints.clear()
    browser.open(serve(tmp_path))
    browser.wait(DRAWN)
    options = "Array.from(document.querySelector('#run').options, (o) => o.value)"
    assert browser.run(options) == ["run", "twice"]
    choose(browser, "run", "run")
    browser.wait("document.querySelector('#findings details[open]') !== null")
    assert label(browser) == "Gradient norm of 5 layers, run"

    # Each cell tells the value that was written, to the last bit.
    for layer, step in (("stem", 1), ("block_1/b", 77), ("head", STEPS)):
        browser.click(*cell(browser, layer, step))
        text = selected(browser)
        assert layer in text and f"step {step}" in text
        assert np.float32(number(text)) == values[step - 1, LAYERS.index(layer)]
    # Of 1e-4 to 1e4, dark to bright, as 2e3 is there too; what has no logarithm has its own colour.
    assert colour(browser, *cell(browser, "stem", 12)) == [68, 1, 84]
    assert colour(browser, *cell(browser, "stem", 13)) == [173, 216, 68]
    assert colour(browser, *cell(browser, "block_1/b", 50)) == [255, 0, 200]
    assert colour(browser, *cell(browser, "block_1/b", 60)) == [140, 140, 140]

    # A finding's mark tells its layer, value, threshold and cure.
    browser.click(*cell(browser, "stem", 10))
    x, y = cell(browser, "stem", 120)
    top = browser.run("document.querySelector('#map-first canvas').getBoundingClientRect().y")
    browser.click(x, top + 8)
    browser.wait("document.querySelector('#selected').innerText.includes('block_1/b')")
    found = browser.run("document.querySelector('#findings details[open]').innerText")
    for part in ("Exploding", "block_1/b", "step 120", "12.5", "10", "It grew", "Lower the rate"):
        assert part in found

    # Dragging zooms in, and the button out.
    x, y = cell(browser, "head", 41)
    browser.drag(x, y, cell(browser, "head", 60)[0])
    browser.wait("document.querySelector('#first').value === '41'")
    assert browser.run("document.querySelector('#last').value") == "60"
    browser.wait("document.querySelector('#whole').disabled === false")
    browser.click(*cell(browser, "head", 50, steps=(41, 60)))
    assert np.float32(number(selected(browser))) == values[49, 4]
    browser.run("document.querySelector('#whole').click()")
    browser.wait(f"document.querySelector('#last').value === '{STEPS}'")

    # Search by name, and the most extreme.
    choose(browser, "search", "block_1")
    assert label(browser) == "Gradient norm of 2 layers, run"
    blocks = "Array.from(document.querySelectorAll('#lines figcaption'), (c) => c.textContent)"
    assert browser.run(blocks) == ["block_1/a to block_1/b"]
    choose(browser, "search", "")
    assert browser.run(blocks) == ["stem to head"]  # five fit into a chart
    choose(browser, "few", "2")
    choose(browser, "extreme", "largest")
    assert label(browser) == "Gradient norm of 2 layers, run"
    choose(browser, "extreme", "all")

    # Two runs, side by side, and their ratio.
    choose(browser, "other", "twice")
    browser.wait("!document.querySelector('#map-difference').hidden")
    browser.click(*cell(browser, "head", 30, "second"))
    text = selected(browser)
    assert "÷2" in text
    assert np.float32(re.findall(r"norm\s+(\S+)", text)[-1]) == 2 * values[29, 4]
    browser.wait("document.querySelector('#map-difference canvas').dataset.plot")
    # White where both are 0 (no colour of 256 is the middle one), blue where the first is smaller.
    equal, half = (
        colour(browser, *cell(browser, "block_1/b", step, "difference"), "difference")
        for step in (60, 40)
    )
    assert equal == [247, 246, 246] and half[0] < half[2]
    assert [text for text in browser.complaints if "favicon" not in text] == []


def test_a_directory_without_a_run_and_one_that_comes(
    tmp_path, write, values, browser, serve, monkeypatch
):
    monkeypatch.setattr(log_dir, "_LOOK_AGAIN", 0.0)
    browser.open(serve(tmp_path))
    browser.wait("document.body.innerText.includes('There is no run of keras_bp')")
    write(tmp_path, LAYERS, values[:20])
    browser.wait(DRAWN)  # it looks again by itself
    assert label(browser) == "Gradient norm of 5 layers, ."
    write(tmp_path, LAYERS, values[20:40], first=21)
    browser.wait("document.querySelector('#last').value === '40'")


@pytest.mark.long
def test_tensorboard_shows_the_tab(tmp_path, write, values, browser):
    """The real server, and of 60 layers, which is the worst, since when, and what to do."""
    rng = np.random.default_rng(0)
    layers = [f"block_{i // 6}/dense_{i % 6}" for i in range(60)]
    norms = np.exp(0.3 * rng.normal(size=(2000, 60))) * np.logspace(-3, -1, 60)
    norms[900:, 37] *= 1e-5
    norms[1300, 11] = 1e9  # a spike of one step
    write(tmp_path / "runs" / "faulty", layers, norms)
    inside = "document.querySelector('iframe').contentDocument"
    with tensorboard(tmp_path) as address:
        browser.open(f"{address}/#gradients")
        browser.wait("document.querySelector('iframe') !== null", 60)
        browser.wait(f"{inside}.querySelector('#outlier p')?.innerText", 60)
        shown = browser.run(f"{inside}.querySelector('#outlier').innerText")
        said = re.search(r"(\S+): its gradient norm has shrunk .* since step (\S+)\.", shown)
        assert said[1] == "block_6/dense_1"
        assert abs(int(said[2].replace(",", "")) - 901) <= 8  # a column's steps
        assert "Try: Look at this layer's dead and saturated units" in shown
        assert "block_6/dense_1" in browser.run(f"{inside}.querySelector('#selected').innerText")
        tabs = browser.run("document.querySelector('.active-plugin-list').innerText")
        assert "GRADIENTS" in tabs
        # TensorBoard's dark page darkens the tab.
        browser.run("document.body.classList.add('dark-mode')")
        browser.wait(f"{inside}.documentElement.dataset.theme === 'dark'")
        # It is live: the run goes on.
        write(tmp_path / "runs" / "faulty", layers, norms[:100], first=2001)
        browser.wait(f"{inside}.querySelector('#last').value === '2100'", 30)
