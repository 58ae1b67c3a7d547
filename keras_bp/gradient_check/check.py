"""The check of gradients against central differences."""

import keras
import numpy as np
import tensorflow as tf

from keras_bp.gradient_check.arguments import (
    as_losses,
    as_tensors,
    require_numbers,
    require_one_batch,
)
from keras_bp.gradient_check.evaluator import Evaluator
from keras_bp.gradient_check.float64 import float64_scope
from keras_bp.gradient_check.kinks import compare
from keras_bp.gradient_check.objective import Objective
from keras_bp.gradient_check.report import make_report, make_row
from keras_bp.gradient_check.target import Target


def check_gradients(
    target, inputs, targets=None, loss=None, *, epsilon=1e-5, max_entries=None, seed=0
):
    r"""Compare the gradients that autodiff computes with central differences, in float64.

    For every entry $\theta_i$ of every trainable variable and of every floating input, the slope

    $$g_{n,i} = \frac{J(\theta + \epsilon e_i) - J(\theta - \epsilon e_i)}{2\epsilon}$$

    is compared with the entry $g_{a,i}$ of the gradient. The report's figure is
    $\|g_a - g_n\| / (\|g_a\| + \|g_n\|)$: below 1e-7 the gradient is correct, below 1e-5 it is
    suspicious, above it is wrong. For a correct gradient some 1e-10 is usual.

    $J$ is the loss plus what the model itself adds to it (regularizers, `add_loss`), as in `fit`.
    Without a loss it is the sum of all outputs against fixed random weights, the model's own
    losses left out. A layer is called with `training=True`; batch normalization uses the batch's
    statistics, and dropout the same mask in every evaluation. Float32 and mixed precision models
    compute in float64 while the check runs. Weights, dtype policies, moving statistics, seeds,
    metrics and optimizer are afterwards what they were, also if the check is interrupted; only an
    unbuilt model is a built one then.

    An entry whose step crosses a kink (of a ReLU, of a maximum) has no meaningful difference
    quotient. Such entries are found by comparing one-sided slopes, counted, and left out.

    Args:
        target: A `keras.Model`, a `keras.Layer`, or a function of tensors. Of a function only the
            arguments are checked, not the variables that it closes over.
        inputs: An array or tensor, or a list, tuple or dict of them. Several are spread over the
            arguments where `target` requires more than one, else passed as one structure. Those
            that are not floating point are passed on and not differentiated.
        targets: What the loss compares the outputs with, in the outputs' structure. Defaults to
            `None`; required with `loss`.
        loss: A `keras.Loss`, its name, or a function of (targets, outputs), used for every output;
            or a list or dict with one for each. A result that is not scalar is averaged. Defaults
            to `None`.
        epsilon: Float above 0, the step. Defaults to 1e-5.
        max_entries: Integer above 0, how many entries of each variable and input are checked, drawn
            without replacement; every entry if `None`, the default. A model of ten million
            parameters takes less than a minute on two cores at `max_entries=100`.
        seed: Integer, not negative; fixes the drawn entries and the random weights. Defaults to 0.

    Returns:
        A `GradientCheckReport`; print it for a table with one row for each variable and input.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If inputs, targets, weights or loss are not finite, their numbers of examples
            differ, an output is not float64 in spite of float64 inputs, there is nothing to
            differentiate, `target` gives another result each time, or a number is out of its
            range.

    Example:
        >>> import keras, numpy as np
        >>> from keras_bp import check_gradients
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="tanh")])
        >>> x, y = np.random.rand(8, 4), np.random.rand(8, 3)
        >>> check_gradients(model, x, y, loss="mean_squared_error").verdict
        'correct'

    References:
        Central differences and their choice of step: Nocedal and Wright, Numerical Optimization
        (2006), section 8.1.
    """
    require_numbers(epsilon, max_entries, seed)
    target = Target(target)
    inputs = as_tensors("inputs", inputs)
    loss = as_losses(loss, targets)
    targets = None if targets is None else as_tensors("targets", targets)
    if isinstance(target.layer, keras.Model):
        require_one_batch(inputs)
    target.build(inputs)
    target.require_finite_weights()

    weights = [w for w in (target.layer.weights if target.layer else ()) if _is_floating(w)]
    trainable = {id(w) for w in (target.layer.trainable_weights if target.layer else ())}
    roots = [target.layer, *keras.tree.flatten(loss)]
    roots = [root for root in roots if isinstance(root, (keras.Layer, keras.Loss))]
    with float64_scope(roots) as stand_ins:
        objective = Objective(target, inputs, targets, loss, seed)
        names = target.input_names(inputs)
        named = list(zip(names, objective.leaves, strict=True))
        moved = [(name, leaf) for name, leaf in named if isinstance(leaf, tf.Variable)]
        fixed = [name for name, leaf in named if not isinstance(leaf, tf.Variable)]
        slots = [(w.path, stand_ins[id(w)]) for w in weights if id(w) in trainable] + moved
        if not slots:
            raise ValueError(
                "inputs must be floating point where target has no trainable weights, else there "
                f"is nothing to check. Received: {fixed} of integers, booleans or strings"
            )
        evaluator = Evaluator(
            objective,
            [*stand_ins.values(), *(leaf for _, leaf in moved)],
            [slot for _, slot in slots],
        )
        # Noise beyond some ten thousand roundings of the outputs is not float64's own (there is a
        # cast inside, say) and must not excuse anything.
        scale = abs(evaluator.value()) + objective.magnitude
        here = _Point(evaluator, min(evaluator.noise(), 1e-12 * scale), scale, float(epsilon))
        beside = None
        rows, comparisons = [], []
        for k, (path, slot) in enumerate(slots):
            indices = _draw(slot.shape.num_elements(), max_entries, [seed, k])
            here.require_room(path, k, indices)
            comparison = here.compare(k, indices)
            if comparison.undecided.any():
                beside = beside or here.move(seed)
                there = beside.compare(k, indices[comparison.undecided])
                comparison = comparison.decide(there.faults | there.undecided)
            comparisons.append(comparison)
            rows.append(make_row(path, slot.shape, indices, comparison))
        return make_report(
            rows,
            comparisons,
            epsilon=float(epsilon),
            not_trainable=tuple(w.path for w in weights if id(w) not in trainable),
            not_differentiable=tuple(fixed),
            rounded_at=evaluator.rounded_at,
        )


class _Point:
    """A place in the space of all slots, at which entries are compared."""

    def __init__(self, evaluator, noise, scale, epsilon):
        self._evaluator, self._noise = evaluator, noise
        self._scale, self._epsilon = scale, epsilon
        self._value = evaluator.value()
        again, self._gradients = evaluator.gradients()
        if abs(again - self._value) > 1e-9 * scale:
            raise ValueError(
                "target must give the same result each time it starts from the same state: its "
                "random numbers must come from a keras.random.SeedGenerator that a layer holds, "
                f"or from a fixed seed. Received: {self._value!r}, then {again!r}"
            )

    def compare(self, k, indices):
        """Compare the slopes of slot `k` at these flat positions."""
        return compare(
            lambda entries, offsets: self._evaluator.along(k, indices[entries], offsets),
            self._evaluator.start_of(k).ravel()[indices],
            self._gradients[k].ravel()[indices],
            self._value,
            self._noise,
            self._epsilon,
        )

    def move(self, seed):
        """Return a point a hundred steps away, where the kinks at this one are out of reach.

        On a kink the gradient is a convention: where several units have theirs at once, what
        autodiff returns need not even lie between the one-sided slopes. Beside it the same code is
        right or wrong.
        """
        evaluator = self._evaluator.beside(100.0 * self._epsilon, seed)
        return _Point(evaluator, self._noise, self._scale, self._epsilon)

    def require_room(self, path, k, indices):
        """Raise a ValueError if the step is lost when it is added to the largest entry."""
        largest = np.abs(self._evaluator.start_of(k).ravel()[indices]).max(initial=0.0)
        if abs((largest + self._epsilon) - largest - self._epsilon) > 0.1 * self._epsilon:
            raise ValueError(
                f"epsilon must be at least {10.0 * np.spacing(largest):.0e} for '{path}', whose "
                f"entries reach {largest:.3g}; better scale them down. Received: "
                f"epsilon={self._epsilon}"
            )


def _is_floating(weight):
    return keras.backend.is_float_dtype(weight.dtype)


def _draw(size, count, seed):
    """Draw `count` of `size` positions without replacement, in order; all of them if `None`."""
    if count is None or count >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(size, count, replace=False))
