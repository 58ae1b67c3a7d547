"""Evaluation with the averages of `use_ema`."""

import keras

from keras_bp._arguments import check_flag
from keras_bp._keras import leaf_optimizers, lend_averages
from keras_bp.recording import Callback


class SwapEMAWeights(Callback, keras.callbacks.SwapEMAWeights):
    """Lets a model evaluate and predict with its weights' averages, and puts the weights back.

    The averages are those of `use_ema`, or of `swa_start`, which this package's optimizers have.

    Drop-in for `keras.callbacks.SwapEMAWeights`, which swaps by two sums and a difference: each is
    rounded, so that evaluating changes the training, and in float16 and bfloat16, where our
    optimizers average in float32, it fails. It also leaves the averages in the model after
    `predict`. This one keeps the weights beside the model meanwhile, and puts back the same bits;
    the optimizer's averages stay as they are. Before the first update there is no average, and the
    weights stay.

    Args:
        swap_on_epoch: bool, whether the averages are in the model also from the end of an epoch to
            the beginning of the next, for callbacks that come after this one, such as
            `ModelCheckpoint`. Defaults to `False`.

    Raises:
        TypeError: if `swap_on_epoch` is not a bool.
        ValueError: by `fit`, if the model's optimizer does not average the weights.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(keras_bp.optimizers.Adam(use_ema=True), "mse")
        >>> x = np.ones((8, 2))
        >>> swap = keras_bp.callbacks.SwapEMAWeights()
        >>> _ = model.fit(x, x[:, :1], validation_split=0.5, verbose=0, callbacks=[swap])
    """

    def __init__(self, swap_on_epoch: bool = False) -> None:
        super().__init__(check_flag("swap_on_epoch", swap_on_epoch))
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._weights: list | None = None

    def _lend(self):
        if self._weights is not None:
            return
        averaging = [o for o in leaf_optimizers(self.model.optimizer) if o.use_ema]
        if not averaging:
            raise ValueError(
                "SwapEMAWeights needs an optimizer that averages the weights (use_ema=True, or "
                "swa_start=... of this package). "
                f"Received: model {self.model.name!r} with optimizer {self.model.optimizer!r}"
            )
        self._weights = lend_averages(averaging)

    def _put_back(self):
        for variable, value in self._weights or ():
            variable.assign(value)
        self._weights = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: put the weights back."""
        self._put_back()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: lend the averages, if asked to."""
        if self.swap_on_epoch:
            self._lend()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Keras's hook: let go of the weights, as `fit` ends with the averages in the model."""
        self._weights = None

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Keras's hook: lend the averages."""
        self._lend()

    def on_test_end(self, logs: dict | None = None) -> None:
        """Keras's hook: put the weights back."""
        self._put_back()

    def on_predict_begin(self, logs: dict | None = None) -> None:
        """Keras's hook: lend the averages."""
        self._lend()

    def on_predict_end(self, logs: dict | None = None) -> None:
        """Keras's hook: put the weights back."""
        self._put_back()
