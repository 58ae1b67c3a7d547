"""What test_workers.py runs as two workers: python differing_workers.py FILE."""

import pathlib
import sys

import keras
import tensorflow as tf

from keras_bp.workers import check_same, multi_worker_strategy

strategy = multi_worker_strategy(seconds=60)
index = strategy.cluster_resolver.task_id
width = [6, 8][index]
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(width, name="hidden")])
variables = [f"{v.path} {v.shape}" for v in model.variables]
report = []
for facts in ({"batch_size": 64}, {"batch_size": 64, "variables": variables}):
    try:
        check_same(strategy, **facts)
        report.append("the same")
    except ValueError as error:
        report.append(str(error))
pathlib.Path(f"{sys.argv[1]}{index}").write_text("\n".join(report))
# Neither leaves before the other has what it waits for.
strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.constant(1.0)))
