"""An optimizer for a model, chosen by a few questions, with its reasons."""

import math
import typing

import keras
import numpy as np

from keras_bp._arguments import check_integer
from keras_bp._keras import flat_layers, is_built
from keras_bp._paths import is_table
from keras_bp.layers import DeferredEmbedding
from keras_bp.optimizers import SGD, AdamW, DeferredAdam, Lamb, Optimizer
from keras_bp.schedules import WarmupCosine

MANY_WEIGHTS = 1_000_000
FEW_EXAMPLES = 10_000
LARGE_BATCH = 8192
# Adam's rate times the width of the matrices, the most that it is, and that of tables alone.
_RATE_BY_WIDTH, _LARGEST_RATE, _TABLES_RATE = 0.4, 0.01, 0.003
# The rows of a table from which on moving them all takes most of Adam's step.
_LARGE_TABLE = 100_000
_ATTENTION = (
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
    keras.layers.Attention,
    keras.layers.AdditiveAttention,
)


class Suggestion(typing.NamedTuple):
    """What `suggest_optimizer` returns.

    Attributes:
        optimizer: a `keras_bp.optimizers.Optimizer`, for `compile`.
        why: string, a line for each choice.
    """

    optimizer: Optimizer
    why: str


def suggest_optimizer(
    model: keras.Model, *, examples: int, epochs: int, batch_size: int = 32
) -> Suggestion:
    """Choose an optimizer, its rate and its schedule for a model, and say why.

    The first question that is answered with yes decides:

    1. Does it hold a `DeferredEmbedding`? `DeferredAdam`, which is Adam at the cost of the batch's
       rows.
    2. Are there 8192 examples or more in a batch? `Lamb`.
    3. Has it more than a million weights, attention or recurrent layers? `AdamW`.
    4. Are there 10,000 examples or fewer? `SGD` with Nesterov momentum.
    5. Otherwise `AdamW`.

    With n the geometric mean, over all matrices and filters, of the root of the number of their
    weights, which is the width of a square one, Adam's rate is

        rate = min(0.01, 0.4 / n) max(1, sqrt(batch_size / 256))

    since an update that moves each weight by a moves a sum of n inputs by up to n a. A model whose
    only matrices are the tables of embeddings gets 0.003 in place of min(0.01, 0.4 / n): the best
    of a grid of constant rates in `experiments/recommender/README.md`. All rates rise over a
    twentieth of the steps, and fall to 0 along a cosine; the gradients are clipped to a global norm
    of 1; biases and the weights of normalizations do not decay.

    Where `AdamW` is to train a table of 100,000 rows or more, the reasons name `DeferredEmbedding`.

    It is a place to start from, not the best there is: `experiments/optimizer_trials/README.md`
    has what became of it on a dozen small tasks, beside all others at their best rates.
    `keras_bp.find_learning_rate` looks for a better rate.

    Args:
        model: built `keras.Model`.
        examples: integer >= 1, the number of training examples.
        epochs: integer >= 1, the passes over them.
        batch_size: integer >= 1, examples per update, of all replicas and accumulated micro-steps
            together. Defaults to 32.

    Returns:
        A `Suggestion`: the optimizer, and why.

    Raises:
        TypeError: if `model` is no `keras.Model`, or a number not an integer.
        ValueError: if the model is not built, or has no trainable weights, or a number is below 1.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
        >>> optimizer, why = keras_bp.suggest_optimizer(model, examples=50_000, epochs=10)
        >>> model.compile(optimizer, "mse")
        >>> type(optimizer).__name__
        'AdamW'
    """
    _require_weights(model)
    counts = {"examples": examples, "epochs": epochs, "batch_size": batch_size}
    examples, epochs, batch_size = (check_integer(n, count, 1) for n, count in counts.items())
    layers = flat_layers(model, include_self=True)
    weights = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    tables = [variable for variable in model.trainable_variables if is_table(variable)]
    matrices = _sizes_of_matrices(model.trainable_variables)
    width = math.exp(np.mean(np.log(matrices)) / 2) if matrices else 1.0
    if matrices:
        rate = min(_LARGEST_RATE, _RATE_BY_WIDTH / width)
        rate_why = f"matrices of a typical width of {width:.0f}"
    elif tables:
        rate = _TABLES_RATE
        rate_why = f"tables alone ({rate:g} is best in experiments/recommender, as a constant rate)"
    else:
        rate, rate_why = _LARGEST_RATE, "no matrices"
    rate *= max(1.0, math.sqrt(batch_size / 256))
    if batch_size > 256:
        rate_why += f" and the root of {batch_size} / 256"
    decay: dict[str, typing.Any]
    decay = {"weight_decay": 0.01, "exclude_from_decay": "bias_and_normalization"}
    rule: type[Optimizer] = AdamW

    if any(isinstance(layer, DeferredEmbedding) for layer in layers):
        rule, decay = DeferredAdam, {}
        why = "DeferredAdam, since a DeferredEmbedding lets it update the batch's rows alone."
    elif batch_size >= LARGE_BATCH:
        rule, rate = Lamb, 0.3 / math.sqrt(width) * math.sqrt(batch_size / 32_768)
        why = f"Lamb, since a batch has {batch_size:,} examples, {LARGE_BATCH:,} or more."
    elif weights > MANY_WEIGHTS:
        why = f"AdamW, since the model has {weights:,} weights, more than {MANY_WEIGHTS:,}."
    elif any(isinstance(layer, _ATTENTION) for layer in layers):
        why = "AdamW, since the model has attention."
    elif any(isinstance(layer, keras.layers.RNN) for layer in layers):
        why = "AdamW, since the model is recurrent."
    elif examples <= FEW_EXAMPLES:
        rule, rate, rate_why = (
            SGD,
            0.1,
            "usual with this momentum; a search for it is worth its time",
        )
        decay = {"momentum": 0.9, "nesterov": True, **decay, "weight_decay": 5e-4}
        why = (
            f"SGD with momentum, since there are {examples:,} examples, {FEW_EXAMPLES:,} or fewer."
        )
    else:
        why = f"AdamW, since its rate needs less tuning than SGD's, for {examples:,} examples."

    steps = math.ceil(examples / batch_size) * epochs
    warmup = max(steps // 20, 1)
    schedule = WarmupCosine(rate, max(steps, warmup + 1), warmup)
    reasons = [
        why,
        f"Rate {rate:.2g}: {rate_why}.",
        f"It rises over {warmup:,} of {steps:,} steps and falls to 0 along a cosine.",
        "Gradients are clipped to a global norm of 1, so that no outlier costs more than a step.",
    ]
    if decay:
        reasons.append(
            f"Kernels decay by {decay['weight_decay']:g}, biases and normalizations do not."
        )
    largest = max((table.shape[0] for table in tables), default=0)
    if rule is AdamW and largest >= _LARGE_TABLE:
        reasons.append(
            f"For its table of {largest:,} rows, try DeferredEmbedding and DeferredAdam: Adam's "
            "steps without decay, 6 times as fast with 100,000 rows in experiments/recommender."
        )
    return Suggestion(rule(schedule, global_clipnorm=1.0, **decay), "\n".join(reasons))


def _require_weights(model):
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    if not is_built(model) or not model.trainable_variables:
        raise ValueError(
            "`model` must be built and have trainable weights: give it an `Input`, or call it "
            f"once. Received: model {model.name!r}, "
            f"{'without trainable weights' if is_built(model) else 'not built'}"
        )


def _sizes_of_matrices(variables):
    """Return the numbers of weights of the matrices and filters, tables not among them."""
    return [
        int(np.prod(variable.shape))
        for variable in variables
        if len(variable.shape) > 1 and not is_table(variable)
    ]
