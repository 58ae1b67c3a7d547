"""How two tasks' gradients compare in each layer, epoch by epoch, from GradientConflict's file."""

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

COSINE, SIMILARITY = "gradient_cosine/", "gradient_magnitude_similarity/"


def read(log_dir, epochs, steps):
    """Return what a training of so many epochs and steps wrote.

    Returns:
        A list of dictionaries, one for each layer and pair of tasks, with "layer" and "pair" and,
        as lists with an entry for each epoch, "cosine": the mean; "conflicting": the share of
        steps with a cosine below 0; "ratio": the geometric mean of the longer gradient's length
        over the shorter one's; and "steps": how many had a cosine. An epoch with none has NaN.
    """
    events = EventAccumulator(str(log_dir), size_guidance={"tensors": 0}).Reload()
    rows = []
    for tag in events.Tags()["tensors"]:
        if tag.startswith(COSINE):
            place = tag.removeprefix(COSINE)
            layer, _, pair = place.rpartition("/")
            cosines = _by_epoch(events.Tensors(tag), epochs, steps)
            ratios = _by_epoch(events.Tensors(SIMILARITY + place), epochs, steps)
            rows.append(
                {
                    "layer": layer,
                    "pair": pair,
                    "cosine": [_mean(part) for part in cosines],
                    "conflicting": [_mean(part < 0.0) for part in cosines],
                    "steps": [len(part) for part in cosines],
                    "ratio": [float(np.exp(_mean(np.log(ratio(part))))) for part in ratios],
                }
            )
    return rows


def ratio(similarity):
    """Return r = a / b of two lengths a >= b from their similarity 2ab / (a^2 + b^2)."""
    similarity = np.clip(similarity, 1e-12, 1.0)
    return (1.0 + np.sqrt(1.0 - similarity**2)) / similarity


def _by_epoch(points, epochs, steps):
    """Return an array of a scalar's values for each epoch; its steps are 1 to `steps`."""
    values = {p.step: tf.make_ndarray(p.tensor_proto).item() for p in points}
    parts = np.array_split(np.arange(1, steps + 1), epochs)
    return [np.array([values[step] for step in part if step in values]) for part in parts]


def _mean(values):
    return float(np.mean(values)) if len(values) else np.nan
