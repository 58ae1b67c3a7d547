"""How the gradients that a model is trained with compare to those of its loss."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_bp._keras import is_built
from keras_bp._paths import variable_paths
from keras_bp._trial import unchanged_values
from keras_bp._types import Array
from keras_bp.feedback.ops import exact_gradients


class Alignment(NamedTuple):
    """How a gradient compares to the true one, both over all trainable variables of a layer.

    Example:
        >>> keras_bp.feedback.Alignment(angle=45.0, sign_concordance=0.75).angle
        45.0
    """

    angle: float
    """Degrees between the two, 0 to 180; random directions are at about 90. NaN where one is 0."""
    sign_concordance: float
    """The share of equal signs among the entries that are not 0 in both; NaN without any."""

    @classmethod
    def of_sums(cls, sums: Array) -> "Alignment":
        """Return the alignment of the variables whose rows from `alignment_sums` are given.

        Args:
            sums: array of shape (variables, 5).
        """
        product, square, true_square, agreeing, counted = np.sum(np.float64(sums), axis=0)
        norms = math.sqrt(square) * math.sqrt(true_square)
        cosine = product / norms if norms > 0 else math.nan
        # Rounding may put a cosine of 1 slightly above 1.
        angle = math.degrees(math.acos(min(max(cosine, -1.0), 1.0))) if norms > 0 else math.nan
        return cls(angle, float(agreeing / counted) if counted else math.nan)


def alignment_sums(gradients: Sequence[Any], true_gradients: Sequence[Any]) -> tf.Tensor:
    """Return the sums behind an `Alignment`, for each gradient and its true counterpart.

    It works inside a `tf.function`, also one compiled by XLA. `Alignment.of_sums` turns the rows of
    a layer's variables into its `Alignment`.

    Args:
        gradients: list of tensors, `tf.IndexedSlices` or None, which counts as zeros.
        true_gradients: list likewise, in the same order.

    Returns:
        A float64 tensor of shape (gradients, 5), in each row the inner product, the two squared
        norms, the number of entries with the same sign, and the number of entries that are not 0
        in both.

    Example:
        >>> sums = keras_bp.feedback.alignment_sums(
        ...     [tf.constant([1.0, 0])], [tf.constant([2.0, 2])]
        ... )
        >>> [round(number, 3) for number in keras_bp.feedback.Alignment.of_sums(sums)]
        [45.0, 0.5]
    """
    rows = []
    for gradient, true in zip(gradients, true_gradients, strict=True):
        if gradient is None and true is None:
            rows.append(tf.zeros(5, tf.float64))
            continue
        a, b = (None if g is None else tf.convert_to_tensor(g) for g in (gradient, true))
        a, b = (tf.zeros_like(y) if x is None else x for x, y in ((a, b), (b, a)))
        # In float32 an angle below 0.02 degrees could not be told from 0.
        a, b = tf.cast(a, tf.float64), tf.cast(b, tf.float64)
        same = tf.cast((tf.sign(a) == tf.sign(b)) & (b != 0), tf.float64)
        either = tf.cast((a != 0) | (b != 0), tf.float64)
        rows.append(tf.stack([tf.reduce_sum(t) for t in (a * b, a * a, b * b, same, either)]))
    return tf.stack(rows)


def alignment(
    model: keras.Model, x: Array, y: Array, sample_weight: Array | None = None
) -> dict[str, Alignment]:
    """Return how each layer's gradient on a batch compares to the true one.

    One forward pass in training mode, and two backward passes: the one that the model is trained
    with, and one inside `exact_gradients()`, which makes this package's feedback layers exact, but
    no other surrogates. The model and all random states are left as they were.

    Args:
        model: a built and compiled `keras.Model`.
        x: array, tensor or structure of them, the model's inputs for a batch.
        y: array, tensor or structure of them, the targets.
        sample_weight: array with a weight for each example, or `None`.

    Returns:
        A dictionary, path -> `Alignment`, of every layer with trainable variables. Paths are those
        of `GradientMonitor`: `hidden`, or `block/conv` for the layer conv in a model block.

    Raises:
        ValueError: if the model is not built, is compiled without a loss, or has no trainable
            variables.

    Example:
    ```python
    for layer, (angle, concordance) in keras_bp.feedback.alignment(model, x, y).items():
        print(f"{layer}: {angle:.0f} degrees, {concordance:.0%} of the signs")
    ```

    References:
        Lillicrap et al., 2016, "Random synaptic feedback weights support error backpropagation for
        deep learning", for the angle in training.
    """
    if not is_built(model) or not model.trainable_variables:
        raise ValueError(
            "`model` must be built and have trainable variables. "
            f"Received: model {model.name!r}, built={is_built(model)}"
        )
    if getattr(model, "loss", None) is None:
        raise ValueError(
            f"`model` must be compiled with a loss. Received: model {model.name!r} without one"
        )
    variables = list(model.trainable_variables)
    x, y = (tf.nest.map_structure(tf.convert_to_tensor, data) for data in (x, y))
    # A forward pass changes batch statistics, seeds and metrics, never weights or the optimizer.
    state = [*model.non_trainable_variables, *model.metrics_variables]
    with unchanged_values(state), tf.GradientTape(persistent=True) as tape:
        outputs = model(x, training=True)
        loss = model.compute_loss(x, y, outputs, sample_weight, training=True)
    gradients = tape.gradient(loss, variables)
    with exact_gradients():
        true_gradients = tape.gradient(loss, variables)
    sums = alignment_sums(gradients, true_gradients).numpy()
    paths = variable_paths(model)
    rows: dict[str, list] = {}
    for variable, row in zip(variables, sums, strict=True):
        layer_path, _ = paths[id(variable)]
        rows.setdefault(layer_path, []).append(row)
    return {path: Alignment.of_sums(own) for path, own in rows.items()}
