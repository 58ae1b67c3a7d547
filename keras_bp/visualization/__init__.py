"""Pictures of backpropagation, schedules, optimizers and gradients, with Matplotlib, an extra.

Matplotlib is imported when something is drawn: `pip install matplotlib`. `backprop_page`, for a
browser, needs none.
"""

from keras_bp.visualization.backprop import plot_backprop
from keras_bp.visualization.backprop_page import backprop_page
from keras_bp.visualization.gradients import plot_gradient_conflict, plot_gradient_flow
from keras_bp.visualization.optimizers import OptimizerComparison, compare_optimizers
from keras_bp.visualization.schedules import plot_schedules, train_with_schedules

__all__ = [
    "OptimizerComparison",
    "backprop_page",
    "compare_optimizers",
    "plot_backprop",
    "plot_gradient_conflict",
    "plot_gradient_flow",
    "plot_schedules",
    "train_with_schedules",
]
