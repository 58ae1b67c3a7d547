"""The page of backpropagation: what it records, and what a browser shows of it."""

import base64
import json
import random
import re
import shutil
import subprocess
import types

import keras
import numpy as np
import pytest

import keras_bp
from keras_bp.visualization import backprop_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
# The page holds float32: half a unit in the last place is 6e-8.
CLOSE = dict(rtol=1e-6, atol=1e-12)


def read(path):
    """Return the header of a page, and its recorded steps."""
    text = path.read_text()
    header = json.loads(re.search(r'id="header" type="application/json">(.*)</script>', text)[1])
    numbers = re.search(r'id="numbers" type="text/plain">(.*)</script>', text)[1]
    numbers = iter(np.frombuffer(base64.b64decode(numbers), "<f4").astype(np.float64))
    shapes = [(layer["inputs"], layer["units"]) for layer in header["layers"]]

    def take(*shape):
        return np.array([next(numbers) for _ in range(np.prod(shape, dtype=int))]).reshape(shape)

    def pairs():
        return [(take(*shape), take(shape[1])) for shape in shapes]

    states = []
    for _ in header["steps"]:
        weights, gradients, views = pairs(), pairs(), []
        penalties = pairs() if header["penalized"] else None
        for _ in range(header["examples"] + 1):
            loss, layers = take(), [(take(n), take(m), take(m)) for n, m in shapes]
            views.append(
                types.SimpleNamespace(loss=loss, layers=layers, output=take(shapes[-1][1]))
            )
        states.append(types.SimpleNamespace(**locals()))
    assert next(numbers, None) is None
    return header, states


# The same network in NumPy


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# Functions of z, and of z, a and dL/da.
ACTIVATIONS = {
    "linear": (lambda z: z, lambda z, a, e: e),
    "relu": (lambda z: np.maximum(z, 0), lambda z, a, e: e * (z > 0)),
    "sigmoid": (sigmoid, lambda z, a, e: e * a * (1 - a)),
    "tanh": (np.tanh, lambda z, a, e: e * (1 - a**2)),
    "softmax": (softmax, lambda z, a, e: a * (e - (a * e).sum(axis=1, keepdims=True))),
}


def squared(a, y):
    return ((a - y) ** 2).mean(axis=1), 2 * (a - y) / y.shape[1]


def binary(a, y):
    loss = -(y * np.log(a) + (1 - y) * np.log(1 - a)).mean(axis=1)
    return loss, (a - y) / (a * (1 - a)) / y.shape[1]


def categorical(a, y):
    return -(y * np.log(a)).sum(axis=1), -y / a


def backpropagate(weights, activations, loss, x, y):
    """Return the losses of examples, their a, z and delta by layer, and the mean gradients."""
    a, z = [x], []
    for (w, b), name in zip(weights, activations, strict=True):
        z.append(a[-1] @ w + b)
        a.append(ACTIVATIONS[name][0](z[-1]))
    losses, error = loss(a[-1], y)
    delta = []
    for layer in reversed(range(len(weights))):
        delta.insert(0, ACTIVATIONS[activations[layer]][1](z[layer], a[layer + 1], error))
        error = delta[0] @ weights[layer][0].T
    gradients = [(a[i].T @ d / len(x), d.mean(axis=0)) for i, d in enumerate(delta)]
    return types.SimpleNamespace(losses=losses, a=a, z=z, delta=delta, gradients=gradients)


def train(weights, rate, steps, *rest):
    for _ in range(steps):
        gradients = backpropagate(weights, *rest).gradients
        weights = [
            (w - rate * dw, b - rate * db)
            for (w, b), (dw, db) in zip(weights, gradients, strict=True)
        ]
    return weights


DENSE = {"keras": keras.layers.Dense, "keras_bp": keras_bp.layers.Dense}
ONE_HOT = np.eye(3)[[0, 2, 1, 1, 0, 2, 2]]
REAL = np.random.default_rng(1).normal(size=(7, 2))
BITS = (REAL[:, :1] > 0).astype(float)
CASES = {
    "binary": ("keras_bp", ["tanh", "relu", "sigmoid"], keras_bp.losses.BinaryCrossentropy, BITS),
    "binary of Keras": ("keras", ["sigmoid", "sigmoid"], "binary_crossentropy", BITS),
    "categorical": (
        *("keras_bp", ["relu", "softmax"], keras_bp.losses.CategoricalCrossentropy, ONE_HOT),
    ),
    "sparse of Keras": ("keras", ["tanh", "softmax"], "sparse_categorical_crossentropy", ONE_HOT),
    "squared": ("keras", ["relu", "sigmoid", "linear"], "mean_squared_error", REAL),
    "softmax inside": ("keras_bp", ["softmax", "tanh"], "mse", REAL),
}
LOSSES = {"binary": binary, "categorical": categorical, "sparse": categorical, "squared": squared}
X = np.random.default_rng(0).normal(size=(7, 3))


def make(case):
    """Return a model in float64 of one of the cases, its targets, and what NumPy needs to know."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    kind, activations, loss, y = CASES[case]
    units = [4, 3][: len(activations) - 1] + [y.shape[1]]
    layers = [
        DENSE[kind](n, activation, bias_initializer="random_normal", name=f"layer_{i + 1}")
        for i, (n, activation) in enumerate(zip(units, activations, strict=True))
    ]
    model = keras.Sequential([keras.Input((3,), name="point"), *layers], name="small")
    loss = loss if isinstance(loss, str) else loss()  # made now, in float64
    model.compile(keras.optimizers.SGD(0.5), loss, run_eagerly=True)
    weights = [(layer.kernel.numpy(), layer.bias.numpy()) for layer in layers]
    fed = y.argmax(axis=1) if case.startswith("sparse") else y
    return model, fed, (weights, activations, y)


def expected_of(page, known):
    """Return the header and the states of a page, and the NumPy results of each state."""
    header, states = read(page)
    weights, activations, y = known
    rest = activations, LOSSES[header["rule"]], X, y
    return (
        header,
        states,
        [backpropagate(train(weights, 0.5, step, *rest), *rest) for step in header["steps"]],
    )


@pytest.mark.parametrize("case", CASES)
def test_what_is_recorded_is_what_numpy_computes(case, tmp_path):
    model, fed, known = make(case)
    page = backprop_page(model, X, fed, tmp_path / "page.html", steps=2, examples=3)
    header, states, expected = expected_of(page, known)
    assert header["steps"] == [0, 1, 2] and header["size"] == 7
    np.testing.assert_allclose(header["targets"], known[2][:3])
    assert [layer["activation"] for layer in header["layers"]] == known[1]
    for state, right in zip(states, expected, strict=True):
        close = np.testing.assert_allclose
        close(state.views[0].loss, right.losses.mean(), **CLOSE)
        close(state.views[0].output, right.a[-1].mean(axis=0), **CLOSE)
        for layer, (dw, db) in enumerate(state.gradients):
            close(dw, right.gradients[layer][0], **CLOSE)
            close(db, right.gradients[layer][1], **CLOSE)
        for e, view in enumerate(state.views[1:]):
            close(view.loss, right.losses[e], **CLOSE)
            close(view.output, right.a[-1][e], **CLOSE)
            for layer, (a, z, delta) in enumerate(view.layers):
                close(a, right.a[layer][e], **CLOSE)
                close(z, right.z[layer][e], **CLOSE)
                close(delta, right.delta[layer][e], **CLOSE)


# What else is recorded


def small(*layers, loss="mean_squared_error", optimizer="sgd", **options):
    model = keras.Sequential([keras.Input((3,)), *layers], name="small")
    model.compile(optimizer, loss, run_eagerly=True, **options)
    return model


def test_the_model_and_random_state_are_left_as_they_were(tmp_path):
    model = small(
        keras.layers.Dense(4, "relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(2),
        optimizer="adam",
        metrics=["mae"],
        steps_per_execution=2,
    )
    page = tmp_path / "page.html"

    def state():
        numbers = [v.numpy() for v in model.variables]
        random_state = [random.getstate(), np.random.get_state()[1].tolist()]
        return [*map(np.ndarray.tolist, numbers), len(model.optimizer.variables), *random_state]

    before, calls = state(), [vars(layer).get("call") for layer in model.layers]
    backprop_page(model, X, REAL, page, steps=3, batch_size=2)
    assert state() == before
    assert len(read(page)[1]) == 4  # one by one
    written = page.read_text()
    with pytest.raises(Exception, match="shape|rank|size|compatible"):
        backprop_page(model, X, np.zeros((7, 5, 5)), page, steps=3)
    assert state() == before
    assert [vars(layer).get("call") for layer in model.layers] == calls
    # A fault leaves the earlier page, and nothing beside it.
    assert page.read_text() == written and list(tmp_path.iterdir()) == [page]
    # Drawn from the same state, the random numbers are the same.
    draws = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        draws.append(float(keras.random.normal(())))
        keras.utils.set_random_seed(5)
        backprop_page(model, X, REAL, page, steps=1)
        draws.append(float(keras.random.normal(())))
    assert len(set(draws)) == 1


def test_layers_between_run_in_inference_mode(tmp_path):
    norm = keras.layers.BatchNormalization(epsilon=0.0, name="norm")
    dense, last = keras.layers.Dense(4), keras.layers.Dense(2)
    between = [norm, keras.layers.Activation("relu"), keras.layers.Dropout(0.9)]
    model = small(dense, *between, keras.layers.Reshape((4,)), last)
    norm.moving_variance.assign([4.0] * 4)
    page = backprop_page(model, X, REAL, tmp_path / "page.html", steps=0, examples=2)
    header, (state,) = read(page)
    assert header["layers"][0]["activation"] == "BatchNormalization, relu"
    for e, view in enumerate(state.views[1:]):
        (_, z, delta), (a, _, back) = view.layers
        close = dict(rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(z, X[e] @ dense.kernel.numpy(), **close)
        np.testing.assert_allclose(a, np.maximum(z / 2, 0), **close)
        right = (last.kernel.numpy() @ back) * (z > 0) / 2
        np.testing.assert_allclose(delta, right, **close)


def test_penalties_count_in_the_gradients(tmp_path):
    layer = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.3))
    frozen = keras.layers.Dense(2, kernel_regularizer="l2", trainable=False)
    page = backprop_page(small(layer, frozen), X, REAL, tmp_path / "page.html", steps=1)
    header, states = read(page)
    assert header["penalized"]
    for state in states:
        penalty = 0.6 * state.weights[0][0]
        np.testing.assert_allclose(state.penalties[0][0], penalty, rtol=1e-6)
        assert not np.any(state.penalties[1][0])  # Keras penalizes what is trained
        data = np.mean([np.outer(v.layers[0][0], v.layers[0][2]) for v in state.views[1:]], axis=0)
        np.testing.assert_allclose(state.gradients[0][0], data + penalty, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(states[0].weights[1][0], states[1].weights[1][0])
    moved = states[0].weights[0][0] - states[1].weights[0][0]
    np.testing.assert_allclose(moved, 0.01 * states[0].gradients[0][0], rtol=1e-3, atol=1e-7)


def test_steps_are_thinned_and_batches_counted(tmp_path):
    sizes = []

    class Counting(keras.Sequential):
        def train_step(self, data):
            sizes.append(len(data[0]))
            return super().train_step(data)

    # Of 60,020 weights six steps fit: 139,000 numbers each with gradients and five examples.
    model = Counting([keras.Input((3000,)), keras.layers.Dense(20)], name="<!--<script>")
    model.compile("sgd", "mse", run_eagerly=True)
    page = backprop_page(
        model, np.ones((5, 3000)), np.ones((5, 20)), tmp_path / "page.html", steps=6, batch_size=2
    )
    header, states = read(page)
    assert sizes == [2, 2, 1, 2, 2, 1]
    assert header["steps"] == [0, 1, 2, 4, 5, 6] and len(states) == 6
    assert header["model"] == "<!--<script>" and header["examples"] == 5
    assert page.stat().st_size < 5e6
    assert page.read_text().count("<script") == 3  # header, numbers, program


def test_nothing_comes_from_a_network(tmp_path):
    a = keras.Input((3,))
    model = keras.Model([a], keras.layers.Dense(1)(a))
    model.compile("sgd", "mse")
    page = backprop_page(model, [X], BITS, str(tmp_path / "p"), steps=0)
    text = page.read_text()
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(src|href)=|@import|fetch|XMLHttp|WebSocket|import\(|url\(", text)
    assert "default-src 'none'" in text


def test_what_does_not_fit_is_refused(tmp_path):
    dense, path = keras.layers.Dense, tmp_path / "page.html"
    model = small(dense(2), dense(2))
    a = keras.Input((3,))
    branch = keras.Model(a, keras.layers.Add()([dense(3, name="up")(a), a]))
    two = keras.Model(a, [dense(2)(a), dense(2)(a)])
    for other in (branch, two):
        other.compile("sgd", "mse")
    uncompiled = keras.Sequential([a, dense(2)])
    without_optimizer = keras.Sequential([keras.Input((3,)), dense(2)])
    without_optimizer.compile(None, "mse")
    penalized = small(dense(2, activity_regularizer="l2", name="bad"))
    convolution = keras.Sequential([keras.Input((4, 1)), keras.layers.Conv1D(2, 1, name="bad")])
    convolution.compile("sgd", "mse")
    large = keras.Sequential([keras.Input((3,)), dense(500), dense(500)])
    large.compile("sgd", "mse")
    for refused, message in [
        (uncompiled, "`model` must be compiled with a loss"),
        (without_optimizer, "`model` must be compiled with an optimizer"),
        (keras.Sequential([dense(1)]), "`model` must be built"),
        (branch, "`model` must be a chain .*branches at"),
        (two, "`model` must be a chain .*branches at"),
        (penalized, "`model` must have no activity regularizer.*'bad'"),
        (convolution, "`model` can be drawn if.*'bad' of type Conv1D"),
        (small(keras.layers.ReLU()), "`model` must have a Dense layer"),
        (large, "`model` must be small enough.*at most 425000 numbers.*252500 weights"),
    ]:
        with pytest.raises(ValueError, match=message):
            backprop_page(refused, X, REAL, path)
    for arguments, error, message in [
        ((model, X, REAL[:3], path), ValueError, "`x` and `y` must hold equally many"),
        ((model, 3.0, REAL, path), TypeError, "`x` must be an array"),
        ((model, X, REAL, 7), TypeError, "`path` must be a path"),
        ((model, X, REAL, tmp_path), IsADirectoryError, "`path` must be a file"),
        ((model, X, REAL, tmp_path / "no" / "page.html"), FileNotFoundError, "no.*page.html"),
    ]:
        with pytest.raises(error, match=message):
            backprop_page(*arguments)
    for option, value in [("steps", -1), ("batch_size", 0), ("examples", 0)]:
        with pytest.raises(ValueError, match=f"`{option}` must be"):
            backprop_page(model, X, REAL, path, **{option: value})
    with pytest.raises(TypeError, match="`steps` must be"):
        backprop_page(model, X, REAL, path, steps=1.5)
    assert list(tmp_path.iterdir()) == []


# In a browser

BEFORE = """<script>
window.faults = [];
addEventListener("error", event => faults.push(event.message));
addEventListener("securitypolicyviolation", event => faults.push(event.violatedDirective));
</script>"""
AFTER = """<script>
const get = id => document.getElementById(id);
const slide = (id, value) => { get(id).value = value; get(id).dispatchEvent(new Event("input")); };
const press = (key, target) => (target || document.body).dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true}));
const click = place => document.querySelector(place).dispatchEvent(
  new MouseEvent("click", {bubbles: true}));
const all = (place, entry) => Object.fromEntries(
  [...document.querySelectorAll(`svg [data-${place}]`)].map(e => [e.dataset[place], entry(e)]));
const look = () => ({
  neurons: all("neuron", e => ({...e.dataset, fill: getComputedStyle(e.firstChild).fill})),
  weights: all("weight", e => ({...e.dataset, width: getComputedStyle(e.children[1]).strokeWidth})),
  norms: all("norm", e => Number(e.dataset.value)),
  place: Object.fromEntries([...get("place").querySelectorAll("output")].map(
    e => [e.dataset.q, Number(e.dataset.value)])),
  text: get("place").innerText, step: get("step-text").innerText,
  example: get("example-text").innerText, pass: get("pass-text").innerText,
  caption: get("caption").innerText, hash: location.hash,
});
const wait = ms => new Promise(done => setTimeout(done, ms));
(async () => {
  let result;
  try { result = await (async () => { SCRIPT })(); } catch (error) { faults.push(String(error)); }
  const pre = document.createElement("pre");
  pre.id = "result";
  pre.textContent = btoa(unescape(encodeURIComponent(JSON.stringify({result, faults}))));
  document.body.append(pre);
})();
</script>"""


def browse(page, place, script, width=1300):
    """Open a page in a browser, run a script in it, and return what it returns."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    text = page.read_text().replace("<title>", f"{BEFORE}<title>")
    tried = page.with_name("tried.html")
    tried.write_text(text.replace("</body>", AFTER.replace("SCRIPT", script) + "</body>"))
    dom = subprocess.run(
        [
            *(
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--window-size={width},900",
            ),
            *(f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=60000"),
            *("--dump-dom", f"{tried.as_uri()}{place}"),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    ).stdout
    found = json.loads(base64.b64decode(re.search(r'<pre id="result">(.*?)</pre>', dom)[1]))
    assert found["faults"] == []
    return found["result"]


def check_shown(shown, right, e):
    """Compare the neurons and the weights that are shown of an example with NumPy's."""
    for key, neuron in shown["neurons"].items():
        column, unit = map(int, key.split("."))
        assert float(neuron["a"]) == pytest.approx(right.a[column][e, unit], rel=1e-6)
        if column:
            assert float(neuron["z"]) == pytest.approx(right.z[column - 1][e, unit], rel=1e-6)
            delta = right.delta[column - 1][e, unit]
            assert float(neuron["delta"]) == pytest.approx(delta, rel=1e-6, abs=1e-12)
    assert len(shown["neurons"]) == sum(a.shape[1] for a in right.a)
    for key, weight in shown["weights"].items():
        column, i, j = map(int, key.split("."))
        gradient = right.a[column - 1][e, i] * right.delta[column - 1][e, j]
        assert float(weight["dw"]) == pytest.approx(gradient, rel=1e-6, abs=1e-12)
    assert len(shown["weights"]) == sum(w.size for w, _ in right.gradients)
    for layer, norm in enumerate(shown["norms"].values()):
        gradient = np.outer(right.a[layer][e], right.delta[layer][e])
        assert norm == pytest.approx(np.linalg.norm(gradient), rel=1e-6)


def test_a_browser_shows_numpys_values(tmp_path):
    model, fed, known = make("binary")
    page = backprop_page(model, X, fed, tmp_path / "page.html", steps=3, examples=3)
    _, _, expected = expected_of(page, known)
    script = """
      const seen = {opened: look()};
      slide("step", 3); slide("example", 1); seen.slid = look();
      click('svg [data-weight="2.1.0"] .hit'); seen.weight = look();
      press("ArrowLeft"); press("]"); seen.keys = look();
      click('svg [data-neuron="3.0"] circle'); seen.output = look();
      slide("pass", 1); seen.forward = look();
      slide("example", 0); seen.all = look();
      press("Escape"); press("b"); await wait(5000); seen.played = look();
      get("train").click(); await wait(2000); seen.trained = look();
      location.hash = "#step=1&example=2&neuron=2.2"; await wait(500); seen.hash = look();
      return seen;"""
    seen = browse(page, "#step=2&example=3&neuron=1.2", script)

    opened = seen["opened"]
    assert (opened["step"], opened["example"]) == ("2 of 3", "3 of 3, y = 1")
    check_shown(opened, expected[2], 2)
    right = expected[2]
    for name, value in [("z", right.z[0]), ("a", right.a[1]), ("delta", right.delta[0])]:
        assert opened["place"][name] == pytest.approx(value[2, 2], rel=1e-6)
    kernel = train(known[0], 0.5, 2, known[1], binary, X, known[2])[1][0]
    assert opened["place"]["error"] == pytest.approx(kernel[2] @ right.delta[1][2], rel=1e-6)
    assert "1 − a²" in opened["text"] and "layer_1, neuron 3 of 4" in opened["text"]

    check_shown(seen["slid"], expected[3], 0)
    weight, a, delta = seen["weight"]["place"], expected[3].a[1][0, 1], expected[3].delta[1][0, 0]
    assert weight["dw"] == pytest.approx(a * delta, rel=1e-6, abs=1e-12)
    assert "next" not in weight  # the last step

    check_shown(seen["keys"], expected[2], 1)
    after = train(known[0], 0.5, 3, known[1], binary, X, known[2])[1][0]
    assert seen["keys"]["place"]["next"] == pytest.approx(after[1, 0], rel=1e-6)
    assert re.search(r"δj = aj − yj = 0\.\d+ − [01] = ", seen["output"]["text"])

    shown = {key: neuron["shown"] for key, neuron in seen["forward"]["neurons"].items()}
    assert {key for key, kind in shown.items() if kind == "nothing"} == {
        key for key in shown if key[0] in "23"
    }
    assert seen["forward"]["pass"] == "forward to layer_1"
    gradients = expected[2].gradients
    for key, weight in seen["all"]["weights"].items():
        column, i, j = map(int, key.split("."))
        gradient = gradients[column - 1][0][i, j]
        assert float(weight["dw"]) == pytest.approx(gradient, rel=1e-6, abs=1e-12)
    assert seen["all"]["place"]["db"] == pytest.approx(gradients[2][1][0], rel=1e-6)

    played = seen["played"]
    assert played["pass"] == "back to layer_1" and "Click a neuron" in played["text"]
    assert all(n["shown"] == "delta" for key, n in played["neurons"].items() if key[0] != "0")
    assert len({neuron["fill"] for neuron in played["neurons"].values()}) > 4
    assert seen["trained"]["step"] == "3 of 3"
    assert seen["trained"]["hash"] == "#step=3&example=0&pass=6"
    check_shown(seen["hash"], expected[1], 1)
    assert "layer_2, neuron 3 of 3" in seen["hash"]["text"]


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_a_browser_writes_an_equation_at_every_place(case, tmp_path):
    model, fed, known = make(case)
    page = backprop_page(model, X, fed, tmp_path / "page.html", steps=2, examples=7)
    _, _, expected = expected_of(page, known)
    script = """
      const seen = [];
      for (const example of [0, 1, 2, 3, 4, 5, 6, 7]) {
        slide("example", example);
        const texts = {};
        for (const place of document.querySelectorAll("svg .neuron, svg .weight")) {
          place.dispatchEvent(new MouseEvent("click", {bubbles: true}));
          texts[place.dataset.neuron || place.dataset.weight] = get("place").innerText;
        }
        seen.push([look(), texts]);
      }
      return seen;"""
    seen = browse(page, "#step=1", script)
    for e, (shown, texts) in enumerate(seen[1:]):
        check_shown(shown, expected[1], e)
        for key, text in texts.items():
            assert "automatic" not in text, key
            assert key[0] == "0" or text.count("=") >= 4, key
    for key, text in seen[0][1].items():
        assert "NaN" not in text and "undefined" not in text, key


@pytest.mark.long
def test_a_browser_shows_the_odd(tmp_path):
    """Large layers, penalties, a training that diverges, names with markup, an unknown loss."""
    wide = keras.Sequential(
        [
            keras.Input((40,), name="<i id=bad>"),
            keras.layers.Dense(30, "gelu", name="<b id=worse>"),
            keras.layers.Dense(5, "softplus", kernel_regularizer=keras.regularizers.L2(0.1)),
        ]
    )
    wide.compile(keras.optimizers.SGD(1e38), "mean_absolute_error", run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(4, 40))
    page = backprop_page(wide, x, np.ones((4, 5)), tmp_path / "page.html", steps=12, examples=2)
    _, states = read(page)
    assert not np.isfinite(states[-1].views[1].loss)
    script = """
      const seen = [], narrow = document.documentElement.scrollWidth <= innerWidth;
      for (const step of [0, 1, 12]) for (const pass of [0, 1, 2, 3, 4]) {
        slide("step", step); slide("pass", pass);
        click('svg [data-neuron="1.29"]'); seen.push(look());
      }
      slide("step", 0); click('svg [data-weight="2.3.1"]'); seen.unshift(look());
      document.querySelector('svg [tabindex="0"]').focus();
      for (const key of ["ArrowRight", "ArrowDown", "Enter"]) press(key, document.activeElement);
      return {seen, narrow, walked: document.activeElement.dataset.neuron, picked: look().text,
        bad: document.querySelectorAll("#bad, #worse").length,
        labels: [...document.querySelectorAll("input, .neuron")].every(
          e => e.ariaLabel || e.labels.length)};
    """
    found = browse(page, "", script, width=500)
    assert found["narrow"] and found["labels"] and found["bad"] == 0
    assert found["walked"] == "1.1" and "<b id=worse>, neuron 2 of 30" in found["picked"]
    penalized, first, last = (found["seen"][i] for i in (0, 5, -1))
    assert len(first["neurons"]) == 24 + 24 + 5 and len(first["weights"]) == 24 * 24 + 24 * 5
    view = states[0].views[1]
    assert first["place"]["delta"] == pytest.approx(view.layers[0][2][29], rel=1e-6)
    error = states[0].weights[1][0] @ view.layers[1][2]
    assert first["place"]["error"] == pytest.approx(error[29], rel=1e-5)
    assert "derivative of gelu" in first["text"] and "automatic differentiation" in first["text"]
    assert "NaN" in last["text"]
    gradient = view.layers[1][0][3] * view.layers[1][2][1] + 0.2 * states[0].weights[1][0][3, 1]
    assert penalized["place"]["dw"] == pytest.approx(gradient, rel=1e-6)
    assert "penalty’s" in penalized["text"]
