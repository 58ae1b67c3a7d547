"""What the shared battery needs: every optimizer, a small model, and variables with gradients."""

import keras
import numpy as np
import tensorflow as tf

from keras_bp import layers, optimizers

NAMES = [name for name in optimizers.__all__ if hasattr(getattr(optimizers, name), "_rule")]
NAMES.remove("Optimizer")
# Of variables none of which need be a hidden matrix, without which Muon refuses them.
OF_ANY_VARIABLE = [name for name in NAMES if name != "Muon"]
# One of each kind of update that the base makes: of a whole variable, of a table's rows, of rows
# that are deferred, with sums over all variables. The others differ from one of these in their rule
# alone, which parity pins down.
KINDS = ["AdamW", "LazyAdam", "DeferredAdam", "Prodigy"]

# What a class refuses beside a table whose rows it defers.
REFUSED = {"DeferredAdam": ("weight_decay", "use_ema")}
ROWS, COLUMNS = 7, 2


# At these a loss falls within five steps; rules that find their rate begin with one that shows.
RATES = {"SGD": 0.1, "Momentum": 0.3, "Prodigy": 1.0, "DoG": 1.0, "Adadelta": 0.3, "Adafactor": 0.3}
STARTS = {
    "Adadelta": {"epsilon": 1e-2},
    "Ftrl": {"initial_accumulator_value": 0.0},  # from weights other than 0
    "Prodigy": {"d0": 0.02},
    "DoG": {"r_epsilon": 0.05},
    "ScheduleFreeRAdam": {"silent_sgd_phase": False},
    "HypergradientAdam": {"hypergradient_rate": 1e-4},
}


def make(name, learning_rate=None, /, **options):
    """Make an optimizer, without the options that it refuses beside a table."""
    learning_rate = RATES.get(name, 0.05) if learning_rate is None else learning_rate
    cls = getattr(optimizers, name)
    refused = {*REFUSED.get(name, ()), *cls.refused_options}
    options = {key: o for key, o in options.items() if key not in refused}
    if name == "Muon" and "weight_decay" in options:  # one decay for each of its two rules
        options.setdefault("adam_weight_decay", options["weight_decay"])
    return cls(learning_rate, **{**STARTS.get(name, {}), **options})


def embedding_class(name):
    """The embedding layer that the optimizer of this name works with."""
    return layers.DeferredEmbedding if name == "DeferredAdam" else keras.layers.Embedding


def model(name, optimizer=None, **compile_options):
    """A compiled model of an embedding and two dense layers, the same weights in every call."""
    keras.utils.set_random_seed(1)
    net = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            embedding_class(name)(ROWS, COLUMNS, name="embedding"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, "tanh", name="hidden"),
            keras.layers.Dense(1, name="head"),
        ]
    )
    net.compile(optimizer or make(name), "mse", **{"jit_compile": False, **compile_options})
    return net


_generator = np.random.default_rng(0)
X = _generator.integers(0, ROWS, (14, 3)).astype("int32")
Y = (X.sum(axis=1, keepdims=True) / 9 - 0.5).astype("float32")
FIT = {"shuffle": False, "verbose": 0}


def batches(size, x=X, y=Y):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def weights(net):
    """The weights that stand for the model: a deferred table as its layer reads it."""
    table = net.get_layer("embedding")(np.arange(ROWS))
    return [table.numpy(), *(w.numpy() for layer in net.layers[1:] for w in layer.weights)]


def gradients_of(net, x, y):
    """The gradients of the batch's loss, the table's as `tf.IndexedSlices`."""
    with tf.GradientTape() as tape:
        loss = net.compute_loss(x, y, net(x, training=True))
    return tape.gradient(loss, net.trainable_variables)


def assert_close(arrays, others, atol, rtol=0.0):
    for array, other in zip(arrays, others, strict=True):
        array, other = (np.asarray(a).astype("float64") for a in (array, other))
        np.testing.assert_allclose(array, other, atol=atol, rtol=rtol)


def assert_same(arrays, others):
    for array, other in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(array, other)


class Problem:
    """A matrix, a scalar and a table, with gradients that do not depend on them.

    Args:
        name: the optimizer's class.
        dtype: of the variables.
        sparse: whether the table's gradient is sparse, with repeated ids.
    """

    def __init__(self, name, dtype="float32", sparse=True):
        self.dtype = dtype
        self.sparse = sparse
        initial = np.random.default_rng(3).normal(size=(ROWS, COLUMNS))
        self.layer = embedding_class(name)(ROWS, COLUMNS, dtype=dtype)
        self.layer.build(None)
        [table] = self.layer.trainable_variables
        table.assign(initial)
        self.matrix = tf.Variable(initial[:3], dtype=dtype, name="matrix")
        self.scalar = tf.Variable(0.7, dtype=dtype, name="scalar")
        self.variables = [self.matrix, self.scalar, table]

    def gradients(self, step):
        """The gradients of one step: of size 1, with a share that stays from step to step."""
        generator = np.random.default_rng([step])
        rows, ids = generator.normal(size=(4, COLUMNS)) + 0.5, generator.integers(0, ROWS - 1, 4)
        ids[1] = ids[0]
        rows = tf.constant(rows, self.dtype)
        table = tf.IndexedSlices(rows, tf.constant(ids), tf.constant([ROWS, COLUMNS]))
        return [
            tf.constant(generator.normal(size=(3, COLUMNS)) + 0.5, self.dtype),
            tf.constant(generator.normal() + 0.5, self.dtype),
            table if self.sparse else tf.convert_to_tensor(table),
        ]

    def steps(self, optimizer, count, first=0):
        """Apply the gradients of `count` steps, one call each."""
        for step in range(first, first + count):
            optimizer.apply(self.gradients(step), self.variables)
        return self

    def read(self):
        """The values: of the table as its layer reads it."""
        table = self.layer(np.arange(ROWS))
        return [self.matrix.numpy(), self.scalar.numpy(), table.numpy()]
