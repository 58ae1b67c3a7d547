"""Adam whose averages stand still where a sparse gradient has no row."""

from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_choice, check_flag
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp.optimizers._variables import mean_square
from keras_bp.optimizers.adam import Adam


@serializable
class LazyAdam(Adam):
    """Adam for embeddings that touches only the rows that a sparse gradient holds.

    With u the ids in the batch and g the sum of an id's gradient rows:

        m_u, v_u, w_u as in Adam;  every other row of m, v and w stays as it is

    so that a step costs what its rows cost, whatever the size of the table. It is another
    algorithm than Adam, where a row's averages decay and its weights move on between two visits:
    a rare row keeps the average of its last visits at full size here. What is known
    of Adam does not carry over (docs/sparse_adam.md); `DeferredAdam` is as fast, and exact.

    The corrections for the averages' start count either

    - `correction="global"`: the updates of the optimizer, t, as torch's SparseAdam does. A row's
      first step is then 1.0, 0.48 and 2.51 times the learning rate at t = 1, 10 and 1000;
    - `correction="row"`: the updates of the row itself, so that every first step is one learning
      rate. It takes one more number per row.

    A dense gradient makes Adam's step. The decay, too, reaches a table's rows only when they are
    in the batch.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        beta_1: number in [0, 1), b1. Defaults to 0.9.
        beta_2: number in [0, 1), b2. Defaults to 0.999.
        epsilon: number > 0. Defaults to 1e-7.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`.
        correction: `"global"` or `"row"`. Defaults to `"global"`.
        epsilon_hat: whether epsilon is added to the root of the uncorrected average. Defaults
            to `True`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> table = tf.Variable([[1.0], [1.0], [1.0]])
        >>> rows = tf.IndexedSlices(tf.constant([[2.0], [2.0]]), tf.constant([2, 2]))
        >>> keras_bp.optimizers.LazyAdam(0.1).apply([rows], [table])
        >>> table.numpy().round(3).ravel()
        array([1. , 1. , 0.9], dtype=float32)

    References:
        Kingma and Ba, 2015, "Adam: a method for stochastic optimization", algorithm 1, applied to
        the rows of a batch.
    """

    argument_names: tuple[str, ...] = ("correction",)

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        *,
        correction: str = "global",
        epsilon_hat: bool = True,
        **kwargs: Any,
    ) -> None:
        if check_flag("amsgrad", kwargs.pop("amsgrad", False)):
            raise TypeError(
                "`amsgrad` must be False: its maximum is not kept for rows. Received: amsgrad=True"
            )
        kwargs.update(weight_decay=weight_decay, epsilon_hat=epsilon_hat)
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **kwargs)
        self.correction = check_choice("correction", correction, ("global", "row"))

    def _create_slots(self, variable):
        slots = super()._create_slots(variable)
        # A scalar has no rows: it is corrected by the count of all updates.
        if self.correction == "row" and len(variable.shape) > 0:
            slots.append(self._add_row_variable(variable, "row_updates", "int64"))
        return slots

    def _coefficients(self, learning_rate, step, dtype):
        return *super()._coefficients(learning_rate, step, dtype), learning_rate

    def _by_rows(self, variable):
        return True

    def _rule(self, variable, gradient, slots, coefficients, decay):
        *coefficients, rate = coefficients
        mean, square, *updates = slots
        if not isinstance(gradient, tf.IndexedSlices):
            if not updates:
                return super()._rule(variable, gradient, slots, coefficients, decay)
            # A dense gradient holds every row.
            gradient = tf.IndexedSlices(gradient, tf.range(variable.shape[0]))
        ids, g = gradient.indices, gradient.values
        size, epsilon, beta_1, beta_2 = coefficients
        if updates:
            updates[0].scatter_add(tf.IndexedSlices(tf.ones_like(ids, tf.int64), ids))
            size, epsilon = self._row_coefficients(tf.gather(updates[0], ids), rate, g)
        m, v = tf.gather(mean, ids), tf.gather(square, ids)
        m += (g - m) * (1 - beta_1)
        v = mean_square(v, beta_2, g)
        mean.scatter_update(tf.IndexedSlices(m, ids))
        square.scatter_update(tf.IndexedSlices(v, ids))
        variable.scatter_sub(tf.IndexedSlices(m / (tf.sqrt(v) + epsilon) * size, ids))

    def _row_coefficients(self, updates, rate, g):
        """Return size and epsilon by the rows' own counts, to broadcast over their entries."""
        counts = tf.reshape(tf.cast(updates, tf.float64), [-1] + [1] * (g.shape.rank - 1))
        size, epsilon, *_ = super()._coefficients(tf.cast(rate, tf.float64), counts, g.dtype)
        return tf.cast(size, g.dtype), tf.cast(epsilon, g.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, for `from_config`."""
        config = super().get_config()
        del config["amsgrad"]
        return config
