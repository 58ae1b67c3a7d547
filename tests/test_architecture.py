"""The house keeps its shape: imports go down only, and siblings do not reach into each other."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "keras_bp"

FLOORS = [
    {"ops", "gradients", "reference", "_arguments", "_deferred_rows", "_exact_gradients"}
    | {"_registration", "_xla"},
    {"layers", "losses", "optimizers", "schedules", "gradient_check", "workers"},
    {"feedback", "learning_rate_finder", "multitask", "visualization"},
    # A callback may watch a `fit` of any model, those of the rooms below included.
    {"callbacks"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The ground's own ground, which every room may use.
FOUNDATION = {"_arguments", "_deferred_rows", "_exact_gradients", "_registration", "_xla"}


def _imports(source):
    """Yield (module, names) for each import of keras_bp in a file's source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "keras_bp":
                    yield alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "relative", ()
            elif node.module and node.module.split(".")[0] == "keras_bp":
                yield node.module, tuple(alias.name for alias in node.names)


def _faults(path, source):
    """List what breaks the rules in one file of the package."""
    parts = path.with_suffix("").parts
    if parts == ("__init__",):
        return []
    room = parts[0]
    faults = []
    for module, names in _imports(source):
        if module == "relative":
            faults.append(f"{path}: relative import")
            continue
        targets = [module.split(".")] if module != "keras_bp" else [["keras_bp", n] for n in names]
        for target in targets:
            other = target[1] if len(target) > 1 else "keras_bp"
            if other == room or other in FOUNDATION:
                continue
            if other not in FLOOR_OF:
                faults.append(f"{path}: imports {other}, which has no floor")
            elif FLOOR_OF[other] >= FLOOR_OF[room]:
                faults.append(f"{path}: imports {other}, which does not lie below {room}")
            elif len(target) > 2:
                faults.append(f"{path}: reaches into {'.'.join(target)}")
    return faults


def test_imports_go_down_only():
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        faults += _faults(path.relative_to(PACKAGE), path.read_text())
    assert faults == []


def test_every_room_has_a_floor():
    rooms = {p.stem if p.is_file() else p.name for p in PACKAGE.iterdir() if p.name != "py.typed"}
    rooms -= {"__init__", "__pycache__"}
    assert rooms <= set(FLOOR_OF), rooms - set(FLOOR_OF)


@pytest.mark.parametrize(
    "path, source",
    [
        ("ops/dense.py", "from keras_bp import layers"),
        ("ops/dense.py", "import keras_bp.callbacks"),
        ("layers/dense.py", "from keras_bp.losses import BinaryCrossentropy"),
        ("callbacks/monitor.py", "from keras_bp.ops.dense import dense"),
        ("multitask/mean.py", "from keras_bp.callbacks import GradientConflict"),
        ("layers/dense.py", "from .batch_normalization import BatchNormalization"),
    ],
)
def test_a_broken_rule_is_found(path, source):
    assert _faults(pathlib.PurePosixPath(path), source)


@pytest.mark.parametrize(
    "path, source",
    [
        ("layers/dense.py", "from keras_bp import ops"),
        ("layers/dense.py", "from keras_bp.ops import dense"),
        ("layers/dense.py", "from keras_bp._registration import serializable"),
        ("layers/__init__.py", "from keras_bp.layers.dense import Dense"),
    ],
)
def test_a_kept_rule_is_not(path, source):
    assert not _faults(pathlib.PurePosixPath(path), source)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_no_file_is_longer_than_a_concept(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 300, f"{path.relative_to(PACKAGE)} has {lines} lines; split it or simplify it"
