"""Mini-batch training of the network, and spirals to train it on."""

from collections.abc import Callable, Iterator

import numpy as np

from keras_bp._arguments import check_integer, check_number
from keras_bp._types import Array
from keras_bp.reference._checks import check_labels, check_matrix
from keras_bp.reference.network import Network
from keras_bp.reference.optimizers import Optimizer


def spiral(
    points_per_arm: int = 200, turns: float = 1.5, noise: float = 0.02, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw two spiral arms, one per class; no straight line separates them.

    A point at the share s in [0.1, 1) of arm k = 0, 1 lies at the radius s and the angle
    2 pi turns s + pi k, moved by normal noise in both coordinates.

    Args:
        points_per_arm: int >= 1. Defaults to 200.
        turns: float > 0, how often an arm winds round the centre. Defaults to 1.5.
        noise: float >= 0, the noise's standard deviation; the arms' outer ends have the
            radius 1. Defaults to 0.02.
        seed: int >= 0. Defaults to 0.

    Returns:
        X: float64 array of shape (2, 2 * points_per_arm), the coordinates.
        Y: float64 array of shape (1, 2 * points_per_arm), the arm, 0 or 1.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is out of range.

    Example:
        >>> from keras_bp.reference import spiral
        >>> X, Y = spiral()
        >>> X.shape, Y.shape, float(Y.mean())
        ((2, 400), (1, 400), 0.5)
    """
    points_per_arm = check_integer("points_per_arm", points_per_arm, 1)
    turns = check_number("turns", turns, 0.0, low_open=True)
    noise = check_number("noise", noise, 0.0)
    generator = np.random.default_rng(check_integer("seed", seed, 0))
    radius = np.tile(np.linspace(0.1, 1.0, points_per_arm), 2)
    arm = np.repeat([0.0, 1.0], points_per_arm)
    angle = 2.0 * np.pi * turns * radius + np.pi * arm
    X = radius * np.stack([np.cos(angle), np.sin(angle)])
    X += noise * generator.standard_normal(X.shape)
    return X, arm[np.newaxis, :]


def generate_spiral_data(N: int = 200, K: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Draw K spiral arms that all begin in the origin, always with the same noise.

    A point at the share s in [0, 1] of arm k = 0..K-1 lies at the radius s and the angle
    4 (k + s) + 0.2 e, with normal noise e, from the first coordinate's axis towards the second's:

        x = (s sin(angle), s cos(angle))

    Args:
        N: int >= 1, points per arm. Defaults to 200.
        K: int >= 1, arms. Defaults to 2.

    Returns:
        X: float64 array of shape (2, N K), the coordinates.
        Y: float64 array of shape (1, N K), the arm, 0 to K-1.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is out of range.

    Example:
        >>> from keras_bp.reference import generate_spiral_data
        >>> X, Y = generate_spiral_data()
        >>> X[:, 0].tolist(), X.shape, Y.shape
        ([0.0, 0.0], (2, 400), (1, 400))
    """
    N, K = check_integer("N", N, 1), check_integer("K", K, 1)
    generator = np.random.RandomState(1)  # of NumPy's first kind, for the same points as ever
    arm = np.repeat(np.arange(K, dtype=np.float64), N)
    radius = np.tile(np.linspace(0.0, 1.0, N), K)
    angle = 4.0 * (arm + radius) + 0.2 * generator.randn(K * N)
    return radius * np.stack([np.sin(angle), np.cos(angle)]), arm[np.newaxis, :]


def mini_batches(m: int, batch_size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
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


def train(
    network: Network,
    X: Array,
    Y: Array,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch_size: int = 64,
    seed: int = 0,
    on_epoch_end: Callable[[int, float], object] | None = None,
) -> list[float]:
    """Train a network on mini-batches, reshuffled in every epoch.

    Args:
        network: `Network`; its parameters are replaced at each update.
        X: array of shape (n[0], m), finite.
        Y: array of shape (n[L], m), labels in [0, 1].
        optimizer: `Optimizer`. It keeps its averages and its count of updates, so that a
            second call continues where the first one ended.
        epochs: int >= 1, passes over the data.
        batch_size: int >= 1, examples per update: m is batch, 1 is stochastic, and anything
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
            masks = network.draw_masks(len(batch))
            cache = network.forward(X[:, batch], masks, training=True)
            total += network.cost(cache, Y[:, batch]) * len(batch)
            gradients = network.backward(cache, Y[:, batch]).as_list()
            network.parameters = optimizer.step(network.parameters, gradients)
        costs.append(total / m)
        if on_epoch_end is not None:
            on_epoch_end(epoch, costs[-1])
    return costs
