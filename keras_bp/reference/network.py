"""A fully connected network of L layers in plain NumPy: first weights, cost, forward, backward.

The cross-entropies take the pre-activations Z[L] of the output layer instead of A[L]. So they
are exact and finite where the output is saturated: a probability that rounds to 0 or 1 has lost the
digits of its logarithm.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_bp._arguments import check_flag, check_integer, check_number
from keras_bp._types import Array
from keras_bp.reference._checks import check_labels, check_matrix
from keras_bp.reference.activations import ELEMENTWISE, sigmoid, softmax
from keras_bp.reference.batch_normalization import BatchNormalization

# The standard deviation of a layer's weights, from the sizes of the layer below and of the layer,
# and the layer's activation.
_DEVIATIONS = {
    "he": lambda below, units, g: np.sqrt(2.0 / below),
    "xavier": lambda below, units, g: np.sqrt(2.0 / (below + units)),
    "by_activation": lambda below, units, g: np.sqrt((2.0 if g == "relu" else 1.0) / below),
    "random": lambda below, units, g: 0.01,
}


def initialize(
    layer_sizes: Sequence[int],
    method: str,
    generator: np.random.Generator,
    activations: Sequence[str] | None = None,
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Draw normal weights with mean zero, and make zero biases.

    The variance of a weight into layer l decides whether signals keep their size with depth:

        "he"      2 / n[l-1]             for ReLU, which drops half of the variance
        "xavier"  2 / (n[l-1] + n[l])    for tanh and sigmoid, forward and backward in balance
        "random"  0.01^2                 whatever the size: signals shrink at each layer
        "by_activation"                  2 / n[l-1] for ReLU layers, 1 / n[l-1] for the others

    Args:
        layer_sizes: sequence of at least two ints >= 1, n[0], n[1], ..., n[L].
        method: "he", "xavier", "by_activation" or "random".
        generator: `numpy.random.Generator`.
        activations: sequence of L strings, as `Network` takes them; only "by_activation" reads
            them. Defaults to `None`: ReLU, then the output's.

    Returns:
        W: {l: float64 array of shape (n[l], n[l-1])} for l = 1..L.
        b: {l: float64 array of shape (n[l], 1)} for l = 1..L.

    Raises:
        ValueError: if `method` is another, or a size or an activation is wrong.

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
    layer_sizes = _check_sizes(tuple(layer_sizes))
    W, b = {}, {}
    for layer, g in enumerate(_check_activations(activations, layer_sizes), start=1):
        below, units = layer_sizes[layer - 1], layer_sizes[layer]
        W[layer] = _DEVIATIONS[method](below, units, g) * generator.standard_normal((units, below))
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
        normalized: {l: `BatchNormalizationCache`} for the hidden layers; empty without batch
            normalization, and at inference.

    Example:
        >>> from keras_bp.reference import Network
        >>> cache = Network([2, 3, 1]).forward([[0.5], [1.0]])
        >>> sorted(cache.Z), sorted(cache.A), cache.A[2].shape
        ([1, 2], [0, 1, 2], (1, 1))
    """

    Z: dict
    A: dict
    masks: dict
    normalized: dict = {}


class Gradients(NamedTuple):
    """What a backward pass returns, each a dictionary keyed by layer.

    Attributes:
        dW: {l: (n[l], n[l-1])} for l = 1..L, of the cost.
        db: {l: (n[l], 1)} for l = 1..L, of the cost.
        dZ: {l: (n[l], m)} for l = 1..L, of the sum of the examples' losses (not divided by m).
        dA: {l: (n[l], m)} for l = 0..L-1, likewise, with respect to the cache's A.
        dgamma: {l: (n[l], 1)} for the hidden layers, of the cost; empty without batch
            normalization.
        dbeta: {l: (n[l], 1)}, likewise.

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
    dgamma: dict = {}
    dbeta: dict = {}

    def as_list(self) -> list[np.ndarray]:
        """Return [dW[1], db[1], ..., dW[L], db[L]], in the order of `Network.parameters`.

        With batch normalization dgamma[l] and dbeta[l] follow db[l].
        """
        kinds = (self.dW, self.db, self.dgamma, self.dbeta)
        return [kind[layer] for layer in sorted(self.dW) for kind in kinds if layer in kind]


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

    With batch normalization a hidden layer has A[l] = g[l](BN[l](Z[l])), and `backward` goes
    through `BatchNormalization.backward` to dZ[l]. Then b[l] has no effect, as the mean takes it
    out again, and its gradient is 0 up to rounding.

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
        batch_normalization: bool, whether the hidden layers normalize Z[l] over the batch before
            the activation. Defaults to `False`.
        initialization: "he", "xavier", "by_activation" or "random", see `initialize`. Defaults to
            "he".
        seed: int >= 0, for the initial weights and the dropout masks. Defaults to 0.

    Attributes:
        W: {l: (n[l], n[l-1])} for l = 1..L, float64.
        b: {l: (n[l], 1)} for l = 1..L, float64.
        normalizations: {l: `BatchNormalization`} for l = 1..L-1; empty without it.

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
        batch_normalization: bool = False,
        initialization: str = "he",
        seed: int = 0,
    ) -> None:
        self.layer_sizes = _check_sizes(layer_sizes)
        self.L = len(self.layer_sizes) - 1
        self.activations = _check_activations(activations, self.layer_sizes)
        self.l2 = check_number("l2", l2, 0.0)
        self.keep_prob = check_number("keep_prob", keep_prob, 0.0, 1.0, low_open=True)
        self._generator = np.random.default_rng(check_integer("seed", seed, 0))
        self.W, self.b = initialize(
            self.layer_sizes, initialization, self._generator, self.activations
        )
        self.normalizations = {}
        if check_flag("batch_normalization", batch_normalization):
            hidden = enumerate(self.layer_sizes[1:-1], start=1)
            self.normalizations = {layer: BatchNormalization(units) for layer, units in hidden}

    @property
    def parameters(self) -> list[np.ndarray]:
        """The list [W[1], b[1], ..., W[L], b[L]]: the network's own arrays, not copies.

        With batch normalization gamma and beta of a hidden layer follow its b. Assigning a list of
        the same shapes replaces them by float64 copies.
        """
        arrays = []
        for layer in self.W:
            arrays += [self.W[layer], self.b[layer]]
            if layer in self.normalizations:
                normalization = self.normalizations[layer]
                arrays += [normalization.gamma, normalization.beta]
        return arrays

    @parameters.setter
    def parameters(self, arrays: Sequence[Array]) -> None:
        arrays = [np.array(array, dtype=np.float64) for array in arrays]
        expected = [array.shape for array in self.parameters]
        received = [array.shape for array in arrays]
        if received != expected:
            raise ValueError(
                f"`parameters` must have the shapes {expected}. Received: shapes {received}"
            )
        left = iter(arrays)
        for layer in self.W:
            self.W[layer], self.b[layer] = next(left), next(left)
            if layer in self.normalizations:
                normalization = self.normalizations[layer]
                normalization.gamma, normalization.beta = next(left), next(left)

    @property
    def decay_mask(self) -> list[bool]:
        """Which of `parameters` weight decay applies to, a list of bools: every W, nothing else."""
        weights = {id(W) for W in self.W.values()}
        return [id(array) in weights for array in self.parameters]

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

    def forward(
        self, X: Array, masks: dict[int, np.ndarray] | None = None, training: bool = False
    ) -> Cache:
        """Run the network.

        Args:
            X: array of shape (n[0], m).
            masks: what `draw_masks(m)` returned, while training. Defaults to `None`: inference,
                where dropout is the identity.
            training: bool, whether batch normalization takes the batch's statistics, and moves the
                running ones towards them, instead of the running ones. Defaults to `False`.

        Returns:
            A `Cache`; its A[L] is the prediction.

        Raises:
            ValueError: if the shape of `X` or of a mask is wrong.
        """
        X = check_matrix("X", X, (self.layer_sizes[0], None))
        masks = _check_masks(masks, self.layer_sizes, X.shape[1])
        Z, A, normalized = {}, {0: X}, {}
        for layer, name in enumerate(self.activations, start=1):
            g, _ = _OUTPUTS[name] if layer == self.L else ELEMENTWISE[name]
            Z[layer] = self.W[layer] @ A[layer - 1] + self.b[layer]
            inputs = Z[layer]  # of g
            if layer in self.normalizations:
                if training:
                    inputs, normalized[layer] = self.normalizations[layer].forward(inputs)
                else:
                    inputs = self.normalizations[layer].infer(inputs)
            A[layer] = g(inputs)
            if layer in masks:
                A[layer] = A[layer] * masks[layer] / self.keep_prob
        return Cache(Z, A, masks, normalized)

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
            cache: what `forward` returned, with the weights unchanged since; with batch
                normalization, with `training=True`.
            Y: array of shape (n[L], m), labels in [0, 1].

        Raises:
            ValueError: if the shape or the values of `Y` are wrong, or the network has batch
                normalization and the cache none of the batch's statistics.
        """
        if self.normalizations and not cache.normalized:
            raise ValueError(
                "`cache` must come from `forward(X, masks, training=True)`, with the statistics of "
                "batch normalization. Received: cache.normalized={}"
            )
        A, L = cache.A, self.L
        Y = check_labels(Y, A[L].shape, distribution=self.activations[-1] == "softmax")
        m = Y.shape[1]
        dW, db, dZ = {}, {}, {L: A[L] - Y}
        dA: dict[int, np.ndarray] = {}
        dgamma, dbeta = {}, {}
        for layer in range(L, 0, -1):
            if layer < L:
                _, g_prime = ELEMENTWISE[self.activations[layer - 1]]
                inputs, normalization = cache.Z[layer], self.normalizations.get(layer)
                if normalization is not None:
                    z_hat = cache.normalized[layer].z_hat
                    inputs = normalization.gamma * z_hat + normalization.beta
                dZ[layer] = dA[layer] * g_prime(inputs)
                if layer in cache.masks:
                    dZ[layer] *= cache.masks[layer] / self.keep_prob
                if normalization is not None:
                    dZ[layer], sum_gamma, sum_beta = normalization.backward(
                        dZ[layer], cache.normalized[layer]
                    )
                    dgamma[layer], dbeta[layer] = sum_gamma / m, sum_beta / m
            dW[layer] = dZ[layer] @ A[layer - 1].T / m + self.l2 / m * self.W[layer]
            db[layer] = dZ[layer].sum(axis=1, keepdims=True) / m
            dA[layer - 1] = self.W[layer].T @ dZ[layer]
        return Gradients(dW, db, dZ, dA, dgamma, dbeta)

    def predict(self, X: Array, threshold: float = 0.5) -> np.ndarray:
        """Return the predicted labels, an int array of the shape of Y.

        A sigmoid unit gives 1 where its probability is over the threshold; softmax gives a one-hot
        column for the most probable class.

        Args:
            X: array of shape (n[0], m).
            threshold: float in [0, 1], of sigmoid units only. Defaults to 0.5.

        Raises:
            TypeError: if `threshold` is not a number.
            ValueError: if the shape of `X` is wrong, `threshold` is out of range, or it is not 0.5
                and the output is a softmax.
        """
        threshold = check_number("threshold", threshold, 0.0, 1.0)
        A = self.forward(X).A[self.L]
        if self.activations[-1] == "sigmoid":
            return (A > threshold).astype(int)
        if threshold != 0.5:
            raise ValueError(
                "`threshold` must be 0.5 where the output is a softmax, which gives the most "
                f"probable class. Received: threshold={threshold}"
            )
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
