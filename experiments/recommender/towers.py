"""The model of the experiment, a table for users and one for items, and its optimizers."""

import keras
import numpy as np
import tensorflow as tf

from keras_bp import layers, optimizers

# name -> class, other arguments, rates to choose from. Adam makes DeferredAdam's iterates, in more
# time: it takes the rate of that.
RULES = {
    "Adam": (optimizers.Adam, {}, ()),
    "DeferredAdam": (optimizers.DeferredAdam, {}, (0.001, 0.003, 0.01, 0.03)),
    "LazyAdam, global": (optimizers.LazyAdam, {}, (0.003, 0.01, 0.03, 0.1)),
    "LazyAdam, row": (optimizers.LazyAdam, {"correction": "row"}, (0.003, 0.01, 0.03, 0.1)),
    "Adagrad": (optimizers.Adagrad, {"initial_accumulator_value": 0.0}, (0.03, 0.1, 0.3, 1.0)),
    "SGD, lazy momentum": (
        optimizers.SGD,
        {"momentum": 0.9, "lazy_update": True},
        (1.0, 3.0, 10.0, 30.0),
    ),
}
EXACT = {"Adam": "DeferredAdam"}  # whose rate it takes
# Timed only: its iterates are Adam's.
KERAS = "Keras's Adam"
TIMED = RULES | {KERAS: (keras.optimizers.Adam, {}, ())}
DENSE = "Adam", KERAS  # move every row in every step


class TwoTowers(keras.Model):
    """Scores of every user in the batch for every item in it: a row of each table, multiplied.

    Args:
        users: number of users.
        items: number of items.
        columns: length of a row.
        seed: int, of the tables' first values.
        deferred: whether `DeferredAdam` trains the tables.
    """

    def __init__(self, users, items, columns, seed, deferred):
        super().__init__()
        embedding = layers.DeferredEmbedding if deferred else layers.Embedding

        def table(rows, seed):
            initializer = keras.initializers.RandomNormal(stddev=columns**-0.5, seed=seed)
            return embedding(rows, columns, embeddings_initializer=initializer)

        self.of_users, self.of_items = table(users, 2 * seed), table(items, 2 * seed + 1)

    def call(self, pairs):
        """Return the scores (n, n) of n pairs of a user and an item, integers of shape (n, 2)."""
        return tf.matmul(self.of_users(pairs[:, 0]), self.of_items(pairs[:, 1]), transpose_b=True)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the softmax cross-entropy of each user's own item among all items of the batch.

        The batch's items are drawn by their popularity q, so that scores come to
        log(p(i|u) / q(i)): the logQ correction subtracts log q in training and adds it in ranking.
        Here training leaves it out, and `rank_items` gets it as the bias.
        """
        own = tf.range(tf.shape(y_pred)[0])
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(own, y_pred))


def compiled(data, name, rate, seed, columns):
    """Return a `TwoTowers`, built and compiled with the optimizer of a name in `TIMED`."""
    rule, arguments, _ = TIMED[name]
    deferred = rule is optimizers.DeferredAdam
    model = TwoTowers(data.users, data.items, columns, seed, deferred)
    model(np.zeros((1, 2), "int32"))
    model.compile(rule(rate, **arguments), jit_compile=False)
    return model


def batches(data, batch, number, seed):
    """Return a `tf.data.Dataset` of so many batches of the training's pairs.

    The order is a new permutation for each pass through the pairs, by the seed.
    """
    rng = np.random.default_rng(seed)
    passes = -(-batch * number // len(data.train))
    order = np.concatenate([rng.permutation(len(data.train)) for _ in range(passes)])
    pairs = data.train[order[: batch * number]].reshape(number, batch, 2)
    return tf.data.Dataset.from_tensor_slices(pairs).prefetch(2)
