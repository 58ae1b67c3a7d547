"""What every test gets: a quiet TensorFlow, a fixed seed and a clean Keras state."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest
import tensorflow as tf


def pytest_configure():
    """Split the CPU into two logical devices, before TensorFlow starts, for MirroredStrategy."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(autouse=True)
def _fresh_keras():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def replicas():
    """The one strategy of the process.

    TensorFlow counts the instances of a collective operation from the start for each strategy: a
    second one fails where its tensors have other shapes than the first one's.
    """
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
