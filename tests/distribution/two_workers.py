"""What test_two_workers.py runs as each of two workers: python two_workers.py FOLDER CASE...

The case `example` is examples/multi_worker.py.
"""

import pathlib
import runpy
import sys

import keras
import numpy as np
import tensorflow as tf
from distribution_cases import BATCH, LABELS, X, by_fit, by_loop, sgd, small

from keras_bp import workers
from keras_bp.callbacks import GradientMonitor, ResumableTraining, TrainingHealth

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "multi_worker.py"

folder, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
strategy = workers.multi_worker_strategy(seconds=60)
index = strategy.cluster_resolver.task_id
# They agree on the batch size, and have another layer's width.
layer = keras.layers.Dense([6, 8][index], name="hidden")
variables = [f"{v.path} {v.shape}" for v in keras.Sequential([keras.Input((4,)), layer]).variables]
report = []
for facts in ({"batch_size": 64}, {"batch_size": 64, "variables": variables}):
    try:
        workers.check_same(strategy, **facts)
        report.append("the same")
    except ValueError as error:
        report.append(str(error))
(folder / f"report{index}").write_text("\n".join(report))
for name in names:
    if name == "example":
        # A process has one such strategy.
        workers.multi_worker_strategy = lambda seconds: strategy
        options = ["--epochs", "2", "--save-every", "28", "--directory", str(folder / name)]
        runpy.run_path(str(EXAMPLE))["main"](options)
        continue
    if name == "fit":
        # Every worker has the callback, and one writes.
        callbacks = [GradientMonitor(folder / "fit_logs"), TrainingHealth()]
        losses, weights, model = by_fit(strategy, small, sgd("all"), callbacks=callbacks)
        more = {
            "predicted": model.predict(X, batch_size=BATCH, verbose=0),
            "evaluated": model.evaluate(X, LABELS, batch_size=BATCH, verbose=0),
        }
        np.savez(folder / f"fit{index}.npz", *weights, losses=losses, **more)
        try:
            model.fit(X, LABELS, verbose=0, callbacks=[ResumableTraining(folder / "checkpoints")])
        except ValueError as error:
            (folder / f"refused{index}").write_text(str(error))
        continue
    losses, weights, _ = by_loop(strategy, small, sgd(name))
    if index == 0:
        np.savez(folder / f"{name}.npz", *weights, losses=losses)
# Neither leaves before the other has what it waits for.
strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.constant(1.0)))
