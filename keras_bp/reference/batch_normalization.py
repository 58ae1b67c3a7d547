"""Batch normalization, forward and backward."""

from typing import NamedTuple

import numpy as np

from keras_bp._arguments import check_integer, check_number
from keras_bp._types import Array
from keras_bp.reference._checks import check_matrix


class BatchNormalizationCache(NamedTuple):
    """What the training-time forward pass leaves for the backward pass.

    Attributes:
        mean: (n, 1), the batch's mean of each feature.
        variance: (n, 1), the mean of the squared deviations.
        z_hat: (n, m), the normalized input.

    Example:
        >>> from keras_bp.reference import BatchNormalization
        >>> _, cache = BatchNormalization(1).forward([[2.0, 4.0, 6.0, 8.0]])
        >>> cache.mean.tolist(), cache.variance.tolist()
        ([[5.0]], [[5.0]])
    """

    mean: np.ndarray
    variance: np.ndarray
    z_hat: np.ndarray


class BatchNormalization:
    """Normalize each feature over the examples of the batch, then scale and shift it.

    Training, with means over the m examples:

        mu = mean z;  var = mean (z - mu)^2;  zh = (z - mu) / sqrt(var + eps)
        y = gamma zh + beta
        running = momentum running + (1 - momentum) batch       (mean and variance)

    Inference puts the running mean and variance in place of the batch's. Backward, in which
    mu and var depend on every example:

        dgamma = sum dy zh;  dbeta = sum dy
        dz = gamma / sqrt(var + eps) (dy - mean dy - zh mean(dy zh))

    Args:
        units: int >= 1, the number of features n.
        momentum: float in [0, 1), the running averages' decay. Defaults to 0.9.
        epsilon: float > 0. Defaults to 1e-5.

    Attributes:
        gamma: (n, 1) float64, ones at first.
        beta: (n, 1) float64, zeros at first.
        running_mean: (n, 1) float64, zeros at first.
        running_variance: (n, 1) float64, ones at first.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is out of range.

    Example:
        >>> from keras_bp.reference import BatchNormalization
        >>> layer = BatchNormalization(1)
        >>> Y, cache = layer.forward([[2.0, 4.0, 6.0, 8.0]])
        >>> Y.round(3).tolist(), layer.running_mean.round(3).tolist()
        ([[-1.342, -0.447, 0.447, 1.342]], [[0.5]])
        >>> dZ, dgamma, dbeta = layer.backward([[1.0, 0.0, 0.0, 0.0]], cache)
        >>> dZ.round(3).tolist()
        [[0.134, -0.179, -0.045, 0.089]]

    References:
        Ioffe and Szegedy, 2015, "Batch normalization: accelerating deep network training by
        reducing internal covariate shift", algorithm 1 and section 3.
    """

    def __init__(self, units: int, momentum: float = 0.9, epsilon: float = 1e-5) -> None:
        self.units = check_integer("units", units, 1)
        self.momentum = check_number("momentum", momentum, 0.0, 1.0, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
        self.gamma = np.ones((self.units, 1))
        self.beta = np.zeros((self.units, 1))
        self.running_mean = np.zeros((self.units, 1))
        self.running_variance = np.ones((self.units, 1))

    def forward(self, Z: Array) -> tuple[np.ndarray, BatchNormalizationCache]:
        """Normalize with the batch's statistics, and move the running ones towards them.

        Args:
            Z: array of shape (n, m), m >= 1.

        Returns:
            Y: float64 array of shape (n, m).
            cache: `BatchNormalizationCache`, for `backward`.

        Raises:
            ValueError: if the shape of `Z` is wrong.
        """
        Z = check_matrix("Z", Z, (self.units, None))
        mean = Z.mean(axis=1, keepdims=True)
        centred = Z - mean
        variance = np.mean(centred**2, axis=1, keepdims=True)
        z_hat = centred / np.sqrt(variance + self.epsilon)
        kept, new = self.momentum, 1.0 - self.momentum
        self.running_mean = kept * self.running_mean + new * mean
        self.running_variance = kept * self.running_variance + new * variance
        return self.gamma * z_hat + self.beta, BatchNormalizationCache(mean, variance, z_hat)

    def backward(
        self, dY: Array, cache: BatchNormalizationCache
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the gradients with respect to the input, gamma and beta.

        Args:
            dY: array of shape (n, m), the gradient with respect to `forward`'s output.
            cache: what that forward pass returned, with gamma unchanged since.

        Returns:
            dZ: float64 array of shape (n, m).
            dgamma: float64 array of shape (n, 1).
            dbeta: float64 array of shape (n, 1).

        Raises:
            ValueError: if the shape of `dY` is wrong.
        """
        dY = check_matrix("dY", dY, cache.z_hat.shape)
        m = dY.shape[1]
        dgamma = np.sum(dY * cache.z_hat, axis=1, keepdims=True)
        dbeta = np.sum(dY, axis=1, keepdims=True)
        scale = self.gamma / np.sqrt(cache.variance + self.epsilon)
        dZ = scale * (dY - dbeta / m - cache.z_hat * dgamma / m)
        return dZ, dgamma, dbeta

    def infer(self, Z: Array) -> np.ndarray:
        """Normalize with the running statistics, each example by itself.

        Args:
            Z: array of shape (n, m), m >= 1.

        Returns:
            A float64 array of shape (n, m).

        Raises:
            ValueError: if the shape of `Z` is wrong.
        """
        Z = check_matrix("Z", Z, (self.units, None))
        z_hat = (Z - self.running_mean) / np.sqrt(self.running_variance + self.epsilon)
        return self.gamma * z_hat + self.beta
