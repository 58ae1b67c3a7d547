"""What test_two_workers.py runs as each of two workers: python two_workers.py FOLDER CASE..."""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from distribution_cases import by_loop, sgd, small

from keras_bp.workers import check_same, multi_worker_strategy

folder, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
strategy = multi_worker_strategy(seconds=60)
index = strategy.cluster_resolver.task_id
# They agree on the batch size, and have another layer's width.
layer = keras.layers.Dense([6, 8][index], name="hidden")
variables = [f"{v.path} {v.shape}" for v in keras.Sequential([keras.Input((4,)), layer]).variables]
report = []
for facts in ({"batch_size": 64}, {"batch_size": 64, "variables": variables}):
    try:
        check_same(strategy, **facts)
        report.append("the same")
    except ValueError as error:
        report.append(str(error))
(folder / f"report{index}").write_text("\n".join(report))
for name in names:
    losses, weights, _ = by_loop(strategy, small, sgd(name))
    if index == 0:
        np.savez(folder / f"{name}.npz", *weights, losses=losses)
# Neither leaves before the other has what it waits for.
strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.constant(1.0)))
