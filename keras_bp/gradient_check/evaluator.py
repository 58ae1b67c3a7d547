"""Evaluations of J inside TensorFlow's graph, and its gradient by autodiff."""

import copy

import numpy as np
import tensorflow as tf

# Entries for one call of the graph: long enough that its overhead does not count, short enough
# that Ctrl-C, which Python sees between calls only, is obeyed.
_ENTRIES_A_CALL = 64


class Evaluator:
    """Evaluates an objective at shifted entries of its slots.

    The slots are the variables whose gradient is checked. Every evaluation starts from the same
    state: all variables are assigned the values that they had at the beginning, so a dropout mask
    is drawn again from the same seed and batch statistics start from the same averages. One graph
    serves every entry of every slot. Where the objective cannot be traced (it calls `.numpy()`),
    the same steps run eagerly.

    A shifted slot is a fresh copy of its value, and the assignment takes that copy over. A sparse
    update in place looks cheaper and is not: TensorFlow copies a variable on each later read, once
    it has been updated sparsely.

    Args:
        objective: A function without arguments that returns a float64 scalar tensor.
        variables: A list of every `tf.Variable` that the objective reads or writes.
        slots: A list of those among them that are checked, in float64.

    Attributes:
        rounded_at: Names of the graph's operations that round float64 to fewer bits; empty where
            the objective runs eagerly.

    Raises:
        ValueError: If J is not finite.
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
                "check_gradients runs target in float64; a tensor of a fixed float32 inside it "
                "does not go together with that."
            )
            raise
        if not np.isfinite(first):
            raise ValueError(f"loss must be finite on inputs and targets. Received: {first}")
        values = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
        self._evaluate = _traced(
            self._evaluate_entries,
            [
                values,
                tf.TensorSpec((), tf.resource),
                tf.TensorSpec(None, tf.float64),
                tf.TensorSpec((None,), tf.int64),
                tf.TensorSpec((None,), tf.float64),
            ],
        )
        self._differentiate = _traced(self._autodiff, [values])
        self.rounded_at = _roundings(self._evaluate)

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
            k: The slot's position.
            entries: An integer array of positions in the flattened slot.
            offsets: A list of shifts, each added to the entry's value on its own.
        """
        handle, base = self._slots[k].handle, self._start[self._slot_positions[k]]
        offsets = tf.constant(offsets, tf.float64)
        parts = [np.zeros((0, len(offsets)))]
        for first in range(0, len(entries), _ENTRIES_A_CALL):
            some = tf.constant(entries[first : first + _ENTRIES_A_CALL], tf.int64)
            parts.append(self._evaluate(self._start, handle, base, some, offsets).numpy())
        return np.concatenate(parts)

    def gradients(self):
        """Return J and, by autodiff, dJ/dslot for every slot, zeros where there is none."""
        j, gradients = self._differentiate(self._start)
        dense = [
            np.zeros(slot.shape) if g is None else g.numpy()
            for g, slot in zip(gradients, self._slots, strict=True)
        ]
        return float(j), dense

    def noise(self):
        """Measure the standard deviation of J's rounding errors.

        J is evaluated at thirteen points very close to each other on the ray from the origin
        through all slots. Over such a distance (1e-8, relatively) it is a straight line, so what
        is left of its second differences, whose variance is 6 times that of J, is rounding. The
        median over them is not impressed by a kink that happens to lie there.
        """
        scales = [1.0 + 1e-9 * step for step in range(13)]
        values = [self._from(lambda value, s=s: value * s).value() for s in scales]
        # A normal variable's median absolute value is 0.6745 standard deviations.
        return float(np.median(np.abs(np.diff(values, 2))) / (0.6745 * np.sqrt(6.0)))

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
            # The handle is one of the variables again, under a name that TensorFlow cannot know
            # to be the same: the order of the assignments and the reads is spelled out. The next
            # round starts when all writes of this one are done.
            with tf.control_dependencies(self._reset(start)):
                shift = tf.raw_ops.AssignVariableOp(
                    resource=handle, value=tf.reshape(shifted, tf.shape(base))
                )
            with tf.control_dependencies([shift]):
                return i + 1, results.write(i, self._objective())

        count = tf.size(entries) * shifts
        _, results = tf.while_loop(
            lambda i, _: i < count,
            evaluate_one,
            (0, tf.TensorArray(tf.float64, size=count)),
            parallel_iterations=1,
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

    A fault of the target itself shows again when it runs eagerly.
    """
    compiled = tf.function(function, input_signature=signature, autograph=False)
    try:
        compiled.get_concrete_function()
    except Exception:
        return function
    return compiled


def _roundings(function):
    """List the operations that cast float64 to a smaller floating dtype in a traced function."""
    if not hasattr(function, "get_concrete_function"):
        return ()
    graph = function.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    smaller = {dtype.as_datatype_enum for dtype in (tf.float32, tf.float16, tf.bfloat16)}
    names = {
        node.name
        for node in nodes
        if node.op == "Cast"
        and node.attr["SrcT"].type == tf.float64.as_datatype_enum
        and node.attr["DstT"].type in smaller
    }
    return tuple(sorted(names))


def _dense(gradient, slot):
    """Turn sparse rows into a dense gradient, summing rows that occur more than once."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, slot.shape[0])
    return gradient
