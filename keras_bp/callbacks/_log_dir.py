"""The argument `log_dir`."""

import os


def check_log_dir(log_dir):
    """Raise unless `log_dir` is a path that is not empty."""
    if not isinstance(log_dir, str | os.PathLike):
        raise TypeError(
            "Argument `log_dir` must be a string or a path. "
            f"Received: log_dir={log_dir!r} (of type {type(log_dir).__name__})"
        )
    if not os.fspath(log_dir):
        raise ValueError(f"Argument `log_dir` must name a directory. Received: log_dir={log_dir!r}")
