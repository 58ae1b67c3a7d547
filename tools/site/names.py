"""The public names: all that stands in an `__all__`, read from the source without an import."""

import ast
import functools
import inspect
import pathlib

_KERAS = {"Sequential"}  # alone it is Keras's model, not our schedule
ROOT = pathlib.Path(__file__).parents[2]


def _module(path, root):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read(path):
    """Return the names in a file's `__all__` and {name: module it is imported from}."""
    names, imported = [], {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names = ast.literal_eval(node.value)
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: node.module for alias in node.names}
    return names, imported


@functools.cache
def _files(root, package):
    # What reads runs is a package of its own, which TensorBoard loads without TensorFlow.
    paths = [p for name in (package, f"{package}_runs") for p in (root / name).rglob("*.py")]
    return {_module(path, root): _read(path) for path in sorted(paths)}


def _defined(files, module, name):
    """Return (module, name) where a name is defined that `module` may only import."""
    source = files[module][1].get(name) if module in files else None
    return _defined(files, source, name) if source and source != module else (module, name)


@functools.cache
def pages(root=ROOT, package="keras_bp"):
    """Return {public module: {name: where its page is}}.

    A name that two modules list, such as a layer in a room of its own, has its page under the
    module that defines it. A name that is itself a module has that module's page.
    """
    files = _files(root, package)
    public = {module: names for module, (names, _) in files.items() if names}

    def defined(module, name):
        return ".".join(_defined(files, module, name))

    def page(module, name):
        if f"{module}.{name}" in public:
            return f"{module}.{name}"
        origin = defined(module, name)
        owners = [m for m, names in public.items() if name in names and defined(m, name) == origin]
        inside = [owner for owner in owners if origin.startswith(f"{owner}.") and owner != package]
        return f"{max(inside or [module], key=len)}.{name}"

    return {
        module: {name: page(module, name) for name in sorted(names, key=str.lower)}
        for module, names in public.items()
    }


@functools.cache
def links():
    """Return {a name as prose writes it: the name of its page}.

    Full names, and the last part alone where it can be nothing else: a class, or words joined by an
    underscore that name no module. The plain NumPy reference gives way to the class or function
    that it is the reference of.
    """
    full = {f"{module}.{name}": page for module, to in pages().items() for name, page in to.items()}
    full |= {page: page for page in full.values()}
    last = {module.rpartition(".")[2] for module in pages()}
    short = {}
    for page in sorted(full.values(), key=lambda page: ".reference." in page):
        name = page.rpartition(".")[2]
        plain = name.islower() and "_" not in name
        if not plain and name not in last and name not in _KERAS:
            short.setdefault(name, page)
    return {name: page for name, page in (short | full).items() if page not in pages()}


def definition(page):
    """Return the statement that defines a public name, and the one after it."""
    module, name = _defined(_files(ROOT, "keras_bp"), *page.rsplit(".", 1))
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(path.read_text()).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else node
        if name in (getattr(target, "id", None), getattr(target, "name", None)):
            return node, after
    raise LookupError(page)


def constant(page):
    """Return the docstring below the assignment to a public constant, "" where there is none."""
    after = definition(page)[1]
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
        return inspect.cleandoc(after.value.value)
    return ""
