"""Adam's own iterates for embeddings, up to rounding and interpolation, by the batch's rows."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_flag
from keras_bp._keras import outside_of_traces, serializable
from keras_bp._paths import path_of
from keras_bp._types import LearningRate
from keras_bp.deferred.rows import Table, decayed, missed_quadrature
from keras_bp.optimizers._variables import local, mean_square
from keras_bp.optimizers.adam import Adam

# The error of a row's missed steps, relative to their sum: the largest, which is below the rounding
# of the weights, which are far larger than the sum; and that of rounding the sum itself.
_TOLERANCE = {"float32": (2e-5, 1e-7), "float64": (1e-8, 1e-15)}
# The values that Adam's other arguments must have.
_ONLY = {"amsgrad": (False,), "epsilon_hat": (True,), "weight_decay": (None, 0.0)}


@serializable
class DeferredAdam(Adam):
    """Adam that catches up a table row's missed steps when the row is next read.

    In Adam every row of a table moves in every update: where the gradient is 0 the averages m and
    v decay and the weights follow them. This optimizer updates only the rows u of the batch, with
    g the sum of a row's gradients. First it catches up the n updates that the row has missed:

        w_u -= sum over the missed updates of Adam's steps with g = 0
        m_u *= b1^n;  v_u *= b2^n
        then Adam's update t with g

    and `keras_bp.layers.DeferredEmbedding` reads every row as if it had missed none. So
    forward pass, gradient and iterates are Adam's.

    **The guarantee.** The steps with g = 0 that the layer adds are the ones that Adam made, so by
    induction gradients and iterates are Adam's, for any loss and schedule, with Adam's own bias
    corrections, of the global t. Whatever is proved of Adam's iterates is proved of this optimizer,
    and what is disproved. On a computer two things differ: the order of rounding, and the missed
    steps' sum, which is interpolated (`DeferredRows`). Relative to that sum at the largest rate
    since the row's last update, its error is 1e-13 in float64 and 3e-8 in float32 with the usual
    betas, and some 1e-8 and 2e-5 at most with any that are accepted. docs/sparse_adam.md has the
    theorem, its proof with this error inside, and what holds of LazyAdam.

    A step costs what its rows cost: each update takes a few more in turn, one in 65,535 of the
    table's, with a gradient of 0. The averages lie in the layer, two numbers per weight, as in
    Adam. `catch_up` costs what the rows cost that have missed something since the last time.

    Other variables get Adam's update. A sparse gradient of a variable that is not a
    `DeferredEmbedding`'s is refused: its rows would be read without their missed steps. `fit` ends
    with `catch_up`. A new optimizer on a trained layer starts with new averages; two that update
    one table by turns are refused, but for a `tf.function` around steps that were traced before it,
    which TensorFlow runs as they were.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        beta_1: number in [0, 1), b1. Defaults to 0.9.
        beta_2: number in [0, 1), b2, well above b1^2. Defaults to 0.999.
        epsilon: number > 0, added to the root of the uncorrected average. Defaults to 1e-7.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`, without
            `weight_decay` and, for a `DeferredEmbedding`, without `use_ema`: both move every row in
            every update.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range; by `build`, if the betas are such that what a row
            misses does not sum up within 512 steps to that precision; by `apply`, for a sparse
            gradient of another layer's variable, or for a table that another DeferredAdam has
            updated since this one did.

    Example:
        >>> layer = keras_bp.layers.DeferredEmbedding(3, 1, embeddings_initializer="ones")
        >>> layer.build()
        >>> optimizer = keras_bp.optimizers.DeferredAdam(0.1)
        >>> for ids in ([0], [1], [1]):  # row 0 moves on in updates 2 and 3
        ...     with tf.GradientTape() as tape:
        ...         loss = tf.reduce_sum(layer(tf.constant(ids)))
        ...     optimizer.apply(
        ...         tape.gradient(loss, layer.trainable_weights), layer.trainable_weights
        ...     )
        >>> layer.embeddings.numpy().round(4).ravel()
        array([0.7812, 0.8397, 1.    ], dtype=float32)

    References:
        Kingma and Ba, 2015, "Adam: a method for stochastic optimization", algorithm 1 in the form
        just before section 2.1.
    """

    # A row's missed steps are those of Adam's plain rule.
    refused_options = ("cautious", "adaptive_clip", "update_clip", "swa_start", "lookahead_steps")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        for name, only in _ONLY.items():
            value = kwargs.pop(name, only[0])
            if isinstance(only[0], bool):
                value = check_flag(name, value)
            if value not in only:
                raise ValueError(
                    f"`{name}` must be {only[0]}: a row's missed steps are those of Adam's plain "
                    f"rule. Received: {name}={value!r}"
                )
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **kwargs)
        self._quadratures: dict = {}

    def _check_variables(self, variables):
        for variable in variables:
            rows = _deferred_rows(variable)
            if rows is None:
                continue
            if self.use_ema:
                raise ValueError(
                    "`use_ema` must be False with a DeferredEmbedding: the average moves every row "
                    "in every update. Received: use_ema=True"
                )
            dtype = tf.as_dtype(variable.dtype)
            betas = (float(dtype.as_numpy_dtype(beta)) for beta in (self.beta_1, self.beta_2))
            self._quadratures[dtype] = missed_quadrature(
                *betas, rows.node_count, *_TOLERANCE[dtype.name]
            )

    def _create_slots(self, variable):
        rows = _deferred_rows(variable)
        if rows is None:
            return super()._create_slots(variable)
        if rows.optimizer is None:
            rows.optimizer = self
        # The layer's variables, and one that belongs to the optimizer.
        return [*rows.variables, self.add_variable((), dtype="bool", name="taken_over")]

    def _check_gradients(self, gradients, variables):
        for gradient, variable in zip(gradients, variables, strict=True):
            if isinstance(gradient, tf.IndexedSlices) and _deferred_rows(variable) is None:
                raise ValueError(
                    "`grads` must hold sparse gradients for the tables of "
                    "keras_bp.layers.DeferredEmbedding only, which catches up the steps that a "
                    "row missed when it is read; use it instead of keras.layers.Embedding. "
                    f"Received: a sparse gradient of {path_of(variable)!r}"
                )

    def _by_rows(self, variable):
        return _deferred_rows(variable) is not None

    def _match(self, grads, variables):
        grads, variables = super()._match(grads, variables)
        return [self._with_turn(g, v) for g, v in zip(grads, variables, strict=True)], variables

    def _with_turn(self, gradient, variable):
        """Add the rows whose turn it is to a sparse gradient, with 0: in Adam these move too.

        So no row is absent for longer than what the ring holds.
        """
        rows = _deferred_rows(variable)
        if rows is None or not isinstance(gradient, tf.IndexedSlices):
            return gradient
        values, indices = gradient.values, gradient.indices
        number, columns = variable.shape
        turn = (local(rows.clock) * rows.turn + tf.range(rows.turn, dtype=tf.int64)) % number
        values = tf.concat([values, tf.zeros([rows.turn, columns], values.dtype)], axis=0)
        indices = tf.concat([indices, tf.cast(turn, indices.dtype)], axis=0)
        return tf.IndexedSlices(values, indices, gradient.dense_shape)

    def _update_variable(self, gradient, variable, scalars):
        rows = _deferred_rows(variable)
        if rows is not None:
            rows.take_over(self)
            *slots, taken_over = self._slots_of(self._get_variable_index(variable))
            self._forget_another(Table(self._target(variable), *slots), taken_over)
        super()._update_variable(gradient, variable, scalars)

    # Not in the step, where XLA would copy the table for the branch that is not taken.
    @outside_of_traces()
    def _forget_another(self, table, taken_over):
        """Bring a table up to date and set the averages to 0 that another optimizer has left."""
        if taken_over.numpy():
            return
        taken_over.assign(True)
        # A layer that is built in the trace has no values yet.
        there = tf.raw_ops.VarIsInitializedOp(resource=table.clock.handle)
        if there and table.clock.numpy() > 0:
            table.catch_up()
            for mean in (table.momentum, table.velocity):
                mean.assign(tf.zeros_like(mean))

    def _rule(self, variable, gradient, slots, coefficients, decay):
        if len(slots) == len(self.slot_names):
            return super()._rule(variable, gradient, slots, coefficients, decay)
        table = Table(variable, *slots[:-1])
        size, epsilon, beta_1, beta_2 = coefficients
        nodes, weights = self._quadratures[variable.dtype]
        dtype = variable.dtype.as_numpy_dtype
        table.nodes.assign(tf.concat([nodes.astype(dtype), [epsilon]], axis=0))
        if not isinstance(gradient, tf.IndexedSlices):
            gradient = tf.IndexedSlices(gradient, tf.range(variable.shape[0]))
        ids, g = gradient.indices, gradient.values
        w, m, v, last = table.read(ids, used=np.count_nonzero(np.any(weights, axis=0)))
        m, v = decayed(m, v, table.clock - last, *self._betas(variable.dtype))
        m += (g - m) * (1 - beta_1)
        v = mean_square(v, beta_2, g)
        now = table.clock + 1
        table.write(ids, w - m / (tf.sqrt(v) + epsilon) * size, m, v, tf.fill(tf.shape(ids), now))
        # The rows that were last updated j updates ago, j = 1, 2, ..., have missed one more. Those
        # of update 0, that is none, have no averages.
        updates = now - tf.range(1, len(weights) + 1, dtype=tf.int64)
        steps = weights.astype(dtype) * tf.where(updates > 0, size, 0)[:, None]
        table.weights.scatter_add(tf.IndexedSlices(steps, updates % table.ring))
        cleared = tf.zeros([1, len(nodes)], variable.dtype)
        table.weights.scatter_update(tf.IndexedSlices(cleared, [now % table.ring]))
        table.clock.assign(now)

    def catch_up(self) -> None:
        """Bring the rows of all tables up to date, so that the variables hold what layers read."""
        for variable in self._trainable_variables if self.built else ():
            rows = _deferred_rows(variable)
            if rows is not None:
                dtype = tf.as_dtype(variable.dtype)
                rows.catch_up(variable, *self._betas(dtype), len(self._quadratures[dtype][1]))

    def finalize_variable_values(self, var_list: list) -> None:
        """Keras's hook at the end of `fit`: flush, and bring all rows up to date."""
        super().finalize_variable_values(var_list)
        self.catch_up()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, for `from_config`."""
        config = super().get_config()
        return {name: config[name] for name in config if name not in _ONLY}


def _deferred_rows(variable):
    return getattr(variable, "deferred_rows", None)
