"""The normalizations in every layout that has code of its own, each beside its twin."""

import typing

import numpy as np
import ops_twins as twins
import pytest

from keras_bp import ops


class Layout(typing.NamedTuple):
    """An op and its twin, functions of (x, gamma=None, beta=None), and a small x's shape."""

    op: typing.Callable
    twin: typing.Callable
    shape: tuple
    options: dict


def _layout(name, shape, **options):
    def op(x, gamma=None, beta=None):
        result = getattr(ops, name)(x, gamma=gamma, beta=beta, **options)
        return result.outputs if name == "batch_normalization" else result

    def twin(x, gamma=None, beta=None):
        return getattr(twins, name)(x, gamma=gamma, beta=beta, **options)

    return Layout(op, twin, shape, options)


LAYOUTS = {
    "batch": _layout("batch_normalization", (6, 4)),
    "batch, axis 1": _layout("batch_normalization", (4, 3, 2), axis=1),
    "layer": _layout("layer_normalization", (4, 6)),
    "layer, axis 1": _layout("layer_normalization", (3, 6, 2), axis=1),
    "layer, axes 0, 2": _layout("layer_normalization", (3, 4, 2), axis=(0, 2)),
    "group": _layout("group_normalization", (4, 6), groups=2),
    "group, rank 3": _layout("group_normalization", (2, 5, 4), groups=2),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)
