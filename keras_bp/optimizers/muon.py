"""Muon: steps along the orthogonalized momentum of every hidden matrix."""

import math
import re
from typing import Any, NamedTuple

import tensorflow as tf

from keras_bp._arguments import check_choice, check_flag, check_integer, check_number
from keras_bp._keras import serializable
from keras_bp._paths import path_of
from keras_bp._types import LearningRate
from keras_bp.optimizers._rates_by_layer import (
    PRESETS,
    check_patterns,
    found,
    in_last_layer,
    is_projection,
)
from keras_bp.optimizers._variables import descend
from keras_bp.optimizers.adam import adam_step, as_held
from keras_bp.optimizers.optimizer import Optimizer

# The layer in Keras's attentions whose kernel is (heads, head_dim, dim).
_OUTPUT = "attention_output"


class _Layout(NamedTuple):
    """How a kernel is a stack of matrices, inputs by outputs: reordered axes, then a new shape."""

    order: tuple[int, ...]
    shape: tuple[int, ...]

    def stack(self, kernel):
        return tf.reshape(tf.transpose(kernel, self.order), self.shape)

    def kernel(self, stack, shape):
        # No order here has a cycle of more than two axes: each is its own inverse.
        reordered = [shape[axis] for axis in self.order]
        return tf.transpose(tf.reshape(stack, reordered), self.order)


@serializable
class Muon(Optimizer):
    """Muon: momentum whose matrices are made orthogonal; AdamW for all that is no hidden matrix.

    Takes the arguments of `keras.optimizers.Muon`. Its step, with the learning rate a and the
    gradient g of a hidden matrix of n inputs and m outputs:

        w -= a lambda w
        v = b v + g;  u = g + b v                                nesterov, else u = v
        w -= a r sqrt(max(n, m)) orthogonalized(u)

    The orthogonalized matrix has u's singular vectors, and singular values near 1, so that every
    direction moves alike, the rare ones too. `ns_steps` steps of Newton and Schulz's iteration
    find it:

        x = u / ||u||;  then again and again  x = A x + (B x x' + C (x x')^2) x

    It stops early: large singular values end between 0.7 and 1.2, those below 0.001 of the norm
    behind. The size of u does not matter, whether momentum adds gradients up, as here and in Keras,
    or averages them. A gradient of zeros makes no step but momentum's.

    With the factor r sqrt(max(n, m)) the entries of a step are some r in size, as AdamW's are at
    0.2: the rate and the decay are then those that AdamW takes.

    **Which variables.** Hidden matrices are

    - two-dimensional kernels, and other variables of two axes. A recurrent layer's kernels, (units,
      4 units) of an LSTM, count as one matrix each, as in Keras;
    - the kernels of `MultiHeadAttention` and `GroupQueryAttention`: each head's matrix by itself,
      so that no head outweighs another, or with `per_head=False` the heads together;
    - the kernels of convolutions, as matrices of all that a filter reads by the filters. A kernel
      of three axes or more in a layer of another kind counts as one, unless its layer has the
      default name `einsum_dense`.

    AdamW updates all else: embeddings (with "embedding" in the path), biases, the weights of
    normalizations, depthwise kernels, the output layer, and what `exclude_layers` names. The output
    layer is the last that has a matrix among the variables that the optimizer is built with. A
    model with several heads has several: name the others in `exclude_layers`, as every head but the
    last is taken for a hidden layer. Where the output is the embedding's table again, as in many
    language models, no layer is the output layer: set `exclude_output=False`.
    A variable is known by its path and shape alone. `keras_bp.optimizers.describe` shows what was
    made of each. A kernel that is cut otherwise than its layer uses it takes steps of the same
    size, in another direction.

    Keras's gives every kernel that is not two-dimensional to AdamW, and takes the output layer and
    the biases of attention for hidden matrices: with `exclude_output=False` the two classes agree
    on models of dense layers and embeddings.

    Args:
        learning_rate: number >= 0, a schedule or a callable: a. Defaults to 0.001.
        adam_beta_1: number in [0, 1), AdamW's b1. Defaults to 0.9.
        adam_beta_2: number in [0, 1), AdamW's b2. Defaults to 0.999.
        adam_weight_decay: number >= 0, AdamW's decay, times the learning rate without
            `adam_lr_ratio`, or `None` for none. Defaults to 0.004.
        epsilon: number > 0, AdamW's. Defaults to 1e-7.
        weight_decay: number >= 0, the hidden matrices' decay, lambda, or `None` for none. Defaults
            to 0.004.
        exclude_layers: list of regular expressions that are searched in the variables' paths; what
            they find AdamW updates. Defaults to `None`.
        exclude_embeddings: whether AdamW updates embeddings. Defaults to `True`.
        muon_a, muon_b, muon_c: numbers, A, B and C. Default to 3.4445, -4.775 and 2.0315.
        adam_lr_ratio: number >= 0, AdamW's learning rate as a share of a. Defaults to 1.
        momentum: number in [0, 1), b. Defaults to 0.95.
        ns_steps: integer >= 1, steps of the iteration. Defaults to 5.
        nesterov: whether to use Nesterov's form. Defaults to `True`.
        rms_rate: number > 0, r; `"original"` for a factor of sqrt(max(1, m / n)) in place of
            r sqrt(max(n, m)); or `None` for none. 0.2 is torch's "match_rms_adamw" and optax's
            `consistent_rms=0.2`, `"original"` both libraries' default. Defaults to 0.2.
        per_head: whether each head of an attention is a matrix of its own. Defaults to `True`.
        exclude_output: whether AdamW updates the output layer. Defaults to `True`.
        ns_dtype: `"bfloat16"` or `"float32"`, in which the iteration computes, or `None` for the
            variable's dtype, float32 for half precision. In bfloat16 it takes half the time, where
            the processor has instructions for it, and its matrices are 3 to 7 % off. Defaults to
            `None`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range; by `build`, if an expression matches nothing, or if
            there is no hidden matrix.

    Example:
        >>> hidden, output = tf.Variable(tf.zeros((2, 2))), tf.Variable([[1.0], [2.0]])
        >>> gradients = [tf.constant([[9.0, 0.0], [0.0, -1.0]]), tf.constant([[0.5], [-3.0]])]
        >>> keras_bp.optimizers.Muon(0.1).apply(gradients, [hidden, output])
        >>> [round(float(number), 3) for number in tf.linalg.diag_part(hidden)]
        [-0.02, 0.021]

    The first direction's gradient is nine times as large; both move by some 0.1 * 0.2 * sqrt(2).

    References:
        Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks". Liu et al.,
        2025, "Muon is scalable for LLM training", equation 4, for the factor. Zeng et al., 2026,
        "GLM-5: from vibe coding to agentic engineering", for matrices by head.
    """

    argument_names: tuple[str, ...] = (
        *("adam_beta_1", "adam_beta_2", "adam_weight_decay", "epsilon"),
        *("exclude_layers", "exclude_embeddings", "muon_a", "muon_b", "muon_c", "adam_lr_ratio"),
        *("momentum", "ns_steps", "nesterov", "rms_rate", "per_head", "exclude_output", "ns_dtype"),
    )

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        adam_beta_1: float = 0.9,
        adam_beta_2: float = 0.999,
        adam_weight_decay: float | None = 0.004,
        epsilon: float = 1e-7,
        weight_decay: float | None = 0.004,
        *,
        exclude_layers: list[str] | None = None,
        exclude_embeddings: bool = True,
        muon_a: float = 3.4445,
        muon_b: float = -4.7750,
        muon_c: float = 2.0315,
        adam_lr_ratio: float = 1.0,
        momentum: float = 0.95,
        ns_steps: int = 5,
        nesterov: bool = True,
        rms_rate: float | str | None = 0.2,
        per_head: bool = True,
        exclude_output: bool = True,
        ns_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.adam_beta_1 = check_number("adam_beta_1", adam_beta_1, 0.0, 1.0, high_open=True)
        self.adam_beta_2 = check_number("adam_beta_2", adam_beta_2, 0.0, 1.0, high_open=True)
        self.adam_weight_decay = adam_weight_decay
        if adam_weight_decay is not None:
            self.adam_weight_decay = check_number("adam_weight_decay", adam_weight_decay, 0.0)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
        self.exclude_layers = check_patterns("exclude_layers", exclude_layers)
        self.exclude_embeddings = check_flag("exclude_embeddings", exclude_embeddings)
        self.muon_a = check_number("muon_a", muon_a)
        self.muon_b = check_number("muon_b", muon_b)
        self.muon_c = check_number("muon_c", muon_c)
        self.adam_lr_ratio = check_number("adam_lr_ratio", adam_lr_ratio, 0.0)
        self.momentum = check_number("momentum", momentum, 0.0, 1.0, high_open=True)
        self.ns_steps = check_integer("ns_steps", ns_steps, 1)
        self.nesterov = check_flag("nesterov", nesterov)
        self.rms_rate = rms_rate
        if rms_rate not in (None, "original"):
            self.rms_rate = check_number("rms_rate", rms_rate, 0.0, low_open=True)
        self.per_head = check_flag("per_head", per_head)
        self.exclude_output = check_flag("exclude_output", exclude_output)
        self.ns_dtype = ns_dtype
        if ns_dtype is not None:
            check_choice("ns_dtype", ns_dtype, ("bfloat16", "float32"))

    def _check_variables(self, variables):
        layouts = self._layouts_of(variables)
        if variables and not any(layouts):
            raise ValueError(
                "`trainable_variables` must hold a hidden matrix: one that is no embedding, not in "
                "the last layer with a matrix (unless `exclude_output=False`) and in none of "
                f"`exclude_layers`. Received: {[(path_of(v), tuple(v.shape)) for v in variables]}"
            )
        # As functions: Keras would track what a list or dictionary holds.
        by_slot: dict = {}
        self._layout_of = lambda variable: layouts[self._get_variable_index(variable)]
        self._layouts_by_slot = lambda: by_slot

    def _layouts_of(self, variables):
        """Return the layout of each variable that is a hidden matrix, `None` for the others."""
        variables = self._named(variables)
        excluded = [self.exclude_output and last for last in in_last_layer(variables)]
        for pattern in self.exclude_layers:
            matches = found("exclude_layers", pattern, variables)
            excluded = [e or m is not None for e, m in zip(excluded, matches, strict=True)]
        return [
            None if e or self._is_for_adam(path_of(v)) else _layout(v, self.per_head)
            for v, e in zip(variables, excluded, strict=True)
        ]

    def _searches_paths(self):
        return True

    def _is_for_adam(self, path):
        embedding = self.exclude_embeddings and "embedding" in path.lower()
        return embedding or re.search(PRESETS["bias_and_normalization"], path) is not None

    def _rule_name(self, variable):
        layout = self._layout_of(variable)
        if layout is None:
            return "AdamW"
        return "Muon" if len(variable.shape) == 2 else f"Muon {layout.shape}"

    def _weight_decay_of(self, variable):
        return self.adam_weight_decay if self._layout_of(variable) is None else self.weight_decay

    def _rate_and_decay_of(self, variable):
        rate, decay = super()._rate_and_decay_of(variable)
        return rate * (self.adam_lr_ratio if self._layout_of(variable) is None else 1.0), decay

    def _create_slots(self, variable):
        layout = self._layout_of(variable)
        names = ("momentum", "velocity") if layout is None else ("momentum",)
        slots = [self.add_variable_from_reference(variable, name) for name in names]
        for copy in self._distribution_strategy.experimental_local_results(slots[0].value):
            self._layouts_by_slot()[copy.ref()] = layout
        return slots

    def _coefficients(self, learning_rate, step, dtype):
        beta_1, beta_2 = (as_held(beta, dtype) for beta in (self.adam_beta_1, self.adam_beta_2))
        size = learning_rate * self.adam_lr_ratio * tf.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        return learning_rate, size, tf.constant(self.epsilon, tf.float64), beta_1, beta_2

    def _rule(self, variable, gradient, slots, coefficients, decay):
        rate, *adam = coefficients
        if len(slots) == 2:
            adam_step(variable, gradient, *slots, *adam)
            return
        [momentum] = slots
        momentum.assign(self.momentum * momentum + gradient)
        direction = tf.convert_to_tensor(momentum)
        if self.nesterov:
            direction = gradient + self.momentum * direction
        layout = self._layouts_by_slot()[momentum.ref()]
        stack = self._orthogonalized(layout.stack(direction))
        descend(
            variable, rate * self._scale(*layout.shape[-2:]), layout.kernel(stack, variable.shape)
        )

    def _orthogonalized(self, matrices):
        dtype = self.ns_dtype or matrices.dtype
        coefficients = self.muon_a, self.muon_b, self.muon_c
        return orthogonalized(matrices, coefficients, self.ns_steps, dtype)

    def _scale(self, inputs, outputs):
        if self.rms_rate is None:
            return 1.0
        if self.rms_rate == "original":
            return math.sqrt(max(1.0, outputs / inputs))
        return self.rms_rate * math.sqrt(max(inputs, outputs))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, for `from_config`."""
        # A plain list: Keras tracks the lists of an optimizer, and its own cannot be pickled.
        return {**super().get_config(), "exclude_layers": list(self.exclude_layers) or None}


def orthogonalized(matrices, coefficients, steps, dtype):
    """Return matrices with the same singular vectors, and singular values near 1.

        x = u / ||u||;  then again and again  x = A x + (B x x' + C (x x')^2) x

    Args:
        matrices: tensor of shape (..., rows, columns).
        coefficients: numbers, A, B and C.
        steps: integer, how often.
        dtype: the dtype in which the iteration computes.

    Returns:
        A tensor of the matrices' shape and dtype; zeros for a matrix of zeros.
    """
    a, b, c = coefficients
    # Beside its largest entry no square overflows, nor do all vanish.
    x = tf.math.divide_no_nan(matrices, tf.reduce_max(tf.abs(matrices), (-2, -1), keepdims=True))
    x = tf.cast(tf.math.divide_no_nan(x, tf.norm(x, axis=(-2, -1), keepdims=True)), dtype)
    # (x x')^k x = x (x' x)^k: the smaller of the two is taken.
    tall = matrices.shape[-2] > matrices.shape[-1]
    for _ in range(steps):
        square = tf.matmul(x, x, transpose_a=tall, transpose_b=not tall)
        factor = b * square + c * tf.matmul(square, square)
        # A on the diagonal, which is smaller than x.
        factor = tf.linalg.set_diag(factor, a + tf.linalg.diag_part(factor))
        x = tf.matmul(x, factor) if tall else tf.matmul(factor, x)
    return tf.cast(x, matrices.dtype)


def _layout(variable, per_head):
    """Return the layout of a variable, or `None` where it is no matrix."""
    layer, name = ["", *path_of(variable).split("/")][-2:]
    shape, rank = tuple(variable.shape), len(variable.shape)
    in_order = tuple(range(rank))
    if rank == 2:
        return _Layout(in_order, shape)
    # One column a channel is no matrix: a depthwise kernel.
    apart = "depthwise" in path_of(variable).lower() or shape[-1:] == (1,)
    if rank < 2 or not name.endswith("kernel") or apart or layer.startswith("einsum_dense"):
        return None
    if is_projection(variable):
        if per_head:
            return _Layout((1, 0, 2), (shape[1], shape[0], shape[2]))
        return _Layout(in_order, (shape[0], shape[1] * shape[2]))
    if rank == 3 and layer == _OUTPUT and per_head:
        return _Layout(in_order, shape)
    return _Layout(in_order, (math.prod(shape[:-1]), shape[-1]))
