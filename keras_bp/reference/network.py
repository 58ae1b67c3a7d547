"""Program P1 of the chapter: a fully connected network of L layers in plain NumPy."""

from dataclasses import dataclass

import numpy as np

from keras_bp.reference._architecture import check_activations, check_masks, check_sizes
from keras_bp.reference._checks import check_integer, check_labels, check_matrix, check_number
from keras_bp.reference.activations import ELEMENTWISE, sigmoid, softmax
from keras_bp.reference.cross_entropy import binary_cross_entropy, categorical_cross_entropy
from keras_bp.reference.initialization import initialize

# Output activation -> (g, the cross-entropy for which dZ[L] = A[L] - Y).
_OUTPUTS = {
    "sigmoid": (sigmoid, binary_cross_entropy),
    "softmax": (softmax, categorical_cross_entropy),
}


@dataclass
class Cache:
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


@dataclass
class Gradients:
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

    def as_list(self):
        """Return [dW[1], db[1], ..., dW[L], db[L]], in the order of `Network.parameters`."""
        return [array for layer in sorted(self.dW) for array in (self.dW[layer], self.db[layer])]


class Network:
    """Fully connected network with cross-entropy cost, whose backward pass is written out.

    Layer l computes Z[l] = W[l] A[l-1] + b[l] and A[l] = g[l](Z[l]). The cost is the
    cross-entropy that belongs to the output activation plus (l2 / 2m) sum ||W[l]||^2, and
    `backward` applies the chapter's five equations:

        dZ[L] = A[L] - Y
        dW[l] = (1/m) dZ[l] A[l-1]^T + (l2/m) W[l]
        db[l] = (1/m) sum over the examples of dZ[l]
        dA[l-1] = W[l]^T dZ[l]
        dZ[l] = dA[l] * g[l]'(Z[l])

    Inverted dropout multiplies A[l] of the hidden layers by D / keep_prob, and dA[l] likewise.
    `forward` draws nothing itself: the masks are an argument, so that the same cost can be
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
        equations 4 to 7.
        Srivastava et al., 2014, "Dropout: a simple way to prevent neural networks from
        overfitting", section 4.
    """

    def __init__(
        self,
        layer_sizes,
        activations=None,
        *,
        l2=0.0,
        keep_prob=1.0,
        initialization="he",
        seed=0,
    ):
        self.layer_sizes = check_sizes(layer_sizes)
        self.L = len(self.layer_sizes) - 1
        self.activations = check_activations(activations, self.layer_sizes)
        self.l2 = check_number("l2", l2, 0.0)
        self.keep_prob = check_number("keep_prob", keep_prob, 0.0, 1.0, low_open=True)
        self._generator = np.random.default_rng(check_integer("seed", seed, 0))
        self.W, self.b = initialize(self.layer_sizes, initialization, self._generator)

    @property
    def parameters(self):
        """The list [W[1], b[1], ..., W[L], b[L]]: the network's own arrays, not copies.

        Assigning a list of the same shapes replaces them by float64 copies.
        """
        return [array for layer in self.W for array in (self.W[layer], self.b[layer])]

    @parameters.setter
    def parameters(self, arrays):
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
    def decay_mask(self):
        """Which of `parameters` weight decay applies to, a list of bools: every W, no b."""
        return [True, False] * self.L

    def draw_masks(self, m):
        """Draw dropout's masks for m examples: {l: (n[l], m)} of bools, hidden layers only.

        Where `keep_prob` is 1 it draws nothing and returns an empty dictionary.
        """
        if self.keep_prob == 1.0:
            return {}
        return {
            layer: self._generator.random((self.layer_sizes[layer], m)) < self.keep_prob
            for layer in range(1, self.L)
        }

    def forward(self, X, masks=None):
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
        masks = check_masks(masks, self.layer_sizes, X.shape[1])
        Z, A = {}, {0: X}
        for layer, name in enumerate(self.activations, start=1):
            g, _ = _OUTPUTS[name] if layer == self.L else ELEMENTWISE[name]
            Z[layer] = self.W[layer] @ A[layer - 1] + self.b[layer]
            A[layer] = g(Z[layer])
            if layer in masks:
                A[layer] = A[layer] * masks[layer] / self.keep_prob
        return Cache(Z, A, masks)

    def cost(self, cache, Y):
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

    def backward(self, cache, Y):
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
        dW, db, dZ, dA = {}, {}, {L: A[L] - Y}, {}
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

    def predict(self, X):
        """Return the predicted labels, an int array of the shape of Y.

        A sigmoid unit gives 1 where its probability is over 0.5; softmax gives a one-hot column
        for the most probable class.
        """
        A = self.forward(X).A[self.L]
        if self.activations[-1] == "sigmoid":
            return (A > 0.5).astype(int)
        return np.eye(len(A), dtype=int)[:, A.argmax(axis=0)]

    def accuracy(self, X, Y):
        """Return the share of right labels: of all units with sigmoid, of columns with softmax.

        Raises:
            ValueError: if the shape or the values of `Y` are wrong.
        """
        predicted = self.predict(X)
        softmax_output = self.activations[-1] == "softmax"
        Y = check_labels(Y, predicted.shape, distribution=softmax_output)
        if softmax_output:
            return float(np.mean(predicted.argmax(axis=0) == Y.argmax(axis=0)))
        return float(np.mean(predicted == Y))
