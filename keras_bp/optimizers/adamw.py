"""Adam with decoupled weight decay."""

from keras_bp._keras import serializable
from keras_bp.optimizers.adam import Adam


@serializable
class AdamW(Adam):
    """Adam with decay that does not pass through the averages.

    Drop-in for `keras.optimizers.AdamW`: the same arguments, defaults, slots and rule.

        w -= a lambda w, then Adam's step

    so that every weight shrinks by the same share, however large its gradients are. Biases and
    normalization weights are usually left out: `exclude_from_decay="bias_and_normalization"`.
    Keras's `exclude_from_weight_decay` is forgotten when a model is saved and loaded; here the
    exclusion is an argument, and a part of the file.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        weight_decay: number >= 0, lambda. Defaults to 0.004.
        beta_1: number in [0, 1). Defaults to 0.9.
        beta_2: number in [0, 1). Defaults to 0.999.
        epsilon: number > 0. Defaults to 1e-7.
        amsgrad: whether v under the root is the largest v so far. Defaults to `False`.
        epsilon_hat: whether epsilon stands beside the root of the uncorrected average. Defaults
            to `True`, Keras's rule.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Raises:
        TypeError: if an argument is of another kind, `weight_decay=None` included.
        ValueError: if one is out of its range.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> optimizer = keras_bp.optimizers.AdamW(0.1, weight_decay=0.1)
        >>> optimizer.apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy().round(4)
        array([0.89, 2.08], dtype=float32)

    References:
        Loshchilov and Hutter, 2019, "Decoupled weight decay regularization", algorithm 2.
    """

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay=0.004,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        amsgrad=False,
        *,
        epsilon_hat=True,
        **kwargs,
    ):
        if weight_decay is None:
            raise TypeError("`weight_decay` must be a number of 0 or more. Received: None")
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            weight_decay=weight_decay,
            epsilon_hat=epsilon_hat,
            **kwargs,
        )
