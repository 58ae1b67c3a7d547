"""The image data that experiments read: files as Keras has them, and scikit-learn's digits."""

import zipfile
import zlib

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SHAPES = {"mnist": (28, 28), "fashion_mnist": (28, 28), "cifar10": (32, 32, 3)}


def load_images(name, data_dir=None, images=None):
    """Return train images, test images, train labels and test labels.

    Images are float32 of shape (n, height, width, channels), standardized by each channel's mean
    and deviation on the training images; labels are int64 of shape (n,), 0 to 9.

    Args:
        name: "digits", "mnist", "fashion_mnist" or "cifar10".
        data_dir: path of a folder that holds NAME.npz with `x_train`, `y_train`, `x_test` and
            `y_test`, or `None`: then Keras downloads the data.
        images: number of training images, drawn at random, or `None` for all.
    """
    if name == "digits":
        x, y = load_digits(return_X_y=True)
        x, x_test, y, y_test = train_test_split(
            x.reshape(-1, 8, 8), y, test_size=0.2, random_state=0
        )
    elif data_dir is None:
        (x, y), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    else:
        x, x_test, y, y_test = _read(name, data_dir)
    chosen = np.random.default_rng(0).permutation(len(x))[:images]
    x, y = x[chosen].astype("float32"), y[chosen].ravel().astype("int64")
    x_test, y_test = x_test.astype("float32"), y_test.ravel().astype("int64")
    if x.ndim == 3:
        x, x_test = x[..., None], x_test[..., None]
    # Sums in float32 lose digits: over all of CIFAR-10 they are wrong by half a deviation.
    mean = x.mean((0, 1, 2), dtype="float64").astype("float32")
    x, x_test = x - mean, x_test - mean
    deviation = np.sqrt(np.square(x).mean((0, 1, 2), dtype="float64")).astype("float32")
    return x / deviation, x_test / deviation, y, y_test


def _read(name, data_dir):
    path = data_dir / f"{name}.npz"
    if not path.exists():
        raise SystemExit(
            f"--data-dir must be a folder that holds {name}.npz. Received: {data_dir}, "
            + ("which lacks it" if data_dir.is_dir() else "which is no folder")
        )
    keys = ("x_train", "x_test", "y_train", "y_test")
    try:
        with open(path, "rb") as file:
            # A text, a file that is cut off, or one of a single array, as np.save writes it.
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile("not an .npz file, or only a part of one")
            file.seek(0)
            with np.load(file) as data:
                found = [key for key in keys if key in data.files]
                arrays = [data[key] for key in found]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise SystemExit(
            f"{path} must be a whole file as np.savez writes it. Received: {error}"
        ) from error
    if len(found) < len(keys):
        raise SystemExit(
            f"{path} must hold the arrays {', '.join(keys)}. Received: {', '.join(found) or 'none'}"
        )
    for x, y, part in zip(arrays[:2], arrays[2:], ("train", "test"), strict=True):
        if x.shape[1:] != SHAPES[name] or y.size != len(x) or not len(x):
            expected = ", ".join(map(str, SHAPES[name]))
            raise SystemExit(
                f"{path} must hold images x_{part} of shape (n, {expected}) and n labels "
                f"y_{part}. Received: {x.shape} and {y.shape}"
            )
        if x.dtype.kind not in "uif" or not np.isfinite(x).all():
            what = "NaN or infinity" if x.dtype.kind == "f" else x.dtype
            raise SystemExit(f"{path} must hold finite numbers in x_{part}. Received: {what}")
        if y.dtype.kind not in "ui" or y.min() < 0 or y.max() > 9:
            span = f" from {y.min()} to {y.max()}" if y.dtype.kind in "uif" else ""
            raise SystemExit(
                f"{path} must hold integers from 0 to 9 in y_{part}. Received: {y.dtype}{span}"
            )
    return arrays
