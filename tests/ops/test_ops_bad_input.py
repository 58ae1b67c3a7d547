"""What an op does not take raises an error that says so; what is just inside does not."""

import re

import numpy as np
import pytest
import tensorflow as tf

from keras_bp import ops

X = np.float32(np.random.default_rng(0).normal(size=(4, 6)))
IMAGE = np.float32(np.random.default_rng(1).normal(size=(2, 3, 6)))
SEED = [1, 2]
NAMES = sorted(ops.__all__)


def call(name, **changes):
    """Call an op with arguments that are right, but for the changes."""
    crossentropy = {"target": X, "output": X, "from_logits": True}
    arguments = {
        "dense": {"x": X, "kernel": np.ones((6, 2), "float32"), "bias": np.ones(2, "float32")},
        "group_normalization": {"x": X, "groups": 2},
        "dropout": {"x": X, "rate": 0.5, "seed": SEED},
        "binary_crossentropy": crossentropy,
        "categorical_crossentropy": crossentropy,
        "sparse_categorical_crossentropy": {"target": [0, 1, 2, 3], "output": X},
    }.get(name, {"z" if name in ("relu", "sigmoid", "tanh", "softmax") else "x": X})
    return getattr(ops, name)(**(arguments | changes))


def value_of(result):
    return np.asarray(result[0] if isinstance(result, tuple) else result)


def unknown(*shape):
    """Make a placeholder of a partly unknown shape, for a function that is being traced."""
    return tf.TensorSpec(shape and (None if shape == ("rank",) else shape))


BAD = [
    # An axis outside the rank, on both sides, or no axis at all.
    *(
        (name, {"x": x, "axis": axis}, ValueError, "axis")
        for name in ("batch_normalization", "layer_normalization", "group_normalization")
        for x, axis in [(X, 2), (X, -3), (IMAGE, 3), (IMAGE, -4)]
    ),
    *(
        (name, {"axis": axis}, TypeError, "axis")
        for name in ("batch_normalization", "layer_normalization", "group_normalization")
        for axis in (1.0, True, None)
    ),
    ("batch_normalization", {"axis": [1]}, TypeError, "axis"),
    ("group_normalization", {"axis": (1,)}, TypeError, "axis"),
    ("group_normalization", {"axis": 0}, ValueError, "axis"),
    ("group_normalization", {"axis": -2}, ValueError, "axis"),
    ("layer_normalization", {"axis": []}, ValueError, "axis"),
    ("layer_normalization", {"axis": [1, 1]}, ValueError, "axis"),
    ("layer_normalization", {"axis": [1, -1]}, ValueError, "axis"),
    ("layer_normalization", {"axis": [1, 2]}, ValueError, "axis"),
    ("layer_normalization", {"axis": [1, "1"]}, TypeError, "axis"),
    *(
        ("categorical_crossentropy", {"axis": axis, "from_logits": logits}, error, "axis")
        for error, axes in ((ValueError, (2, -3)), (TypeError, (0.0, False, None)))
        for axis in axes
        for logits in (True, False)
    ),
    # Weights of another length or rank than the channels.
    *(
        (name, {weight: np.ones(shape, "float32")}, ValueError, weight)
        for name in ("batch_normalization", "layer_normalization", "group_normalization")
        for weight in ("gamma", "beta")
        for shape in [5, 7, 1, ()]
    ),
    ("batch_normalization", {"gamma": np.ones((1, 6))}, ValueError, "gamma"),
    ("group_normalization", {"beta": np.ones((6, 1))}, ValueError, "beta"),
    # An epsilon below 0, or none.
    *(
        (name, {"epsilon": epsilon}, error, "epsilon")
        for name in ("batch_normalization", "layer_normalization", "group_normalization")
        for epsilon, error in [
            (-1e-12, ValueError),
            (float("nan"), ValueError),
            ("1e-3", TypeError),
            (None, TypeError),
            (True, TypeError),
        ]
    ),
    # Masks.
    ("batch_normalization", {"mask": [True] * 3}, ValueError, "mask"),
    ("batch_normalization", {"mask": [True] * 5}, ValueError, "mask"),
    ("batch_normalization", {"mask": [[True]] * 4}, ValueError, "mask"),
    ("batch_normalization", {"mask": True}, ValueError, "mask"),
    ("batch_normalization", {"x": IMAGE, "mask": [True] * 2}, ValueError, "mask"),
    ("batch_normalization", {"x": IMAGE, "mask": [[True, True]] * 3}, ValueError, "mask"),
    # Groups that are none, or do not divide the six channels.
    *(
        ("group_normalization", {"groups": groups}, ValueError, "groups")
        for groups in (0, -1, 4, 5, 7, 12, 2.0, True, None, "2")
    ),
    # Dropout's rate and the shape of its mask.
    *(
        ("dropout", {"rate": rate}, error, "rate")
        for rate, error in [
            (-1e-12, ValueError),
            (1 + 1e-12, ValueError),
            (float("nan"), ValueError),
            ("0.5", TypeError),
            (None, TypeError),
            (True, TypeError),
        ]
    ),
    *(
        ("dropout", {"noise_shape": shape}, ValueError, "noise_shape")
        for shape in [(4,), (4, 6, 1), (6, 4), (3, 6), (4, 0), (4, -1)]
    ),
    # Dense: ranks, lengths, activations.
    ("dense", {"x": X[0]}, ValueError, "x"),
    ("dense", {"x": X[:, :5]}, ValueError, "x"),
    ("dense", {"kernel": np.ones(6, "float32")}, ValueError, "kernel"),
    ("dense", {"kernel": np.ones((6, 2, 1), "float32")}, ValueError, "kernel"),
    ("dense", {"kernel": np.ones((5, 2), "float32")}, ValueError, "kernel"),
    ("dense", {"bias": np.ones(3, "float32")}, ValueError, "bias"),
    ("dense", {"bias": np.ones((1, 2), "float32")}, ValueError, "bias"),
    ("dense", {"activation": "gelu"}, ValueError, "activation"),
    ("dense", {"activation": "Relu"}, ValueError, "activation"),
    ("dense", {"activation": tf.nn.relu}, ValueError, "activation"),
    # A rank without the axes that the op is about.
    ("batch_normalization", {"x": np.float32(1)}, ValueError, "x"),
    ("layer_normalization", {"x": np.float32(1)}, ValueError, "x"),
    ("group_normalization", {"x": np.float32(1)}, ValueError, "x"),
    ("group_normalization", {"x": X[0]}, ValueError, "axis"),
    ("categorical_crossentropy", {"target": X[0, 0], "output": X[0, 0]}, ValueError, "output"),
    # Shapes of targets.
    *(
        (name, {"target": target}, ValueError, "target")
        for name in ("binary_crossentropy", "categorical_crossentropy")
        for target in (X[:3], X[:, :5], X[:1], X[:, :1], X[0], X[..., np.newaxis])
    ),
    *(
        ("sparse_categorical_crossentropy", {"target": target}, ValueError, "target")
        for target in ([0, 1, 2], [0, 1, 2, 3, 4], [[0], [1], [2], [3]], 0)
    ),
    ("sparse_categorical_crossentropy", {"target": 0, "output": X[0, 0]}, ValueError, "output"),
    # Types.
    *(
        (name, {argument: value}, TypeError, argument)
        for name in NAMES
        for argument in (["z"] if name in ("relu", "sigmoid", "tanh", "softmax") else [])
        for value in (np.ones((4, 6), int), np.ones((4, 6), bool), np.ones((4, 6), complex))
    ),
    *(
        (name, {"x": np.ones((4, 6), dtype)}, TypeError, "x")
        for name in NAMES
        if "normalization" in name or name in ("dense", "dropout")
        for dtype in (int, bool, complex)
    ),
    ("dense", {"kernel": np.ones((6, 2))}, TypeError, "kernel"),
    ("dense", {"kernel": np.ones((6, 2), int)}, TypeError, "kernel"),
    ("dense", {"bias": np.ones(2, "float16")}, TypeError, "bias"),
    ("dense", {"x": np.float64(X)}, TypeError, "kernel"),
    *(
        (name, {argument: np.ones((4, 6), dtype)}, TypeError, blamed)
        for name in ("binary_crossentropy", "categorical_crossentropy")
        for argument, dtype, blamed in [
            ("target", int, "target"),
            ("target", "float64", "target"),
            ("output", int, "output"),
            ("output", "float16", "target"),
        ]
    ),
    ("sparse_categorical_crossentropy", {"target": np.zeros(4, "float32")}, TypeError, "target"),
    ("sparse_categorical_crossentropy", {"target": np.zeros(4, bool)}, TypeError, "target"),
    ("sparse_categorical_crossentropy", {"output": np.ones((4, 6), int)}, TypeError, "output"),
]


@pytest.mark.parametrize(
    "name, changes, error, argument",
    BAD,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_argument_is_named_with_what_came(name, changes, error, argument):
    with pytest.raises(error) as raised:
        call(name, **changes)
    message = str(raised.value)
    assert re.search(rf"`{argument}`.* Received: .*\S$", message, re.DOTALL), message


@pytest.mark.parametrize(
    "name, specs, argument",
    [
        ("batch_normalization", {"x": unknown("rank")}, "x"),
        ("layer_normalization", {"x": unknown("rank")}, "x"),
        ("group_normalization", {"x": unknown("rank")}, "x"),
        ("dense", {"x": unknown("rank")}, "x"),
        ("dense", {"kernel": unknown(None, 2)}, "kernel"),
        ("dense", {"kernel": unknown(6, None)}, "kernel"),
        ("batch_normalization", {"x": unknown(4, None)}, "axis"),
        ("group_normalization", {"x": unknown(4, None)}, "axis"),
        ("batch_normalization", {"mask": unknown("rank")}, "mask"),
        ("binary_crossentropy", {"target": unknown("rank")}, "target"),
        ("categorical_crossentropy", {"output": unknown("rank")}, "output"),
    ],
)
def test_what_must_be_known_when_a_function_is_traced(name, specs, argument):
    traced = tf.function(lambda **values: call(name, **values), autograph=False)
    with pytest.raises(ValueError) as raised:
        traced.get_concrete_function(**specs)
    message = str(raised.value)
    assert re.search(rf"`{argument}`.* Received: .*\S$", message, re.DOTALL), message


@pytest.mark.parametrize(
    "name, changes",
    [
        *((name, {}) for name in NAMES),
        *(
            (name, {"x": x, "axis": axis})
            for name in ("batch_normalization", "layer_normalization")
            for x, axis in [(X, 1), (X, -2), (X, 0), (IMAGE, 2), (IMAGE, -3), (X, np.int64(1))]
        ),
        ("group_normalization", {"x": IMAGE, "axis": 1, "groups": 3}),
        ("group_normalization", {"x": IMAGE, "axis": -2, "groups": 3}),
        ("layer_normalization", {"axis": [0, 1]}),
        *(
            (name, {"epsilon": epsilon})
            for name in ("batch_normalization", "layer_normalization", "group_normalization")
            for epsilon in (0, 0.0, 1e-12, np.float32(1e-3), 1)
        ),
        *(("group_normalization", {"groups": groups}) for groups in (1, 2, 3, 6)),
        *(("dropout", {"rate": rate}) for rate in (0, 0.0, 1e-12, 1 - 1e-12, 1, np.float32(0.5))),
        *(
            ("dropout", {"noise_shape": shape})
            for shape in [None, (4, 6), [1, 6], (4, 1), (None, 1), (None, None), (6,)]
        ),
        *(
            ("dense", {"activation": activation})
            for activation in (None, "linear", "relu", "sigmoid", "tanh", "softmax")
        ),
        *(("categorical_crossentropy", {"axis": axis}) for axis in (0, 1, -1, -2)),
        ("batch_normalization", {"x": X[0]}),
        ("layer_normalization", {"x": X[0]}),
        ("batch_normalization", {"mask": [True] * 4}),
        ("batch_normalization", {"x": IMAGE, "mask": np.ones((2, 3), bool)}),
    ],
)
def test_what_lies_inside_the_bounds_is_taken(name, changes):
    value = value_of(call(name, **changes))
    assert np.isfinite(value).all() and value.size


def test_a_softmax_of_a_number_is_an_error():
    with pytest.raises(ValueError, match="`z` must have an axis of classes"):
        ops.softmax(tf.constant(1.0))


@pytest.mark.parametrize("name", ["binary_crossentropy", "categorical_crossentropy"])
def test_shapes_that_are_known_only_as_the_step_runs(name):
    """They broadcast, to a loss that nobody asked for and gradients of a wrong shape."""
    traced = tf.function(
        lambda target, output: call(name, target=target, output=output),
        [tf.TensorSpec((None, None))] * 2,
        autograph=False,
    )
    assert np.isfinite(traced(X, X)).all()
    for target in (X[:1], X[:, :1]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            traced(target, X)
