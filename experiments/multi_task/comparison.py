"""Which combiners differ from equal weights by more than chance explains."""

import numpy as np
from measures import improvement, mean_of
from study import paired_p

ALONE = "one task alone"  # in the place of a setting, for networks of one task
BY_HAND = "Sum, depth x 0.25"  # in the place of a combiner: weights set by hand


def measures_of(results, setting, combiner):
    """Return the measures of each seed."""
    return [result["measures"] for result in results[setting, combiner]]


def alone(results):
    """Return the measures of the networks of one task, joined, for each seed."""
    tasks = [measures_of(results, *kind) for kind in results if kind[0] == ALONE]
    return [{k: v for one in seed for k, v in one.items()} for seed in zip(*tasks, strict=True)]


def differences(results):
    """Return each seed's improvement in percent minus that of equal weights from the same seed.

    Args:
        results: dictionary of the results of each seed, by (setting, combiner).

    Returns:
        Dictionary of arrays, an entry for each seed, by (setting, combiner): of all but the
        networks of one task and equal weights themselves.
    """
    found = {}
    for setting, name in results:
        if setting != ALONE and name != "Sum":
            rivals = measures_of(results, setting, "Sum")
            base = mean_of(rivals)
            pairs = zip(measures_of(results, setting, name), rivals, strict=True)
            found[setting, name] = np.array(
                [improvement(run, base) - improvement(rival, base) for run, rival in pairs]
            )
    return found


def p_values(found):
    """Return p of a paired t test for each entry of `differences`."""
    return {kind: paired_p(values) for kind, values in found.items()}


def holm(p, level=0.05):
    """Return the keys that Holm's procedure rejects.

    The chance that it rejects any true hypothesis is at most `level`, however many there are.

    Args:
        p: dictionary of p values; a NaN rejects nothing.
        level: float in (0, 1).
    """
    rejected = set()
    for place, key in enumerate(sorted(p, key=lambda key: np.nan_to_num(p[key], nan=1.0))):
        if not p[key] <= level / (len(p) - place):
            break
        rejected.add(key)
    return rejected
