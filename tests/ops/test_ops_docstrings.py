"""Every example in a docstring runs and gives what it says, and every op has one."""

import doctest
import importlib
import importlib.util
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp

PACKAGES = ["ops", "layers", "losses", "optimizers", "schedules", "gradients", "reference"]
PACKAGES += ["gradient_check", "callbacks", "tuning", "multitask", "visualization"]
PACKAGES += ["curvature", "deferred", "feedback", "recording", "workers"]
# Where a user looks an object up and wants to see it used.
WITH_EXAMPLES = ["ops", "layers", "losses", "optimizers", "schedules"]


def _public_objects():
    """Yield (path, object) for all that `__all__` names, here and in each subpackage."""
    modules = [keras_bp]
    for package in PACKAGES:
        if importlib.util.find_spec(f"keras_bp.{package}"):
            modules.append(importlib.import_module(f"keras_bp.{package}"))
    for module in modules:
        for name in module.__all__:
            item = getattr(module, name)
            if not inspect.ismodule(item):
                yield f"{module.__name__}.{name}", item


OBJECTS = dict(_public_objects())


def _examples(path, item):
    finder = doctest.DocTestFinder(recurse=True, exclude_empty=True)
    names = {"np": np, "tf": tf, "keras": keras, "keras_bp": keras_bp}
    tests = finder.find(item, path, module=inspect.getmodule(item), globs=names)
    return [test for test in tests if test.examples]


# An object with two names, such as a layer in a room of its own, is run under the last one.
ONCE = {id(item): (path, item) for path, item in OBJECTS.items()}.values()
EXAMPLES = [test for path, item in ONCE for test in _examples(path, item)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_example_gives_what_it_says(example, tmp_path, monkeypatch):
    # What an example writes stays out of the repository.
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=report.append)
    assert runner.tries and not runner.failures, "".join(report)


@pytest.mark.parametrize("path", [path for path in OBJECTS if path.split(".")[1] in WITH_EXAMPLES])
def test_there_is_an_example(path):
    assert ">>>" in (inspect.getdoc(OBJECTS[path]) or ""), f"{path} has no example"


@pytest.mark.parametrize("path", OBJECTS)
def test_there_is_a_docstring_that_ends_its_first_sentence(path):
    summary = (inspect.getdoc(OBJECTS[path]) or "").split("\n")[0]
    assert summary.endswith("."), f"{path}: {summary!r}"


def test_a_wrong_example_is_found():
    def wrong():
        """Adds up wrongly.

        >>> int(np.add(1, 1))
        3
        """

    [example] = _examples("wrong", wrong)
    runner = doctest.DocTestRunner()
    runner.run(example, out=lambda _: None)
    assert runner.failures == 1


def test_the_subpackages_are_all_searched():
    found = {path.split(".")[1] for path in OBJECTS}
    assert {"ops", "layers", "losses", "reference"} <= found
    rooms = {path.name for path in importlib.resources.files(keras_bp).iterdir() if path.is_dir()}
    assert {room for room in rooms if not room.startswith("_")} <= set(PACKAGES)
