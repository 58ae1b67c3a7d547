"""replay: where the NaN of a batch that was kept begins, and the batch as it was."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from rescue_cases import BATCH, build, examples, fit

import keras_bp
from keras_bp.__main__ import main
from keras_bp.callbacks import Rescue
from keras_bp.callbacks.rescue._files import read_fault, write_fault
from keras_bp.callbacks.rescue.replay import explain

L = keras.layers
X = np.linspace(-1.0, 1.0, 12, dtype="float32").reshape(4, 3)
Y = np.array([[0.0], [1.0], [2.0], [3.0]], "float32")


def chain(*layers, loss="mse", optimizer="sgd"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(optimizer, loss)
    return model


def explained(model, x=X, y=Y, weights=None):
    batch = tf.nest.map_structure(lambda a: a if a is None else tf.constant(a), (x, y, weights))
    return explain(model, batch)


def test_the_table_holds_the_norms_of_a_step():
    """Of two linear layers, by hand."""
    model = chain(L.Dense(2, name="a"), L.Dense(1, name="b"))
    replay = explained(model)
    (w, b), (v, c) = (layer.get_weights() for layer in model.layers)
    hidden = X @ w + b
    predicted = hidden @ v + c
    to_predicted = 2 * (predicted - Y) / 4
    to_hidden = to_predicted @ v.T
    norm = np.linalg.norm
    both = [(norm(X.T @ to_hidden), norm(to_hidden.sum(0)))]
    both += [(norm(hidden.T @ to_predicted), norm(to_predicted.sum(0)))]
    rows = [(r.layer, r.outputs, r.gradient, r.weights, r.not_finite) for r in replay.layers]
    expected = [("a", norm(hidden), norm(to_hidden), norm(both[0]), 0.0)]
    expected += [("b", norm(predicted), norm(to_predicted), norm(both[1]), 0.0)]
    for row, wanted in zip(rows, expected, strict=True):
        assert row[0] == wanted[0] and row[1:] == pytest.approx(wanted[1:], rel=1e-5)
    squares = (predicted - Y)[:, 0] ** 2
    np.testing.assert_allclose(replay.losses, squares, rtol=1e-5)
    assert replay.loss == pytest.approx(squares.mean(), rel=1e-5)
    assert replay.examples == np.argsort(-squares, kind="stable")[:5].tolist()
    assert replay.labels == [Y[e, 0] for e in replay.examples]
    assert (replay.began_in, replay.began_at) == (None, None)


def power(exponent):
    return L.Lambda(lambda z: keras.ops.sign(z) * keras.ops.abs(z) ** exponent, name="power")


def ones(*shape):
    return np.ones(shape, "float32")


@pytest.mark.parametrize(
    "case, began_in, began_at, rows",
    [
        ("x", "data", "x", [2]),
        ("y", "data", "y", [1]),
        ("weight", "data", "sample_weight", [3]),
        ("own weight", "weights", "a/kernel", []),
        ("logarithm", "forward", "log", [0]),
        ("loss", "loss", None, [1]),
        ("root", "backward", "root", [2]),
    ],
)
def test_where_it_begins(case, began_in, began_at, rows):
    x, y, weights = X.copy(), Y.copy(), None
    middle = {
        "logarithm": L.Lambda(keras.ops.log, name="log"),
        "root": L.Lambda(lambda z: keras.ops.abs(z) ** 0.5, name="root"),
    }.get(case, L.Identity(name="same"))
    loss = "poisson" if case == "loss" else "mse"
    model = chain(L.Dense(2, name="a", use_bias=False), middle, L.Dense(1, name="b"), loss=loss)
    model.get_layer("a").set_weights([ones(3, 2)])
    x = np.abs(x) if case == "logarithm" else x
    if case == "x":
        x[2, 1] = np.nan
    elif case == "y":
        y[1] = np.inf
    elif case == "weight":
        weights = np.array([1.0, 1.0, 1.0, np.nan], "float32")
    elif case == "own weight":
        model.get_layer("a").set_weights([np.nan * ones(3, 2)])
    elif case == "logarithm":
        x[0] = -1.0
    elif case == "loss":
        y[1] = 1e38
        model.get_layer("b").set_weights([np.zeros((2, 1)), np.full(1, 1e38)])
    else:
        x[2] = 0.0
    replay = explained(model, x, y, weights)
    assert (replay.began_in, replay.began_at, replay.examples) == (began_in, began_at, rows)
    assert replay.description in str(replay)


def test_the_faulty_one_of_several_inputs_is_named():
    inputs = {name: keras.Input((3,), name=name) for name in ("good", "bad")}
    both = L.Add()(list(inputs.values()))
    outputs = {name: L.Dense(1, name=name)(both) for name in ("one", "two")}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"one": "mse", "two": "mse"})
    x = {"good": X.copy(), "bad": X.copy()}
    x["bad"][2, 1] = np.nan
    replay = explained(model, x, {"one": Y, "two": Y}, None)
    assert (replay.began_in, replay.began_at, replay.examples) == ("data", "x/bad", [2])
    assert "example 2: loss nan\n" in str(replay)  # no target where there are several


def test_a_batch_comes_back_as_it_was(tmp_path):
    """Any nest of tensors: named, sparse, ragged, in half precision, strings, one number, none."""
    model = chain(L.Dense(1))
    x = {
        "a": tf.constant(X),
        "b": [tf.sparse.from_dense(Y), tf.ragged.constant([[1, 2], [], [3], [4]])],
        "c": (tf.constant([b"one", b"two \xff", b"", b"4"]), tf.cast(X, tf.bfloat16)),
        "d": None,
        "e": tf.constant(2.5),
    }
    path = write_fault(tmp_path, "step-3", model, (x, tf.constant(Y), None), {"step": 3})
    again, (back, y, weights), report = read_fault(path)
    np.testing.assert_equal(again.get_weights(), model.get_weights())
    assert report == {"step": 3} and weights is None and back["d"] is None
    for one, other in zip(tf.nest.flatten(x), tf.nest.flatten(back), strict=True):
        assert type(one) is type(other)
        if one is not None:
            parts = (tf.nest.flatten(t, expand_composites=True) for t in (one, other))
            for a, b in zip(*parts, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a.numpy(), b.numpy())
    np.testing.assert_array_equal(y, Y)
    assert write_fault(tmp_path, "step-3", model, (x, None, None), {}) == f"{path}-2"


def test_the_loss_is_scaled_as_it_was(tmp_path):
    """Keras scales it for a model's own policy, which another process does not set."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    model = chain(L.Dense(1))
    keras.config.set_dtype_policy(policy)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.dynamic_scale.assign(2.0**40)  # beyond float16
    path = write_fault(tmp_path, "step-1", model, (tf.constant(X), tf.constant(Y), None), {})
    assert explained(model).began_in == keras_bp.replay(path).began_in == "backward"
    assert keras.config.dtype_policy() is policy


@pytest.fixture(scope="module")
def fault(tmp_path_factory):
    """The folder of a fault: dropout, and a target that is far off."""
    folder = tmp_path_factory.mktemp("faults")
    x, y = examples()
    y[22] = np.nan
    model, rescue = build(), Rescue(folder, verbose=0)
    fit(model, (x, y), rescue)
    return rescue.rescues[0]


def test_in_a_notebook():
    model = chain(L.Dense(2, name="<a>"), L.Dense(1, name="b"))
    model.set_weights([w * np.float32(1e30) for w in model.get_weights()])
    replay = explained(model)
    html = replay._repr_html_()
    assert replay.began_at == "b" and "&lt;a&gt;" in html and replay.description[:8] in html
    (marked,) = (row for row in html.splitlines() if "background" in row)
    assert ">b<" in marked


def test_the_command_line(fault, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["keras_bp", "replay", fault.path])
    main()
    printed = capsys.readouterr().out
    assert printed == f"{keras_bp.replay(fault.path)}\n"
    assert "\nhidden " in printed and f"example {22 % BATCH}: loss nan, target nan" in printed
    assert fault.description == keras_bp.replay(fault.path).description
    monkeypatch.setattr("sys.argv", ["keras_bp", "replay", "nowhere"])
    with pytest.raises(SystemExit, match="`path` must name a folder"):
        main()


def test_a_folder_that_is_not_whole(fault, tmp_path):
    for name in ("batch.npz", "report.json"):
        folder = tmp_path / name
        shutil.copytree(fault.path, folder)
        file = folder / name
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(ValueError, match="`path` must name a folder.*whole. Received"):
            keras_bp.replay(folder)
        file.unlink()
        with pytest.raises(ValueError, match=f"without {name}"):
            keras_bp.replay(folder)


def test_code_in_a_model_is_not_run(tmp_path):
    """Keras's safe mode; a model of one's own takes the weights."""
    model = chain(L.Dense(1), L.Lambda(lambda z: z * 2.0))
    path = write_fault(tmp_path, "step-1", model, (tf.constant(X), tf.constant(Y), None), {})
    with pytest.raises(ValueError, match="[Ll]ambda"):
        keras_bp.replay(path)
    twin = chain(L.Dense(1), L.Lambda(lambda z: z * 2.0))
    twin.set_weights([w + 1 for w in twin.get_weights()])
    assert keras_bp.replay(path, twin).loss == explained(model).loss
    plain = keras.Sequential([keras.Input((3,)), *twin.layers])
    with pytest.raises(ValueError, match="`model` must be compiled"):
        keras_bp.replay(path, plain)


def test_a_model_that_cannot_be_saved(tmp_path):
    optimizer = keras_bp.optimizers.SGD(lambda: 0.1)
    model = chain(L.Dense(1), optimizer=optimizer)
    path = write_fault(tmp_path, "step-1", model, (tf.constant(X), tf.constant(Y), None), {})
    with pytest.raises(ValueError, match="`model` must be given where Keras could not save it"):
        keras_bp.replay(path)
    twin = chain(L.Dense(1))
    twin.set_weights([w + 1 for w in twin.get_weights()])
    assert keras_bp.replay(path, twin).loss == explained(model).loss
