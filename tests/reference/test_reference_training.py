"""Mini-batch training, the spiral data and the demo on it."""

import importlib.util
import pathlib
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from keras_bp import reference

DEMO = pathlib.Path(__file__).parent.parent.parent / "examples" / "spiral.py"


@pytest.fixture
def demo():
    specification = importlib.util.spec_from_file_location("spiral_demo", DEMO)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main


def test_the_demo_learns_the_spiral(demo, capsys):
    demo([])
    printed = capsys.readouterr().out
    # 98 % is the project's bar. Four other initial weights all ended at 399 of 400 points too (the
    # origin belongs to both arms), so that another machine's rounding does not decide.
    assert float(re.search(r"training accuracy: ([\d.]+)%", printed)[1]) > 98.0
    assert float(re.search(r"relative difference (\S+)", printed)[1]) < 1e-8
    assert "with the origin: relative difference 4.4e-02; 24 of 193 parameters" in printed
    assert "epoch  200/2000" in printed and "epoch 2000/2000" in printed


def test_the_demo_takes_a_number_of_epochs(demo, capsys):
    demo(["--epochs", "3"])
    assert re.findall(r"epoch (\d)/3", capsys.readouterr().out) == ["1", "2", "3"]
    with pytest.raises(SystemExit):
        demo(["--epochs", "0"])
    assert "at least 1. Received: 0" in capsys.readouterr().err


def test_mini_batches_hold_each_example_once():
    generator = np.random.default_rng(0)
    batches = list(reference.mini_batches(10, 4, generator))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    order = np.concatenate(batches)
    assert sorted(order) == list(range(10)) and list(order) != list(range(10))
    again = np.concatenate(list(reference.mini_batches(10, 4, generator)))
    assert list(again) != list(order)
    assert [len(batch) for batch in reference.mini_batches(3, 64, generator)] == [3]


def test_full_batch_training_is_gradient_descent_by_hand():
    X, Y = reference.spiral(points_per_arm=10)
    trained, twin = reference.Network([2, 4, 1], l2=0.1), reference.Network([2, 4, 1], l2=0.1)
    costs = reference.train(trained, X, Y, reference.SGD(0.5), epochs=3, batch_size=20)
    for cost in costs:
        cache = twin.forward(X)
        # The shuffled columns are added in another order.
        assert_allclose(cost, twin.cost(cache, Y), rtol=1e-12)
        gradients = twin.backward(cache, Y).as_list()
        twin.parameters = [
            theta - 0.5 * g for theta, g in zip(twin.parameters, gradients, strict=True)
        ]
    for array, expected in zip(trained.parameters, twin.parameters, strict=True):
        assert_allclose(array, expected, rtol=1e-12, atol=1e-14)


def test_each_mini_batch_is_one_update_and_the_cost_is_weighted_by_size():
    X, Y = reference.spiral(points_per_arm=5)
    network = reference.Network([2, 4, 1])
    optimizer = reference.SGD(0.0)  # the weights stay, so the epoch's cost is the whole set's
    costs = reference.train(network, X, Y, optimizer, epochs=2, batch_size=4)
    assert optimizer.t == 6
    assert_allclose(costs, network.cost(network.forward(X), Y), rtol=1e-12)


def test_training_is_repeatable_and_the_seed_changes_it():
    X, Y = reference.spiral(points_per_arm=20)

    def weights(seed):
        network = reference.Network([2, 4, 1], keep_prob=0.8)
        reference.train(network, X, Y, reference.Adam(), epochs=2, batch_size=8, seed=seed)
        return network.W[1]

    assert_array_equal(weights(0), weights(0))
    assert not np.array_equal(weights(0), weights(1))


def test_training_applies_dropout():
    X, Y = reference.spiral(points_per_arm=20)
    network = reference.Network([2, 50, 1], keep_prob=0.5)
    plain = network.cost(network.forward(X), Y)
    [cost] = reference.train(network, X, Y, reference.SGD(0.0), epochs=1)
    assert abs(cost - plain) > 1e-3


def test_a_second_call_goes_on():
    X, Y = reference.spiral(points_per_arm=20)
    optimizer = reference.Adam(reference.cosine(0.01, 10))
    network = reference.Network([2, 4, 1])
    seen = []
    for _ in range(2):
        reference.train(
            network, X, Y, optimizer, epochs=2, on_epoch_end=lambda *report: seen.append(report)
        )
    assert optimizer.t == 4
    assert_allclose(optimizer.rate, reference.cosine(0.01, 10)(4))
    assert [epoch for epoch, _ in seen] == [1, 2, 1, 2]
    assert seen[3][1] < seen[0][1]


def test_softmax_and_every_rule_train_on_three_classes():
    generator = np.random.default_rng(0)
    classes = generator.integers(3, size=150)
    centres = np.array([[0.0, 2.0, -2.0], [2.0, -1.0, -1.0]])
    X = centres[:, classes] + 0.4 * generator.standard_normal((2, 150))
    Y = np.eye(3)[:, classes]
    rules = {
        reference.SGD: 0.1,
        reference.Momentum: 0.1,
        reference.NAG: 0.02,
        reference.RMSprop: 0.001,
        reference.Adam: 0.01,
        reference.AdamW: 0.01,
        reference.LAMB: 0.05,
    }
    for rule, rate in rules.items():
        network = reference.Network([2, 8, 3])
        reference.train(network, X, Y, rule(rate), epochs=30, batch_size=32)
        # The centres lie seven deviations apart.
        assert network.accuracy(X, Y) > 0.98, rule.__name__


def test_spiral():
    X, Y = reference.spiral()
    assert X.shape == (2, 400) and Y.shape == (1, 400) and X.dtype == Y.dtype == np.float64
    assert Y.sum() == 200 and set(Y.ravel()) == {0.0, 1.0}
    assert_array_equal(X, reference.spiral()[0])
    assert not np.array_equal(X, reference.spiral(seed=1)[0])
    clean, _ = reference.spiral(noise=0.0)
    # Without noise the second arm is the first one turned by half a circle.
    assert_allclose(clean[:, 200:], -clean[:, :200], atol=1e-15)
    radius = np.hypot(*clean[:, :200])
    assert_allclose(radius, np.linspace(0.1, 1.0, 200), rtol=1e-14)
    angle = np.unwrap(np.arctan2(clean[1, :200], clean[0, :200]))
    # 1.5 turns over the radii 0 to 1, of which the arm holds 0.1 to 1.
    assert_allclose(angle[-1] - angle[0], 0.9 * 1.5 * 2 * np.pi, rtol=1e-12)
    # 800 draws know their deviation to 1/sqrt(1600) = 2.5 %; 12 % is about five of these.
    assert_allclose((X - clean).std(), 0.02, rtol=0.12)


@pytest.mark.parametrize("N, K", [(200, 2), (7, 3)])
def test_spirals_from_the_origin(N, K):
    """The textbook's loop, point by point, with the generator that it seeds."""
    generator = np.random.RandomState(1)
    X, Y = reference.generate_spiral_data(N, K)
    assert X.shape == (2, N * K) and Y.shape == (1, N * K)
    for j in range(K):
        t = np.linspace(j * 4, (j + 1) * 4, N) + generator.randn(N) * 0.2
        for i, r in enumerate(np.linspace(0.0, 1, N)):
            expected = [r * np.sin(t[i]), r * np.cos(t[i])]
            assert_allclose(X[:, N * j + i], expected, rtol=1e-13, atol=1e-15)
            assert Y[0, N * j + i] == j
    assert_array_equal(X[:, ::N], np.zeros((2, K)))  # each arm begins in the origin
    assert_array_equal(X, reference.generate_spiral_data(N, K)[0])


def test_training_moves_the_running_statistics_of_batch_normalization():
    X, Y = reference.spiral(points_per_arm=10)
    network = reference.Network([2, 4, 1], batch_normalization=True)
    reference.train(network, X, Y, reference.SGD(0.0), epochs=1, batch_size=20)
    Z = network.forward(X).Z[1]
    running = network.normalizations[1].running_mean
    assert_allclose(running, 0.1 * Z.mean(axis=1, keepdims=True), rtol=1e-12)
    costs = reference.train(network, X, Y, reference.Adam(0.02), epochs=60, batch_size=20)
    assert costs[-1] < 0.8 * costs[0]
    # At inference by the averages, which after 60 updates have come near to the last batches'.
    assert network.cost(network.forward(X), Y) < 0.85 * costs[0]


def test_a_straight_line_does_not_part_the_spiral():
    X, Y = reference.spiral()
    network = reference.Network([2, 1])
    reference.train(network, X, Y, reference.Adam(0.05), epochs=100)
    assert network.accuracy(X, Y) < 0.8


@pytest.mark.parametrize(
    "keywords, error, message",
    [
        ({"points_per_arm": 0}, ValueError, "`points_per_arm`.*1 or more"),
        ({"points_per_arm": 2.5}, TypeError, "Received: points_per_arm=2.5"),
        ({"turns": 0}, ValueError, r"`turns`.*\(0, inf\)"),
        ({"noise": -0.1}, ValueError, "Received: noise=-0.1"),
        ({"seed": -1}, ValueError, "`seed`"),
        ({"N": 0}, ValueError, "`N`.*1 or more"),
        ({"K": 2.0}, TypeError, "Received: K=2.0"),
    ],
)
def test_wrong_spirals(keywords, error, message):
    draw = reference.generate_spiral_data if {"N", "K"} & set(keywords) else reference.spiral
    with pytest.raises(error, match=message):
        draw(**keywords)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"epochs": 0}, ValueError, "`epochs`.*1 or more.*Received: epochs=0"),
        ({"epochs": 1.0}, TypeError, "Received: epochs=1.0"),
        ({"batch_size": 0}, ValueError, "Received: batch_size=0"),
        ({"seed": -1}, ValueError, "`seed`"),
        ({"X": np.zeros((3, 4))}, ValueError, r"`X` must have the shape \(2, m >= 1\)"),
        ({"X": np.full((2, 4), np.nan)}, ValueError, "`X` must be finite. Received: 8"),
        ({"Y": np.zeros((1, 5))}, ValueError, r"`Y` must have the shape \(1, 4\)"),
        ({"Y": np.full((1, 4), 2.0)}, ValueError, r"`Y` must lie in \[0, 1\]"),
    ],
)
def test_wrong_training(changes, error, message):
    network = reference.Network([2, 1])
    before = network.W[1].copy()
    data = {"X": np.zeros((2, 4)), "Y": np.zeros((1, 4)), "epochs": 1} | changes
    with pytest.raises(error, match=message):
        reference.train(network, optimizer=reference.SGD(), **data)
    assert_array_equal(network.W[1], before)
