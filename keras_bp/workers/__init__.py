"""Training over several workers: they find one another, or say what is wrong, before it begins."""

from keras_bp.workers.check_same import check_same
from keras_bp.workers.multi_worker_strategy import multi_worker_strategy

__all__ = ["check_same", "multi_worker_strategy"]
