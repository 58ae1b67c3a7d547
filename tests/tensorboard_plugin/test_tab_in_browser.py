"""The tab in a real browser: what it shows equals what was written."""

import json
import re
import shutil
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


def a_json(tag, content, step):
    value = Summary.Value(tag=tag)
    value.metadata.plugin_data.plugin_name = "keras_bp"
    tensor = tf.make_tensor_proto(json.dumps(content), tf.string)
    value.tensor.MergeFromString(tensor.SerializeToString())
    return "write_summary", Summary(value=[value]), step


def a_finding(step, layer="block_1/b", description="It grew"):
    about = {"check": "exploding", "layer": layer, "step": step, "value": 12.5}
    about |= {"threshold": 10.0, "description": description, "advice": "Lower the rate"}
    return a_json("keras_bp/finding", about, step)


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


def test_the_worst_layer_comes_first(tmp_path, write, browser, serve):
    """Not the earliest finding; and what else a newcomer sees of two runs, until one is removed."""
    worst = "block_2/" + "a_layer_with_a_very_long_name_" * 4 + "up"
    layers = ["stem", "block_1/up", worst, "head"]
    norms = np.exp(0.1 * np.random.default_rng(0).normal(size=(256, 4)))
    write(tmp_path / "whole", layers, norms, more=[a_json("keras_bp/settings", {"seed": 1}, 0)])
    norms[99, 2], norms[100:, 2] = 2, 0  # in two-step columns the onset shares its column with 2
    findings = [a_finding(50, "block_1/up"), a_finding(110, worst, "of `its` units")]
    optimizer = {"optimizer": {"name": "a_functional", "learning_rate_of_it": "functional"}}
    settings = a_json("keras_bp/settings", optimizer, 0)
    once = "write_scalars", ("epoch/accuracy",), [0.5], 256
    write(tmp_path / "faulty", layers, norms, more=[*findings, settings, once])
    browser.complaints.clear()
    browser.open(serve(tmp_path))
    browser.wait(DRAWN)
    choose(browser, "run", "faulty")
    browser.wait("document.querySelector('#findings details[open]') !== null")
    assert browser.run("document.querySelector('aside section').id") == "outlier"
    stands_out = "document.querySelector('#outlier').innerText"
    assert f"{worst}: its gradient norm is 0 since step 101." in browser.run(stands_out)
    assert worst in selected(browser) and "step 101" in selected(browser)
    opened = "document.querySelectorAll('#findings details[open]')"
    texts = browser.run(f"Array.from({opened}, (d) => d.innerText)")
    assert len(texts) == 1 and worst in texts[0] and "of its units" in texts[0]
    assert browser.run(f"{opened}[0].querySelector('p code').innerText") == "its"

    # A long name is shortened in the legend, not in its title.
    buttons = "document.querySelectorAll('#lines .legend button')"
    legend = f"Array.from({buttons}, (button) => [button.title, button.innerText])"
    names = dict(browser.run(legend))
    assert len(names[worst]) < 50 and names[worst].startswith("block_2/a_layer")
    assert names[worst].endswith("name_up") and names["head"] == "head"

    # The last step's only point is seen on both sides of the axis.
    chart = """Array.from(document.querySelectorAll('#scalars figure')).find(
        (f) => f.querySelector('figcaption').textContent === 'epoch/accuracy')"""
    browser.run(f"{chart}.scrollIntoView()")
    browser.wait(f"""(() => {{
        const canvas = {chart}.querySelector('canvas');
        const x = canvas.width - 22 * devicePixelRatio + 1;
        const data = canvas.getContext('2d').getImageData(x, 0, 1, canvas.height).data;
        return Array.from(data).some((v, i) => i % 4 === 0 && v === 47 && data[i + 1] === 134);
    }})()""")

    # Side by side a column has two steps here, and the page says so.
    choose(browser, "other", "whole")
    browser.wait(f"{stands_out}.includes('is 0 since steps 10')")
    said = re.search(r"since steps (\d+) to (\d+)\.", browser.run(stands_out))
    assert int(said[1]) <= 101 <= int(said[2]) == int(said[1]) + 1
    # A word of the settings stands on one line.
    height = """Array.from(document.querySelectorAll('.settings td'), (td) => td.clientHeight)"""
    assert max(browser.run(height)) < 30
    assert "a_functional" in browser.run("document.querySelector('.settings').innerText")

    shutil.rmtree(tmp_path / "faulty")
    browser.wait("document.querySelector('#faults').innerText.includes('The run faulty is gone')")
    assert browser.run("document.querySelector('#first').value") == "1"
    choose(browser, "other", "")
    choose(browser, "run", "whole")
    browser.wait("document.querySelector('#faults').hidden")
    assert label(browser) == "Gradient norm of 4 layers, whole"


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
