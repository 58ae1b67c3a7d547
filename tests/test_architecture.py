"""The house keeps its shape: imports go down only, and siblings do not reach into each other."""

import ast
import io
import pathlib
import tokenize

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "keras_bp"
# Below all of it, and read by TensorBoard's plugin, which a server loads as it starts.
RUNS = PACKAGE.parent / "keras_bp_runs"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *RUNS.rglob("*.py")])

# What every room may use, the ground's own ground.
FOUNDATION = {
    "_arguments",
    "_html",
    "_keras",
    "_paths",
    "_private_names",
    "_trial",
    "_types",
    "_versions",
    "_xla",
}
FLOORS = [
    {"ops", "gradients", "reference", "saving"} | FOUNDATION,
    {"curvature", "layers", "losses", "optimizers", "schedules", "gradient_check", "workers"},
    {"deferred", "feedback", "multitask", "recording", "tuning", "visualization"},
    # A callback may watch a `fit` of any model, those of the rooms below included.
    {"callbacks"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Whole features that users also find under the names of their kinds, as Keras has them. Such a room
# takes the class that it extends from that class's module: from the package, it would be a circle.
RE_EXPORTS = {
    "layers/__init__.py": {"deferred", "feedback"},
    "optimizers/__init__.py": {"deferred"},
}


def _imports(source, package="keras_bp"):
    """Yield (module, names) for each import of a package in a file's source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package:
                    yield alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "relative", ()
            elif node.module and node.module.split(".")[0] == package:
                yield node.module, tuple(alias.name for alias in node.names)


def _faults(path, source):
    """List what breaks the rules in one file of the package."""
    parts = path.with_suffix("").parts
    if parts in (("__init__",), ("__main__",)):
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
            if other == room or other in FOUNDATION or other in RE_EXPORTS.get(str(path), ()):
                continue
            if other not in FLOOR_OF:
                faults.append(f"{path}: imports {other}, which has no floor")
            elif FLOOR_OF[other] >= FLOOR_OF[room]:
                faults.append(f"{path}: imports {other}, which does not lie below {room}")
            elif len(target) > 2 and room not in RE_EXPORTS.get(f"{other}/__init__.py", ()):
                faults.append(f"{path}: reaches into {'.'.join(target)}")
    return faults


def test_imports_go_down_only():
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        faults += _faults(path.relative_to(PACKAGE), path.read_text())
    assert faults == []


@pytest.mark.parametrize("package", ["keras_bp", "keras", "tensorflow"])
def test_runs_are_read_without(package):
    for path in RUNS.rglob("*.py"):
        assert list(_imports(path.read_text(), package)) == [], path.name


def test_every_room_has_a_floor():
    rooms = {p.stem if p.is_file() else p.name for p in PACKAGE.iterdir() if p.name != "py.typed"}
    rooms -= {"__init__", "__main__", "__pycache__"}
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
        ("layers/dense.py", "from keras_bp._keras import serializable"),
        ("layers/__init__.py", "from keras_bp.layers.dense import Dense"),
    ],
)
def test_a_kept_rule_is_not(path, source):
    assert not _faults(pathlib.PurePosixPath(path), source)


def _code_lines(source):
    """Count the lines of a file's code: docstrings, comments and blank lines are not code."""
    lines = set()
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout | {tokenize.ENDMARKER}:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def test_code_lines_are_counted_without_docstrings_and_comments():
    assert _code_lines('"""Doc."""\n\n# why\nx = 1\ny = """a\nb"""\n') == 3


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_no_file_is_longer_than_a_concept(path):
    lines = _code_lines(path.read_text())
    assert lines <= 300, (
        f"{path.relative_to(PACKAGE.parent)} has {lines} lines of code; simplify it"
    )
