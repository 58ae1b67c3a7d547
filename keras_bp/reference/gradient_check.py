"""Gradient check: central differences against the written-out backward pass."""

import copy
from collections.abc import Callable, Sequence

import numpy as np

from keras_bp._arguments import check_number
from keras_bp._types import Array
from keras_bp.reference.network import Network


def numerical_gradients(
    function: Callable[[], float], parameters: Sequence[Array], epsilon: float = 1e-5
) -> list[np.ndarray]:
    """Return central differences of a function with respect to every entry of some arrays.

    g_i = (J(theta_i + e) - J(theta_i - e)) / 2e, which costs two evaluations per entry. Each
    entry is changed in place and then reset to exactly its value.

    Args:
        function: function without arguments that returns a float and reads `parameters`.
        parameters: list of float64 arrays.
        epsilon: float > 0, e. The formula's error falls with e^2 while rounding adds some
            1e-16 J/e, so that about 1e-5 serves best. Defaults to 1e-5.

    Returns:
        A list of float64 arrays of the parameters' shapes.

    Raises:
        TypeError: if a parameter is not a float64 array, which could not be changed in place.
        ValueError: if `epsilon` is out of range.

    Example:
        >>> from keras_bp.reference import numerical_gradients
        >>> theta = np.array([1.0, 2.0])
        >>> [gradient] = numerical_gradients(lambda: float(np.sum(theta**2)), [theta])
        >>> gradient.round(6).tolist()
        [2.0, 4.0]
    """
    epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
    for array in parameters:
        if not isinstance(array, np.ndarray) or array.dtype != np.float64:
            raise TypeError(
                "`parameters` must hold float64 arrays, as their entries are changed in place. "
                f"Received: {getattr(array, 'dtype', type(array).__name__)}"
            )
    gradients = [np.empty_like(array) for array in parameters]
    for array, gradient in zip(parameters, gradients, strict=True):
        for index in np.ndindex(array.shape):
            value = array[index]
            try:
                array[index] = value + epsilon
                above = function()
                array[index] = value - epsilon
                below = function()
            finally:
                array[index] = value
            gradient[index] = (above - below) / (2.0 * epsilon)
    return gradients


def relative_difference(analytic: Sequence[Array], numerical: Sequence[Array]) -> float:
    """Return the figure ||ga - gn|| / (||ga|| + ||gn||), over all arrays together.

    Under 1e-7 the gradient is correct, under 1e-5 it is suspicious, else there is a bug. Two
    gradients of zero differ by 0.

    Args:
        analytic: list of arrays.
        numerical: list of arrays of the same shapes.

    Returns:
        A float in [0, 1], or NaN where an entry is NaN.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> from keras_bp.reference import relative_difference
        >>> round(relative_difference([[1.0, 0.0]], [[1.0, 0.002]]), 6)
        0.001
    """
    shapes = [[np.shape(array) for array in arrays] for arrays in (analytic, numerical)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`numerical` must have the shapes of `analytic`, {shapes[0]}. "
            f"Received: shapes {shapes[1]}"
        )
    ga = np.concatenate([np.ravel(array) for array in analytic])
    gn = np.concatenate([np.ravel(array) for array in numerical])
    scale = np.linalg.norm(ga) + np.linalg.norm(gn)
    return float(np.linalg.norm(ga - gn) / scale) if scale != 0.0 else 0.0


class GradientCheckResult(float):
    """What `gradient_check` returns: the figure, a float, and what to think of it.

    A parameter stands on a kink if the two evaluations of its difference switch a ReLU that is
    off on, or the other way round. There the slope differs between the two sides: the difference
    measures something between them, and the backward pass gives one of them. So such parameters
    count in the figure, but not in the verdict: other examples must show that they are right.

    Attributes:
        verdict: string, of the figure without the kinks: "correct" under 1e-7, "suspicious" under
            1e-5, else "wrong".
        kinks: int, the number of parameters on a kink.
        explanation: string, all of this in a sentence.

    Example:
        >>> from keras_bp.reference import Network, gradient_check
        >>> check = gradient_check(Network([2, 3, 1]), [[0.0, 0.5], [0.0, 1.0]], [[1.0, 0.0]])
        >>> check < 1e-7, check.verdict, check.kinks  # the first example is the origin
        (False, 'correct', 3)
    """

    verdict: str
    kinks: int
    explanation: str


def gradient_check(
    network: Network, X: Array, Y: Array, epsilon: float = 1e-5
) -> GradientCheckResult:
    """Compare a network's backward pass with central differences over all of its parameters.

    Dropout's masks are drawn once and used in every evaluation, so that the cost stays one
    function of the parameters. Batch normalization takes the batch's statistics. A ReLU whose
    input is within reach of 0 has no derivative that differences could find, and the figure is
    large though nothing is wrong; the result says for how many parameters, and judges without
    them. A few examples and biases other than 0 keep such kinks out: with zero biases, an example
    in the origin, or one whose units are all off, puts the next layer exactly on its kink.

    Args:
        network: `Network`; its parameters and running statistics are afterwards as they were.
        X: array of shape (n[0], m).
        Y: array of shape (n[L], m).
        epsilon: float > 0, the step of the differences. Defaults to 1e-5.

    Returns:
        A float, `relative_difference` of the two gradients: a `GradientCheckResult`, whose
        `verdict` is "correct", "suspicious" or "wrong".

    Raises:
        ValueError: if a shape or a value is wrong.

    Example:
        >>> from keras_bp.reference import Network, gradient_check
        >>> network = Network([2, 3, 1], ["tanh", "sigmoid"])
        >>> check = gradient_check(network, [[0.5, -1.0], [1.0, 2.0]], [[1.0, 0.0]])
        >>> check < 1e-8, check.verdict
        (True, 'correct')
    """
    X = np.asarray(X, dtype=np.float64)
    masks = network.draw_masks(X.shape[-1])
    network = copy.deepcopy(network)  # a forward pass moves the running statistics
    relu_layers = [i for i, name in enumerate(network.activations, 1) if name == "relu"]

    cache = network.forward(X, masks, training=True)
    analytic = network.backward(cache, Y).as_list()
    on = [cache.A[layer] > 0.0 for layer in relu_layers]
    switched = []

    def cost():
        moved = network.forward(X, masks, training=True)
        now = [moved.A[layer] > 0.0 for layer in relu_layers]
        switched.append(not all(map(np.array_equal, on, now)))
        return network.cost(moved, Y)

    numerical = numerical_gradients(cost, network.parameters, epsilon)
    on_kink = np.reshape(switched, (-1, 2)).any(axis=1)  # two evaluations per parameter
    ga, gn = (np.concatenate([g.ravel() for g in side]) for side in (analytic, numerical))
    result = GradientCheckResult(relative_difference(analytic, numerical))
    result.kinks = int(on_kink.sum())
    smooth = relative_difference([ga[~on_kink]], [gn[~on_kink]])
    result.verdict = "correct" if smooth < 1e-7 else "suspicious" if smooth < 1e-5 else "wrong"
    result.explanation = f"relative difference {result:.1e}"
    if result.kinks:
        result.explanation += (
            f"; {result.kinks} of {len(ga)} parameters stand on the kink of a ReLU, where "
            f"differences measure no derivative, and are not judged; without them {smooth:.1e}"
        )
    result.explanation += f": {result.verdict}"
    return result
