"""Training over several workers: find each other, or report what is wrong, first."""

from keras_bp.workers.check_same import check_same, gather
from keras_bp.workers.multi_worker_strategy import multi_worker_strategy

__all__ = ["check_same", "gather", "multi_worker_strategy"]
