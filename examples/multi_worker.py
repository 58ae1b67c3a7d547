"""Training over several workers, which goes on where any of them was killed.

`python examples/multi_worker.py` starts two workers on this machine, and all again if one dies; on
a cluster, start it on each machine with TF_CONFIG set and a --directory that all of them share. The
workers train by `model.fit`. The first one writes the gradients for TensorBoard, and all save every
few batches, and go on from there.
"""

import argparse
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

GLOBAL_BATCH = 64


def train(options):
    """Train as one of the workers that TF_CONFIG names."""
    import keras
    from sklearn.datasets import load_digits

    from keras_bp.callbacks import GradientMonitor, ResumableTraining
    from keras_bp.layers import BatchNormalization, Dense, Dropout
    from keras_bp.losses import SparseCategoricalCrossentropy
    from keras_bp.optimizers import AdamW
    from keras_bp.schedules import WarmupCosine
    from keras_bp.workers import multi_worker_strategy

    # Before anything else: the workers find one another here, or give up.
    strategy = multi_worker_strategy(options.connect_seconds)
    chief = strategy.cluster_resolver.task_id == 0
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    steps = len(x) // GLOBAL_BATCH
    x, y = x[: steps * GLOBAL_BATCH], y[: steps * GLOBAL_BATCH]

    with strategy.scope():
        model = keras.Sequential([keras.Input((64,)), Dense(128, "relu", name="hidden")])
        model.add(BatchNormalization(synchronized=True, name="norm"))
        model.add(Dropout(0.2, name="dropout"))
        model.add(Dense(10, name="logits"))
        rate = WarmupCosine(3e-3, options.epochs * steps, steps)
        loss = SparseCategoricalCrossentropy(from_logits=True)
        model.compile(AdamW(rate, global_clipnorm=1.0), loss, metrics=["accuracy"])
    callbacks = [
        GradientMonitor(options.directory / "logs"),
        ResumableTraining(options.directory / "checkpoints", save_freq=options.save_every),
    ]
    verbose = 2 if chief else 0
    model.fit(x, y, GLOBAL_BATCH, options.epochs, verbose=verbose, callbacks=callbacks)
    accuracy = model.evaluate(x, y, GLOBAL_BATCH, verbose=0, return_dict=True)["accuracy"]
    if chief:
        print(f"training accuracy: {accuracy:.2%} of {len(x)} digits")
        model.save(options.directory / "model.keras")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="processes to start here")
    parser.add_argument("--restarts", type=int, default=3, help="after one of them died")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the digits")
    parser.add_argument("--save-every", type=int, default=10, help="batches between checkpoints")
    parser.add_argument("--directory", type=pathlib.Path, default="tb_logs/multi_worker")
    parser.add_argument(
        "--connect-seconds", type=float, default=60, help="how long the others may take to come up"
    )
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {options.epochs}")
    if "TF_CONFIG" in os.environ:
        return train(options)
    launcher = [sys.executable, "-m", "keras_bp.workers", "--workers", str(options.workers)]
    launcher += ["--restarts", str(options.restarts), __file__]
    own = sys.argv[1:] if arguments is None else arguments
    sys.exit(subprocess.run([*launcher, *own]).returncode)


if __name__ == "__main__":
    main()
