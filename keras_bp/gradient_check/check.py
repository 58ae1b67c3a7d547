"""The check of gradients against central differences."""

import inspect
import numbers
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp import _keras
from keras_bp._arguments import check_integer, check_number, check_verbose
from keras_bp.gradient_check.float64 import float64_scope
from keras_bp.gradient_check.numeric import Evaluator, Point
from keras_bp.gradient_check.report import GradientCheckReport, make_report, make_row

# Below the cube root of float32's rounding: the error by the step stays below that by rounding.
_FLOAT32_STEP = 2e-3


def check_gradients(
    target: keras.Layer | Callable[..., Any],
    inputs: Any,
    targets: Any = None,
    loss: Any = None,
    *,
    epsilon: float = 1e-5,
    max_entries: int | None = None,
    seed: int = 0,
    verbose: int | str = 0,
) -> GradientCheckReport:
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
    metrics and optimizer are left unchanged, even if the check is interrupted. Only a model that
    was not built is built afterwards.

    Where the step of an entry crosses a kink (of a ReLU, of a maximum), the difference quotient
    means nothing. Such entries are found by comparing one-sided slopes, counted, and left out.

    Where an operation computes in float32 all the same (bilinear and bicubic resizing do, in
    `Resizing`, `UpSampling2D` and `RandomCrop`), the report names it, a second check takes a step
    of 2e-3, and its verdict is open, `"suspicious"`, unless a difference exceeds that rounding.
    What turns within a ten-millionth of the entries' size, as a sine near 5e6, looks the same.

    Args:
        target: a `keras.Model`, a `keras.Layer`, or a function of tensors. Of a function only the
            arguments are checked, not the variables that it closes over.
        inputs: an array or tensor, or a list, tuple or dict of them. Several are spread over the
            arguments where `target` requires more than one, else passed as one structure. Inputs
            that are not floating point are passed on and not differentiated.
        targets: what the loss compares the outputs with, in the outputs' structure. Defaults to
            `None`; required with `loss`.
        loss: a `keras.Loss`, its name, or a function of (targets, outputs), used for every output;
            or a list or dict with one for each. A result that is not scalar is averaged. Defaults
            to `None`.
        epsilon: float above 0, the step. Defaults to 1e-5.
        max_entries: integer above 0, how many entries of each variable and input are checked, drawn
            without replacement; every entry if `None`, the default. A model of ten million
            parameters takes less than a minute on two cores at `max_entries=100`.
        seed: integer, not negative; fixes the drawn entries and the random weights. Defaults to 0.
        verbose: 1 or `"auto"` for Keras's progress bar over the entries, drawn after each variable,
            2 for one line at the end, 0, the default, for nothing.

    Returns:
        A `GradientCheckReport`; print it for a table with one row for each variable and input.

    Raises:
        TypeError: if an argument has a wrong type.
        ValueError: if inputs, targets, weights or loss are not finite, their numbers of examples
            differ, an output is not float64 although the inputs are, there is nothing to
            differentiate, `target` gives a different result each time, or a number is out of range.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="tanh")])
        >>> x, y = np.random.rand(8, 4), np.random.rand(8, 3)
        >>> keras_bp.check_gradients(model, x, y, loss="mean_squared_error").verdict
        'correct'

    References:
        Central differences and their choice of step: Nocedal and Wright, Numerical Optimization
        (2006), section 8.1.
    """
    epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
    if max_entries is not None:
        max_entries = check_integer("max_entries", max_entries, 1)
    seed = check_integer("seed", seed, 0)
    verbose = check_verbose("verbose", verbose)
    target = _Target(target)
    inputs = _as_tensors("inputs", inputs)
    loss = _as_losses(loss, targets)
    targets = None if targets is None else _as_tensors("targets", targets)
    if isinstance(target.layer, keras.Model):
        _check_one_batch(inputs)
    target.build(inputs)
    target.check_finite_weights()

    weights = [w for w in (target.layer.weights if target.layer else ()) if _is_floating(w)]
    trainable = {id(w) for w in (target.layer.trainable_weights if target.layer else ())}
    roots = [target.layer, *keras.tree.flatten(loss)]
    roots = [root for root in roots if isinstance(root, (keras.Layer, keras.Loss))]
    with float64_scope(roots) as stand_ins:
        objective = _Objective(target, inputs, targets, loss, seed)
        names = target.input_names(inputs)
        named = list(zip(names, objective.leaves, strict=True))
        moved = [(name, leaf) for name, leaf in named if isinstance(leaf, tf.Variable)]
        fixed = [name for name, leaf in named if not isinstance(leaf, tf.Variable)]
        slots = [(w.path, stand_ins[id(w)]) for w in weights if id(w) in trainable] + moved
        if not slots:
            raise ValueError(
                "`inputs` must be floating point where `target` has no trainable weights, else "
                f"there is nothing to check. Received: {fixed} of integers, booleans or strings"
            )
        variables = [*stand_ins.values(), *(leaf for _, leaf in moved)]
        evaluator = Evaluator(objective, variables, [slot for _, slot in slots])
        # Noise beyond some ten thousand roundings of the outputs is not float64's (there is a cast
        # inside, say) and must not excuse a difference.
        scale = abs(evaluator.value()) + objective.magnitude
        facts = {
            "not_trainable": tuple(w.path for w in weights if id(w) not in trainable),
            "not_differentiable": tuple(fixed),
            "rounded_at": evaluator.rounded_at or ("output",) * objective.in_float32,
        }
        here = Point(evaluator, min(evaluator.noise(), 1e-12 * scale), scale, epsilon)
        report = _report(here, slots, max_entries, seed, verbose, epsilon=epsilon, **facts)
        if report.verdict != "correct" and report.rounded_at:
            noise, epsilon = evaluator.noise_in_float32(), max(epsilon, _FLOAT32_STEP)
            if noise > 1e-12 * scale:
                here = Point(evaluator, noise, scale, epsilon)
                facts["is_rounded"] = True
                report = _report(here, slots, max_entries, seed, verbose, epsilon=epsilon, **facts)
        return report


def _report(here, slots, max_entries, seed, verbose, **facts):
    """Compare the slopes of the slots' entries at a point."""
    beside = None
    rows, comparisons = [], []
    drawn = [
        _draw(slot.shape.num_elements(), max_entries, [seed, k])
        for k, (_, slot) in enumerate(slots)
    ]
    bar = keras.utils.Progbar(sum(map(len, drawn)), verbose=verbose, unit_name="entry")
    for k, ((path, slot), indices) in enumerate(zip(slots, drawn, strict=True)):
        here.require_room(path, k, indices)
        comparison = here.compare(k, indices)
        if comparison.undecided.any():
            beside = beside or here.move(seed)
            closer = beside.compare(k, indices[comparison.undecided])
            comparison = comparison.decide(closer.faults | closer.undecided)
        comparisons.append(comparison)
        rows.append(make_row(path, slot.shape, indices, comparison))
        bar.add(len(indices))
    return make_report(rows, comparisons, **facts)


def _is_floating(weight):
    return keras.backend.is_float_dtype(weight.dtype)


def _draw(size, count, seed):
    """Draw `count` of `size` positions without replacement, in order; all of them if `None`."""
    if count is None or count >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(size, count, replace=False))


class _Target:
    """A Keras model, a layer or a function of tensors, callable on a structure of inputs.

    Several inputs are spread over the arguments where the target requires more than one
    (`call(query, value)`, `f(x, w)`, `f(*tensors)`), a dictionary by name; otherwise they are
    passed unchanged as one argument. A layer is called with `training=True`, a function where it
    has that argument.

    Args:
        target: a `keras.Layer` (a model is one) or another callable.

    Attributes:
        wrapped: `target` itself.
        layer: `target` where it is a layer, else `None`.

    Raises:
        TypeError: if `target` is neither, or a class instead of an instance.
    """

    def __init__(self, target):
        if isinstance(target, type) or not callable(target):
            raise TypeError(
                "`target` must be a keras.Model, a keras.Layer (an instance, not the class) or a "
                f"function of tensors. Received: target={target!r} of type {type(target).__name__}"
            )
        self.wrapped = target
        self.layer = target if isinstance(target, keras.Layer) else None
        parameters = _parameters(target if self.layer is None else target.call)
        has_training = self.layer is not None or any(p.name == "training" for p in parameters)
        required = [p for p in parameters if p.kind in _POSITIONAL and p.default is p.empty]
        self._names = [p.name for p in required if p.name != "training"]
        is_variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self._is_spread = len(self._names) > 1 or is_variadic
        self._options = {"training": True} if has_training else {}

    def __call__(self, inputs):
        """Apply the target to a structure of tensors, in training mode."""
        if self._is_spread and isinstance(inputs, dict):
            return self.wrapped(**inputs, **self._options)
        if self._is_spread and isinstance(inputs, (list, tuple)):
            return self.wrapped(*inputs, **self._options)
        return self.wrapped(inputs, **self._options)

    def input_names(self, inputs):
        """Name the leaves of `inputs`: by key, argument or `Input`, else `inputs[0]` and so on."""
        paths = [path for path, _ in keras.tree.flatten_with_path(inputs)]
        given = [symbol.name for symbol in _keras.symbolic_inputs(self.wrapped)]
        named = not any(name.startswith("keras_tensor") for name in given)
        if len(given) == len(paths) and named and not isinstance(inputs, dict):
            return given
        names = []
        for path in paths:
            name = "inputs"
            if path and isinstance(path[0], str):
                name, *path = path
            elif path and self._is_spread and path[0] < len(self._names):
                name, path = self._names[path[0]], path[1:]
            names.append(name + "".join(f"[{key}]" for key in path))
        return names

    def build(self, inputs):
        """Create the weights of an unbuilt layer, from the inputs' shapes.

        In the stateless scope the call leaves no trace: batch statistics and seeds stay as they
        were. A layer that cannot be built there (a stateful recurrent one) is simply called.
        """
        if self.layer is None or all(
            layer.built for layer in _keras.flat_layers(self.layer, include_self=True)
        ):
            return
        try:
            with keras.StatelessScope():
                self(inputs)
        except Exception:
            self(inputs)

    def check_finite_weights(self):
        """Raise a ValueError that names the first weight with a NaN or an infinity."""
        for weight in self.layer.weights if self.layer else ():
            value = tf.convert_to_tensor(weight.value)
            if value.dtype.is_floating and not tf.reduce_all(tf.math.is_finite(value)):
                raise ValueError(
                    "`target` must have finite weights. Received: NaN or infinity in weight "
                    f"'{weight.path}'"
                )


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _parameters(function):
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:  # some callables written in C have no signature
        return []


class _Objective:
    r"""J, the scalar that the outputs are reduced to, as a function without arguments.

    With a loss, $J = \sum_k \ell_k(t_k, y_k) + \sum_r r$: each output's loss, averaged where it
    comes as one value per example, plus the layer's own `losses` (regularizers, `add_loss`), which
    is what `fit` differentiates. Without one, $J = \sum_k \langle w_k, y_k \rangle$ with fixed
    random weights of magnitude 1 to 2: no output's error is hidden by a small weight, and no two
    cancel by symmetry. Outputs that are not floating point do not count.

    Args:
        target: a `_Target`.
        inputs: a structure of tensors, floating ones in float64.
        targets: a structure of tensors like the outputs, or `None`.
        loss: a callable for all outputs, or a structure of callables like the outputs, or `None`.
        seed: an integer; fixes the random weights.

    Attributes:
        leaves: the inputs in order: a float64 `tf.Variable` for each floating one, which an
            evaluation may move, and a tensor for each other.
        magnitude: the largest absolute value among the outputs of the last eager evaluation.
        in_float32: whether these outputs are 0 in all bits that float32 does not have.
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
        self.magnitude, self.in_float32 = 0.0, False

    def __call__(self):
        """Evaluate J at the present value of every variable; a float64 scalar tensor."""
        tensors = [tf.convert_to_tensor(leaf) for leaf in self.leaves]
        outputs = self._target(keras.tree.pack_sequence_as(self._structure, tensors))
        outputs = keras.tree.map_structure(tf.convert_to_tensor, outputs)
        flat = keras.tree.flatten(outputs)
        _check_float64(flat)
        if tf.executing_eagerly():
            floating = [y.numpy() for y in flat if y.dtype.is_floating]
            self.magnitude = max(np.abs(y).max(initial=0.0) for y in floating)
            self.in_float32 = all(np.array_equal(y, np.float32(y)) for y in floating)
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
                    "`targets` must have as many examples as the outputs of `target`. Received: "
                    f"targets of shape {tuple(t.shape)} for an output of shape {tuple(y.shape)}"
                )
            terms.append(tf.reduce_mean(loss(t, y)))
        if self._target.layer is not None:
            terms += [tf.reduce_sum(term) for term in self._target.layer.losses]
        for term in terms:
            if term.dtype != tf.float64:
                raise ValueError(
                    "`loss` must compute in float64 when its arguments are float64: without a cast "
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
            f"`{name}` must have the structure of the {count} outputs of `target`"
            + (f", a dict of {sorted(expected)}" if expected else "")
            + f". Received: {len(flat)} entries in a {type(given).__name__}"
            + (f" of {sorted(keys)}" if keys else "")
        )
    return flat


def _check_float64(outputs):
    if not any(y.dtype.is_floating for y in outputs):
        raise ValueError(
            "`target` must have an output of floating point. Received: outputs of dtype "
            f"{[y.dtype.name for y in outputs]}"
        )
    for k, y in enumerate(outputs):
        if y.dtype.is_complex or (y.dtype.is_floating and y.dtype != tf.float64):
            raise ValueError(
                "`target` must compute in float64 when its inputs are float64: without a cast to a "
                "fixed dtype, and a layer must be passed as `target` itself, not called inside a "
                f"function. Received: output {k} of dtype {y.dtype.name}"
            )


def _as_tensors(name, data):
    """Turn arrays in a structure into tensors: floating ones into finite float64, others as is.

    Raises:
        TypeError: if a leaf is not an array or a tensor.
        ValueError: if a leaf is empty, or holds NaN or infinity.
    """
    return keras.tree.map_structure(lambda leaf: _as_tensor(name, leaf, data), data)


def _as_tensor(name, leaf, data):
    is_number = isinstance(leaf, numbers.Number) and leaf is data
    if not (is_number or tf.is_tensor(leaf) or hasattr(leaf, "__array__")):
        raise TypeError(
            f"`{name}` must be an array or a tensor, or a list, tuple or dict of them. Received: "
            f"an element {leaf!r} of type {type(leaf).__name__}"
        )
    if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)):
        raise TypeError(f"`{name}` must be dense. Received: a {type(leaf).__name__}")
    tensor = tf.convert_to_tensor(leaf)
    if tensor.dtype.is_complex:
        raise TypeError(f"`{name}` must be real. Received: an array of dtype {tensor.dtype.name}")
    if not tensor.dtype.is_floating:
        return tensor
    tensor = tf.cast(tensor, tf.float64)
    if not tf.reduce_all(tf.math.is_finite(tensor)):
        raise ValueError(
            f"`{name}` must be finite. Received: NaN or infinity in an array of shape "
            f"{tuple(tensor.shape)}"
        )
    return tensor


def _check_one_batch(inputs):
    """Raise a ValueError unless all inputs of a model have the same number of examples."""
    shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(inputs) if leaf.shape.rank]
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"`inputs` must all have the same number of examples. Received: shapes {shapes}"
        )


def _as_losses(loss, targets):
    """Turn a loss, or a structure of losses, into callables; `None` stays.

    Raises:
        TypeError: if one is not a string or a callable.
        ValueError: if a string names no loss, or one of `loss` and `targets` is missing.
    """
    if (loss is None) != (targets is None):
        given, missing = ("targets", "loss") if loss is None else ("loss", "targets")
        raise ValueError(
            f"`loss` and `targets` must be given together. Received: {given} without {missing}"
        )
    return None if loss is None else keras.tree.map_structure(_as_loss, loss)


def _as_loss(loss):
    if isinstance(loss, str):
        try:
            return keras.losses.get(loss)
        except ValueError as error:
            raise ValueError(
                f"`loss` must name a loss of keras.losses. Received: loss={loss!r}"
            ) from error
    if isinstance(loss, type) or not callable(loss):
        raise TypeError(
            "`loss` must be a keras.Loss (an instance, not the class), a name or a function of "
            f"(targets, outputs). Received: loss={loss!r} of type {type(loss).__name__}"
        )
    return loss
