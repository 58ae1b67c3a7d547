"""One training in two ways, on one device or on replicas, and how far two trainings are apart."""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf

from keras_bp import layers, losses, optimizers

STEPS, BATCH, IDS = 50, 8, 6
# The last of so many rows is a batch by itself: of two shares of it one is empty.
UNEVEN = (STEPS - 1) * BATCH + 1

# The project's bound on two replicas against one, relative, over 50 steps in float32: the two
# halves of a batch are summed by themselves, roundings of 6e-8 that training carries on.
BOUND = 1e-5

_generator = np.random.default_rng(0)
X = _generator.normal(1.0, 2.0, (STEPS * BATCH, 6)).astype("float32")
WORDS = _generator.integers(0, IDS, (STEPS * BATCH, 3)).astype("int32")
# Learnable in part: a class of the first features, with noise.
LABELS = np.argmax(X[:, :3] + _generator.normal(size=(len(X), 3)), axis=1)

# Bounds that most of the gradients of `small` exceed.
OPTIONS = {
    "clipvalue": {"clipvalue": 0.05},
    "clipnorm": {"clipnorm": 0.15},
    "global_clipnorm": {"global_clipnorm": 0.4},
    "accumulation": {"gradient_accumulation_steps": 4},
    "all": {
        "gradient_accumulation_steps": 4,
        "global_clipnorm": 0.4,
        "weight_decay": 0.01,
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 5,
    },
}


def sgd(name):
    """Return a function that makes SGD, on which every bound tells: Adam undoes a factor."""
    return lambda: optimizers.SGD(0.5, **OPTIONS.get(name, {}))


# Name -> the model's and the optimizer's functions: what two and four workers train.
CASES = {
    "sgd": (lambda: small(), sgd("plain")),
    "momentum": (lambda: small(), lambda: optimizers.Momentum(0.5)),
    "adamw": (lambda: small(), lambda: optimizers.AdamW(0.01)),
    "lamb": (lambda: small(), lambda: optimizers.Lamb(0.01)),
    **{name: (lambda: small(), sgd(name)) for name in OPTIONS},
    "ema": (lambda: small(), lambda: optimizers.SGD(0.5, use_ema=True, ema_momentum=0.9)),
    # At a rate of 0.5 rounding grows: in one process, rows in another order end 1e-4 apart.
    "group normalization": (lambda: grouped(), lambda: optimizers.SGD(0.1)),
    "mixed_float16": (
        lambda: small(dtype="mixed_float16"),
        lambda: keras.optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=2.0**12),
    ),
}


def scope(strategy):
    return strategy.scope() if strategy else contextlib.nullcontext()


def loss_function(**options):
    return losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def small(synchronized=True, dtype=None):
    """Batch normalization between two dense layers, the same weights in every call."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            # Not linear: batch normalization takes out the bias of a linear layer, whose gradient
            # is then mere rounding, and grows to full steps in Adam.
            layers.Dense(8, "tanh", name="hidden", dtype=dtype),
            layers.BatchNormalization(synchronized=synchronized, name="norm", dtype=dtype),
            layers.Dense(3, name="logits", dtype=dtype),
        ]
    )


def grouped():
    """`small` with a normalization of groups, which needs no other worker."""
    keras.utils.set_random_seed(1)
    hidden = [layers.Dense(8, "tanh"), layers.GroupNormalization(2)]
    return keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(3)])


def with_words(synchronized=True):
    """`small` with a table: its gradient is sparse, with repeated ids on and across replicas."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            # Large entries, with which tanh is not linear either.
            layers.DeferredEmbedding(IDS, 4, keras.initializers.RandomNormal(0, 2), name="table"),
            layers.Dense(8, "tanh", name="hidden"),
            layers.BatchNormalization(synchronized=synchronized, name="norm"),
            keras.layers.Flatten(),
            layers.Dense(3, name="logits"),
        ]
    )


class Losses(keras.callbacks.Callback):
    """The loss of every batch: `logs` holds the mean since the metrics were reset."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(logs["loss"])


def by_fit(strategy, make, optimizer, x=X, y=LABELS, loss=loss_function, batch=BATCH, callbacks=()):
    """Train through `model.fit`; return the losses, the model's weights and the model."""
    with scope(strategy):
        model = make()
        model.compile(optimizer(), loss(), jit_compile=False)
    record = Losses()
    fit = {"shuffle": False, "verbose": 0, "callbacks": [record, *callbacks]}
    model.fit(x, y, batch_size=batch, **fit)
    return record.values, model.get_weights(), model


def shares(strategy, arrays, cut):
    """Give the first replica the rows before `cut`, and the second one the others."""
    if strategy is None:
        return [tf.constant(array) for array in arrays]
    return [
        strategy.experimental_distribute_values_from_function(
            lambda c, a=array: tf.constant(a[cut:] if c.replica_id_in_sync_group else a[:cut])
        )
        for array in arrays
    ]


def by_loop(strategy, make, optimizer, x=X, y=LABELS, loss=loss_function, batch=BATCH, cut=None):
    """Train through `strategy.run` in a loop, the mean over the global batch written out.

    `cut` is how many rows of a batch the first replica takes, half of them by default.
    """
    with scope(strategy):
        model, optimizer, loss = make(), optimizer(), loss(reduction="sum")
        optimizer.build(model.trainable_variables)

    def on_replica(x, y, rows):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True)) / rows
            scaled = optimizer.scale_loss(value)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return value

    @tf.function(reduce_retracing=True)
    def step(x, y, rows):
        current = tf.distribute.get_strategy() if strategy is None else strategy
        return current.reduce("SUM", current.run(on_replica, args=(x, y, rows)), axis=None)

    values = []
    for first in range(0, len(x), batch):
        rows = [a[first : first + batch] for a in (x, y)]
        size = tf.constant(len(rows[0]), keras.config.floatx())
        values.append(float(step(*shares(strategy, rows, cut or -(-batch // 2)), size)))
    with scope(strategy):
        optimizer.finalize_variable_values(model.trainable_variables)
    return values, model.get_weights(), model


@functools.cache
def with_option(strategy, name):
    """Return the losses and weights of `small` with an option, or without one: trained once."""
    return by_loop(strategy, small, sgd(name))[:2]


def difference(one, other):
    """Return the largest relative difference of losses, and of an array's entries to its size."""
    (losses, weights, *_), (their_losses, their_weights, *_) = one, other
    apart = [abs(a - b) / abs(b) for a, b in zip(losses, their_losses, strict=True)]
    for array, expected in zip(weights, their_weights, strict=True):
        if array.dtype.kind == "f" and array.size:
            largest, error = np.max(np.abs(expected)), np.max(np.abs(array - expected))
            apart.append(error / largest if error else 0.0)
    return float(np.max(apart, initial=0.0))
