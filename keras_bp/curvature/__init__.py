"""Noise and curvature of a training: gradient noise scale, critical rate, Hessian eigenvalue.

Three numbers that tell whether batch size and learning rate fit the loss:

- `gradient_noise_scale`: the batch size at which noise and signal of the gradient are equal;
- `critical_learning_rate` and `critical_sharpness`: the rate from which on an update raises the
  loss of its own batch, found by a few forward passes;
- `largest_hessian_eigenvalue`: the curvature of the steepest direction, by power iteration.

`GradientMonitor` measures them in `fit`, and `TrainingHealth` gives advice.
"""

from keras_bp.curvature.hessian import HessianEigenvalue, largest_hessian_eigenvalue
from keras_bp.curvature.hessian import PowerIteration as PowerIteration
from keras_bp.curvature.loss_surface import LossSurface as LossSurface
from keras_bp.curvature.noise import (
    NoiseScale,
    gradient_noise_scale,
    noise_and_signal,
    noise_scale_of,
)
from keras_bp.curvature.noise import part_estimates as part_estimates
from keras_bp.curvature.sharpness import RateSearch as RateSearch
from keras_bp.curvature.sharpness import critical_learning_rate, critical_sharpness

__all__ = [
    "HessianEigenvalue",
    "NoiseScale",
    "critical_learning_rate",
    "critical_sharpness",
    "gradient_noise_scale",
    "largest_hessian_eigenvalue",
    "noise_and_signal",
    "noise_scale_of",
]
