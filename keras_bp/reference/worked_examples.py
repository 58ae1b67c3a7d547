"""Three worked examples, printed step by step: `python -m keras_bp.reference.worked_examples`.

Backpropagation through two layers, Adam's second step, and batch normalization of four numbers.
Each step stands as its formula, and what comes out is computed by the classes of this package.
"""

import numpy as np

from keras_bp.reference.batch_normalization import BatchNormalization
from keras_bp.reference.network import Network
from keras_bp.reference.optimizers import SGD, Adam


def _show(step, formula, value):
    """Print a step's formula, and below it the value, a line for each row of the array."""
    print(f"{step:12}{formula}")
    for row in np.atleast_2d(value) + 0.0:  # it makes -0 a 0
        print(" " * 12 + "".join(f"{number:12.5g}" for number in row))


def _two_layers():
    """Print one step of gradient descent: 4 inputs, 3 ReLUs and a sigmoid, on one example."""
    print("Example 1: backpropagation through two layers, 4-3-1, one example")
    X, Y = [[1.0], [0.5], [-1.0], [2.0]], [[1.0]]
    network = Network([4, 3, 1], ["relu", "sigmoid"])
    network.parameters = [
        [[0.2, -0.1, 0.4, 0.1], [0.3, 0.2, -0.3, 0.2], [-0.1, 0.5, 0.1, -0.2]],
        [[0.1], [-0.1], [0.0]],
        [[0.5, -0.3, 0.8]],
        [[0.1]],
    ]
    for name, value in zip(("W[1]", "b[1]", "W[2]", "b[2]"), network.parameters, strict=True):
        _show("given", name, value)
    _show("given", "X, with Y = 1, alpha = 0.1", X)

    cache = network.forward(X)
    _show("step F1", "Z[1] = W[1] X + b[1]", cache.Z[1])
    _show("step F2", "A[1] = max(0, Z[1])", cache.A[1])
    _show("step F3", "Z[2] = W[2] A[1] + b[2]", cache.Z[2])
    _show("step F4", "A[2] = 1 / (1 + exp(-Z[2]))", cache.A[2])
    _show("step F5", "L = -(Y log A[2] + (1 - Y) log(1 - A[2]))", network.cost(cache, Y))

    gradients = network.backward(cache, Y)
    _show("step B1-B2", "dZ[2] = A[2] - Y", gradients.dZ[2])
    _show("step B3", "dW[2] = (1/m) dZ[2] A[1]^T, m = 1", gradients.dW[2])
    _show("step B4", "db[2] = (1/m) sum of dZ[2] over the examples", gradients.db[2])
    _show("step B5", "dA[1] = W[2]^T dZ[2]", gradients.dA[1])
    _show("step B6", "dZ[1] = dA[1] * (Z[1] > 0)", gradients.dZ[1])
    _show("step B7", "dW[1] = (1/m) dZ[1] X^T", gradients.dW[1])
    _show("step B8", "db[1] = (1/m) sum of dZ[1] over the examples", gradients.db[1])

    network.parameters = SGD(0.1).step(network.parameters, gradients.as_list())
    for layer in (2, 1):
        _show("update", f"W[{layer}] - alpha dW[{layer}]", network.W[layer])
        _show("update", f"b[{layer}] - alpha db[{layer}]", network.b[layer])


def _adam_step():
    """Print Adam's second step, from the averages that the first one left."""
    print("\nExample 2: Adam at t = 2, alpha = 0.001, beta_1 = 0.9, beta_2 = 0.999, eps = 1e-8")
    g = np.array([0.1, -0.3])
    state = {"m": np.array([0.02, -0.06]), "v": np.array([0.0001, 0.0009])}
    optimizer = Adam(0.001)
    optimizer.t, optimizer.state = 1, [state]
    _show("given", "the gradient g", g)
    _show("", "the averages m", state["m"])
    _show("", "and v", state["v"])
    [theta] = optimizer.step([np.zeros(2)], [g])
    m_hat, v_hat = optimizer.corrected(state)
    _show("step 1", "m = beta_1 m + (1 - beta_1) g", state["m"])
    _show("step 2", "v = beta_2 v + (1 - beta_2) g^2", state["v"])
    _show("step 3", "mh = m / (1 - beta_1^t)", m_hat)
    _show("", "vh = v / (1 - beta_2^t)", v_hat)
    _show("step 4", "taken from theta: alpha mh / (sqrt(vh) + eps)", -theta)


def _batch_normalization():
    """Print batch normalization's forward pass: one feature, four examples."""
    print("\nExample 3: batch normalization, gamma = 1.5, beta = 0.3, eps = 1e-5")
    z = [[2.0, 4.0, 6.0, 8.0]]
    layer = BatchNormalization(1, epsilon=1e-5)
    layer.gamma[:], layer.beta[:] = 1.5, 0.3
    y, cache = layer.forward(z)
    _show("given", "z", z)
    _show("step 1", "mu = mean z", cache.mean)
    _show("step 2", "var = mean (z - mu)^2", cache.variance)
    _show("step 3", "zh = (z - mu) / sqrt(var + eps)", cache.z_hat)
    _show("step 4", "y = gamma zh + beta", y)
    _show("check", "mean zh, mean zh^2", [cache.z_hat.mean(), np.mean(cache.z_hat**2)])


if __name__ == "__main__":
    _two_layers()
    _adam_step()
    _batch_normalization()
