"""What the tests of the callbacks share: reading event files back, and a small data set."""

import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# pytest's importlib mode leaves the folder of a test file out of the path.
sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture
def read_events():
    """Return a function: log_dir -> {tag: {step: value}}, refusing a step written twice."""

    def read(log_dir):
        accumulator = EventAccumulator(str(log_dir), size_guidance={"tensors": 0})
        accumulator.Reload()
        tags = {}
        for tag in accumulator.Tags()["tensors"]:
            # Files of the same second are read in the order of their names: number 10 before 9.
            events = sorted(accumulator.Tensors(tag), key=lambda event: event.step)
            tags[tag] = {e.step: tf.make_ndarray(e.tensor_proto) for e in events}
            assert len(tags[tag]) == len(events), f"{tag} has a step twice"
        return tags

    return read


@pytest.fixture
def data():
    """23 examples of 4 features: in batches of 5 the last one holds 3."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(23, 4)).astype("float32")
    return x, (x[:, :1] * x[:, 1:2] + 0.5).astype("float32")
