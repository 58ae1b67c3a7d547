# %% [markdown]
# # Lesson 6: Schedules and the range test
#
# After this lesson you can
#
# - write step decay, exponential decay, and a warm-up with a cosine, right at their edges too;
# - read a range test, and say how its curve is smoothed and where a rate is taken from it;
# - train at the rate that the test suggests, along a schedule.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np
from _exercises import check
from sklearn.datasets import load_digits

from keras_bp import (
    find_learning_rate,
    layers,
    losses,
    optimizers,
    schedules,
    tuning,
    visualization,
)

# %% [markdown]
# ## Why the rate should fall
#
# Far from a minimum a large rate saves steps. Near it, steps of constant length jump over it
# (RMSprop in [lesson 3](3_optimizers.py)), and the noise of mini-batches keeps the weights moving,
# the more the larger the rate is. Here is a weight that is pulled to 0 by gradients $\theta$ plus
# noise:


# %%
def draw_noise(steps=150):
    """Draw a noisy descent at two constant rates and at one that falls."""
    rates = {
        "rate 0.5": np.full(steps, 0.5),
        "rate 0.02": np.full(steps, 0.02),
        "cosine from 0.5": schedules.CosineAnnealing(0.5, steps)(np.arange(steps)).numpy(),
    }
    _, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for label, values in rates.items():
        rng, theta, path = np.random.default_rng(0), np.full(300, 10.0), []
        for rate in values:
            theta = theta - rate * (theta + rng.normal(size=300))
            path.append(np.sqrt(np.mean(theta**2)))
        ax.semilogy(path, label=label)
    ax.set(title="Distance to the minimum, noisy gradients", xlabel="steps", ylabel="distance")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)


draw_noise()

# %% [markdown]
# ## Schedules
#
# A schedule gives the rate $a(t)$ at update step $t$, which is 0 in the first step. Those of
# `keras_bp.schedules` can be called with a step or with an array of steps; your functions get
# arrays.
#
# **Step decay** is constant for `period` steps and then falls by a factor; it falls *at* the steps
# `period`, `2 * period`, and so on.
#
# **Exercise 1.** Write it.


# %%
def step_decay(t, initial, factor, period):
    """Return the rates at the steps t, an array of integers."""
    ...


# %%
t = np.array([0, 1, 9, 10, 11, 19, 20, 95])
expected = schedules.StepDecay(0.1, decay_steps=10, factor=0.5)(t)
check(step_decay, t, 0.1, 0.5, 10, expected=expected)

# %% [markdown]
# **Exponential decay** falls a little in every step, $a(t) = a_0 e^{-kt}$. Instead of $k$ it is
# easier to choose after how many steps the rate is half.
#
# **Exercise 2.** Write it.


# %%
def exponential_decay(t, initial, half_life):
    """Return the rates at the steps t, an array; at `half_life` it is half of `initial`."""
    ...


# %%
expected = schedules.ExponentialDecay(0.1, decay_steps=20, decay_rate=0.5)(t)
check(exponential_decay, t, 0.1, 20, expected=expected)

# %% [markdown]
# **A warm-up with a cosine** is the schedule of most large models. The rate rises in a straight
# line from 0 to the peak, which it has at step `warmup`; then it falls along half a cosine, which
# reaches 0 at step `total`, and stays there. The warm-up counts in `total`. A rise is needed since
# the first gradients are the largest, and Adam's averages rest on few of them.
#
# **Exercise 3.** Write it. (If `total` and a step behind it are wrong only, think of what a cosine
# does after half a period.)


# %%
def warmup_cosine(t, peak, warmup, total):
    """Return the rates at the steps t, an array of integers."""
    ...


# %%
t = np.array([0, 1, 5, 9, 10, 11, 40, 55, 99, 100, 101, 150])
expected = schedules.WarmupCosine(0.1, total_steps=100, warmup_steps=10)(t)
check(warmup_cosine, t, 0.1, 10, 100, expected=expected)

# %%
shown = {
    "step": schedules.StepDecay(0.1, decay_steps=50, factor=0.5),
    "exponential": schedules.ExponentialDecay(0.1, decay_steps=50, decay_rate=0.5),
    "cosine": schedules.CosineAnnealing(0.1, total_steps=200),
    "warm-up and cosine": schedules.WarmupCosine(0.1, total_steps=200, warmup_steps=20),
}
figure = visualization.plot_schedules(shown, epochs=20, steps_per_epoch=10)

# %% [markdown]
# ## The range test
#
# All of them need a first or a highest rate. The range test finds it in one short run: the rate
# rises from tiny to huge, by the same factor in each step, and the loss of each batch is recorded.
# Too small a rate leaves the loss as it is, a good one lets it fall, too large a one makes it
# explode. The model is left as it was.

# %%
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
x_test, y_test, x, y = x[1400:], y[1400:], x[:1400], y[:1400]

keras.utils.set_random_seed(0)
hidden = layers.Dense(64, "relu", kernel_initializer="he_normal")
model = keras.Sequential([keras.Input((64,)), hidden, layers.Dense(10)])
loss = losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizers.Adam(), loss, metrics=["accuracy"])
curve = find_learning_rate(model, x, y)  # from 1e-7 to 10
print(f"{len(curve.losses)} steps, {curve.stop_reason}")
for method in ("valley", "steep", "minimum"):
    print(f"{method:8} suggests {curve.suggest(method):.2g}")
ax = curve.plot()

# %% [markdown]
# The grey line is noisy, since each batch is another one; what is read is the black one, an average
# with momentum: with the share $\beta = 0.98$ of the past, which begins at 0 and is corrected for
# that.
#
# $$\bar L_k = \beta \bar L_{k-1} + (1 - \beta) L_k, \qquad \bar L_{-1} = 0, \qquad
# \text{shown:} \quad \frac{\bar L_k}{1 - \beta^{k+1}}, \qquad k = 0, 1, \dots$$
#
# It is Adam's correction again.
#
# **Exercise 4.** Write the smoothed losses.


# %%
def smoothed(batch_losses, beta):
    """Return an array of the length of `batch_losses`: the corrected average after each step."""
    ...


# %%
check(smoothed, curve.losses, 0.98, expected=curve.smoothed_losses)

# %% [markdown]
# From this curve several rules read a rate. *Steepest* is where the loss falls most per
# multiplication of the rate: $\Delta \bar L / \Delta \ln a$ is least. *Valley*, the default, takes
# the middle of the longest decline, which depends less on one steep place. Both leave out the first
# tenth, where the average rests on few batches, and the last five steps, which belong to the
# explosion.
#
# **Exercise 5.** Write the rule of the steepest place: between which two neighbours does the loss
# fall most, against the logarithm of the rate?


# %%
def steepest(rates, smoothed_losses):
    """Return the rate at the left of the two neighbours, a number; both arrays are cut already."""
    ...


# %%
draw = np.random.default_rng(0)
uneven, falling = 10 ** np.sort(draw.uniform(-4, 0, 60)), np.sort(draw.normal(size=60))[::-1]
made_up = tuning.LearningRateCurve(uneven, falling, falling, 60, "completed")
for sweep in (curve, made_up):
    kept = slice(sweep.steps // 10, -5)
    rates, averages = sweep.learning_rates[kept], sweep.smoothed_losses[kept]
    check(steepest, rates, averages, expected=sweep.suggest("steep"))

# %% [markdown]
# ## Training at the rate
#
# The same short training along a warm-up and a cosine, with three peaks: a tenth of the suggestion,
# the suggestion, and 300 times it.

# %%
suggestion, epochs, batch_size = curve.suggest(), 6, 50
total, first_weights = epochs * len(x) // batch_size, model.get_weights()
for factor in (0.1, 1.0, 300.0):
    keras.utils.set_random_seed(0)  # the same batches for all
    model.set_weights(first_weights)
    rate = schedules.WarmupCosine(factor * suggestion, total, warmup_steps=total // 10)
    model.compile(optimizers.Adam(rate), loss, metrics=["accuracy"])
    history = model.fit(x, y, batch_size, epochs, verbose=0).history
    accuracy = np.mean(np.argmax(model.predict_on_batch(x_test), axis=1) == y_test)
    print(f"{factor:5} times {suggestion:.1e}: loss {history['loss'][-1]:.2f}", end=", ")
    print(f"{accuracy:.0%} of the test digits")

# %% [markdown]
# At a tenth of the suggestion the training ends long before it is done. "valley" is cautious
# itself: with ten times it this short training gets further (try it). 300 times it is behind the
# minimum of the curve, and fails. The test is one of the first steps, from these weights and at
# this batch size: repeat it when either changes.

# %% [markdown]
# ## Where to go on
#
# - [Learning rates](../docs/tuning.md): all schedules, GPT-3's rates, the range test's limits, and
#   schedules that are discovered while a model trains.
# - `keras_bp.schedules`: `keras_bp.schedules.WarmupCosine`, `keras_bp.schedules.OneCycle`,
#   `keras_bp.schedules.CosineRestarts`, `keras_bp.schedules.Sequential`; in NumPy,
#   `keras_bp.reference.warmup_cosine` and others.
# - `keras_bp.find_learning_rate`; its curve is a `keras_bp.tuning.LearningRateCurve`.
# - `examples/schedule_explorer.py`, `examples/learning_rate_finder.py`,
#   `examples/warmup_cosine.py`.
