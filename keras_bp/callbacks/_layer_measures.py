"""What is measured of each layer now and then, and not in every step."""

import numpy as np

from keras_bp.callbacks._alignment_recorder import AlignmentRecorder
from keras_bp.feedback import Alignment


def measured_kinds(recorder):
    """Return the beginnings of the tags that `layer_measures` returns."""
    kinds = ("update_ratio", "weight_norm")
    aligned = isinstance(recorder, AlignmentRecorder)
    return (*kinds, "alignment_angle", "sign_concordance") if aligned else kinds


def layer_measures(norms, layer_of_variable, recorder, steps, chosen):
    """Return tags and values of what was measured over some steps.

    Args:
        norms: norms of the layers, one after the other: of the update, of the weights before it
            and after it.
        layer_of_variable: array, the number of each variable's layer.
        recorder: the `StepRecorder`.
        steps: the number of update steps in the update.
        chosen: dictionary, number of a layer -> its path.
    """
    update, before, after = norms
    with np.errstate(divide="ignore", invalid="ignore"):
        values = [update / before / steps, after]
    sums = recorder.alignment_sums() if isinstance(recorder, AlignmentRecorder) else None
    if sums is not None:
        layers = range(len(after))
        rows = [Alignment.of_sums(sums[layer_of_variable == layer]) for layer in layers]
        values += zip(*rows, strict=True)
    kinds = measured_kinds(recorder)[: len(values)]
    tags = tuple(f"{kind}/{path}" for kind in kinds for path in chosen.values())
    return tags, [row[layer] for row in map(np.asarray, values) for layer in chosen]
