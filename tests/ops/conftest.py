"""Lets the test files here import the helper modules beside them, and spares them a wait."""

import pathlib
import sys

import pytest

# pytest's importlib mode leaves the folder of a test file out of the path.
sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Stand in for the fixture of the same name one folder up.

    Ops have no part in Keras's state, and setting the seed empties TensorFlow's cache of kernels,
    which would double the time of the many small tests here.
    """
