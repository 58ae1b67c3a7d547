"""GradientConflict leaves the training as it is, and says what it cannot watch."""

import doctest
import re

import keras
import numpy as np
import pytest
from conflict_cases import FIT, compile_model, model_of_three, model_of_two, targets

import keras_bp
from keras_bp.callbacks import GradientConflict
from keras_bp.multitask import IMTLG, MultiTaskModel, PCGrad, Sum

L = keras.layers
optimizers = keras.optimizers


@pytest.mark.parametrize(
    "make, combine, optimizer, jit_compile",
    [
        # A rule that never looks at the Gramian, and one whose step hangs on it.
        (model_of_three, Sum, lambda: optimizers.SGD(0.01, momentum=0.9), False),
        (model_of_two, PCGrad, lambda: optimizers.SGD(0.1), None),
        *(
            pytest.param(model_of_three, *parts, marks=pytest.mark.long)
            for parts in (
                (Sum, lambda: optimizers.SGD(0.01), True),
                (PCGrad, lambda: optimizers.SGD(0.1), True),
                (PCGrad, lambda: optimizers.AdamW(0.01, clipnorm=0.1), True),
                (IMTLG, lambda: optimizers.Adam(0.01, gradient_accumulation_steps=2), True),
                (PCGrad, lambda: optimizers.LossScaleOptimizer(optimizers.RMSprop(0.01)), False),
            )
        ),
    ],
)
def test_training_is_the_same_to_the_bit(make, combine, optimizer, jit_compile, data, tmp_path):
    x, results = data[0][:20], []
    for callbacks in [], [GradientConflict(tmp_path)]:
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)  # from which PCGrad takes the seed of its orders
        eager = jit_compile is None  # where nothing but the orders could differ
        model = make(optimizer(), combine(), jit_compile=bool(jit_compile), run_eagerly=eager)
        y = {name: targets(x)[name] for name in model.output_names}
        history = model.fit(x, y, epochs=2, callbacks=callbacks, **FIT)
        variables = [*model.variables, *model.optimizer.variables]
        results.append((history.history, [v.numpy() for v in variables]))
    np.testing.assert_equal(results[1], results[0])


class _Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise KeyboardInterrupt


def test_everything_is_as_it_was_after_an_interruption(data, tmp_path, read_events):
    x, y = data[0], targets(data[0])
    model, conflict = model_of_three(run_eagerly=True), GradientConflict(tmp_path)
    heard = []
    model.listeners.append(lambda *of_step: heard.append(of_step))  # somebody else's stays
    model.fit(x, y, **FIT)
    before = [dict(vars(part)) for part in (model.combiner, model.optimizer)]
    listeners = list(model.listeners)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, callbacks=[conflict, _Interrupt()], **FIT)
    assert [vars(part) for part in (model.combiner, model.optimizer)] == before
    assert model.listeners == listeners and len(heard) == 8
    model.fit(x, y, callbacks=[conflict], **FIT)
    assert model.listeners == listeners and len(heard) == 13
    assert vars(model.combiner).keys() == before[0].keys()
    # The optimizer's sixth step is the first that was watched, and three came before the stop.
    assert list(read_events(tmp_path)["gradient_cosine/first/a-b"]) == list(range(6, 14))
    # What was not written when the fit ended is taken by the next one.
    assert {row["steps"] for row in conflict.table()} == {8}


def test_another_model_begins_a_table_of_its_own(data, tmp_path):
    x, y = data[0], targets(data[0])
    conflict = GradientConflict(tmp_path)
    assert conflict.table() == []
    for names in "ab", "ac":
        model = model_of_two(names=names, run_eagerly=True)
        model.fit(x, {name: y[name] for name in names}, callbacks=[conflict], **FIT)
    rows = [(row["layer"], row["tasks"], row["steps"]) for row in conflict.table()]
    assert rows == [("trunk_ac", ("a", "c"), 5), ("global", ("a", "c"), 5)]


def test_a_head_for_two_outputs_and_names_with_a_dash(data, tmp_path, read_events):
    x = data[0]
    inputs = keras.Input((4,))
    trunk, head = L.Dense(3, name="trunk"), L.Dense(1, name="head")
    outputs = [
        head(trunk(inputs)),
        head(trunk(2.0 * inputs)),
        L.Dense(1, name="t-1")(trunk(inputs)),
    ]
    model = MultiTaskModel(inputs, outputs, combiner=Sum())
    model.compile("sgd", "mse", run_eagerly=True)
    conflict = GradientConflict(tmp_path)
    model.fit(x, [x[:, :1]] * 3, callbacks=[conflict], **FIT)
    places = ["trunk/head_0-head_1", "trunk/head_0-t-1", "trunk/head_1-t-1", "head/head_0-head_1"]
    tags = {tag.split("/", 1)[1] for tag in read_events(tmp_path) if "cosine" in tag}
    assert {tag for tag in tags if "global" not in tag} == set(places)


def test_another_kind_of_model(data, tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Dense(1)], name="net")
    model.compile("sgd", "mse")
    before = model.get_weights()
    expected = r"needs a keras_bp.multitask.MultiTaskModel.*Received: model 'net' of type Seq"
    with pytest.raises(TypeError, match=expected):
        model.fit(*data, verbose=0, callbacks=[GradientConflict(tmp_path)])
    np.testing.assert_equal(model.get_weights(), before)


def towers(shared):
    inputs = keras.Input((4,))
    trunk = L.Dense(3, name="trunk", trainable=shared)(inputs)
    outputs = {name: L.Dense(1, name=name)(trunk) for name in "abc"}
    model = MultiTaskModel(inputs, outputs, combiner=Sum(), name="net")
    compile_model(model)
    return model


@pytest.mark.parametrize(
    "shared, layers, message",
    [
        (False, None, "two or more tasks share trainable weights. Received: model 'net'"),
        (True, ["a"], r"`layers` must name layers that .* share: \['trunk'\]. Received: .*\['a'\]"),
        (
            True,
            ["trnk"],
            r"`layers` must name layers of the model, .* Received: layers='trnk'",
        ),
    ],
)
def test_nothing_to_watch(shared, layers, message, data, tmp_path):
    model = towers(shared)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        conflict = GradientConflict(tmp_path, layers=layers)
        model.fit(data[0], targets(data[0]), callbacks=[conflict], **FIT)
    np.testing.assert_equal(model.get_weights(), before)
    assert model.listeners == []


class _NoTasks(MultiTaskModel):
    train_step = keras.Model.train_step


def test_a_train_step_that_combines_nothing_is_told(data, tmp_path):
    inputs = keras.Input((4,))
    trunk = L.Dense(3)(inputs)
    model = _NoTasks(inputs, [L.Dense(1)(trunk), L.Dense(1)(trunk)], combiner=Sum(), name="net")
    model.compile("sgd", "mse", run_eagerly=True)
    conflict = GradientConflict(tmp_path)
    with pytest.warns(RuntimeWarning, match="model 'net' calls none of `model.listeners`"):
        model.fit(data[0], [data[1]] * 2, callbacks=[conflict], **FIT)
    assert conflict.table() == []


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"log_dir": 3}, TypeError, "`log_dir` must be a path that is not empty, a string or"),
        ({"log_dir": ""}, ValueError, "`log_dir` must be a path that is not empty, a string or"),
        ({"every": 0}, ValueError, "`every` must be an integer of 1 or more. Received: every=0"),
        ({"every": 1.0}, TypeError, "`every` must be an integer of 1 or more. Received: every=1.0"),
        ({"layers": "trunk"}, TypeError, "`layers` must be a list of strings or None. Received:"),
        ({"layers": []}, ValueError, "`layers` must name a layer, or be None. Received:"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        GradientConflict(**arguments)


def test_log_dir_that_cannot_be_made(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`log_dir` must name a directory in which .*file"):
        conflict = GradientConflict(tmp_path / "file" / "logs")
        towers(True).fit(data[0], targets(data[0]), callbacks=[conflict], **FIT)


def test_example_of_the_docstring(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"keras": keras, "keras_bp": keras_bp, "np": np}
    (example,) = doctest.DocTestFinder(recurse=False).find(GradientConflict, globs=names)
    assert doctest.DocTestRunner().run(example).failed == 0
