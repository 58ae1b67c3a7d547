"""Several tasks on shared weights: combining their gradients into one step."""

from keras_bp.multitask.combiner import Combiner
from keras_bp.multitask.combiners import (
    IMTLG,
    MGDA,
    AlignedMTL,
    BlockwiseUPGrad,
    CAGrad,
    Mean,
    PCGrad,
    Sum,
    UPGrad,
)
from keras_bp.multitask.loss_weightings import GradNorm, LossWeighting, UncertaintyWeighting
from keras_bp.multitask.model import MultiTaskModel

__all__ = [
    "IMTLG",
    "MGDA",
    "AlignedMTL",
    "BlockwiseUPGrad",
    "CAGrad",
    "Combiner",
    "GradNorm",
    "LossWeighting",
    "Mean",
    "MultiTaskModel",
    "PCGrad",
    "Sum",
    "UPGrad",
    "UncertaintyWeighting",
]
