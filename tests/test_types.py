"""Everything that a user finds in an `__all__` says what it takes and what it returns."""

import importlib
import inspect
import pkgutil

import keras_bp


def _packages():
    """Return keras_bp and its public subpackages."""
    names = [m.name for m in pkgutil.iter_modules(keras_bp.__path__) if not m.name.startswith("_")]
    return [keras_bp, *(importlib.import_module(f"keras_bp.{name}") for name in names)]


def _functions(cls):
    """Yield the constructor, public methods and properties of a class, with where they come from.

    What it inherits from Keras is Keras's.
    """
    for base in cls.__mro__:
        if not base.__module__.startswith("keras_bp"):
            continue
        for name, member in vars(base).items():
            if name.startswith("_") and name != "__init__":
                continue
            if isinstance(member, property):
                parts = {"": member.fget, " (setter)": member.fset}
            else:
                parts = {"": getattr(member, "__func__", getattr(member, "func", member))}
            for suffix, function in parts.items():
                if inspect.isfunction(function):
                    yield f"{base.__module__}.{base.__qualname__}.{name}{suffix}", function


def _missing(function):
    """List the arguments without an annotation, and "return" where that has none."""
    signature = inspect.signature(function)
    missing = [
        name
        for position, (name, parameter) in enumerate(signature.parameters.items())
        if parameter.annotation is parameter.empty
        and not (position == 0 and name in ("self", "cls"))
    ]
    return missing + ["return"] * (signature.return_annotation is signature.empty)


def _unannotated(packages):
    """Return a function's name -> what it leaves without an annotation."""
    found = {}
    for package in packages:
        for name in package.__all__:
            public = getattr(package, name)
            if inspect.isclass(public):
                found.update((where, _missing(function)) for where, function in _functions(public))
            elif callable(public):
                found[f"{public.__module__}.{name}"] = _missing(public)
    assert len(found) > 100, "the walk has lost its way"
    return {where: missing for where, missing in sorted(found.items()) if missing}


def test_public_functions_are_annotated():
    missing = _unannotated(_packages())
    lines = [f"{where}: {', '.join(names)}" for where, names in missing.items()]
    assert not lines, f"{len(lines)} without annotations:\n" + "\n".join(lines)


def test_a_missing_annotation_is_found():
    class Base:
        def __init__(self, a: int, *args, b=1) -> None: ...

        @property
        def p(self): ...

        @classmethod
        def make(cls, a: int): ...

        def _private(self, a): ...

    Base.__module__ = "keras_bp.made_up"
    found = {where.split(".")[-1]: _missing(function) for where, function in _functions(Base)}
    assert found == {"__init__": ["args", "b"], "p": ["return"], "make": ["return"]}
