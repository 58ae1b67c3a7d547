"""What test_saving.py runs in a process of its own: python fresh_process.py FOLDER.

First without the package, which cannot be imported then: the exported models serve. Then with
`import keras_bp` and nothing else of it: the saved ones load in safe mode and train on.
"""

import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

folder = pathlib.Path(sys.argv[1])
data = np.load(folder / "data.npz")

sys.modules["keras_bp"] = None  # an import of it fails
served, numbers = tf.saved_model.load(folder / "exported"), tf.constant(data["numbers"])
with tf.GradientTape(persistent=True) as tape:
    tape.watch(numbers)
    outputs = served.serve([numbers, tf.constant(data["ids"])])
    totals = [tf.reduce_sum(output * tf.range(3.0)) for output in outputs]
arrays = {}
for number, (output, total) in enumerate(zip(outputs, totals, strict=True)):
    arrays[f"outputs_{number}"] = output
    gradient = tape.gradient(total, numbers)
    if gradient is not None:
        arrays[f"gradient_{number}"] = gradient
np.savez(folder / "served.npz", **arrays)
assert not [name for name in sys.modules if name.startswith("keras_bp.")]
del sys.modules["keras_bp"]

import keras  # noqa: E402

import keras_bp  # noqa: E402, F401  (the import alone makes the files loadable)

classes = {}
for path in sorted(folder.glob("*.keras")):
    number = path.stem
    model = keras.saving.load_model(path, safe_mode=True)
    parts = [model.get_layer("subject"), model.loss, model.optimizer]
    parts += [model.optimizer._learning_rate]
    classes[number] = [f"{type(part).__module__}.{type(part).__name__}" for part in parts]
    model.run_eagerly = True
    x, y = data[f"x_{number}"], data[f"y_{number}"]
    model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    np.savez(folder / f"trained_{number}.npz", *model.get_weights())
(folder / "classes.json").write_text(json.dumps(classes))
