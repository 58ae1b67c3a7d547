"""Which variables weight decay leaves out."""

import re

from keras_bp._paths import path_of

PRESETS = {
    # The last word of the name of Keras's biases (bias, recurrent_bias, ...) and of the weights
    # of its normalization layers.
    "bias_and_normalization": r"(^|[/_])(bias|gamma|beta|scale)$"
}


def check_patterns(patterns):
    """Return the patterns as a list of strings, or raise an error that names the argument."""
    patterns = [] if patterns is None else patterns
    patterns = list(patterns) if isinstance(patterns, list | tuple | set) else [patterns]
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            raise TypeError(
                "`exclude_from_decay` must be a preset, a regular expression or a list of them. "
                f"Received: exclude_from_decay={patterns!r}"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                "`exclude_from_decay` must hold valid regular expressions. "
                f"Received: {pattern!r} ({error})"
            ) from error
    return patterns


def exactly(variable):
    """Return the pattern that finds this variable, also in a model loaded from a file.

    The layers of a `Sequential` model are built in it, "model/dense/kernel", but when it is loaded
    before it, "dense/kernel".
    """
    words = ["", *str(path_of(variable)).split("/")]
    layer, name = words[-2:]
    models = [f"({re.escape(model)}/)?" for model in words[:-2] if model]
    return "^" + "".join(models) + re.escape(f"{layer}/{name}" if layer else name) + "$"


def decayed(variables, patterns, exact):
    """Tell for each variable whether it decays.

    Args:
        variables: list of variables.
        patterns: list of presets and regular expressions.
        exact: the patterns that stand for one variable each.

    Raises:
        ValueError: if a pattern other than a preset matches no variable, or one that stands for one
            variable matches several.
    """
    paths = [path_of(variable) for variable in variables]
    keep = [True] * len(paths)
    for pattern in patterns:
        expression = PRESETS.get(pattern, pattern)
        found = [re.search(expression, path) is not None for path in paths]
        # A model without biases may name the preset; any other pattern that finds nothing is
        # misspelled.
        if not any(found) and pattern not in PRESETS:
            raise ValueError(
                "`exclude_from_decay` must match at least one variable with each pattern. "
                f"Received: {pattern!r}, which is found in none of {paths}"
            )
        if pattern in exact and sum(found) > 1:
            raise ValueError(
                "`var_list` must hold variables with distinct paths, as a file keeps no more. "
                f"Received: one whose path {pattern!r} matches several of {paths}"
            )
        keep = [before and not excluded for before, excluded in zip(keep, found, strict=True)]
    return keep
