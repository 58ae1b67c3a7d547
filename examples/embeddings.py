"""Embedding tables: dense Adam, DeferredAdam and LazyAdam.

Run it with `python examples/embeddings.py`, for a synthetic shop of 100,000 items whose popularity
follows Zipf's law, or with `python examples/embeddings.py --dataset wordnet --data-dir DIR`, for
the links of WordNet in DIR/wordnet.npz. A model with dropout 0.5 tells the links from random
pairs. Adam moves the whole table in every update, DeferredAdam only the rows of the batch and ends
at the same table; LazyAdam too moves these rows only, and ends elsewhere. It leaves a picture of
the losses in tb_logs/embeddings.
"""

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _shared import CommandLine
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_bp.layers import DeferredEmbedding, Dense, Dropout, Embedding
from keras_bp.losses import BinaryCrossentropy
from keras_bp.optimizers import Adam, DeferredAdam, LazyAdam

BATCH_SIZE = 512
COLUMNS = 32
RATE = 0.01
SEED = 0
# Dense Adam comes first: the others are compared with it.
METHODS = {
    "Adam": (Adam, Embedding),
    "DeferredAdam": (DeferredAdam, DeferredEmbedding),
    "LazyAdam": (LazyAdam, Embedding),
}


def made_up_links(items=100_000, groups=10, number=40_000):
    """Return (links, items, kinds): who bought the head bought the tail, of the same group."""
    rng = np.random.default_rng(SEED)
    popularity = np.cumsum(1 / np.arange(1, items // groups + 1))

    def draw(group):
        # Within a group of items, the item of rank r is drawn in proportion to 1 / r.
        ranks = np.searchsorted(popularity, rng.uniform(high=popularity[-1], size=number))
        return ranks * groups + group

    group = rng.integers(groups, size=number)
    return np.stack([draw(group), np.zeros(number, int), draw(group)], axis=1), items, 1


def wordnet_links(folder):
    """Return (links: rows of head, kind and tail, number of entities, number of kinds)."""
    with np.load(folder / "wordnet.npz") as data:
        links = np.stack([data["head"], data["relation"], data["tail"]], axis=1)
        return links, int(data["n_entities"]), int(data["n_relations"])


def with_random_pairs(links, rng):
    """Return (inputs, labels): every link, 1, and once more with another link's tail, 0."""
    heads, kinds, tails = links.T
    others = rng.permutation(tails)  # as popular as the true ones
    x = {
        "head": np.concatenate([heads, heads]).astype("int32"),
        "kind": np.concatenate([kinds, kinds]).astype("int32"),
        "tail": np.concatenate([tails, others]).astype("int32"),
    }
    y = np.repeat([1.0, 0.0], len(links)).astype("float32")[:, None]
    return x, y


def build_model(embedding, items, kinds):
    """Return (model, its table of items): the logit that a head has a link to a tail."""
    table = embedding(items, COLUMNS, embeddings_initializer="glorot_uniform", name="items")
    ids = {name: keras.Input((), dtype="int32", name=name) for name in ("head", "kind", "tail")}
    head, tail = table(ids["head"]), table(ids["tail"])
    kind = embedding(kinds, COLUMNS, name="kinds")(ids["kind"])
    query = Dropout(0.5)(Dense(COLUMNS, name="query")(keras.layers.Concatenate()([head, kind])))
    logit = keras.layers.Dot(axes=1)([query, tail])
    return keras.Model(ids, logit), table


def train(method, links, items, kinds, epochs):
    """Return (losses of the epochs, final loss, accuracy on held-out pairs, table, seconds)."""
    keras.utils.set_random_seed(SEED)  # the same first weights, batches and dropout for all
    optimizer, embedding = METHODS[method]
    model, table = build_model(embedding, items, kinds)
    model.compile(optimizer(RATE), BinaryCrossentropy(from_logits=True), metrics=["accuracy"])
    rng = np.random.default_rng(SEED)
    held_out = len(links) // 20
    x, y = with_random_pairs(links[held_out:], rng)
    ticks = [time.perf_counter()]
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ticks.append(time.perf_counter())
    )
    history = model.fit(
        x, y, batch_size=BATCH_SIZE, epochs=epochs, callbacks=[clock], verbose=0
    ).history
    loss, _ = model.evaluate(x, y, batch_size=8192, verbose=0)
    x_test, y_test = with_random_pairs(links[:held_out], rng)
    _, accuracy = model.evaluate(x_test, y_test, batch_size=8192, verbose=0)
    seconds = np.median(np.diff(ticks)[epochs > 1 :])  # the first epoch traces
    table = keras.ops.convert_to_numpy(table.embeddings)
    return history["loss"], loss, accuracy, table, seconds


def draw(histories, path):
    """Write a picture of the training loss by epoch and of the seconds an epoch."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, times = figure.subplots(1, 2, width_ratios=[3, 2])
    # The lines of Adam and DeferredAdam coincide: a broad one under a dashed one.
    styles = (dict(linewidth=5, alpha=0.4), dict(linestyle="--"), dict())
    for (method, (history, seconds)), style in zip(histories.items(), styles, strict=True):
        [line] = losses.plot(range(1, len(history) + 1), history, marker="o", label=method, **style)
        bar = times.barh(method, seconds, color=line.get_color(), alpha=style.get("alpha", 1))
        times.bar_label(bar, fmt="%.1f", padding=3)
    losses.set(title="Training loss, dropout on", xlabel="epochs", ylim=(0, None))
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.legend(frameon=False)
    losses.grid(alpha=0.2)
    times.set_title("Seconds an epoch")
    times.invert_yaxis()
    times.margins(x=0.15)
    for ax in (losses, times):
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=3, of="passes over the links")
    parser.add_argument("--dataset", choices=["shop", "wordnet"], default="shop")
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder that holds wordnet.npz")
    parser.add_argument("--floatx", choices=["float32", "float64"], default="float32")
    parser.add_argument("--links", type=int, help="use so many links, drawn at random")
    options = parser.parse_args(arguments)
    if options.dataset == "wordnet" and options.data_dir is None:
        parser.error("--dataset wordnet needs --data-dir, the folder that holds wordnet.npz")

    keras.config.set_floatx(options.floatx)
    if options.dataset == "shop":
        links, items, kinds = made_up_links()
    else:
        links, items, kinds = wordnet_links(options.data_dir)
    links = np.random.default_rng(SEED).permutation(links)[: options.links]
    print(f"{len(links):,} links between {items:,} items, of {kinds} kind(s)")
    print(f"{'':14}{'final loss':>11}{'to Adam':>10}{'table to Adam: largest':>24}", end="")
    print(f"{'mean':>9}{'held out':>10}{'seconds an epoch':>18}")
    histories, adam = {}, None
    for method in METHODS:
        history, loss, accuracy, table, seconds = train(method, links, items, kinds, options.epochs)
        histories[method] = history, seconds
        adam = adam or (loss, table)
        apart = np.abs(table - adam[1])
        print(
            f"{method:14}{loss:11.6f}{loss - adam[0]:10.1e}{apart.max():24.1e}{apart.mean():9.1e}"
            f"{accuracy:10.2%}{seconds:18.2f}",
            flush=True,
        )
        if method == "DeferredAdam":
            deferred_accuracy = accuracy

    picture = options.folder / f"{options.dataset}.png"
    draw(histories, picture)
    print(f"\npicture of losses and times: {picture}")
    print(f"test accuracy: {deferred_accuracy:.2%} of held-out pairs with DeferredAdam")


if __name__ == "__main__":
    main()
