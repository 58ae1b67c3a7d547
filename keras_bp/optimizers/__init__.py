"""Optimizers for Keras models and tapes: correct where Keras's are not, fused, and sparse."""

from keras_bp.optimizers.adadelta import Adadelta
from keras_bp.optimizers.adafactor import Adafactor
from keras_bp.optimizers.adagrad import Adagrad
from keras_bp.optimizers.adam import Adam, AdamW
from keras_bp.optimizers.adamax import Adamax
from keras_bp.optimizers.description import describe
from keras_bp.optimizers.ftrl import Ftrl
from keras_bp.optimizers.lamb import Lamb
from keras_bp.optimizers.lazy_adam import LazyAdam
from keras_bp.optimizers.lion import Lion
from keras_bp.optimizers.muon import Muon
from keras_bp.optimizers.nadam import Nadam
from keras_bp.optimizers.optimizer import Optimizer
from keras_bp.optimizers.prodigy import Prodigy
from keras_bp.optimizers.rmsprop import RMSprop
from keras_bp.optimizers.schedule_free import (
    ScheduleFreeAdamW,
    ScheduleFreeRAdam,
    ScheduleFreeSGD,
)
from keras_bp.optimizers.self_tuning import DoG, HypergradientAdam
from keras_bp.optimizers.sgd import SGD, Momentum, Nesterov

# isort: split
# Features that have their own room are found here too.
from keras_bp.deferred.optimizer import DeferredAdam

__all__ = [
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "DeferredAdam",
    "DoG",
    "Ftrl",
    "HypergradientAdam",
    "Lamb",
    "LazyAdam",
    "Lion",
    "Momentum",
    "Muon",
    "Nadam",
    "Nesterov",
    "Optimizer",
    "Prodigy",
    "RMSprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "describe",
]
