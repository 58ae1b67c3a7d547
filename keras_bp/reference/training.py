"""Mini-batch training of the reference network."""

import numpy as np

from keras_bp.reference._checks import check_integer, check_labels, check_matrix


def mini_batches(m, batch_size, generator):
    """Yield the shuffled indices of m examples in batches; the last one may be smaller.

    Args:
        m: int >= 1, the number of examples.
        batch_size: int >= 1; from m on there is one batch of all examples.
        generator: `numpy.random.Generator`.

    Yields:
        Int arrays of shape (at most batch_size,); together they hold each of 0..m-1 once.

    Example:
        >>> from keras_bp.reference import mini_batches
        >>> [len(batch) for batch in mini_batches(10, 4, np.random.default_rng(0))]
        [4, 4, 2]
    """
    order = generator.permutation(m)
    for start in range(0, m, batch_size):
        yield order[start : start + batch_size]


def train(network, X, Y, optimizer, *, epochs, batch_size=64, seed=0, on_epoch_end=None):
    """Train a network on mini-batches, shuffled anew in every epoch.

    Args:
        network: `Network`; its parameters are replaced at each update.
        X: array of shape (n[0], m), finite.
        Y: array of shape (n[L], m), labels in [0, 1].
        optimizer: `Optimizer`. It keeps its averages and its count of updates, so that a
            second call goes on where the first one ended.
        epochs: int >= 1, passes over the data.
        batch_size: int >= 1, examples in an update: m is batch, 1 is stochastic, and what lies
            between is mini-batch gradient descent. Defaults to 64.
        seed: int >= 0, of the shuffling. Defaults to 0.
        on_epoch_end: function of the epoch, from 1, and its cost; called after each epoch.
            Defaults to `None`.

    Returns:
        A list of floats, each epoch's cost: the mean over the examples of the cost that each
        mini-batch had before its update, with its dropout masks.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if a shape, a value or a range is wrong.

    Example:
        >>> from keras_bp.reference import Adam, Network, spiral, train
        >>> X, Y = spiral()
        >>> costs = train(Network([2, 8, 1]), X, Y, Adam(0.01), epochs=20)
        >>> costs[-1] < costs[0]
        True
    """
    epochs = check_integer("epochs", epochs, 1)
    batch_size = check_integer("batch_size", batch_size, 1)
    generator = np.random.default_rng(check_integer("seed", seed, 0))
    X = check_matrix("X", X, (network.layer_sizes[0], None))
    m = X.shape[1]
    softmax_output = network.activations[-1] == "softmax"
    Y = check_labels(Y, (network.layer_sizes[-1], m), distribution=softmax_output)
    if not np.isfinite(X).all():
        raise ValueError(f"`X` must be finite. Received: {np.sum(~np.isfinite(X))} bad entries")
    costs = []
    for epoch in range(1, epochs + 1):
        total = 0.0
        for batch in mini_batches(m, batch_size, generator):
            cache = network.forward(X[:, batch], network.draw_masks(len(batch)))
            total += network.cost(cache, Y[:, batch]) * len(batch)
            gradients = network.backward(cache, Y[:, batch]).as_list()
            network.parameters = optimizer.step(network.parameters, gradients)
        costs.append(total / m)
        if on_epoch_end is not None:
            on_epoch_end(epoch, costs[-1])
    return costs
