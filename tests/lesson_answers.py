"""Right answers to the exercises of the lessons, each a function by its exercise's name.

`test_lessons.py` gives them to the lessons' checks, and takes wrong answers from them.
"""

import numpy as np

# Lesson 1: backpropagation by hand


def forward(X, W1, b1, W2, b2):
    Z1 = W1 @ X + b1
    A1 = np.maximum(Z1, 0.0)
    Z2 = W2 @ A1 + b2
    return Z1, A1, Z2, 1.0 / (1.0 + np.exp(-Z2))


def layer_gradient(dZ, A, W):
    m = A.shape[1]
    return dZ @ A.T / m, dZ.sum(axis=1, keepdims=True) / m, W.T @ dZ


def sigmoid_output_gradient(Z, Y):
    return 1.0 / (1.0 + np.exp(-Z)) - Y


def softmax_output_gradient(Z, Y):
    powers = np.exp(Z - Z.max(axis=0))
    return powers / powers.sum(axis=0) - Y


def backward(X, Y, W1, b1, W2, b2):
    Z1, A1, Z2, _ = forward(X, W1, b1, W2, b2)
    dW2, db2, dA1 = layer_gradient(sigmoid_output_gradient(Z2, Y), A1, W2)
    dW1, db1, _ = layer_gradient(dA1 * (Z1 > 0.0), X, W1)
    return {"dW1": dW1, "db1": db1, "dW2": dW2, "db2": db2}


# Lesson 2: the gradient check


def central_differences(cost, theta, epsilon):
    gradient = np.empty_like(theta)
    for index in np.ndindex(theta.shape):
        step = np.zeros_like(theta)
        step[index] = epsilon
        gradient[index] = (cost(theta + step) - cost(theta - step)) / (2.0 * epsilon)
    return gradient


def difference_of(analytic, numerical):
    a, n = (np.concatenate([array.ravel() for array in side]) for side in (analytic, numerical))
    return np.linalg.norm(a - n) / (np.linalg.norm(a) + np.linalg.norm(n))


def best_step(c, r):
    return (r / (2.0 * c)) ** (1.0 / 3.0)


def slope_of_relu(z, epsilon):
    return np.clip((z + epsilon) / (2.0 * epsilon), 0.0, 1.0)


def position_of_wrong(candidates, z):
    def figure(function, derivative):
        slopes = (function(z + 1e-5) - function(z - 1e-5)) / 2e-5
        return difference_of([derivative(z)], [slopes])

    return 1 + np.argmax([figure(*pair) for pair in candidates])


# Lesson 3: optimizers
def largest_rate(curvatures):
    return 2 / np.max(curvatures)


def momentum_step(theta, v, gradient, rate, beta):
    v = beta * v + (1 - beta) * gradient
    return theta - rate * v, v


def weights_of_the_past(beta, t):
    return (1 - beta) * beta ** np.arange(t)


def adam_step(theta, m, v, gradient, t, rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
    m = beta_1 * m + (1 - beta_1) * gradient
    v = beta_2 * v + (1 - beta_2) * gradient**2
    m_hat, v_hat = m / (1 - beta_1**t), v / (1 - beta_2**t)
    return theta - rate * m_hat / (np.sqrt(v_hat) + epsilon), m, v


def length_without_correction(t, beta_1, beta_2):
    return (1 - beta_1**t) / np.sqrt(1 - beta_2**t)


# Lesson 4: normalization and dropout


def scale_and_shift_gradients(dy, x_hat):
    return np.sum(dy * x_hat, axis=0), np.sum(dy, axis=0)


def batch_normalization_dx(dy, x_hat, gamma, variance, epsilon):
    through_mean, through_variance = dy.mean(axis=0), x_hat * np.mean(dy * x_hat, axis=0)
    return gamma / np.sqrt(variance + epsilon) * (dy - through_mean - through_variance)


def infer(x, gamma, beta, running_mean, running_variance, epsilon):
    return gamma * (x - running_mean) / np.sqrt(running_variance + epsilon) + beta


def layer_normalization_dx(dy, x_hat, gamma, variance, epsilon):
    g = gamma * dy
    means = g.mean(axis=1, keepdims=True), np.mean(g * x_hat, axis=1, keepdims=True)
    return (g - means[0] - x_hat * means[1]) / np.sqrt(variance + epsilon)


def dropout_passes(x, dy, kept, rate):
    return x * kept / (1 - rate), dy * kept / (1 - rate)


# Lesson 5: vanishing and exploding gradients


def sigmoid_bound(weight_norms):
    return np.prod(np.asarray(weight_norms) / 4)


def weight_deviation(inputs, activation):
    return np.sqrt((2 if activation == "relu" else 1) / inputs)


def skip_backward(dY, A, W):
    dZ = dY * (1 - np.tanh(W @ A) ** 2)
    return dY + W.T @ dZ, dZ @ A.T


def clip_by_global_norm(gradients, limit):
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    return tuple(g * min(1.0, limit / norm) for g in gradients)


# Lesson 6: schedules and the range test


def step_decay(t, initial, factor, period):
    return initial * factor ** (t // period)


def exponential_decay(t, initial, half_life):
    return initial * 0.5 ** (t / half_life)


def warmup_cosine(t, peak, warmup, total):
    share = np.minimum((t - warmup) / (total - warmup), 1.0)
    return np.where(t < warmup, peak * t / warmup, peak / 2 * (1 + np.cos(np.pi * share)))


def smoothed(batch_losses, beta):
    average, averages = 0.0, []
    for k, loss in enumerate(batch_losses):
        average = beta * average + (1 - beta) * loss
        averages.append(average / (1 - beta ** (k + 1)))
    return np.array(averages)


def steepest(rates, smoothed_losses):
    return rates[np.argmin(np.diff(smoothed_losses) / np.diff(np.log(rates)))]
