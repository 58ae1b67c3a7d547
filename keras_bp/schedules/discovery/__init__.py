"""Schedules that are predicted from the first steps of a training.

`Probe` plans these steps and records what is seen, `features` makes numbers without units of it,
`MetaLearner` predicts from them how each schedule will end, and `discover` chooses. For `fit` there
is `keras_bp.callbacks.DiscoveredSchedule`.

The coefficients are made by `python -m keras_bp.schedules.discovery.train` from cheap trainings:
`make_task` of `FAMILIES`.
"""

from keras_bp.schedules.discovery.discover import Discovery, discover
from keras_bp.schedules.discovery.features import NAMES, features, lag, reference_rate
from keras_bp.schedules.discovery.grid import HAND_TUNED, SHAPES, make_schedule, schedules, shape
from keras_bp.schedules.discovery.meta_learner import MetaLearner
from keras_bp.schedules.discovery.probe import SEEN, Probe
from keras_bp.schedules.discovery.tasks import FAMILIES, HELD_OUT, make_task

__all__ = [
    "FAMILIES",
    "HAND_TUNED",
    "HELD_OUT",
    "NAMES",
    "SEEN",
    "SHAPES",
    "Discovery",
    "MetaLearner",
    "Probe",
    "discover",
    "features",
    "lag",
    "make_schedule",
    "make_task",
    "reference_rate",
    "schedules",
    "shape",
]
