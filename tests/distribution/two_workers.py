"""What test_two_workers.py runs as each of the workers: python two_workers.py FOLDER CASE...

The case `example` is examples/multi_worker.py.
"""

import pathlib
import pickle
import runpy
import sys

import callback_cases
import keras
import numpy as np
import resume_cases
import tensorflow as tf
from distribution_cases import BATCH, CASES, LABELS, UNEVEN, X, by_fit, by_loop, sgd, small

from keras_bp import workers
from keras_bp.callbacks import (
    GradientMonitor,
    SwapEMAWeights,
    TrainingDashboard,
    TrainingHealth,
)

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "multi_worker.py"

folder, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
strategy = workers.multi_worker_strategy(seconds=60)
index = strategy.cluster_resolver.task_id
# They agree on the batch size, and have another layer's width.
layer = keras.layers.Dense([6, 8][index % 2], name="hidden")
variables = [f"{v.path} {v.shape}" for v in keras.Sequential([keras.Input((4,)), layer]).variables]
report = []
for facts in ({"batch_size": 64}, {"batch_size": 64, "variables": variables}):
    try:
        workers.check_same(strategy, **facts)
        report.append("the same")
    except ValueError as error:
        report.append(str(error))
for name in names:
    if name == "example":
        # A process has one such strategy.
        workers.multi_worker_strategy = lambda seconds: strategy
        options = ["--epochs", "2", "--save-every", "28", "--directory", str(folder / name)]
        runpy.run_path(str(EXAMPLE))["main"](options)
        continue
    if name == "fit":
        # Every worker has our callbacks, and one writes; Keras's that write the first one alone.
        sinks = [folder / f"scalars{index}.csv"]
        monitor = GradientMonitor(folder / "fit_logs", activations=True, sinks=sinks)
        callbacks = [monitor, TrainingHealth()]
        callbacks += [TrainingDashboard(folder / f"dashboard{index}.png"), SwapEMAWeights(True)]
        if index == 0:
            callbacks.append(keras.callbacks.ModelCheckpoint(folder / "saved.keras"))
            callbacks.append(keras.callbacks.CSVLogger(folder / "history.csv"))
        data = X[:UNEVEN], LABELS[:UNEVEN]
        losses, weights, model = by_fit(strategy, small, sgd("all"), *data, callbacks=callbacks)
        more = {
            "predicted": model.predict(X, batch_size=BATCH, verbose=0),
            "evaluated": model.evaluate(X, LABELS, batch_size=BATCH, verbose=0),
        }
        np.savez(folder / f"fit{index}.npz", *weights, losses=losses, **more)
        continue
    if name == "resume":
        (folder / f"resume{index}").write_bytes(
            pickle.dumps(resume_cases.resumed(strategy, folder))
        )
        continue
    if name == "callbacks":
        made = {case.__name__: case(strategy, folder) for case in callback_cases.CASES}
        (folder / f"callbacks{index}").write_bytes(pickle.dumps(made))
        continue
    if name == "loop":
        losses, weights, _ = by_loop(strategy, small, sgd("all"))
    else:
        losses, weights, _ = by_fit(strategy, *CASES[name])
    if index == 0:
        np.savez(folder / f"{name}.npz", *weights, losses=losses)
# A structure, which TensorFlow's strategy takes for a tensor. Neither leaves before the other has
# what it waits for.
values = strategy.run(lambda: {"one": tf.constant(1), "number": (tf.constant(10 + index),)})
report.append(str(tf.nest.map_structure(int, strategy.reduce("SUM", values, axis=None))))
(folder / f"report{index}").write_text("\n".join(report))
