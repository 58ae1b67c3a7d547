"""to_keras: the same outputs from Keras's own classes, in a file and an export without ours."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp import layers, losses, optimizers

X = np.random.default_rng(0).integers(0, 10, (16, 6)).astype("int32")


@pytest.fixture(scope="module")
def model():
    """Layers of ours in a wrapper, in an inner model and used twice."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,), dtype="int32")
    h = layers.DeferredEmbedding(10, 4)(inputs)
    h = keras.layers.TimeDistributed(layers.Dense(5, "relu"))(h)
    h = layers.GroupNormalization(1)(layers.LayerNormalization()(h))
    h = keras.layers.Flatten()(layers.Embedding(10, 5)(inputs) + h)
    inner = [layers.FeedbackDense(4, "tanh"), layers.BatchNormalization(), layers.Dropout(0.2)]
    h = keras.Sequential([keras.Input((30,)), *inner], name="inner")(layers.Detach()(h))
    shared = layers.Dense(4, "sigmoid", name="shared")
    outputs = layers.Dense(3, "softmax")(shared(shared(h)))
    model = keras.Model(inputs, outputs)
    model.compile(keras_bp.optimizers.DeferredAdam(0.1), keras_bp.losses.BinaryCrossentropy())
    generator = np.random.default_rng(1)
    for variable in model.weights:
        if variable.name in ("kernel", "bias", "moving_mean", "moving_variance", "gamma"):
            variable.assign(generator.uniform(0.1, 1.0, variable.shape))
    return model


def test_a_file_and_an_export_need_nothing_of_ours(model, tmp_path):
    plain = keras_bp.to_keras(model)
    file = tmp_path / "model.keras"
    plain.save(file)
    with zipfile.ZipFile(file) as archive:
        assert "keras_bp" not in archive.read("config.json").decode()
    plain.export(tmp_path / "export", verbose=False)
    expected = model(X).numpy()
    loaded = keras.saving.load_model(file)
    served = tf.saved_model.load(tmp_path / "export")
    model.export(tmp_path / "ours", verbose=False)
    as_it_is = tf.saved_model.load(tmp_path / "ours")
    for outputs in (plain(X), loaded(X), served.serve(X), as_it_is.serve(X)):
        # The same operations in another kernel: a few roundings of a probability.
        np.testing.assert_allclose(outputs, expected, atol=1e-6)


RATE = keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)


@pytest.mark.parametrize(
    "optimizer, loss",
    [
        (optimizers.SGD(0.1, momentum=0.9, nesterov=True), losses.BinaryCrossentropy()),
        (
            optimizers.AdamW(
                weight_decay=0.5,
                exclude_from_decay="bias_and_normalization",
                global_clipnorm=0.1,
                use_ema=True,
            ),
            losses.CategoricalCrossentropy(label_smoothing=0.1),
        ),
        (
            keras.optimizers.LossScaleOptimizer(
                optimizers.RMSprop(RATE, momentum=0.9, centered=True)
            ),
            losses.SparseCategoricalCrossentropy(),
        ),
        (optimizers.Adam(amsgrad=True, use_ema=True), losses.CategoricalCrossentropy()),
        (optimizers.Nadam(), losses.CategoricalCrossentropy()),
    ],
    ids=["SGD", "AdamW", "RMSprop", "AMSGrad", "Nadam"],
)
def test_training_goes_on_with_the_same_steps(optimizer, loss):
    """Of one that has begun: 50 more, with the same slots, masks and excluded variables."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 4)), np.eye(3)[generator.integers(0, 3, 40)]
    if isinstance(loss, losses.SparseCategoricalCrossentropy):
        y = y.argmax(1)
    wide = {"dtype": "float64"}
    inner = [layers.Dense(6, "relu", **wide), layers.BatchNormalization(**wide)]
    inner += [layers.Dropout(0.3, **wide), layers.Dense(3, "softmax", **wide)]
    model = keras.Sequential([keras.Input((4,), **wide), *inner])
    model.compile(optimizer, loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    plain = keras_bp.to_keras(model)
    assert "keras_bp" not in json.dumps(keras.saving.serialize_keras_object(plain))
    for one in (model, plain):
        one.fit(x, y, batch_size=8, epochs=10, shuffle=False, verbose=0)
    for mine, other in zip(model.variables, plain.variables, strict=True):
        # The losses compute in float32, and so do norms: seen up to 3e-7.
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6)


def test_half_precision_keeps_its_loss_scale():
    """`compile` adds it for the model's dtype policy, which the model's config does not hold."""
    half = {"dtype": "mixed_float16"}
    inner = [layers.Dense(6, "relu", **half), layers.Dense(1, "sigmoid", dtype="float32")]
    model = keras.Sequential([keras.Input((4,)), *inner])
    model.dtype_policy = keras.DTypePolicy("mixed_float16")  # what a global policy does
    model.compile(optimizers.Adam(0.01), losses.BinaryCrossentropy())
    x = np.random.default_rng(0).normal(size=(16, 4))
    y = (x[:, :1] > 0).astype("float32")
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    plain = keras_bp.to_keras(model)
    assert isinstance(plain.optimizer, keras.optimizers.LossScaleOptimizer)
    for one in (model, plain):
        one.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for mine, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.Adam(epsilon_hat=False),
        optimizers.Adam(keras_bp.schedules.WarmupCosine(0.1, 10, 2)),
        optimizers.Lamb(weight_decay=0.1),
        optimizers.SGD(gradient_accumulation_steps=2),
        optimizers.Momentum(),
        optimizers.ScheduleFreeAdamW(),
        optimizers.Adafactor(),
        optimizers.Nadam(momentum_decay=0.004),
        optimizers.Muon(exclude_output=False),
        keras.saving.register_keras_serializable("tests")(type("Own", (optimizers.SGD,), {}))(),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_a_step_that_keras_lacks_is_left_out(optimizer):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile(optimizer, "mse")
    assert not keras_bp.to_keras(model).compiled


def _own(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_pred - y_true), -1)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize(
    "arguments",
    [
        {"loss": _own},
        {"loss": lambda y_true, y_pred: _own(y_true, y_pred)},
        {"loss": "mse", "metrics": [_own]},
        {"loss": losses.SparseCategoricalCrossentropy(axis=1)},  # Keras's takes the last axis alone
    ],
    ids=["function", "lambda", "metric", "axis"],
)
def test_a_loss_that_keras_cannot_load_is_left_out(arguments):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", **arguments)
    assert not keras_bp.to_keras(model).compiled


@pytest.mark.parametrize("module", [optimizers, keras.optimizers], ids=["ours", "Keras's"])
def test_an_optimizer_of_other_variables_is_left_out(module):
    """As after a layer was frozen, or where a custom loop trains a part."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2), layers.Dense(1)])
    model.compile(module.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    assert keras_bp.to_keras(model).compiled
    model.layers[0].trainable = False
    plain = keras_bp.to_keras(model)
    assert not plain.compiled
    np.testing.assert_array_equal(plain(np.ones((1, 2))), model(np.ones((1, 2))))


def test_the_scale_of_a_loss_in_half_precision_is_passed_on():
    """`compile` puts it around the optimizer by the policy in which a model is made."""
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile(optimizers.Adam(), "mse")
    model.fit(np.ones((4, 2)), 99 * np.ones((4, 1)), verbose=0)
    assert model.optimizer.dynamic_scale < model.optimizer.initial_scale  # it has overflowed
    for policy in ("mixed_float16", "float32"):
        keras.config.set_dtype_policy(policy)
        scaled = keras_bp.to_keras(model).optimizer
        assert type(scaled.inner_optimizer) is keras.optimizers.Adam
        np.testing.assert_array_equal(scaled.dynamic_scale, model.optimizer.dynamic_scale)


@pytest.mark.parametrize("module", [optimizers, keras.optimizers], ids=["ours", "Keras's"])
def test_what_does_not_decay_is_passed_on(module):
    """Of ours before training too; Keras's own tell it only when they are built."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, bias_initializer="ones")])
    optimizer = module.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse")
    if module is keras.optimizers:
        optimizer.build(model.trainable_variables)
    plain = keras_bp.to_keras(model)
    variables = plain.trainable_variables
    kernel, bias = (variable.numpy() for variable in variables)
    plain.optimizer.apply([tf.zeros_like(kernel), tf.zeros_like(bias)], variables)
    np.testing.assert_allclose(variables[0], 0.95 * kernel, rtol=1e-6)
    np.testing.assert_array_equal(variables[1], bias)


def test_the_table_of_deferred_rows_is_read_as_the_layer_reads_it():
    """A custom loop leaves rows behind; only `fit` ends with `catch_up`."""
    net = keras.Sequential([keras.Input((1,), dtype="int32"), layers.DeferredEmbedding(3, 2)])
    optimizer = keras_bp.optimizers.DeferredAdam(0.1)
    for ids in ([[0]], [[1]], [[1]]):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(net(tf.constant(ids)))
        variables = net.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
    ids = np.arange(3)[:, None]
    outputs = keras_bp.to_keras(net)(ids)
    np.testing.assert_allclose(outputs, net(ids), atol=1e-7)
    assert np.abs(outputs[0] - net.weights[0][0]).max() > 0.01  # the row as it is stored


def test_a_low_rank_update_is_applied_once():
    net = keras.Sequential([keras.Input((6,), dtype="int32"), layers.Embedding(10, 4, lora_rank=2)])
    net.set_weights([np.ones(w.shape) for w in net.weights])
    np.testing.assert_array_equal(keras_bp.to_keras(net)(X), net(X))


def test_several_tasks():
    inputs = keras.Input((2,))
    outputs = {name: layers.Dense(1, name=name)(inputs) for name in "ab"}
    model = keras_bp.multitask.MultiTaskModel(inputs, outputs, combiner=keras_bp.multitask.PCGrad())
    plain = keras_bp.to_keras(model)
    assert "keras_bp" not in json.dumps(keras.saving.serialize_keras_object(plain))
    x = np.ones((3, 2))
    for name in "ab":
        np.testing.assert_array_equal(plain(x)[name], model(x)[name])


@keras.saving.register_keras_serializable("tests")
class WithoutCall(keras.Model):
    """Its `train_step` would call the layers; their names are automatic."""

    def __init__(self, shape=(3,), **kwargs):
        super().__init__(**kwargs)
        self.shape = shape
        inputs = [keras.Input(shape)] if shape else []
        self.encoder = keras.Sequential([*inputs, keras.layers.Dense(2)])

    def get_config(self):
        return {"name": self.name, "shape": self.shape}


def test_a_model_without_call():
    model = WithoutCall()
    assert not model.built
    x = np.ones((1, 3))
    np.testing.assert_array_equal(keras_bp.to_keras(model).encoder(x), model.encoder(x))
    model = WithoutCall(None)
    model.encoder(x)  # the new model's would have no weights yet
    with pytest.raises(ValueError, match="`model` must be built"):
        keras_bp.to_keras(model)


def test_what_has_no_namesake_is_named():
    x = keras.Input((4,))
    h = layers.Dense(3, "tanh")(x)
    z = layers.Dense(2)(layers.Detach()(h))
    model = keras.Model(x, layers.DirectFeedback(name="last")([z, h]))
    with pytest.raises(ValueError, match=r"`model` must .*Received: DirectFeedback 'last'"):
        keras_bp.to_keras(model)
    own = keras.saving.register_keras_serializable("tests")(type("Own", (layers.Dense,), {}))
    with pytest.raises(ValueError, match=r"`model` must .*Received: Own 'mine'"):
        keras_bp.to_keras(keras.Sequential([x, own(2, name="mine")]))
    with pytest.raises(ValueError, match="`model` must be built"):
        keras_bp.to_keras(keras.Sequential([layers.Dense(1)]))
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: model=3"):
        keras_bp.to_keras(3)


def test_show_versions(capsys):
    keras_bp.show_versions()
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["keras_bp"] == keras_bp.__version__
    assert shown["keras"] == keras.__version__ and shown["numpy"] == np.__version__
