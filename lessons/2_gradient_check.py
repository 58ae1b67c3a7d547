# %% [markdown]
# # Lesson 2: The gradient check
#
# After this lesson you can
#
# - compute any gradient by central differences, with a step neither too large nor too small;
# - say by one figure and two bounds whether a backward pass is right;
# - recognize the case in which the check itself is wrong, the kink of a ReLU;
# - check a Keras model, and find a wrong derivative among right ones.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from _exercises import check

from keras_bp import check_gradients, layers, losses, reference

rng = np.random.default_rng(0)

# %% [markdown]
# ## Differences
#
# A derivative is the limit of a difference quotient. Stopped at a small step $\epsilon$, the
# forward quotient is off by $\frac{\epsilon}{2} J''$, the central one by only $\frac{\epsilon^2}{6}
# J'''$: in the Taylor series of $J(\theta + \epsilon) - J(\theta - \epsilon)$ all even powers
# cancel.
#
# $$\frac{J(\theta + \epsilon) - J(\theta)}{\epsilon} \qquad
# \frac{J(\theta + \epsilon) - J(\theta - \epsilon)}{2 \epsilon}$$


# %%
def cost(theta):
    """Return a number, of a vector."""
    return np.sum(np.sin(theta)) * np.sum(theta**2)


theta = np.array([0.7, -1.2, 2.0])
slope = np.cos(theta) * np.sum(theta**2) + 2.0 * theta * np.sum(np.sin(theta))
print("epsilon   error forward  central, of the first entry")
for epsilon in (1e-1, 1e-2, 1e-3, 1e-4):
    step = np.array([epsilon, 0.0, 0.0])
    forward = (cost(theta + step) - cost(theta)) / epsilon
    central = (cost(theta + step) - cost(theta - step)) / (2.0 * epsilon)
    print(f"{epsilon:7.0e} {abs(forward - slope[0]):15.1e} {abs(central - slope[0]):8.1e}")

# %% [markdown]
# **Exercise 1.** The gradient of any cost by central differences, one entry at a time. The step is
# large enough for the cell below to tell forward from central.


# %%
def central_differences(cost, theta, epsilon):
    """Return an array of the shape of `theta`, whatever that is; `cost(theta)` is a number."""
    ...


# %%
matrix = rng.normal(size=(2, 3))
variable = tf.Variable(matrix)
with tf.GradientTape() as tape:
    value = tf.reduce_sum(tf.sin(variable)) * tf.reduce_sum(variable**2)
check(central_differences, cost, matrix, 1e-4, expected=tape.gradient(value, variable))

# %% [markdown]
# ## One figure, two bounds
#
# Many differences become one number, independent of the gradient's size:
#
# $$\frac{\lVert g_a - g_n \rVert}{\lVert g_a \rVert + \lVert g_n \rVert}$$
#
# with $g_a$ the backward pass's gradient and $g_n$ the numerical one, all parameters in one vector.
# It lies between 0 and 1. **Below 1e-7 the gradient is correct, above 1e-5 it is wrong, and between
# them suspicious**: perhaps a kink, perhaps float32, perhaps an error in a small term.
#
# **Exercise 2.** The figure, for lists of arrays of any shapes. It is *not* the mean of the arrays'
# own figures, in which a bias would count as much as a large kernel.


# %%
def difference_of(analytic, numerical):
    """Return a number in [0, 1], of two lists of arrays of the same shapes."""
    ...


# %%
some = [rng.normal(size=(3, 4)), rng.normal(size=(3, 1))]
others = [array + 0.1 * rng.normal(size=array.shape) for array in some]
check(difference_of, some, others, expected=reference.relative_difference(some, others))

# %% [markdown]
# What usual mistakes look like. A network of three layers, right, and its gradient spoiled:

# %%
X, Y = reference.spiral()
network = reference.Network([2, 8, 4, 1], ["tanh", "tanh", "sigmoid"])
some_X, some_Y = X[:, ::40], Y[:, ::40]


def value():
    return network.cost(network.forward(some_X), some_Y)


right = network.backward(network.forward(some_X), some_Y).as_list()
numerical = reference.numerical_gradients(value, network.parameters)
m = some_X.shape[1]
spoiled = {
    "right": right,
    "0.1 % too large": [1.001 * g for g in right],
    "a single bias without its gradient": [*right[:-1], 0.0 * right[-1]],
    "the factor 1/m forgotten": [m * g for g in right],
    "the sign wrong": [-g for g in right],
}
for name, gradients in spoiled.items():
    figure = reference.relative_difference(gradients, numerical)
    verdict = "correct" if figure < 1e-7 else "suspicious" if figure < 1e-5 else "wrong"
    print(f"{name:35} {figure:8.1e}  {verdict}")

# %% [markdown]
# A training does not tell them apart so well: with a gradient that is 0.1 % too large it learns
# just the same.
#
# ## The step
#
# Two errors pull in opposite directions. The formula's falls as $c \epsilon^2$. Rounding grows: a
# cost of the size $J$ is known to some $10^{-16} J$ only, and the difference of two such numbers is
# divided by $2 \epsilon$: $r / \epsilon$. In float32 rounding is $10^9$ times larger, and no step
# is good: gradient checks are done in float64.

# %%
steps = np.geomspace(1e-11, 1e-1, 31)
figures = []
for epsilon in steps:
    numerical = reference.numerical_gradients(value, network.parameters, epsilon)
    figures.append(reference.relative_difference(right, numerical))
picture, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.loglog(steps, figures, marker="o", markersize=4, color="black")
ax.loglog(steps, figures[-4] * (steps / steps[-4]) ** 2, "--", color="tab:blue")
ax.loglog(steps, figures[4] * steps[4] / steps, "--", color="tab:red")
ax.axhspan(1e-13, 1e-7, color="tab:green", alpha=0.1, linewidth=0)
ax.axhspan(1e-7, 1e-5, color="tab:orange", alpha=0.15, linewidth=0)
ax.axhspan(1e-5, 1.0, color="tab:red", alpha=0.08, linewidth=0)
for height, verdict in ((1e-2, "wrong"), (1e-6, "suspicious"), (1e-8, "correct")):
    ax.text(1.1e-6, height, verdict, va="center", ha="center")
ax.text(3e-4, 3e-11, "formula, ε²", color="tab:blue")
ax.text(3e-10, 3e-11, "rounding, 1/ε", color="tab:red")
ax.set(xlabel="step ε", ylabel="relative difference", ylim=(1e-13, 1.0))
ax.set(title="A right gradient, checked with 31 steps")
print(f"best: {steps[np.argmin(figures)]:.0e}, with the figure {min(figures):.0e}")
plt.show()

# %% [markdown]
# **Exercise 3.** Both errors together, $c \epsilon^2 + r / \epsilon$, are least at one step. Find
# it with pencil and paper. The cell below searches a fine grid.


# %%
def best_step(c, r):
    """Return the epsilon > 0 at which c epsilon^2 + r / epsilon is least."""
    ...


# %%
grid = np.geomspace(1e-7, 1e-2, 200_001)
for c, r in ((0.2, 1e-16), (3.0, 1e-13)):
    found = grid[np.argmin(c * grid**2 + r / grid)]
    check(best_step, c, r, expected=found, rtol=1e-4)

# %% [markdown]
# ## Kinks
#
# A ReLU has no derivative at 0. The backward pass takes 0 there; a central difference whose step
# crosses the kink measures something between 0 and 1. Neither is wrong, and yet they differ.
#
# **Exercise 4.** What does a central difference with the step $\epsilon$ find for $\max(z, 0)$:
# left of the kink, right of it, and within reach of it? As a formula, without evaluating the ReLU.


# %%
def slope_of_relu(z, epsilon):
    """Return an array of z's shape: what the central difference of max(z, 0) gives."""
    ...


# %%
z, epsilon = np.array([-3e-5, -1e-5, -4e-6, 0.0, 2e-6, 5e-6, 1e-5, 2e-5]), 1e-5
expected = (np.maximum(z + epsilon, 0.0) - np.maximum(z - epsilon, 0.0)) / (2.0 * epsilon)
check(slope_of_relu, z, epsilon, expected=expected)

# %% [markdown]
# This happens to careful people. A textbook's demonstration checks its own, correct, backward pass
# on the first five points of two spirals, and prints FAILED. The first point is the origin, and all
# biases are 0 at first: every hidden unit stands exactly on its kink. `reference.gradient_check`
# sees which differences switch a unit on or off, and judges without them.

# %%
X, Y = reference.generate_spiral_data()
network = reference.Network([2, 16, 8, 1])
with_origin = reference.gradient_check(network, X[:, :5], Y[:, :5], epsilon=1e-7)
without = reference.gradient_check(network, X[:, 1:6], Y[:, 1:6], epsilon=1e-7)
print(f"first point: {X[:, 0]}\nwith it: {with_origin.explanation}\nwithout: {without.explanation}")

# %% [markdown]
# Remedies: leave such examples out, give the biases other values than 0, check few examples at a
# time, or use `tanh` for the check. A smaller step crosses fewer kinks, but no step is small enough
# for a unit that stands *on* one.
#
# ## A Keras model
#
# `keras_bp.check_gradients` does it for whole models: in float64, whatever their dtype; with the
# same dropout mask in every evaluation; kinks found by comparing slopes from both sides. The report
# has a row for each variable, and one for the inputs.

# %%
keras.utils.set_random_seed(0)


@tf.custom_gradient
def wrong_tanh(z):
    a = tf.tanh(z)
    return a, lambda upstream: upstream * (1 - a)  # not 1 - a²


x, y = X.T[::80].astype("float32"), Y.T[::80].astype("float32")
for middle in ("tanh", wrong_tanh):
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(4, activation="relu", name="layer_1"),
            layers.Dense(3, activation=middle, name="layer_2"),
            layers.Dense(1, activation="sigmoid", name="layer_3"),
        ],
        name="net",
    )
    print(check_gradients(model, x, y, losses.BinaryCrossentropy()), "\n")

# %% [markdown]
# In the first table some entries are on a kink: the first example is the origin again. Read the
# second one from the output down: layer 3 is right, so is the loss; from layer 2 on, whose
# activation is at fault, all is wrong, as the error goes on down with the gradient.
#
# ## Find the wrong one
#
# Three activations with derivatives written by hand. One of them is wrong, by a slip that you may
# not see by reading. The check sees it.


# %%
def sigmoid_of(z):
    return 1.0 / (1.0 + np.exp(-z))


C = np.sqrt(2.0 / np.pi)


def swish(z):
    return z * sigmoid_of(z)


def swish_derivative(z):
    s = sigmoid_of(z)
    return s * (1.0 + z * (1.0 - s))


def gelu(z):
    return 0.5 * z * (1.0 + np.tanh(C * (z + 0.044715 * z**3)))


def gelu_derivative(z):
    t = np.tanh(C * (z + 0.044715 * z**3))
    return 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t**2) * C * (1.0 + 0.044715 * z**2)


def softplus(z):
    return np.log1p(np.exp(z))


candidates = [(swish, swish_derivative), (gelu, gelu_derivative), (softplus, sigmoid_of)]

# %% [markdown]
# **Exercise 5.** Write a function that finds it, in whatever order the three come. It is tried with
# two orders.


# %%
def position_of_wrong(candidates, z):
    """Return 1, 2 or 3: which pair (function, derivative) does not fit, at the points z."""
    ...


# %%
points = np.linspace(-2.0, 2.0, 9)
for order in ([0, 1, 2], [2, 0, 1]):
    pairs = [candidates[n] for n in order]
    slopes = [
        reference.numerical_gradients(lambda f=f, at=at: f(at).sum(), [at])[0]
        for f, at in ((f, points.copy()) for f, _ in pairs)
    ]
    figures = [
        reference.relative_difference([derivative(points)], [found])
        for (_, derivative), found in zip(pairs, slopes, strict=True)
    ]
    check(position_of_wrong, pairs, points, expected=1 + np.argmax(figures))

# %% [markdown]
# ## Where to go on
#
# - What `check_gradients` handles, and where its verdict stays open:
#   [check gradients](../docs/gradient_check.md)
# - Why nobody trains by differences: [what they cost](../docs/derivations/depth_and_cost.md)
# - Wrong derivatives that still train: `examples/gradient_check.py`
# - The textbook's demonstration and other errata: [index of the chapter](../docs/chapter.md)
# - In NumPy: `keras_bp.reference.gradient_check`; for Keras: `keras_bp.check_gradients`
# - What to do with a right gradient: [lesson 3](3_optimizers.py)
