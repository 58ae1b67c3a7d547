"""Copies, pickles and configurations of every public class are the same again.

A class that is added without a place in `instances.py` makes the first test fail.
"""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from instances import BASES, INSTANCES, SERIALIZABLE, made_of, what_it_does
from trainings import public_classes

import keras_bp


def test_every_class_has_an_instance():
    classes = public_classes()
    assert set(INSTANCES) == set(classes) - BASES
    for name, make in INSTANCES.items():
        assert type(make()) is classes[name]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
@pytest.mark.parametrize("name", INSTANCES)
def test_copies(name, how):
    item = INSTANCES[name]()
    duplicate = how(item)
    assert type(duplicate) is type(item) and duplicate is not item
    np.testing.assert_equal(made_of(duplicate), made_of(item))
    if isinstance(item, keras.layers.Layer):  # with weights now, which Keras's copies have too
        what_it_does(item)
        duplicate = how(item)
    np.testing.assert_equal(what_it_does(duplicate), what_it_does(item))


def fitted(callback):
    """Train a model, of two tasks for the callback that compares them, and return it."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    trunk = keras_bp.layers.Dense(3, "tanh", name="trunk")(inputs)
    heads = {name: keras_bp.layers.Dense(1, name=name)(trunk) for name in ("head", "other")}
    tasks = isinstance(callback, keras_bp.callbacks.GradientConflict)
    pcgrad = keras_bp.multitask.PCGrad(seed=1)
    several, one = keras_bp.multitask.MultiTaskModel, keras.Model
    model = several(inputs, heads, combiner=pcgrad) if tasks else one(inputs, heads["head"])
    averages = isinstance(callback, keras_bp.callbacks.SwapEMAWeights)
    optimizer = keras_bp.optimizers.Adam(0.1, use_ema=averages)
    model.compile(optimizer, "mse", run_eagerly=True)
    fit_again(model, *([callback] if callback else []))
    return model


def fit_again(model, *callbacks):
    x = np.linspace(-1, 1, 24, dtype="float32").reshape(6, 4)
    y = x[:, :1] if len(model.outputs) == 1 else dict.fromkeys(model.output_names, x[:, :1])
    model.fit(x, y, batch_size=3, shuffle=False, verbose=0, callbacks=list(callbacks))


@pytest.mark.filterwarnings("ignore:DiscoveredSchedule takes its safe schedule:RuntimeWarning")
@pytest.mark.parametrize(
    "name", [n for n in INSTANCES if n.startswith("callbacks.") and n.count(".") == 1]
)
def test_copies_of_callbacks_after_a_fit(name, tmp_path, monkeypatch):
    """Without the model and its open files, and ready for another model."""
    monkeypatch.chdir(tmp_path)
    callback = INSTANCES[name]()
    if name == "callbacks.DiscoveredSchedule":
        callback.verbose = 0
    first = fitted(callback)
    duplicate = pickle.loads(pickle.dumps(copy.deepcopy(callback)))
    assert callback.model is first and duplicate.model is None
    for result in ("findings", "report", "steps_probed", "switched_at_epoch"):
        assert getattr(duplicate, result, None) == getattr(callback, result, None)
    if name == "callbacks.GradientConflict":
        assert duplicate.table() == callback.table() != []
    if name == "callbacks.ResumableTraining":
        duplicate.backup_dir = "another"
    second = fitted(duplicate)
    np.testing.assert_equal(second.get_weights(), first.get_weights())
    assert duplicate.model is second


@pytest.mark.parametrize("how", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
@pytest.mark.parametrize("callback", [None, keras_bp.callbacks.GradientConflict("logs")])
def test_copies_of_models_after_a_fit(callback, how, tmp_path, monkeypatch):
    """They train on to the bit, with the optimizer's and the combiner's state."""
    monkeypatch.chdir(tmp_path)
    model = fitted(callback)
    duplicate = how(model)
    fit_again(model)
    fit_again(duplicate)
    np.testing.assert_equal(duplicate.get_weights(), model.get_weights())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
def test_a_copied_generator_draws_on(how):
    jacobian = tf.constant(np.random.default_rng(0).normal(size=(5, 3)))
    combiner = keras_bp.multitask.PCGrad(seed=3)
    combiner(jacobian)
    duplicate = how(combiner)
    for _ in range(3):
        np.testing.assert_array_equal(duplicate(jacobian), combiner(jacobian))
    assert duplicate.get_config() == combiner.get_config()


@pytest.mark.parametrize("name", SERIALIZABLE)
def test_configurations(name):
    item = SERIALIZABLE[name]()
    config = item.get_config()
    text = json.dumps(keras.saving.serialize_keras_object(item))
    assert json.loads(text)["registered_name"] == f"keras_bp>{name.split('.')[1]}"
    assert "lambda" not in text
    # Weights of layers are drawn anew.
    draws = isinstance(item, keras.layers.Layer)
    expected = None if draws else what_it_does(SERIALIZABLE[name]())
    for again in (
        type(item).from_config(copy.deepcopy(config)),
        type(item).from_config(pickle.loads(pickle.dumps(config))),
        keras.saving.deserialize_keras_object(json.loads(text), safe_mode=True),
    ):
        assert type(again) is type(item)
        np.testing.assert_equal(again.get_config(), config)
        if not draws:
            np.testing.assert_equal(what_it_does(again), expected)
    assert item.get_config() == config


def test_a_subclass_names_only_the_arguments_that_it_adds():
    class Scaled(keras_bp.optimizers.Adam):
        argument_names = ("gamma",)

        def __init__(self, learning_rate=0.1, gamma=2.0, **kwargs):
            super().__init__(learning_rate, **kwargs)
            self.gamma = gamma

    config = Scaled(gamma=3.0, beta_1=0.5).get_config()
    assert (config["gamma"], config["beta_1"], config["epsilon_hat"]) == (3.0, 0.5, True)
    assert "amsgrad" not in keras_bp.optimizers.LazyAdam().get_config()
