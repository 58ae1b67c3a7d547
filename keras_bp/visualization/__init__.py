"""Pictures of backpropagation, schedules, optimizers and gradients, with Matplotlib, an extra.

Matplotlib is imported when something is drawn: `pip install keras_bp[examples]`.
"""

from keras_bp.visualization.compare_optimizers import compare_optimizers
from keras_bp.visualization.optimizer_comparison import OptimizerComparison
from keras_bp.visualization.plot_backprop import plot_backprop
from keras_bp.visualization.plot_gradient_conflict import plot_gradient_conflict
from keras_bp.visualization.plot_gradient_flow import plot_gradient_flow
from keras_bp.visualization.plot_schedules import plot_schedules
from keras_bp.visualization.train_with_schedules import train_with_schedules

__all__ = [
    "OptimizerComparison",
    "compare_optimizers",
    "plot_backprop",
    "plot_gradient_conflict",
    "plot_gradient_flow",
    "plot_schedules",
    "train_with_schedules",
]
