"""Exactly Adam for embeddings, at the cost of the batch's rows: a layer and its optimizer.

`DeferredAdam` skips the rows that are not in the batch, and `DeferredEmbedding` reads each row as
Adam would have left it. `rows.py` is the state that the two share.
"""

# Both rooms offer this room's classes too. They come first, so that whichever of the three is
# imported first finds the bases complete.
from keras_bp import layers, optimizers  # noqa: F401

# isort: split
from keras_bp.deferred.embedding import DeferredEmbedding
from keras_bp.deferred.optimizer import DeferredAdam

__all__ = ["DeferredAdam", "DeferredEmbedding"]
