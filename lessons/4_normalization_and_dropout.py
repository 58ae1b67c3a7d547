# %% [markdown]
# # Lesson 4: Normalization and dropout
#
# After this lesson you can
#
# - write batch normalization's forward and backward pass, and say why the backward pass is more
#   than a division by the deviation;
# - say what differs between training and inference, in batch normalization and in dropout;
# - choose between batch, layer and group normalization;
# - write inverted dropout with its gradient, and say where its scale comes from.
#
# From here on rows are examples, as in Keras: `x` has the shape (m, features).

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from _exercises import check

from keras_bp import check_gradients, layers, ops

rng = np.random.default_rng(0)

# %% [markdown]
# ## Batch normalization, forward
#
# Each feature is brought to mean 0 and variance 1 over the $m$ examples of the batch, then scaled
# and shifted by two learned numbers per feature:
#
# $$\mu = \frac1m \sum_i x_i, \quad v = \frac1m \sum_i (x_i - \mu)^2, \quad
# \hat x_i = \frac{x_i - \mu}{\sqrt{v + \epsilon}}, \quad y_i = \gamma \hat x_i + \beta .$$
#
# `keras_bp.ops.batch_normalization` does it. The worked example to check by hand has the mean 5 and
# the variance 5:

# %%
small = tf.constant([[2.0], [4.0], [6.0], [8.0]], tf.float64)
print("normalized:", ops.batch_normalization(small, epsilon=1e-5).outputs.numpy().ravel())


# %%
def draw_features(x, y):
    """Draw each feature's values before and after."""
    _, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for ax, values, title in zip(axes, (x, y), ("before", "after"), strict=True):
        for k, color in enumerate(("tab:blue", "tab:orange", "tab:green")):
            ax.hist(values[:, k], 30, color=color, alpha=0.6, label=f"feature {k}")
        ax.set(title=f"Three features of 256 examples, {title}", xlabel="value")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("examples")
    axes[1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


x = rng.normal(size=(256, 3)) * [0.5, 1.0, 3.0] + [4.0, -3.0, 8.0]
draw_features(x, ops.batch_normalization(x).outputs.numpy())

# %% [markdown]
# ## Batch normalization, backward
#
# Given $dy$, the gradient with respect to the outputs, what are those with respect to $\gamma$,
# $\beta$ and $x$? The first two are short: each acts on all examples, so that its gradient is a
# sum.
#
# **Exercise 1.** Write the gradients of $\gamma$ and $\beta$. (The cell below compares with
# autodiff of the forward formulas, in float64.)


# %%
def scale_and_shift_gradients(dy, x_hat):
    """Return dgamma and dbeta, of shape (features,); dy and x_hat have shape (m, features)."""
    ...


# %%
epsilon = 1e-3
gamma, beta = np.array([1.5, 0.7, -2.0]), np.array([0.1, 0.0, 3.0])
x, dy = rng.normal(2.0, 3.0, size=(6, 3)), rng.normal(size=(6, 3))


def normalize(x, axis=0):
    """The forward formulas up to x_hat, in plain TensorFlow."""
    mean = tf.reduce_mean(x, axis, keepdims=True)
    variance = tf.reduce_mean((x - mean) ** 2, axis, keepdims=True)
    return (x - mean) / tf.sqrt(variance + epsilon)


def by_autodiff(axis):
    """Return the gradients of x, gamma and beta; the means run over `axis`."""
    values = [tf.constant(value) for value in (x, gamma, beta)]
    with tf.GradientTape() as tape:
        tape.watch(values)
        y = values[1] * normalize(values[0], axis) + values[2]
    return [gradient.numpy() for gradient in tape.gradient(y, values, dy)]


true_dx, *expected = by_autodiff(axis=0)
x_hat, variance = normalize(x).numpy(), x.var(axis=0)
check(scale_and_shift_gradients, dy, x_hat, expected=tuple(expected))

# %% [markdown]
# For $x$ it is tempting to divide: $dx = \gamma \, dy / \sqrt{v + \epsilon}$. That would be right
# if $\mu$ and $v$ were constants. They are not: an example moves the mean and the variance, and
# through them the output of *every* example of the batch. What the tempting formula does is what
# `tf.stop_gradient` around both would do, and the gradient check sees it:

# %%
mean = x.mean(axis=0)


def with_constants(x):
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def whole(x):
    return gamma * normalize(x) + beta


def tempting(x):
    """The forward pass of `whole` with the backward pass of `with_constants`."""
    constant = tf.stop_gradient(whole(x) - with_constants(x))
    return with_constants(x) + constant


for function in (whole, tempting):
    report = check_gradients(function, x)
    print(f"{function.__name__:9}{report.relative_difference:.0e}: {report.verdict}")

# %% [markdown]
# Follow the three ways on which $x_i$ reaches the outputs: directly, through $\mu$, through $v$.
# ([The derivation](../docs/batch_normalization.md) does it in three steps.) What comes out is the
# tempting formula with two terms taken off: one for the mean, one for the variance. A check for
# your own result: all inputs moved up by the same number change nothing, so that $dx$ sums to 0
# over the examples.
#
# **Exercise 2.** Write the gradient of the input.


# %%
def batch_normalization_dx(dy, x_hat, gamma, variance, epsilon):
    """Return dx, of shape (m, features); gamma and the batch's variance have shape (features,)."""
    ...


# %%
check(batch_normalization_dx, dy, x_hat, gamma, variance, epsilon, expected=true_dx)
print("sums over the examples:", np.abs(true_dx.sum(axis=0)).max().round(12) + 0.0)

# %% [markdown]
# ## Training against inference
#
# At inference there may be one example only, and no batch to average over. The layer then takes
# running averages that it kept while training, $r \leftarrow \alpha r + (1 - \alpha) \cdot$ the
# batch's value, with the momentum $\alpha$ (Keras: 0.99; it begins at mean 0 and variance 1).

# %%
layer, momentum = layers.BatchNormalization(momentum=0.9, epsilon=epsilon), 0.9
data = rng.normal([4.0, -3.0], [1.0, 2.0], size=(6400, 2)).astype("float32")
for step, batch in enumerate(data.reshape(100, 64, 2), start=1):
    layer(batch, training=True)
    if step in (1, 10, 50, 100):
        print(f"{step:3} steps: mean {layer.moving_mean.numpy().round(2)}", end=", ")
        print(f"variance {layer.moving_variance.numpy().round(2)}", end=", ")
        print(f"weight of their start {momentum**step:.3f}")

# %% [markdown]
# Too few steps, and inference uses averages that still hold their start. A model that is good in
# training and bad in `evaluate` is often one that has made few steps, or whose batches are so small
# that their statistics are noise.
#
# **Exercise 3.** Write the layer at inference.


# %%
def infer(x, gamma, beta, running_mean, running_variance, epsilon):
    """Return y of x's shape, (m, features); the others have shape (features,)."""
    ...


# %%
layer.gamma.assign([1.5, 0.5])
layer.beta.assign([0.2, -1.0])
weights = [weight.astype(float) for weight in layer.get_weights()]
expected = layer(data[:5], training=False).numpy()
check(infer, data[:5], *weights, epsilon, expected=expected, rtol=1e-4)  # the layer: float32

# %% [markdown]
# ## Layer and group normalization
#
# Layer normalization averages over the features of *one* example, group normalization over groups
# of its features (in images: over a group's channels and all positions). Neither looks at the
# batch, so that training and inference are the same, and a batch of one will do. How much does an
# example's output depend on the others in its batch?

# %%
examples = tf.constant(rng.normal(size=(64, 8)), tf.float64)
kinds = {
    "batch": lambda x: ops.batch_normalization(x).outputs,
    "layer": ops.layer_normalization,
    "group": lambda x: ops.group_normalization(x, groups=2),
}
for name, function in kinds.items():
    among = function(examples)[0]
    changes = [np.abs(function(examples[:size])[0] - among).max() for size in (2, 8, 32)]
    print(f"{name}: among 2, 8 and 32 instead of 64, it changes by", np.round(changes, 2))

# %% [markdown]
# The backward pass is the same calculation along the other axis, with one difference. In batch
# normalization $\gamma$ is the same for all that is averaged. Here it varies *within* the average:
# what is averaged is $\gamma \odot dy$.
#
# **Exercise 4.** Write layer normalization's gradient of the input.


# %%
def layer_normalization_dx(dy, x_hat, gamma, variance, epsilon):
    """Return dx, of shape (m, features); gamma has shape (features,), variance (m, 1)."""
    ...


# %%
x_hat, variance = normalize(x, axis=1).numpy(), x.var(axis=1, keepdims=True)
expected = by_autodiff(axis=1)[0]
check(layer_normalization_dx, dy, x_hat, gamma, variance, epsilon, expected=expected)

# %% [markdown]
# ## Dropout
#
# Dropout sets each unit to 0 with the probability `rate`, anew in each step, so that no unit can
# rely on another. That alone would make the next layer's inputs smaller in training than at
# inference. *Inverted* dropout therefore scales up what it keeps, so that the expectation of every
# output is its input, and inference does nothing at all.
#
# **Exercise 5.** Write both passes. `kept` is the mask that was drawn, 1 where a unit is kept and 0
# where it is dropped.


# %%
def dropout_passes(x, dy, kept, rate):
    """Return y and dx, both of x's shape; dy is the gradient with respect to y."""
    ...


# %%
values = tf.constant(x)
with tf.GradientTape() as tape:
    tape.watch(values)
    y = ops.dropout(values, rate=0.4, seed=[1, 2])
dx = tape.gradient(y, values, dy)
kept = (y.numpy() != 0).astype(float)
check(dropout_passes, x, dy, kept, 0.4, expected=(y.numpy(), dx.numpy()))

# %% [markdown]
# A unit that was dropped gets no gradient, by the same mask. The expectation stays, but the
# variance grows: that noise is what dropout costs, and it is why rates beyond a half are rare.


# %%
def draw_dropout(units=100, steps=4000):
    """Draw how the mean over a layer's units varies with the mask."""
    x = np.linspace(0.5, 1.5, units, dtype="float32")
    _, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    for i, rate in enumerate((0.2, 0.5, 0.8)):
        y = ops.dropout(np.tile(x, (steps, 1)), rate, seed=[3, i]).numpy()
        print(f"rate {rate}: mean {y.mean():.2f}, variance of y / x {(y / x).var():.2f}")
        ax.hist(y.mean(axis=1), 40, density=True, histtype="step", label=f"rate {rate}")
    ax.set_title(f"Mean of {units} units, of mean 1, under dropout")
    ax.set(xlabel="mean", ylabel="density")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)


draw_dropout()

# %% [markdown]
# The variance of one unit is $x^2 \cdot$ rate / (1 - rate): 0.25, 1 and 4. Can you derive it from
# the two values that a unit takes?

# %% [markdown]
# ## Where to go on
#
# - [Batch normalization's backward pass](../docs/batch_normalization.md), and
#   [dropout, layer and group normalization](../docs/derivations/normalization_and_dropout.md),
#   derived; where a normalization stands, and how to undo it.
# - The ops: `keras_bp.ops.batch_normalization`, `keras_bp.ops.layer_normalization`,
#   `keras_bp.ops.group_normalization`, `keras_bp.ops.dropout`. Their layers have the same names in
#   `keras_bp.layers`; the NumPy reference is `keras_bp.reference.BatchNormalization`.
# - `examples/dropout.py` compares four rates on a small data set.
