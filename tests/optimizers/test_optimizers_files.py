"""Saved after k steps, loaded and trained on: bit for bit the training that was not stopped."""

import copy
import pickle

import keras
import numpy as np
import pytest
from optimizer_cases import (
    KINDS,
    NAMES,
    REFUSED,
    X,
    Y,
    assert_same,
    batches,
    make,
    model,
    weights,
)

from keras_bp import optimizers


def schedule():
    return keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.5)


# Saved after 5 steps: inside of an update and inside of a cycle of the average; the rate was set on
# top of the schedule after the third step. Rules without options are in tests/conformance.
EVERYTHING = {
    "gradient_accumulation_steps": 2,
    "global_clipnorm": 0.5,
    "weight_decay": 0.05,
    "exclude_from_decay": ["bias_and_normalization", "embedding/"],
    "use_ema": True,
    "ema_momentum": 0.6,
    "ema_overwrite_frequency": 4,
}


def train(net, first, last):
    for number, (x, y) in list(enumerate(batches(2) * 2))[first:last]:
        if number == 3:
            net.optimizer.learning_rate = 0.02
        net.train_on_batch(x, y)
    return net


@pytest.mark.parametrize("name", [*KINDS, "ScheduleFreeAdamW"])
def test_resumed_is_uninterrupted(name, tmp_path):
    net = model(name, make(name, schedule(), **EVERYTHING), run_eagerly=True)
    train(net, 0, 5).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.compile(loaded.optimizer, loaded.loss, run_eagerly=True)
    assert type(loaded.optimizer) is getattr(optimizers, name)
    assert_same(loaded.optimizer.variables, net.optimizer.variables)
    assert float(loaded.optimizer.learning_rate) == float(net.optimizer.learning_rate)
    for each in (net, loaded):
        train(each, 5, 9)
        each.optimizer.finalize_variable_values(each.trainable_variables)
    assert_same(weights(loaded), weights(net))
    assert_same(loaded.optimizer.variables, net.optimizer.variables)
    # The rate that was set scales the schedule: 0.02 at step 1, and so on from there.
    rate = 0.02 * 0.5 ** ((int(net.optimizer.iterations) - 1) / 3)
    np.testing.assert_allclose(float(loaded.optimizer.learning_rate), rate, rtol=1e-6)


def test_resumed_is_uninterrupted_in_fit(tmp_path):
    """A checkpoint of fit, written inside of an update; graphs, a loss scale and half precision."""
    keras.config.set_dtype_policy("mixed_float16")
    options = {"gradient_accumulation_steps": 2, "clipnorm": 0.1, "layer_decay": 0.5}
    options |= {"cautious": True, "skip_above_zscore": 9.0, "swa_start": 2, "lookahead_steps": 2}
    net = model("AdamW", make("AdamW", **options))
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{batch}.keras", save_freq=3)
    net.fit(X, Y, batch_size=2, shuffle=False, verbose=0, callbacks=[checkpoint])
    loaded = keras.models.load_model(tmp_path / "3.keras")
    assert type(loaded.optimizer.inner_optimizer) is optimizers.AdamW
    assert int(loaded.optimizer.inner_optimizer.iterations) == 1
    loaded.fit(X[6:], Y[6:], batch_size=2, shuffle=False, verbose=0)
    assert_same(weights(loaded), weights(net))


def test_weights_of_a_file_keep_the_optimizer_out(tmp_path):
    """A schedule that was set after the start, and a rate set before the optimizer is built."""
    net = model("Adam", run_eagerly=True)
    net.optimizer.learning_rate = schedule()
    train(net, 0, 3).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert float(loaded.optimizer.learning_rate) == float(net.optimizer.learning_rate)
    assert_same(loaded.optimizer.variables, net.optimizer.variables)


# A value of its own for every argument, so that one that is lost shows.
OPTIONS = {
    "weight_decay": 0.02,
    "clipnorm": 1.5,
    "use_ema": True,
    "ema_momentum": 0.8,
    "ema_overwrite_frequency": 3,
    "loss_scale_factor": 8.0,
    "gradient_accumulation_steps": 3,
    "exclude_from_decay": ["bias_and_normalization", "block_1/"],
    "learning_rate_multipliers": {"embeddings": 0.5, "block_1/": 0.0},
    "weight_decay_multipliers": {"block_1/": 2.0},
    "layer_decay": 0.75,
    "layer_order": ["embeddings", "block_1/"],
    "cautious": True,
    "adaptive_clip": 0.1,
    "update_clip": 2.0,
    "clip_above_zscore": 2.5,
    "skip_above_zscore": 6.0,
    "lookahead_steps": 5,
    "lookahead_alpha": 0.75,
    "name": "mine",
}
OWN = {
    "SGD": {"momentum": 0.5, "nesterov": True},
    "Momentum": {"beta": 0.6},
    "Nesterov": {"beta": 0.6},
    "RMSprop": {
        "rho": 0.8,
        "momentum": 0.3,
        "epsilon": 1e-4,
        "centered": True,
        "epsilon_in_sqrt": False,
    },
    "Adam": {
        "beta_1": 0.8,
        "beta_2": 0.95,
        "epsilon": 1e-4,
        "amsgrad": True,
        "epsilon_hat": False,
    },
    "AdamW": {
        "beta_1": 0.8,
        "beta_2": 0.95,
        "epsilon": 1e-4,
        "amsgrad": True,
        "epsilon_hat": False,
    },
    "Lamb": {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4},
    "Lion": {"beta_1": 0.8, "beta_2": 0.95},
    "Adagrad": {"initial_accumulator_value": 0.3, "epsilon": 1e-4, "epsilon_in_sqrt": False},
    "Ftrl": {
        "learning_rate_power": -0.3,
        "initial_accumulator_value": 0.3,
        "l1_regularization_strength": 0.1,
        "l2_regularization_strength": 0.2,
        "l2_shrinkage_regularization_strength": 0.4,
        "beta": 0.6,
    },
    "Adadelta": {"rho": 0.8, "epsilon": 1e-4},
    "Adamax": {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4},
    "Nadam": {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4, "momentum_decay": 0.1},
    "Adafactor": {
        "beta_2_decay": -0.7,
        "epsilon_1": 1e-20,
        "epsilon_2": 1e-2,
        "clip_threshold": 0.5,
        "relative_step": False,
    },
    "LazyAdam": {
        "beta_1": 0.8,
        "beta_2": 0.95,
        "epsilon": 1e-4,
        "correction": "row",
        "epsilon_hat": False,
    },
    "DeferredAdam": {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4},
    "DoG": {"r_epsilon": 1e-3, "epsilon": 1e-4, "init_eta": 1e-5},
    "HypergradientAdam": {
        "hypergradient_rate": 1e-5,
        "beta_1": 0.8,
        "beta_2": 0.95,
        "epsilon": 1e-4,
    },
    "Prodigy": {
        "beta_1": 0.8,
        "beta_2": 0.95,
        "epsilon": 1e-4,
        "beta_3": 0.7,
        "d0": 1e-5,
        "d_coef": 0.5,
        "growth_rate": 1.02,
        "use_bias_correction": True,
        "safeguard_warmup": True,
    },
    "ScheduleFreeSGD": {"momentum": 0.8, "warmup_steps": 7, "r": 2.0},
    "ScheduleFreeRAdam": {
        "beta_1": 0.8,
        "beta_2": 0.95,
        "epsilon": 1e-4,
        "silent_sgd_phase": True,
        "r": 2.0,
    },
    "Muon": {
        "adam_weight_decay": None,
        "exclude_layers": ["head"],
        "muon_a": 3.0,
        "ns_steps": 4,
        "rms_rate": "original",
        "per_head": False,
        "exclude_output": False,
        "ns_dtype": "bfloat16",
    },
    "ScheduleFreeAdamW": {
        "beta_1": 0.8,
        "beta_2": 0.95,
        "epsilon": 1e-4,
        "warmup_steps": 7,
        "r": 2.0,
    },
}


@pytest.mark.parametrize("rate", [0.25, schedule(), keras.optimizers.schedules.CosineDecay(0.1, 9)])
@pytest.mark.parametrize("name", NAMES)
def test_config(name, rate):
    optimizer = make(name, rate, **OPTIONS, **OWN[name])
    config = optimizer.get_config()
    given = {**OPTIONS, **OWN[name]}
    refused = {*REFUSED.get(name, ()), *type(optimizer).refused_options}
    given = {key: o for key, o in given.items() if key not in refused}
    assert {key: config[key] for key in given} == given
    again = type(optimizer).from_config(copy.deepcopy(config))
    assert again.get_config() == config
    serialized = keras.saving.serialize_keras_object(optimizer)
    assert serialized["registered_name"] == f"keras_bp>{name}"
    assert keras.saving.deserialize_keras_object(serialized).get_config() == config
    assert keras.optimizers.get(keras.optimizers.serialize(optimizer)).get_config() == config


@pytest.mark.parametrize("name", ["Adam", "DeferredAdam"])
def test_copies_of_a_model(name):
    """Of which a built optimizer is a part."""
    net = train(model(name, run_eagerly=True), 0, 2)
    other = pickle.loads(pickle.dumps(net)) if name == "Adam" else copy.deepcopy(net)
    other.compile(other.optimizer, other.loss, run_eagerly=True)
    assert_same(other.optimizer.variables, net.optimizer.variables)
    assert_same(weights(train(other, 2, 4)), weights(train(net, 2, 4)))


def test_an_h5_file_goes_on_where_it_was_saved(tmp_path):
    """Keras builds the optimizer on no variables there: its own cannot train on.

    Prodigy has slots and variables that all weights share.
    """
    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(make("Prodigy", 1.0), keras.losses.MeanSquaredError(), run_eagerly=True)
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.h5")
    loaded = keras.saving.load_model(tmp_path / "model.h5")
    loaded.run_eagerly = True
    for net in model, loaded:
        net.train_on_batch(x, y)
    assert int(loaded.optimizer.iterations) == 2
    for array, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(array, other)
