"""What the tests here do with a function: differentiate it in several ways and compare."""

import numpy as np
import tensorflow as tf


def objective(y):
    """Make a number of a tensor whose gradient `cos(i) + y_i` differs from entry to entry.

    It depends on `y` too, so that a second derivative passes through the upstream gradient.
    """
    y = tf.reshape(y, [-1])
    weights = tf.cos(tf.cast(tf.range(tf.size(y)), y.dtype))
    return tf.reduce_sum(weights * y + y * y / 2)


def directional(gradients):
    """Add up the gradients of all arguments along a fixed direction.

    Its derivative mixes every pair of arguments, so that one wrong block of the Hessian shows.
    """
    weights = [tf.reshape(tf.range(tf.size(g)), tf.shape(g)) for g in gradients]
    return tf.add_n(
        [
            tf.reduce_sum(g * tf.cos(2 + tf.cast(w, g.dtype)))
            for g, w in zip(gradients, weights, strict=True)
        ]
    )


def first_derivatives(function):
    """Make `arguments -> (value, gradients of the objective)`."""

    def differentiated(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y = function(*arguments)
            cost = objective(y)
        return y, tape.gradient(cost, arguments)

    return differentiated


def second_derivatives(function):
    """Make `arguments -> (value, gradients, Hessian times a direction)`, a tape in a tape."""

    def differentiated(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y, gradients = first_derivatives(function)(*arguments)
            slope = directional(gradients)
        # Twins whose gradient is constant leave the second derivative unconnected.
        return y, gradients, tape.gradient(slope, arguments, unconnected_gradients="zero")

    return differentiated


def tensors(arguments, dtype="float64"):
    return [tf.constant(argument, dtype) for argument in arguments]


def numerical_gradients(function, arguments, epsilon=1e-5):
    """Central differences of the objective, entry by entry, in float64."""
    arguments = tensors(arguments)
    sizes = [tf.size(a) for a in arguments]
    flat = tf.concat([tf.reshape(a, [-1]) for a in arguments], 0)

    def unpack(flat):
        parts = tf.split(flat, sizes)
        return [tf.reshape(p, a.shape) for p, a in zip(parts, arguments, strict=True)]

    @tf.function(autograph=False)
    def costs(steps):
        return tf.map_fn(lambda step: objective(function(*unpack(flat + step))), steps)

    steps = epsilon * tf.eye(flat.shape[0], dtype=tf.float64)
    up, down = tf.split(costs(tf.concat([steps, -steps], 0)), 2)
    return unpack((up - down) / (2 * epsilon))


def relative_difference(analytic, numeric):
    """The chapter's figure, `||ga - gn|| / (||ga|| + ||gn||)`, over all arguments together."""
    analytic, numeric = (np.concatenate([np.ravel(g) for g in gs]) for gs in (analytic, numeric))
    total = np.linalg.norm(analytic) + np.linalg.norm(numeric)
    return np.linalg.norm(analytic - numeric) / total if total else 0.0


def assert_near(actual, expected, tolerance):
    """Hold every tensor's distance, in the norm, to `tolerance` times the expected one's norm.

    Where the expected tensor is small because its terms cancel, what rounds are the terms, which
    are of order 1 in all cases here; a norm below 1 counts as 1.
    """
    actual, expected = tf.nest.flatten(actual), tf.nest.flatten(expected)
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        a, e = np.asarray(a, "float64"), np.asarray(e, "float64")
        assert a.shape == e.shape
        assert np.linalg.norm(a - e) <= tolerance * max(1.0, np.linalg.norm(e)), (a, e)
