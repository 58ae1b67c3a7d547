"""The package as such: backends, registration, the wheel, and what it does not do."""

import ast
import importlib
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

import keras
import pytest
import tensorflow as tf
from packaging.requirements import Requirement

import keras_bp

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "keras_bp"
SOURCES = [*PACKAGE.rglob("*.py"), *(ROOT / "keras_bp_runs").rglob("*.py")]


def _python(code, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_backend_that_is_missing_is_refused(tmp_path):
    """Keras itself fails to import."""
    run = _python("import keras_bp", tmp_path, KERAS_BACKEND="jax")
    assert run.returncode != 0
    _check_message(run.stderr.strip().splitlines()[-1].removeprefix("ImportError: "))


def test_a_backend_that_is_installed_is_refused(monkeypatch):
    """Keras runs, and says which it is."""
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    monkeypatch.delitem(sys.modules, "keras_bp")
    with pytest.raises(ImportError) as refused:
        importlib.import_module("keras_bp")
    _check_message(str(refused.value))


def _check_message(message):
    assert message.startswith("keras_bp")
    assert "KERAS_BACKEND=tensorflow" in message
    assert "jax" in message.split("Received:")[1]


@pytest.mark.parametrize("module, version", [(keras, "3.12.4"), (tf, "2.19.1")])
def test_a_version_that_is_too_old_is_refused(module, version, monkeypatch):
    monkeypatch.setattr(module, "__version__", version)
    monkeypatch.delitem(sys.modules, "keras_bp")
    with pytest.raises(ImportError, match=rf"needs .* or newer.*Received: \w+ {version}"):
        importlib.import_module("keras_bp")


def test_keras_2_is_refused(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    monkeypatch.delitem(sys.modules, "keras_bp")
    with pytest.raises(ImportError, match="TF_USE_LEGACY_KERAS"):
        importlib.import_module("keras_bp")


# The Keras class that each of a room's classes derives from; None for its namesake.
BASES = {
    "layers": None,
    "losses": None,
    "optimizers": keras.optimizers.Optimizer,
    "schedules": keras.optimizers.schedules.LearningRateSchedule,
}
OWN = {
    "layers.DeferredEmbedding": keras.layers.Embedding,
    "layers.Detach": keras.layers.Layer,
    "layers.DirectFeedback": keras.layers.Layer,
    "layers.FeedbackConv2D": keras.layers.Conv2D,
    "layers.FeedbackDense": keras.layers.Dense,
}


@pytest.mark.parametrize("room", BASES)
def test_classes_are_registered(room):
    module = getattr(keras_bp, room)
    for name in module.__all__:
        cls = getattr(module, name)
        if not isinstance(cls, type):  # a function beside them
            continue
        base = OWN.get(f"{room}.{name}") or BASES[room] or getattr(getattr(keras, room), name)
        assert issubclass(cls, base)
        if cls is not keras_bp.optimizers.Optimizer:  # the base holds no rule
            assert keras.saving.get_registered_object(f"keras_bp>{name}") is cls


def test_all_is_what_is_there():
    for name in keras_bp.__all__:
        assert hasattr(keras_bp, name)
    rooms = [m for n in keras_bp.__all__ if hasattr(m := getattr(keras_bp, n), "__path__")]
    assert len(rooms) >= 6
    for room in rooms:
        for name in room.__all__:
            assert getattr(room, name).__doc__, f"{room.__name__}.{name}"


def test_no_code_comes_from_a_file():
    """A model file must never make this package run code: no pickle, eval or the like."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Name):
                names = [node.id] if node.id in ("eval", "exec", "compile", "__import__") else []
                assert not names, f"{path.name} calls {names}"
                continue
            else:
                continue
            banned = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
            assert not {name.split(".")[0] for name in names} & banned, path.name


# What Google Colab had on 2026-11-29.
COLAB = {
    "keras": "3.13.2",
    "matplotlib": "3.10.0",
    "numpy": "2.0.2",
    "pillow": "11.3.0",
    "scikit-learn": "1.6.1",
    "tensorboard": "2.20.0",
    "tensorflow": "2.20.0",
}


def test_wheel_installs_and_imports_elsewhere(tmp_path):
    """Without matplotlib, an extra, which Keras itself can do without, and little beside Keras."""

    def run(*command):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("build", "--no-isolation", "--outdir", str(tmp_path / "dist"), ".")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (archive,) = (tmp_path / "dist").glob("*.tar.gz")
    run("twine", "check", "--strict", str(wheel), str(archive))
    contents = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in contents} == {"keras_bp", "keras_bp_runs"}
    static = (ROOT / "keras_bp_runs" / "tensorboard_plugin" / "static").iterdir()
    sources = {str(p.relative_to(ROOT)) for p in [*SOURCES, *static]}
    sources |= {"keras_bp/py.typed", "keras_bp/tuning/discovery/coefficients.npz"}
    sources |= {"keras_bp/visualization/backprop_page.html"}
    assert sources <= set(contents)
    packed = {name.partition("/")[2] for name in tarfile.open(archive).getnames()}
    assert sources <= packed
    assert {name.split("/")[0] for name in packed} == {
        *("keras_bp", "keras_bp_runs", "pyproject.toml", "README.md", "PKG-INFO", ".gitignore"),
        *("CHANGELOG.md", "CITATION.cff", "LICENSE", "SECURITY.md"),
    }

    site = tmp_path / "site"
    run("pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel))
    code = (
        # None in sys.modules is how an import is made to fail.
        "import sys; sys.modules['matplotlib'] = None; import keras; "
        "packages = lambda: {name.partition('.')[0] for name in sys.modules}; before = packages(); "
        "import keras_bp, pathlib; loaded = packages() - before; "
        "print(keras_bp.__version__, pathlib.Path(keras_bp.__file__)"
        ".parent.parent); print(keras_bp.layers.Dense(2).compute_output_shape((1, 3))); "
        "print(*loaded - sys.stdlib_module_names)"
    )
    imported = _python(code, tmp_path, PYTHONPATH=str(site))
    assert imported.returncode == 0, imported.stderr
    version, place, *shape_and_loaded = imported.stdout.split()
    assert (version, place) == (keras_bp.__version__, str(site))
    assert shape_and_loaded[:2] == ["(1,", "2)"]
    # The last two are what TensorBoard's files ask for, where they are installed.
    assert set(shape_and_loaded[2:]) <= {
        "keras_bp",
        "keras_bp_runs",
        "tensorboard",
        "botocore",
        "fsspec",
    }

    (metadata,) = importlib.metadata.distributions(path=[str(site)])
    # TensorBoard finds the tab.
    (tab,) = metadata.entry_points.select(group="tensorboard_plugins")
    assert tab.load().plugin_name == "gradients"
    for requirement in map(Requirement, metadata.requires):
        if not requirement.marker or "examples" in str(requirement.marker):
            assert COLAB[requirement.name] in requirement.specifier
    page = metadata.metadata.get_payload() or metadata.metadata["Description"]
    assert "pip install keras_bp" in page
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert all(link.startswith("https://") for link in links)
    assert f"\nversion: {keras_bp.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    # The lowest versions, in words for those who install without dependencies.
    least = {r.name: str(r.specifier) for r in map(Requirement, metadata.requires)}
    source = (PACKAGE / "_versions.py").read_text()
    for name, module in (("Keras", "keras"), ("TensorFlow", "tensorflow")):
        major, minor = least[module].removeprefix(">=").split(".")
        assert f'"{name}", ({major}, {minor})' in source
