"""The reference computes with NumPy alone, exports what it says, and its examples run."""

import ast
import doctest
import importlib
import inspect
import pathlib
import sys

import numpy as np
import pytest

from keras_bp import reference

FILES = sorted(pathlib.Path(reference.__file__).parent.glob("*.py"))
MODULES = [importlib.import_module(f"keras_bp.reference.{path.stem}") for path in FILES]
PUBLIC = [getattr(reference, name) for name in reference.__all__]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_computes_with_numpy_and_the_standard_library_alone(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    strangers = {
        name
        for name in imported
        if name.split(".")[0] not in sys.stdlib_module_names | {"numpy"}
        and not name.startswith("keras_bp.reference")
    } - {"keras_bp._arguments", "keras_bp._types"}
    assert strangers == set()


def test_all_names_what_the_files_define():
    defined = {
        name
        for module in MODULES
        if not module.__name__.split(".")[-1].startswith("_")
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    }
    assert set(reference.__all__) == defined
    assert len(set(reference.__all__)) == len(reference.__all__)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.split(".")[-1])
def test_docstring_examples_run(module):
    # They import what they use of the package, and take only NumPy for granted.
    assert doctest.testmod(module, globs={"np": np}).failed == 0


@pytest.mark.parametrize("value", PUBLIC, ids=lambda value: value.__name__)
def test_every_public_name_has_a_runnable_example(value):
    assert doctest.DocTestParser().get_examples(inspect.getdoc(value))
