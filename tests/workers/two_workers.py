"""What test_fit_over_workers.py runs as each of two workers: python two_workers.py FOLDER CASES...

The last of the cases is how one of them dies.
"""

import json
import os
import pathlib
import runpy
import signal
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from fit_cases import BATCH, FORMS, X, Y, compiled, numbers, refused

from keras_bp import workers

folder, *cases = sys.argv[1:]
folder = pathlib.Path(folder)
strategy = workers.multi_worker_strategy(seconds=60)
index = strategy.cluster_resolver.task_id
if "fit" in cases:
    for form in FORMS:
        np.savez(folder / f"{form.__name__}{index}.npz", *numbers(form(strategy)))
    errors = {}
    for name, commit in refused(strategy, index):
        try:
            commit()
        except (ValueError, tf.errors.OpError) as error:
            errors[name] = f"{type(error).__name__}: {error}"
    (folder / f"errors{index}.json").write_text(json.dumps(errors))

    # The loop of the documentation. A process has one such strategy.
    workers.multi_worker_strategy = lambda seconds: strategy
    sys.argv = ["workers_loop.py", str(folder / "loop")]
    runpy.run_path(str(pathlib.Path(__file__).parents[2] / "docs" / "workers_loop.py"))

ways = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "terminated": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "raises": lambda: 1 / 0,
    "ends": lambda: sys.exit(0),
}
way, victim = cases[-1].split(":")


def at_step(step, logs=None):
    if step == 5:
        (folder / f"reached{index}").write_text(str(time.time()))
        if index == int(victim):
            ways[way]()


def loop():
    @tf.function
    def step():
        replica = tf.distribute.get_replica_context
        strategy.run(lambda: replica().all_reduce("SUM", tf.identity(1.0)))

    for number in range(10**6):
        step()
        at_step(number)


if way == "ends":
    loop()
data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH).repeat(10**6)
callback = keras.callbacks.LambdaCallback(on_train_batch_end=at_step)
compiled(strategy).fit(data, verbose=0, callbacks=[callback])
