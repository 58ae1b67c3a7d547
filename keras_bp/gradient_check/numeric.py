"""Slopes of a function of many variables: by autodiff, by differences, and near kinks."""

import copy
import dataclasses
import math

import numpy as np
import tensorflow as tf

# Entries per call of the graph: enough to make its overhead negligible, few enough for Ctrl-C,
# which Python sees between calls only.
_ENTRIES_PER_CALL = 64
# Differences of up to this many standard deviations of the rounding noise mean nothing.
SIGMAS = 8.0
_ROUNDOFF = np.finfo(np.float64).eps / 2.0
_SHRINKS = (1.0, 0.1, 0.01, 0.001)


class Evaluator:
    """Evaluates an objective at shifted entries of its slots.

    The slots are the variables whose gradient is checked. Every evaluation starts from the same
    state: all variables are assigned the values that they had at the beginning, so a dropout mask
    is drawn again from the same seed and batch statistics start from the same averages. One graph
    serves every entry of every slot. Where the objective cannot be traced (it calls `.numpy()`),
    the same steps run eagerly.

    A shifted slot is a new copy of its value, which the assignment adopts. A sparse update in place
    is not cheaper: once a variable was updated sparsely, TensorFlow copies it on each read.

    Args:
        objective: a function without arguments that returns a float64 scalar tensor.
        variables: a list of every `tf.Variable` that the objective reads or writes.
        slots: a list of those among them that are checked, in float64.

    Attributes:
        rounded_at: names of the operations that compute fewer bits from float64; empty where the
            objective runs eagerly.

    Raises:
        ValueError: if J is not finite.
    """

    def __init__(self, objective, variables, slots):
        self._objective = objective
        self._variables = variables
        self._slots = slots
        position = {id(v): i for i, v in enumerate(variables)}
        self._slot_positions = [position[id(slot)] for slot in slots]
        self._start = [tf.identity(v) for v in variables]
        try:
            first = float(objective())
        except (TypeError, tf.errors.InvalidArgumentError) as error:
            error.add_note(
                "check_gradients runs `target` in float64; a tensor of a fixed float32 inside it "
                "does not fit."
            )
            raise
        if not np.isfinite(first):
            raise ValueError(f"`loss` must be finite on `inputs` and `targets`. Received: {first}")
        values = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
        handle, base = tf.TensorSpec((), tf.resource), tf.TensorSpec(None, tf.float64)
        entries, offsets = (tf.TensorSpec((None,), dtype) for dtype in (tf.int64, tf.float64))
        signature = [values, handle, base, entries, offsets]
        self._evaluate = _traced(self._evaluate_entries, signature)
        self._differentiate = _traced(self._autodiff, [values])
        self.rounded_at = _roundings(self._differentiate)

    def start_of(self, k):
        """Return the value of slot `k` from which evaluations start, as a NumPy array."""
        return self._start[self._slot_positions[k]].numpy()

    def beside(self, distance, seed):
        """Return an evaluator that starts from another point.

        Each entry of each slot is moved by one to two times `distance`, up or down at random.
        """
        random = np.random.default_rng(seed)

        def move(value):
            sign = random.choice([-1.0, 1.0], size=value.shape)
            return value + distance * sign * random.uniform(1.0, 2.0, size=value.shape)

        return self._from(move)

    def value(self):
        """Return J with no entry shifted."""
        return float(self.along(0, np.zeros(1, int), [0.0])[0, 0])

    def along(self, k, entries, offsets):
        """Return J with single entries of slot `k` shifted; shape (entries, offsets).

        Args:
            k: the slot's position.
            entries: an integer array of positions in the flattened slot.
            offsets: a list of shifts, each added to the entry's value on its own.
        """
        handle, base = self._slots[k].handle, self._start[self._slot_positions[k]]
        offsets = tf.constant(offsets, tf.float64)
        parts = [np.zeros((0, len(offsets)))]
        for first in range(0, len(entries), _ENTRIES_PER_CALL):
            some = tf.constant(entries[first : first + _ENTRIES_PER_CALL], tf.int64)
            parts.append(self._evaluate(self._start, handle, base, some, offsets).numpy())
        return np.concatenate(parts)

    def gradients(self):
        """Return J and, by autodiff, dJ/dslot for every slot, zeros if there is none."""
        j, gradients = self._differentiate(self._start)
        dense = [
            np.zeros(slot.shape) if g is None else g.numpy()
            for g, slot in zip(gradients, self._slots, strict=True)
        ]
        return float(j), dense

    def noise(self, distance=1e-9, order=2):
        """Measure the standard deviation of J's rounding errors.

        J is evaluated at thirteen points very close to each other on the ray from the origin
        through all slots. Over such a distance (1e-8, relatively) it is a straight line, so its
        second differences, whose variance is 6 times that of J, are rounding. A kink that happens
        to lie there does not affect their median.
        """
        scales = [1.0 + distance * step for step in range(13)]
        values = [self._from(lambda value, s=s: value * s).value() for s in scales]
        # A normal variable's median absolute value is 0.6745 standard deviations.
        deviations = 0.6745 * math.sqrt(math.comb(2 * order, order))
        return float(np.median(np.abs(np.diff(values, order))) / deviations)

    def noise_in_float32(self):
        """Measure the standard deviation of J's rounding errors where parts are in float32.

        They show in fourth differences over a larger distance, which no parabola disturbs. Those of
        a curve are 1e4 times smaller over a tenth of the distance. Those of rounding stay, or are
        gone at once, where the distance is less than a step of the rounded numbers.
        """
        far, near, nearest = (self.noise(distance, 4) for distance in (1e-5, 1e-6, 1e-7))
        for wide, narrow in ((far, near), (near, nearest)):
            if not 1e-7 * wide < narrow < 0.1 * wide:
                return wide
        return 0.0

    def _from(self, move):
        other = copy.copy(self)
        other._start = list(self._start)
        for position in self._slot_positions:
            other._start[position] = move(other._start[position])
        return other

    def _evaluate_entries(self, start, handle, base, entries, offsets):
        flat = tf.reshape(base, (-1,))
        shifts = tf.size(offsets)

        def evaluate_one(i, results):
            index = tf.reshape(entries[i // shifts], (1, 1))
            shifted = tf.tensor_scatter_nd_add(flat, index, offsets[i % shifts, tf.newaxis])
            # The handle is one of the variables, which TensorFlow cannot know: the order of
            # assignments and reads is made explicit. The next round starts when all writes of this
            # one are done.
            with tf.control_dependencies(self._reset(start)):
                shift = tf.raw_ops.AssignVariableOp(
                    resource=handle, value=tf.reshape(shifted, tf.shape(base))
                )
            with tf.control_dependencies([shift]):
                return i + 1, results.write(i, self._objective())

        count = tf.size(entries) * shifts
        initial = 0, tf.TensorArray(tf.float64, size=count)
        _, results = tf.while_loop(
            lambda i, _: i < count, evaluate_one, initial, parallel_iterations=1
        )
        return tf.reshape(results.stack(), (-1, shifts))

    def _autodiff(self, start):
        with tf.control_dependencies(self._reset(start)):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(self._slots)
                j = self._objective()
            gradients = tape.gradient(j, self._slots)
        return j, [_dense(g, slot) for g, slot in zip(gradients, self._slots, strict=True)]

    def _reset(self, start):
        return [
            variable.assign(value, read_value=False)
            for variable, value in zip(self._variables, start, strict=True)
        ]


def _traced(function, signature):
    """Compile `function`, or return it as it is where it cannot be traced.

    An error in the target itself is raised again when it runs eagerly.
    """
    compiled = tf.function(function, input_signature=signature, autograph=False)
    try:
        compiled.get_concrete_function()
    except Exception:
        return function
    return compiled


def _roundings(function):
    """List the operations of a traced function that compute fewer bits from float64.

    Besides casts these are kernels whose result is always float32, such as those that resize. In
    functions that it calls only casts are found: their nodes do not tell the dtypes of the others.
    """
    if not hasattr(function, "get_concrete_function"):
        return ()
    graph = function.get_concrete_function().graph
    smaller = tf.float32, tf.float16, tf.bfloat16
    names = {
        operation.name
        for operation in graph.get_operations()
        if any(x.dtype == tf.float64 for x in operation.inputs)
        and any(y.dtype in smaller for y in operation.outputs)
    }
    enums = [dtype.as_datatype_enum for dtype in smaller]
    names |= {
        node.name
        for called in graph.as_graph_def().library.function
        for node in called.node_def
        if node.op == "Cast"
        and node.attr["SrcT"].type == tf.float64.as_datatype_enum
        and node.attr["DstT"].type in enums
    }
    return tuple(sorted(name for name in names if not name.startswith("gradient_tape/")))


def _dense(gradient, slot):
    """Turn sparse rows into a dense gradient, summing rows that occur more than once."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, slot.shape[0])
    return gradient


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The slopes of one slot's entries, side by side; every array has shape (entries,).

    Attributes:
        analytic: the gradient's entries, by autodiff.
        numeric: central differences.
        kinks: whether J has a kink so near that the difference quotient is no derivative.
        faults: whether the entry, looked at closely, is wrong beyond rounding and kinks.
        undecided: whether even the smallest step leaves it open, since a kink lies at the entry's
            value itself.
        noise: a number, the size of the error that rounding makes in `numeric`.
    """

    analytic: np.ndarray
    numeric: np.ndarray
    kinks: np.ndarray
    faults: np.ndarray
    undecided: np.ndarray
    noise: float

    def decide(self, faults):
        """Return a comparison in which the undecided entries are faults or, else, kinks."""
        all_faults, kinks = self.faults.copy(), self.kinks.copy()
        all_faults[self.undecided] = faults
        kinks[self.undecided] = ~faults
        cleared = np.zeros_like(self.undecided)
        return dataclasses.replace(self, faults=all_faults, kinks=kinks, undecided=cleared)


def compare(along, theta, analytic, value, noise, epsilon):
    r"""Compare analytic slopes with central differences, and look closer where they disagree.

    A central difference over a kink is off by up to half the jump of the slope, like a wrong
    gradient. What tells them apart is the smooth side. Five points, $J$ at $0$, $\pm\epsilon/2$
    and $\pm\epsilon$ from the entry's value, give two one-sided slopes,

    $$R = \frac{-3J(0) + 4J(\epsilon/2) - J(\epsilon)}{\epsilon}, \qquad
      L = \frac{3J(0) - 4J(-\epsilon/2) + J(-\epsilon)}{\epsilon},$$

    two central ones, $D_\epsilon$ and $D_{\epsilon/2}$, and their extrapolation
    $D^* = D_{\epsilon/2} + (D_{\epsilon/2} - D_\epsilon)/3$. A kink within the interval moves
    $D^*$ by no more than $\max(|R - L|, 6|D_{\epsilon/2} - D_\epsilon|)$, wherever it lies: where
    that is small, the interval is smooth and $D^*$ decides. Else the analytic slope is accepted as
    a kink's if it equals $R$ or $L$; if it equals neither, the step shrinks (by 10, 100, 1000),
    until the interval is smooth or free of kinks on one side.

    Args:
        along: a function of an integer array of positions and a list of offsets that returns J,
            of shape (positions, offsets).
        theta: the entries' values, shape (entries,).
        analytic: the analytic slopes, shape (entries,).
        value: J with no entry moved.
        noise: the standard deviation of J's rounding errors.
        epsilon: the step.

    Returns:
        A `Comparison`.
    """
    kinks, undecided = np.zeros(len(theta), bool), np.zeros(len(theta), bool)
    faults = ~np.isfinite(analytic)
    with np.errstate(all="ignore"):  # where J overflows, the comparisons say False
        down, up = along(np.arange(len(theta)), [-epsilon, epsilon]).T
        shifted = np.abs(np.concatenate([up, down]))
        noise = max(noise, _ROUNDOFF * shifted[np.isfinite(shifted)].max(initial=0.0))
        numeric = _parabola_slope(value, down, up, *_steps(theta, -epsilon, epsilon))
        near = SIGMAS * noise / epsilon + 1e-8 * _size(analytic, numeric)
        rest = np.flatnonzero(~faults & ~(np.abs(analytic - numeric) <= near))
        for shrink in _SHRINKS:
            rounding = SIGMAS * noise / (epsilon * shrink)
            points = along, rest, theta[rest], value, epsilon * shrink
            left, right, refined, bend = _five_points(*points)
            a = analytic[rest]
            size = _size(a, refined)
            smooth = bend <= 10.0 * rounding + 1e-6 * size
            agrees = np.abs(a - refined) <= rounding + 1e-7 * size + np.where(smooth, bend, 0.0)
            side = np.fmin(np.abs(a - left), np.abs(a - right))
            one_sided = ~smooth & (side <= 6.0 * rounding + 1e-5 * size)

            known = smooth | agrees
            numeric[rest[known]] = refined[known]
            faults[rest[smooth & ~agrees]] = True
            # An entry that agrees only at a shorter step has a kink between the two.
            kinks[rest[agrees & (shrink < 1.0) | one_sided & ~agrees]] = True
            rest = rest[~(known | one_sided)]
    undecided[rest] = True
    return Comparison(analytic, numeric, kinks, faults, undecided, noise / epsilon)


def _five_points(along, entries, theta, value, e):
    """Return both one-sided slopes, the extrapolated central one, and how far J bends."""
    offsets = [-e, -e / 2.0, e / 2.0, e]
    far_down, down, up, far_up = along(entries, offsets).T
    h = _steps(theta, *offsets)
    left = _parabola_slope(value, far_down, down, h[0], h[1])
    right = _parabola_slope(value, up, far_up, h[2], h[3])
    wide = _parabola_slope(value, far_down, far_up, h[0], h[3])
    narrow = _parabola_slope(value, down, up, h[1], h[2])
    bend = np.fmax(np.abs(right - left), 6.0 * np.abs(narrow - wide))
    return left, right, narrow + (narrow - wide) / 3.0, bend


def _size(analytic, numeric):
    """Return the scale of a relative tolerance, finite even if a slope has overflowed."""
    return np.abs(analytic) + np.where(np.isfinite(numeric), np.abs(numeric), 0.0)


def _steps(theta, *offsets):
    """Return the offsets as they are after `theta + offset` is rounded."""
    return [(theta + offset) - theta for offset in offsets]


def _parabola_slope(value, j1, j2, h1, h2):
    """Return the slope at 0 of the parabola through (0, value), (h1, j1) and (h2, j2)."""
    return ((j1 - value) / h1 * h2 - (j2 - value) / h2 * h1) / (h2 - h1)


class Point:
    """A point in the space of all slots, at which entries are compared."""

    def __init__(self, evaluator, noise, scale, epsilon):
        self._evaluator, self._noise = evaluator, noise
        self._scale, self._epsilon = scale, epsilon
        self._value = evaluator.value()
        again, self._gradients = evaluator.gradients()
        if abs(again - self._value) > 1e-9 * scale:
            raise ValueError(
                "`target` must give the same result each time it starts from the same state: its "
                "random numbers must come from a keras.random.SeedGenerator that a layer holds, "
                f"or from a fixed seed. Received: {self._value!r}, then {again!r}"
            )

    def compare(self, k, indices):
        """Compare the slopes of slot `k` at these flat positions."""
        theta = self._evaluator.start_of(k).ravel()[indices]
        analytic = self._gradients[k].ravel()[indices]

        def along(entries, offsets):
            return self._evaluator.along(k, indices[entries], offsets)

        return compare(along, theta, analytic, self._value, self._noise, self._epsilon)

    def move(self, seed):
        """Return a point a hundred steps away (0.1 at most), out of reach of this one's kinks.

        On a kink the gradient is a convention: where several units have theirs at once, autodiff's
        need not even lie between the one-sided slopes. Away from it the same code is either right
        or wrong.
        """
        evaluator = self._evaluator.beside(min(100.0 * self._epsilon, 0.1), seed)
        return Point(evaluator, self._noise, self._scale, self._epsilon)

    def require_room(self, path, k, indices):
        """Raise a ValueError if the step is lost when it is added to the largest entry."""
        largest = np.abs(self._evaluator.start_of(k).ravel()[indices]).max(initial=0.0)
        if abs((largest + self._epsilon) - largest - self._epsilon) > 0.1 * self._epsilon:
            raise ValueError(
                f"`epsilon` must be at least {10.0 * np.spacing(largest):.0e} for '{path}', whose "
                f"entries reach {largest:.3g}; better scale them down. Received: "
                f"epsilon={self._epsilon}"
            )
