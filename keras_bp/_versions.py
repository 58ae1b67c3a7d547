"""The packages beside this one: which versions are too old, and which are there, for a report."""

import functools
import importlib.metadata
import os
import platform

import keras
import tensorflow as tf

_OTHERS = "numpy", "tensorboard", "matplotlib", "scikit-learn"


def unsupported() -> str | None:
    """Return why the package cannot run with this Keras and TensorFlow, or `None` if it can.

    pip does not tell where TensorFlow comes from another package than `tensorflow`.
    """
    for module, name, least in ((keras, "Keras", (3, 13)), (tf, "TensorFlow", (2, 20))):
        if tuple(map(int, module.__version__.split(".")[:2])) < least:
            return (
                f"keras_bp needs {name} {least[0]}.{least[1]} or newer. "
                f"Received: {name} {module.__version__}"
            )
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "")
    if legacy in ("1", "true", "True"):  # as TensorFlow reads it
        return (
            "keras_bp runs on Keras 3, and models of tf.keras would be Keras 2's: remove "
            f"TF_USE_LEGACY_KERAS from the environment. Received: TF_USE_LEGACY_KERAS={legacy}"
        )
    return None


def require_matplotlib(caller: str) -> None:
    """Raise an ImportError that says what to install, if `caller` cannot draw."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{caller} needs Matplotlib: pip install matplotlib") from error


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of this package, Python and what it uses, by name."""
    import keras_bp

    rows = {"keras_bp": keras_bp.__version__, "python": platform.python_version()}
    # Their modules' own: a nightly, or a build for CPUs, is installed under another name.
    rows |= {"keras": keras.__version__, "tensorflow": tf.__version__}
    for name in _OTHERS:
        try:
            rows[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            rows[name] = "not installed"
    return rows


def show_versions() -> None:
    """Print the versions of this package, Python and what it uses, and the devices.

    A report of a fault is complete with them.

    Example:
        >>> keras_bp.show_versions()  # doctest: +ELLIPSIS
        keras_bp      ...
    """
    rows = {**versions(), "system": platform.platform()}
    rows["devices"] = ", ".join(device.name for device in tf.config.list_physical_devices())
    rows["precision"] = f"{keras.config.floatx()}, policy {keras.config.dtype_policy().name}"
    width = max(map(len, rows)) + 2
    print("\n".join(f"{name:{width}}{value}" for name, value in rows.items()))
