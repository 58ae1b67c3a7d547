"""Several tasks on shared weights: how their gradients become one step."""

from keras_bp.multitask.aligned_mtl import AlignedMTL
from keras_bp.multitask.blockwise_upgrad import BlockwiseUPGrad
from keras_bp.multitask.cagrad import CAGrad
from keras_bp.multitask.combiner import Combiner
from keras_bp.multitask.gradnorm import GradNorm
from keras_bp.multitask.imtlg import IMTLG
from keras_bp.multitask.mean import Mean
from keras_bp.multitask.mgda import MGDA
from keras_bp.multitask.multi_task_model import MultiTaskModel
from keras_bp.multitask.pcgrad import PCGrad
from keras_bp.multitask.sum import Sum
from keras_bp.multitask.uncertainty_weighting import UncertaintyWeighting
from keras_bp.multitask.upgrad import UPGrad

__all__ = [
    "IMTLG",
    "MGDA",
    "AlignedMTL",
    "BlockwiseUPGrad",
    "CAGrad",
    "Combiner",
    "GradNorm",
    "Mean",
    "MultiTaskModel",
    "PCGrad",
    "Sum",
    "UPGrad",
    "UncertaintyWeighting",
]
