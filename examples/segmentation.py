"""Large images are segmented by a small U-Net that learns from patches.

Run it with `python examples/segmentation.py`. The images are made up: discs and thin rings in noise
on an uneven ground. A U-Net with skip connections, and the same network without them, learn patches
that are cut out at random, by Nesterov's rule and in half precision, with a loss that is scaled
dynamically. Then the whole test images are predicted tile by tile. It leaves a picture, and a
TensorBoard run of each training, in tb_logs/segmentation.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _shared import CommandLine, read_scalars, smooth, tidy
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from keras_bp.callbacks import GradientMonitor
from keras_bp.layers import BatchNormalization
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import Nesterov
from keras_bp.schedules import CosineAnnealing

CLASSES = "ground", "disc", "ring"
FILTERS = 8, 16, 32
PATCH, MARGIN, BATCH_SIZE = 64, 16, 16
SEED = 0


def make_images(number, size, seed):
    """Return (images, masks), masks of 0 for the ground, 1 in discs and 2 in rings."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    masks = np.zeros((number, size, size), "int32")
    images = draw.normal(0, 0.25, (number, size, size))
    for image, mask in zip(images, masks, strict=True):
        for _ in range(size**2 // 2600):
            row, column = draw.integers(0, size, 2)
            radius, kind = draw.integers(6, 25), draw.integers(1, 3)
            distance = np.hypot(rows - row, columns - column)
            inside = distance < radius
            mask[inside] = kind * (kind == 1)
            if kind == 2:
                mask[inside & (distance > radius - 3)] = 2
        slope = draw.normal(0, 1, 2)
        image += 0.5 * np.sin(slope[0] * rows / 80 + slope[1] * columns / 80) + (mask > 0)
    return images[..., None].astype("float32"), masks


def cut(images, masks, steps):
    """Yield batches of patches from random places, turned at random."""
    draw, room = np.random.default_rng(SEED), images.shape[1] - PATCH + 1
    for _ in range(steps):
        batch = []
        for image in draw.integers(len(images), size=BATCH_SIZE):
            row, column, turn = *draw.integers(room, size=2), draw.integers(4)
            place = image, slice(row, row + PATCH), slice(column, column + PATCH)
            batch.append((np.rot90(images[place], turn), np.rot90(masks[place], turn)))
        x, y = zip(*batch, strict=True)
        yield np.stack(x), np.stack(y)


def build_model(skips, convolutions=1):
    """Return a U-Net for images of any size that is a multiple of 4, with or without its skips.

    Each of its six blocks has so many convolutions; one more gives the logits.
    """

    def block(x, filters, block_name):
        for i in range(1, convolutions + 1):
            name = block_name if i == 1 else f"{block_name}_{i}"
            options = dict(use_bias=False, kernel_initializer="he_normal", name=name)
            x = keras.layers.Conv2D(filters, 3, padding="same", **options)(x)
            x = keras.layers.ReLU()(BatchNormalization(momentum=0.9, name=f"{name}_norm")(x))
        return x

    *outer, bottom = FILTERS
    x, passed_on = keras.Input((None, None, 1)), []
    inputs = x
    for i, filters in enumerate(outer, 1):
        x = block(x, filters, f"down_{i}")
        passed_on.append(x)
        x = keras.layers.MaxPooling2D()(x)
    x = block(block(x, bottom, "bottom_1"), bottom, "bottom_2")
    for i, filters in reversed(list(enumerate(outer, 1))):
        x = keras.layers.UpSampling2D()(x)
        if skips:
            x = keras.layers.Concatenate()([x, passed_on[i - 1]])
        x = block(x, filters, f"up_{i}")
    # The softmax over the classes in float32: half precision holds 3 digits.
    logits = keras.layers.Conv2D(len(CLASSES), 1, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits)


def train(skips, convolutions, images, masks, steps, log_dir):
    """Return (model, loss scales of all steps, {tag: values of all updates})."""
    keras.utils.set_random_seed(SEED)
    model = build_model(skips, convolutions)
    # 2^22 is too much for float16, which ends at 65504: the first steps are skipped, and the scale
    # halved in each, until no gradient overflows. Then it is doubled again, to find the bound.
    optimizer = keras.optimizers.LossScaleOptimizer(
        Nesterov(CosineAnnealing(0.1, steps)), initial_scale=2.0**22, dynamic_growth_steps=50
    )
    model.compile(optimizer, SparseCategoricalCrossentropy(from_logits=True))
    shapes = [(BATCH_SIZE, PATCH, PATCH, *rest) for rest in ([1], [])]
    signature = tf.TensorSpec(shapes[0], "float32"), tf.TensorSpec(shapes[1], "int32")
    batches = tf.data.Dataset.from_generator(
        lambda: cut(images, masks, steps), output_signature=signature
    ).apply(tf.data.experimental.assert_cardinality(steps))
    scales = []
    scale = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: scales.append(float(optimizer.dynamic_scale))
    )
    monitor = GradientMonitor(log_dir)
    model.fit(batches, shuffle=False, verbose=0, callbacks=[scale, monitor])
    return model, scales, read_scalars(monitor.run_dir)


def predict(model, image, margin):
    """Return the classes of a whole image: of each tile, all but its margin."""
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    tiles = np.lib.stride_tricks.sliding_window_view(
        padded[..., 0], (PATCH + 2 * margin, PATCH + 2 * margin)
    )[::PATCH, ::PATCH]
    rows, columns, side, _ = tiles.shape
    logits = model.predict(tiles.reshape(-1, side, side, 1), BATCH_SIZE, verbose=0)
    middle = logits[:, margin : margin + PATCH, margin : margin + PATCH].argmax(-1)
    middle = middle.reshape(rows, columns, PATCH, PATCH).swapaxes(1, 2)
    return middle.reshape(rows * PATCH, columns * PATCH)


def overlaps(predicted, masks):
    """Return the intersection over the union of each class."""
    pairs = [(predicted == i, masks == i) for i in range(len(CLASSES))]
    return np.array([(a & b).sum() / (a | b).sum() for a, b in pairs])


def draw(image, mask, runs, path):
    """Write a picture: a part of a test image, and what the trainings did."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    top, bottom = figure.subfigures(2, 1)
    part = slice(0, 192), slice(0, 192)
    titles = ["A part of a test image", "discs and rings", *runs]
    pictures = [image[..., 0], mask, *(run["predicted"][0] for run in runs.values())]
    classes = ListedColormap(["whitesmoke", "tab:blue", "tab:orange"])
    for ax, title, shown in zip(top.subplots(1, 4), titles, pictures, strict=True):
        options = dict(cmap="gray") if shown is pictures[0] else dict(cmap=classes, vmin=0, vmax=2)
        ax.imshow(shown[part], interpolation="nearest", **options)
        ax.set(title=title, xticks=[], yticks=[])
    loss, scale, norm = bottom.subplots(1, 3)
    for name, run in runs.items():
        series = run["series"]
        loss.plot(smooth(series["loss/batch"], window=10), label=name)
        scale.step(range(1, len(run["scales"]) + 1), run["scales"], where="post", alpha=0.8)
        layers = [f"down_{i}" for i in (1, 2)] + ["bottom_1", "bottom_2", "up_2", "up_1", "logits"]
        norms = [np.median(series[f"gradient_norm/{layer}"]) for layer in layers]
        norm.plot(layers, norms, "o-", markersize=4)
    loss.set(title="Training loss, median of 10 updates", xlabel="updates", ylim=(0, None))
    loss.legend(frameon=False)
    scale.set(title="Loss scale", xlabel="steps")
    scale.set_yscale("log", base=2)
    norm.set(title="Gradient norm of each layer, median", yscale="log")
    norm.tick_params(axis="x", rotation=45)
    tidy(loss, scale, norm)
    figure.savefig(path, dpi=100)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=10, of="times that the patches cover the images")
    parser.add_argument("--size", type=int, default=512, help="of the square images, n x 64 pixels")
    parser.add_argument(
        "--convolutions", type=int, default=1, help="in each of the six blocks; 9 for 55 in all"
    )
    options = parser.parse_args(arguments)
    if options.size < 256 or options.size % PATCH:
        parser.error(f"--size must be 256 or a larger multiple of 64. Received: {options.size}")

    keras.mixed_precision.set_dtype_policy("mixed_float16")
    (images, masks), (test_images, test_masks) = (
        make_images(number, options.size, seed) for number, seed in ((8, SEED), (3, SEED + 1))
    )
    steps = options.epochs * images[..., 0].size // (BATCH_SIZE * PATCH**2)
    ground = np.mean(test_masks == 0)
    print(f"{options.size} x {options.size} pixels, {ground:.2%} of them ground; {steps} steps")
    print(f"{'':15}{'skipped steps':>13}{'seconds':>9}{'pixels right':>14}", end="")
    print("".join(f"{f'IoU {name}':>12}" for name in CLASSES) + f"{'without margin':>16}")
    runs = {}
    for name, skips in (("U-Net", True), ("without skips", False)):
        start = time.perf_counter()
        log_dir = options.folder / name.lower().replace(" ", "_")
        model, scales, series = train(skips, options.convolutions, images, masks, steps, log_dir)
        seconds = time.perf_counter() - start
        predicted, seams = (
            np.stack([predict(model, image, margin) for image in test_images])
            for margin in (MARGIN, 0)
        )
        accuracy, at_seams = ((p == test_masks).mean() for p in (predicted, seams))
        runs[name] = dict(predicted=predicted, scales=scales, series=series, accuracy=accuracy)
        print(f"{name:15}{steps - len(series['loss/batch']):13}{seconds:9.1f}", end="")
        print(f"{accuracy:14.2%}", end="")
        print("".join(f"{iou:12.3f}" for iou in overlaps(predicted, test_masks)), end="")
        print(f"{at_seams:16.2%}", flush=True)

    draw(test_images[0], test_masks[0], runs, options.folder / "segments.png")
    print(f"\npicture of images and trainings: {options.folder / 'segments.png'}")
    print(f"test accuracy: {runs['U-Net']['accuracy']:.2%} of the pixels with skip connections")


if __name__ == "__main__":
    main()
