"""The workshop of discovered schedules, whose coefficients `keras_bp.tuning.discovery` comes with.

`make_task` of `FAMILIES` makes cheap trainings, `simulation` trains them at many schedules side by
side, and `python -m tools.discovery.train`, from the root of the repository, learns from them how
the features of a probe predict the best schedule.
"""

from tools.discovery.simulation import HAND_TUNED, schedules, shape
from tools.discovery.tasks import FAMILIES, HELD_OUT, make_task

__all__ = ["FAMILIES", "HAND_TUNED", "HELD_OUT", "make_task", "schedules", "shape"]
