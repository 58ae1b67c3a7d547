"""A training loop over several workers, which goes on where any of them was killed.

`python examples/multi_worker.py` starts two workers on this machine; on a cluster, start it on each
machine with TF_CONFIG set and a --directory that all of them share. `model.fit` works over several
workers too, but does not go on after a kill there, and so this is the loop: it takes Keras's
callbacks, which the chief alone calls, records the gradients with GradientMonitor, saves every few
steps with `tf.train.CheckpointManager`, and continues from the newest checkpoint. The data are a
function of the epoch: a restart skips the steps that are done. A worker that does not come up, or
that runs other code, is an error at the start.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

GLOBAL_BATCH = 64
SEED = 0


def start_workers(number, arguments, seconds):
    """Run this file in so many processes here; return the first exit status that is not 0."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for free in sockets:
        free.close()
    workers = []
    for index in range(number):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
        command = [sys.executable, __file__, *arguments]
        workers.append(subprocess.Popen(command, env=environment))
    try:
        return next((code for code in [w.wait(seconds) for w in workers] if code), 0)
    finally:  # a worker that lost the others, or the time limit
        for worker in workers:
            worker.kill()
            worker.wait()


def make_model():
    """Return the network: the same first weights in every process."""
    import keras

    from keras_bp.layers import BatchNormalization, Dense, Dropout

    keras.utils.set_random_seed(SEED)
    model = keras.Sequential([keras.Input((64,)), Dense(128, "relu", name="hidden")])
    model.add(BatchNormalization(synchronized=True, name="norm"))
    model.add(Dropout(0.2, seed=SEED, name="dropout"))
    model.add(Dense(10, name="logits"))
    return model


def checkpoints(done, variables, directory):
    """Return the manager of the checkpoints in a directory."""
    import tensorflow as tf

    # The names tell a checkpoint of another model or optimizer.
    values = {f"{place}_{v.path.replace('/', '.')}": v.value for place, v in enumerate(variables)}
    checkpoint = tf.train.Checkpoint(done=done, **values)
    return tf.train.CheckpointManager(checkpoint, directory, max_to_keep=2)


def restore_newest(checkpoint, directory):
    """Load the newest checkpoint that can be read, if there is one."""
    import tensorflow as tf

    state = tf.train.get_checkpoint_state(directory)
    for path in reversed(state.all_model_checkpoint_paths if state else []):
        try:
            reader = tf.train.load_checkpoint(path)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)  # which compares its checksum
        except (tf.errors.OpError, OSError, ValueError, LookupError) as error:
            print(f"{path} cannot be read; the one before it is tried: {error}", flush=True)
            continue
        try:
            return checkpoint.restore(path).assert_consumed()
        except (AssertionError, ValueError) as error:  # other names, other shapes
            raise ValueError(
                "--directory must hold checkpoints of the same model and optimizer. "
                f"Received: {path} ({error})"
            ) from error
    if state:
        raise ValueError(f"--directory holds no checkpoint that can be read. Received: {directory}")


def train(options):
    """Train as one of the workers that TF_CONFIG names."""
    import keras
    import tensorflow as tf
    from sklearn.datasets import load_digits

    from keras_bp.callbacks import GradientMonitor
    from keras_bp.losses import SparseCategoricalCrossentropy
    from keras_bp.optimizers import AdamW
    from keras_bp.schedules import WarmupCosine
    from keras_bp.workers import check_same, multi_worker_strategy

    # Before anything else: the workers find one another here, or give up.
    strategy = multi_worker_strategy(options.connect_seconds)
    workers, index = strategy.num_replicas_in_sync, strategy.cluster_resolver.task_id
    chief = index == 0
    if GLOBAL_BATCH % workers:
        raise ValueError(
            "The global batch must be divisible by the workers. "
            f"Received: {GLOBAL_BATCH} examples, {workers} workers"
        )
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    steps = len(x) // GLOBAL_BATCH
    check_same(
        strategy,
        code=pathlib.Path(__file__).read_text(),
        options=[options.epochs, options.save_every],
        examples=len(x),
        variables=[f"{v.path} {v.shape} {v.dtype}" for v in make_model().variables],
    )

    with strategy.scope():
        model = make_model()
        rate = WarmupCosine(3e-3, options.epochs * steps, steps)
        optimizer = AdamW(rate, global_clipnorm=1.0)
        optimizer.build(model.trainable_variables)
        loss_function = SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
        done = tf.Variable(0, dtype=tf.int64)  # steps
        model.compile(optimizer, loss_function)  # what callbacks look at

    monitor = GradientMonitor(options.directory / "logs")
    monitor.set_model(model)

    def batches(epoch):
        """Return this worker's share of an epoch's batches."""
        data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=epoch)
        data = data.batch(GLOBAL_BATCH, drop_remainder=True)
        return data.map(lambda x, y: (x[index::workers], y[index::workers]))

    @tf.function
    def step(batch):
        def on_replica(x, y):
            with tf.GradientTape() as tape:
                # The mean over the global batch; `apply` sums the workers' gradients.
                loss = loss_function(y, model(x, training=True)) / GLOBAL_BATCH
            gradients = tape.gradient(loss, model.trainable_variables)
            monitor.record(gradients, model.trainable_variables, loss=loss, step=done + 1)
            optimizer.apply(gradients, model.trainable_variables)
            return loss

        loss = strategy.run(on_replica, args=batch)
        done.assign_add(1)
        return strategy.reduce("SUM", loss, axis=None)

    # The chief's checkpoints count; the others write too, since saving may ask all for a value.
    shared = str(options.directory / "checkpoints")
    folder = shared if chief else str(options.directory / f"not_the_chiefs_{index}")
    manager = checkpoints(done, model.variables + optimizer.variables, folder)
    restore_newest(manager.checkpoint, shared)
    check_same(strategy, step_to_continue_from=int(done.numpy()))  # or `directory` is not shared
    if chief and int(done.numpy()):
        print(f"continues after step {int(done.numpy())}", flush=True)

    callbacks = keras.callbacks.CallbackList([monitor] if chief else [], model=model)
    callbacks.on_train_begin()
    for epoch in range(int(done.numpy()) // steps, options.epochs):
        callbacks.on_epoch_begin(epoch)
        losses = []
        first = int(done.numpy()) % steps
        for number, batch in enumerate(batches(epoch).skip(first), first):
            callbacks.on_train_batch_begin(number)
            losses.append(float(step(batch)))
            callbacks.on_train_batch_end(number, {"loss": losses[-1]})
            if int(done.numpy()) % options.save_every == 0:
                manager.save(checkpoint_number=int(done.numpy()))
        logs = {"loss": sum(losses) / len(losses)}
        callbacks.on_epoch_end(epoch, logs)
        if chief:
            print(f"epoch {epoch + 1}/{options.epochs}  loss {logs['loss']:.4f}", flush=True)
    callbacks.on_train_end()
    if chief:
        accuracy = keras.metrics.SparseCategoricalAccuracy()(y, model(x, training=False))
        print(f"training accuracy: {accuracy:.2%} of {len(x)} digits")
        model.save(options.directory / "model.keras")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="processes to start here")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the digits")
    parser.add_argument("--save-every", type=int, default=10, help="steps between checkpoints")
    parser.add_argument("--directory", type=pathlib.Path, default="tb_logs/multi_worker")
    parser.add_argument("--seconds", type=float, default=600, help="time limit of the workers")
    parser.add_argument(
        "--connect-seconds", type=float, default=60, help="how long the others may take to come up"
    )
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {options.epochs}")
    if options.workers < 1:
        parser.error(f"--workers must be at least 1. Received: {options.workers}")
    if "TF_CONFIG" in os.environ:
        return train(options)
    own = ["--epochs", str(options.epochs), "--save-every", str(options.save_every)]
    own += ["--directory", str(options.directory)]
    own += ["--connect-seconds", str(options.connect_seconds)]
    sys.exit(start_workers(options.workers, own, options.seconds))


if __name__ == "__main__":
    main()
