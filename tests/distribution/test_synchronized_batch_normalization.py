"""The layer over two replicas beside central differences of a loss that knows of no replicas.

tests/ops/test_ops_synchronized.py checks the operation's gradients; here they go the whole way: a
layer's variables, and the sum over the replicas in the optimizer.
"""

import numpy as np
import pytest
import tensorflow as tf

from keras_bp import layers, optimizers, reference
from keras_bp.reference import relative_difference

ROWS, UNITS, EPSILON = 7, 3, 1e-3
_generator = np.random.default_rng(0)
X = _generator.normal(2.0, 1.5, (ROWS, UNITS))
GAMMA, BETA = _generator.normal(1.0, 0.3, UNITS), _generator.normal(size=UNITS)
SLOPES = _generator.normal(size=(ROWS, UNITS))


def global_loss(x, gamma, beta):
    """The loss of the whole batch in NumPy, curved in the outputs."""
    layer = reference.BatchNormalization(UNITS, epsilon=EPSILON)
    layer.gamma, layer.beta = gamma[:, None], beta[:, None]
    y = layer.forward(x.T)[0].T
    return np.sum(SLOPES * y + np.sin(y) * y)


def differences():
    """Central differences of the loss, entry by entry, with respect to x, gamma and beta."""
    numbers, gradients = [X.copy(), GAMMA.copy(), BETA.copy()], []
    for array in numbers:
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept, losses = array[index], []
            for moved in (kept + 1e-5, kept - 1e-5):
                array[index] = moved
                losses.append(global_loss(*numbers))
            array[index] = kept
            gradient[index] = (losses[0] - losses[1]) / 2e-5
        gradients.append(gradient)
    return gradients


def on_replicas(strategy, cut, synchronized=True):
    """Return the gradients of x in both replicas, and what SGD took from gamma and beta."""
    with strategy.scope():
        layer = layers.BatchNormalization(
            epsilon=EPSILON, synchronized=synchronized, dtype="float64"
        )
        layer.build((None, UNITS))
        layer.gamma.assign(GAMMA)
        layer.beta.assign(BETA)
        optimizer = optimizers.SGD(1.0)
        optimizer.build(layer.trainable_variables)

    def on_replica(x, slopes):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(slopes * y + tf.sin(y) * y)
        dx, *gradients = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
        optimizer.apply(gradients, layer.trainable_variables)
        return dx

    def share(array):
        return strategy.experimental_distribute_values_from_function(
            lambda c: tf.constant(array[cut:] if c.replica_id_in_sync_group else array[:cut])
        )

    step = tf.function(lambda x, slopes: strategy.run(on_replica, args=(x, slopes)))
    dx = strategy.experimental_local_results(step(share(X), share(SLOPES)))
    return [
        np.concatenate([part.numpy() for part in dx]),
        GAMMA - layer.gamma.numpy(),
        BETA - layer.beta.numpy(),
    ]


@pytest.mark.parametrize("cut", [4, 6])
def test_gradient_check(cut, replicas):
    """Against the project's bound, with 4 and 3 rows, and with 6 and 1."""
    for analytic, numeric in zip(on_replicas(replicas, cut), differences(), strict=True):
        assert relative_difference([analytic], [numeric]) < 1e-7


def test_own_statistics_are_seen(replicas):
    own = on_replicas(replicas, 4, synchronized=False)
    for analytic, numeric in zip(own[:2], differences(), strict=False):
        assert relative_difference([analytic], [numeric]) > 1e-2
