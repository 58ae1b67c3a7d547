"""Averages of the weights, counted in updates, equal those of NumPy: use_ema, SWA, Lookahead."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import (
    FIT,
    KINDS,
    Problem,
    X,
    Y,
    assert_close,
    assert_same,
    batches,
    make,
    model,
    weights,
)

from keras_bp.callbacks import SwapEMAWeights

# DeferredAdam averages no table of deferred rows, which is tested with it.
AVERAGING = [*(name for name in KINDS if name != "DeferredAdam"), "SGD", "ScheduleFreeAdamW"]
# Two float32 averages of weights of size 1 over six updates, each rounded by 6e-8 an update.
ROUNDING = 1e-6


def averages(optimizer):
    """The averages, in the order of the variables, found by the name that Keras gives them."""
    found = [v for v in optimizer.variables if v.path.endswith("_average")]
    return [v.numpy() for v in found if not v.path.endswith("at_average")]


def with_averages(name, overwrite, count=6, momentum=0.7):
    """Return the values and averages of a plain optimizer and an average in NumPy."""
    problem, optimizer = Problem(name), make(name, weight_decay=0.01)
    mean = None
    for update in range(1, count + 1):
        gradients = problem.gradients(update)
        optimizer.apply(gradients, problem.variables)
        values = [v.numpy().astype("float64") for v in problem.variables]
        mean = mean or values
        mean = [momentum * m + (1 - momentum) * v for m, v in zip(mean, values, strict=True)]
        if overwrite and update % overwrite == 0:
            for variable, average in zip(problem.variables, mean, strict=True):
                variable.assign(average)
    return problem.read(), mean


@pytest.mark.parametrize(
    "name, micro_steps, overwrite",
    [
        *((name, 2, 2) for name in AVERAGING),
        ("AdamW", 1, 2),
        ("AdamW", 2, None),
    ],
)
def test_the_average_is_that_of_numpy(name, micro_steps, overwrite):
    values, mean = with_averages(name, overwrite)
    problem = Problem(name)
    accumulation = {"gradient_accumulation_steps": micro_steps} if micro_steps > 1 else {}
    optimizer = make(
        name,
        weight_decay=0.01,
        use_ema=True,
        ema_momentum=0.7,
        ema_overwrite_frequency=overwrite,
        **accumulation,
    )
    for update in range(1, 7):
        for _ in range(micro_steps):
            optimizer.apply(problem.gradients(update), problem.variables)
    assert int(optimizer.iterations) == 6
    assert_close(problem.read(), values, ROUNDING)
    assert_close(averages(optimizer), mean, ROUNDING)


@pytest.mark.parametrize("name", ["AdamW", "LazyAdam"])
def test_fit_ends_at_the_average(name):
    net = model(name, make(name, use_ema=True, ema_momentum=0.7), run_eagerly=True)
    net.fit(X, Y, batch_size=4, **FIT)
    twin, mean = model(name, run_eagerly=True), None
    for x, y in batches(4):
        twin.train_on_batch(x, y)
        values = weights(twin)
        mean = mean or values
        mean = [0.7 * m + 0.3 * v for m, v in zip(mean, values, strict=True)]
    assert_close(weights(net), mean, ROUNDING)
    assert_close(averages(net.optimizer), mean, ROUNDING)


def test_the_average_of_a_variable_in_float16_is_in_float32():
    variable = tf.Variable([1.0], dtype=tf.float16)
    optimizer = make("SGD", 2.0**-12, use_ema=True, ema_momentum=0.5)
    for _ in range(4):
        optimizer.apply([tf.constant([1.0], tf.float16)], [variable])
    [average] = averages(optimizer)
    assert average.dtype == np.float32
    assert average != average.astype("float16")


def test_the_average_of_half_precision_is_that_of_the_float32_copies():
    """Steps of 1/16 of bfloat16's spacing: the rounded weight stays, the average must not."""
    variable = tf.Variable([1.0], dtype=tf.bfloat16)
    options = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 4}
    optimizer = make("SGD", 2.0**-11, **options)
    expected = average = 1.0
    for update in range(1, 9):
        optimizer.apply([tf.constant([1.0], tf.bfloat16)], [variable])
        expected -= 2.0**-11
        average = expected if update == 1 else 0.5 * (average + expected)
        expected = expected if update % 4 else average
        assert_close(averages(optimizer), [[average]], 0)
        assert variable.numpy() == tf.cast(expected, tf.bfloat16).numpy()


@pytest.mark.parametrize("swap", [keras.callbacks.SwapEMAWeights, SwapEMAWeights])
def test_swap_ema_weights(swap):
    """Keras's callback finds the averages, and evaluates with them; ours gives back the bits."""
    net = model("Adam", make("Adam", use_ema=True, ema_momentum=0.7), run_eagerly=True)
    callback = swap()
    callback.set_model(net)
    net.train_on_batch(X, Y)
    net.train_on_batch(X, Y)
    before, mean = weights(net), averages(net.optimizer)
    # Keras's swaps by two sums and a difference, each rounded.
    rounding = 0 if swap is SwapEMAWeights else 3e-7
    callback.on_test_begin()
    assert_close(weights(net), mean, rounding)
    callback.on_test_end()
    assert_close(weights(net), before, rounding)


class Seen(keras.callbacks.Callback):
    """Predicts within a training, and notes the weights with which each epoch begins."""

    def __init__(self, swap):
        super().__init__()
        self.swap, self.weights = swap, []

    def on_epoch_begin(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())

    def on_test_end(self, logs=None):
        for swap in self.swap:  # as `predict` does
            swap.on_predict_begin()
            swap.on_predict_end()


@pytest.mark.parametrize("dtype, on_epoch", [("float32", True), ("bfloat16", False)])
def test_swapping_does_not_change_the_training(dtype, on_epoch):
    """`fit` with it sees the same bits, and validates with the averages."""
    x = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
    losses, seen = [], []
    for swap in [SwapEMAWeights(on_epoch)], []:
        keras.utils.set_random_seed(0)
        net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, dtype=dtype)])
        optimizer = make("AdamW", 0.05, use_ema=True, ema_momentum=0.5)
        net.compile(optimizer, "mse", run_eagerly=True)
        seen.append(Seen(swap))
        options = {"validation_data": (x, x[:, :1]), "epochs": 2, "callbacks": [*swap, seen[-1]]}
        history = net.fit(x, x[:, :1], batch_size=4, **{**FIT, **options}).history
        losses.append((history["loss"], history["val_loss"]))
        seen[-1].weights += [net.get_weights(), averages(optimizer)]
    np.testing.assert_equal(seen[0].weights, seen[1].weights)
    assert losses[0][0] == losses[1][0] and losses[0][1] != losses[1][1]


def test_swapping_without_averages():
    net = model("Adam", run_eagerly=True)
    callback = SwapEMAWeights()
    callback.set_model(net)
    with pytest.raises(ValueError, match="needs an optimizer that averages.*Received: model"):
        callback.on_test_begin()
    net = model("Adam", make("Adam", use_ema=True), run_eagerly=True)
    callback.set_model(net)
    before = weights(net)
    callback.on_test_begin()  # there is no average yet
    assert_close(weights(net), before, 0)


@pytest.mark.parametrize("micro_steps", [1, 2])
@pytest.mark.parametrize("name", ["AdamW", "LazyAdam", "ScheduleFreeAdamW"])
def test_swa_is_the_plain_mean_from_a_step_on(name, micro_steps):
    problem, plain = Problem(name), Problem(name)
    accumulation = {"gradient_accumulation_steps": micro_steps} if micro_steps > 1 else {}
    optimizer, twin = make(name, swa_start=3, **accumulation), make(name)
    after = []
    for update in range(1, 7):
        for _ in range(micro_steps):
            optimizer.apply(problem.gradients(update), problem.variables)
        twin.apply(plain.gradients(update), plain.variables)
        after.append([v.numpy().astype("float64") for v in plain.variables])
        mean = after[-1] if update < 3 else [np.mean(w, 0) for w in zip(*after[2:], strict=True)]
        assert_close(averages(optimizer), mean, ROUNDING)
    assert_close([v.numpy() for v in problem.variables], after[-1], ROUNDING)


@pytest.mark.parametrize("options", [{"use_ema": True, "ema_momentum": 0.5}, {"swa_start": 2}])
def test_averages_come_and_go_in_a_loop_of_ones_own(options):
    """Swapped in and back between all steps, the training and its average are the same bits."""
    for dtype in ("float32", "bfloat16"):
        ends = []
        for swaps in (True, False):
            problem, optimizer = Problem("AdamW", dtype), make("AdamW", **options)
            optimizer.use_average_weights() if swaps else None  # before the first step: nothing
            for step in range(4):
                problem.steps(optimizer, 1, step)
                if swaps:
                    trained = problem.read()
                    optimizer.use_average_weights()
                    optimizer.use_average_weights()
                    lent = [tf.cast(average, dtype).numpy() for average in averages(optimizer)]
                    assert_same(problem.read(), lent)
                    with pytest.raises(RuntimeError, match="`use_training_weights` first"):
                        problem.steps(optimizer, 1)
                    optimizer.use_training_weights()
                    optimizer.use_training_weights()
                    assert_same(problem.read(), trained)
            ends.append([*problem.read(), *(v.numpy() for v in optimizer.variables)])
        assert_same(*ends)


def test_fit_ends_at_the_average_also_while_it_is_lent():
    class Forgetful(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.use_average_weights()

    ends = []
    for callbacks in ([], [Forgetful()]):
        net = model("AdamW", make("AdamW", swa_start=2), run_eagerly=True)
        net.fit(X, Y, batch_size=7, callbacks=callbacks, **FIT)
        assert_same(net.get_weights(), averages(net.optimizer))
        ends.append(net.get_weights())
    assert_same(*ends)


@pytest.mark.parametrize("dtype, jit", [("float32", False), ("float32", True), ("bfloat16", False)])
def test_lookahead_is_that_of_numpy(dtype, jit):
    """Of the float32 copy, in half precision; the slow weights begin where training does."""
    variable = tf.Variable([1.0, -1.0], dtype=dtype)
    optimizer = make("SGD", 2.0**-11, momentum=0.5, lookahead_steps=3, lookahead_alpha=0.25)
    optimizer.build([variable])
    start = np.array([2.0, -2.0])
    variable.assign(tf.cast(start, dtype))  # as weights that are loaded after `build`

    @tf.function(jit_compile=jit)
    def step():
        optimizer.apply([tf.constant([1.0, 2.0], dtype)], [variable])

    fast, slow, velocity = start, start, 0.0
    for update in range(1, 8):
        step()
        velocity = 0.5 * velocity - 2.0**-11 * np.array([1.0, 2.0])
        fast = fast + velocity
        if update % 3 == 0:
            slow = fast = slow + 0.25 * (fast - slow)
        [kept] = [v.numpy() for v in optimizer.variables if v.name.endswith("slow")]
        assert_close([kept], [slow], ROUNDING)
        assert_close([variable], [tf.cast(tf.constant(fast), dtype)], ROUNDING)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"swa_start": 2, "use_ema": True}, ValueError, "`swa_start` must come without `use_ema`"),
        ({"swa_start": 2, "ema_overwrite_frequency": 2}, ValueError, "`swa_start` must come witho"),
        ({"swa_start": 0}, ValueError, "`swa_start` must be an integer of 1 or more"),
        ({"swa_start": 1.5}, TypeError, "`swa_start` must be an integer of 1 or more"),
        ({"lookahead_steps": 1}, ValueError, "`lookahead_steps` must be an integer of 2 or more"),
        ({"lookahead_alpha": 0.0}, ValueError, "`lookahead_alpha` must be a finite number in "),
        ({"lookahead_alpha": 1.1}, ValueError, "`lookahead_alpha` must be a finite number in "),
    ],
    ids=str,
)
def test_bad_averages(options, error, message):
    with pytest.raises(error, match=f"^{message}.*Received: "):
        make("SGD", **options)


def test_there_is_no_average_to_use():
    with pytest.raises(ValueError, match="`use_average_weights` needs an optimizer.*Received: SGD"):
        make("SGD").use_average_weights()
