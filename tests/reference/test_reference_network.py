"""The network's backward pass against central differences, and what it refuses."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from keras_bp import layers, reference
from keras_bp.reference import Network

HIDDEN = ["linear", "relu", "sigmoid", "tanh"]


def data(network, m=6, seed=1):
    """Draw inputs and labels that fit a network."""
    generator = np.random.default_rng(seed)
    X = generator.standard_normal((network.layer_sizes[0], m))
    units = network.layer_sizes[-1]
    if network.activations[-1] == "softmax":
        return X, np.eye(units)[:, generator.integers(units, size=m)]
    return X, generator.integers(2, size=(units, m)).astype(float)


def move_biases(network):
    """Give the biases values: where all units below are off, a bias of 0 is ReLU's kink itself."""
    generator = np.random.default_rng(2)
    for b in network.b.values():
        b[:] = generator.standard_normal(b.shape)


# Central differences with e = 1e-5 are off by about e^2 = 1e-10 and 1e-16/e = 1e-11, far under the
# 1e-8 asked for. With ReLU the seeds keep every pre-activation further than e from 0.
@pytest.mark.parametrize("output, units", [("sigmoid", 1), ("sigmoid", 3), ("softmax", 3)])
@pytest.mark.parametrize("l2, keep_prob", [(0.0, 1.0), (0.7, 1.0), (0.0, 0.6), (0.7, 0.6)])
@pytest.mark.parametrize("batch_normalization", [False, True])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_backward_agrees_with_central_differences(
    hidden, batch_normalization, l2, keep_prob, output, units
):
    network = Network(
        [3, 5, 4, units],
        [hidden, hidden, output],
        l2=l2,
        keep_prob=keep_prob,
        batch_normalization=batch_normalization,
    )
    move_biases(network)
    for normalization in network.normalizations.values():  # away from 1 and 0
        normalization.gamma += 0.3
        normalization.beta -= 0.2
    X, Y = data(network)
    before = [array.copy() for array in network.parameters]
    # A hidden unit's variance over the few kept examples is small, and the cost bends more.
    epsilon = 3e-6 if batch_normalization else 1e-5
    check = reference.gradient_check(network, X, Y, epsilon)
    assert check < (1e-7 if hidden == "relu" else 1e-8)
    assert check.verdict == "correct" and check.kinks == 0
    for array, unchanged in zip(network.parameters, before, strict=True):
        assert_array_equal(array, unchanged)
    for normalization in network.normalizations.values():
        assert not normalization.running_mean.any() and (normalization.running_variance == 1).all()


def test_gradient_check_of_a_three_layer_relu_network():
    network = Network([4, 8, 6, 1])
    move_biases(network)
    figure = reference.gradient_check(network, *data(network, m=10))
    assert 0.0 < figure < 1e-8


def test_gradient_check_at_a_kink_is_large():
    # What the docstring warns of: an input of exactly 0 has slope 0 to one side and 1 to the
    # other, of which the difference takes the mean and the written-out derivative takes 0.
    network = Network([2, 3, 1])
    check = reference.gradient_check(network, [[0.0], [0.0]], [[1.0]])
    assert check > 1e-5
    # Of W nothing can be seen in the origin; b[1] stands on the kinks, and b[2] does not.
    assert check.verdict == "correct" and check.kinks == 3
    assert "3 of 13 parameters stand on the kink" in check.explanation
    assert "are not judged; without them" in check.explanation
    # Without kinks the sentence is the figure and the verdict, and numbers go on as they did.
    check = reference.gradient_check(Network([2, 1]), [[0.5], [1.0]], [[1.0]])
    assert check.explanation == f"relative difference {check:.1e}: correct"
    assert type(check + 0) is float and f"{check}" == repr(check) == repr(float(check))


def test_the_figure_that_calls_a_correct_backward_pass_wrong():
    """The textbook's first weights and first five points, one of which is the origin."""
    network = Network([2, 16, 8, 1])
    W, b = reference.initialize([2, 16, 8, 1], "by_activation", np.random.RandomState(42))
    network.parameters = [array for layer in W for array in (W[layer], b[layer])]
    X, Y = reference.generate_spiral_data()
    check = reference.gradient_check(network, X[:, :5], Y[:, :5], epsilon=1e-7)
    assert round(check, 3) == 0.063  # what the textbook's own code prints, and calls failed
    # On the kink are the 16 + 8 biases of the hidden layers.
    assert check.verdict == "correct" and check.kinks == 24
    assert reference.gradient_check(network, X[:, 1:6], Y[:, 1:6]) < 1e-8


@pytest.mark.parametrize(
    "size, verdict", [(1e-8, "correct"), (2e-6, "suspicious"), (1e-4, "wrong")]
)
def test_verdicts(monkeypatch, size, verdict):
    original = reference.Gradients.as_list
    # A gradient that is longer by twice the share s has the figure 2s / (2 + 2s), about s.
    monkeypatch.setattr(
        reference.Gradients, "as_list", lambda self: [g * (1 + 2 * size) for g in original(self)]
    )
    for X in (np.full((2, 1), 0.5), np.zeros((2, 1))):  # the second one on the kinks
        check = reference.gradient_check(Network([2, 3, 1], seed=1), X, [[1.0]])
        assert check.verdict == verdict, check.explanation
    assert check.kinks == 3


def test_not_a_number_is_wrong(monkeypatch):
    nan = [np.array([[np.nan]])] * 4
    monkeypatch.setattr(reference.Gradients, "as_list", lambda self: nan)
    assert reference.gradient_check(Network([1, 1, 1]), [[1.0]], [[1.0]]).verdict == "wrong"


@pytest.mark.parametrize("parameter", range(6))
def test_gradient_check_finds_a_gradient_that_is_a_thousandth_off(monkeypatch, parameter):
    # The figure sums over all parameters, so an error of 0.1 % in one array shows as at most
    # 5e-4; with these sizes it is over 1e-5, a bug, for each of the six.
    network = Network([3, 4, 3, 2], ["tanh", "tanh", "softmax"])
    X, Y = data(network)
    assert reference.gradient_check(network, X, Y) < 1e-8
    original = reference.Gradients.as_list

    def slightly_wrong(gradients):
        arrays = original(gradients)
        arrays[parameter] = arrays[parameter] * 1.001
        return arrays

    monkeypatch.setattr(reference.Gradients, "as_list", slightly_wrong)
    assert reference.gradient_check(network, X, Y) > 1e-5


def test_gradients_of_activations_are_those_of_the_summed_losses():
    network = Network([3, 4, 2], ["tanh", "softmax"])
    X, Y = data(network, m=5)
    gradients = network.backward(network.forward(X), Y)
    numerical = reference.numerical_gradients(lambda: 5 * network.cost(network.forward(X), Y), [X])
    assert reference.relative_difference([gradients.dA[0]], numerical) < 1e-8


def test_numerical_gradients_of_a_polynomial():
    theta = [np.array([1.0, -2.0]), np.array([[3.0]])]
    numerical = reference.numerical_gradients(
        lambda: float(np.sum(theta[0] ** 3) * theta[1][0, 0]), theta
    )
    # The central difference of a cube is off by e^2 = 1e-10, and by rounding of 1e-16 * 21 / e.
    assert_allclose(numerical[0], 3 * np.array([3.0, 12.0]), rtol=1e-9)
    assert_allclose(numerical[1], [[-7.0]], rtol=1e-9)


def test_numerical_gradients_put_an_entry_back_when_the_function_raises():
    theta = np.array([0.1])

    def fails():
        raise RuntimeError("no cost")

    with pytest.raises(RuntimeError, match="no cost"):
        reference.numerical_gradients(fails, [theta])
    assert theta[0] == 0.1


def test_relative_difference():
    assert reference.relative_difference([[3.0], [4.0]], [[3.0], [4.0]]) == 0.0
    assert reference.relative_difference([[0.0]], [[0.0]]) == 0.0
    assert reference.relative_difference([[3.0], [4.0]], [[-3.0], [-4.0]]) == 1.0
    assert reference.relative_difference([[0.0, 5.0]], [[0.0, 0.0]]) == 1.0
    assert np.isnan(reference.relative_difference([[np.nan]], [[1.0]]))
    with pytest.raises(ValueError, match=r"shapes of `analytic`.*Received: shapes \[\(2,\)\]"):
        reference.relative_difference([[1.0]], [[1.0, 2.0]])


def test_batch_normalization_stands_before_the_activation_and_infers_by_running_averages():
    network = Network([3, 4, 5, 1], ["relu", "tanh", "sigmoid"], batch_normalization=True)
    plain = Network([3, 4, 5, 1], ["relu", "tanh", "sigmoid"])
    X, Y = data(network, m=8)
    first = network.forward(X)  # mean 0 and variance 1 at first: nothing but eps
    assert_allclose(first.A[3], plain.forward(X).A[3], rtol=1e-4)
    assert first.normalized == {}

    cache = network.forward(X, training=True)
    assert sorted(network.normalizations) == sorted(cache.normalized) == [1, 2]
    mean, variance = cache.Z[1].mean(axis=1), cache.Z[1].var(axis=1)
    expected = np.maximum(0.0, (cache.Z[1].T - mean) / np.sqrt(variance + 1e-5)).T
    assert_allclose(cache.A[1], expected, rtol=1e-12, atol=1e-15)
    assert_allclose(network.normalizations[1].running_mean[:, 0], 0.1 * mean, rtol=1e-12)
    running = 0.9 + 0.1 * variance
    assert_allclose(network.normalizations[1].running_variance[:, 0], running, rtol=1e-12)
    inferred = network.forward(X)
    expected = np.maximum(0.0, (inferred.Z[1].T - 0.1 * mean) / np.sqrt(running + 1e-5)).T
    assert_allclose(inferred.A[1], expected, rtol=1e-12, atol=1e-15)
    assert_array_equal(network.forward(X[:, :1]).A[3], network.forward(X).A[3][:, :1])

    shapes = [array.shape for array in network.backward(cache, Y).as_list()]
    assert shapes == [array.shape for array in network.parameters]
    assert network.decay_mask == [True, False, False, False] * 2 + [True, False]
    with pytest.raises(ValueError, match=r"`cache` must .*training=True.*Received: .*=\{\}"):
        network.backward(inferred, Y)


def test_the_network_with_batch_normalization_is_the_keras_layers_one():
    sizes, names = [3, 4, 5, 1], ["relu", "tanh", "sigmoid"]
    network = Network(sizes, names, batch_normalization=True)
    move_biases(network)
    X, Y = data(network, m=8)
    rows, stack = tf.constant(X.T), []
    for layer, name in enumerate(names, start=1):
        dense = layers.Dense(sizes[layer], dtype="float64")
        dense.build((None, sizes[layer - 1]))
        dense.set_weights([network.W[layer].T, network.b[layer][:, 0]])
        stack.append(dense)
        if layer < 3:
            stack.append(layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype="float64"))
        stack.append(keras.layers.Activation(name, dtype="float64"))
    model = keras.Sequential([keras.Input((3,), dtype="float64"), *stack])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(keras.losses.binary_crossentropy(Y.T, model(rows, training=True)))
    expected = tape.gradient(loss, model.trainable_variables)

    cache = network.forward(X, training=True)
    # Keras keeps the logarithm's argument 1e-7 away from 0 and 1, where none of these come.
    assert_allclose(network.cost(cache, Y), loss, rtol=1e-12)
    for ours, theirs in zip(network.backward(cache, Y).as_list(), expected, strict=True):
        theirs = np.reshape(np.transpose(theirs), ours.shape)
        assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)
    assert_allclose(network.forward(X).A[3].T, model(rows, training=False), rtol=1e-12)


def test_forward_in_single_examples_equals_the_batch():
    network = Network([3, 5, 2], ["tanh", "softmax"])
    X, _ = data(network)
    together = network.forward(X).A[2]
    alone = np.concatenate([network.forward(X[:, [i]]).A[2] for i in range(6)], axis=1)
    # BLAS may add in another order for another shape.
    assert_allclose(together, alone, rtol=1e-14)


def test_l2_adds_the_weights_to_cost_and_gradient_but_no_biases():
    plain, penalized = Network([3, 4, 1]), Network([3, 4, 1], l2=0.6)
    for network in (plain, penalized):
        network.b[1][:] = 2.0
    X, Y = data(plain, m=5)
    caches = [network.forward(X) for network in (plain, penalized)]
    squares = sum(np.sum(W**2) for W in plain.W.values())
    difference = penalized.cost(caches[1], Y) - plain.cost(caches[0], Y)
    assert_allclose(difference, 0.6 / (2 * 5) * squares, rtol=1e-12)
    without, with_penalty = plain.backward(caches[0], Y), penalized.backward(caches[1], Y)
    for layer in (1, 2):
        added = with_penalty.dW[layer] - without.dW[layer]
        assert_allclose(added, 0.6 / 5 * plain.W[layer], rtol=1e-12, atol=1e-16)
        assert_array_equal(with_penalty.db[layer], without.db[layer])


def test_dropout_keeps_the_expected_share_and_mean():
    network = Network([1, 1000, 1], ["linear", "sigmoid"], keep_prob=0.8)
    network.W[1][:] = 1.0
    masks = network.draw_masks(100)
    # The share of 100,000 draws has the standard deviation 0.0013; 0.007 is five of them.
    assert abs(masks[1].mean() - 0.8) < 0.007
    A = network.forward(np.ones((1, 100)), masks).A[1]
    assert_array_equal(A, np.where(masks[1], 1 / 0.8, 0.0))


def test_dropout_never_touches_input_or_output_and_is_off_at_inference():
    network = Network([2, 4, 3, 1], keep_prob=0.5)
    assert set(network.draw_masks(7)) == {1, 2}
    X, _ = data(network)
    twin = Network([2, 4, 3, 1])
    assert_array_equal(network.forward(X).A[3], twin.forward(X).A[3])
    assert twin.draw_masks(7) == {}


def test_dropped_units_get_no_gradient():
    network = Network([2, 4, 1], keep_prob=0.5)
    X, Y = data(network)
    masks = {1: np.array([[True] * 6, [False] * 6, [True] * 6, [False] * 6])}
    gradients = network.backward(network.forward(X, masks), Y)
    assert not gradients.dW[1][[1, 3]].any() and not gradients.dW[2][:, [1, 3]].any()
    assert gradients.dW[1][[0, 2]].any()


def test_same_seed_same_network():
    first, same, other = (Network([3, 4, 1], keep_prob=0.5, seed=seed) for seed in (5, 5, 6))
    assert_array_equal(first.W[1], same.W[1])
    assert_array_equal(first.draw_masks(9)[1], same.draw_masks(9)[1])
    assert not np.array_equal(first.W[1], other.W[1])


@pytest.mark.parametrize(
    "method, deviations",
    [
        ("he", [np.sqrt(2 / 300), np.sqrt(2 / 200)]),
        ("xavier", [np.sqrt(2 / 500), np.sqrt(2 / 600)]),
        ("by_activation", [np.sqrt(2 / 300), np.sqrt(1 / 200)]),  # ReLU, then softmax
        ("random", [0.01, 0.01]),
    ],
)
def test_initialization(method, deviations):
    W, b = reference.initialize([300, 200, 400], method, np.random.default_rng(0))
    for layer, deviation in enumerate(deviations, start=1):
        # n draws' standard deviation is known to 1/sqrt(2n); n is 60,000, and 0.015 five of these.
        assert_allclose(W[layer].std(), deviation, rtol=0.015)
        assert abs(W[layer].mean()) < 5 * deviation / np.sqrt(W[layer].size)
        assert not b[layer].any()
    assert W[1].shape == (200, 300) and b[1].shape == (200, 1)


def test_initialization_by_the_activation_of_each_layer():
    names = ["relu", "sigmoid", "tanh", "linear", "relu", "sigmoid"]
    scales = [np.sqrt(2.0 / 4), *[np.sqrt(1.0 / 4)] * 3, np.sqrt(2.0 / 4), np.sqrt(1.0 / 4)]
    network = Network([4] * 6 + [2], names, initialization="by_activation", seed=3)
    generator = np.random.default_rng(3)
    for layer, scale in enumerate(scales, start=1):
        draw = generator.standard_normal(network.W[layer].shape)
        assert_allclose(network.W[layer], scale * draw, rtol=1e-15)


def test_default_activations():
    assert Network([2, 3, 4, 1]).activations == ("relu", "relu", "sigmoid")
    assert Network([2, 3, 5]).activations == ("relu", "softmax")
    assert Network([2, 1]).activations == ("sigmoid",)


def test_parameters_are_the_networks_own_and_assignment_copies():
    network = Network([2, 3, 1])
    assert network.parameters[2] is network.W[2]
    arrays = [np.ones_like(array, dtype="float32") for array in network.parameters]
    network.parameters = arrays
    arrays[0][:] = 7.0
    assert_array_equal(network.W[1], np.ones((3, 2)))
    assert {array.dtype for array in network.parameters} == {np.dtype("float64")}
    assert network.decay_mask == [array.shape[1:] != (1,) for array in network.parameters]


def test_predict_and_accuracy_with_sigmoid():
    network = Network([1, 2], ["sigmoid"])
    network.parameters = [[[1.0], [-1.0]], [[0.0], [0.0]]]
    X = [[2.0, -2.0, 0.0]]
    # A probability of just 0.5 counts as 0.
    assert_array_equal(network.predict(X), [[1, 0, 0], [0, 1, 0]])
    assert_array_equal(network.predict(X, 0.49), [[1, 0, 1], [0, 1, 1]])
    assert_array_equal(network.predict(X, threshold=0.9), np.zeros((2, 3)))  # sigmoid(2) = 0.88
    assert_array_equal(network.predict(X, threshold=0), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"`threshold`.*\[0, 1\].*Received: threshold=1.5"):
        network.predict(X, 1.5)
    assert network.accuracy(X, [[1, 0, 1], [0, 0, 0]]) == 4 / 6


def test_predict_and_accuracy_with_softmax():
    network = Network([1, 3], ["softmax"])
    network.parameters = [[[1.0], [0.0], [-1.0]], [[0.0], [0.5], [0.0]]]
    X = [[2.0, 0.0, -2.0, -2.0]]
    assert_array_equal(network.predict(X), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]])
    assert network.accuracy(X, [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]) == 3 / 4
    with pytest.raises(ValueError, match="`threshold` must be 0.5.*softmax.*=0.4"):
        network.predict(X, 0.4)


@pytest.mark.parametrize(
    "arguments, keywords, error, message",
    [
        ([[3]], {}, ValueError, r"at least two sizes.*Received: layer_sizes=\[3\]"),
        ([5], {}, ValueError, "Received: layer_sizes=5"),
        ([[3, 0, 1]], {}, ValueError, r"`layer_sizes\[1\]` must be an integer of 1 or more"),
        ([[3, 2.0, 1]], {}, TypeError, r"layer_sizes\[1\]=2.0"),
        ([[3, True]], {}, TypeError, r"layer_sizes\[1\]=True"),
        ([[3, 2, 1], ["relu"]], {}, ValueError, r"list of 2 names.*Received: .*\['relu'\]"),
        ([[3, 2, 1], "relu"], {}, ValueError, "list of 2 names"),
        ([[3, 2, 1], ["gelu", "sigmoid"]], {}, ValueError, r"activations\[0\].*hidden.*'gelu'"),
        (
            [[3, 2, 1], ["softmax", "sigmoid"]],
            {},
            ValueError,
            r"hidden.*Received: activations\[0\]='softmax'",
        ),
        (
            [[3, 2, 1], ["relu", "tanh"]],
            {},
            ValueError,
            r"the output.*Received: activations\[1\]='tanh'",
        ),
        ([[3, 2, 1], ["relu", ["sigmoid"]]], {}, ValueError, "the output"),
        ([[3, 2, 1], ["relu", "softmax"]], {}, ValueError, "two output units.*Received"),
        ([[3, 1]], {"l2": -0.1}, ValueError, r"`l2`.*\[0, inf\).*Received: l2=-0.1"),
        ([[3, 1]], {"l2": float("inf")}, ValueError, "`l2` must be a finite"),
        ([[3, 1]], {"keep_prob": 0.0}, ValueError, r"\(0, 1\].*Received: keep_prob=0.0"),
        ([[3, 1]], {"keep_prob": 1.01}, ValueError, "Received: keep_prob=1.01"),
        ([[3, 1]], {"keep_prob": float("nan")}, ValueError, "Received: keep_prob=nan"),
        ([[3, 1]], {"keep_prob": "half"}, TypeError, r"keep_prob='half'"),
        ([[3, 1]], {"initialization": "lecun"}, ValueError, "'he'.*Received: .*'lecun'"),
        ([[3, 1]], {"batch_normalization": 2}, TypeError, "Received: batch_normalization=2"),
        ([[3, 1]], {"seed": -1}, ValueError, "`seed`.*0 or more"),
        ([[3, 1]], {"seed": None}, TypeError, "`seed`"),
    ],
)
def test_wrong_architectures(arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        Network(*arguments, **keywords)


def test_the_smallest_architectures_are_accepted():
    network = Network((1, np.int64(1)), l2=0, keep_prob=np.float32(1e-3), seed=np.int32(0))
    assert network.forward([[1.0]]).A[1].shape == (1, 1)


@pytest.mark.parametrize("shape", [(2, 5), (3,), (3, 0), (1, 3, 5)])
def test_wrong_inputs(shape):
    with pytest.raises(ValueError, match=r"`X` must have the shape \(3, m >= 1\).*Received"):
        Network([3, 1]).forward(np.zeros(shape))


@pytest.mark.parametrize("method", ["cost", "backward", "accuracy"])
@pytest.mark.parametrize("shape", [(1, 4), (2, 5), (5,), (5, 1)])
def test_wrong_label_shapes(method, shape):
    network = Network([3, 1])
    X = np.zeros((3, 5))
    first = X if method == "accuracy" else network.forward(X)
    with pytest.raises(ValueError, match=r"`Y` must have the shape \(1, 5\).*Received: Y.shape="):
        getattr(network, method)(first, np.zeros(shape))


def test_wrong_label_values():
    network = Network([3, 2], ["softmax"])
    cache = network.forward(np.zeros((3, 1)))
    for method, Y in itertools.product(
        (network.cost, network.backward), ([[1.0], [1.0]], [[2.0], [-1.0]])
    ):
        with pytest.raises(ValueError, match="Received"):
            method(cache, Y)


@pytest.mark.parametrize(
    "masks", [{1: np.ones((4, 1), bool)}, {2: np.ones((1, 5), bool)}, {1: np.ones((3, 5), bool)}]
)
def test_wrong_masks(masks):
    network = Network([3, 4, 1], keep_prob=0.5)
    with pytest.raises(ValueError, match=r"`masks` must have the shapes \{1: \(4, 5\)\}.*Received"):
        network.forward(np.zeros((3, 5)), masks)


def test_wrong_parameters():
    network = Network([2, 1])
    with pytest.raises(ValueError, match=r"`parameters`.*\(1, 2\).*Received: shapes \[\(2, 1\)"):
        network.parameters = [np.zeros((2, 1)), np.zeros((1, 1))]
    with pytest.raises(TypeError, match="`parameters` must hold float64.*Received: float32"):
        reference.numerical_gradients(lambda: 0.0, [np.zeros(2, "float32")])
    with pytest.raises(TypeError, match="Received: list"):
        reference.numerical_gradients(lambda: 0.0, [[0.0]])
    with pytest.raises(ValueError, match="`epsilon`"):
        reference.numerical_gradients(lambda: 0.0, [], epsilon=0.0)
