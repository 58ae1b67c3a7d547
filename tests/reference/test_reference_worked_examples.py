"""The numbers of the worked examples and exercises come out of the reference.

RTOL is a few float64 roundings: the file's numbers were computed in float64 too, only the
order of the operations may differ.
"""

import json
import pathlib
import re
import runpy

import numpy as np
import pytest
from numpy.testing import assert_allclose

from keras_bp import reference

RTOL = 1e-14
EXAMPLES = json.loads(
    (pathlib.Path(__file__).parent.parent / "data" / "worked_examples.json").read_text()
)


@pytest.fixture
def two_layers():
    """Return the worked example's expected values, its network, cache and gradients."""
    example = EXAMPLES["two_layer_backprop"]
    inputs = example["inputs"]
    network = reference.Network([4, 3, 1], ["relu", "sigmoid"])
    network.parameters = [inputs[name] for name in ("W1", "b1", "W2", "b2")]
    cache = network.forward(inputs["X"])
    return example, network, cache, network.backward(cache, inputs["Y"])


def test_two_layers_forward(two_layers):
    example, network, cache, _ = two_layers
    forward = example["forward"]
    for layer in (1, 2):
        assert_allclose(cache.Z[layer], forward[f"Z{layer}"], rtol=RTOL)
        assert_allclose(cache.A[layer], forward[f"A{layer}"], rtol=RTOL)
    loss = network.cost(cache, example["inputs"]["Y"])
    assert_allclose(loss, forward["loss"], rtol=RTOL)
    # The chapter's own figure is a slip in the fourth decimal, which 1e-4 tells apart.
    assert 1e-4 < abs(loss - example["chapter_prints"]["loss"]) < 1e-3


def test_two_layers_backward(two_layers):
    example, _, _, gradients = two_layers
    for name, expected in example["backward"].items():
        kind, layer = name[:2], int(name[2:])
        # The file's two zeros are exact, and so are ours: a dead ReLU passes 0 on.
        assert_allclose(getattr(gradients, kind)[layer], expected, rtol=RTOL, atol=0.0)


def test_two_layers_after_one_update(two_layers):
    example, network, _, gradients = two_layers
    optimizer = reference.SGD(example["inputs"]["learning_rate"])
    network.parameters = optimizer.step(network.parameters, gradients.as_list())
    for layer in (1, 2):
        assert_allclose(network.W[layer], example["after_update"][f"W{layer}"], rtol=RTOL)
        assert_allclose(network.b[layer], example["after_update"][f"b{layer}"], rtol=RTOL)


def test_the_printed_steps(capsys):
    """Each step that is printed, by its example and formula, holds the file's numbers."""
    folder = pathlib.Path(reference.__file__).parent
    runpy.run_path(str(folder / "worked_examples.py"), run_name="__main__")
    printed, example, key = {}, None, None
    for line in capsys.readouterr().out.splitlines():
        if heading := re.match(r"Example (\d)", line):
            example = heading[1]
        elif line.startswith(" " * 12 + "  "):
            printed[key].append([float(number) for number in line.split()])
        elif line:
            key = example, line[12:].partition(" = ")[0]
            assert key not in printed
            printed[key] = []

    two, adam, norm = (
        EXAMPLES[name] for name in ("two_layer_backprop", "adam_step_t2", "batch_norm_forward")
    )
    expected = {("1", "X, with Y"): two["inputs"]["X"], ("1", "L"): two["forward"]["loss"]}
    for name in ("W1", "b1", "W2", "b2"):
        bracketed = f"{name[0]}[{name[1]}]"
        expected["1", bracketed] = two["inputs"][name]
        expected["1", f"{bracketed} - alpha d{bracketed}"] = two["after_update"][name]
    for name in ("Z1", "A1", "Z2", "A2"):
        expected["1", f"{name[0]}[{name[1]}]"] = two["forward"][name]
    for name, value in two["backward"].items():
        expected["1", f"{name[:2]}[{name[2]}]"] = value
    expected |= {
        ("2", "the gradient g"): adam["inputs"]["gradient"],
        ("2", "the averages m"): adam["inputs"]["m1"],
        ("2", "and v"): adam["inputs"]["v1"],
        ("2", "m"): adam["m2"],
        ("2", "v"): adam["v2"],
        ("2", "mh"): adam["m_hat"],
        ("2", "vh"): adam["v_hat"],
        ("2", "taken from theta: alpha mh / (sqrt(vh) + eps)"): adam["step_subtracted"],
        ("3", "z"): norm["z"],
        ("3", "mu"): norm["mean"],
        ("3", "var"): norm["variance"],
        ("3", "zh"): norm["z_hat"],
        ("3", "y"): norm["y"],
        ("3", "mean zh, mean zh^2"): [norm["z_hat_mean"], norm["z_hat_variance"]],
    }
    assert printed.keys() == expected.keys()
    for key, rows in printed.items():
        # Five digits are printed.
        assert_allclose(rows, np.atleast_2d(expected[key]), rtol=5e-5, atol=1e-15, err_msg=key)


def test_adam_at_its_second_step():
    example = EXAMPLES["adam_step_t2"]
    inputs = example["inputs"]
    optimizer = reference.Adam(
        inputs["learning_rate"], inputs["beta_1"], inputs["beta_2"], inputs["epsilon"]
    )
    optimizer.t = inputs["t"] - 1
    optimizer.state = [{"m": np.array(inputs["m1"]), "v": np.array(inputs["v1"])}]
    [theta] = optimizer.step([[0.0, 0.0]], [inputs["gradient"]])
    m_hat, v_hat = optimizer.corrected(optimizer.state[0])
    assert_allclose(optimizer.state[0]["m"], example["m2"], rtol=RTOL)
    assert_allclose(optimizer.state[0]["v"], example["v2"], rtol=RTOL)
    # 1 - 0.999^2 loses three digits to cancellation, in the file's numbers as in ours.
    assert_allclose(m_hat, example["m_hat"], rtol=1e-12)
    assert_allclose(v_hat, example["v_hat"], rtol=1e-12)
    assert_allclose(-theta, example["step_subtracted"], rtol=1e-12)


def test_adam_at_its_first_step():
    example = EXAMPLES["exercise_adam_t1"]
    theta_0 = np.array(example["theta"])
    optimizer = reference.Adam(0.001)
    [theta] = optimizer.step([theta_0], [example["gradient"]])
    [state] = optimizer.state
    m_hat, v_hat = optimizer.corrected(state)
    assert_allclose(theta, example["theta_1"], rtol=RTOL)
    # As above, 1 - 0.9 and 1 - 0.999 cancel.
    assert_allclose(state["m"], example["m1"], rtol=1e-12)
    assert_allclose(state["v"], example["v1"], rtol=1e-12)
    assert_allclose(m_hat, example["m_hat"], rtol=1e-12)
    assert_allclose(v_hat, example["v_hat"], rtol=1e-12)
    uncorrected = theta_0 - 0.001 * state["m"] / (np.sqrt(state["v"]) + optimizer.epsilon)
    assert_allclose(uncorrected, example["without_bias_correction_theta_1"], rtol=RTOL)


def test_momentum_over_three_steps():
    example = EXAMPLES["exercise_momentum"]
    # The exercise's gradients: the file holds the averages only, and these are the numbers of
    # one decimal that lead to them.
    gradients = [[0.5, -0.2], [0.3, -0.4], [0.4, -0.3]]
    optimizer = reference.Momentum(0.01, beta=example["beta"])
    theta = [np.zeros(2)]
    for g, v in zip(gradients, example["v"], strict=True):
        before = theta
        theta = optimizer.step(before, [g])
        assert_allclose(optimizer.state[0]["v"], v, rtol=RTOL)
    update = theta[0] - before[0]
    assert_allclose(update, example["update_at_t3_alpha_0.01"], rtol=RTOL)


@pytest.mark.parametrize("name", ["batch_norm_forward", "exercise_batch_norm"])
def test_batch_normalization(name):
    example = EXAMPLES[name]
    layer = reference.BatchNormalization(1, epsilon=example["epsilon"])
    layer.gamma[:] = example["gamma"]
    layer.beta[:] = example["beta"]
    Y, cache = layer.forward([example["z"]])
    assert_allclose(cache.mean, [[example["mean"]]], rtol=RTOL)
    assert_allclose(cache.variance, [[example["variance"]]], rtol=RTOL)
    assert_allclose(cache.z_hat[0], example["z_hat"], rtol=RTOL)
    assert_allclose(Y[0], example["y"], rtol=RTOL)
    assert_allclose(cache.z_hat.mean(), example["z_hat_mean"], atol=1e-16)
    assert_allclose(cache.z_hat.var(), example["z_hat_variance"], rtol=RTOL)


@pytest.mark.parametrize("name", ["batch_norm_forward", "exercise_batch_norm"])
def test_batch_normalization_backward(name):
    example = EXAMPLES[name]
    layer = reference.BatchNormalization(1, epsilon=example["epsilon"])
    layer.gamma[:] = example["gamma"]
    layer.beta[:] = example["beta"]
    Z = np.array([example["z"]])
    upstream = np.array([[0.3, -1.0, 0.5, 2.0]])
    analytic = layer.backward(upstream, layer.forward(Z)[1])
    numerical = reference.numerical_gradients(
        lambda: float(np.sum(upstream * layer.forward(Z)[0])), [Z, layer.gamma, layer.beta]
    )
    assert reference.relative_difference(analytic, numerical) < 1e-8


def test_a_numerical_gradient_costs_two_forward_passes_a_parameter():
    example = EXAMPLES["exercise_numerical_gradient_cost"]
    network = reference.Network([3, 4, 1])
    calls = []

    def cost():
        calls.append(1)
        return network.cost(network.forward(np.ones((3, 2))), np.ones((1, 2)))

    reference.numerical_gradients(cost, network.parameters)
    parameters = sum(array.size for array in network.parameters)
    expected = example["forward_passes_central_difference"] / example["parameters"]
    assert len(calls) / parameters == expected


def test_sigmoid_layers_make_the_gradient_vanish():
    example = EXAMPLES["exercise_vanishing"]
    Z = np.linspace(-10.0, 10.0, 2001)
    assert reference.sigmoid_derivative(Z).max() == example["max_sigmoid_derivative"]
    for depth, bound in example["bound_after_k"].items():
        depth = int(depth)
        network = reference.Network([1] * (depth + 2), ["sigmoid"] * (depth + 1))
        for layer in network.W:
            network.W[layer][:] = 1.0
            # It puts every pre-activation at 0, where the derivative is largest.
            network.b[layer][:] = 0.0 if layer == 1 else -0.5
        gradients = network.backward(network.forward([[0.0]]), [[1.0]])
        assert gradients.dA[0] == gradients.dA[depth] * bound
        network.b[1][:] = 1.0
        gradients = network.backward(network.forward([[0.0]]), [[1.0]])
        assert 0.0 < abs(gradients.dA[0]) < abs(gradients.dA[depth]) * bound


def test_shapes():
    example = EXAMPLES["exercise_shapes_3_4_1_m5"]
    network = reference.Network([3, 4, 1])
    cache = network.forward(np.ones((3, 5)))
    gradients = network.backward(cache, np.ones((1, 5)))
    of_gradient = {"W": gradients.dW, "b": gradients.db, "Z": gradients.dZ, "A": gradients.dA}
    values = {"W": network.W, "b": network.b, "Z": cache.Z, "A": cache.A}
    for name in ("W1", "b1", "Z1", "A1", "W2", "b2", "Z2", "A2"):
        kind, layer = name[0], int(name[1])
        shape = tuple(example[name])
        assert values[kind][layer].shape == shape
        if name != "A2":  # the closed form dZ[L] = A[L] - Y steps over dA[L]
            assert of_gradient[kind][layer].shape == shape
