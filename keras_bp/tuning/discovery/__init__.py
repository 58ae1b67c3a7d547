"""Schedules that are predicted from the first steps of a training.

`Probe` plans these steps and records their measurements, `features` turns these into numbers
without units, `MetaLearner` predicts from them how each schedule ends, and `discover` chooses.
In `fit`, `keras_bp.callbacks.DiscoveredSchedule` does all of it.

The coefficients come from cheap trainings: `python -m tools.discovery.train` in the repository.
"""

from keras_bp.tuning.discovery.discover import (
    PEAKS,
    SHAPES,
    Discovery,
    MetaLearner,
    discover,
    make_schedule,
    products,
    warmup_steps,
)
from keras_bp.tuning.discovery.probe import (
    NAMES,
    ORTHOGONAL,
    SEEN,
    Probe,
    features,
    lag,
    reference_rate,
)

__all__ = [
    "NAMES",
    "ORTHOGONAL",
    "PEAKS",
    "SEEN",
    "SHAPES",
    "Discovery",
    "MetaLearner",
    "Probe",
    "discover",
    "features",
    "lag",
    "make_schedule",
    "products",
    "reference_rate",
    "warmup_steps",
]
