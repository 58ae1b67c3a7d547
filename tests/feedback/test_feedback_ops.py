"""The ops of feedback alignment: their surrogate gradients, and the true ones behind a switch."""

import contextlib
import re
import threading

import numpy as np
import ops_calculus as calculus
import pytest
import tensorflow as tf

from keras_bp import feedback as room
from keras_bp.feedback import exact_gradients

_rng = np.random.default_rng(5)
# As in the tests of the other ops' derivatives: some hundred roundings of numbers of order 1.
FLOAT64 = 1e-13


def normal(*shape):
    return _rng.normal(size=shape)


def gradients(function, arguments, upstream, exact=False):
    """Differentiate in the arguments, from a given gradient of the value."""
    arguments = [tf.convert_to_tensor(argument) for argument in arguments]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = function(*arguments)
    if exact:
        with exact_gradients():
            return value, tape.gradient(value, arguments, output_gradients=upstream)
    return value, tape.gradient(value, arguments, output_gradients=upstream)


def in_every_way(function, arguments, upstream, signature, exact=False):
    """Yield what `gradients` gives eagerly, in a graph of unknown shapes and compiled by XLA."""

    def run(upstream, *arguments):
        value, found = gradients(function, arguments, upstream, exact)
        # What has no gradient cannot leave a compiled function.
        return value, [g for g in found if g is not None]

    yield run(upstream, *arguments)
    specs = [tf.TensorSpec(shape, tf.float64) for shape in (None, *signature)]
    yield tf.function(run, input_signature=specs, autograph=False)(upstream, *arguments)
    yield tf.function(run, jit_compile=True, autograph=False)(upstream, *arguments)


@pytest.mark.parametrize("leading, bias", [((4,), False), ((2, 3), True), ((2, 1, 3), True)])
def test_dense(leading, bias):
    x, kernel, feedback, b = normal(*leading, 5), normal(5, 3), normal(5, 3), normal(3)
    arguments, dz = [x, kernel, feedback, *[b] * bias], normal(*leading, 3)
    value = x @ kernel + b * bias
    dkernel = np.reshape(x, (-1, 5)).T @ np.reshape(dz, (-1, 3))
    rest = [dkernel, *[np.reshape(dz, (-1, 3)).sum(axis=0)] * bias]
    signature = [[None] * x.ndim, *(a.shape for a in arguments[1:])]
    for back, exact in ((feedback, False), (kernel, True)):
        expected = value, [dz @ back.T, *rest]
        for actual in in_every_way(room.feedback_dense, arguments, dz, signature, exact):
            calculus.assert_near(actual, expected, FLOAT64)


def convolve(x, kernel, strides, padding, dilations):
    """The convolution as a sum over the kernel's offsets, and its linear map, in NumPy."""
    size = [(n - 1) * d + 1 for n, d in zip(kernel.shape, dilations, strict=False)]
    out = [-(-n // s) for n, s in zip(x.shape[1:3], strides, strict=True)]
    if padding == "valid":
        out = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], size, strides, strict=True)]
        pads = [(0, 0), (0, 0)]
    else:
        missing = [
            max((o - 1) * s + k - n, 0)
            for o, s, k, n in zip(out, strides, size, x.shape[1:3], strict=True)
        ]
        pads = [(m // 2, m - m // 2) for m in missing]
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    patches = np.empty((len(x), *out, *kernel.shape[:3]))
    for q in np.ndindex(*kernel.shape[:2]):
        rows, columns = (
            slice(i * d, i * d + (o - 1) * s + 1, s)
            for i, d, o, s in zip(q, dilations, out, strides, strict=True)
        )
        patches[:, :, :, q[0], q[1]] = padded[:, rows, columns]
    return np.tensordot(patches, kernel, 3), patches


CONVOLUTIONS = [
    ((1, 1), "valid", (1, 1)),
    ((1, 1), "same", (1, 1)),
    ((2, 1), "same", (1, 1)),
    ((2, 3), "valid", (1, 1)),
]


@pytest.mark.parametrize("strides, padding, dilations", CONVOLUTIONS)
def test_convolution(strides, padding, dilations):
    x, kernel, feedback = normal(2, 5, 6, 2), normal(3, 2, 2, 3), normal(3, 2, 2, 3)
    value, patches = convolve(x, kernel, strides, padding, dilations)
    dz = normal(*value.shape)
    dkernel = np.tensordot(patches, dz, ((0, 1, 2), (0, 1, 2)))

    def op(x, kernel, feedback):
        return room.feedback_conv2d(x, kernel, feedback, strides, padding, dilations)

    signature = [[None, None, None, 2], kernel.shape, kernel.shape]
    for back, exact in ((feedback, False), (kernel, True)):
        # The convolution is linear in x: its transpose is the gradient of <dz, conv(x, back)>,
        # read off at each unit vector.
        units = np.eye(x[0].size).reshape(-1, *x.shape[1:])
        images = convolve(units, back, strides, padding, dilations)[0]
        dx = np.tensordot(dz, images, ((1, 2, 3), (1, 2, 3))).reshape(x.shape)
        for actual in in_every_way(op, [x, kernel, feedback], dz, signature, exact):
            calculus.assert_near(actual, (value, [dx, dkernel]), FLOAT64)


def test_dilated_convolution():
    """In float32, all that TensorFlow has on a CPU, without XLA."""
    x, kernel, feedback = (
        np.float32(normal(*s)) for s in ((2, 5, 6, 2), (3, 2, 2, 3), (3, 2, 2, 3))
    )
    dz = np.float32(normal(2, 3, 4, 3))

    def op(x, kernel, feedback):
        return room.feedback_conv2d(x, kernel, feedback, dilations=(1, 2))

    _, (dx, dkernel, none) = gradients(op, [x, kernel, feedback], dz)
    value, patches = convolve(x, kernel, (1, 1), "valid", (1, 2))
    units = np.eye(x[0].size).reshape(-1, *x.shape[1:])
    images = convolve(units, feedback, (1, 1), "valid", (1, 2))[0]
    # Roundings of 6e-8 of sums of some tens of terms of order 1.
    np.testing.assert_allclose(
        dx, np.tensordot(dz, images, ((1, 2, 3), (1, 2, 3))).reshape(x.shape), atol=1e-5
    )
    np.testing.assert_allclose(
        dkernel, np.tensordot(patches, dz, ((0, 1, 2), (0, 1, 2))), atol=2e-5
    )
    assert none is None


def test_broadcast_error():
    z, h, image, b1, b2 = (
        normal(4, 3),
        normal(4, 5),
        normal(4, 2, 3, 2),
        normal(3, 5),
        normal(3, 12),
    )
    e = normal(4, 3)

    def op(z, h, image, b1, b2):
        return room.broadcast_error(z, [h, image], [b1, b2])

    arguments = [z, h, image, b1, b2]
    signature = [[None, 3], [None, 5], [None, 2, 3, 2], b1.shape, b2.shape]
    expected = z, [e, e @ b1, (e @ b2).reshape(image.shape)]
    for actual in in_every_way(op, arguments, e, signature):
        calculus.assert_near(actual, expected, FLOAT64)
    for actual in in_every_way(op, arguments, e, signature, exact=True):
        calculus.assert_near(actual, (z, [e]), FLOAT64)


def test_detach():
    x, dy = normal(4, 3), normal(4, 3)
    for value, found in in_every_way(room.detach, [x], dy, [[None, 3]]):
        calculus.assert_near((value, found), (x, []), 0)
    for value, found in in_every_way(room.detach, [x], dy, [[None, 3]], exact=True):
        calculus.assert_near((value, found), (x, [dy]), 0)


def test_no_gradient_for_what_is_fixed():
    x, kernel = normal(4, 5), normal(5, 3)
    for exact in (False, True):
        assert (
            gradients(room.feedback_dense, [x, kernel, kernel], normal(4, 3), exact)[1][2] is None
        )


@pytest.mark.parametrize(
    "op, shapes",
    [
        (room.feedback_dense, [(2, 2, 3), (3, 2)]),
        (lambda *a: room.feedback_conv2d(*a, padding="same"), [(2, 3, 3, 2), (2, 2, 2, 2)]),
    ],
    ids=["dense", "conv2d"],
)
def test_central_differences(op, shapes):
    """With the kernel for feedback, and behind the switch, the gradient is the value's."""
    arguments = [normal(*shape) for shape in shapes]
    other = normal(*shapes[1])
    numeric = calculus.numerical_gradients(lambda x, k: op(x, k, k), arguments)

    def analytic(function):
        return calculus.first_derivatives(function)(*calculus.tensors(arguments))[1]

    # The project's bound on the figure; the step of 1e-5 leaves about 1e-10.
    fixed = calculus.tensors(arguments)[1]
    assert calculus.relative_difference(analytic(lambda x, k: op(x, k, fixed)), numeric) < 1e-8
    with exact_gradients():
        found = analytic(lambda x, k: op(x, k, tf.constant(other)))
    assert calculus.relative_difference(found, numeric) < 1e-8
    found = analytic(lambda x, k: op(x, k, tf.constant(other)))
    assert calculus.relative_difference(found, numeric) > 0.1


def test_the_switch_is_where_the_gradient_is_taken():
    x = tf.constant(normal(2, 3))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        with exact_gradients():
            y = room.detach(x)
    assert tape.gradient(y, x) is None
    with exact_gradients():
        with exact_gradients():
            pass
        assert tape.gradient(y, x) is not None
        seen = []
        thread = threading.Thread(target=lambda: seen.append(tape.gradient(y, x)))
        thread.start()
        thread.join()
        assert seen[0] is not None  # as a strategy's replicas, it has begun inside
    with pytest.raises(KeyError):
        with exact_gradients():
            raise KeyError
    assert tape.gradient(y, x) is None


@pytest.mark.parametrize("outside", [True, False])
def test_the_switch_holds_in_replicas(outside, replicas):
    def step():
        x = tf.ones((2, 3))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = room.detach(x)
        with contextlib.nullcontext() if outside else exact_gradients():
            return tape.gradient(y, x, unconnected_gradients="zero")

    def run():
        return replicas.experimental_local_results(replicas.run(tf.function(step)))

    with exact_gradients() if outside else contextlib.nullcontext():
        assert all(np.all(gradient == 1.0) for gradient in run())
    if outside:
        assert all(np.all(gradient == 0.0) for gradient in run())


X = np.float32(np.random.default_rng(0).normal(size=(4, 6)))
IMAGES = np.float32(np.random.default_rng(2).normal(size=(4, 3, 3, 2)))
KERNEL, WIDE = np.ones((2, 2, 2, 5), "float32"), np.ones((6, 18), "float32")
RIGHT = {
    "broadcast_error": {"outputs": X, "hidden": [IMAGES], "feedback": [WIDE]},
    "detach": {"x": X},
    "feedback_conv2d": {"x": IMAGES, "kernel": KERNEL, "feedback": KERNEL},
    "feedback_dense": {"x": X, "kernel": WIDE[:, :2], "feedback": WIDE[:, :2]},
}


def call(name, **changes):
    """Call an op with arguments that are right, except for the changes."""
    return getattr(room, name)(**(RIGHT[name] | changes))


@pytest.mark.parametrize(
    "name, argument, value, error",
    [
        *(
            (name, argument, value, ValueError)
            for name, argument, values in [
                ("feedback_dense", "feedback", [WIDE[:, :3], WIDE[:, :2].T]),
                ("feedback_dense", "x", [X[:, :5]]),
                ("feedback_dense", "bias", [np.ones(3, "float32")]),
                ("feedback_conv2d", "feedback", [KERNEL[:1]]),
                ("feedback_conv2d", "x", [IMAGES[0], IMAGES[..., :1]]),
                ("feedback_conv2d", "kernel", [KERNEL[0]]),
                ("feedback_conv2d", "data_format", ["NHWC"]),
                ("feedback_conv2d", "padding", ["causal"]),
                ("feedback_conv2d", "strides", [0, -1, 1.0, True, None, (1,), (1, 1, 1), (1, 0)]),
                ("feedback_conv2d", "dilations", [0, (1, 0)]),
                ("broadcast_error", "outputs", [X[..., np.newaxis]]),
                ("broadcast_error", "feedback", [[], [WIDE, WIDE], [WIDE.T], [WIDE[:, :17]]]),
                ("broadcast_error", "hidden", [[np.float32(1)]]),
            ]
            for value in values
        ),
        ("feedback_dense", "feedback", np.ones((6, 2), int), TypeError),
        ("feedback_dense", "kernel", np.float64(WIDE[:, :2]), TypeError),
        ("feedback_conv2d", "feedback", np.float64(KERNEL), TypeError),
        ("broadcast_error", "hidden", [np.float64(IMAGES)], TypeError),
        ("detach", "x", np.ones((4, 6), int), TypeError),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_argument_is_named_with_what_came(name, argument, value, error):
    with pytest.raises(error) as raised:
        call(name, **{argument: value})
    message = str(raised.value)
    assert re.search(rf"`{argument}`.* Received: .*\S$", message, re.DOTALL), message


@pytest.mark.parametrize(
    "name, argument, shape",
    [
        ("feedback_dense", "x", None),
        ("feedback_conv2d", "x", None),
        ("feedback_conv2d", "x", (4, 3, 3, None)),
        ("broadcast_error", "outputs", (4, None)),
    ],
)
def test_what_must_be_known_when_a_function_is_traced(name, argument, shape):
    traced = tf.function(lambda value: call(name, **{argument: value}), autograph=False)
    with pytest.raises(ValueError, match=rf"`{argument}`.* Received: .*\S$"):
        traced.get_concrete_function(tf.TensorSpec(shape))


@pytest.mark.parametrize(
    "name, options",
    [
        *((name, {}) for name in RIGHT),
        ("feedback_conv2d", {"strides": (1, 2), "padding": "same"}),
        ("feedback_conv2d", {"dilations": [2, 2], "data_format": "channels_last"}),
        ("broadcast_error", {"hidden": [X, IMAGES], "feedback": [WIDE[:, :6], WIDE]}),
    ],
)
def test_what_lies_inside_the_bounds_is_taken(name, options):
    value = call(name, **options)
    assert np.isfinite(value).all() and tf.size(value)
