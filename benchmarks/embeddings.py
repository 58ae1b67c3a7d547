"""Time the updates of a large embedding table, and train one on WordNet's links.

    python benchmarks/embeddings.py [--seconds 4] [--jit off|on|both] [--only zipf|uniform]
    python benchmarks/embeddings.py --fit [--jit off|on|both] [--only zipf|uniform]
    python benchmarks/embeddings.py --link-prediction [--data-dir DIR] [--epochs 5]

The first compares Keras's Adam and Embedding with the package's LazyAdam, with its own Embedding
and with Keras's, and with DeferredAdam and DeferredEmbedding: 512 ids a batch, other ones in every
step, from a table of 100,000 rows of 64 and one of ten times the rows. A step is lookup, gradient
and update; "update" is the update alone, with the rows' gradients given. All run in one process, in
turn; the fast ones are called several times a turn, as the sweep of Keras's Adam through the whole
table empties the caches for the call after it. The ratios are Keras's time over ours (over 1: ours
is faster); "x rows" is the time at ten times the rows over the time at one, both measured in turn.

The second times whole epochs of `fit`, 300 steps, at whose end DeferredAdam catches up; its ratios
are the time over LazyAdam's.

The third trains DistMult with negative sampling from the same seed, on the same batches, with the
package's Adam, DeferredAdam and LazyAdam, and prints what loss each ends at. DIR holds wordnet.npz
(head, relation, tail, n_entities, n_relations); without it a random graph is used.
"""

import argparse
import functools
import itertools
import pathlib
import time

import _measure
import keras
import numpy as np
import tensorflow as tf

import keras_bp

ROWS, COLUMNS, BATCH = 100_000, 64, 512
METHODS = {
    "Keras Adam": (keras.optimizers, "Adam", keras.layers.Embedding),
    "LazyAdam": (keras_bp.optimizers, "LazyAdam", keras_bp.layers.Embedding),
    "LazyAdam, Keras's layer": (keras_bp.optimizers, "LazyAdam", keras.layers.Embedding),
    "DeferredAdam": (keras_bp.optimizers, "DeferredAdam", keras_bp.layers.DeferredEmbedding),
}


def batches(rows, kind, number=2000):
    """Return `number` batches of ids: uniform, or by Zipf's law in a random order of the rows."""
    rng = np.random.default_rng(1)
    if kind == "uniform":
        ids = rng.integers(rows, size=(number, BATCH))
    else:
        share = np.cumsum(1.0 / np.arange(1, rows + 1))
        rank = np.searchsorted(share, rng.uniform(high=share[-1], size=(number, BATCH)))
        ids = rng.permutation(rows)[rank]
    return [tf.constant(batch, tf.int32) for batch in ids]


def table_step(method, rows, kind, whole, jit_compile):
    """Return a callable that makes one step, or one update, of a table with the next batch."""
    optimizers, name, embedding = METHODS[method]
    layer = embedding(rows, COLUMNS)
    layer.build([None])
    optimizer = getattr(optimizers, name)(1e-3)
    variables = layer.trainable_variables
    optimizer.build(variables)
    targets = tf.random.stateless_normal([BATCH, COLUMNS], seed=[1, 2])

    @tf.function(jit_compile=jit_compile)
    def step(ids, targets):
        if whole:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(layer(ids) - targets))
            gradients = tape.gradient(loss, variables)
        else:
            gradients = [tf.IndexedSlices(targets, ids, tf.constant([rows, COLUMNS]))]
        optimizer.apply(gradients, variables)

    ids = batches(rows, kind)
    concrete = step.get_concrete_function(ids[0], targets)
    ids = itertools.cycle(ids)
    return lambda: concrete(next(ids), targets)


def time_tables(only, seconds, jits):
    print(
        f"{'':8} {'ids':8} {'rows':>10} {'jit':4} {'':23} {'ms':>8} {'medians':>8} "
        f"{'minima':>7} {'x rows':>7}"
    )
    for part, kind, jit in itertools.product(("step", "update"), ("zipf", "uniform"), jits):
        if only not in kind:
            continue
        growth = {}
        for name in list(METHODS)[1:]:
            calls = [table_step(name, n * ROWS, kind, part == "step", jit) for n in (1, 10)]
            few, many = _measure.times_in_turn(calls, seconds, block=(1, 50))
            growth[name] = np.median(many) / np.median(few)
        for rows in (ROWS, 10 * ROWS):
            calls = [table_step(name, rows, kind, part == "step", jit) for name in METHODS]
            times = _measure.times_in_turn(calls, seconds, block=(1, 50))
            for name, t in zip(METHODS, times, strict=True):
                print(
                    f"{part:8} {kind:8} {rows:10,} {'on' if jit else 'off':4} {name:23} "
                    f"{np.median(t) * 1e3:8.3f} {np.median(times[0]) / np.median(t):8.1f} "
                    f"{min(times[0]) / min(t):7.1f} "
                    + (f"{growth[name]:7.2f}" if name in growth and rows != ROWS else ""),
                    flush=True,
                )


def time_fits(only, seconds, jits, steps=300):
    print(
        f"{'':3} {'ids':8} {'rows':>10} {'jit':4} {'':13} {'ms a step':>9} {'medians':>8} "
        f"{'minima':>7}"
    )
    names = "LazyAdam", "DeferredAdam"
    for kind, rows, jit in itertools.product(("zipf", "uniform"), (ROWS, 10 * ROWS), jits):
        if only not in kind:
            continue
        ids = tf.concat(batches(rows, kind, steps), axis=0)
        targets = tf.random.stateless_normal([len(ids), 1], seed=[1, 2])
        data = tf.data.Dataset.from_tensor_slices((ids, targets)).batch(BATCH).cache()
        calls = []
        for name in names:
            optimizers, optimizer, embedding = METHODS[name]
            layers = [keras.Input([], dtype="int32"), embedding(rows, COLUMNS)]
            model = keras.Sequential([*layers, keras.layers.Dense(1)])
            model.compile(getattr(optimizers, optimizer)(1e-3), "mse", jit_compile=jit)
            calls.append(functools.partial(model.fit, data, shuffle=False, verbose=0))
            calls[-1]()
        times = _measure.times_in_turn(calls, seconds)
        for name, t in zip(names, times, strict=True):
            print(
                f"fit {kind:8} {rows:10,} {'on' if jit else 'off':4} {name:13} "
                f"{np.median(t) / steps * 1e3:9.3f} {np.median(t) / np.median(times[0]):8.2f} "
                f"{min(t) / min(times[0]):7.2f}",
                flush=True,
            )


class DistMult(keras.Model):
    """Score of a link: the sum over e_head * r * e_tail. Ids are (batch, heads and tails)."""

    def __init__(self, embedding, n_entities, n_relations):
        super().__init__()

        def table(rows, seed):
            initializer = keras.initializers.RandomNormal(stddev=0.3, seed=seed)
            return embedding(rows, COLUMNS, embeddings_initializer=initializer)

        self.entities, self.relations = table(n_entities, 1), table(n_relations, 2)

    def call(self, inputs):
        """Return the scores of one head with every tail: (batch, tails)."""
        ids, relation = inputs
        vectors = self.entities(ids)
        query = vectors[:, :1] * self.relations(relation)[:, None]
        return tf.reduce_sum(query * vectors[:, 1:], axis=-1)


def load_links(data_dir):
    """Return (an array of rows of head, relation and tail; the numbers of items and relations)."""
    if data_dir is not None:
        data = np.load(pathlib.Path(data_dir) / "wordnet.npz")
        links = np.stack([data["head"], data["relation"], data["tail"]], axis=1)
        return links, int(data["n_entities"]), int(data["n_relations"])
    rng = np.random.default_rng(2)
    items, relations, number = 100_000, 10, 250_000
    # Links between items of one of 1000 groups, so that there is something to learn.
    head = (items * rng.uniform(size=number) ** 2).astype(int)
    tail = (head % 1000 + 1000 * rng.integers(items // 1000, size=number)) % items
    return np.stack([head, rng.integers(relations, size=number), tail], 1), items, relations


def link_batches(links, n_entities, seed, batch=512, negatives=4):
    """Yield (ids of head, tail and negative tails; relation): full batches of an epoch."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(links))
    for start in range(0, len(links) - batch + 1, batch):
        head, relation, tail = links[order[start : start + batch]].T
        false = rng.integers(n_entities, size=(batch, negatives))
        ids = np.concatenate([head[:, None], tail[:, None], false], axis=1)
        yield tf.constant(ids, tf.int32), tf.constant(relation, tf.int32)


def train_links(embedding, optimizer, links, n_entities, n_relations, epochs):
    """Return (losses of the epochs, loss of all links at the end, its table, seconds a step)."""
    model = DistMult(embedding, n_entities, n_relations)
    model([tf.zeros([1, 2], tf.int32), tf.zeros([1], tf.int32)])
    variables = model.trainable_variables
    optimizer.build(variables)
    cross_entropy = keras_bp.losses.BinaryCrossentropy(from_logits=True)

    def loss_of(ids, relation):
        scores = model([ids, relation])
        labels = tf.concat([tf.ones_like(scores[:, :1]), tf.zeros_like(scores[:, 1:])], axis=1)
        return cross_entropy(labels, scores)

    @tf.function
    def step(ids, relation):
        with tf.GradientTape() as tape:
            loss = loss_of(ids, relation)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    losses, times = [], []
    for epoch in range(epochs):
        total = []
        for batch in link_batches(links, n_entities, seed=epoch):
            start = time.perf_counter()
            total.append(step(*batch))
            times.append(time.perf_counter() - start)
        losses.append(np.mean(total))
    optimizer.finalize_variable_values(variables)
    evaluate = tf.function(loss_of)
    final = np.mean([evaluate(*b) for b in link_batches(links, n_entities, seed=10_000)])
    return losses, final, variables[0].numpy(), np.median(times)


def link_prediction(data_dir, epochs):
    links, n_entities, n_relations = load_links(data_dir)
    print(f"{len(links):,} links of {n_relations} kinds between {n_entities:,} items")
    print(
        f"{'':13} {'ms a step':>9}  {'last epoch':>10} {'to Adam':>9}  "
        f"{'final':>9} {'to Adam':>9}  {'table to Adam, largest':>22} {'mean':>9}"
    )
    dense = None
    for name, embedding in (
        ("Adam", keras_bp.layers.Embedding),
        ("DeferredAdam", keras_bp.layers.DeferredEmbedding),
        ("LazyAdam", keras_bp.layers.Embedding),
    ):
        optimizer = getattr(keras_bp.optimizers, name)(1e-2)
        losses, final, table, seconds = train_links(
            embedding, optimizer, links, n_entities, n_relations, epochs
        )
        dense = dense or (losses, final, table)
        apart = np.abs(table - dense[2])
        print(
            f"{name:13} {seconds * 1e3:9.2f}  {losses[-1]:10.6f} {losses[-1] - dense[0][-1]:9.1e}  "
            f"{final:9.6f} {final - dense[1]:9.1e}  {apart.max():22.1e} {apart.mean():9.1e}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="measure only ids drawn so: zipf or uniform")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds a case")
    parser.add_argument("--jit", choices=["off", "on", "both"], default="off")
    parser.add_argument("--fit", action="store_true", help="time whole epochs of `fit`")
    parser.add_argument("--link-prediction", action="store_true", help="train on WordNet's links")
    parser.add_argument("--data-dir", help="folder of wordnet.npz; a random graph without it")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of --link-prediction")
    arguments = parser.parse_args()
    if arguments.link_prediction:
        link_prediction(arguments.data_dir, arguments.epochs)
    else:
        jits = {"off": [False], "on": [True], "both": [False, True]}[arguments.jit]
        (time_fits if arguments.fit else time_tables)(arguments.only, arguments.seconds, jits)


if __name__ == "__main__":
    main()
