"""Every schedule in an optimizer that trains, in a `.keras` file, and as text."""

import doctest
import inspect
import json

import keras
import numpy as np
import pytest
from schedule_cases import CASES, make

import keras_bp
import keras_bp.schedules as schedules

STEPS = [0, 1, 5, 9, 10, 11, 39, 40, 41, 100, 1000]


def test_there_is_a_case_for_every_schedule():
    assert set(CASES) == set(schedules.__all__)


def numpy_numbers(value):
    """Turn each number of a case into a NumPy one."""
    if isinstance(value, list) and isinstance(value[0], int):
        return [np.int32(item) for item in value]
    if isinstance(value, (int, float)):
        return np.int64(value) if isinstance(value, int) else np.float64(value)
    return value


@pytest.mark.parametrize("name", schedules.__all__)
def test_round_trip(name):
    schedule = make(name)
    assert keras.saving.get_registered_object(f"keras_bp>{name}") is type(schedule)
    config = schedule.get_config()
    assert list(config) == list(inspect.signature(type(schedule)).parameters)
    from_numpy = type(schedule)(**{key: numpy_numbers(value) for key, value in CASES[name].items()})
    assert json.dumps(from_numpy.get_config()) == json.dumps(config)
    before = json.dumps(config)
    copies = [
        type(schedule).from_config(config),
        keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule)),
        keras.saving.deserialize_keras_object(
            json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
        ),
    ]
    assert json.dumps(config) == before, "from_config changed its argument"
    for copy in copies:
        assert type(copy) is type(schedule) and copy is not schedule
        assert copy.get_config() == config and repr(copy) == repr(schedule)
        np.testing.assert_array_equal(copy(STEPS), schedule(STEPS))


@pytest.mark.parametrize("name", schedules.__all__)
def test_repr_is_the_constructor_call(name):
    schedule = make(name)
    names = {key: getattr(schedules, key) for key in schedules.__all__}
    keras_names = {"ExponentialDecay": keras.optimizers.schedules.ExponentialDecay}
    if name in ("Warmup", "Sequential"):
        names |= keras_names
    text = repr(schedule)
    assert text.startswith(f"{name}({next(iter(CASES[name]))}=")
    assert eval(text, names).get_config() == schedule.get_config()


@pytest.mark.parametrize("name", schedules.__all__)
def test_the_docstring_says_what_a_user_needs(name):
    item = getattr(schedules, name)
    text = inspect.getdoc(item)
    for section in ("Args:", "Raises:", "Example:", "rate("):
        assert section in text
    for argument in inspect.signature(item).parameters:
        assert f"\n    {argument}: " in text, argument
    names = {"np": np, "keras": keras, "keras_bp": keras_bp}
    [example] = [test for test in doctest.DocTestFinder(recurse=False).find(item, globs=names)]
    report = []
    runner = doctest.DocTestRunner()
    runner.run(example, out=report.append)
    assert runner.tries >= 2 and not runner.failures, "".join(report)


X = np.random.default_rng(0).normal(size=(12, 2)).astype("float32")


def fitted(schedule, **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(schedule)
    model.compile(optimizer, "mse", **options)
    start = [weight.copy() for weight in model.get_weights()]
    model.fit(X, X[:, :1], batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model, start


def assert_six_updates(schedule, start, weights):
    """Compare with the updates by hand, each at its own step's rate."""
    kernel, bias = start
    for step in range(6):
        batch = X[4 * (step % 3) : 4 * (step % 3) + 4]
        error = batch @ kernel + bias - batch[:, :1]
        rate = float(schedule(step))
        kernel = kernel - rate * 2 * batch.T @ error / 4
        bias = bias - rate * 2 * error.mean(0)
    # Rates of 0.8 let float32's roundings grow.
    np.testing.assert_allclose(weights[0], kernel, rtol=1e-4, atol=1e-5)


def test_fit_with_jit():
    schedule = make("GPT3")
    model, start = fitted(schedule, jit_compile=True)
    assert_six_updates(schedule, start, model.get_weights())


def test_fit_and_file(tmp_path):
    """With numbers, schedules within, a list of them and a schedule of Keras's."""
    schedule = make("Sequential")
    model, start = fitted(schedule, jit_compile=False)
    assert_six_updates(schedule, start, model.get_weights())
    assert model.optimizer.learning_rate == schedule(6)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    restored = loaded.optimizer._learning_rate
    assert type(restored) is type(schedule) and repr(restored) == repr(schedule)
    assert loaded.optimizer.learning_rate == schedule(6)
    for each in (model, loaded):
        each.fit(X, X[:, :1], batch_size=4, epochs=1, shuffle=False, verbose=0)
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "RMSprop", "Lion", "Muon"])
def test_other_optimizers_take_a_schedule(optimizer):
    variable = keras.Variable(np.ones((2, 2), "float32"))
    rule = getattr(keras.optimizers, optimizer)(schedules.Warmup(0.1, 2))
    rule.build([variable])
    rule.apply([np.ones((2, 2), "float32")])
    assert (variable.numpy() == 1.0).all()  # the first rate is 0
    assert float(rule.learning_rate) == np.float32(0.05)
    rule.apply([np.ones((2, 2), "float32")])
    assert (variable.numpy() < 1.0).all()


def test_a_schedule_without_a_configuration_has_a_repr():
    class Own(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

        def __repr__(self):
            return "Own()"

    text = "Warmup(schedule=Own(), warmup_steps=3, initial_learning_rate=0.0)"
    assert repr(schedules.Warmup(Own(), 3)) == text


def test_a_users_schedule_within_one_of_ours(tmp_path):
    class Own(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

        def get_config(self):
            return {}

    schedule = schedules.Sequential([0.2, schedules.Warmup(Own(), 3)], [4])
    model, _ = fitted(schedule, run_eagerly=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"Own": Own})
    assert loaded.optimizer.learning_rate == np.float32(0.1 * 2 / 3)
