"""MultiTaskModel passes losses to GradNorm and UncertaintyWeighting, and keeps their variables."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import optimizers
from keras_bp.multitask import GradNorm, LossWeighting, MultiTaskModel, Sum, UncertaintyWeighting

LOSSES = {"a": "mse", "b": keras.losses.BinaryCrossentropy(from_logits=True), "c": None}


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 5)).astype("float32")
    return x, {"a": 3.0 * x[:, :2], "b": (x[:, :1] > 0).astype("float32"), "c": x}


def model(combine, optimizer=None, **options):
    keras.utils.set_random_seed(0)
    x = keras.Input((5,))
    trunk = keras.layers.Dense(8, "tanh", name="trunk", kernel_regularizer="l2")(x)
    outputs = {name: keras.layers.Dense(n, name=name)(trunk) for name, n in (("a", 2), ("b", 1))}
    outputs["c"] = keras.layers.Rescaling(2.0, name="c")(x)  # without a loss
    model = MultiTaskModel(x, outputs, combiner=combine)
    weights = {"a": 0.5, "b": 2.0, "c": 1.0}
    # Eagerly, where how the steps run does not matter: nothing is traced.
    eager = "jit_compile" not in options
    options = {"run_eagerly": eager, "loss": LOSSES, "loss_weights": weights, **options}
    model.compile(optimizer or keras.optimizers.SGD(0.1), **options)
    return model


class Noted(LossWeighting):
    """Sums, and keeps the losses that it was given."""

    def _new_variables(self, tasks):
        self.seen = tf.Variable(tf.zeros(tasks, tf.float64), trainable=False)
        return [self.seen]

    def _weights(self, gramian, present, losses):
        self.seen.assign(losses)
        return tf.cast(present, gramian.dtype)


def test_a_model_hands_on_each_outputs_weighted_loss():
    noted = model(Noted(), jit_compile=False)  # in a graph; the other one's way does not matter
    x, y = data()
    predicted = noted(x)
    a = np.mean((predicted["a"] - y["a"]) ** 2)
    b = keras.losses.BinaryCrossentropy(from_logits=True)(y["b"], predicted["b"])
    logs = noted.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(noted.combiner.seen, [0.5 * a, 2.0 * b, 0.0], rtol=1e-5)
    plain = model(Sum())
    assert logs["loss"] == pytest.approx(plain.train_on_batch(x, y, return_dict=True)["loss"])
    assert logs["left_out"] == 0
    for ours, theirs in zip(noted.weights, plain.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "cls", [GradNorm, pytest.param(UncertaintyWeighting, marks=pytest.mark.long)]
)
def test_a_model_saves_the_weights_and_goes_on(cls, tmp_path):
    x, y = data()
    options = {"batch_size": 16, "shuffle": False, "verbose": 0}
    through, half = model(cls(learning_rate=0.1)), model(cls(learning_rate=0.1))
    through.fit(x, y, epochs=2, **options)
    half.fit(x, y, epochs=1, **options)
    half.save(tmp_path / "half.keras")
    again = keras.saving.load_model(tmp_path / "half.keras")
    assert again.combiner.get_config() == half.combiner.get_config()
    again.run_eagerly = True
    again.fit(x, y, epochs=1, **options)
    fresh = cls()
    fresh.build(3)
    assert not np.allclose(through.combiner.variables[0], fresh.variables[0])
    for one, other in zip(through.combiner.variables, again.combiner.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for one, other in zip(through.weights, again.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_a_checkpoint_of_tensorflow_has_them(tmp_path):
    x, y = data()
    trained, fresh = model(GradNorm(learning_rate=0.1)), model(GradNorm(learning_rate=0.1))
    trained.fit(x, y, verbose=0)
    path = tf.train.Checkpoint(model=trained).save(tmp_path / "checkpoint")
    tf.train.Checkpoint(model=fresh).restore(path)
    for one, other in zip(trained.combiner.variables, fresh.combiner.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_skipped_step_moves_nothing():
    combine = UncertaintyWeighting(learning_rate=0.1)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0)
    trained = model(combine, optimizer=scaled)
    x, y = data()
    trained.train_on_batch(x, y)
    before = [variable.numpy() for variable in combine.variables]
    trained.train_on_batch(x, {**y, "a": y["a"] * np.inf})
    for old, variable in zip(before, combine.variables, strict=True):
        np.testing.assert_array_equal(old, variable)
    trained.train_on_batch(x, y)
    assert not np.array_equal(before[0], combine.variables[0])


def test_several_losses_of_an_output_and_other_structures():
    """What Keras takes for `loss` and `y`, it is given too."""
    x, y = data()
    noted = model(Noted(), loss={"a": ["mse", "mae"], "b": "mse", "c": None}, loss_weights=None)
    error = noted(x)["a"] - y["a"]
    noted.train_on_batch(x, y)
    wanted = np.mean(error**2) + np.mean(np.abs(error))
    np.testing.assert_allclose(noted.combiner.seen[0], wanted, rtol=1e-5)
    inputs = keras.Input((5,))
    trunk = keras.layers.Dense(4)(inputs)
    outputs = [keras.layers.Dense(1, name=name)(trunk) for name in "ab"]
    listed = MultiTaskModel(inputs, outputs, combiner=GradNorm())
    listed.compile("sgd", "mse")
    for steps in (listed.train_step, lambda batch: listed.train_on_batch(*batch)):
        steps((x, {"a": y["b"], "b": y["b"]}))
    assert (listed.combiner.variables[1].numpy() > 0.0).all()


def test_a_loss_that_bypasses_compile_is_refused():
    class Own(MultiTaskModel):
        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            return tf.reduce_mean(y_pred["a"] ** 2)

    keras.utils.set_random_seed(0)
    x = keras.Input((5,))
    trunk = keras.layers.Dense(4)(x)
    outputs = {name: keras.layers.Dense(1, name=name)(trunk) for name in "ab"}
    own = Own(x, outputs, combiner=GradNorm())
    own.compile("sgd", "mse")
    with pytest.raises(ValueError, match="`compute_loss` must hand.*no loss for output 0"):
        own.fit(data()[0], {"a": data()[0][:, :1], "b": data()[0][:, :1]}, verbose=0)


def test_two_models_may_share_a_combiner():
    combine, (x, y) = GradNorm(learning_rate=0.1), data()
    one, other = model(combine), model(combine)
    one.fit(x, y, verbose=0)
    shared = [v for v in one.variables if any(v is w for w in other.variables)]
    assert len(shared) == len(combine.variables) == 2


@pytest.mark.parametrize(
    "cls", [GradNorm, pytest.param(UncertaintyWeighting, marks=pytest.mark.long)]
)
def test_two_replicas_are_one(cls, replicas):
    x, y = data()
    alone = model(cls(learning_rate=0.1), optimizers.Adam(0.01))
    with replicas.scope():
        both = model(cls(learning_rate=0.1), optimizers.Adam(0.01), jit_compile=False)
    options = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}
    histories = [trained.fit(x, y, **options).history for trained in (alone, both)]
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5)
    for one, other in zip(alone.combiner.variables, both.combiner.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    for one, other in zip(alone.weights, both.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
