"""Simple models that predict many numbers from a few: ridge, neighbours, a tiny network."""

import numpy as np


class Ridge:
    """Least squares with a penalty, of the inputs, their squares and their products.

    Args:
        penalty: number above 0, of the squared coefficients, the constant's left out.
    """

    def __init__(self, penalty=1000.0):
        self._penalty = penalty
        self.arrays = {}

    def fit(self, x, y):
        """Learn from inputs (examples, n) and outputs (examples, m)."""
        expanded = _products(x)
        penalty = self._penalty * np.eye(expanded.shape[1])
        penalty[0, 0] = 0
        gramian = expanded.T @ expanded + penalty
        self.arrays = {"coefficients": np.linalg.solve(gramian, expanded.T @ y)}
        return self

    def predict(self, x):
        """Return the outputs of inputs (examples, n)."""
        return _products(x) @ self.arrays["coefficients"]


def _products(x):
    rows, columns = np.triu_indices(x.shape[1])
    return np.concatenate([np.ones((len(x), 1)), x, x[:, rows] * x[:, columns]], axis=1)


class Neighbours:
    """The mean of all examples, those near by weighing more.

    Args:
        width: number above 0, the root mean square difference at which a weight is 0.6.
    """

    def __init__(self, width=0.4):
        self._width = width
        self.arrays = {}

    def fit(self, x, y):
        """Remember inputs (examples, n) and outputs (examples, m)."""
        self.arrays = {"inputs": x, "outputs": y}
        return self

    def predict(self, x):
        """Return the outputs of inputs (examples, n)."""
        squares = np.mean((x[:, None] - self.arrays["inputs"]) ** 2, axis=2)
        squares -= squares.min(axis=1, keepdims=True)
        weights = np.exp(-squares / (2 * self._width**2))
        return weights @ self.arrays["outputs"] / weights.sum(axis=1, keepdims=True)


class TinyNetwork:
    """One hidden layer of tanh units, the mean of several trained from different weights.

    Trained by Adam on all examples at once, on the mean square with a decay of the weights.

    Args:
        units: integer, the hidden units of each.
        members: integer, how many are averaged.
        steps: integer, update steps.
        decay: number, share of the kernels that a step of rate 1 takes away.
        seed: integer.
    """

    def __init__(self, units=6, members=2, steps=1000, decay=1.0, seed=0):
        self._units, self._members, self._steps = units, members, steps
        self._decay, self._seed = decay, seed
        self.arrays = {}

    def fit(self, x, y):
        """Learn from inputs (examples, n) and outputs (examples, m)."""
        generator = np.random.default_rng(self._seed)
        members, n, m = self._members, x.shape[1], y.shape[1]
        w = {
            "hidden": generator.normal(0, n**-0.5, (members, n, self._units)),
            "hidden_bias": np.zeros((members, 1, self._units)),
            "output": generator.normal(0, 0.3 * self._units**-0.5, (members, self._units, m)),
            "output_bias": np.tile(y.mean(axis=0), (members, 1, 1)),
        }
        moments = {name: np.zeros((2, *value.shape)) for name, value in w.items()}
        for step in range(1, self._steps + 1):
            rate = 0.01 * (1 - (step - 1) / self._steps)
            hidden = np.tanh(x @ w["hidden"] + w["hidden_bias"])
            error = (hidden @ w["output"] + w["output_bias"] - y) / len(x)
            inner = error @ np.swapaxes(w["output"], 1, 2) * (1 - hidden**2)
            gradients = {
                "hidden": x.T @ inner,
                "hidden_bias": inner.sum(axis=1, keepdims=True),
                "output": np.swapaxes(hidden, 1, 2) @ error,
                "output_bias": error.sum(axis=1, keepdims=True),
            }
            for name, gradient in gradients.items():
                first, second = moments[name]
                first += 0.1 * (gradient - first)
                second += 0.01 * (gradient**2 - second)
                mean, square = first / (1 - 0.9**step), second / (1 - 0.99**step)
                decay = self._decay if not name.endswith("bias") else 0.0
                w[name] = w[name] - rate * (mean / (np.sqrt(square) + 1e-12) + decay * w[name])
        self.arrays = w
        return self

    def predict(self, x):
        """Return the outputs of inputs (examples, n)."""
        w = self.arrays
        hidden = np.tanh(x @ w["hidden"] + w["hidden_bias"])
        return (hidden @ w["output"] + w["output_bias"]).mean(axis=0)


LEARNERS = {"ridge": Ridge, "neighbours": Neighbours, "network": TinyNetwork}
