"""What OptimizerSwitch refuses, and that it leaves the model as it was then."""

import numpy as np
import pytest
from switch_cases import PLATEAU, SWITCHED, build, fit, state

from keras_bp.callbacks import OptimizerSwitch
from keras_bp.optimizers import SGD


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"learning_rate": "fast"}, TypeError),
        ({"learning_rate": None}, TypeError),
        ({"learning_rate": True}, TypeError),
        ({"learning_rate": 0.0}, ValueError),
        ({"learning_rate": -0.1}, ValueError),
        ({"learning_rate": np.inf}, ValueError),
        ({"optimizer": "sgd"}, TypeError),
        ({"optimizer": SGD(0.1)}, TypeError),
        ({"warmup_steps": -1}, ValueError),
        ({"warmup_steps": 2.0}, TypeError),
        ({"monitor": None}, TypeError),
        ({"patience": 0}, ValueError),
        ({"patience": 1.5}, TypeError),
        ({"min_delta": -1e-9}, ValueError),
        ({"min_delta": "0"}, TypeError),
        ({"mode": "up"}, ValueError),
        ({"verbose": -1}, ValueError),
    ],
)
def test_bad_arguments(arguments, error):
    [(name, value)] = arguments.items()
    with pytest.raises(error, match=rf"`{name}` must be .*Received: {name}="):
        OptimizerSwitch(**{"learning_rate": 0.1, **arguments})


def test_least_arguments():
    OptimizerSwitch(np.float32(1e-9), warmup_steps=0, patience=1, min_delta=0, mode="max")


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"learning_rate": lambda model: "fast"}, TypeError, "`learning_rate` must be a number"),
        ({"learning_rate": lambda model: 0.0}, ValueError, "`learning_rate` must be a finite"),
        ({"optimizer": lambda rate: "sgd"}, TypeError, "`optimizer` must return a keras.*"),
    ],
)
def test_functions_that_return_something_else(arguments, error, message, data):
    model = build()
    optimizer = model.optimizer
    with pytest.raises(error, match=f"{message}.*Received: "):
        fit(model, data, OptimizerSwitch(**{"learning_rate": 0.1, **arguments, **PLATEAU}))
    assert model.optimizer is optimizer


def test_model_without_an_optimizer(data):
    model = build()
    model.compile(None, "mse")
    with pytest.raises(ValueError, match=r"compiled with an optimizer.*Received: model"):
        fit(model, data, OptimizerSwitch(0.05))


def test_a_range_test_that_fails_leaves_the_old_optimizer(data):
    def fail(model):
        raise RuntimeError("no rate")

    model, twin = build(), build()
    switch = OptimizerSwitch(fail, **PLATEAU)
    optimizer = model.optimizer
    with pytest.raises(RuntimeError, match="no rate"):
        fit(model, data, switch)
    assert model.optimizer is optimizer and switch.switched_at_epoch is None
    assert model.get_compile_config()["optimizer"]["class_name"] == "Adam"
    fit(twin, data, epochs=SWITCHED)
    for each in model, twin:
        fit(each, data)
    np.testing.assert_equal(state(model), state(twin))
