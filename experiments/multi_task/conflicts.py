"""How two tasks' gradients compare in each layer, epoch by epoch, from GradientConflict's file."""

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

COSINE, SIMILARITY = "gradient_cosine/", "gradient_magnitude_similarity/"


def read(log_dir, epochs):
    """Return what a training wrote.

    Returns:
        A list of dictionaries, one for each layer and pair of tasks, with "layer" and "pair" and,
        as lists with an entry for each epoch, "cosine": the mean; "conflicting": the share of
        steps with a cosine below 0; "ratio": the geometric mean of the longer gradient's length
        over the shorter one's; and "steps": how many had a cosine.
    """
    events = EventAccumulator(str(log_dir), size_guidance={"tensors": 0}).Reload()
    rows = []
    for tag in events.Tags()["tensors"]:
        if tag.startswith(COSINE):
            place = tag.removeprefix(COSINE)
            layer, _, pair = place.rpartition("/")
            cosines = _by_epoch(events.Tensors(tag), epochs)
            ratios = _by_epoch(events.Tensors(SIMILARITY + place), epochs)
            rows.append(
                {
                    "layer": layer,
                    "pair": pair,
                    "cosine": [float(np.mean(part)) for part in cosines],
                    "conflicting": [float(np.mean(part < 0.0)) for part in cosines],
                    "steps": [len(part) for part in cosines],
                    "ratio": [float(np.exp(np.mean(np.log(ratio(part))))) for part in ratios],
                }
            )
    return rows


def ratio(similarity):
    """Return r = a / b of two lengths a >= b from their similarity 2ab / (a^2 + b^2)."""
    similarity = np.clip(similarity, 1e-12, 1.0)
    return (1.0 + np.sqrt(1.0 - similarity**2)) / similarity


def _by_epoch(points, epochs):
    """Split a scalar's values, in the order of their steps, into epochs of equal length."""
    values = {p.step: tf.make_ndarray(p.tensor_proto).item() for p in points}
    return np.array_split([values[step] for step in sorted(values)], epochs)
