# %% [markdown]
# # Lesson 5: Vanishing and exploding gradients
#
# After this lesson you can
#
# - say how a gradient's size changes through many layers, and when the well-known $(1/4)^k$ holds;
# - choose first weights by the activation, and say what they keep constant;
# - write the backward pass of a skip connection, and clipping by the norm of all gradients;
# - train a network of 100 layers, and let `TrainingHealth` say what is wrong with one that fails.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from _exercises import check
from sklearn.datasets import load_digits

from keras_bp import callbacks, gradients, layers, reference, visualization

rng = np.random.default_rng(0)
images, labels = load_digits(return_X_y=True)
X, Y = images.T / 16 - 0.3, np.eye(10)[labels].T  # columns are examples, as in lesson 1

# %% [markdown]
# ## A product of many factors
#
# A layer $A_l = g(W_l A_{l-1} + b_l)$ hands the gradient back as
#
# $$dA_{l-1} = W_l^T (g'(Z_l) \odot dA_l) .$$
#
# Through $k$ layers that is a product of $2k$ factors, and a product of many numbers below 1 is
# nothing, of many above 1 it is huge. With $\lVert W \rVert$ for the largest factor by which $W$
# lengthens a vector, each layer multiplies the gradient by at most
# $\lVert W_l \rVert \max \lvert g' \rvert$; for a sigmoid $\max g' = g'(0) = \frac{1}{4}$.
#
# **Exercise 1.** From the norms of $k$ sigmoid layers' weights, write the largest factor by which
# the gradient can change on its way back through all of them. (The check builds a chain of layers
# of one unit, in which every $z$ is 0, so that the bound is reached.)


# %%
def sigmoid_bound(weight_norms):
    """Return the bound on |dA_0| / |dA_k|; `weight_norms` is an array of length k."""
    ...


# %%
def chain(weights):
    """Return |dA_0| / |dA_k| of k sigmoid layers of one unit, measured by the backward pass."""
    k = len(weights)
    network = reference.Network([1] * (k + 2), ["sigmoid"] * (k + 1))
    for layer, weight in enumerate(weights, start=1):
        network.W[layer][:] = weight
        network.b[layer][:] = 0.0 if layer == 1 else -0.5 * weight  # which brings z to 0
    result = network.backward(network.forward([[0.0]]), [[1.0]])
    return abs(result.dA[0] / result.dA[k]).item()


for weights in (np.ones(10), np.array([3.0, 0.5, 6.0, 2.0])):
    check(sigmoid_bound, weights, expected=chain(weights))

# %%
print(" k   weights 1   weights 3   weights 6")
for k in (1, 5, 10, 20):
    print(f"{k:2}" + "".join(f"{chain(np.full(k, weight)):12.1e}" for weight in (1.0, 3.0, 6.0)))

# %% [markdown]
# $(1/4)^k$ is the first column: it holds if no layer's weights lengthen a vector, and is false
# without that condition. The third column *explodes*, with sigmoids.
#
# ## First weights
#
# ReLU's derivative is 0 or 1, and leaves it all to the weights. Take a layer with $n$ inputs and
# independent weights of mean 0 and deviation $s$. A pre-activation's mean square is then $n s^2$
# times that of the inputs. ReLU sets half of the pre-activations to 0, and with them half of the
# mean square; a linear layer (or tanh near 0) keeps it.
#
# **Exercise 2.** Write the deviation of the weights that keeps the signals' mean square from layer
# to layer. (The check measures one very wide layer, so that it allows for 3 %.)


# %%
def weight_deviation(inputs, activation):
    """Return s; `inputs` is n, `activation` is "relu" or "linear"."""
    ...


# %%
for activation, g in (("relu", reference.relu), ("linear", reference.linear)):
    a = rng.normal(size=(100, 200))
    growth = np.mean(g(rng.normal(size=(4000, 100)) @ a) ** 2) / np.mean(a**2)
    # With a deviation of 1 the mean square grows this much, and with s it grows s^2 times that.
    check(weight_deviation, 100, activation, expected=1 / np.sqrt(growth), rtol=0.03)

# %% [markdown]
# What this does to 100 layers of 64 units, forward and backward, at the first step:


# %%
def build(activation, scale, depth=100, units=64):
    """Return a network; its hidden weights have `scale` times the deviation sqrt(1 / n)."""
    activations = [activation] * (depth - 1) + ["softmax"]
    sizes = [64] + [units] * (depth - 1) + [10]
    network, draw = reference.Network(sizes, activations), np.random.default_rng(1)
    for layer, weights in network.W.items():
        deviation = (scale if layer < depth else 1.0) / np.sqrt(weights.shape[1])
        weights[:] = deviation * draw.normal(size=weights.shape)
    return network


def draw_flow():
    kinds = {
        "sigmoid, deviation sqrt(1/n)": ("sigmoid", 1.0),
        "ReLU, sqrt(1/n)": ("relu", 1.0),
        "ReLU, sqrt(2/n): He": ("relu", np.sqrt(2)),
        "ReLU, 1.5 times He": ("relu", 1.5 * np.sqrt(2)),
    }
    _, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharex=True)
    for label, (activation, scale) in kinds.items():
        network = build(activation, scale)
        cache = network.forward(X[:, :32])
        dZ = network.backward(cache, Y[:, :32]).dZ
        hidden = np.arange(1, network.L)
        axes[0].semilogy(hidden, [cache.Z[layer].std() for layer in hidden], label=label)
        axes[1].semilogy(hidden, [np.sqrt(np.mean(dZ[layer] ** 2)) for layer in hidden])
    axes[0].set(title="Forward: deviation of Z", xlabel="layer", ylim=(1e-20, 1e20))
    axes[1].set(title="Backward: root mean square of dZ", xlabel="layer", ylim=(1e-65, 1e20))
    axes[0].figure.legend(loc="outside right upper", frameon=False)


draw_flow()

# %% [markdown]
# Only the second deviation of the three for ReLU keeps both passes level. 1.5 times as large, and
# after 99 layers everything is $1.5^{99} \approx 10^{17}$ times as large. Of the sigmoid's gradient
# nothing is left, although its forward pass looks healthy.
#
# ## A way round: skip connections
#
# A skip connection adds its input to what the layer computes: $Y = A + g(W A + b)$. The gradient
# then has two ways back, and on one of them nothing is multiplied.
#
# **Exercise 3.** Write the backward pass of $Y = A + \tanh(W A)$.


# %%
def skip_backward(dY, A, W):
    """Return dA and dW of the sum over the m examples; dY and A have shape (n, m), W (n, n)."""
    ...


# %%
A, dY, W = rng.normal(size=(5, 8)), rng.normal(size=(5, 8)), 0.5 * rng.normal(size=(5, 5))
values = [tf.constant(A), tf.constant(W)]
with tf.GradientTape() as tape:
    tape.watch(values)
    outputs = values[0] + tf.tanh(values[1] @ values[0])
expected = tuple(g.numpy() for g in tape.gradient(outputs, values, dY))
check(skip_backward, dY, A, W, expected=expected)

# %%
for name, skip in (("plain", 0.0), ("with skip connections", 1.0)):
    weights = [rng.normal(size=(64, 64)) / 64 for _ in range(100)]  # small: an eighth of sqrt(1/n)
    ends = [tf.constant(rng.normal(size=(64, 32)))]
    with tf.GradientTape() as tape:
        tape.watch(ends[0])
        signal = ends[0]
        for W in weights:
            signal = skip * signal + tf.tanh(W @ signal)
    back = tape.gradient(signal, ends[0], tf.ones_like(signal))
    size = np.sqrt(np.mean(back**2))
    print(f"{name}: through 100 layers gradients of 1 arrive with the size {size:.1e}")

# %% [markdown]
# ## Clipping
#
# Exploding gradients can also be cut. Clipping *by the global norm* divides all gradients by one
# number, so that together they are no longer than a limit $c$ and keep their direction. Gradients
# that are shorter stay as they are:
#
# $$g_i \leftarrow g_i \min\left(1, \frac{c}{\lVert g \rVert}\right), \qquad
# \lVert g \rVert = \sqrt{\sum_i \lVert g_i \rVert^2} .$$
#
# **Exercise 4.** Write it, without TensorFlow.


# %%
def clip_by_global_norm(gradients, limit):
    """Return the clipped gradients, a tuple of arrays; `gradients` is a list of arrays."""
    ...


# %%
some = [rng.normal(size=shape) for shape in ((3, 2), (3, 1), (1, 3))]
for limit in (0.5, 100.0):
    clipped = gradients.clip([tf.constant(g) for g in some], global_clipnorm=limit)
    check(clip_by_global_norm, some, limit, expected=tuple(g.numpy() for g in clipped))

# %% [markdown]
# ## 100 layers
#
# Does a plain network of 100 layers train, without skip connections and normalization? Deviations
# of the right size keep the *mean* square. But some directions shrink and others grow, more with
# each layer, until all examples look alike. An orthogonal matrix keeps every length exactly, and
# tanh is close to linear for small signals; so give it orthogonal weights, 1.05 times as large for
# what tanh takes off. The rate is high, so that clipping has something to do.


# %%
def deep_network(orthogonal):
    network = build("tanh", 1.0, units=32)
    if orthogonal:
        for layer, weights in network.W.items():
            u, _, v = np.linalg.svd(weights, full_matrices=False)
            network.W[layer] = 1.05 * u @ v
    return network


def train(network, limit, steps=80, rate=0.1):
    """Return the losses; `limit` is the largest norm of all gradients."""
    optimizer, draw, losses = reference.SGD(rate), np.random.default_rng(0), []
    for _ in range(steps):
        batch = draw.permutation(X.shape[1])[:64]
        cache = network.forward(X[:, batch])
        losses.append(network.cost(cache, Y[:, batch]))
        found = network.backward(cache, Y[:, batch]).as_list()
        norm = np.sqrt(sum(np.sum(g**2) for g in found))
        scale = min(1.0, limit / norm)
        network.parameters = optimizer.step(network.parameters, [scale * g for g in found])
    return losses


runs = {
    "normal weights, clipped": (False, 1.0),
    "orthogonal, not clipped": (True, np.inf),
    "orthogonal, clipped": (True, 1.0),
}
figure, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
for name, (orthogonal, limit) in runs.items():
    network = deep_network(orthogonal)
    losses = train(network, limit)
    ax.plot(losses, label=f"{name}: {network.accuracy(X[:, :400], Y[:, :400]):.0%}")
ax.set(title="100 layers on digits", xlabel="update steps", ylabel="loss", ylim=(0, 4))
figure.legend(loc="outside right upper", frameon=False, title="training accuracy")
plt.show()

# %% [markdown]
# Weights that keep lengths make 100 layers trainable, and clipping makes them trainable at this
# rate: one long step, and a network of this depth does not come back.
#
# ## What the package says
#
# `keras_bp.callbacks.TrainingHealth` looks for these faults while a Keras model trains, and
# `keras_bp.callbacks.GradientMonitor` records every layer's gradient norm. First a network that has
# no chance: sigmoids and default weights.

# %%
x, y = X.T.astype("float32"), labels


def fit_deep(activation, initializer, depth=8):
    """Train a network of 16 units a layer for 20 steps, and return what was recorded."""
    keras.utils.set_random_seed(0)
    hidden = [
        layers.Dense(16, activation, kernel_initializer=initializer, name=f"hidden_{i}")
        for i in range(1, depth)
    ]
    model = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, name="logits")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    health = callbacks.TrainingHealth(action=lambda finding: None)
    monitor = callbacks.GradientMonitor(log_dir="tb_logs/lesson_5")
    model.fit(x[:640], y[:640], verbose=0, callbacks=[health, monitor])
    print(health.report)
    return monitor


monitor = fit_deep("sigmoid", "glorot_uniform")
figure = visualization.plot_gradient_flow(monitor)

# %% [markdown]
# Each row is a layer: up to the first one the gradient loses four decades. Take the advice, and
# call `fit_deep("relu", "he_normal")`: nothing is found, and the rows have one colour. What is
# found with `keras.initializers.VarianceScaling(20.0)` in place of "he_normal"?

# %% [markdown]
# ## Where to go on
#
# - [Depth and cost, derived](../docs/derivations/depth_and_cost.md): the bound with its condition,
#   ReLU, and what the backward pass costs.
# - [Monitoring](../docs/monitoring.md): all that `keras_bp.callbacks.TrainingHealth` finds, and the
#   charts of `keras_bp.callbacks.GradientMonitor` in TensorBoard.
# - In a Keras optimizer: `global_clipnorm=1.0`; the function is `keras_bp.gradients.clip`.
# - `examples/training_health.py`, `examples/gradient_clipping.py` (a recurrent network, 64 steps
#   back) and `examples/initialization.py`.
