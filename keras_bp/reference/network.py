"""A fully connected network of L layers in plain NumPy: first weights, cost, forward, backward.

The cross-entropies take the pre-activations Z[L] of the output layer instead of A[L]. So they
are exact and finite where the output is saturated: a probability that rounds to 0 or 1 has lost the
digits of its logarithm.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_bp._arguments import check_integer, check_number
from keras_bp._types import Array
from keras_bp.reference._checks import check_labels, check_matrix
from keras_bp.reference.activations import ELEMENTWISE, sigmoid, softmax

# The standard deviation of a layer's weights, from the sizes of the layer below and of the layer.
_DEVIATIONS = {
    "he": lambda below, units: np.sqrt(2.0 / below),
    "xavier": lambda below, units: np.sqrt(2.0 / (below + units)),
    "random": lambda below, units: 0.01,
}


def initialize(
    layer_sizes: Sequence[int], method: str, generator: np.random.Generator
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
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


def binary_cross_entropy(Z: Array, Y: Array) -> float:
    """Binary cross-entropy of sigmoid outputs: the sum over the units, averaged over examples.

    J = (1/m) sum of -(y log p + (1 - y) log(1 - p)), with p = sigmoid(z), written with
    -log p = log(1 + exp(-z)) and -log(1 - p) = log(1 + exp(z)).

    Args:
        Z: array of shape (units, m), the pre-activations of the sigmoid.
        Y: array of shape (units, m), labels or probabilities in [0, 1].

    Raises:
        ValueError: if a shape is wrong or a label lies outside [0, 1].

    Example:
        >>> from keras_bp.reference import binary_cross_entropy
        >>> round(binary_cross_entropy([[0.0, 10000.0]], [[1.0, 0.0]]), 4)
        5000.3466
    """
    Z = check_matrix("Z", Z, (None, None))
    Y = check_labels(Y, Z.shape, distribution=False)
    losses = Y * np.logaddexp(0.0, -Z) + (1.0 - Y) * np.logaddexp(0.0, Z)
    return float(losses.sum() / Z.shape[1])


def categorical_cross_entropy(Z: Array, Y: Array) -> float:
    """Categorical cross-entropy of softmax outputs, averaged over examples.

    J = -(1/m) sum over examples and classes of y log p, with p = softmax(z).

    Args:
        Z: array of shape (classes, m), the pre-activations of the softmax.
        Y: array of shape (classes, m), one-hot labels or probabilities; columns sum to 1.

    Raises:
        ValueError: if a shape is wrong, a label lies outside [0, 1], or a column of `Y` does
            not sum to 1.

    Example:
        >>> from keras_bp.reference import categorical_cross_entropy
        >>> round(categorical_cross_entropy([[0.0], [0.0]], [[1.0], [0.0]]), 4)
        0.6931
    """
    Z = check_matrix("Z", Z, (None, None))
    Y = check_labels(Y, Z.shape, distribution=True)
    top = Z.argmax(axis=0, keepdims=True)
    shifted = Z - np.take_along_axis(Z, top, axis=0)
    others = np.exp(shifted)
    # The largest class contributes exactly 1 to the sum of exponentials. log1p adds that 1 without
    # losing what the other classes add, even far below the spacing of floats near 1.
    np.put_along_axis(others, top, 0.0, axis=0)
    log_probabilities = shifted - np.log1p(others.sum(axis=0, keepdims=True))
    return float(-np.sum(Y * log_probabilities) / Z.shape[1])


# Output activation -> (g, the cross-entropy for which dZ[L] = A[L] - Y).
_OUTPUTS = {
    "sigmoid": (sigmoid, binary_cross_entropy),
    "softmax": (softmax, categorical_cross_entropy),
}


class Cache(NamedTuple):
    """What a forward pass leaves for the backward pass, each a dictionary keyed by layer.

    Attributes:
        Z: {l: (n[l], m)} for l = 1..L, the pre-activations.
        A: {l: (n[l], m)} for l = 0..L, the activations after dropout; A[0] is X.
        masks: {l: (n[l], m)} of bools, the units that dropout kept; empty without dropout.

    Example:
        >>> from keras_bp.reference import Network
        >>> cache = Network([2, 3, 1]).forward([[0.5], [1.0]])
        >>> sorted(cache.Z), sorted(cache.A), cache.A[2].shape
        ([1, 2], [0, 1, 2], (1, 1))
    """

    Z: dict
    A: dict
    masks: dict


class Gradients(NamedTuple):
    """What a backward pass returns, each a dictionary keyed by layer.

    Attributes:
        dW: {l: (n[l], n[l-1])} for l = 1..L, of the cost.
        db: {l: (n[l], 1)} for l = 1..L, of the cost.
        dZ: {l: (n[l], m)} for l = 1..L, of each example's own loss (not divided by m).
        dA: {l: (n[l], m)} for l = 0..L-1, likewise, with respect to the cache's A.

    Example:
        >>> from keras_bp.reference import Network
        >>> network = Network([2, 3, 1])
        >>> gradients = network.backward(network.forward([[0.5], [1.0]]), [[1.0]])
        >>> [gradient.shape for gradient in gradients.as_list()]
        [(3, 2), (3, 1), (1, 3), (1, 1)]
    """

    dW: dict
    db: dict
    dZ: dict
    dA: dict

    def as_list(self) -> list[np.ndarray]:
        """Return [dW[1], db[1], ..., dW[L], db[L]], in the order of `Network.parameters`."""
        return [array for layer in sorted(self.dW) for array in (self.dW[layer], self.db[layer])]


class Network:
    """Fully connected network with cross-entropy cost, whose backward pass is written out.

    Layer l computes Z[l] = W[l] A[l-1] + b[l] and A[l] = g[l](Z[l]). The cost is the
    cross-entropy that belongs to the output activation plus (l2 / 2m) sum ||W[l]||^2, and
    `backward` applies the five equations of backpropagation:

        dZ[L] = A[L] - Y
        dW[l] = (1/m) dZ[l] A[l-1]^T + (l2/m) W[l]
        db[l] = (1/m) sum over the examples of dZ[l]
        dA[l-1] = W[l]^T dZ[l]
        dZ[l] = dA[l] * g[l]'(Z[l])

    Inverted dropout multiplies A[l] of the hidden layers by D / keep_prob, and dA[l] likewise.
    `forward` itself draws nothing: the masks are an argument, so that the same cost can be
    evaluated twice.

    Args:
        layer_sizes: sequence of at least two ints >= 1, the sizes n[0], n[1], ..., n[L].
        activations: sequence of L strings. Hidden layers take "linear", "relu", "sigmoid" or
            "tanh"; the last layer takes "sigmoid" (binary cross-entropy, summed over units) or
            "softmax" (categorical cross-entropy, at least two units). Defaults to `None`: ReLU,
            then a sigmoid where n[L] = 1 and softmax elsewhere.
        l2: float >= 0, lambda of the L2 penalty. Defaults to 0.
        keep_prob: float in (0, 1], a hidden unit's probability of being kept. Defaults to 1.
        initialization: "he", "xavier" or "random", see `initialize`. Defaults to "he".
        seed: int >= 0, for the initial weights and the dropout masks. Defaults to 0.

    Attributes:
        W: {l: (n[l], n[l-1])} for l = 1..L, float64.
        b: {l: (n[l], 1)} for l = 1..L, float64.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if a size, a name or a range is wrong.

    Example:
        >>> from keras_bp.reference import Network
        >>> network = Network([2, 3, 1])
        >>> cache = network.forward([[0.5, -1.0], [1.0, 2.0]])
        >>> gradients = network.backward(cache, [[1.0, 0.0]])
        >>> gradients.dW[1].shape
        (3, 2)

    References:
        Rumelhart, Hinton and Williams, 1986, "Learning representations by back-propagating errors",
        equations 4 to 7. Srivastava et al., 2014, "Dropout: a simple way to prevent neural networks
        from overfitting", section 4.
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activations: Sequence[str] | None = None,
        *,
        l2: float = 0.0,
        keep_prob: float = 1.0,
        initialization: str = "he",
        seed: int = 0,
    ) -> None:
        self.layer_sizes = _check_sizes(layer_sizes)
        self.L = len(self.layer_sizes) - 1
        self.activations = _check_activations(activations, self.layer_sizes)
        self.l2 = check_number("l2", l2, 0.0)
        self.keep_prob = check_number("keep_prob", keep_prob, 0.0, 1.0, low_open=True)
        self._generator = np.random.default_rng(check_integer("seed", seed, 0))
        self.W, self.b = initialize(self.layer_sizes, initialization, self._generator)

    @property
    def parameters(self) -> list[np.ndarray]:
        """The list [W[1], b[1], ..., W[L], b[L]]: the network's own arrays, not copies.

        Assigning a list of the same shapes replaces them by float64 copies.
        """
        return [array for layer in self.W for array in (self.W[layer], self.b[layer])]

    @parameters.setter
    def parameters(self, arrays: Sequence[Array]) -> None:
        arrays = [np.array(array, dtype=np.float64) for array in arrays]
        expected = [array.shape for array in self.parameters]
        received = [array.shape for array in arrays]
        if received != expected:
            raise ValueError(
                f"`parameters` must have the shapes {expected}. Received: shapes {received}"
            )
        for layer in self.W:
            self.W[layer], self.b[layer] = arrays[2 * layer - 2 : 2 * layer]

    @property
    def decay_mask(self) -> list[bool]:
        """Which of `parameters` weight decay applies to, a list of bools: every W, no b."""
        return [True, False] * self.L

    def draw_masks(self, m: int) -> dict[int, np.ndarray]:
        """Draw dropout's masks for m examples: {l: (n[l], m)} of bools, hidden layers only.

        Where `keep_prob` is 1 it draws nothing and returns an empty dictionary.
        """
        if self.keep_prob == 1.0:
            return {}
        return {
            layer: self._generator.random((self.layer_sizes[layer], m)) < self.keep_prob
            for layer in range(1, self.L)
        }

    def forward(self, X: Array, masks: dict[int, np.ndarray] | None = None) -> Cache:
        """Run the network.

        Args:
            X: array of shape (n[0], m).
            masks: what `draw_masks(m)` returned, while training. Defaults to `None`: inference,
                where dropout is the identity.

        Returns:
            A `Cache`; its A[L] is the prediction.

        Raises:
            ValueError: if the shape of `X` or of a mask is wrong.
        """
        X = check_matrix("X", X, (self.layer_sizes[0], None))
        masks = _check_masks(masks, self.layer_sizes, X.shape[1])
        Z, A = {}, {0: X}
        for layer, name in enumerate(self.activations, start=1):
            g, _ = _OUTPUTS[name] if layer == self.L else ELEMENTWISE[name]
            Z[layer] = self.W[layer] @ A[layer - 1] + self.b[layer]
            A[layer] = g(Z[layer])
            if layer in masks:
                A[layer] = A[layer] * masks[layer] / self.keep_prob
        return Cache(Z, A, masks)

    def cost(self, cache: Cache, Y: Array) -> float:
        """Return the cost of a forward pass, a float, with the L2 penalty.

        Args:
            cache: what `forward` returned.
            Y: array of shape (n[L], m), labels in [0, 1].

        Raises:
            ValueError: if the shape or the values of `Y` are wrong.
        """
        _, cross_entropy = _OUTPUTS[self.activations[-1]]
        Z = cache.Z[self.L]
        squares = sum(float(np.sum(W**2)) for W in self.W.values()) if self.l2 else 0.0
        return cross_entropy(Z, Y) + self.l2 / (2.0 * Z.shape[1]) * squares

    def backward(self, cache: Cache, Y: Array) -> Gradients:
        """Return the `Gradients` of the cost of a forward pass.

        Args:
            cache: what `forward` returned, with the weights unchanged since.
            Y: array of shape (n[L], m), labels in [0, 1].

        Raises:
            ValueError: if the shape or the values of `Y` are wrong.
        """
        A, L = cache.A, self.L
        Y = check_labels(Y, A[L].shape, distribution=self.activations[-1] == "softmax")
        m = Y.shape[1]
        dW, db, dZ = {}, {}, {L: A[L] - Y}
        dA: dict[int, np.ndarray] = {}
        for layer in range(L, 0, -1):
            if layer < L:
                _, g_prime = ELEMENTWISE[self.activations[layer - 1]]
                dZ[layer] = dA[layer] * g_prime(cache.Z[layer])
                if layer in cache.masks:
                    dZ[layer] *= cache.masks[layer] / self.keep_prob
            dW[layer] = dZ[layer] @ A[layer - 1].T / m + self.l2 / m * self.W[layer]
            db[layer] = dZ[layer].sum(axis=1, keepdims=True) / m
            dA[layer - 1] = self.W[layer].T @ dZ[layer]
        return Gradients(dW, db, dZ, dA)

    def predict(self, X: Array) -> np.ndarray:
        """Return the predicted labels, an int array of the shape of Y.

        A sigmoid unit gives 1 where its probability is over 0.5; softmax gives a one-hot column
        for the most probable class.
        """
        A = self.forward(X).A[self.L]
        if self.activations[-1] == "sigmoid":
            return (A > 0.5).astype(int)
        return np.eye(len(A), dtype=int)[:, A.argmax(axis=0)]

    def accuracy(self, X: Array, Y: Array) -> float:
        """Return the share of correct labels: of all units with sigmoid, of columns with softmax.

        Raises:
            ValueError: if the shape or the values of `Y` are wrong.
        """
        predicted = self.predict(X)
        softmax_output = self.activations[-1] == "softmax"
        Y = check_labels(Y, predicted.shape, distribution=softmax_output)
        if softmax_output:
            return float(np.mean(predicted.argmax(axis=0) == Y.argmax(axis=0)))
        return float(np.mean(predicted == Y))


def _check_sizes(layer_sizes):
    """Return the layer sizes as a tuple of at least two ints >= 1."""
    if not isinstance(layer_sizes, (list, tuple)) or len(layer_sizes) < 2:
        raise ValueError(
            "`layer_sizes` must be a list of at least two sizes, n[0] to n[L]. "
            f"Received: layer_sizes={layer_sizes!r}"
        )
    return tuple(
        check_integer(f"layer_sizes[{layer}]", size, 1) for layer, size in enumerate(layer_sizes)
    )


def _check_activations(activations, sizes):
    """Return one activation name per layer; for `None`, ReLU and then the output's."""
    if activations is None:
        output = "sigmoid" if sizes[-1] == 1 else "softmax"
        return ("relu",) * (len(sizes) - 2) + (output,)
    if not isinstance(activations, (list, tuple)) or len(activations) != len(sizes) - 1:
        raise ValueError(
            f"`activations` must be a list of {len(sizes) - 1} names, one per layer. "
            f"Received: activations={activations!r}"
        )
    for index, name in enumerate(activations):
        output = index == len(activations) - 1
        allowed = tuple(_OUTPUTS) if output else tuple(sorted(ELEMENTWISE))
        if name not in allowed:
            raise ValueError(
                f"`activations[{index}]` must be one of {allowed}, as this layer is "
                f"{'the output' if output else 'hidden'}. Received: activations[{index}]={name!r}"
            )
    if activations[-1] == "softmax" and sizes[-1] < 2:
        raise ValueError(
            "`activations` may end in softmax only where there are at least two output units; "
            f"one unit takes sigmoid. Received: layer_sizes={list(sizes)}"
        )
    return tuple(activations)


def _check_masks(masks, sizes, m):
    """Return the masks, `{}` for `None`; each hidden layer needs one of shape (n[l], m)."""
    masks = {} if masks is None else masks
    shapes = {layer: np.shape(mask) for layer, mask in masks.items()}
    expected = {layer: (size, m) for layer, size in enumerate(sizes[1:-1], start=1)}
    if shapes and shapes != expected:
        raise ValueError(
            f"`masks` must have the shapes {expected}, as `draw_masks({m})` gives them. "
            f"Received: shapes {shapes}"
        )
    return masks
