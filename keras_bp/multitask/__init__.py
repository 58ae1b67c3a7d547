"""Several tasks on shared weights: combining their gradients into one step."""

from keras_bp.multitask.combiner import Combiner
from keras_bp.multitask.loss_weightings import GradNorm, LossWeighting, UncertaintyWeighting
from keras_bp.multitask.model import MultiTaskModel
from keras_bp.multitask.rules import (
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
