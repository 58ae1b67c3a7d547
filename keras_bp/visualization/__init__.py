"""Pictures of backpropagation, schedules, optimizers and gradients, with Matplotlib, an extra.

Matplotlib is imported when something is drawn: `pip install matplotlib`. `backprop_page`, for a
browser, needs none.
"""

from keras_bp.visualization.backprop import plot_backprop
from keras_bp.visualization.backprop_page import backprop_page
from keras_bp.visualization.computation_graph import (
    ComputationGraph,
    plot_computation_graph,
    trace_computation_graph,
)
from keras_bp.visualization.gradients import plot_gradient_conflict, plot_gradient_flow
from keras_bp.visualization.optimizers import OptimizerComparison, compare_optimizers
from keras_bp.visualization.paths import plot_batch_sizes, plot_paths
from keras_bp.visualization.schedules import plot_schedules, train_with_schedules

__all__ = [
    "ComputationGraph",
    "OptimizerComparison",
    "backprop_page",
    "compare_optimizers",
    "plot_backprop",
    "plot_batch_sizes",
    "plot_computation_graph",
    "plot_gradient_conflict",
    "plot_gradient_flow",
    "plot_paths",
    "plot_schedules",
    "trace_computation_graph",
    "train_with_schedules",
]
