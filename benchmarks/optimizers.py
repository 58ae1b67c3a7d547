"""Time the package's optimizers against Keras's: one update, jit off and on.

    python benchmarks/optimizers.py [--only NAME] [--case WORDS] [--seconds 2] [--jit off|on|both]

An update is `optimizer.apply` in a `tf.function` without arguments, with fixed gradients (passing a
hundred arguments would take longer than either update). Ours and Keras's run in one process, in
turn; each line gives the milliseconds an update, the ratio Keras / ours of the medians and of the
minima (over 1: ours is faster), and the share of the bound that ours reaches: the time that reading
and writing each array of the rule once takes at the rate of a large copy, over the time an update.
Small arrays stay in the caches, and can be faster than that bound; so can the update of a table by
the 512 rows of a sparse gradient.
"""

import argparse
import concurrent.futures
import time

import _measure
import keras
import numpy as np
import tensorflow as tf

import keras_bp

SHAPES = {
    "one 2048x2048": [(2048, 2048)],
    "ten 512x512": [(512, 512)] * 10,
    "a hundred 64x64": [(64, 64)] * 100,
    "512 of 100000x64": [(100_000, 64)],  # a table, whose gradient is sparse
}
# Name, class in either library, arguments, and the arrays that an update reads and writes: the
# weights and the gradient, and each slot twice. LAMB has to go through weights and slots once more,
# as its norms are known only when every slot is new.
RULES = [
    ("Adam", "Adam", {}, 7),
    ("AdamW", "AdamW", {}, 7),
    ("SGD", "SGD", {}, 3),
    ("SGD momentum", "SGD", {"momentum": 0.9}, 5),
    ("SGD nesterov", "SGD", {"momentum": 0.9, "nesterov": True}, 5),
    ("RMSprop", "RMSprop", {}, 5),
    ("Lamb", "Lamb", {}, 10),
    ("ScheduleFreeAdamW", "ScheduleFreeAdamW", {}, 7),
    ("Lion", "Lion", {}, 5),
    ("Adagrad", "Adagrad", {}, 5),
    ("Ftrl", "Ftrl", {}, 7),
    ("Adadelta", "Adadelta", {}, 7),
    ("Adamax", "Adamax", {}, 7),
    ("Nadam", "Nadam", {}, 7),
    ("Adafactor", "Adafactor", {}, 6),
    ("Muon", "Muon", {}, 5),
]


def update(library, name, arguments, shapes, jit_compile):
    """Return (a callable that makes one update, the bytes of the optimizer's variables)."""
    rng = np.random.default_rng(0)
    variables = [keras.Variable(rng.normal(size=s).astype("float32") * 0.05) for s in shapes]
    gradients = [tf.constant(rng.normal(size=s).astype("float32")) for s in shapes]
    if shapes == SHAPES["512 of 100000x64"]:
        ids = tf.constant(rng.integers(100_000, size=512))
        gradients = [tf.IndexedSlices(gradients[0][:512], ids, tf.constant(shapes[0]))]
    # A rate at which thousands of updates with one gradient leave finite weights.
    if (library, name) == (keras_bp, "Muon"):  # for all the matrices, as Keras's
        arguments = {**arguments, "exclude_output": False}
    optimizer = getattr(library.optimizers, name)(1e-6, **arguments)
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step():
        optimizer.apply(gradients, variables)

    concrete = step.get_concrete_function()
    size = sum(np.prod(v.shape, dtype=int) * v.numpy().itemsize for v in optimizer.variables)
    return concrete, int(size)


def bytes_a_second():
    """Return the rate of a copy of 256 MB by two threads, bytes read and bytes written."""
    halves = [(np.ones(2**25, np.float32), np.empty(2**25, np.float32)) for _ in range(2)]
    times = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(9):
            start = time.perf_counter()
            list(pool.map(lambda half: np.copyto(half[1], half[0]), halves))
            times.append(time.perf_counter() - start)
    return 4 * halves[0][0].nbytes / min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="measure only rules that contain this")
    parser.add_argument("--case", default="", help="measure only arrays that are named so")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds a case")
    parser.add_argument("--jit", choices=["off", "on", "both"], default="both")
    arguments = parser.parse_args()
    rate = 0.0
    print(
        f"{'':18} {'':16} {'jit':4} {'ours ms':>8} {'Keras ms':>9} {'medians':>8} {'minima':>7} "
        f"{'of bound':>9} {'ours bytes':>12} {'Keras bytes':>12}"
    )
    for title, name, options, arrays in RULES:
        if arguments.only.lower() not in title.lower():
            continue
        # The best so far: what else runs on the machine can only slow a copy down.
        rate = max(rate, bytes_a_second())
        for case, shapes in SHAPES.items():
            if arguments.case not in case:
                continue
            for jit in {"off": [False], "on": [True], "both": [False, True]}[arguments.jit]:
                (ours, ours_size), (theirs, theirs_size) = (
                    update(library, name, options, shapes, jit) for library in (keras_bp, keras)
                )
                result = _measure.compare(ours, theirs, arguments.seconds)
                bound = 4 * arrays * sum(np.prod(s) for s in shapes) / rate
                print(
                    f"{title:18} {case:16} {'on' if jit else 'off':4} {result.ours * 1e3:8.3f} "
                    f"{result.keras * 1e3:9.3f} {result.ratio_of_medians:8.2f} "
                    f"{result.ratio_of_minima:7.2f} {bound / result.ours:9.2f} "
                    f"{ours_size:12,} {theirs_size:12,}",
                    flush=True,
                )
    print(f"A large copy reads and writes {rate / 1e9:.1f} GB/s.")


if __name__ == "__main__":
    main()
