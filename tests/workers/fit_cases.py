"""What Keras's fit takes, over workers as in one process, and what each worker refuses."""

import keras
import numpy as np
import tensorflow as tf

from keras_bp import layers, losses, optimizers

_draws = np.random.default_rng(0)


def aligned(values):
    """Return a copy that TensorFlow takes as it is, without one of its own."""
    memory = np.zeros(values.nbytes + 64, "uint8")
    copy = memory[-memory.ctypes.data % 64 :][: values.nbytes].view(values.dtype)
    copy = copy.reshape(values.shape)
    copy[...] = values
    return copy


X = aligned(_draws.normal(size=(96, 4)).astype("float32"))
Y = aligned((X[:, :1] > 0).astype("float32"))
WEIGHTS = _draws.uniform(0.5, 2.0, size=96).astype("float32")
BATCH = 16


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(6, "relu")
        self.out = layers.Dense(1, "sigmoid")

    def call(self, inputs):
        return self.out(self.hidden(inputs))


def compiled(strategy, build=lambda: keras.Sequential([layers.Dense(1, "sigmoid")]), **options):
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = build()
        loss = losses.BinaryCrossentropy()
        options = {"jit_compile": False, "loss": loss, "metrics": ["accuracy"], **options}
        model.compile(optimizers.Adam(0.01), **options)
    return model


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return X[index * BATCH :][:BATCH], Y[index * BATCH :][:BATCH]


def subclassed_and_arrays(strategy):
    return compiled(strategy, Subclassed).fit(
        *(X, Y, BATCH),
        sample_weight=WEIGHTS,
        validation_split=0.25,
        initial_epoch=1,
        epochs=3,
        verbose=0,
    )


def pydataset_made_by_threads(strategy):
    data = Batches(workers=2)
    model = compiled(strategy)
    return model.fit(data, class_weight={0: 1.0, 1: 2.0}, shuffle=False, epochs=2, verbose=0)


def generator(strategy):
    """An endless one, whose batches all differ: none may be lost, nor its arrays changed."""
    batches = ((X + 0.1 * n, Y) for n in range(10**6))
    loss = keras.losses.BinaryCrossentropy()  # which wrote into them
    return compiled(strategy, loss=loss).fit(
        batches, steps_per_epoch=3, epochs=2, shuffle=False, verbose=0
    )


def distributed(strategy):
    """Distributed in both ways, and last batches of 6, which leave the second worker empty."""
    data = tf.data.Dataset.from_tensor_slices((X[:86], Y[:86])).filter(lambda x, y: True)
    shared = strategy.experimental_distribute_dataset(data.batch(BATCH))
    own = strategy.distribute_datasets_from_function(
        lambda c: (
            tf.data.Dataset.from_tensor_slices((X, Y))
            .batch(BATCH // c.num_input_pipelines)
            .shard(c.num_input_pipelines, c.input_pipeline_id)
        )
    )
    model = compiled(strategy)
    model.fit(own, shuffle=False, verbose=0)
    return model.fit(shared, validation_data=own, epochs=2, shuffle=False, verbose=0)


FORMS = [subclassed_and_arrays, pydataset_made_by_threads, generator, distributed]


def numbers(history):
    """List what a training left: its history, weights and predictions, also where uneven."""
    model = history.model
    predicted = model.predict(X[:82], batch_size=BATCH, verbose=0)
    return [*history.history.values(), *model.get_weights(), predicted]


def refused(strategy, index):
    """Yield the name of each fault, and a function that commits it on the second worker."""
    model = compiled(strategy)

    def examples(number):
        data = tf.data.Dataset.from_tensor_slices((X, Y)).take(number).batch(BATCH)
        return data.filter(lambda x, y: True)  # nobody knows how many are left

    known = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH).take([6, 4][index])
    yield "batches", lambda: model.fit(known, shuffle=False, verbose=0)
    yield "validation", lambda: model.fit(X, Y, verbose=0, validation_data=(X[index:], Y[index:]))
    wide = tf.data.Dataset.from_tensor_slices((X.astype(["float32", "float64"][index]), Y))
    yield "form", lambda: model.evaluate(wide.batch(BATCH), verbose=0)
    yield "epochs", lambda: model.fit(X, Y, epochs=1 + index, verbose=0)
    yield "shorter", lambda: model.fit(examples([96, 40][index]), verbose=0)
    yield "predicted", lambda: model.predict(examples([96, 40][index]), verbose=0)
    yield "jit", lambda: compiled(strategy, jit_compile=True).fit(X, Y, verbose=0)
    yield "steps", lambda: compiled(strategy, steps_per_execution=2).predict(X, verbose=0)
    logs = [keras.callbacks.CSVLogger("refused.csv")]
    yield "one file", lambda: model.fit(X, Y, verbose=0, callbacks=logs)
    backup = keras.callbacks.BackupAndRestore("refused")
    yield "backup", lambda: model.fit(X, Y, verbose=0, callbacks=backup)
    with strategy.scope():
        optimizer = keras.optimizers.SGD(name=["one", "other"][index])
        model.compile(optimizer, "mse", jit_compile=False)
    yield "optimizer", lambda: model.fit(X, Y, verbose=0)
    keras.utils.set_random_seed(index)
    yield "seed", lambda: compiled_as_is(model, strategy).fit(X, Y, verbose=0)


def compiled_as_is(model, strategy):
    with strategy.scope():
        model.compile("sgd", "mse", jit_compile=False)
    return model
