"""Checks of what describes a network: its sizes, its activations and its dropout masks."""

import numpy as np

from keras_bp.reference._checks import check_integer
from keras_bp.reference.activations import ELEMENTWISE

# The activations whose cross-entropy has the closed form dZ[L] = A[L] - Y.
OUTPUTS = ("sigmoid", "softmax")


def check_sizes(layer_sizes):
    """Return the layer sizes as a tuple of at least two ints >= 1."""
    if not isinstance(layer_sizes, (list, tuple)) or len(layer_sizes) < 2:
        raise ValueError(
            "`layer_sizes` must be a list of at least two sizes, n[0] to n[L]. "
            f"Received: layer_sizes={layer_sizes!r}"
        )
    return tuple(
        check_integer(f"layer_sizes[{layer}]", size, 1) for layer, size in enumerate(layer_sizes)
    )


def check_activations(activations, sizes):
    """Return one activation name a layer; for `None`, ReLU and then what fits the output's size."""
    if activations is None:
        output = "sigmoid" if sizes[-1] == 1 else "softmax"
        return ("relu",) * (len(sizes) - 2) + (output,)
    if not isinstance(activations, (list, tuple)) or len(activations) != len(sizes) - 1:
        raise ValueError(
            f"`activations` must be a list of {len(sizes) - 1} names, one a layer. "
            f"Received: activations={activations!r}"
        )
    for index, name in enumerate(activations):
        allowed = OUTPUTS if index == len(activations) - 1 else tuple(sorted(ELEMENTWISE))
        if name not in allowed:
            raise ValueError(
                f"`activations[{index}]` must be one of {allowed}, as this layer is "
                f"{'the output' if allowed is OUTPUTS else 'hidden'}. Received: {name!r}"
            )
    if activations[-1] == "softmax" and sizes[-1] < 2:
        raise ValueError(
            "`activations` may end in softmax only where there are at least two output units; "
            f"one unit takes sigmoid. Received: layer_sizes={list(sizes)}"
        )
    return tuple(activations)


def check_masks(masks, sizes, m):
    """Return the masks, `{}` for `None`, once there is one of shape (n[l], m) a hidden layer."""
    masks = {} if masks is None else masks
    shapes = {layer: np.shape(mask) for layer, mask in masks.items()}
    expected = {layer: (size, m) for layer, size in enumerate(sizes[1:-1], start=1)}
    if shapes and shapes != expected:
        raise ValueError(
            f"`masks` must have the shapes {expected}, as `draw_masks({m})` gives them. "
            f"Received: shapes {shapes}"
        )
    return masks
