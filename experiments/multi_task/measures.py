"""How good predictions are, as on NYUv2, and how much better than others."""

import numpy as np

# Whether more is better, for each measure of each task.
MEASURES = {
    "segmentation": {"miou": True, "pixel_accuracy": True},
    "depth": {"absolute": False, "relative": False},
    "normals": {"mean": False, "median": False, "11": True, "22": True, "30": True},
    "disparity": {"absolute": False, "relative": False},
}

# About what equal weights reach, to choose rates by.
REFERENCE = {
    "segmentation": {"miou": 60.0, "pixel_accuracy": 85.0},
    "depth": {"absolute": 0.75, "relative": 17.0},
    "normals": {"mean": 17.0, "median": 6.5, "11": 65.0, "22": 75.0, "30": 80.0},
    "disparity": {"absolute": 0.047, "relative": 18.5},
}


def measure(task, predicted, wanted):
    """Return a dictionary of a task's measures: percent, metres and degrees.

    Args:
        task: key of `MEASURES`.
        predicted: array (n, height, width, channels), the network's output.
        wanted: array of labels.
    """
    if task == "segmentation":
        found, classes = predicted.argmax(-1), range(predicted.shape[-1])
        shares = [
            np.sum((found == c) & (wanted == c)) / np.sum((found == c) | (wanted == c))
            for c in classes
            if np.any(wanted == c)
        ]
        return {
            "miou": 100.0 * float(np.mean(shares)),
            "pixel_accuracy": 100.0 * float(np.mean(found == wanted)),
        }
    if task == "normals":
        unit = predicted / np.maximum(np.linalg.norm(predicted, axis=-1, keepdims=True), 1e-12)
        cosines = np.clip(np.sum(unit * wanted, axis=-1, dtype="float64"), -1.0, 1.0)
        angles = np.degrees(np.arccos(cosines))
        within = {f"{int(x)}": 100.0 * float(np.mean(angles < x)) for x in (11.25, 22.5, 30.0)}
        return {"mean": float(angles.mean()), "median": float(np.median(angles)), **within}
    error = np.abs(predicted - wanted)
    return {
        "absolute": float(np.mean(error)),
        "relative": 100.0 * float(np.mean(error / wanted)),
    }


def improvement(found, base):
    """Return LibMTL's Delta_p in percent: above 0 where `found` is better than `base`.

    The relative change of each measure, with the sign that makes better positive, is averaged over
    a task's measures, and then over the tasks.

    Args:
        found: dictionary by task of dictionaries of measures.
        base: such a dictionary.
    """
    tasks = []
    for task, measures in found.items():
        changes = [
            (1.0 if MEASURES[task][name] else -1.0) * (value - base[task][name]) / base[task][name]
            for name, value in measures.items()
        ]
        tasks.append(np.mean(changes))
    return 100.0 * float(np.mean(tasks))


def mean_of(runs):
    """Return the mean of several runs' measures, by task and name."""
    return {
        task: {name: float(np.mean([run[task][name] for run in runs])) for name in measures}
        for task, measures in runs[0].items()
    }
