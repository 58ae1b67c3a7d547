"""Lets the test files here import the helper module beside them."""

import pathlib
import sys

# pytest's importlib mode leaves the folder of a test file out of the path.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
