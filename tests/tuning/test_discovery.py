"""The parts of the discovery: tasks, grid, learners, the meta-learner and its shipped file."""

import doctest
import json
import pathlib

import keras
import numpy as np
import pytest
from discovery_cases import Bowl

from keras_bp.tuning import discovery
from tools import discovery as workshop
from tools.discovery import learners, networks, simulation, train

SHIPPED = pathlib.Path(discovery.__file__).parent / "coefficients.npz"


@pytest.mark.parametrize("loss", ["softmax", "squared"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "linear"])
def test_gradients_of_a_network(activation, loss):
    """Against central differences, for two copies at once."""
    generator = np.random.default_rng(0)
    network = networks.Network([3, 5, 4, 2], activation, loss)
    weights = generator.normal(size=(2, network.size))
    x = generator.normal(size=(7, 3))
    y = generator.integers(2, size=7) if loss == "softmax" else generator.normal(size=(7, 2))
    losses, gradients = network.gradients(weights, x, y)
    np.testing.assert_array_equal(losses, network.losses(weights, x, y))
    for i in range(network.size):
        step = np.zeros(network.size)
        step[i] = 1e-5
        up, down = (network.losses(weights + s, x, y) for s in (step, -step))
        # The error of a central difference is of the order of 1e-10, rounding of 1e-11.
        np.testing.assert_allclose(gradients[:, i], (up - down) / 2e-5, atol=1e-8)


@pytest.mark.parametrize("family", workshop.FAMILIES)
def test_tasks(family):
    """A number names a task; its gradients are those of its losses; no family is trivial."""
    task, again, other = (workshop.make_task(family, number) for number in (3, 3, 4))
    np.testing.assert_array_equal(task.weights, again.weights)
    assert task.weights.shape != other.weights.shape or np.any(task.weights != other.weights)
    generator = np.random.default_rng(0)
    copies = np.repeat(task.weights[None], 2, axis=0)
    sums = [task.gradients(copies, generator)[0] for _ in range(400)]
    # The mean over 400 batches; a batch's loss deviates by its size at most.
    np.testing.assert_allclose(np.mean(sums, axis=0), task.losses(copies), rtol=0.2)
    rates = workshop.schedules([0.01], 100)
    trained = simulation.final_losses(task, simulation.train(task, rates, 0))
    assert np.all(trained < task.losses(task.weights[None]))


@pytest.mark.parametrize("rule", simulation.RULES)
def test_rules_are_those_of_keras(rule):
    optimizer = {
        "sgd": lambda: keras.optimizers.SGD(0.1),
        "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        "adam": lambda: keras.optimizers.Adam(0.1),
    }[rule]()
    gradients = np.random.default_rng(0).normal(size=(10, 1, 4)).astype("float32")
    variable, weights = keras.Variable(np.ones(4, "float32")), np.ones((1, 4), "float32")
    ours = simulation.Rule(rule, (1, 4))
    for gradient in gradients:
        optimizer.apply([gradient[0]], [variable])
        weights += ours.update(gradient, np.array([0.1]))
    # float32, ten steps of some 0.1.
    np.testing.assert_allclose(weights[0], variable.value, rtol=1e-5)


def test_schedules_side_by_side_are_schedules_alone():
    """Column by column, on the same batches."""
    task = Bowl(1.0, noise=0.5, optimizer="momentum")
    rates = workshop.schedules([0.01, 0.1], 50)
    together = simulation.train(task, rates, 7)
    for column, weights in zip(rates.T, together, strict=True):
        alone = simulation.train(task, column[:, None], 7)
        np.testing.assert_array_equal(alone[0], weights)


@pytest.mark.parametrize("share, decay", discovery.SHAPES)
@pytest.mark.parametrize("steps", [1, 9, 200])
def test_grid_and_schedule_are_the_same(share, decay, steps):
    schedule = discovery.make_schedule(0.5, share, decay, steps)
    rates = 0.5 * workshop.shape(share, decay, steps)
    # float32, at rates of 0.5 and less.
    np.testing.assert_allclose(schedule(np.arange(steps)), rates, atol=1e-7)
    text = json.dumps(keras.saving.serialize_keras_object(schedule))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert again.get_config() == schedule.get_config()


def test_unknown_names():
    message = '`decay` must be one of "constant", "cosine", "linear". Received: decay=\'sine\''
    for call in (
        lambda: discovery.make_schedule(0.5, 0.1, "sine", 9),
        lambda: workshop.shape(0.1, "sine", 9),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="`family` must be one of .*'words'.* family='word'"):
        workshop.make_task("word", 0)


def test_a_safe_schedule_without_a_peak():
    assert str(discovery.Discovery.safe(None, "a reason")) == (
        "fallback: peak rate unknown, warm-up 10%, cosine"
    )


def test_a_grid_of_thirty():
    for peaks in workshop.HAND_TUNED.values():
        rates = workshop.schedules(peaks, 100)
        assert rates.shape == (100, 30)
        np.testing.assert_allclose(rates.max(axis=0), np.repeat(peaks, 5))


def data(examples=300):
    """Numbers, and functions of them that each learner can learn."""
    x = np.random.default_rng(0).normal(size=(examples, 4))
    return x, np.stack([x[:, 0] ** 2, x[:, 1] * x[:, 2], np.sin(x[:, 3])], axis=1)


@pytest.mark.parametrize("name, least", [("ridge", 0.25), ("neighbours", 0.4), ("network", 0.4)])
def test_learners(name, least):
    """On examples that they have not seen, against the mean; the same when trained again."""
    x, y = data()
    learner = learners.LEARNERS[name]().fit(x[:250], y[:250])
    again = learners.LEARNERS[name]().fit(x[:250], y[:250])
    np.testing.assert_array_equal(learner.predict(x), again.predict(x))
    error = np.mean((learner.predict(x[250:]) - y[250:]) ** 2)
    assert error < (1 - least) * np.mean((y[:250].mean(axis=0) - y[250:]) ** 2)


def test_ridge_by_hand():
    """One input: the constant is not penalized, the other two coefficients are."""
    x, y = np.array([[-1.0], [0.0], [1.0]]), np.array([[1.0], [2.0], [9.0]])
    learner = learners.Ridge(penalty=2.0).fit(x, y)
    # Columns 1, x, x^2; normal equations [[3, 0, 2], [0, 4, 0], [2, 0, 4]] c = [12, 8, 10].
    np.testing.assert_allclose(learner.arrays["coefficients"][:, 0], [3.5, 2.0, 0.75])


def lessons(tasks=40):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(tasks, len(discovery.NAMES)))
    peaks = np.log10(discovery.PEAKS)[:, None]
    best = -1 + 0.5 * np.tanh(features[:, 0])[:, None, None]
    shapes = 0.05 * np.arange(len(discovery.SHAPES))
    return features, np.clip(0.2 * (peaks - best) ** 2 + shapes, 0, 1)


@pytest.mark.parametrize("name", learners.LEARNERS)
def test_meta_learner(name, tmp_path):
    """It chooses near the best peak and the first shape, and is the same after save and load."""
    features, regrets = lessons(200)
    learner = learners.Apprentice(name).fit(features, regrets)
    expected = learner.regrets(features)
    assert expected.shape == regrets.shape
    chosen = expected.reshape(200, -1).argmin(axis=1)
    assert np.mean(regrets.reshape(200, -1)[np.arange(200), chosen]) < 0.02
    peak, shape, regret = learner.choose(features[0])
    assert regret == pytest.approx(expected[0].min()) and shape == discovery.SHAPES[0]
    assert peak in discovery.PEAKS
    learner.save(tmp_path / "learner.npz")
    loaded = learners.Apprentice.load(tmp_path / "learner.npz")
    assert loaded.learner == name
    np.testing.assert_array_equal(loaded.regrets(features), expected)


def test_what_is_far_outside():
    """Farther than the range of what was learnt from, but for the number of steps."""
    features, regrets = lessons()
    learner = learners.Apprentice("ridge").fit(features, regrets)
    low, high = features.min(axis=0), features.max(axis=0)
    for i in range(len(discovery.NAMES)):
        for bound, way in ((low, -1), (high, 1)):
            near, far = features[0].copy(), features[0].copy()
            near[i] = bound[i] + way * 0.98 * (high - low)[i]
            far[i] = bound[i] + way * 1.02 * (high - low)[i]
            assert list(learner.outside(near)) == []
            assert list(learner.outside(far)) == ([] if discovery.NAMES[i] == "steps" else [i])
    far[:] = np.nan
    assert len(learner.outside(far)) == len(far) - 1


def test_the_shipped_file(tmp_path, capsys, monkeypatch):
    """It is small, and what a short training makes, in structure."""
    few = {name: workshop.FAMILIES[name] for name in ("quadratic", "softmax", "autoencoder")}
    monkeypatch.setattr(train, "FAMILIES", few)
    monkeypatch.setattr(train, "HELD_OUT", ("autoencoder",))
    train.main(["--tasks", "2", "--output", str(tmp_path / "short.npz")])
    printed = capsys.readouterr().out
    for name in learners.LEARNERS:
        assert f"\n{name} " in printed
    shipped = learners.Apprentice.load(SHIPPED)
    fresh = learners.Apprentice.load(tmp_path / "short.npz")
    again = learners.Apprentice(shipped.learner).fit(*lessons())
    for one in (fresh, again):
        assert one.regrets(lessons()[0]).shape == shipped.regrets(lessons()[0]).shape
    assert {n: a.shape for n, a in again.arrays.items()} == {
        n: a.shape for n, a in shipped.arrays.items()
    }
    assert all(np.isfinite(array).all() for array in shipped.arrays.values())
    assert SHIPPED.stat().st_size < 20_000


def test_regrets_on_tasks_that_were_not_learnt_from():
    """Of a held-out family, with numbers that no training has used: far below an untuned rate's."""
    found = [train.learn_task("autoencoder", number) for number in range(500, 503)]
    features, regrets = map(np.array, zip(*found, strict=True))
    own = train.regrets_of(discovery.MetaLearner.shipped(), train.Lessons(features, regrets))
    # Seen: 0.6 % in the mean of 80 tasks, 2 % of them above 5 %.
    assert np.mean(own) < 0.05


def test_example_of_the_docstring():
    (example,) = doctest.DocTestFinder(recurse=False).find(discovery.discover)
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.long
def test_the_command_makes_the_shipped_file_again(tmp_path):
    train.main(["--output", str(tmp_path / "again.npz")])
    again, shipped = (
        learners.Apprentice.load(tmp_path / "again.npz"),
        learners.Apprentice.load(SHIPPED),
    )
    assert again.learner == shipped.learner
    for name, array in shipped.arrays.items():
        # Bit for bit on one machine; another one may round otherwise, which training magnifies.
        np.testing.assert_allclose(again.arrays[name], array, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("tasks", ["1", "-3"])
def test_too_few_tasks(tasks, capsys):
    with pytest.raises(SystemExit):
        train.main(["--tasks", tasks])
    assert f"--tasks must be at least 2. Received: {tasks}" in capsys.readouterr().err
