"""Large batches over several replicas, and a recurrent network.

Run it with `python examples/large_batch.py`. Two replicas, here two halves of the CPU, accumulate
gradients to an effective batch of 4096 images. First it shows what `synchronized` batch
normalization is for: two replicas then train as one device does. Then Lamb and SGD with large
batches stand beside SGD with small ones, and the two beside each other with 65,536 images in an
update. At last a recurrent network that reads the pixels one by one is trained with its gradients
clipped, over all replicas, at a global norm of 1, and without. It leaves a picture, and a
TensorBoard run of each training, in tb_logs/large_batch.
"""

import contextlib
import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _shared import CommandLine, digits, read_scalars, smooth, tidy
from matplotlib.figure import Figure

from keras_bp.callbacks import GradientMonitor
from keras_bp.layers import BatchNormalization, Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import SGD, Lamb
from keras_bp.schedules import WarmupCosine

IMAGES = 3 * 4096
MICRO_BATCH = 512  # over all replicas; 8 of them make an update of 4096 images
GAIN = 1.3  # of the recurrent weights: what keeps a signal's size is 1
SEED = 0
# Optimizer, peak of the learning rate, images in an update, images in a micro-step.
RUNS = {
    "SGD, 128": (SGD, 0.05, 128, 128),
    "SGD, 4096": (SGD, 0.05, 4096, MICRO_BATCH),
    "SGD, 4096, rate x 32": (SGD, 1.6, 4096, MICRO_BATCH),
    "Lamb, 4096": (Lamb, 0.06, 4096, MICRO_BATCH),
}
# The same for 65,536 images in an update, 16 micro-steps on one device.
HUGE = {"Lamb, 65536": (Lamb, 0.12), "SGD, 65536": (SGD, 1.6)}
HUGE_BATCH, HUGE_MICRO_BATCH, UPDATES = 65536, 4096, 30
CLIPPING = {"clipped at 1": 1.0, "not clipped": None}


def load_data(images):
    """Return (train images, test images, train labels, test labels), the train images shifted."""
    x, x_test, y, y_test = digits(SEED)
    x, x_test = x.reshape(-1, 8, 8), x_test.reshape(-1, 8, 8)
    draw = np.random.default_rng(SEED)
    chosen = draw.integers(len(x), size=images)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), axis=(1, 2))
    shifted = windows[chosen, draw.integers(3, size=images), draw.integers(3, size=images)]
    return shifted, x_test, y[chosen], y_test


def build_model(synchronized=True):
    layers = [keras.Input((8, 8)), keras.layers.Flatten()]
    for i, units in enumerate((256, 128), 1):
        layers.append(Dense(units, use_bias=False, name=f"hidden_{i}"))
        layers.append(BatchNormalization(momentum=0.9, synchronized=synchronized, name=f"norm_{i}"))
        layers.append(keras.layers.ReLU())
    return keras.Sequential([*layers, Dense(10, name="logits")])


def build_recurrent():
    recurrent = keras.layers.SimpleRNN(
        64, recurrent_initializer=keras.initializers.Orthogonal(GAIN), name="recurrent"
    )
    pixels = keras.layers.Reshape((64, 1))
    return keras.Sequential([keras.Input((8, 8)), pixels, recurrent, Dense(10, name="logits")])


def train(build, make_optimizer, strategy, x, y, batch_size, epochs, callbacks=()):
    """Return a model that is trained on the replicas of `strategy`, or on one device for None."""
    keras.utils.set_random_seed(SEED)  # the same first weights and the same batches for all
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = build()
        loss_function = SparseCategoricalCrossentropy(from_logits=True)
        model.compile(make_optimizer(), loss_function, metrics=["accuracy"])
    options = dict(batch_size=batch_size, epochs=epochs, verbose=0, callbacks=list(callbacks))
    model.fit(x, y, **options)
    return model


def make_optimizer(optimizer, peak, updates, micro_steps):
    rate = WarmupCosine(peak, total_steps=updates, warmup_steps=max(1, updates // 10))
    options = dict(momentum=0.9) if optimizer is SGD else dict(weight_decay=0.01)
    accumulation = None if micro_steps == 1 else micro_steps
    return optimizer(rate, gradient_accumulation_steps=accumulation, **options)


def report(name, model, x, y, x_test, y_test):
    """Print what a training has reached, and return its accuracy."""
    loss, _ = model.evaluate(x, y, batch_size=1024, verbose=0)
    _, accuracy = model.evaluate(x_test, y_test, batch_size=360, verbose=0)
    updates = int(model.optimizer.iterations.numpy())
    print(f"{name:22}{updates:8}{loss:15.4f}{accuracy:15.2%}", flush=True)
    return accuracy


def compare(strategy, x, y):
    """Print how far from one device two replicas end, with statistics of their own or common."""

    def weights(strategy, synchronized):
        build = functools.partial(build_model, synchronized)
        make_optimizer = functools.partial(Lamb, 0.01, gradient_accumulation_steps=8)
        model = train(build, make_optimizer, strategy, x, y, MICRO_BATCH, 1)
        return np.concatenate([weight.ravel() for weight in model.get_weights()])

    one = weights(None, False)
    for name, synchronized in (("synchronized", True), ("each its own", False)):
        apart = np.abs(weights(strategy, synchronized) - one).max()
        print(f"batch statistics {name}: weights differ by {apart:.1e} at most", flush=True)


def draw(batches, recurrent, path):
    """Write a picture: losses with large and small batches, and the recurrent network's norms."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    loss, recurrent_loss, norm = axes = figure.subplots(1, 3)
    for name, (losses, _) in batches.items():
        loss.plot(range(1, len(losses) + 1), losses, label=name)
    loss.set(title="Training loss, by images in an update", xlabel="epochs", yscale="log")
    loss.margins(y=0.3)  # for the legend
    for name, series in recurrent.items():
        recurrent_loss.plot(smooth(series["loss/batch"]), label=name)
    title = "Recurrent network: training loss, median of 20 updates"
    recurrent_loss.set(title=title, xlabel="updates", ylim=(0, None))
    series = recurrent["clipped at 1"]
    norm.plot(series["gradient_norm/global"], linewidth=0.6, label="before clipping")
    after = series["gradient_norm_applied/global"]
    norm.plot(after, color="black", linewidth=0.9, label="after clipping")
    norm.set(title="Its gradients' norm where it is clipped", xlabel="updates", yscale="log")
    for ax in axes:
        ax.legend(frameon=False)
    tidy(*axes)
    figure.savefig(path, dpi=90)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=15, of="passes over the 12,288 images")
    parser.add_argument(
        "--lamb-only", action="store_true", help="without SGD, and without what is not clipped"
    )
    options = parser.parse_args(arguments)

    [cpu] = tf.config.list_physical_devices("CPU")
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, halves)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    x, x_test, y, y_test = load_data(IMAGES)

    print("two replicas against one device, after an epoch of 3 updates:")
    compare(strategy, x, y)

    print(f"\n{'':22}{'updates':>8}{'training loss':>15}{'test accuracy':>15}")
    batches = {}
    for name, (optimizer, peak, size, micro) in RUNS.items():
        if options.lamb_only and optimizer is not Lamb:
            continue
        total = options.epochs * IMAGES // size
        make = functools.partial(make_optimizer, optimizer, peak, total, size // micro)
        model = train(build_model, make, strategy, x, y, micro, options.epochs)
        accuracy = report(name, model, x, y, x_test, y_test)
        batches[name] = model.history.history["loss"], accuracy

    more = load_data(HUGE_BATCH)
    for name, (optimizer, peak) in HUGE.items():
        if options.lamb_only and optimizer is not Lamb:
            continue
        micro_steps = HUGE_BATCH // HUGE_MICRO_BATCH
        make = functools.partial(make_optimizer, optimizer, peak, UPDATES, micro_steps)
        model = train(build_model, make, None, more[0], more[2], HUGE_MICRO_BATCH, UPDATES)
        report(name, model, x, y, x_test, y_test)

    print(f"\n{'recurrent':22}{'clipped':>8}{'largest norm':>15}{'test accuracy':>15}")
    recurrent = {}
    for name, bound in CLIPPING.items():
        if options.lamb_only and bound is None:
            continue
        monitor = GradientMonitor(options.folder / name.replace(" ", "_"))
        make = functools.partial(SGD, 0.3, global_clipnorm=bound)
        model = train(build_recurrent, make, strategy, x, y, 256, options.epochs, [monitor])
        recurrent[name] = series = read_scalars(monitor.run_dir)
        norms = series["gradient_norm/global"]
        share = f"{np.mean(norms > bound):.0%}" if bound else "never"
        _, accuracy = model.evaluate(x_test, y_test, batch_size=360, verbose=0)
        print(f"{name:22}{share:>8}{norms.max():15.1e}{accuracy:15.2%}", flush=True)

    draw(batches, recurrent, options.folder / "batches.png")
    print(f"\npicture of losses and norms: {options.folder / 'batches.png'}")
    accuracy = batches["Lamb, 4096"][1]
    print(f"test accuracy: {accuracy:.2%} of {len(x_test)} digits with Lamb and batches of 4096")


if __name__ == "__main__":
    main()
