# %% [markdown]
# # Lesson 1: Backpropagation by hand
#
# After this lesson you can
#
# - write the forward and the backward pass of a network, with every shape;
# - say why a sigmoid and a softmax both hand back the same short gradient;
# - put the factor 1/m where it belongs, and train a network.
#
# An exercise is a function to fill in. Run the cell below it: it says what is wrong with your
# answer, and never what is right.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from _exercises import check

from keras_bp import layers, losses, reference, visualization

rng = np.random.default_rng(0)

# %% [markdown]
# ## A network, and its shapes
#
# Columns are examples. A layer $l$ with $n_l$ units takes the activations $A_{l-1}$ of the layer
# below to
#
# $$Z_l = W_l A_{l-1} + b_l, \qquad A_l = g_l(Z_l), \qquad A_0 = X.$$
#
# $W_l$ has the shape $(n_l, n_{l-1})$, $b_l$ the shape $(n_l, 1)$; it is added to every column.
# Here are four inputs, three hidden units with ReLU, $g(z) = \max(z, 0)$, one sigmoid unit,
# $\sigma(z) = 1 / (1 + e^{-z})$, and five examples.

# %%
n0, n1, n2, m = 4, 3, 1, 5
X, Y = rng.normal(size=(n0, m)), np.array([[1.0, 0.0, 1.0, 1.0, 0.0]])
network = reference.Network([n0, n1, n2])  # ReLU, then a sigmoid
for b in network.b.values():
    b[:] = 0.1
W1, b1, W2, b2 = network.parameters
for name, array in {"X": X, "W1": W1, "b1": b1, "W2": W2, "b2": b2, "Y": Y}.items():
    print(f"{name:3}{array.shape}")

# %% [markdown]
# **Exercise 1.** Write the forward pass, in NumPy.


# %%
def forward(X, W1, b1, W2, b2):
    """Return Z1 and A1 of the shape (n1, m), Z2 and A2 of the shape (n2, m)."""
    ...


# %%
cache = network.forward(X)
check(forward, X, W1, b1, W2, b2, expected=(cache.Z[1], cache.A[1], cache.Z[2], cache.A[2]))

# %% [markdown]
# ## Backward, one layer at a time
#
# The cost $J = \frac1m \sum_j \ell_j$ is the mean of the examples' losses. Write $dZ$ for the
# gradient with respect to $Z$; it has $Z$'s shape. Column $j$ of $dZ_l$ and of $dA_l$ holds the
# gradient of the loss $\ell_j$ of *that* example, not yet divided by $m$; $dW_l$ and $db_l$ are
# gradients of the mean $J$.
#
# Suppose that $dZ_l$ is known. By the chain rule each entry of $W_l$, $b_l$ and $A_{l-1}$ gets the
# sum, over all it acts on, of $dZ_l$ times the local derivative. A weight $W_{l,ik}$ acts on unit
# $i$ in every example, there with the factor $A_{l-1,kj}$; a bias acts there too, with the factor
# 1; an activation $A_{l-1,kj}$ acts on every unit $i$ of its own example, with the factor
# $W_{l,ik}$. A sum of products over one index is a matrix product, and shapes leave only one that
# fits.
#
# One layer that is linear, $Z = W A + b$, with some $dZ$:

# %%
A = rng.normal(size=(n0, m))
dZ = rng.normal(size=(n1, m))
print(f"W {W1.shape}, A {A.shape}, dZ {dZ.shape}")

# %% [markdown]
# **Exercise 2.** Return the three gradients of a linear layer. What the cell below compares with is
# automatic differentiation of $Z = W A + b$, in the direction of dZ.


# %%
def layer_gradient(dZ, A, W):
    """Return dW and db, means over the m examples, and dA; each of its array's shape."""
    ...


# %%
w, b, a = (tf.Variable(array) for array in (W1, b1, A))
with tf.GradientTape(persistent=True) as tape:
    along = tf.reduce_sum((w @ a + b) * dZ, axis=0)  # one number for each example
    mean = tf.reduce_mean(along)
expected = (tape.gradient(mean, w), tape.gradient(mean, b), tape.gradient(along, a))
check(layer_gradient, dZ, A, W1, expected=expected, batch=m)

# %% [markdown]
# ## The output
#
# The first $dZ$, that of the output, follows from the loss. Of the binary cross-entropy
# $\ell = -y \log a - (1 - y) \log(1 - a)$ behind a sigmoid, $a = \sigma(z)$ with
# $\sigma'(z) = a (1 - a)$:
#
# $$\frac{d\ell}{da} = -\frac{y}{a} + \frac{1 - y}{1 - a}, \qquad
# \frac{d\ell}{dz} = \frac{d\ell}{da} a (1 - a).$$
#
# Multiply it out before you write it down: the denominators cancel. Computed as they stand, they
# divide by 0 where the sigmoid is saturated:

# %%
z = np.array([-40.0, -1.0, 0.5, 40.0])
a = reference.sigmoid(z)
with np.errstate(divide="ignore", invalid="ignore"):
    print("y = 0, in two steps:", 1.0 / (1.0 - a) * a * (1.0 - a))

# %% [markdown]
# **Exercise 3.** The gradient of both output layers with respect to $Z$: sigmoid with binary
# cross-entropy, and softmax, $a_k = e^{z_k} / \sum_i e^{z_i}$ over the rows of a column, with
# categorical cross-entropy, $\ell = -\sum_k y_k \log a_k$. Both must survive large numbers.


# %%
def sigmoid_output_gradient(Z, Y):
    """Return dZ of the sigmoid's cross-entropy, of the shape (1, m), not divided by m."""
    ...


# %%
def softmax_output_gradient(Z, Y):
    """Return dZ of the softmax's cross-entropy, of the shape (classes, m), not divided by m."""
    ...


# %%
logits, targets = tf.constant([[-40.0, -1.0, 0.5, 40.0]], tf.float64), np.array([[0.0, 1, 1, 0]])
with tf.GradientTape() as tape:
    tape.watch(logits)
    loss = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
expected = tape.gradient(loss, logits)
check(sigmoid_output_gradient, logits.numpy(), targets, expected=expected, batch=4)

# %%
logits = tf.constant([[1000.0, 0.3], [1.0, -0.2], [-5.0, 2.0]], tf.float64)
targets = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
with tf.GradientTape() as tape:
    tape.watch(logits)
    loss = tf.nn.softmax_cross_entropy_with_logits(targets, logits, axis=0)
expected = tape.gradient(loss, logits)
check(softmax_output_gradient, logits.numpy(), targets, expected=expected, batch=2)

# %% [markdown]
# ## The factor 1/m
#
# Of a sum over the examples the gradient grows with the batch, and with it the step of gradient
# descent; of a mean it does not, and one learning rate serves every batch size. The factor stands
# in the equations of $dW$ and $db$, once. Forgotten it acts like a learning rate that is m times
# too large; taken twice, like one that is m times too small.

# %%
examples, labels = reference.generate_spiral_data()
order = rng.permutation(400)
probe = reference.Network([2, 16, 8, 1])
print("  m   |dW1| of the sum   of the mean")
for size in (10, 100, 400):
    batch = order[:size]
    gradients = probe.backward(probe.forward(examples[:, batch]), labels[:, batch])
    norm = np.linalg.norm(gradients.dW[1])
    print(f"{size:3} {size * norm:18.3f} {norm:13.3f}")

# %% [markdown]
# ## The whole backward pass
#
# From the output down: $dZ_2$ from exercise 3; $dW_2$, $db_2$ and $dA_1$ from exercise 2; through
# the ReLU, whose derivative is 1 where $z > 0$ and 0 elsewhere,
#
# $$dZ_1 = dA_1 \odot [Z_1 > 0];$$
#
# then $dW_1$ and $db_1$ as those of layer 2, with $X$ for $A_1$. The cell below computes the cost
# twice for each of the parameters; the backward pass visits each layer once.
#
# **Exercise 4.** The gradients of the whole network. Call your functions from above.


# %%
def backward(X, Y, W1, b1, W2, b2):
    """Return a dictionary of dW1, db1, dW2 and db2, the gradients of the mean cost."""
    ...


# %%
slopes = reference.numerical_gradients(
    lambda: network.cost(network.forward(X), Y), network.parameters
)
expected = dict(zip(["dW1", "db1", "dW2", "db2"], slopes, strict=True))
check(backward, X, Y, W1, b1, W2, b2, expected=expected, batch=m)

# %% [markdown]
# ## The same in Keras
#
# Keras keeps examples in rows and a kernel as $W^T$. `keras_bp.layers.Dense` has the backward pass
# of exercise 2, written out; `GradientTape` finds the path through the layers. The numbers are the
# same. In the picture a circle's colour is its $|dZ|$, averaged over the examples; a line is a
# weight.

# %%
model = keras.Sequential(
    [
        keras.Input((n0,), dtype="float64"),
        layers.Dense(n1, activation="relu", name="hidden", dtype="float64"),
        layers.Dense(n2, activation="sigmoid", name="output", dtype="float64"),
    ]
)
model.compile(loss=losses.BinaryCrossentropy(dtype="float64"))
model.set_weights([W1.T, b1[:, 0], W2.T, b2[:, 0]])
with tf.GradientTape() as tape:
    cost = model.loss(Y.T, model(X.T))
theirs = tape.gradient(cost, model.trainable_variables)
dW, db, *_ = network.backward(network.forward(X), Y)
ours = [dW[1].T, db[1][:, 0], dW[2].T, db[2][:, 0]]
print("largest difference:", max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)))
visualization.plot_backprop(model, X.T, Y.T)
plt.show()

# %% [markdown]
# ## Training
#
# Two spirals, with no straight line between them. Each step takes a mini-batch, runs both passes,
# and moves the parameters against the gradients; `keras_bp.reference.Adam` makes the steps ([lesson
# 3](3_optimizers.py) is about it). Both arms begin in the origin, so that one point of the 400 is
# always wrong.

# %%
learner = reference.Network([2, 16, 8, 1], initialization="by_activation")
costs = reference.train(learner, examples, labels, reference.Adam(0.01), epochs=150)
print(f"cost {costs[0]:.2f} to {costs[-1]:.3f}, accuracy {learner.accuracy(examples, labels):.2%}")

# %%
side = np.linspace(-1.2, 1.2, 120)
grid = np.stack(np.meshgrid(side, side)).reshape(2, -1)
probability = learner.forward(grid).A[3].reshape(120, 120)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.plot(costs)
left.set(xlabel="epoch", ylabel="cost", yscale="log", title="The cost falls")
colours = right.contourf(side, side, probability, 20, cmap="coolwarm", vmin=0, vmax=1, alpha=0.7)
right.scatter(*examples, c=labels[0], s=8, cmap="coolwarm", edgecolors="black", linewidths=0.3)
right.set(aspect="equal", title="What the network says")
figure.colorbar(colours, ax=right, label="probability of arm 1", ticks=[0, 0.5, 1])
plt.show()

# %% [markdown]
# ## Where to go on
#
# - Every step again, with its shapes and for L layers: [derivation](../docs/derivations/network.md)
# - On one page: [cheat sheet](../docs/cheat_sheet.md)
# - The code: `keras_bp.reference.Network` in NumPy, `keras_bp.ops.dense` for Keras
# - Networks drawn with their gradients: `keras_bp.visualization.plot_backprop`
# - How to find out whether a backward pass is right: [lesson 2](2_gradient_check.py)
