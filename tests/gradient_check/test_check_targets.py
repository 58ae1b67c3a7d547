"""Stock layers, models of every kind and functions: right gradients are found right."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradient_check import check_gradients

layers = keras.layers
Sparse = keras.losses.SparseCategoricalCrossentropy


def _require_correct(report, rows=None):
    """The figure that central differences reach in float64 for a smooth function."""
    assert report.verdict == "correct", str(report)
    assert report.relative_difference < 1e-8, str(report)
    if rows is not None:
        assert [row.path for row in report.rows] == rows


def _dense_stack():
    return [
        layers.Dense(6, activation="tanh", kernel_regularizer="l2"),
        layers.BatchNormalization(),
        layers.Dropout(0.4),
        layers.LayerNormalization(),
        layers.Dense(3, activation="softmax", activity_regularizer="l2"),
    ]


def _recurrent_stack():
    return [
        layers.Embedding(9, 4, mask_zero=True),
        layers.LSTM(2, dropout=0.3, recurrent_dropout=0.3, return_sequences=True),
        layers.GRU(2, stateful=True),
        layers.Dense(3, activation="softmax"),
    ]


def _image_stack():
    return [
        layers.Conv2D(3, 3, activation="gelu"),
        layers.GroupNormalization(3),
        layers.SpatialDropout2D(0.3),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    ]


# A fault of Keras's nightly: its LSTM takes the mask all the same.
@pytest.mark.filterwarnings("ignore:Layer 'lstm.*does not support masking:UserWarning")
@pytest.mark.parametrize(
    "stack, shape", [(_dense_stack, (6, 5)), (_image_stack, (3, 8, 8, 2)), (_recurrent_stack, None)]
)
def test_sequential_models_that_are_not_built(rng, stack, shape):
    if shape is None:
        inputs = np.array([[3, 0, 8], [1, 2, 0]])  # with the mask value 0 among them
    else:
        inputs = rng.normal(size=shape)
    model = keras.Sequential(stack())
    _require_correct(check_gradients(model, inputs, rng.integers(0, 3, len(inputs)), Sparse()))
    assert model.built


def test_half_precision_is_checked_in_float64(rng):
    """Weights and all; mixed precision is checked in test_check_restores.py."""
    keras.config.set_dtype_policy("bfloat16")
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(4, "tanh"), layers.BatchNormalization()]
    )
    report = check_gradients(model, rng.normal(size=(6, 5)), rng.normal(size=(6, 4)), "log_cosh")
    _require_correct(report)
    assert report.rounded_at == ()
    assert model.layers[0].compute_dtype == "bfloat16"


def test_attention_with_two_arguments(rng):
    """The key's bias moves no softmax: a gradient of zero, of which only rounding is seen."""
    layer = layers.MultiHeadAttention(2, 3, dropout=0.2, name="mha")
    report = check_gradients(layer, [rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5, 4))])
    _require_correct(report)
    assert [row.path for row in report.rows[-2:]] == ["query", "value"]
    bias = {row.path: row for row in report.rows}["mha/key/bias"]
    assert bias.relative_difference > 1e-7
    assert bias.verdict == "correct"


def test_inputs_by_name(rng):
    class Ratio(layers.Layer):
        def call(self, over, under):
            return over / under

    by_name = {"under": np.array([2.0, 3.0]), "over": rng.normal(size=2)}
    report = check_gradients(Ratio(), by_name)
    _require_correct(report, ["over", "under"])


def test_two_inputs_two_outputs_and_a_shared_layer(rng):
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    shared = layers.Dense(4, activation="tanh", name="shared")
    merged = layers.Concatenate()([shared(left), shared(right)])
    first, second = layers.Dense(2, name="first")(merged), layers.Dense(1, name="second")(merged)
    x = [rng.normal(size=(5, 3)), rng.normal(size=(5, 3))]
    y = [rng.normal(size=(5, 2)), rng.normal(size=(5, 1))]
    rows = ["shared/kernel", "shared/bias", "first/kernel", "first/bias", "second/kernel"]
    rows += ["second/bias", "left", "right"]

    model = keras.Model([left, right], [first, second])
    _require_correct(check_gradients(model, x, y, "mean_squared_error"), rows)
    _require_correct(check_gradients(model, x, y, ["mse", keras.losses.LogCosh()]), rows)

    model = keras.Model({"left": left, "right": right}, {"a": first, "b": second})
    x, y = {"left": x[0], "right": x[1]}, {"b": y[1], "a": y[0]}
    report = check_gradients(model, x, y, {"a": "mse", "b": keras.losses.LogCosh()})
    _require_correct(report)
    assert {row.path for row in report.rows[-2:]} == {"left", "right"}


class Subclassed(keras.Model):
    """Layers created in the constructor, built by the first call; one in a list, one model."""

    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(4, activation="swish"), layers.BatchNormalization()]
        self.inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dropout(0.5)])
        self.penalties = {"mse": keras.losses.MeanSquaredError()}
        self.shift = tf.constant([0.1, 0.2, 0.3])  # float32, and kept as an attribute

    def call(self, inputs, training):
        x = inputs["x"]
        for block in self.blocks:
            x = block(x, training=training)
        x = self.inner(x, training=training) + self.shift
        self.add_loss(self.penalties["mse"](tf.zeros_like(x), x))
        return {"y": x, "index": tf.argmax(x, axis=-1)}


def test_subclassed_model_with_a_nested_one(rng):
    report = check_gradients(Subclassed(), {"x": rng.normal(size=(6, 3))})
    _require_correct(report)
    assert report.rounded_at == ()
    assert len(report.rows) == 7 and len(report.not_trainable) == 2
    assert report.rows[-1].path == "x"


def test_the_models_own_losses_count_with_a_loss(rng):
    """A kernel of zeros, a loss that does not see it, and an L2 penalty: its slope is 2 * 0.5 k."""
    layer = layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.5), name="d")
    x, y = np.zeros((3, 2)), np.zeros((3, 2))
    with_loss = check_gradients(layer, x, y, "mse")
    _require_correct(with_loss)
    kernel = layer.kernel.numpy()
    row = with_loss.rows[0]
    assert row.numeric == pytest.approx(kernel[row.worst_index], rel=1e-6)
    without = check_gradients(layer, x)
    assert without.rows[0].numeric == 0.0


def test_frozen_weights_are_left_out_and_named(rng):
    model = keras.Sequential([layers.Dense(4, name="a"), layers.Dense(2, name="b")], name="m")
    model.build((None, 3))
    model.layers[0].trainable = False
    report = check_gradients(model, rng.normal(size=(5, 3)))
    _require_correct(report, ["m/b/kernel", "m/b/bias", "inputs"])
    assert report.not_trainable == ("m/a/kernel", "m/a/bias")
    assert "2 weights are not trainable" in str(report)


def test_integer_and_boolean_inputs_are_passed_on(rng):
    def function(x, ids, keep):
        return tf.where(keep, tf.gather(x, ids), 0.0) ** 2

    keep = np.array([True, False, True])
    report = check_gradients(function, [rng.normal(size=5), np.array([1, 1, 4]), keep])
    _require_correct(report, ["x"])
    assert report.not_differentiable == ("ids", "keep")
    assert "inputs not differentiated: ids, keep" in str(report)


def test_repeated_ids_add_up(rng):
    """Sparse gradients with an id three times in the batch."""
    report = check_gradients(layers.Embedding(4, 2), np.array([[1, 1, 1, 2]]))
    _require_correct(report)
    # d/dtable[1, j] is the sum of three weights of magnitude 1 to 2.
    assert report.rows[0].shape == (4, 2)


def test_ids_given_as_floats_only_jump(rng):
    report = check_gradients(layers.Embedding(4, 2), np.array([[1.0, 3.0]]))
    assert report.verdict == "correct"


def test_functions(rng):
    x, w = rng.normal(size=(3, 2)), rng.normal(size=(2, 4))
    _require_correct(check_gradients(lambda a, b: tf.tanh(a @ b), [x, w]), ["a", "b"])
    _require_correct(check_gradients(lambda *t: tf.matmul(*t), (x, w)), ["inputs[0]", "inputs[1]"])
    _require_correct(check_gradients(lambda pair: pair[0] @ pair[1], [x, w]))
    _require_correct(check_gradients(tf.function(lambda a: tf.exp(a)), x), ["inputs"])
    _require_correct(check_gradients(lambda a: a**3, 2.0), ["inputs"])
    _require_correct(check_gradients(lambda a, training: a**3 if training else None, x))
    float32 = tf.constant(x, tf.float32)
    _require_correct(check_gradients(lambda a: keras.ops.sigmoid(a), float32))
    _require_correct(check_gradients(lambda a: tf.sqrt(a), keras.Variable([1.0, 2.0])))


def test_a_target_that_cannot_be_traced_runs_eagerly(with_gradient):
    def function(x, off):
        spoil = with_gradient(lambda g: off * g.numpy())
        return spoil(tf.constant(1.0, x.dtype) * x) ** 2

    x = np.linspace(0.5, 1.0, 4)
    _require_correct(check_gradients(lambda v: function(v, 1.0), x))
    assert check_gradients(lambda v: function(v, 1.001), x).verdict == "wrong"


def test_a_layer_with_state_starts_from_the_same_state_each_time(rng):
    class Counting(layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), initializer="ones", trainable=False)
            self.raw = tf.Variable(1.0)
            self.seeds = keras.random.SeedGenerator(3)

        def call(self, x):
            self.calls.assign(2.0 * self.calls)
            self.raw.assign(3.0 * self.raw)
            noise = keras.random.normal(tf.shape(x), seed=self.seeds)
            return x**2 * tf.convert_to_tensor(self.calls) * self.raw + noise * x

    layer = Counting()
    layer.build((None, 3))
    _require_correct(check_gradients(layer, rng.normal(size=(2, 3))))
    assert float(layer.calls) == 1.0 and float(layer.raw) == 1.0


def test_batch_normalization_of_inputs_far_from_zero(rng):
    """Taking the mean off costs four digits: more noise than the roundings of J itself make."""
    model = keras.Sequential([layers.BatchNormalization(), layers.Dense(3)])
    report = check_gradients(model, rng.normal(size=(32, 6)) + 1e4)
    assert report.verdict == "correct"
    assert report.rows[-1].relative_difference > 1e-7


def test_a_custom_loss(rng):
    class Cubic(keras.Loss):
        def __init__(self):
            super().__init__()
            self.inner = keras.losses.MeanAbsoluteError()

        def call(self, y_true, y_pred):
            return tf.abs(y_pred - y_true) ** 3 + self.inner(y_true, y_pred)

    loss = Cubic()
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    model = keras.Sequential([layers.Dense(2)])
    _require_correct(check_gradients(model, x, y, loss))
    assert loss.dtype == loss.inner.dtype == "float32"
    _require_correct(check_gradients(model, x, y, lambda t, p: (p - t) ** 4))


def test_a_model_under_a_distribution_strategy(rng, replicas):
    with replicas.scope():
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="tanh")])
    before = [id(v.value) for v in model.variables]
    _require_correct(check_gradients(model, rng.normal(size=(4, 3))))
    assert [id(v.value) for v in model.variables] == before


VALUES = {"value_range": (0, 1), "seed": 1}


def preprocessing_layers():
    """Return layers by verdict; docs/gradient_check.md lists them."""
    return {
        "suspicious": [
            *(layers.Resizing(7, 6), layers.Resizing(7, 6, interpolation="bicubic")),
            *(layers.UpSampling2D(interpolation="bilinear"), layers.RandomCrop(3, 3, seed=1)),
            layers.RandomTranslation(0.2, 0.2, fill_mode="constant", seed=1),
        ],
        "wrong": [
            *(layers.RandomTranslation(0.2, 0.2, seed=1), layers.RandomZoom(0.3, seed=1)),
            *(layers.RandomShear(0.3, 0.3, seed=1), layers.RandomPerspective(seed=1)),
            *(layers.RandomHue(0.3, **VALUES), layers.RandomSaturation((0.3, 0.6), **VALUES)),
        ],
        "correct": [
            *(layers.Resizing(7, 6, interpolation="nearest"), layers.CenterCrop(3, 3)),
            *(
                layers.Rescaling(0.3),
                layers.RandomFlip(seed=1),
                layers.RandomContrast(0.3, **VALUES),
            ),
            *(layers.RandomBrightness(0.1, **VALUES), layers.RandomGaussianBlur(**VALUES)),
            *(layers.RandomElasticTransform(**VALUES), layers.Equalization(value_range=(0, 1))),
        ],
        "error": [
            *(layers.Resizing(7, 6, interpolation=i) for i in ("lanczos3", "lanczos5", "area")),
            *(layers.RandomRotation(0.2, seed=1), layers.CenterCrop(7, 7)),
        ],
    }


@pytest.mark.long
def test_preprocessing_layers():
    images = np.random.default_rng(0).uniform(0.05, 0.95, (2, 5, 5, 3))
    errors = tf.errors.InvalidArgumentError, ValueError, LookupError
    made = preprocessing_layers()
    for layer in made.pop("error"):
        with pytest.raises(errors):
            check_gradients(layer, images, max_entries=12)
    for verdict, some in made.items():
        for layer in some:
            report = check_gradients(layer, images, max_entries=12)
            assert report.verdict == verdict, (layer, report)
            assert report.is_rounded or verdict != "suspicious"
