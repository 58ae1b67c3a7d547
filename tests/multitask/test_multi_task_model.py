"""MultiTaskModel trains as Keras does, with each task's gradient seen by the combiner."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import optimizers
from keras_bp.callbacks import GradientMonitor
from keras_bp.multitask import Combiner, MultiTaskModel, PCGrad, Sum

L = keras.layers


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 5)).astype("float32")
    y = {"a": rng.normal(size=(24, 2)).astype("float32"), "b": (x[:, :1] > 0).astype("float32")}
    return x, y


LOSSES = {"a": "mse", "b": keras.losses.BinaryCrossentropy(from_logits=True)}


def network(penalty=True, chained=False):
    keras.utils.set_random_seed(0)
    x = keras.Input((5,))
    regularizer = keras.regularizers.L2(0.01) if penalty else None
    trunk = L.Dense(8, "tanh", name="trunk", kernel_regularizer=regularizer)(x)
    a = L.Dense(2, name="a", kernel_regularizer=regularizer)(trunk)
    b = L.Dense(1, name="b")(L.Concatenate()([trunk, a]) if chained else trunk)
    return x, {"a": a, "b": b}


def multi_task(combine, optimizer=None, penalty=True, **options):
    model = MultiTaskModel(*network(penalty), combiner=combine)
    # Eagerly, where how the steps run does not matter: nothing is traced.
    options = {"loss": LOSSES, "run_eagerly": "jit_compile" not in options, **options}
    model.compile(optimizer or keras.optimizers.SGD(0.1), **options)
    return model


def fit(model, data, **options):
    options = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0, **options}
    return model.fit(*data, **options).history


def assert_weights(model, other, rtol=1e-5):
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize(
    "options, chained",
    [
        ({"run_eagerly": True}, True),
        pytest.param({}, True, marks=pytest.mark.long),
        pytest.param({}, False, marks=pytest.mark.long),
        pytest.param({"jit_compile": True}, True, marks=pytest.mark.long),
        pytest.param({"steps_per_execution": 2}, True, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_the_sum_trains_as_keras_does(options, chained, data):
    """Loss weights, sample weights, penalties and metrics included."""
    arguments = {
        "loss": LOSSES,
        "loss_weights": {"a": 0.5, "b": 2.0},
        "metrics": {"b": ["accuracy"]},
        "jit_compile": False,
        **options,
    }
    weights = {"a": np.linspace(0.0, 1.0, 24), "b": np.linspace(2.0, 1.0, 24)}
    histories, models = [], []
    for kind in (keras.Model, lambda *parts: MultiTaskModel(*parts, combiner=Sum())):
        model = kind(*network(chained=chained))
        model.compile(optimizers.SGD(0.1, momentum=0.9), **arguments)
        histories.append(fit(model, data, sample_weight=weights, validation_data=data))
        models.append(model)
    assert_weights(*models)
    assert histories[1].pop("left_out") == [0, 0]
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5)


def own_gradients(model, x, y):
    """The two tasks' gradients, each from a tape of its own."""
    gradients = []
    for name, loss in (("a", keras.losses.MeanSquaredError()), ("b", LOSSES["b"])):
        with tf.GradientTape() as tape:
            value = loss(y[name], model(x, training=True)[name])
        gradients.append(tape.gradient(value, model.trainable_variables))
    return gradients


def test_one_step_of_pcgrad(data):
    model = multi_task(PCGrad(), penalty=False, jit_compile=True)
    x, y = data[0], {**data[1], "a": -3.0 * data[1]["a"]}
    before = model.get_weights()
    a, b = own_gradients(model, x, y)
    fit(model, (x, y), batch_size=24, epochs=1)
    flat_a, flat_b = (np.concatenate([np.ravel(g) for g in task[:2]]) for task in (a, b))
    product = flat_a @ flat_b
    expected = []
    for i, v in enumerate(model.trainable_variables):
        if "trunk" in v.path:
            ours, theirs = a[i].numpy(), b[i].numpy()
            if product < 0:
                ours, theirs = (
                    ours - product / (flat_b @ flat_b) * theirs,
                    theirs - product / (flat_a @ flat_a) * ours,
                )
            expected.append(ours + theirs)
        else:
            expected.append((a[i] if a[i] is not None else b[i]).numpy())
    for old, gradient, new in zip(before, expected, model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old - 0.1 * gradient, rtol=1e-5, atol=1e-7)
    assert product < 0  # or nothing was projected


def five_tasks(data, seed, **arguments):
    """A model, and data for it, in which PCGrad's order changes every step."""
    keras.utils.set_random_seed(seed)
    combine = PCGrad(**arguments)
    x = keras.Input((5,))
    trunk = L.Dense(8, "tanh", kernel_initializer="ones")(x)
    outputs = [L.Dense(1, kernel_initializer="ones", name=f"t{i}")(trunk) for i in range(5)]
    model = MultiTaskModel(x, outputs, combiner=combine)
    model.compile(optimizers.SGD(0.1), "mse", run_eagerly=True)
    return model, (data[0], [np.random.default_rng(i).normal(size=(24, 1)) for i in range(5)])


def test_save_load_and_train_on(data, tmp_path):
    model, data = five_tasks(data, 0, reduction="mean")
    options = {"batch_size": 12, "epochs": 1}
    fit(model, data, **options)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded) is MultiTaskModel and loaded.combiner.reduction == "mean"
    # Keras's files hold no seeds, those of its Dropout neither; checkpoints do.
    (state,) = (v for v in model.variables if v is model.combiner.seed_generator.state)
    loaded.combiner.seed_generator.state.assign(state)
    fit(model, data, **options)
    fit(loaded, data, **options)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class NotFinite(keras.losses.Loss):
    """The mean square, and NaN in batches that hold a target of 9."""

    def call(self, y_true, y_pred):
        bad = keras.ops.any(y_true == 9.0)
        return keras.ops.where(bad, float("nan"), 1.0) * keras.ops.square(y_true - y_pred)


@pytest.mark.parametrize("distributed", [False, pytest.param(True, marks=pytest.mark.long)])
def test_it_is_counted_who_is_left_out(distributed, data, replicas):
    x, y = data[0], {**data[1], "a": np.full((24, 2), 9.0, "float32")}
    with replicas.scope() if distributed else contextlib.nullcontext():
        graph = {"jit_compile": False} if distributed else {}
        model = multi_task(Sum(), loss={"a": NotFinite(), "b": LOSSES["b"]}, **graph)
    history = fit(model, (x, y), validation_data=(x, y))
    assert history["left_out"] == [3, 6] and model.left_out() == {"a": 6, "b": 0}


def test_scales_of_float8_are_no_gradients(data):
    models = []
    for kind in (keras.Model, lambda *parts: MultiTaskModel(*parts, combiner=Sum())):
        keras.utils.set_random_seed(0)
        x = keras.Input((5,))
        trunk = L.Dense(8, dtype="float8_from_float32")(x)
        model = kind(x, {"a": L.Dense(2)(trunk), "b": L.Dense(1)(trunk)})
        model.compile(optimizers.SGD(0.1), "mse", jit_compile=False)
        fit(model, data, batch_size=24, epochs=1)  # one step; then float8 rounds otherwise
        models.append({v.path.split("/", 1)[-1]: v.numpy() for v in model.variables})
    for path in ("inputs_scale", "kernel_scale", "inputs_amax_history", "kernel_amax_history"):
        (ours,), (theirs,) = ([v for p, v in m.items() if p.endswith(path)] for m in models)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_task_that_is_not_finite_is_left_out(data):
    x, y = data[0], {**data[1], "a": data[1]["a"].copy()}
    y["a"][9] = 9.0  # in the second of three batches
    model = multi_task(PCGrad(), loss={"a": NotFinite(), "b": LOSSES["b"]}, penalty=False)
    history = fit(model, (x, y), epochs=1)
    assert history["left_out"] == [1] and model.left_out() == {"a": 1, "b": 0}
    other = multi_task(PCGrad(), loss={"a": NotFinite(), "b": LOSSES["b"]}, penalty=False)
    parts = [slice(0, 8), slice(8, 16), slice(16, 24)]
    for i, part in enumerate(parts):
        batch = x[part], {name: values[part] for name, values in y.items()}
        if i != 1:
            fit(other, batch, epochs=1)
            continue
        before = other.get_weights()
        _, gradients = own_gradients(other, *batch)
        other.set_weights(
            [w if g is None else w - 0.1 * g for w, g in zip(before, gradients, strict=True)]
        )
    assert_weights(model, other)


def test_tasks_that_look_up_with_ids_of_different_dtypes():
    models = []
    for kind in (keras.Model, lambda *parts: MultiTaskModel(*parts, combiner=Sum())):
        keras.utils.set_random_seed(0)
        inputs = [keras.Input((3,), dtype=dtype) for dtype in ("int32", "int64")]
        table = L.Embedding(6, 2)
        outputs = [L.Dense(1, name=f"t{i}")(L.Flatten()(table(x))) for i, x in enumerate(inputs)]
        model = kind(inputs, outputs)
        model.compile(optimizers.SGD(0.1), "mse", run_eagerly=True)
        ids = np.random.default_rng(0).integers(0, 6, (24, 3))
        y = np.linspace(0.0, 1.0, 24)[:, None]
        fit(model, ([ids.astype("int32"), ids[::-1]], [y, 1.0 - y]), batch_size=12, epochs=1)
        models.append(model)
    assert_weights(*models)


def test_a_loss_scale_skips_the_whole_step(data):
    x, y = data[0], {**data[1], "a": data[1]["a"].copy()}
    y["a"][9] = 9.0
    optimizer = keras.optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=8.0)
    model = multi_task(PCGrad(), optimizer, loss={"a": NotFinite(), "b": LOSSES["b"]})
    fit(model, (x, y), epochs=1)
    assert float(optimizer.dynamic_scale) == 4.0 and int(optimizer.inner_optimizer.iterations) == 2


def test_the_trunk_runs_once_and_nothing_is_traced_again(data):
    calls = []

    class Counted(L.Dense):
        def call(self, x):
            calls.append(x)
            return super().call(x)

    x = keras.Input((5,))
    trunk = Counted(8)(x)
    outputs = {"a": L.Dense(2, name="a")(trunk), "b": L.Dense(1, name="b")(trunk)}
    model = MultiTaskModel(x, outputs, combiner=PCGrad())
    model.compile("sgd", LOSSES, jit_compile=False)
    calls.clear()
    fit(model, data, epochs=3)
    # Keras builds the metrics in a symbolic pass; the step is traced a second time where the
    # optimizer has made its variables.
    traced = len(calls)
    fit(model, data, epochs=3)
    assert len(calls) == traced <= 3


def test_the_monitor_sees_what_the_optimizer_gets(data, tmp_path, read_events):
    model = multi_task(PCGrad(), penalty=False)
    a, _ = own_gradients(model, data[0], data[1])
    monitor = GradientMonitor(tmp_path)
    fit(model, data, batch_size=24, epochs=1, callbacks=[monitor])
    head = np.sqrt(sum(np.sum(np.square(g)) for g in a if g is not None and g.shape[-1] == 2))
    assert read_events(tmp_path)["gradient_norm/a"][1] == pytest.approx(head, rel=1e-5)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            lambda x, y: ((x, y), {"combiner": "pcgrad"}),
            TypeError,
            r"`combiner` must be .*'pcgrad'",
        ),
        (lambda x, y: ((x, y["a"]), {"combiner": Sum()}), ValueError, "two or more.*1 output"),
    ],
)
def test_refusals(arguments, error, message):
    args, options = arguments(*network())
    with pytest.raises(error, match=message):
        MultiTaskModel(*args, **options)


def test_a_custom_combiner(data):
    class First(Combiner):
        def _weights(self, gramian, present):
            return tf.one_hot(0, gramian.shape[0], dtype=gramian.dtype)

    model = multi_task(First(), penalty=False)
    before = model.get_weights()
    a, _ = own_gradients(model, *data)
    fit(model, data, batch_size=24, epochs=1)
    np.testing.assert_allclose(model.get_weights()[0], before[0] - 0.1 * a[0], rtol=1e-5, atol=1e-7)


def test_listeners_see_the_tasks_gradients_as_the_step_is_traced(data, tmp_path):
    model, seen = multi_task(Sum(), penalty=False), []
    a, b = own_gradients(model, *data)
    model.listeners.append(lambda *arguments: seen.append(arguments))
    fit(model, data, batch_size=24, epochs=1)
    [(variables, task_gradients, combined)] = seen
    assert variables == model.trainable_variables
    for ours, own in zip(task_gradients, (a, b), strict=True):
        for ours_here, own_here in zip(ours, own, strict=True):
            assert (ours_here is None) == (own_here is None)
            if own_here is not None:
                np.testing.assert_allclose(ours_here, own_here, rtol=1e-5, atol=1e-7)
    rows = np.stack([np.ravel(a[0]), np.ravel(b[0])]).astype("float64")
    np.testing.assert_allclose(combined.gramians[0], rows @ rows.T, rtol=1e-5)
    assert combined.gramians[-1] is None and combined.present.numpy().all()

    # A plain list of functions, which neither files nor checkpoints know of.
    model.save(tmp_path / "model.keras")
    tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    assert type(model.listeners) is list
    assert keras.models.load_model(tmp_path / "model.keras").listeners == []
    model.run_eagerly = False
    model.make_train_function(force=True)
    fit(model, data, epochs=3)
    assert 2 <= len(seen) <= 4  # once for each trace, and not for each of the nine steps
