"""A log directory, and the plugin's pages without a server."""

import json
import pathlib
import sys
import types

import numpy as np
import pytest
import werkzeug.test
from tensorboard.plugins import base_plugin

from keras_bp.recording import EventFile
from keras_bp_runs.tensorboard_plugin.plugin import GradientsPlugin

sys.path.insert(0, str(pathlib.Path(__file__).parent))


class Pages:
    """The plugin's pages for a log directory, asked without a network."""

    def __init__(self, log_dir=None, spec=None):
        flags = types.SimpleNamespace(logdir_spec=spec)
        log_dir = str(log_dir) if log_dir else ""
        self.plugin = GradientsPlugin(base_plugin.TBContext(logdir=log_dir, flags=flags))
        self.apps = self.plugin.get_plugin_apps()

    def answer(self, page, method="GET", **query):
        client = werkzeug.test.Client(self.apps[f"/{page}"])
        return client.open(query_string=query, method=method)

    def json(self, page, **query):
        answer = self.answer(page, **query)
        assert answer.status_code == 200, answer.text

        def refuse(word):
            raise AssertionError(f"{word} is no JSON")

        return json.loads(answer.text, parse_constant=refuse)

    def columns(self, run, what, first, last, most=1024):
        """Return the header and the arrays, as the browser reads them."""
        answer = self.answer("columns", run=run, what=what, first=first, last=last, most=most)
        assert answer.status_code == 200, answer.text
        data = answer.data
        length = int(np.frombuffer(data, "<u8", 1)[0])
        header = json.loads(data[8 : 8 + length])
        number, rows = header["columns"], len(header["names"])
        place = 8 + length
        starts = np.frombuffer(data, "<f8", number, place)
        values = np.frombuffer(data, "<f4", 2 * rows * number, place + 8 * number)
        assert len(data) == place + 8 * number + 8 * rows * number
        low, high = values.reshape(2, rows, number)
        return types.SimpleNamespace(**header, starts=starts, low=low, high=high)


@pytest.fixture
def pages():
    return Pages


def write(directory, layers, values, first=1, more=()):
    """Write a run with a gradient norm for each layer: values of shape (steps, layers)."""
    file = EventFile(directory, step=first - 1, starts=True)
    tags = tuple(f"gradient_norm/{layer}" for layer in layers) + ("loss/batch",)
    for step, row in enumerate(values, first):
        file.write_scalars(tags, [*row, 1 / step], step)
    for method, *arguments in more:
        getattr(file, method)(*arguments)
    file.close()


@pytest.fixture(name="write")
def write_():
    return write
