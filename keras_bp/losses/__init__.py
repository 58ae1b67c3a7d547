"""Keras losses on the package's ops, with the closed-form gradient `dZ = A - Y`.

Over the replicas of a `tf.distribute` strategy `fit` takes the mean of the replicas' means, as
Keras does. Where their shares of a batch are not equal, in an epoch's last batch perhaps, that is
not the mean over the batch: drop the remainder, or take `reduction="sum"`, which is a sum over the
global batch. A loop of one's own divides such a sum by the global batch's size.
"""

from keras_bp.losses.crossentropy import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)

__all__ = ["BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"]
