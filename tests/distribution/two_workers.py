"""What test_two_workers.py runs as each of two workers: python two_workers.py FOLDER CASE..."""

import pathlib
import sys

import numpy as np
from distribution_cases import by_loop, sgd, small

from keras_bp.workers import multi_worker_strategy

folder, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
strategy = multi_worker_strategy(seconds=60)
for name in names:
    losses, weights, _ = by_loop(strategy, small, sgd(name))
    if strategy.cluster_resolver.task_id == 0:
        np.savez(folder / f"{name}.npz", *weights, losses=losses)
