"""The scalars of an update step, each under its tag."""

import collections

import numpy as np

from keras_bp.callbacks._clipping import clips
from keras_bp.callbacks._layer_outputs import STATISTICS, can_die, can_saturate

_WINDOW = 100


class UpdateScalars:
    """Turns recorded updates into rows of values.

    Args:
        recorder: a `StepRecorder` that has recorded a step.
        layers: dictionary, number of a layer in the norms -> its path.
        outputs: dictionary, number of a layer in the recorder's outputs -> its path.

    Attributes:
        tags: tuple of the tags, in the order of the values.
        recorder: the recorder.
    """

    def __init__(self, recorder, layers, outputs):
        self.recorder = recorder
        self._columns = [*layers, -1]
        self._clips = any(map(clips, recorder.rules))
        self._clipped = collections.deque(maxlen=_WINDOW)
        self._sees_loss = recorder.sees_loss
        self._places = []
        rules = len(recorder.rules)
        tags = [f"gradient_norm/{path}" for path in [*layers.values(), "global"]]
        tags += ["learning_rate"] if rules == 1 else [f"learning_rate/{i}" for i in range(rules)]
        tags += ["gradient_norm_applied/global", "clip_rate"] * self._clips
        for statistic, shows in (("dead", can_die), ("saturated", can_saturate)):
            for i, path in outputs.items():
                if shows(recorder.layers[i]):
                    tags.append(f"{statistic}_units/{path}")
                    self._places.append((i, STATISTICS.index(statistic)))
        # A loss that the train step does not show has no tag.
        self.tags = (*tags, *["loss/batch"] * self._sees_loss)

    def rows(self, updates, norms):
        """Yield the values of each update, from `Updates` and the layers' norms."""
        applied = np.sqrt(updates.applied)
        for row, norm in enumerate(norms):
            # Less by more than the rounding of two sums.
            self._clipped.append(applied[row] < norm[-1] * (1 - 1e-5))
            values = [*norm[self._columns], *updates.rates[row]]
            values += [applied[row], np.mean(self._clipped)] * self._clips
            values += [updates.outputs[row][place] for place in self._places]
            yield values + [updates.losses[row]] * self._sees_loss
