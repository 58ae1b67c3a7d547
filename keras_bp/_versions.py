"""The packages beside this one: their versions, for a report, and Matplotlib, an extra."""

import importlib.metadata
import platform

import keras
import tensorflow as tf

_PACKAGES = "keras", "tensorflow", "numpy", "matplotlib", "scikit-learn"


def require_matplotlib(caller: str) -> None:
    """Raise an ImportError that says what to install, if `caller` cannot draw."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{caller} needs Matplotlib: pip install matplotlib") from error


def show_versions() -> None:
    """Print the versions of this package, Python and what it uses, and the devices.

    A report of a fault is complete with them.

    Example:
        >>> keras_bp.show_versions()  # doctest: +ELLIPSIS
        keras_bp      ...
    """
    import keras_bp

    rows = {"keras_bp": keras_bp.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            rows[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            rows[name] = "not installed"
    rows["system"] = platform.platform()
    rows["devices"] = ", ".join(device.name for device in tf.config.list_physical_devices())
    rows["precision"] = f"{keras.config.floatx()}, policy {keras.config.dtype_policy().name}"
    width = max(map(len, rows)) + 2
    print("\n".join(f"{name:{width}}{value}" for name, value in rows.items()))
