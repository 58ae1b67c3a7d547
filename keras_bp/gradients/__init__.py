"""Functions over gradients, dense or sparse, before an optimizer's rule sees them."""

from keras_bp.gradients.clip import clip
from keras_bp.gradients.deduplicate import deduplicate
from keras_bp.gradients.global_norm import global_norm
from keras_bp.gradients.squared_norm import squared_norm
from keras_bp.gradients.sum_over_replicas import sum_over_replicas

__all__ = ["clip", "deduplicate", "global_norm", "squared_norm", "sum_over_replicas"]
