"""Lets the test files here import the helper modules beside them and beside the ops' tests."""

import pathlib
import sys

# pytest's importlib mode leaves the folder of a test file out of the path.
sys.path[:0] = [str(pathlib.Path(__file__).parent / folder) for folder in ("", "../ops")]
