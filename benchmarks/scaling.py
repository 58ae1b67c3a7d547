"""Work out what many workers cost, from what one and two of them cost here.

    python benchmarks/scaling.py [--steps 100]

Two processes with a core each, joined by `MultiWorkerMirroredStrategy` over 127.0.0.1, measure the
seconds of a training step and of an all-reduce of n bytes. A line through the latter,
latency + n / bandwidth, is what two workers exchange; the step of one worker and that line predict
the step of two, which is measured beside it. The last table is docs/scaling.md's: the same model
for more workers and other networks.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

# Name -> (inputs, width, hidden layers, classes, batch of a worker).
NETWORKS = {
    "1x128": (64, 128, 1, 10, 32),
    "4x512": (512, 512, 4, 10, 128),
    "4x1024": (1024, 1024, 4, 10, 128),
}
SIZES = [4096 * 2**i for i in range(13)]  # bytes, up to 16 MiB
MICRO_STEPS = (1, 4, 16)
# Name -> (latency of a message in seconds, bytes a second), as their makers give them.
LINKS = {"10 Gbit/s Ethernet": (50e-6, 1.25e9), "200 Gbit/s InfiniBand": (2e-6, 25e9)}


def all_reduce_seconds(size, workers, latency, bandwidth):
    """Seconds of a ring all-reduce of `size` bytes: 2 (W - 1) messages of size / W bytes each."""
    return 2 * (workers - 1) * (latency + size / workers / bandwidth)


def measure(steps, path):
    """Be one of the workers of TF_CONFIG; write what was measured, unless the path is empty."""
    import keras
    import tensorflow as tf

    from keras_bp.layers import Dense
    from keras_bp.losses import SparseCategoricalCrossentropy
    from keras_bp.optimizers import Adam

    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    def median(call, number):
        times = []
        for _ in range(number + 5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return float(np.median(times[5:]))

    measured = {"steps": {}, "bytes": {}, "all_reduce": []}
    for name, (inputs, width, depth, classes, batch) in NETWORKS.items():
        keras.utils.set_random_seed(0)
        with strategy.scope():
            hidden = [Dense(width, "relu") for _ in range(depth)]
            model = keras.Sequential([keras.Input((inputs,)), *hidden, Dense(classes)])
            optimizer = Adam(1e-4)
            optimizer.build(model.trainable_variables)
        loss_function = SparseCategoricalCrossentropy(from_logits=True)
        x = tf.random.normal((batch, inputs))
        y = tf.random.uniform((batch,), maxval=classes, dtype=tf.int32)

        def on_replica(model=model, optimizer=optimizer, loss_function=loss_function, x=x, y=y):
            with tf.GradientTape() as tape:
                loss = loss_function(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            return loss

        step = tf.function(lambda f=on_replica: strategy.run(f))
        measured["steps"][name] = median(step, steps)
        measured["bytes"][name] = 4 * model.count_params()

    for size in SIZES if strategy.num_replicas_in_sync > 1 else []:
        values = tf.zeros((size // 4,))

        def summed(values=values):
            return tf.distribute.get_replica_context().all_reduce("SUM", values)

        call = tf.function(lambda f=summed: strategy.run(f))
        measured["all_reduce"].append((size, median(call, steps)))
    if path:
        pathlib.Path(path).write_text(json.dumps(measured))


def measured_by(joined, options):
    """Start two workers with a core each; return what the first of them has measured.

    Where they are not joined, each is a cluster of its own and both run at the same time: what they
    share of the machine is then no difference between one worker and two.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, processes = f"{folder}/measured.json", []
        addresses = free_addresses(2)
        for index, core in enumerate(sorted(os.sched_getaffinity(0))[:2]):
            cluster = addresses if joined else addresses[index : index + 1]
            task = {"type": "worker", "index": index if joined else 0}
            settings = json.dumps({"cluster": {"worker": cluster}, "task": task})
            command = [sys.executable, __file__, "--steps", str(options.steps), "--worker"]
            command += [path if index == 0 else "", "--core", str(core)]
            environment = {**os.environ, "TF_CONFIG": settings}
            processes.append(subprocess.Popen(command, env=environment))
        try:
            if any(process.wait(600) for process in processes):
                sys.exit("a worker failed; its error is above")
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return json.loads(pathlib.Path(path).read_text())


def free_addresses(number):
    """Return addresses of this machine whose ports are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for free in sockets:
        free.close()
    return addresses


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100, help="steps that are measured")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        os.sched_setaffinity(0, {options.core})
        return measure(options.steps, options.worker)

    one, two = measured_by(False, options), measured_by(True, options)
    size, seconds = np.array(two["all_reduce"]).T
    # Relative errors count: the sizes reach over three orders of magnitude.
    fit = np.polyfit(size, seconds, 1, w=1 / seconds)
    latency, bandwidth = max(fit[1], 0.0) / 2, 1 / fit[0]
    print("all-reduce between two workers   " + f"{'bytes':>10} {'seconds':>10} {'the line':>10}")
    for n, measured in zip(size, seconds, strict=True):
        line = all_reduce_seconds(n, 2, latency, bandwidth)
        print(f"{'':33}{n:10.0f} {measured:10.2e} {line:10.2e}")
    print(f"latency of a message {latency:.1e} s, bandwidth {bandwidth:.2e} bytes/s\n")

    print(f"{'network':8} {'gradients':>10} {'one':>9} {'two':>9} {'predicted':>9}  seconds a step")
    for name, alone in one["steps"].items():
        n = one["bytes"][name]
        predicted = alone + all_reduce_seconds(n, 2, latency, bandwidth)
        print(f"{name:8} {n:10} {alone:9.5f} {two['steps'][name]:9.5f} {predicted:9.5f}")

    name = "4x512"
    alone, n = one["steps"][name], one["bytes"][name]
    print(f"\n{name}: share of the time not spent on all-reduces, with one for k batches")
    columns = "".join(f"{f'k={k}':>8}" for k in MICRO_STEPS)
    print(f"{'link':22} {'workers':>7} {'batch, k=1':>10} {columns}")
    for link, costs in {"measured here": (latency, bandwidth), **LINKS}.items():
        for workers in (2, 4, 16, 64, 256, 1024):
            reduce = all_reduce_seconds(n, workers, *costs)
            shares = "".join(f"{k * alone / (k * alone + reduce):8.1%}" for k in MICRO_STEPS)
            print(f"{link:22} {workers:7} {workers * NETWORKS[name][-1]:10} {shares}")


if __name__ == "__main__":
    main()
