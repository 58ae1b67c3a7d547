"""The scalar whose gradient is checked."""

import keras
import numpy as np
import tensorflow as tf


class Objective:
    r"""J, the one number that the outputs are turned into, as a function without arguments.

    With a loss, $J = \sum_k \ell_k(t_k, y_k) + \sum_r r$: each output's loss, averaged where it
    comes as one value an example, plus the layer's own `losses` (regularizers, `add_loss`), which
    is what `fit` differentiates. Without one, $J = \sum_k \langle w_k, y_k \rangle$ with fixed
    random weights of magnitude 1 to 2: no output's error is hidden by a small weight, and no two
    cancel by symmetry. Outputs that are not floating point do not count in that sum.

    Args:
        target: A `Target`.
        inputs: A structure of tensors, floating ones in float64.
        targets: A structure of tensors like the outputs, or `None`.
        loss: A callable for all outputs, or a structure of callables like the outputs, or `None`.
        seed: An integer; fixes the random weights.

    Attributes:
        leaves: The inputs in order: a float64 `tf.Variable` for each floating one, which an
            evaluation may move, and a tensor for each other.
        magnitude: The largest absolute value among the outputs of the last eager evaluation.
    """

    def __init__(self, target, inputs, targets, loss, seed):
        self._target = target
        self._structure = inputs
        self._targets = targets
        self._loss = loss
        self._seed = seed
        self._weights = {}
        self.leaves = [
            tf.Variable(leaf) if leaf.dtype.is_floating else leaf
            for leaf in keras.tree.flatten(inputs)
        ]
        self.magnitude = 0.0

    def __call__(self):
        """Evaluate J at the present value of every variable; a float64 scalar tensor."""
        tensors = [tf.convert_to_tensor(leaf) for leaf in self.leaves]
        outputs = self._target(keras.tree.pack_sequence_as(self._structure, tensors))
        outputs = keras.tree.map_structure(tf.convert_to_tensor, outputs)
        flat = keras.tree.flatten(outputs)
        _require_float64(flat)
        if tf.executing_eagerly():
            floating = [y.numpy() for y in flat if y.dtype.is_floating]
            self.magnitude = max(np.abs(y).max(initial=0.0) for y in floating)
        if self._loss is None:
            terms = [self._weighted_sum(k, y) for k, y in enumerate(flat) if y.dtype.is_floating]
        else:
            terms = self._loss_terms(outputs)
        return tf.add_n(terms)

    def _weighted_sum(self, k, y):
        if k not in self._weights:
            random = np.random.default_rng([self._seed, k])
            sign = random.choice([-1.0, 1.0], size=y.shape)
            self._weights[k] = tf.constant(sign * random.uniform(1.0, 2.0, size=y.shape))
        return tf.reduce_sum(self._weights[k] * y)

    def _loss_terms(self, outputs):
        losses = self._loss
        if callable(losses):
            losses = keras.tree.map_structure(lambda _: self._loss, outputs)
        losses = _like_outputs("loss", losses, outputs)
        targets = _like_outputs("targets", self._targets, outputs)
        terms = []
        for loss, t, y in zip(losses, targets, keras.tree.flatten(outputs), strict=True):
            if t.shape.rank and y.shape.rank and not t.shape[:1].is_compatible_with(y.shape[:1]):
                raise ValueError(
                    "targets must have as many examples as the outputs of target. Received: "
                    f"targets of shape {tuple(t.shape)} for an output of shape {tuple(y.shape)}"
                )
            terms.append(tf.reduce_mean(loss(t, y)))
        if self._target.layer is not None:
            terms += [tf.reduce_sum(term) for term in self._target.layer.losses]
        for term in terms:
            if term.dtype != tf.float64:
                raise ValueError(
                    "loss must compute in float64 when its arguments are float64: without a cast "
                    f"to a fixed dtype. Received: a loss of dtype {term.dtype.name}"
                )
        return terms


def _like_outputs(name, given, outputs):
    """List the leaves of `given` in the order of the outputs, or raise a ValueError."""
    keys, expected = (set(s) if isinstance(s, dict) else None for s in (given, outputs))
    count = len(keras.tree.flatten(outputs))
    flat = keras.tree.flatten(given)
    if keys != expected or len(flat) != count:
        raise ValueError(
            f"{name} must have the structure of target's {count} outputs"
            + (f", a dict of {sorted(expected)}" if expected else "")
            + f". Received: {len(flat)} entries in a {type(given).__name__}"
            + (f" of {sorted(keys)}" if keys else "")
        )
    return flat


def _require_float64(outputs):
    if not any(y.dtype.is_floating for y in outputs):
        raise ValueError(
            "target must have an output of floating point. Received: outputs of dtype "
            f"{[y.dtype.name for y in outputs]}"
        )
    for k, y in enumerate(outputs):
        if y.dtype.is_complex or (y.dtype.is_floating and y.dtype != tf.float64):
            raise ValueError(
                "target must compute in float64 when its inputs are float64: without a cast to a "
                "fixed dtype, and a layer is given as target itself, not called inside a "
                f"function. Received: output {k} of dtype {y.dtype.name}"
            )
