"""GPT-3's recipe, at a size that runs here.

Run it with `python examples/character_transformer.py`. A small transformer learns to go on with the
help texts that Python comes with, character by character: AdamW with betas of 0.9 and 0.95, a decay
that leaves out biases and normalization, a learning rate that warms up and falls along a cosine in
tokens, clipping at a global norm of 1, and batches that grow while it trains. It leaves a picture,
and a TensorBoard run, in tb_logs/character_transformer.
"""

import os
import re
import time
from pydoc_data.topics import topics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _shared import CommandLine, read_scalars, tidy
from matplotlib.figure import Figure

from keras_bp.callbacks import GradientMonitor
from keras_bp.layers import Dense, Embedding, LayerNormalization
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import AdamW
from keras_bp.schedules import GPT3

CONTEXT = 64  # characters that a prediction sees at most
WIDTH, HEADS, BLOCKS = 96, 4, 3
SEED = 0


def load_data():
    """Return (characters, training text, held-out text), the texts as indices of characters."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    text = re.sub("[^\n -~]", "", text)  # what is not ASCII is rare
    characters = sorted(set(text))
    indices = np.array([characters.index(c) for c in text], dtype="int32")
    held_out = len(indices) // 10
    return characters, indices[:-held_out], indices[-held_out:]


class Positions(keras.layers.Layer):
    """Adds to each character's vector a trained one of its place."""

    def build(self, input_shape):
        """Make the vectors, one per place."""
        normal = keras.initializers.RandomNormal(0, 0.02, seed=SEED)
        self.places = self.add_weight(shape=input_shape[1:], initializer=normal, name="places")

    def call(self, x):
        """Return the sums."""
        return x + self.places


def build_model(characters):
    """Return a transformer that normalizes before each part, as GPT-2 and GPT-3 do."""
    normal = keras.initializers.RandomNormal(0, 0.02, seed=SEED)
    inputs = keras.Input((CONTEXT,), dtype="int32")
    x = Embedding(characters, WIDTH, embeddings_initializer=normal, name="characters")(inputs)
    x = Positions(name="positions")(x)
    for i in range(1, BLOCKS + 1):
        attention = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"attention_{i}")
        y = LayerNormalization(name=f"norm_{i}a")(x)
        x = x + attention(y, y, use_causal_mask=True)
        y = LayerNormalization(name=f"norm_{i}b")(x)
        y = Dense(4 * WIDTH, activation="gelu", name=f"wide_{i}")(y)
        x = x + Dense(WIDTH, name=f"narrow_{i}")(y)
    x = LayerNormalization(name="norm")(x)
    return keras.Model(inputs, Dense(characters, name="logits")(x))


def build_schedule(total):
    """Return GPT-3's schedule, its 375 million of 300 billion tokens and so on as shares."""
    return GPT3(
        3e-3,
        warmup_tokens=0.03 * total,  # 0.1 % in GPT-3, here too few steps for Adam's averages
        decay_tokens=0.87 * total,
        ramp_tokens=0.3 * total,  # 1 to 4 %
        first_batch_tokens=4 * CONTEXT,
        last_batch_tokens=32 * CONTEXT,
    )


def batches(text, schedule, steps):
    """Yield (windows, the characters that come next), as many windows as the schedule names."""
    draw = np.random.default_rng(SEED)
    windows = np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)
    ends = schedule.tokens(np.arange(steps + 1)).numpy() // CONTEXT
    for number in np.diff(ends):
        chosen = windows[draw.integers(len(windows), size=number)]
        yield chosen[:, :-1], chosen[:, 1:]


def write_on(model, beginning, length):
    """Return `length` indices that the model goes on with, drawn from its probabilities."""
    predict = tf.function(lambda window: model(window, training=False)[0, -1])
    draw, text = np.random.default_rng(SEED), list(beginning)
    for _ in range(length):
        logits = predict(tf.constant([text[-CONTEXT:]])).numpy() / 0.7  # less daring than at 1
        text.append(np.argmax(logits + draw.gumbel(size=len(logits))))
    return text[len(beginning) :]


def draw(series, tokens, sizes, path):
    """Write a picture of the recipe and of what came of it, against the tokens seen."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    (rate, loss), (batch, norm) = axes
    rate.plot(tokens, series["learning_rate"], color="tab:orange")
    rate.set(title="Learning rate", ylim=(0, None))
    rate.ticklabel_format(axis="y", scilimits=(0, 0))
    batch.plot(tokens, sizes, color="tab:green")
    batch.set(title="Tokens in a batch", ylim=(0, None))
    bits = series["loss/batch"] / np.log(2)
    loss.plot(tokens, bits, color="tab:blue", linewidth=0.7)
    loss.set(title="Training loss of each batch, bits a character", ylim=(0, None))
    before, after = series["gradient_norm/global"], series["gradient_norm_applied/global"]
    norm.plot(tokens, before, color="tab:red", linewidth=0.7, label="before clipping")
    norm.plot(tokens, after, color="black", linewidth=0.7, label="after")
    norm.set(title="Norm of all gradients", yscale="log")
    norm.legend(frameon=False)
    tidy(*axes.flat)
    for ax in axes[1]:
        ax.set(xlabel="tokens (characters) seen", xlim=(0, tokens[-1]))
    figure.savefig(path, dpi=100)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=8.0, of="training text's lengths to read")
    parser.add_argument(
        "--tokens", type=int, help="characters of the training text to use, for all"
    )
    options = parser.parse_args(arguments)

    keras.utils.set_random_seed(SEED)
    characters, text, held_out = load_data()
    text = text[: options.tokens]
    total = options.epochs * len(text)
    schedule = build_schedule(total)
    sizes = schedule.batch_size(np.arange(total // schedule.first_batch_tokens)).numpy()
    steps = int(np.searchsorted(np.cumsum(sizes), total))
    sizes, tokens = sizes[:steps], np.cumsum(sizes)[:steps]
    shape = tf.TensorSpec((None, CONTEXT), "int32")
    data = tf.data.Dataset.from_generator(
        lambda: batches(text, schedule, steps), output_signature=(shape, shape)
    ).apply(tf.data.experimental.assert_cardinality(steps))
    model = build_model(len(characters))
    optimizer = AdamW(
        schedule,
        weight_decay=0.1,
        beta_1=0.9,
        beta_2=0.95,
        epsilon=1e-8,
        global_clipnorm=1.0,
        exclude_from_decay="bias_and_normalization",
    )
    model.compile(optimizer, SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    print(
        f"{total:,.0f} tokens of a text of {len(text):,}, {model.count_params():,} weights, "
        f"{steps} update steps with batches from {sizes[0]:,} to {sizes[-1]:,} tokens"
    )

    start = time.perf_counter()
    monitor = GradientMonitor(options.folder)
    model.fit(data, shuffle=False, verbose=0, callbacks=[monitor])
    print(f"{time.perf_counter() - start:.1f} seconds")
    series = read_scalars(monitor.run_dir)
    draw(series, tokens, sizes, options.folder / "recipe.png")
    clipped = np.mean(series["gradient_norm/global"] > 1)
    last = series["learning_rate"][-1]
    print(f"clipped: {clipped:.0%} of the updates; learning rate of the last: {last:.1e}")

    whole = len(held_out) // CONTEXT * CONTEXT
    x, y = held_out[:whole].reshape(-1, CONTEXT), held_out[1 : whole + 1].reshape(-1, CONTEXT)
    loss, accuracy = model.evaluate(x, y, batch_size=64, verbose=0)
    beginning = held_out[:CONTEXT]
    written = "".join(characters[i] for i in write_on(model, beginning, 300))
    print(f"\n{''.join(characters[i] for i in beginning)}[...]{written}\n")
    print(f"picture of the recipe: {options.folder / 'recipe.png'}")
    print(f"held-out text: {loss / np.log(2):.2f} bits a character")
    print(f"test accuracy: {accuracy:.2%} of {whole} characters, each from up to {CONTEXT} before")


if __name__ == "__main__":
    main()
