"""What the examples share: command line, data sets, runs read back, pictures."""

import argparse
import pathlib

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


class CommandLine(argparse.ArgumentParser):
    """Parser of `--epochs`, `--log-dir` and what an example adds, all numbers at least 1.

    The options' `folder`, for what the example leaves, is named after it, and made.
    """

    def __init__(self, script, doc, epochs, of="passes over the training images"):
        super().__init__(description=doc.splitlines()[0])
        self.name = pathlib.Path(script).stem
        self.add_argument("--epochs", type=type(epochs or 1), default=epochs, help=of)
        self.add_argument(
            "--log-dir",
            type=pathlib.Path,
            default="tb_logs",
            help=f"where the folder `{self.name}` goes",
        )

    def parse_args(self, arguments=None):
        """Return the options, or end with an error that names the one at fault."""
        options = super().parse_args(arguments)
        for name, value in vars(options).items():
            if type(value) in (int, float) and value < 1:
                self.error(f"--{name.replace('_', '-')} must be at least 1. Received: {value:g}")
        options.folder = options.log_dir / self.name
        options.folder.mkdir(parents=True, exist_ok=True)
        return options


def digits(seed=0, train_size=0.8):
    """Return (train images, test images, train labels, test labels): 64 pixels in [0, 1]."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    return train_test_split(x, y, train_size=train_size, stratify=y, random_state=seed)


def patients(seed, dtype="float64"):
    """Return (train inputs, test inputs, train labels, test labels) of the breast cancer data."""
    x, y = load_breast_cancer(return_X_y=True)
    split = train_test_split(x, y[:, None], test_size=0.2, stratify=y, random_state=seed)
    x, x_test, y, y_test = (array.astype(dtype) for array in split)
    return *standardize(x, x_test), y, y_test


def standardize(x, x_test):
    """Return both arrays with each column of the first at mean 0 and deviation 1."""
    scaler = StandardScaler().fit(x)
    return scaler.transform(x), scaler.transform(x_test)


def read_scalars(run):
    """Return {tag: values of all update steps} of a TensorBoard run."""
    events = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload()
    return {
        tag: np.array([event.tensor_proto.float_val[0] for event in events.Tensors(tag)])
        for tag in events.PluginTagToContent("scalars")
    }


def smooth(values, window=20):
    """Return the median of the last `window` values at each step, of fewer at the beginning."""
    return [np.median(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


def tidy(*axes):
    """Take off the frame's top and right, and put a faint grid."""
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.2)
