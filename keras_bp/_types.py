"""The types that the package's signatures share."""

import os
from collections.abc import Callable
from typing import Any

import keras

Array = Any
"""A NumPy array, a tensor, or nested lists of numbers."""
LearningRate = float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], Any]
"""A number of 0 or more, a schedule, or a function without arguments that returns the rate."""
Sink = str | os.PathLike[str] | Callable[[int, dict[str, float]], object]
"""Where a run's scalars go besides its event file: a path, a service, or a function."""
Path = str | os.PathLike[str]
"""A path of the file system."""
