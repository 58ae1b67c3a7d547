"""OptimizerSwitch switches after a plateau, once, and goes along with other callbacks."""

import keras
import numpy as np
import pytest
from switch_cases import PLATEAU, SWITCHED, build, fit, new_optimizer, state

from keras_bp.callbacks import OptimizerSwitch
from keras_bp.optimizers import SGD


def plain(**options):
    """For what depends on the logs alone."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True, **options)
    return model


class At(keras.callbacks.Callback):
    """Does something at the end of an epoch."""

    def __init__(self, epoch, action):
        super().__init__()
        self._epoch, self._action = epoch, action

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self._epoch:
            self._action(self.model)


class Script(keras.callbacks.Callback):
    """Puts values of its own into the logs that the callbacks after it see."""

    def __init__(self, name, values):
        super().__init__()
        self._name, self._values = name, values

    def on_epoch_end(self, epoch, logs=None):
        if self._values[epoch] is not None:
            logs[self._name] = self._values[epoch]


@pytest.mark.parametrize(
    "values, options, switched",
    [
        # An improvement begins the count anew; two epochs that are not better than 4.0 follow, and
        # the one after them has the new optimizer.
        ([5.0, 6.0, 4.0, 4.5, 4.4, 1.0], {"patience": 2}, 5),
        # 0.5 less is no improvement, and the best stays at 5: 4.4 is one.
        ([5.0, 4.5, 4.4, 4.3, 4.2, 4.1], {"patience": 2, "min_delta": 0.5}, 5),
        ([5.0, 5.0, 5.0, 5.0, 5.0, 5.0], {"patience": 5}, None),  # seen at the last epoch's end
        ([5.0, np.nan, 4.0, np.nan, np.nan, 9.0], {"patience": 2}, 5),
        ([0.5, 0.4, 0.6, 0.6, 0.1, 0.1], {"patience": 2, "mode": "max"}, 5),
    ],
)
def test_the_plateau_is_that_of_keras(values, options, switched, data):
    """The switch comes one epoch after ReduceLROnPlateau, with the same arguments, reduces."""
    model, rates = plain(), []
    switch = OptimizerSwitch(0.05, monitor="own", **{"mode": "min", **options})
    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    options = {"mode": "min", "min_delta": 1e-4, **options}
    plateau = keras.callbacks.ReduceLROnPlateau("own", cooldown=99, **options)
    # The rate is looked at before the switch is made.
    fit(model, data, Script("own", values), plateau, look, switch, epochs=6, batch_size=23)
    assert switch.switched_at_epoch == switched
    reduced = [epoch for epoch, rate in enumerate(rates) if rate < rates[0]]
    assert (reduced[0] if reduced else None) == switched


def test_the_direction_is_inferred(data):
    values = [0.1, 0.2, 0.3, 0.2, 0.2, 0.2]
    for monitor, switched in ("accuracy", 4), ("loss", 2), ("val_accuracy", 4):
        model = plain(metrics=["accuracy"])
        switch = OptimizerSwitch(0.05, monitor=monitor, patience=1)
        fit(model, data, Script(monitor, values), switch, epochs=6, batch_size=23)
        assert switch.switched_at_epoch == switched, monitor


def test_a_quantity_of_no_known_direction(data):
    with pytest.raises(ValueError, match="OptimizerSwitch .*monitor=own.*mode='max'"):
        fit(plain(), data, OptimizerSwitch(0.05, monitor="own"))


def test_a_quantity_that_is_not_there_is_told(data):
    """As where validation does not run in every epoch: that epoch counts neither way."""
    values = [1.0, None, 1.0, 1.0, 1.0, 1.0]
    switch = OptimizerSwitch(0.05, monitor="own", patience=2, mode="min")
    with pytest.warns(UserWarning, match="watches `own`, which is not .* loss, mae") as caught:
        model = plain(metrics=["mae"])
        fit(model, data, Script("own", values), switch, epochs=6, batch_size=23)
    assert len(caught) == 1 and switch.switched_at_epoch == 4


def test_the_end_of_training_comes_before_a_switch(data):
    """Of an optimizer without a step, Keras would put averages of nothing into the weights."""
    model, twin = build(), build()
    average = lambda rate: keras.optimizers.SGD(rate, use_ema=True)  # noqa: E731
    switch = OptimizerSwitch(0.05, average, **PLATEAU)
    fit(model, data, switch, epochs=SWITCHED)
    fit(twin, data, epochs=SWITCHED)
    assert switch.switched_at_epoch is None
    np.testing.assert_equal(state(model), state(twin))

    # A second fit watches anew.
    fit(model, data, switch, epochs=3)
    assert switch.switched_at_epoch == SWITCHED


def test_from_weights_that_are_not_finite_it_goes_back_to_the_best(data, capsys):
    """Batch statistics included; at once, however long the patience."""
    # Dropout would draw other masks: its seeds are not put back.
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.01, 1e38])
    model = build(keras.optimizers.SGD(rates), dropout=0.0)
    switch = OptimizerSwitch(0.05, **{**PLATEAU, "patience": 9}, verbose=1)
    logs = fit(model, data, switch)
    assert not np.isfinite(logs["loss"][1]) and np.isfinite(logs["loss"][2:]).all()
    assert switch.switched_at_epoch == 2
    line = "Epoch 3: the weights are not finite; the best ones are back. OptimizerSwitch goes"
    assert capsys.readouterr().out.startswith(line)

    twin = build(keras.optimizers.SGD(0.01), dropout=0.0)
    fit(twin, data, epochs=1)
    twin.compile(new_optimizer(), "mse", metrics=["mae"], run_eagerly=True)
    fit(twin, data, epochs=3)
    np.testing.assert_equal(state(model), state(twin))


@pytest.mark.parametrize(
    "values, mode, diverged",
    [
        ([2.0, 1.0, 0.5, 2.1], "min", True),
        ([2.0, 1.0, 0.5, 1.9], "min", False),  # better than the first
        ([0.52, 0.5, 0.6, 0.7], "min", False),  # worse than the first, but not by far
        ([0.52, 0.5, 0.6, 0.8], "min", True),
        ([-1.0, -5.0, -4.9, 0.1], "min", True),
        ([2.0, 1.0, 0.5, np.nan], "min", True),
        ([0.3, 0.9, 0.8, 0.2], "max", True),
        ([0.3, 0.9, 0.8, 0.5], "max", False),
    ],
)
def test_what_has_diverged_goes_back_to_its_best_weights(values, mode, diverged, capsys):
    """At the switch, not before: weight e at the end of epoch e, whose quantity is given."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    x, begun, given = np.zeros((2, 1)), [], iter(values + 2 * [values[-1]])

    def set_quantity(epoch, logs):
        model.set_weights([np.full((1, 1), epoch + 1.0)])
        logs["quantity"] = next(given)

    tell = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: begun.append(model.get_weights()[0].item()),
        on_epoch_end=set_quantity,
    )
    best = values.index({"min": min, "max": max}[mode](values[:3]))
    patience = len(values) - 1 - best
    options = {"monitor": "quantity", "mode": mode, "patience": patience, "min_delta": 0.0}
    switch = OptimizerSwitch(0.1, **options, verbose=1)
    # `tell` before it at an epoch's end, and after it at its beginning.
    switch_first = keras.callbacks.LambdaCallback(on_epoch_begin=switch.on_epoch_begin)
    switch.set_model(model)
    fit(model, (x, x), switch_first, tell, switch, epochs=5, batch_size=1)
    assert switch.switched_at_epoch == 4
    assert begun[4] == (best + 1 if diverged else 4)
    assert ("has diverged; the best ones are back" in capsys.readouterr().out) == diverged


def test_weights_that_were_never_finite(data):
    model = plain()
    model.set_weights([np.full((4, 1), np.nan), np.zeros(1)])
    switch = OptimizerSwitch(0.05, patience=2)
    fit(model, data, switch, epochs=4, batch_size=23)
    assert switch.switched_at_epoch == 3  # as on a plateau, whose first epoch is the best


@pytest.mark.parametrize("first", ["stop", "switch"])
def test_early_stopping_in_the_epoch_of_the_plateau(first, data):
    model, twin = build(), build()
    stop = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=1e9)
    switch = OptimizerSwitch(0.05, **PLATEAU)
    callbacks = (stop, switch) if first == "stop" else (switch, stop)
    assert len(fit(model, data, *callbacks)["loss"]) == SWITCHED
    fit(twin, data, epochs=SWITCHED)
    assert switch.switched_at_epoch is None
    np.testing.assert_equal(state(model), state(twin))


@pytest.mark.parametrize("first", ["stop", "switch"])
def test_early_stopping_beside_it(first, data):
    """It goes on counting over the switch, stops, and puts its best weights back."""
    stop = keras.callbacks.EarlyStopping(
        "loss", patience=4, min_delta=1e9, restore_best_weights=True
    )
    switch, model, kept = OptimizerSwitch(0.05, **PLATEAU), build(), []
    keep = At(0, lambda model: kept.extend(model.get_weights()))
    callbacks = (stop, switch) if first == "stop" else (switch, stop)
    assert len(fit(model, data, keep, *callbacks, epochs=9)["loss"]) == 5
    assert switch.switched_at_epoch == SWITCHED
    np.testing.assert_equal(model.get_weights(), kept)


def test_a_model_saved_after_the_switch_is_trained_on(data, tmp_path):
    """In the midst of the warm-up, by a new callback, which must not switch again.

    Without dropout, whose seed Keras does not save.
    """
    model = build(dropout=0.0)
    fit(model, data, OptimizerSwitch(0.05, **PLATEAU), epochs=SWITCHED + 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, SGD) and loaded.optimizer.momentum == 0.9
    np.testing.assert_equal(state(loaded), state(model))

    again = OptimizerSwitch(1.0, **PLATEAU)
    fit(loaded, data, again, epochs=6)
    fit(model, data, epochs=6)
    assert again.switched_at_epoch is None
    np.testing.assert_equal(state(loaded), state(model))


def test_a_checkpoint_of_each_epoch(data, tmp_path):
    """The optimizer in the file is the one that the epoch was trained with."""
    path = str(tmp_path / "{epoch}.keras")
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_freq="epoch")
    fit(build(), data, OptimizerSwitch(0.05, **PLATEAU), checkpoint, epochs=3)
    kinds = [type(keras.saving.load_model(path.format(epoch=e)).optimizer) for e in (1, 2, 3)]
    assert kinds == [keras.optimizers.Adam, keras.optimizers.Adam, SGD]


@pytest.mark.long
def test_a_second_fit_does_not_switch_again(data):
    model, switch = build(), OptimizerSwitch(0.05, **PLATEAU)
    fit(model, data, switch)
    optimizer = model.optimizer
    fit(model, data, switch)
    assert model.optimizer is optimizer and switch.switched_at_epoch == SWITCHED
    assert int(optimizer.iterations) == (3 + 5) * 2

    # A model that is compiled anew, or another one, has not switched yet.
    model.compile("adam", "mse", run_eagerly=True)
    fit(model, data, switch, epochs=SWITCHED)
    assert switch.switched_at_epoch is None
    other = build()
    fit(other, data, switch)
    assert isinstance(other.optimizer, SGD) and switch.switched_at_epoch == SWITCHED


def test_two_switches_make_one(data):
    first, second = OptimizerSwitch(0.05, **PLATEAU), OptimizerSwitch(0.1, **PLATEAU)
    model, twin = build(), build()
    fit(model, data, first, second)
    fit(twin, data, OptimizerSwitch(0.05, **PLATEAU))
    assert (first.switched_at_epoch, second.switched_at_epoch) == (SWITCHED, None)
    np.testing.assert_equal(state(model), state(twin))
