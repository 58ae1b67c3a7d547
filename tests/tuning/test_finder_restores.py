"""After a sweep everything is what it was, also after an interruption: a `fit` is the same."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp.tuning import find_learning_rate

layers, optimizers = keras.layers, keras.optimizers


def _model(optimizer=None, policy="float32", **options):
    """A model that is not built, with dropout, batch statistics and metrics."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(policy)
    model = keras.Sequential(
        [
            layers.Dense(8, activation="relu", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(1, dtype="float32"),
        ]
    )
    model.compile(optimizer or optimizers.Adam(0.01), "mse", metrics=["mae"], **options)
    return model


def _few(data):
    """Return two batches that run dry: a sweep of two steps."""
    return (tuple(array[rows] for array in data) for rows in (slice(48), slice(48, 96)))


def _fit(model, data):
    options = {"steps_per_epoch": 3, "shuffle": False} if len(data) == 1 else {}
    return model.fit(*data, epochs=2, verbose=0, **options).history


def _values(model):
    variables = model.variables + model.optimizer.variables + model.metrics_variables
    return [tf.convert_to_tensor(v).numpy().tobytes() for v in variables]


def _random_state():
    numpy = np.random.get_state()
    return random.getstate(), numpy[1].tobytes(), numpy[2:]


def _state(model):
    """All that a sweep could disturb: objects by identity, values bit by bit."""
    owners = [*model._flatten_layers(), model.optimizer, model._compile_loss, *model.metrics]
    return {
        "values": _values(model),
        "weights": [id(v) for v in model.variables + model.optimizer.variables],
        "built": [owner.built for owner in owners if hasattr(owner, "built")],
        "attributes": [sorted(vars(owner)) for owner in owners],
        "objects": [id(value) for owner in owners for value in vars(owner).values()],
        "rate": id(vars(model.optimizer)["_learning_rate"]),
        "metrics": model.metrics_names,
        "train_function": model.train_function,
        "history": vars(model).get("history"),
        "random": _random_state(),
    }


def _composite():
    inner = {"kernel": optimizers.Adam(0.01)}
    return optimizers.MultiOptimizer(
        lambda variable: inner["kernel"] if "kernel" in variable.path else optimizers.SGD(0.1)
    )


CASES = {
    "plain": {},
    "float16": {"policy": "mixed_float16"},
    "composite": {"optimizer": _composite, "steps_per_execution": 2},
    "schedule": {
        "run_eagerly": True,
        "optimizer": lambda: optimizers.AdamW(
            optimizers.schedules.CosineDecay(0.02, 20),
            gradient_accumulation_steps=2,
            use_ema=True,
            ema_overwrite_frequency=3,
        ),
    },
    "own": {
        "optimizer": lambda: keras_bp.optimizers.AdamW(
            keras_bp.schedules.WarmupCosine(0.01, 20, 3), gradient_accumulation_steps=2
        )
    },
}


@pytest.mark.parametrize(
    "case, trained",
    [
        ("plain", False),
        ("schedule", True),
        *(pytest.param(case, False, marks=pytest.mark.long) for case in ("composite", "own")),
        *(pytest.param(case, True, marks=pytest.mark.long) for case in ("plain", "float16")),
    ],
)
def test_a_fit_is_bit_for_bit_the_one_without_the_sweep(data, case, trained):
    """With arrays, which `fit` shuffles, or with a dataset, which is set up faster."""
    if case != "plain":
        data = (tf.data.Dataset.from_tensor_slices(data).batch(32).repeat(),)
    results = []
    for swept in (False, True):
        options = dict(CASES[case])
        optimizer = options.pop("optimizer", lambda: None)()
        model = _model(optimizer, **options)
        if trained:
            _fit(model, data)
        if swept:
            before = _state(model)
            curve = find_learning_rate(model, *data, steps=20, max_learning_rate=0.1)
            assert len(curve.losses) == 20
            assert _state(model) == before
        history = _fit(model, data)
        results.append((_values(model), history, _random_state()))
    assert results[0] == results[1]


def test_a_model_that_was_not_built_is_not_built_and_can_be_saved(data, tmp_path):
    model = _model(run_eagerly=True)
    find_learning_rate(model, _few(data))
    assert not (model.built or model.optimizer.built or model.layers[0].built)
    assert len(model.variables) == 1 and len(model.optimizer.variables) == 2
    tf.train.Checkpoint(optimizer=model.optimizer).save(str(tmp_path / "checkpoint"))
    model.optimizer.exclude_from_weight_decay(var_names=["bias"])  # refused once it is built
    x = np.random.default_rng(0).normal(size=(48, 5))  # the sweep's data had three features
    model.fit(x, data[1][:48], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize(
    "error, step, trained",
    [(RuntimeError, 1, False), (KeyboardInterrupt, 5, True)],
)
def test_an_interruption_restores_everything(data, error, step, trained):
    class Model(keras.Sequential):
        def train_step(self, batch):
            logs = super().train_step(batch)
            calls.append(0)
            if len(calls) == step:
                raise error("stop")
            return logs

    calls = [0] * 10
    model = Model([layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)])
    model.add(layers.Dense(1))
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    if trained:
        _fit(model, data)
    before = _state(model)
    calls.clear()
    with pytest.raises(error, match="stop"):
        find_learning_rate(model, *data)
    assert len(calls) == step
    assert _state(model) == before


def _draws():
    """Numbers of every global source; TensorFlow's also with an operation's own seed."""
    keras.random.normal((1,))
    return [
        random.random(),
        np.random.rand(),
        *(float(tf.random.uniform(())) for _ in range(3)),
        *(float(keras.random.uniform(())) for _ in range(2)),
        float(tf.random.get_global_generator().uniform(())),
    ]


@pytest.mark.parametrize("used_before", [False, True])
def test_global_random_numbers_go_on_as_if_there_had_been_no_sweep(data, used_before):
    class Model(keras.Sequential):
        def train_step(self, batch):
            _draws()
            return super().train_step(batch)

    results = []
    for swept in (False, True):
        keras.utils.set_random_seed(3)
        tf.random.set_global_generator(tf.random.Generator.from_seed(4))
        model = Model([layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=True)
        if used_before:
            _draws()
        if swept:
            find_learning_rate(model, _few(data))
        results.append((_draws(), layers.Dense(1).name.rpartition("_")[0]))
    assert results[0] == results[1]


def test_names_that_keras_makes_up_go_on(data):
    class Late(layers.Layer):
        def build(self, shape):
            self.inner = layers.Dense(1)

        def call(self, x):
            return self.inner(x)

    model = keras.Sequential([Late()])
    model.compile("sgd", "mse")
    first = layers.Dense(1).name
    find_learning_rate(model, _few(data))
    number = int(first.rpartition("_")[2]) if first != "dense" else 0
    model(data[0])
    assert model.layers[0].inner.name == f"dense_{number + 1}"


def test_what_a_train_step_keeps_is_put_back(data):
    """A second optimizer, a list, an attribute and a plain TensorFlow variable."""

    class Model(keras.Model):
        def train_step(self, batch):
            self.count.assign_add(1.0)
            self.seen.append(0)
            self.flag = True
            self.other.apply([tf.ones((4, 1))], [second.kernel])
            return super().train_step(batch)

    inputs = keras.Input((3,))
    model = Model(inputs, layers.Dense(1)(inputs))
    model.count, model.seen = tf.Variable(0.0), []
    # Outside the model: its own optimizer would ask for gradients of a layer without any.
    second = layers.Dense(1)
    second.build((None, 4))
    model.other = optimizers.Adam(0.1)
    model.other.build([second.kernel])
    model.compile("sgd", "mse", run_eagerly=True)
    find_learning_rate(model, _few(data))
    assert float(model.count) == 0.0 and model.seen == [] and not hasattr(model, "flag")
    assert [np.abs(v).max() for v in map(tf.convert_to_tensor, model.other.variables[2:])] == [0, 0]


def test_a_deferred_table(data):
    ids = np.arange(96).reshape(32, 3) % 7
    results = []
    for swept in (False, True):
        keras.utils.set_random_seed(2)
        model = keras.Sequential(
            [keras_bp.layers.DeferredEmbedding(7, 2), layers.Flatten(), layers.Dense(1)]
        )
        model.compile(keras_bp.optimizers.DeferredAdam(0.01), "mse", run_eagerly=True)
        if swept:
            find_learning_rate(model, _few((np.repeat(ids, 3, axis=0), data[1])))
        model.fit(ids, data[1][:32], batch_size=8, verbose=0)
        results.append(_values(model))
    assert results[0] == results[1]
