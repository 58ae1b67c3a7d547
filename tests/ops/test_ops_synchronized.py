"""Batch normalization over two replicas does what it does over their batches put together."""

import numpy as np
import ops_calculus as calculus
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from keras_bp import ops

# Sums of some ten numbers of order 1, in another order than those of one batch.
ROUNDING = 1e-12
RANDOM = np.random.default_rng(5)
GAMMA, BETA = 1 + 0.3 * RANDOM.normal(size=3), RANDOM.normal(size=3)


def batches(*shape, sizes=(4, 4), masked=False):
    """One x and one mask, or None, for each replica."""
    xs = [RANDOM.normal(size=(rows, *shape)) for rows in sizes]
    masks = [RANDOM.random(x.shape[:-1]) < 0.6 for x in xs] if masked else [None, None]
    return xs, masks


def weigh(y, offset):
    """A cost of a part of the batch, whose rows begin at `offset`, that differs row by row."""
    y = tf.reshape(y, [tf.shape(y)[0], -1])
    row = tf.cast(tf.range(tf.shape(y)[0]) + offset, y.dtype)[:, tf.newaxis]
    column = tf.cast(tf.range(tf.shape(y)[1]), y.dtype)
    return tf.reduce_sum(tf.cos(3 * row + column) * y + y * y / 2)


def step(x, gamma, beta, mask, offset, synchronized, axis):
    """Cost, statistics, gradients, and the gradients' slope differentiated again."""
    arguments = [x, gamma, beta]
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(arguments)
            y, mean, variance = ops.batch_normalization(
                *arguments, mask=mask, synchronized=synchronized, axis=axis
            )
            cost = weigh(y, offset)
        gradients = inner.gradient(cost, arguments)
        slope = weigh(gradients[0], offset)
    return cost, y, mean, variance, *gradients, outer.gradient(slope, x)


def by_replica(strategy, values):
    """Give each replica one of the two values."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(values[context.replica_id_in_sync_group])
    )


def run(strategy, xs, masks, axis=-1, traced=True):
    """The step on both replicas: a list of results for each of its parts."""
    masked = masks[0] is not None

    def distributed(x, offset, mask):
        # A mask of None cannot be distributed.
        weights = [tf.constant(GAMMA), tf.constant(BETA)]
        return strategy.run(step, args=(x, *weights, mask if masked else None, offset, True, axis))

    distributed = tf.function(distributed, autograph=False) if traced else distributed
    offsets = [0, len(xs[0])]
    arguments = [by_replica(strategy, values) for values in (xs, offsets, masks if masked else xs)]
    results = [strategy.experimental_local_results(part) for part in distributed(*arguments)]
    return [[part.numpy() for part in parts] for parts in results]


def run_whole(xs, masks, axis=-1):
    mask = None if masks[0] is None else np.concatenate(masks)
    x = tf.constant(np.concatenate(xs))
    results = step(x, tf.constant(GAMMA), tf.constant(BETA), mask, 0, False, axis)
    return [part.numpy() for part in results]


@pytest.mark.parametrize(
    "shape, axis, sizes, masked, traced",
    [
        ((3,), -1, (4, 4), False, True),
        ((2, 3), -1, (2, 3), True, False),
        ((3, 2), 1, (2, 4), True, True),
    ],
)
def test_two_replicas_equal_one_batch(replicas, shape, axis, sizes, masked, traced):
    xs, masks = batches(*shape, sizes=sizes, masked=masked)
    cost, y, mean, variance, dx, dgamma, dbeta, ddx = run(replicas, xs, masks, axis, traced=traced)
    whole = run_whole(xs, masks, axis)
    if not masked:  # or all below would hold without synchronization
        assert abs(mean[0] - xs[0].mean(0)).max() > 0.01
    for statistic, expected in ((mean, whole[2]), (variance, whole[3])):
        for own in statistic:
            assert_allclose(own, expected, rtol=ROUNDING, atol=ROUNDING)
    # Gradients of weights are each replica's own share: a strategy adds them up.
    for shares, expected in ((cost, whole[0]), (dgamma, whole[5]), (dbeta, whole[6])):
        assert_allclose(sum(shares), expected, rtol=ROUNDING, atol=ROUNDING)
    for parts, expected in ((y, whole[1]), (dx, whole[4]), (ddx, whole[7])):
        assert_allclose(np.concatenate(parts), expected, rtol=ROUNDING, atol=ROUNDING)


def test_a_replica_whose_batch_is_masked_out(replicas):
    xs, _ = batches(3)
    masks = [np.ones(4, bool), np.zeros(4, bool)]
    _, _, mean, variance, *_ = run(replicas, xs, masks, traced=False)
    for own in range(2):
        assert_allclose(mean[own], xs[0].mean(0), rtol=ROUNDING, atol=ROUNDING)
        assert_allclose(variance[own], xs[0].var(0), rtol=ROUNDING, atol=ROUNDING)


def test_gradient_check_across_the_replicas(replicas):
    """Central differences of the cost that both replicas have together, entry by entry."""
    xs, _ = batches(3, sizes=(2, 3))
    masks = [np.array([True, False]), np.array([True, True, False])]
    *_, dx, dgamma, dbeta, _ = run(replicas, xs, masks)
    analytic = [*dx, sum(dgamma), sum(dbeta)]
    parameters = [*(x.copy() for x in xs), GAMMA.copy(), BETA.copy()]
    offset, mask = by_replica(replicas, [0, len(xs[0])]), by_replica(replicas, masks)

    @tf.function(autograph=False)
    def cost(x, gamma, beta):
        def own(x, mask, offset):
            outputs = ops.batch_normalization(x, gamma, beta, mask=mask, synchronized=True).outputs
            return weigh(outputs, offset)

        parts = replicas.run(own, args=(x, mask, offset))
        return replicas.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

    numeric = []
    for parameter in parameters:
        gradient = np.zeros_like(parameter)
        for index in np.ndindex(parameter.shape):
            number, costs = parameter[index], []
            for moved in (number + 1e-5, number - 1e-5):
                parameter[index] = moved
                weights = [tf.constant(p) for p in parameters[2:]]
                costs.append(float(cost(by_replica(replicas, parameters[:2]), *weights)))
            parameter[index] = number
            gradient[index] = (costs[0] - costs[1]) / 2e-5
        numeric.append(gradient)
    # The project's bound.
    assert calculus.relative_difference(analytic, numeric) < 1e-7
