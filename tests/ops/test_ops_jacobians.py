"""Jacobians, by vectorized tapes and by forward mode, agree with the twin's gradients.

A whole Jacobian contracted with the objective's gradient is the objective's gradient in the
arguments, so the twin's, which the other tests have at hand, checks every entry.
"""

import numpy as np
import ops_calculus as calculus
import pytest
import tensorflow as tf
from ops_cases import BRANCHES, CASES, truth

FIRST = list({case.name.split()[0]: case for case in reversed(BRANCHES)}.values())
each_op = pytest.mark.parametrize("case", FIRST, ids=lambda case: case.name)

# As in the tests of the derivatives themselves.
FIRST_ORDER, SECOND_ORDER = 1e-13, 1e-12

# TensorFlow's forward mode does not know of tf.custom_gradient: it goes through the operations
# inside, with what TensorFlow takes for their derivative. Of its softmax cross-entropy that is not
# the derivative for targets of any sum, nor for a second one.
FORWARD = [case for case in FIRST if not case.name.startswith(("categorical", "sigmoid", "tanh"))]
forward = pytest.mark.parametrize("case", FORWARD, ids=lambda case: case.name)
ANY_SUM = next(case for case in BRANCHES if "many, any sum" in case.name)


def contract(upstream, jacobian):
    """Sum over the axes of `upstream`, which are the leading ones of `jacobian`."""
    return np.tensordot(upstream, jacobian, axes=np.ndim(upstream))


def direction(arguments):
    """The direction along which `calculus.directional` adds gradients up."""
    indices = [np.reshape(np.arange(a.shape.num_elements()), a.shape) for a in arguments]
    return [tf.constant(np.cos(2.0 + i)) for i in indices]


def slope(case, tangents):
    """The objective's slope along the tangents, by the twin's gradients."""
    return sum(np.vdot(g, t) for g, t in zip(truth(case.name)[1], tangents, strict=True))


@each_op
def test_jacobian(case):
    arguments = calculus.tensors(case.arguments)
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = case.op(*arguments)
    jacobians = tape.jacobian(y, arguments)
    upstream = calculus.first_derivatives(tf.identity)(y)[1][0]
    gradients = [contract(upstream, jacobian) for jacobian in jacobians]
    calculus.assert_near(gradients, truth(case.name)[1], FIRST_ORDER)


@each_op
def test_hessian_as_the_jacobian_of_the_gradients(case):
    arguments = calculus.tensors(case.arguments)
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        _, gradients = calculus.first_derivatives(case.op)(*arguments)
        gradients = tf.concat([tf.reshape(g, [-1]) for g in gradients], 0)
    hessian = tape.jacobian(gradients, arguments, unconnected_gradients="zero")
    along = tf.concat([tf.reshape(d, [-1]) for d in direction(arguments)], 0)
    calculus.assert_near(
        [contract(along, block) for block in hessian], truth(case.name)[2], SECOND_ORDER
    )


@pytest.mark.parametrize(
    "name",
    [
        "dense sigmoid, rank 3",
        "softmax rank 2",
        "layer_normalization rank 3",
        "group_normalization 2 groups of 8, rank 2, weights 'gb' {}",
        "dropout noise (None, 1, None)",
        "binary_crossentropy logits True, rank 2",
        "sparse_categorical_crossentropy logits True, targets of rank 1",
    ],
)
def test_batch_jacobian(name):
    """Each example of these ops depends on its own input alone."""
    case = next(case for case in CASES if case.name == name)
    arguments = calculus.tensors(case.arguments)
    which = 1 if name.startswith("binary") else 0
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = case.op(*arguments)
    if y.shape.rank == 1:
        with tape:
            y = y[:, tf.newaxis]
    jacobian = tape.batch_jacobian(y, arguments[which])
    upstream = calculus.first_derivatives(tf.identity)(y)[1][0]
    gradient = [contract(u, j) for u, j in zip(upstream, jacobian, strict=True)]
    calculus.assert_near(np.stack(gradient), truth(name)[1][which], FIRST_ORDER)


# Of the backward rules these have the most operations.
@pytest.mark.parametrize(
    "case",
    [c for c in FORWARD if c.name.startswith(("softmax", "batch", "binary"))],
    ids=lambda case: case.name,
)
def test_forward_mode_over_a_tape(case):
    arguments = calculus.tensors(case.arguments)
    tangents = direction(arguments)
    with tf.autodiff.ForwardAccumulator(arguments, tangents) as accumulator:
        y, gradients = calculus.first_derivatives(case.op)(*arguments)
        cost = calculus.objective(y)
    # The slope adds up dozens of products.
    calculus.assert_near(accumulator.jvp(cost), slope(case, tangents), SECOND_ORDER)
    jvps = accumulator.jvp(list(gradients), unconnected_gradients="zero")
    calculus.assert_near(jvps, truth(case.name)[2], SECOND_ORDER)


@forward
def test_forward_mode_through_a_function(case):
    arguments = calculus.tensors(case.arguments)
    tangents = direction(arguments)
    function = tf.function(case.op, autograph=False)
    with tf.autodiff.ForwardAccumulator(arguments, tangents) as accumulator:
        cost = calculus.objective(function(*arguments))
    calculus.assert_near(accumulator.jvp(cost), slope(case, tangents), SECOND_ORDER)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="see FORWARD")
def test_forward_mode_sees_the_gradient_for_targets_of_any_sum():
    arguments = calculus.tensors(ANY_SUM.arguments)
    tangents = direction(arguments)
    with tf.autodiff.ForwardAccumulator(arguments, tangents) as accumulator:
        cost = calculus.objective(ANY_SUM.op(*arguments))
    calculus.assert_near(accumulator.jvp(cost), slope(ANY_SUM, tangents), SECOND_ORDER)


def test_forward_mode_through_a_function_for_targets_of_any_sum_is_an_error():
    """TensorFlow fails to build it, and fails once more as it says so; no number comes out."""
    arguments = calculus.tensors(ANY_SUM.arguments)
    with tf.autodiff.ForwardAccumulator(arguments, direction(arguments)):
        with pytest.raises((TypeError, tf.errors.InternalError), match="InternalError|graph"):
            tf.function(ANY_SUM.op, autograph=False)(*arguments)
