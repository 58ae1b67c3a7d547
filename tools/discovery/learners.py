"""Simple models that predict many numbers from a few: ridge, neighbours, a tiny network."""

import numpy as np

from keras_bp.tuning.discovery import MetaLearner, products


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
        expanded = products(x)
        penalty = self._penalty * np.eye(expanded.shape[1])
        penalty[0, 0] = 0
        gramian = expanded.T @ expanded + penalty
        self.arrays = {"coefficients": np.linalg.solve(gramian, expanded.T @ y)}
        return self

    def predict(self, x):
        """Return the outputs of inputs (examples, n)."""
        return products(x) @ self.arrays["coefficients"]


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


class Apprentice(MetaLearner):
    """A `MetaLearner` that can learn, by any of the learners.

    Args:
        learner: string, a key of `LEARNERS`.
        arrays: dict of the arrays that `save` writes; empty before `fit`.
    """

    def __init__(self, learner, arrays=None):
        super().__init__(arrays or {})
        self.learner = learner

    def fit(self, features, regrets):
        """Learn from features (tasks, features) and regrets (tasks, peaks, shapes)."""
        centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-3)
        ranges = {"low": features.min(axis=0), "high": features.max(axis=0)}
        self.arrays = {"centre": centre, "scale": scale, **ranges}
        roots = np.sqrt(np.clip(regrets, 1e-3, 1.0)).reshape(len(regrets), -1)
        learner = LEARNERS[self.learner]().fit(self._standardized(features), roots)
        learnt = {f"learner_{name}": array for name, array in learner.arrays.items()}
        self.arrays = {n: a.astype("float16") for n, a in (self.arrays | learnt).items()}
        return self

    def save(self, filepath):
        """Write the arrays to a `.npz` file."""
        np.savez_compressed(filepath, learner=self.learner, **self.arrays)

    @classmethod
    def load(cls, filepath):
        """Read what `save` has written."""
        with np.load(filepath, allow_pickle=False) as file:
            arrays = dict(file)
        return cls(str(arrays.pop("learner")), arrays)

    def _predict(self, x):
        learner = LEARNERS[self.learner]()
        learner.arrays = {
            name.removeprefix("learner_"): array.astype("float64")
            for name, array in self.arrays.items()
            if name.startswith("learner_")
        }
        return learner.predict(x)
