"""What every test gets: a quiet TensorFlow, a fixed seed and a clean Keras state."""

import gc
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from keras_bp.workers.multi_worker_strategy import keep_for_iterators

STARTERS = [
    "test_examples.py",
    "test_endurance.py",
    "test_fit_over_workers.py",
    "test_two_workers.py",
    "test_saving.py",
]


def pytest_configure():
    """Split the CPU into two logical devices, before TensorFlow starts, for MirroredStrategy."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_collection_modifyitems(items):
    """Begin with the files that start programs: the last one to run keeps a process waiting."""
    items.sort(key=lambda item: item.path.name not in STARTERS)


# What older versions of Keras lack, as they say it, and since when it is there.
LATER = {
    "has no attribute 'MultiOptimizer'": "3.15",
    "has no attribute 'OptimizerMap'": "3.15",
    "`renorm` must be False: Keras has batch renormalization from 3.14 on.": "3.14",
    "passed to BatchNormalization: {'renorm'": "3.14",
    "unexpected keyword argument 'block_size'": "3.14",
}


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
    """Skip a test of what the installed Keras does not have yet."""
    try:
        return (yield)
    except (AttributeError, TypeError, ValueError) as error:
        for words, version in LATER.items():
            if words in str(error) and keras.__version__ < version:
                pytest.skip(f"Keras has it from {version} on: {error}")
        raise


@pytest.fixture(autouse=True)
def _fresh_keras():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture(autouse=True)
def _no_garbage():
    """Free what a test has left, and let later collections pass over what cannot be freed.

    A tf.data iterator that is freed waits for a thread that looks up the more seldom the longer it
    lives, up to a minute: those of interrupted fits, left to a collection that came by chance, have
    held the suite up for minutes. TensorFlow keeps the graphs of custom gradients for good.
    """
    start = time.monotonic()
    yield
    if time.monotonic() - start > 0.2:  # a quick test has trained nothing
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _no_figures():
    """Close what a test, or an example that it ran, has left open in pyplot."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def replicas():
    """The one strategy of the process.

    TensorFlow counts the instances of a collective operation from the start for each strategy: a
    second one fails where its tensors have other shapes than the first one's. Its data are kept for
    their iterators: one that Keras drops while it reads ahead could end the process.
    """
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def kept(distribute):
        return lambda *args, **kwargs: keep_for_iterators(distribute(*args, **kwargs))

    for name in ("experimental_distribute_dataset", "distribute_datasets_from_function"):
        setattr(strategy, name, kept(getattr(strategy, name)))
    return strategy


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
