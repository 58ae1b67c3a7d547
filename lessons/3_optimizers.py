# %% [markdown]
# # Lesson 3: Optimizers in a valley
#
# After this lesson you can
#
# - say at which learning rate gradient descent diverges, and why a narrow valley makes it slow;
# - write the steps of momentum and of Adam, and say what each mends;
# - expand momentum's average, and derive Adam's bias correction;
# - read the paths of four optimizers on a contour plot.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _exercises import check

from keras_bp import reference, visualization

# %% [markdown]
# ## The valley
#
# Near a minimum every smooth cost looks like a bowl. Take one with two weights, much steeper along
# the second than along the first:
#
# $$J(\theta) = \tfrac{1}{2} (h_1 \theta_1^2 + h_2 \theta_2^2), \qquad
# \nabla J = (h_1 \theta_1, h_2 \theta_2), \qquad h_1 = 1, \; h_2 = 100 .$$
#
# The curvatures $h$ are all that matters here; $h_2 / h_1 = 100$ is the *condition number*, and a
# mild one: networks have thousands. All runs start at $(10, 1)$, on the wall of the valley, where
# both weights cost the same.

# %%
h = np.array([1.0, 100.0])


def cost(theta):
    return 0.5 * np.sum(h * np.square(theta), axis=-1)


def descend(optimizer, limit=1000, share=1e-6):
    """Return the path, an array (steps + 1, 2), until the cost is a millionth of the first."""
    path = [np.array([10.0, 1.0])]
    while cost(path[-1]) >= share * cost(path[0]) and len(path) <= limit:
        path += optimizer.step([path[-1]], [h * path[-1]])
    return np.array(path)


print("  rate  rate * h_2  cost after 50 steps")
for rate in (0.001, 0.01, 0.0198, 0.02, 0.021):
    last = cost(descend(reference.SGD(rate), limit=50)[-1])
    print(f"{rate:6}  {rate * h[1]:10.2f}  {last:19.2e}")

# %% [markdown]
# One step of descent is $\theta_i \leftarrow (1 - a h_i) \theta_i$: each weight is multiplied by
# its own number. A small rate is slow. One that is a little too large is worse than slow: the cost
# grows without bound. Look at the factors of both weights at rates of 0.0198, 0.02 and 0.021.
#
# **Exercise 1.** Write the largest learning rate below which gradient descent converges, for any
# curvatures. (The cell below finds it by trying: it halves an interval of rates again and again.)


# %%
def largest_rate(curvatures):
    """Return the rate above which descent diverges; `curvatures` is an array of numbers > 0."""
    ...


# %%
def found_by_trying(curvatures, low=0.0, high=10.0):
    for _ in range(40):
        middle, theta = (low + high) / 2, [np.ones(len(curvatures))]
        optimizer = reference.SGD(middle)
        for _ in range(20):
            theta = optimizer.step(theta, [curvatures * theta[0]])
        grows = np.any(np.abs(theta[0]) > 1.0)
        low, high = (low, middle) if grows else (middle, high)
    return low


for curvatures in (h, np.array([3.0, 0.5, 7.0])):
    check(largest_rate, curvatures, expected=found_by_trying(curvatures))

# %% [markdown]
# ## Momentum
#
# At the largest safe rate the steep weight changes its sign at every step, while the flat one
# hardly moves. Along the valley all gradients agree; across it they contradict each other. An
# average over the past keeps what agrees and cancels what does not:
#
# $$v_0 = 0, \qquad v_t = \beta v_{t-1} + (1 - \beta) g_t, \qquad
# \theta_t = \theta_{t-1} - a v_t .$$
#
# **Exercise 2.** Write one step of momentum.


# %%
def momentum_step(theta, v, gradient, rate, beta):
    """Return the new theta and the new v, arrays of theta's shape."""
    ...


# %%
optimizer, theta = reference.Momentum(0.1, 0.8), [np.array([[1.0, -2.0], [0.5, 3.0]])]
for t in range(1, 4):
    gradient = np.array([[0.5, -0.2], [0.1, t]])
    before = theta[0], optimizer.state[0]["v"] if optimizer.state else np.zeros((2, 2))
    theta = optimizer.step(theta, [gradient])
    expected = theta[0], optimizer.state[0]["v"]
    check(momentum_step, *before, gradient, 0.1, 0.8, expected=expected)

# %% [markdown]
# Keras's `SGD(momentum=0.9)` accumulates instead, $v_t = \beta v_{t-1} - a g_t$: the same steps if
# its rate is $1 - \beta$ times ours. `keras_bp.optimizers.Momentum` is the form above.
#
# **Exercise 3.** Put the equation for $v_{t-1}$ into that for $v_t$, then that for $v_{t-2}$, and
# so on, until only gradients are left. With which weight does each count in $v_t$?


# %%
def weights_of_the_past(beta, t):
    """Return the weights of g_t, g_{t-1}, ..., g_1 in v_t: an array of length t, newest first."""
    ...


# %%
def weights_measured(beta, t):
    # The gradient of step s is 1 in entry s and 0 elsewhere, so that v holds each step's weight.
    optimizer, theta = reference.Momentum(0.0, beta), [np.zeros(t)]
    for gradient in np.eye(t):
        theta = optimizer.step(theta, [gradient])
    return optimizer.state[0]["v"][::-1]


for beta, t in ((0.5, 4), (0.9, 30)):
    check(weights_of_the_past, beta, t, expected=weights_measured(beta, t))

# %%
measured = weights_measured(0.9, 200)
print(f"the last ten gradients have {measured[:10].sum():.0%} of the weight")
print(f"mean age: {measured @ np.arange(200):.2f} steps")
for name, sign in (("agree", 1.0), ("alternate", -1.0)):
    average = measured @ sign ** np.arange(200)
    print(f"gradients of size 1 that {name}: an average of size {average:.3f}")

# %% [markdown]
# $\beta = 0.9$ is a memory of some ten steps, in general $1 / (1 - \beta)$. What alternates is
# damped to a nineteenth, $(1 - \beta) / (1 + \beta)$, and so the rate can be larger.
#
# ## RMSprop
#
# The valley has a second remedy. Momentum is one rate for all weights; RMSprop gives each its own,
# by the size of its recent gradients:
#
# $$s_t = \beta_2 s_{t-1} + (1 - \beta_2) g_t^2, \qquad
# \theta_t = \theta_{t-1} - a \frac{g_t}{\sqrt{s_t} + \epsilon} .$$
#
# Steps then have the length of the rate, whatever the gradients' scale, except that $s_0 = 0$ is
# still felt in the first ones:

# %%
optimizer, theta = reference.RMSprop(0.01, beta_2=0.9), [np.zeros(2)]
for t in range(1, 101):
    before, theta = theta[0], optimizer.step(theta, [np.array([100.0, 0.01])])
    if t in (1, 2, 10, 100):
        print(f"step {t:3}: gradients of 100 and 0.01 move the weights by {theta[0] - before}")

# %% [markdown]
# ## Adam
#
# Adam takes both averages, $m$ of the gradients and $v$ of their squares. Both begin at 0, and are
# too small at first. Of gradients that stay at $g$, Exercise 3 has shown how much too small: the
# weights' sum is $1 - \beta^t$. Dividing by it makes them an average again:
#
# $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
# v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2,$$
#
# $$\hat m_t = \frac{m_t}{1 - \beta_1^t}, \qquad \hat v_t = \frac{v_t}{1 - \beta_2^t}, \qquad
# \theta_t = \theta_{t-1} - a \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} .$$
#
# **Exercise 4.** Write one step of Adam. What you return as $m$ and $v$ is what the next step
# starts from.


# %%
def adam_step(theta, m, v, gradient, t, rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
    """Return the new theta, m and v, arrays of theta's shape; t is 1 in the first step."""
    ...


# %%
optimizer, theta = reference.Adam(0.01), [np.array([1.0, -2.0, 0.5])]
for t in range(1, 4):
    gradient = np.array([0.5, -0.2 * t, 1e-4])
    averages = optimizer.state[0] if optimizer.state else {"m": np.zeros(3), "v": np.zeros(3)}
    before = theta[0], averages["m"], averages["v"]
    theta = optimizer.step(theta, [gradient])
    expected = theta[0], optimizer.state[0]["m"], optimizer.state[0]["v"]
    check(adam_step, *before, gradient, t, expected=expected)

# %% [markdown]
# **Exercise 5.** Without the correction the steps of a steady gradient are not as long as the rate.
# How many times as long is step $t$?


# %%
def length_without_correction(t, beta_1, beta_2):
    """Return m_t / sqrt(v_t) for gradients that are all 1."""
    ...


# %%
def averages_measured(t, beta_1, beta_2):
    optimizer, theta = reference.Adam(0.0, beta_1, beta_2), [np.zeros(1)]
    for _ in range(t):
        theta = optimizer.step(theta, [np.ones(1)])
    return optimizer.state[0]["m"][0], optimizer.state[0]["v"][0]


for t in (1, 10, 100):
    m, v = averages_measured(t, 0.9, 0.999)
    check(length_without_correction, t, 0.9, 0.999, expected=m / np.sqrt(v))


# %%
def draw_lengths(steps=3000):
    t = np.arange(1, steps + 1)
    optimizer, theta, plain, corrected = reference.Adam(1.0), [np.zeros(1)], [], []
    for _ in t:
        before, theta = theta, optimizer.step(theta, [np.ones(1)])
        corrected.append((before[0] - theta[0]).item())
        plain.append((optimizer.state[0]["m"] / np.sqrt(optimizer.state[0]["v"])).item())
    _, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    ax.semilogx(t, plain, color="tab:red", label="without the correction")
    ax.semilogx(t, corrected, color="tab:blue", label="Adam")
    ax.set(xlabel="step t", ylabel="length / rate", ylim=(0, 7))
    ax.set_title("A steady gradient: length of Adam's steps")
    ax.legend(frameon=False, loc="upper right")


draw_lengths()

# %% [markdown]
# ## Four paths
#
# Now all of them in the valley. SGD and Momentum get the best rate that theory knows for these
# curvatures ([derived](../docs/derivations/optimizers.md#momentum)); RMSprop and Adam are told
# nothing of the curvature.

# %%
root = np.sqrt(h[1] / h[0])
beta = ((root - 1) / (root + 1)) ** 2
momentum_rate = (2 / (1 + root)) ** 2 / h[0] / (1 - beta)
rules = {
    "SGD": lambda: reference.SGD(2 / h.sum()),
    "Momentum": lambda: reference.Momentum(momentum_rate, beta),
    "RMSprop": lambda: reference.RMSprop(0.1, beta_2=0.9),
    "Adam": lambda: reference.Adam(0.5),
}
for name, make in rules.items():
    path = descend(make())
    print(f"{name:9} {len(path) - 1:4} steps, last cost {cost(path[-1]):.1e}")


# %%
figure = visualization.plot_paths(rules)

# %% [markdown]
# - **SGD** jumps from wall to wall, and crawls along the floor: a factor of 0.98 a step.
# - **Momentum** swings further than it began, but the oscillation dies out and the way along the
#   floor adds up: a factor of 0.82 a step.
# - **RMSprop** moves both weights equally far at first, and so reaches the floor at once. Near the
#   minimum its steps do not get shorter: it jumps over it, half a rate to each side, until the rate
#   is lowered ([lesson 6](6_schedules_and_range_test.py)).
# - **Adam** starts along both weights alike, too, and has momentum's inertia, with which it passes
#   the floor and comes back.
#
# Noise, which a valley has not, changes the picture: `examples/optimizers.py` compares six
# optimizers on two data sets.

# %% [markdown]
# ## Where to go on
#
# - [Optimizers, derived](../docs/derivations/optimizers.md): all of this lesson's equations,
#   Nesterov's look-ahead, and batches of different sizes.
# - [Optimizers](../docs/optimizers.md): which one to take, and the first rate to try.
# - `keras_bp.optimizers` for Keras: `keras_bp.optimizers.SGD`, `keras_bp.optimizers.Momentum`,
#   `keras_bp.optimizers.Nesterov`, `keras_bp.optimizers.RMSprop`, `keras_bp.optimizers.Adam`,
#   `keras_bp.optimizers.AdamW`.
# - `keras_bp.visualization.compare_optimizers` compares optimizers on your own model, from several
#   seeds.
