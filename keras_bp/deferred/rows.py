"""The state of a table whose rows are brought up to date when they are read."""

import functools
import math
import typing
import weakref

import keras
import numpy as np
import tensorflow as tf

from keras_bp._keras import compiled_by_xla

MAX_MISSED = 512
"""The most missed steps that matter: after these a row's mean has decayed to nothing."""

_SHORTEST_RING, _LONGEST_RING = 1024, 2**16
_UNUSED = 2.0  # in a node's place; a node is at most 1
_FEW = 3  # nodes, as many as Adam's usual betas need in float32
_BLOCK = 2048  # rows whose intermediate arrays stay in a cache


class DeferredRows:
    """The state of one table that `DeferredEmbedding` reads and `DeferredAdam` writes.

    Adam moves a row also in the steps in which its gradient is 0: its averages decay, and its
    weights follow them. A row that was last updated in update s, with the averages m and v that
    it had then, has missed, over the steps j = 1, 2, ... since,

        missed = m sum_j a_(s+j) b1^j / (sqrt(v) b2^(j/2) + eps)

    with a_t the size of Adam's step in update t, corrections included. As a function of j,
    f(j) = 1 / (x b2^(j/2) + eps) hardly bends before b1^j has fallen to nothing, for any
    x = sqrt(v). So f is interpolated from K nodes j_k, and the sum over steps becomes one over
    nodes, with L_k Lagrange's polynomials:

        sum_j a_(s+j) b1^j f(j) = sum_k W[s, k] f(j_k),    W[s, k] = sum_j a_(s+j) b1^j L_k(j)

    W depends on s alone, not on the row, and each update adds one term to it: it is kept for the
    latest updates, in a ring, and every row is updated at least once while the ring goes round. A
    look-up costs K terms per entry, however long the row was absent, and changes nothing: it may be
    part of any graph. A row has missed something if its W is not 0. To bring the table up to date
    is to write these rows and set all W to 0, from where they sum up what is missed from then on.

    Args:
        add_weight: function of a shape, a dtype, a name and an initializer that makes a variable.
        rows: int, the number of rows of the table.
        columns: int, the number of columns.
        dtype: "float32" or "float64", the table's dtype.

    Attributes:
        variables: the six variables below, in the order in which they are saved.
        momentum: (rows, columns), m at each row's last update.
        velocity: (rows, columns), v likewise.
        last_update: (rows,) int64, the number s of the row's last update.
        clock: () int64, the number of updates made.
        weights: (ring, K), W[s] in the place s % ring.
        nodes: (K + 1,), b2^(j_k / 2), 2 where fewer nodes are exact enough, and at the end eps.
        ring: int, the number of updates that W is kept for.
        turn: int, how many rows each update has to update in turn, beside the batch's.
        node_count: int, K.
    """

    def __init__(self, add_weight, rows, columns, dtype):
        # With Adam's usual betas 6 nodes are exact to the last digit of float64.
        self.node_count = 16 if dtype == "float64" else 8
        self.ring = min(max(rows, _SHORTEST_RING), _LONGEST_RING)
        self.turn = -(-rows // (self.ring - 1))
        self.momentum = add_weight((rows, columns), dtype, "momentum", "zeros")
        self.velocity = add_weight((rows, columns), dtype, "velocity", "zeros")
        self.last_update = add_weight((rows,), "int64", "last_update", "zeros")
        self.clock = add_weight((), "int64", "clock", "zeros")
        self.weights = add_weight((self.ring, self.node_count), dtype, "missed_weights", "zeros")
        # Ones: before the first update, too, nothing is divided by 0.
        self.nodes = add_weight((self.node_count + 1,), dtype, "nodes", "ones")
        self.optimizer, self._earlier, self._step = None, weakref.WeakSet(), None

    def __getstate__(self):  # a copy is of no optimizer yet
        return {**vars(self), "_optimizer": None, "_earlier": None, "_step": None}

    def __setstate__(self, state):
        vars(self).update(state, _earlier=weakref.WeakSet())

    @property
    def optimizer(self):
        """The optimizer whose averages the rows hold, or None if there is none any more."""
        return self._optimizer and self._optimizer()

    @optimizer.setter
    def optimizer(self, optimizer):
        self._optimizer = optimizer and weakref.ref(optimizer)

    def take_over(self, optimizer):
        """Let the rows hold the averages of the optimizer that is about to update them.

        Raises:
            ValueError: if another has done so meanwhile, or does in the same step.
        """
        step = None if tf.executing_eagerly() else weakref.ref(_outermost_graph())
        if self.optimizer not in (None, optimizer):
            if optimizer in self._earlier or (step is not None and step == self._step):
                raise ValueError(
                    "`variables` must hold a DeferredEmbedding's table for one DeferredAdam only: "
                    "its rows hold the averages of one. A new optimizer may take over, once. "
                    f"Received: {optimizer.name!r} and {self.optimizer.name!r}, by turns"
                )
            # So that its next step comes here, and is refused.
            self.optimizer._drop_traces()
        self._earlier.add(optimizer)
        self.optimizer, self._step = optimizer, step

    def catch_up_where_read(self, table):
        """Bring the table up to date where it is read or set outside of a step."""
        if not tf.executing_eagerly():
            return
        if self.optimizer is not None:
            self.optimizer.catch_up()
        else:
            # A new optimizer would begin with new averages: these stay as they are.
            self.catch_up(table)

    def catch_up(self, table, *decay):
        """Bring up to date the rows of a `DeferredTable` that have missed something.

        Args:
            table: the `DeferredTable`.
            *decay: arguments of `Table.catch_up`, for the averages too.
        """
        strategy = tf.distribute.get_strategy()
        held = [strategy.experimental_local_results(v.value) for v in (table, *self.variables)]
        for copies in zip(*held, strict=True):
            Table(*copies).catch_up(*decay)

    @property
    def variables(self):
        """The six variables, in the order in which they are saved."""
        adam = [self.momentum, self.velocity, self.last_update]
        return [*adam, self.clock, self.weights, self.nodes]

    def missed(self, ids):
        """Return what rows have missed, to be subtracted from the table's.

        Args:
            ids: integer tensor of shape (n,).

        Returns:
            A tensor of shape (n, columns).
        """
        values = [variable.value for variable in self.variables]
        momentum, velocity, last_update, _, weights, nodes = values
        return missed_steps(
            tf.gather(momentum, ids),
            tf.gather(velocity, ids),
            tf.gather(weights, tf.gather(last_update, ids) % self.ring),
            tf.convert_to_tensor(nodes),
        )


def _outermost_graph():
    """Return the graph of the function that is being traced, outside of its conditionals."""
    graph = tf.compat.v1.get_default_graph()
    while hasattr(getattr(graph, "outer_graph", None), "outer_graph"):
        graph = graph.outer_graph
    return graph


class DeferredTable(keras.Variable):
    """A table that is up to date where it is read as an array or set from outside.

    Steps and look-ups use its `value`, which may be behind; so do arithmetic, slices and
    conversions to a tensor, which Keras derives from `value`.
    """

    deferred_rows: DeferredRows

    def __array__(self, dtype=None, copy=None):
        self.deferred_rows.catch_up_where_read(self)
        return super().__array__(dtype)

    def numpy(self):
        """Return the table up to date, as an array."""
        self.deferred_rows.catch_up_where_read(self)
        return super().numpy()

    def assign(self, value):
        """Assign a table from which no steps are missing."""
        self.deferred_rows.catch_up_where_read(self)
        return super().assign(value)

    def assign_add(self, value):
        """Add to the table that is up to date."""
        self.deferred_rows.catch_up_where_read(self)
        return super().assign_add(value)

    def assign_sub(self, value):
        """Subtract from the table that is up to date."""
        self.deferred_rows.catch_up_where_read(self)
        return super().assign_sub(value)


class Table(typing.NamedTuple):
    """The variables of one replica for one table, see `DeferredRows`."""

    variable: tf.Variable
    momentum: tf.Variable
    velocity: tf.Variable
    last_update: tf.Variable
    clock: tf.Variable
    weights: tf.Variable
    nodes: tf.Variable

    @property
    def ring(self):
        """The number of updates that the weights are kept for."""
        return self.weights.shape[0]

    def read(self, ids, used=None):
        """Return rows of w as they are after all updates made, and of m, v and s as stored.

        Args:
            ids: integer tensor of shape (n,).
            used: as in `missed_steps`.
        """
        m, v = tf.gather(self.momentum, ids), tf.gather(self.velocity, ids)
        last = tf.gather(self.last_update, ids)
        weights = tf.gather(self.weights, last % self.ring)
        missed = missed_steps(m, v, weights, tf.convert_to_tensor(self.nodes), used)
        return tf.gather(self.variable, ids) - missed, m, v, last

    def write(self, ids, *rows):
        """Write rows of w, m, v and s."""
        for variable, values in zip(self[:4], rows, strict=True):
            variable.scatter_update(tf.IndexedSlices(values, ids))

    def catch_up(self, beta_1=1.0, beta_2=1.0, steps=0):
        """Bring up to date the rows that have missed something.

        Args:
            beta_1: scalar float64 tensor, the decay of m.
            beta_2: scalar float64 tensor, the decay of v.
            steps: int, in how many updates what a row misses has come to nothing. The averages of
                rows that have been absent for longer stay as of their last update.
        """
        decays = (tf.cast(beta, tf.float64) for beta in (beta_1, beta_2))
        arguments = self, *decays, tf.constant(steps, tf.int64)
        # TensorFlow warns of a function that is called with tables of many shapes.
        _catch_up.get_concrete_function(*arguments)(*arguments)


# Of the variables as arguments: one trace for all tables of a shape.
@tf.function(autograph=False)
def _catch_up(table, beta_1, beta_2, steps):
    table = Table(*table)
    have_missed = tf.reduce_any(tf.not_equal(table.weights, 0), axis=1)
    behind = tf.where(tf.gather(have_missed, table.last_update % table.ring))[:, 0]

    def body(start):
        ids = behind[start : start + _BLOCK]
        w, m, v, last = table.read(ids)
        missed = tf.where(table.clock - last < steps, table.clock - last, 0)
        table.write(ids, w, *decayed(m, v, missed, beta_1, beta_2), last + missed)
        return (start + _BLOCK,)

    tf.while_loop(lambda start: start < tf.size(behind), body, (0,))
    table.weights.assign(tf.zeros_like(table.weights))


def decayed(m, v, missed, beta_1, beta_2):
    """Return rows of the averages after updates with gradients of 0.

    Args:
        m: tensor of shape (n, columns).
        v: tensor of shape (n, columns).
        missed: integer tensor of shape (n,), the number of updates.
        beta_1: scalar float64 tensor.
        beta_2: scalar float64 tensor.
    """
    missed = tf.cast(missed, tf.float64)[:, None]

    def power(beta):  # in a third of the time of `**`
        return tf.exp(tf.math.multiply_no_nan(tf.math.log(beta), missed))

    return m * tf.cast(power(beta_1), m.dtype), v * tf.cast(power(beta_2), v.dtype)


def missed_steps(m, v, weights, nodes, used=None):
    """Return m sum_k W_k / (sqrt(v) n_k + eps) for rows of m and v.

    Args:
        m: tensor of shape (n, columns).
        v: tensor of shape (n, columns), 0 or more.
        weights: tensor of shape (n, K), W of each row's last update.
        nodes: tensor of shape (K + 1,), n_k and eps.
        used: int, the number of nodes in use, if it is known for good.

    Returns:
        A tensor of shape (n, columns).
    """
    root, (*nodes, epsilon) = tf.sqrt(v), tf.unstack(nodes)
    weights = tf.split(weights, len(nodes), axis=1)

    # Term by term: an operation on all of (n, K, columns) takes longer than K on (n, columns).
    def over(first, last):
        terms = zip(weights[first:last], nodes[first:last], strict=True)
        return tf.add_n([weight / (root * node + epsilon) for weight, node in terms])

    if used is not None or compiled_by_xla():
        return m * over(0, used or len(nodes))
    # Another optimizer may use more nodes than this one, with the function that is traced now.
    more = tf.cond(
        nodes[_FEW] < _UNUSED, lambda: over(_FEW, len(nodes)), lambda: tf.zeros_like(root)
    )
    return m * (over(0, _FEW) + more)


@functools.lru_cache
def missed_quadrature(beta_1, beta_2, node_count, tolerance, rounding=0.0):
    """Return nodes and weights that sum b1^j f(j) over missed steps, f(j) = 1/(x b2^(j/2) + eps).

        sum_j a_j b1^j f(j) = sum_k (sum_j a_j b1^j L_k(j)) f(j_k)    for any a_j, x >= 0

    with L_k the Lagrange polynomials of the nodes j_k. These are Gauss-Laguerre's, which suit the
    decay b1^j, with their distances scaled by 0.6: the most exact of the factors from 0.3 to 1, for
    b2 from 0.9 to 0.999.

    Args:
        beta_1: float in [0, 1), the decay of the mean.
        beta_2: float in [0, 1), the decay of the mean square.
        node_count: int, the largest number of nodes.
        tolerance: float, the largest relative error of such a sum.
        rounding: float, the error at which fewer nodes will do.

    Returns:
        Two float64 arrays: b2^(j_k / 2) of shape (nodes,), and b1^j L_k(j) of shape (steps,
        nodes) for j = 1, 2, ... up to where the steps vanish. In an unused node's place they hold
        2 and 0.

    Raises:
        ValueError: if the sum is not as exact as `tolerance` with these betas.
    """
    # Step j is of the size b1^j / b2^(j/2), and what follows it of that over 1 - ratio.
    ratio = beta_1 / math.sqrt(beta_2) if beta_2 else math.inf
    steps = 1
    if 0 < ratio < 1:
        needed = math.log(1e-4 * tolerance * (1 - ratio)) / math.log(ratio)
        steps = min(max(math.ceil(needed), 1), MAX_MISSED)
    j = np.arange(1, steps + 1)
    # Fewer nodes cost less, if the sum is not worse than by rounding.
    for number in range(1, node_count + 1):
        nodes, weights = _lagrange(beta_1, j, number)
        error = _worst_error(beta_1, beta_2, j, nodes, weights) if ratio < 1 else 0.0
        if error <= rounding:
            break
    error += ratio**steps if beta_1 else 0.0
    if beta_1 and not error <= tolerance:
        raise ValueError(
            "`beta_1` and `beta_2` must be such that what a row misses sums up within "
            f"{MAX_MISSED} steps, and from {node_count} nodes to {tolerance:g} of itself. "
            f"Received: beta_1={beta_1:.6g}, beta_2={beta_2:.6g}, with an error of {error:.1e}"
        )
    unused = node_count - number
    nodes = np.pad(beta_2 ** (nodes / 2), (0, unused), constant_values=_UNUSED)
    return nodes, np.pad(weights, ((0, 0), (0, unused)))


def _lagrange(beta_1, j, number):
    """Return nodes and, at the steps j, b1^j L_k(j)."""
    scale = -0.6 / math.log(beta_1) if beta_1 else 1.0
    nodes = 1 + scale * np.polynomial.laguerre.laggauss(number)[0]
    differences = nodes[:, None] - nodes + np.eye(number)
    lagrange = np.stack(
        [
            np.prod(np.delete((j[:, None] - nodes) / differences[k], k, axis=1), axis=1)
            for k in range(number)
        ],
        axis=1,
    )
    return nodes, beta_1 ** j[:, None] * lagrange


def _worst_error(beta_1, beta_2, j, nodes, weights):
    """Return the largest relative error over all sizes of x against epsilon, and some rates."""
    worst = 0.0
    for rates in (np.ones(len(j)), (j > 20) * 1.0, np.exp(-j / 5.0)):
        for x in np.logspace(-6, 6, 49):  # in units of epsilon
            terms = rates * beta_1**j / (x * beta_2 ** (j / 2) + 1)
            quadrature = np.sum(rates @ weights / (x * beta_2 ** (nodes / 2) + 1))
            worst = max(worst, abs(quadrature - terms.sum()) / max(terms.sum(), 1e-300))
    return worst
