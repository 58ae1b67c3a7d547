"""The chapter's three ways to draw a network's first weights."""

import numpy as np

# The standard deviation of a layer's weights, from the sizes of the layer below and of the layer.
_DEVIATIONS = {
    "he": lambda below, units: np.sqrt(2.0 / below),
    "xavier": lambda below, units: np.sqrt(2.0 / (below + units)),
    "random": lambda below, units: 0.01,
}


def initialize(layer_sizes, method, generator):
    """Draw normal weights with mean zero, and make zero biases.

    The variance of a weight into layer l decides whether signals keep their size with depth:

        "he"      2 / n[l-1]             for ReLU, which drops half of the variance
        "xavier"  2 / (n[l-1] + n[l])    for tanh and sigmoid, forward and backward in balance
        "random"  0.01^2                 whatever the size: signals shrink at each layer

    Args:
        layer_sizes: sequence of ints, n[0], n[1], ..., n[L].
        method: "he", "xavier" or "random".
        generator: `numpy.random.Generator`.

    Returns:
        W: {l: float64 array of shape (n[l], n[l-1])} for l = 1..L.
        b: {l: float64 array of shape (n[l], 1)} for l = 1..L.

    Raises:
        ValueError: if `method` is another.

    Example:
        >>> from keras_bp.reference import initialize
        >>> W, b = initialize([2, 3, 1], "he", np.random.default_rng(0))
        >>> W[1].shape, b[1].shape
        ((3, 2), (3, 1))

    References:
        Glorot and Bengio, 2010, "Understanding the difficulty of training deep feedforward neural
        networks", equation 16 (its variance, with a normal draw).
        He et al., 2015, "Delving deep into rectifiers", equation 10.
    """
    if method not in tuple(_DEVIATIONS):  # a tuple, as an unhashable value may come
        raise ValueError(
            f"`initialization` must be one of {sorted(_DEVIATIONS)}. "
            f"Received: initialization={method!r}"
        )
    W, b = {}, {}
    for layer in range(1, len(layer_sizes)):
        below, units = layer_sizes[layer - 1], layer_sizes[layer]
        W[layer] = _DEVIATIONS[method](below, units) * generator.standard_normal((units, below))
        b[layer] = np.zeros((units, 1))
    return W, b
