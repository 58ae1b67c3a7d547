"""GradientConflict: every number equals that of independent tapes, or a closed form."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conflict_cases import (
    FIT,
    PAIRS,
    SHARED,
    Snapshots,
    batches,
    compile_model,
    cosine_and_similarity,
    expected,
    model_of_three,
    own_steps,
    targets,
)
from run_tags import SETTINGS

from keras_bp.callbacks import GradientConflict, GradientMonitor
from keras_bp.multitask import MultiTaskModel, Sum

L = keras.layers
COSINE, SIMILARITY = "gradient_cosine", "gradient_magnitude_similarity"
# Gradients in float32, summed in another order where XLA compiles; the event file is in float32.
ROUNDING = 1e-5


def cells_of(picture):
    """Decode a picture's cells, of 510 pixels in all, without the text and the colour bar."""
    return tf.io.decode_png(picture[2]).numpy()[24:-40, -96 - 510 : -96]


def assert_series(series, values, steps=None):
    steps = range(1, len(values) + 1) if steps is None else steps
    assert list(series) == list(steps)
    np.testing.assert_allclose(list(series.values()), values, atol=ROUNDING)


def assert_all(events, table, steps, epochs):
    """All scalars, pictures and rows are those of these steps' gradients."""
    rows = {(row["layer"], row["tasks"]): row for row in table}
    assert list(rows) == [(layer, pair) for layer, (_, pairs) in SHARED.items() for pair in pairs]
    tags = {f"conflicting_steps/{layer}" for layer in SHARED} | {"gradient_conflict", *SETTINGS}
    places = [(layer, pair) for layer, (_, pairs) in SHARED.items() for pair in pairs]
    names = {place: f"{place[0]}/{place[1][0]}-{place[1][1]}" for place in places}
    assert set(events) == tags | {f"{k}/{n}" for k in (COSINE, SIMILARITY) for n in names.values()}
    conflicts = {layer: [] for layer in SHARED}
    for (layer, pair), name in names.items():
        cosines, similarities = expected(steps, layer, pair)
        conflicts[layer].append(cosines < 0)
        assert_series(events[f"{COSINE}/{name}"], cosines)
        assert_series(events[f"{SIMILARITY}/{name}"], similarities)
        row = rows[layer, pair]
        assert row["cosine"] == pytest.approx(cosines.mean(), abs=ROUNDING)
        assert row["magnitude_similarity"] == pytest.approx(similarities.mean(), abs=ROUNDING)
        assert row["steps"] == len(steps)
        assert row["conflicting"] == np.mean(cosines < 0)
    for layer, of_pairs in conflicts.items():
        shares = np.any(of_pairs, axis=0).reshape(epochs, -1).mean(axis=1)
        ends = len(steps) // epochs * np.arange(1, epochs + 1)
        assert_series(events[f"conflicting_steps/{layer}"], shares, ends)
        assert list(events["gradient_conflict"]) == list(ends)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.long),
        {"run_eagerly": True},
        pytest.param({"steps_per_execution": 3}, marks=pytest.mark.long),
        pytest.param({"jit_compile": True}, marks=pytest.mark.long),
        pytest.param({"jit_compile": True, "steps_per_execution": 3}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_every_value(options, data, tmp_path, read_events):
    x, y = data[0][:13], targets(data[0][:13])
    model, snapshots = model_of_three(**options), Snapshots()
    conflict = GradientConflict(tmp_path)
    model.fit(x, y, epochs=2, callbacks=[snapshots, conflict], **FIT)
    if "steps_per_execution" in options:  # the weights inside a call are those of single steps
        model.set_weights(snapshots.weights[0])
        compile_model(model, jit_compile=options.get("jit_compile", False))
        model.fit(x, y, epochs=2, callbacks=[snapshots], **FIT)
    steps = own_steps(model, snapshots.weights, batches(x, y, epochs=2))
    assert_all(read_events(tmp_path), conflict.table(), steps, epochs=2)
    shares = {row["conflicting"] for row in conflict.table()}
    assert len(shares) > 2  # or this data would not tell one share from another


def test_replicas_are_one_batch(data, tmp_path, read_events, replicas):
    x, y = data[0][:20], targets(data[0][:20])
    fit = {**FIT, "batch_size": 10}
    with replicas.scope():
        model = without_statistics()
    snapshots, conflict = Snapshots(), GradientConflict(tmp_path)
    model.fit(x, y, callbacks=[snapshots, conflict], **fit)
    twin = without_statistics()
    parts = [(x[i], {k: v[i] for k, v in y.items()}) for i in (slice(0, 10), slice(10, 20))]
    steps = own_steps(twin, snapshots.weights, parts)
    events = read_events(tmp_path)
    for pair in PAIRS:
        values = np.array([cosine_and_similarity(g, range(4), pair) for g in steps]).T
        for kind, series in zip((COSINE, SIMILARITY), values, strict=True):
            assert_series(events[f"{kind}/global/{pair[0]}-{pair[1]}"], series)
    assert {row["steps"] for row in conflict.table()} == {2}


def without_statistics():
    """A trunk whose gradients do not depend on how a batch is parted."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    trunk = L.Dense(3, "tanh", name="second")(L.Dense(3, "tanh", name="first")(x))
    model = MultiTaskModel(x, {k: L.Dense(1, name=k)(trunk) for k in "abc"}, combiner=Sum())
    compile_model(model)
    return model


@pytest.mark.parametrize("scaled", [False, True])
def test_a_task_that_is_left_out(scaled, data, tmp_path, read_events):
    """No cosine with it in that step; and no step at all where loss scaling skips it."""
    x, y = data[0][:15], targets(data[0][:15])
    y["b"][7] = 9.0  # in the second of three batches
    optimizer = keras.optimizers.SGD(0.1)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    model, conflict = model_of_three(optimizer, run_eagerly=not scaled), GradientConflict(tmp_path)
    snapshots = Snapshots()
    conflict._seconds = 60.0  # all steps are read at the end, as where they take no time
    model.fit(x, y, callbacks=[snapshots, conflict], **FIT)
    assert model.left_out() == {"a": 0, "b": 1, "c": 0}
    steps, events = own_steps(model, snapshots.weights, batches(x, y)), read_events(tmp_path)
    rows = {(row["layer"], row["tasks"]): row for row in conflict.table()}
    for layer, (_, pairs) in SHARED.items():
        for a, b in pairs:
            there = [0, 1, 2] if (a, b) == ("a", "c") and not scaled else [0, 2]
            numbers = [1, 2] if scaled else np.array(there) + 1
            cosines, _ = expected([steps[i] for i in there], layer, (a, b))
            assert_series(events[f"{COSINE}/{layer}/{a}-{b}"], cosines, numbers)
            assert rows[layer, (a, b)]["steps"] == len(there)
            assert rows[layer, (a, b)]["conflicting"] == np.mean(cosines < 0)


def planted(**options):
    """Four tasks that pull one layer up, down, up twice as strongly, and not at all."""
    x = keras.Input((4,))
    trunk = L.Dense(3, name="trunk")(x)
    pulls = {"up": 1.0, "down": -1.0, "more": 2.0, "none": 0.0}
    # Heads that stay as they are, so that nothing turns as the training goes on.
    head = {"kernel_initializer": "ones", "trainable": False}
    outputs = {name: L.Dense(1, name=name, **head)(trunk) for name in pulls}
    model = MultiTaskModel(x, outputs, combiner=Sum())
    losses = {
        name: lambda y_true, y_pred, pull=pull: pull * keras.ops.mean(y_pred, axis=-1)
        for name, pull in pulls.items()
    }
    model.compile(keras.optimizers.SGD(0.01), losses, **options)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"jit_compile": True},
        {"jit_compile": False, "steps_per_execution": 2},
    ],
    ids=str,
)
def test_a_planted_conflict(options, data, tmp_path, read_events):
    x, model, conflict = data[0][:20], planted(**options), GradientConflict(tmp_path)
    model.fit(x, {name: x[:, :1] for name in model.output_names}, callbacks=[conflict], **FIT)
    rows = {row["tasks"]: row for row in conflict.table() if row["layer"] == "trunk"}
    closed_form = {
        ("down", "up"): (-1.0, 1.0, 1.0),
        ("down", "more"): (-1.0, 1.0, 0.8),
        ("more", "up"): (1.0, 0.0, 0.8),
    }
    assert len(rows) == 6
    for pair, (cosine, share, similarity) in closed_form.items():
        row = rows.pop(pair)
        assert row["cosine"] == pytest.approx(cosine) and row["conflicting"] == share
        assert row["magnitude_similarity"] == pytest.approx(similarity) and row["steps"] == 4
    events = read_events(tmp_path)
    for (a, b), row in rows.items():
        assert "none" in (a, b) and row["steps"] == 0 and np.isnan(row["cosine"])
        assert f"{COSINE}/trunk/{a}-{b}" not in events
    assert events["conflicting_steps/trunk"] == {4: 1.0}
    (picture,) = events["gradient_conflict"].values()
    image = cells_of(picture)
    height, width = len(image) // 2, image.shape[1] // 6
    cells = image[height // 2 :: height, width // 2 :: width]
    red, blue, grey = [178, 24, 43], [33, 102, 172], [128, 128, 128]
    # down-more, down-none, down-up, more-none, more-up, none-up; of the trunk, and of all.
    assert cells.tolist() == [[red, grey, red, grey, blue, grey]] * 2


class _Two(L.Layer):
    """Two maps in one layer."""

    def build(self, shape):
        self.maps = [self.add_weight(name=f"map_{i}", shape=(4, 3)) for i in range(2)]

    def call(self, x):
        return [x @ weight for weight in self.maps]


def test_tasks_that_use_other_weights_of_a_layer_do_not_share_it(data, tmp_path, read_events):
    inputs = keras.Input((4,))
    one, other = _Two(name="two")(inputs)
    trunks = {"a": one, "b": L.Add()([one, other]), "c": other}
    outputs = {name: L.Dense(1, name=name)(trunk) for name, trunk in trunks.items()}
    model = MultiTaskModel(inputs, outputs, combiner=Sum())
    compile_model(model, run_eagerly=True)
    conflict = GradientConflict(tmp_path)
    model.fit(data[0], targets(data[0]), callbacks=[conflict], **FIT)
    pairs = [("a", "b"), ("b", "c")]
    rows = [(row["layer"], row["tasks"]) for row in conflict.table()]
    assert rows == [(layer, pair) for layer in ("two", "global") for pair in pairs]
    (picture,) = read_events(tmp_path)["gradient_conflict"].values()
    image = cells_of(picture)
    grey = (image == 128).all(axis=2)
    assert grey[50].any() and set(np.nonzero(grey)[1] * 3 // 510) == {1}  # of three columns


def test_sparse_gradients_of_a_shared_table(tmp_path, read_events):
    """Repeated ids, and ids that only one of two tasks' inputs hold."""
    generator = np.random.default_rng(0)
    x = [generator.integers(0, 6, (10, 3)) for _ in "abc"]
    inputs = [keras.Input((3,), dtype="int32") for _ in "abc"]
    table = L.Embedding(6, 2, name="table")
    outputs = {
        name: L.Dense(1, name=name)(L.Flatten()(table(ids)))
        for name, ids in zip("abc", inputs, strict=True)
    }
    model = MultiTaskModel(inputs, outputs, combiner=Sum())
    compile_model(model, run_eagerly=True)
    y = {name: generator.normal(size=(10, 1)).astype("float32") for name in "abc"}
    snapshots, conflict = Snapshots(), GradientConflict(tmp_path)
    model.fit(x, y, callbacks=[snapshots, conflict], **FIT)
    parts = [
        ([ids[p] for ids in x], {k: v[p] for k, v in y.items()}) for p in (slice(5), slice(5, 10))
    ]
    steps, events = own_steps(model, snapshots.weights, parts), read_events(tmp_path)
    for a, b in PAIRS:
        values = [cosine_and_similarity(g, [0], (a, b))[0] for g in steps]
        assert_series(events[f"{COSINE}/table/{a}-{b}"], values)


def test_accumulated_gradients_are_concatenated(data, tmp_path, read_events):
    """5 micro-batches by 2: the one that is left over is not in the next fit's first update."""
    x, y = data[0], targets(data[0])
    y["b"][12] = 9.0  # b is left out of the third micro-batch, and so of the second update
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model, conflict, steps = (
        model_of_three(optimizer, run_eagerly=True),
        GradientConflict(tmp_path),
        [],
    )
    for _ in range(2):
        snapshots = Snapshots()
        model.fit(x, y, callbacks=[snapshots, conflict], **FIT)
        after = model.get_weights()
        steps += own_steps(model, snapshots.weights, batches(x, y))
        model.set_weights(after)
    updates = [
        {
            task: [np.concatenate(p) for p in zip(*(g[task][:2] for g in some), strict=True)]
            for task in "abc"
        }
        for some in (steps[0:2], steps[2:4], steps[5:6], steps[6:8], steps[8:10])
    ]
    events = read_events(tmp_path)
    # And of the fourth, whose first micro-batch is the second fit's third.
    for pair in PAIRS:
        there = [0, 1, 2, 3, 4] if "b" not in pair else [0, 2, 4]
        values = [cosine_and_similarity(updates[i], [0, 1], pair) for i in there]
        for kind, series in zip((COSINE, SIMILARITY), np.array(values).T, strict=True):
            numbers = np.array(there) + 1
            assert_series(events[f"{kind}/first/{pair[0]}-{pair[1]}"], series, numbers)


def test_every_and_a_second_fit(data, tmp_path, read_events):
    """Beside a monitor, in one directory: what is written thins out, what is counted does not."""
    x, y = data[0], targets(data[0])
    model, snapshots = model_of_three(run_eagerly=True), Snapshots()
    conflict, steps = GradientConflict(tmp_path, every=3, layers=["block"]), []
    monitor = GradientMonitor(tmp_path)
    for _ in range(2):
        model.fit(x, y, callbacks=[conflict, snapshots, monitor], **FIT)
        after = model.get_weights()
        steps += own_steps(model, snapshots.weights, batches(x, y))
        model.set_weights(after)
    layers = [row["layer"] for row in conflict.table()]
    assert layers == ["block/conv", "block/bn", "global", "global", "global"]
    assert {row["steps"] for row in conflict.table()} == {10}
    events = read_events(tmp_path)
    assert {tag.rsplit("/", 1)[0] for tag in events if tag.startswith(COSINE)} == {
        f"{COSINE}/{layer}" for layer in layers
    }
    for layer in layers:
        cosines, _ = expected(steps, layer, ("a", "b"))
        assert_series(events[f"{COSINE}/{layer}/a-b"], cosines[2::3], [3, 6, 9])
        every_pair = [expected(steps, layer, pair)[0] < 0 for pair in SHARED[layer][1]]
        shares = np.any(every_pair, axis=0).reshape(2, 5).mean(axis=1)
        assert_series(events[f"conflicting_steps/{layer}"], shares, [5, 10])
    assert len(events["gradient_norm/first"]) == 10
