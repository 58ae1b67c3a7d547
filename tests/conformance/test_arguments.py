"""Odd values for the flags and numbers of every public constructor: refused by name, or read."""

import fractions
import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from instances import BASES, INSTANCES
from trainings import LAYERS, SCHEDULES

import keras_bp
from keras_bp import callbacks, optimizers, schedules

REQUIRED = {
    "DiscoveredSchedule": (500, 25, 0.1),
    "OptimizerSwitch": (0.1,),
    "Rescue": ("faults",),
    "ResumableTraining": ("checkpoints",),
    "TrainingDashboard": ("picture.png",),
    **SCHEDULES,
}
NOT_FLAGS = [float("nan"), "False", 2, None, np.timedelta64(1, "s"), [True], np.array([True])]
# Beyond float32, beyond float64 and int64, too long to be written, and what is no number.
NOT_NUMBERS = [1e39, 10**400, 10**5000, np.timedelta64(3, "s"), np.timedelta64(3), "1", True, 1j]
ROOMS = "callbacks", "layers", "losses", "multitask", "optimizers", "schedules"


def constructors():
    for name, make in INSTANCES.items():
        room, _, last = name.rpartition(".")
        if room in ROOMS and name not in BASES and last != "MultiTaskModel":
            yield pytest.param(make, REQUIRED.get(last, ()), LAYERS.get(last, {}), id=name)


def defaults_of(cls):
    """Return the default of each argument, those of the optimizers' base included."""
    defaults = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("keras_bp.") and "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            defaults.update({p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD})
    accepted = inspect.signature(cls.__init__).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        defaults = {name: d for name, d in defaults.items() if name in accepted}
    return defaults


@pytest.mark.parametrize("make, required, given", [*constructors()])
def test_flags_and_numbers(make, required, given):
    cls = type(make())
    # What is given by position cannot be given by name too.
    names = list(inspect.signature(cls).parameters)
    given = {**dict(zip(names, required, strict=False)), **given}

    def refuses(name, value):
        with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
            cls(**{**given, name: value})

    for name, default in defaults_of(cls).items():
        if name == "axis":  # checked with the rank of the inputs
            continue
        if isinstance(default, bool):
            for value in NOT_FLAGS:
                refuses(name, value)
            kept = cls(**{**given, name: np.bool_(default)})
            assert getattr(kept, name, default) is default
        elif isinstance(default, int | float):
            for value in NOT_NUMBERS:
                refuses(name, value)
            try:
                kept = cls(**{**given, name: fractions.Fraction(1, 3)})
            except (TypeError, ValueError):
                continue
            if hasattr(kept, "get_config") and not isinstance(kept, keras.callbacks.Callback):
                config = json.loads(json.dumps(kept.get_config()))
                if name.startswith("renorm") and "renorm" not in config:  # before Keras 3.14
                    continue
                assert config[name] == pytest.approx(1 / 3)


CALLBACKS = [n for n in callbacks.__all__ if n != "health_checks"]


def test_a_class_to_ignore_is_an_integer():
    for value in (float("nan"), "x", 10**400):
        with pytest.raises((TypeError, ValueError), match="^`ignore_class` must be an integer"):
            keras_bp.losses.SparseCategoricalCrossentropy(ignore_class=value)


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_given_as_its_class(name):
    with pytest.raises(TypeError, match=r"`callbacks` must hold .*`GradientMonitor\(\)`.*Received"):
        keras.callbacks.CallbackList([getattr(callbacks, name)], model=keras.Model())


@pytest.mark.parametrize("rate", [[1e-3], "0.1", True, schedules.Cyclical])
def test_what_a_rate_may_be(rate):
    message = r"`learning_rate` must be .* a schedule or a function .*Received: learning_rate="
    with pytest.raises(TypeError, match=message):
        optimizers.AdamW(rate)


@pytest.mark.parametrize("make", [p.values[0] for p in constructors()])
def test_a_repr_names_the_class_and_its_arguments(make):
    item = make()
    if not isinstance(item, keras.layers.Layer | keras.losses.Loss):  # Keras's own
        assert repr(item).startswith(f"{type(item).__name__}(") and " object at " not in repr(item)
    if isinstance(item, keras.callbacks.Callback):
        assert all(f"{name}=" in repr(item) for name in inspect.signature(type(item)).parameters)


def test_a_repr_shows_what_was_chosen():
    schedule = schedules.CosineAnnealing(0.1, 100)
    adamw = optimizers.AdamW(schedule, clipnorm=1.0, exclude_from_decay="bias")
    assert repr(adamw) == (
        f"AdamW(learning_rate={schedule!r}, weight_decay=0.004, clipnorm=1.0, "
        "exclude_from_decay=['bias'])"
    )
    sgd, shown = optimizers.SGD(0.1, nesterov=True, momentum=0.9), []
    tf.function(lambda: shown.append(repr(sgd)))()
    assert shown == ["SGD(learning_rate=0.1, momentum=0.9, nesterov=True)"]
    monitor = callbacks.GradientMonitor("logs", every=3)
    assert repr(monitor).startswith("GradientMonitor(log_dir='logs', every=3, ")
