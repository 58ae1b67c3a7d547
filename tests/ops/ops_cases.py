"""Every op with every option, beside its twin and on small random arguments."""

import functools
import typing

import numpy as np
import ops_calculus as calculus
import ops_twins as twins
import tensorflow as tf

from keras_bp import ops


class Case(typing.NamedTuple):
    """An op with its options bound, its twin likewise, and the arguments to differentiate."""

    name: str
    op: typing.Callable
    twin: typing.Callable
    arguments: tuple
    # As little of the arguments' shapes as the op must know when it is traced.
    signature: tuple
    # Whether it stands for a branch of the code of its own, which is traced and compiled too.
    branch: bool


_rng = np.random.default_rng(11)


def normal(*shape):
    return _rng.normal(size=shape)


def alternating(*shape):
    """Numbers that change sign from one neighbour to the next along every axis.

    Whatever is averaged over, the variance is of order 1: the normalizations divide by its root,
    and next to 0 that would blow rounding up, in the op and in its twin alike.
    """
    return (-1.0) ** np.indices(shape).sum(axis=0) * _rng.uniform(0.5, 2.0, size=shape)


def uniform(*shape):
    """Probabilities, away from 0 and 1."""
    return _rng.uniform(0.25, 0.75, size=shape)


def _case(name, label, arguments, branch=False, **options):
    signature = []
    for argument, value in arguments.items():
        known = [None] * np.ndim(value)
        if argument == "kernel":
            known = value.shape
        elif argument == "x" and name in ("batch_normalization", "group_normalization"):
            axis = options.get("axis", -1)
            known[axis] = value.shape[axis]
        signature.append(tf.TensorSpec(known, "float64"))

    def op(*values):
        result = getattr(ops, name)(**dict(zip(arguments, values, strict=True)), **options)
        return result.outputs if name == "batch_normalization" else result

    def twin(*values):
        plain = {key: value for key, value in options.items() if key != "synchronized"}
        return getattr(twins, name)(**dict(zip(arguments, values, strict=True)), **plain)

    # Numbers that float32 holds exactly, so that its results compare with those of float64.
    values = tuple(np.float64(np.float32(value)) for value in arguments.values())
    return Case(f"{name} {label}", op, twin, values, tuple(signature), branch)


def _activations():
    for name in ("relu", "sigmoid", "tanh", "softmax"):
        for shape in [(5,), (2, 3), (2, 2, 3)]:
            branch = len(shape) == 2
            yield _case(name, f"rank {len(shape)}", {"z": normal(*shape)}, branch)


def _dense():
    def case(activation, shape, bias=True, branch=False):
        arguments = {"x": normal(*shape), "kernel": normal(3, 2)}
        arguments |= {"bias": normal(2)} if bias else {}
        label = f"{activation}, rank {len(shape)}{', bias' if bias else ''}"
        return _case("dense", label, arguments, branch, activation=activation)

    branches = {("relu", 2), ("sigmoid", 3), (None, 4)}
    for activation in (None, "relu", "sigmoid", "tanh", "softmax"):
        for shape, bias in [((4, 3), True), ((2, 2, 3), False), ((2, 1, 2, 3), True)]:
            yield case(activation, shape, bias, (activation, len(shape)) in branches)
    yield case("linear", (4, 3))
    yield case("relu", (4, 3), bias=False)


def _weighted(shape, features, weights):
    """Arguments x and, where named in `weights`, gamma and beta of the shape `features`."""
    arguments = {"x": alternating(*shape)}
    if "g" in weights:
        arguments["gamma"] = 1 + 0.3 * normal(*features)
    if "b" in weights:
        arguments["beta"] = normal(*features)
    return arguments


def _batch_normalization():
    def case(label, shape, weights="gb", branch=False, **options):
        channels = shape[options.get("axis", -1)]
        arguments = _weighted(shape, [channels], weights)
        return _case("batch_normalization", label, arguments, branch, **options)

    def mask(*shape):
        mask = _rng.random(shape) < 0.6
        mask.flat[:2] = True, False
        return mask

    shapes = [(5, 3), (3, 2, 3), (2, 2, 2, 3), (2, 2, 1, 2, 3)]
    for shape in shapes:
        yield case(f"rank {len(shape)}", shape, branch=len(shape) == 3)
    yield case("rank 1", (3,))
    yield case("axis 0", (3, 4), axis=0)
    yield case("axis 1", (3, 2, 2, 2), axis=1, branch=True)
    yield case("axis -2", (2, 2, 3, 2), axis=-2)
    for weights in ("g", "b", ""):
        yield case(f"weights {weights!r}", (4, 2), weights)
        yield case(f"weights {weights!r}, axis 1", (3, 2, 2), weights, axis=1)
    yield case("epsilon 0", (4, 3), epsilon=0.0)
    yield case("epsilon 0, axis 1", (3, 2, 2), epsilon=0.0, axis=1)
    yield case("synchronized", (4, 3), synchronized=True)
    for shape in [(6, 3), *shapes[1:]]:
        branch = len(shape) == 3
        yield case(f"mask, rank {len(shape)}", shape, branch=branch, mask=mask(*shape[:-1]))
    yield case("mask, axis 1", (3, 2, 3), axis=1, mask=mask(3, 2), branch=True)
    yield case("mask, axis 0", (2, 3, 3), axis=0, mask=mask(2, 3) | [True, True, False])


def _layer_normalization():
    def case(label, shape, weights="gb", branch=False, **options):
        axis = options.get("axis", -1)
        axes = sorted(a % len(shape) for a in (axis if isinstance(axis, (list, tuple)) else [axis]))
        arguments = _weighted(shape, [shape[a] for a in axes], weights)
        return _case("layer_normalization", label, arguments, branch, **options)

    for shape in [(5,), (3, 4), (2, 2, 4), (2, 2, 1, 4)]:
        yield case(f"rank {len(shape)}", shape, branch=len(shape) == 3)
    for axis in [0, 1, -2, (1, 2), [-1, -2], (0, 1, 2), (0, 2), [2, -3]]:
        yield case(f"axis {axis}", (2, 3, 4), axis=axis, branch=axis == (0, 2))
    yield case("axis (-1, 1), rank 4", (2, 3, 2, 2), axis=(-1, 1))
    for weights in ("g", "b", ""):
        yield case(f"weights {weights!r}", (3, 4), weights, branch=not weights)
        yield case(f"weights {weights!r}, axis 1", (2, 4, 2), weights, axis=1)
    yield case("epsilon 0", (3, 4), epsilon=0.0)
    yield case("epsilon 0, axis (0, 2)", (2, 2, 2), epsilon=0.0, axis=(0, 2))


def _group_normalization():
    def case(shape, groups, weights="gb", branch=False, **options):
        channels = shape[options.get("axis", -1)]
        arguments = _weighted(shape, [channels], weights)
        label = f"{groups} groups of {channels}, rank {len(shape)}, weights {weights!r} {options}"
        return _case("group_normalization", label, arguments, branch, groups=groups, **options)

    for groups in (1, 2, 8):
        yield case((3, 8), groups, branch=groups == 2)
        yield case((2, 2, 8), groups)
    yield case((2, 3, 2, 4), 2)
    yield case((2, 2, 2, 2, 4), 2)
    yield case((2, 4, 3), 2, axis=1)
    yield case((2, 2, 4, 3), 2, axis=2, branch=True)
    yield case((2, 4, 3, 2), 4, axis=-3)
    for weights in ("g", "b", ""):
        yield case((3, 8), 2, weights)
        yield case((2, 3, 4), 2, weights)
    yield case((3, 8), 2, epsilon=0.0)
    yield case((2, 3, 4), 2, epsilon=0.0)


def _dropout():
    for rate in (0, 0.3, 1):
        arguments = {"x": normal(3, 4)}
        yield _case("dropout", f"rate {rate}", arguments, rate == 0.3, rate=rate, seed=[3, 4])
    for shape in [(None, 1, None), (2, 3, 1), (1, 3, 1)]:
        options = {"rate": 0.4, "seed": [5, 6], "noise_shape": shape}
        branch = shape[0] is None
        yield _case("dropout", f"noise {shape}", {"x": normal(2, 3, 4)}, branch, **options)


def _binary_crossentropy():
    for shape in [(5,), (4, 3), (2, 2, 3)]:
        for from_logits in (True, False):
            output = normal(*shape) if from_logits else uniform(*shape)
            arguments = {"target": uniform(*shape), "output": output}
            label, branch = f"logits {from_logits}, rank {len(shape)}", len(shape) == 2
            yield _case("binary_crossentropy", label, arguments, branch, from_logits=from_logits)
    hard = np.array([0.0, 1.0, 1.0, 0.0])
    for from_logits, output in [(True, normal(4)), (False, uniform(4))]:
        arguments, label = {"target": hard, "output": output}, f"logits {from_logits}, hard"
        yield _case("binary_crossentropy", label, arguments, from_logits=from_logits)


def _categorical_crossentropy():
    def case(label, target, branch=False, **options):
        output = normal(*target.shape) if options["from_logits"] else uniform(*target.shape)
        arguments = {"target": target, "output": output}
        return _case(
            "categorical_crossentropy", f"{label}, {options}", arguments, branch, **options
        )

    targets = {
        "one-hot": np.eye(3)[[0, 2, 1, 1]],
        "soft": np.array([[0.25, 0.5, 0.25], [0.125, 0.125, 0.75], [1.0, 0.0, 0.0]]),
        "any sum": uniform(4, 3),
        "some rows 0": uniform(4, 3) * [[1.0], [0.0], [1.0], [0.0]],
        "sum 0": np.array([[0.5, -0.25, -0.25], [0.0, 1.0, -1.0]]),
    }
    for label, target in targets.items():
        branch = label in ("one-hot", "some rows 0")
        yield case(label, target, from_logits=True, branch=branch)
        yield case(label, target, from_logits=False)
    # Many classes, where the op may choose another way than for few.
    yield case("many, one-hot", np.eye(2, 50), from_logits=True, branch=True)
    yield case("many, any sum", uniform(1, 50), from_logits=True, branch=True)
    yield case("many, sum 0", np.eye(1, 50) - np.eye(1, 50, 7), from_logits=True)
    for shape, axis in [((3,), 0), ((2, 3, 2), 1), ((2, 3, 2), -3), ((2, 2, 3), -1)]:
        for from_logits in (True, False):
            target = uniform(*shape)
            options = {"from_logits": from_logits, "axis": axis}
            yield case(f"rank {len(shape)}", target, branch=axis == 1, **options)


def _sparse_categorical_crossentropy():
    for shape in [(), (4,), (2, 2)]:
        for from_logits in (True, False):
            output = normal(*shape, 3) if from_logits else uniform(*shape, 3)
            options = {"target": _rng.integers(3, size=shape), "from_logits": from_logits}
            label = f"logits {from_logits}, targets of rank {len(shape)}"
            arguments, branch = {"output": output}, len(shape) == 1
            yield _case("sparse_categorical_crossentropy", label, arguments, branch, **options)


CASES = [
    *_activations(),
    *_dense(),
    *_batch_normalization(),
    *_layer_normalization(),
    *_group_normalization(),
    *_dropout(),
    *_binary_crossentropy(),
    *_categorical_crossentropy(),
    *_sparse_categorical_crossentropy(),
]
BRANCHES = [case for case in CASES if case.branch]


@functools.cache
def truth(case_name):
    """The twin's value, gradients and Hessian times a direction, by autodiff in float64."""
    case = next(case for case in CASES if case.name == case_name)
    return calculus.second_derivatives(case.twin)(*calculus.tensors(case.arguments))
