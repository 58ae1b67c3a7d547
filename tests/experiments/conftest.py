"""Experiments are folders that Python runs; their tests load and run them in this process."""

import importlib.util
import pathlib
import sys

import pytest

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    """Return a function that loads an experiment's `__main__.py`, by the folder's name.

    The working directory is the test's own. The module has `run(*arguments)`, which runs `main`
    in one process.
    """
    monkeypatch.chdir(tmp_path)
    folders = []

    def forget(folder):  # another experiment may have a module of this name
        for path in folder.glob("*.py"):
            sys.modules.pop(path.stem, None)

    def load(name):
        folder = EXPERIMENTS / name
        monkeypatch.syspath_prepend(str(EXPERIMENTS))
        monkeypatch.syspath_prepend(str(folder))
        forget(folder)
        folders.append(folder)
        spec = importlib.util.spec_from_file_location(f"experiment_{name}", folder / "__main__.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        module.run = lambda *arguments: module.main(["--processes", "1", *map(str, arguments)])
        return module

    yield load
    for folder in folders:
        forget(folder)
