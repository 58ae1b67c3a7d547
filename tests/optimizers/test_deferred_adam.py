"""DeferredAdam is Adam: the same table at every look-up, whatever the rows did in between."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.deferred.rows import DeferredRows, missed_quadrature
from keras_bp.layers import DeferredEmbedding, Dense, Embedding
from keras_bp.optimizers import Adam, DeferredAdam
from keras_bp.schedules import WarmupCosine

ROWS, COLUMNS, BATCH = 3000, 4, 32


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def zipf(generator, rows=ROWS):
    """Draw ids with repeats: a few rows in every batch, most of them once in a thousand."""
    return np.minimum(generator.zipf(1.3, BATCH) - 1, rows - 1)


class Pair:
    """The same table under DeferredAdam and under Adam, on a noisy regression."""

    def __init__(
        self, dtype, rows=ROWS, jit_compile=False, run_eagerly=False, rate=1e-2, **arguments
    ):
        self.generator = np.random.default_rng(0)
        table = 0.05 * self.generator.normal(size=(rows, COLUMNS))
        self.rows, self.dtype = rows, dtype
        self.targets = tf.constant(self.generator.normal(size=(rows, COLUMNS)), dtype)
        self.deferred = DeferredEmbedding(rows, COLUMNS, weights=table, dtype=dtype)
        self.dense = Embedding(rows, COLUMNS, weights=table, dtype=dtype)
        self.optimizers = DeferredAdam(rate, **arguments), Adam(rate, **arguments)
        self.step = self._step
        if not run_eagerly:
            self.step = tf.function(self._step, jit_compile=jit_compile)

    def _step(self, ids, noise):
        outputs = []
        for layer, optimizer in zip((self.deferred, self.dense), self.optimizers, strict=True):
            with tf.GradientTape() as tape:
                rows = layer(ids)
                error = tf.reduce_sum((rows - tf.gather(self.targets, ids)) ** 2) / BATCH
                # Noise: with exact targets the gradients vanish, and Adam's quotient of two
                # vanishing numbers blows any rounding up.
                loss = error + tf.reduce_sum(rows * noise)
            optimizer.apply(tape.gradient(loss, layer.trainable_weights), layer.trainable_weights)
            outputs.append(rows)
        return tf.reduce_max(tf.abs(outputs[0] - outputs[1]))

    def run(self, steps, ids=None):
        """Return the largest difference between what the two layers read."""
        worst = 0.0
        for _ in range(steps):
            batch = zipf(self.generator, self.rows) if ids is None else ids
            noise = self.generator.normal(size=(len(batch), COLUMNS))
            worst = max(worst, float(self.step(tf.constant(batch), tf.constant(noise, self.dtype))))
        return worst

    def table_difference(self):
        return np.abs(self.deferred.embeddings.numpy() - self.dense.embeddings.numpy()).max()

    def stored_difference(self):
        return np.abs(self.deferred.weights[0].value.numpy() - self.dense.embeddings.numpy()).max()


def test_iterates_are_adams(float64):
    # Both move by 1e-2 a step; 1e-12 is what 1000 steps of rounding leave of float64's 1e-16.
    pair = Pair("float64", rate=WarmupCosine(1e-2, 1000, 100))
    assert pair.run(1000) <= 1e-12
    assert pair.table_difference() <= 1e-12
    # The rows as they are stored are behind: that is what makes the step cheap.
    assert pair.stored_difference() > 0.01
    pair.optimizers[0].catch_up()
    assert pair.stored_difference() <= 1e-12
    # Rows that had been absent for long keep the averages of their last update, and go on from it.
    assert pair.run(60) <= 1e-12
    assert pair.table_difference() <= 1e-12


def test_a_catch_up_writes_the_rows_that_have_missed_something(float64):
    pair = Pair("float64", rows=40, run_eagerly=True)
    state = pair.deferred.weights[0].deferred_rows
    pair.run(3, ids=[5, 9])
    pair.run(2, ids=[5])
    # A step takes one more row in turn. Row 5, of the last batch, and 4 have missed nothing.
    behind = [0, 1, 2, 3, 9]
    assert np.flatnonzero(state.last_update.numpy() == 5).tolist() == [4, 5]
    table = pair.deferred.weights[0].value.numpy()
    pair.optimizers[0].catch_up()
    assert np.flatnonzero(state.last_update.numpy()).tolist() == sorted([4, 5, *behind])
    moved = np.any(pair.deferred.weights[0].value.numpy() != table, axis=1)
    assert np.flatnonzero(moved).tolist() == [9]  # the others have had no gradient but 0
    assert not state.weights.numpy().any()
    pair.run(1, ids=[7])
    assert pair.table_difference() <= 1e-12


def test_tables_of_many_shapes_are_brought_up_to_date_without_a_warning(caplog):
    tables = [DeferredEmbedding(11 + i, 3) for i in range(6)]
    optimizer = DeferredAdam()
    variables = []
    for table in tables:
        table.build()
        variables += table.trainable_weights
    optimizer.build(variables)
    tf.get_logger().addHandler(caplog.handler)
    try:
        optimizer.catch_up()
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert "retracing" not in caplog.text


def test_a_look_up_that_was_traced_before_reads_more_nodes(float64):
    """The usual betas need few of them in float32, those of the next optimizer all."""
    pair = Pair("float32", rows=40, run_eagerly=True)
    read = tf.function(pair.deferred)
    pair.run(3, ids=[5, 9])
    read(tf.range(40))
    pair.optimizers = tuple(c(1e-2, beta_2=0.95) for c in (DeferredAdam, Adam))
    pair.dense.set_weights([pair.deferred.embeddings])
    pair.run(3, ids=[5, 9])
    pair.run(20, ids=[1])
    used = pair.deferred.weights[0].deferred_rows.nodes.numpy() < 2
    assert used[:-1].all()
    np.testing.assert_allclose(read(tf.range(40)), pair.dense.embeddings, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [{"beta_1": 0.0, "beta_2": 0.9}, {"beta_1": 0.5, "beta_2": 0.99, "epsilon": 1e-2}],
    ids=str,
)
def test_other_betas_and_epsilon(float64, arguments):
    assert Pair("float64", rows=300, **arguments).run(300) <= 1e-11


def test_compiled_by_xla_in_float32():
    # Rates of 1e-2 over 200 steps, and a rounding of 6e-8 in each.
    pair = Pair("float32", jit_compile=True)
    assert pair.run(200) <= 2e-5
    # No branch or loop around the table, for which XLA would copy it.
    inputs = tf.constant(zipf(pair.generator)), tf.zeros((BATCH, COLUMNS))
    operations = pair.step.get_concrete_function(*inputs).graph.get_operations()
    assert not {"If", "StatelessIf", "While", "StatelessWhile"} & {o.type for o in operations}


def test_sweeps_change_nothing(float64, monkeypatch):
    monkeypatch.setattr("keras_bp.deferred.rows._SHORTEST_RING", 300)
    # 350 rows: more than a block of 150, and no multiple of it; the ring turns twice.
    monkeypatch.setattr("keras_bp.deferred.rows._BLOCK", 150)
    pair = Pair("float64", rows=350)
    assert pair.deferred.weights[0].deferred_rows.ring == 350
    assert pair.run(750) <= 1e-12
    assert pair.table_difference() <= 1e-12


def test_dense_gradient_of_the_table(float64):
    # A tied output layer: the whole table is read, and its gradient is dense.
    pair = Pair("float64", rows=40, run_eagerly=True)
    pair.run(8)
    for layer, optimizer in zip((pair.deferred, pair.dense), pair.optimizers, strict=True):
        for _ in range(3):
            with tf.GradientTape() as tape:
                logits = tf.matmul(layer(tf.constant([1, 5])), layer.embeddings, transpose_b=True)
                loss = tf.reduce_sum(tf.sin(logits))
            optimizer.apply(tape.gradient(loss, layer.trainable_weights), layer.trainable_weights)
    assert pair.stored_difference() <= 1e-12
    assert pair.run(8) <= 1e-12


def test_weights_that_are_read_and_set_within_a_training_are_adams(float64):
    """As arrays, and by what assigns; Adam's table is set likewise."""
    pair = Pair("float64", rows=40, run_eagerly=True)
    table, twin = pair.deferred.weights[0], pair.dense.weights[0]
    new = np.linspace(-1, 1, 40 * COLUMNS).reshape(40, COLUMNS)
    ways = [
        lambda: pair.deferred.set_weights(pair.deferred.get_weights()),
        lambda: [variable.assign(new) for variable in (table, twin)],
        lambda: [variable.assign_add(0.1 * new) for variable in (table, twin)],
        lambda: [variable.assign_sub(0.2 * new) for variable in (table, twin)],
    ]
    for way in ways:
        assert pair.run(12) <= 1e-12
        assert pair.stored_difference() > 1e-3
        way()
        assert pair.table_difference() <= 1e-12
    assert pair.run(12) <= 1e-12
    assert pair.stored_difference() > 1e-3
    for read in (table.value, table + 0.0, table[:], tf.convert_to_tensor(table)):
        assert np.abs(read - twin.numpy()).max() > 1e-3  # as the docstring warns
    for read in (table.numpy(), np.array(table), pair.deferred.get_weights()[0]):
        np.testing.assert_allclose(read, twin.numpy(), atol=1e-12)


def test_averaged_weights_are_the_average(float64):
    """Of models that have made different numbers of steps, as in stochastic weight averaging."""
    pairs = [Pair("float64", rows=40, run_eagerly=True) for _ in range(2)]
    for steps, pair in zip((9, 14), pairs, strict=True):
        pair.run(steps)
    tables = [pair.dense.embeddings.numpy() for pair in pairs]
    weights = zip(*(pair.deferred.get_weights() for pair in pairs), strict=True)
    pairs[0].deferred.set_weights([np.mean(both, axis=0) for both in weights])
    np.testing.assert_allclose(pairs[0].deferred.embeddings, np.mean(tables, axis=0), atol=1e-12)


def test_an_empty_batch_is_a_step_with_gradient_0(float64):
    pair = Pair("float64", rows=40, run_eagerly=True)
    pair.run(6)
    pair.run(3, ids=np.zeros(0, int))
    assert pair.table_difference() <= 1e-13
    assert int(pair.optimizers[0].iterations) == 9


def model(embedding, run_eagerly=False, **arguments):
    keras.utils.set_random_seed(1)
    layers = [embedding(50, 4), keras.layers.Flatten(), Dense(8, "tanh"), Dense(1)]
    network = keras.Sequential(layers)
    optimizer = DeferredAdam if embedding is DeferredEmbedding else Adam
    network.compile(optimizer(1e-2, **arguments), "mse", run_eagerly=run_eagerly)
    return network


def data(examples=64):
    generator = np.random.default_rng(2)
    return generator.integers(0, 50, (examples, 3)), generator.normal(size=(examples, 1))


def test_fit_evaluate_predict_are_adams():
    x, y = data()
    results = []
    for embedding in (DeferredEmbedding, Embedding):
        # Adam's way to run does not matter.
        options = {"gradient_accumulation_steps": 3, "clipnorm": 0.1}
        network = model(embedding, run_eagerly=embedding is Embedding, **options)
        untrained = network.predict(x, verbose=0)  # traced before the optimizer is built
        fitted = network.fit(x, y, batch_size=4, epochs=2, validation_split=0.25, verbose=0)
        # After fit the table is stored up to date; train_on_batch leaves it behind again.
        for ids, targets in zip(x[:24].reshape(6, 4, 3), y[:24].reshape(6, 4, 1), strict=True):
            network.train_on_batch(ids, targets)
        results.append(
            [untrained, *fitted.history.values(), network.predict(x, verbose=0)]
            + [network.evaluate(x, y, verbose=0)]
        )
    for ours, adams in zip(*results, strict=True):
        # Ten updates of 1e-2, each rounded to 6e-8 of weights up to 1.
        np.testing.assert_allclose(ours, adams, atol=2e-5)


@pytest.fixture(scope="module")
def behind():
    """A model whose table is stored behind what its layer reads."""
    keras.utils.set_random_seed(1)
    x, y = data()
    network = model(DeferredEmbedding, run_eagerly=True)
    for ids, targets in zip(x.reshape(16, 4, 3), y.reshape(16, 4, 1), strict=True):
        network.train_on_batch(ids, targets)
    layer = network.layers[0]
    assert np.abs(layer.weights[0].value.numpy() - layer.embeddings.numpy()).max() > 1e-3
    return network


def test_save_load_and_go_on(behind, tmp_path):
    x, y = data()
    behind.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    without = keras.models.load_model(tmp_path / "model.keras", compile=False)
    loaded.run_eagerly = without.run_eagerly = True
    expected = behind.predict(x, verbose=0)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    np.testing.assert_array_equal(without.predict(x, verbose=0), expected)
    # Without an optimizer, too, the table is up to date where it is read.
    np.testing.assert_allclose(without.get_weights()[0], behind.layers[0].embeddings, atol=1e-7)
    np.testing.assert_allclose(without.predict(x, verbose=0), expected, atol=1e-6)
    for network in (behind, loaded):
        for _ in range(3):
            network.train_on_batch(x[:4], y[:4])
    for ours, theirs in zip(behind.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_export_reads_what_the_model_reads(behind, tmp_path):
    x, _ = data()
    behind.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    served = loaded.serve(tf.constant(x, tf.float32))
    np.testing.assert_allclose(served, behind.predict(x, verbose=0), atol=1e-6)


def test_a_new_optimizer_starts_anew(behind):
    x, y = data()
    table = behind.layers[0].embeddings.numpy()
    twin = model(Embedding)
    twin.build((None, 3))
    twin.set_weights([table] + [w.numpy() for w in behind.trainable_weights[1:]])
    for network, optimizer in ((behind, DeferredAdam), (twin, Adam)):
        network.compile(optimizer(1e-2, beta_2=0.99), "mse", run_eagerly=True)
        for start in range(0, 40, 4):
            network.train_on_batch(x[start : start + 4], y[start : start + 4])
    np.testing.assert_allclose(behind.layers[0].embeddings, twin.layers[0].embeddings, atol=1e-6)


def test_a_new_optimizer_takes_over_with_the_first_gradient_of_the_table():
    layer = DeferredEmbedding(5, 2, embeddings_initializer="ones")
    other = tf.Variable(1.0)

    def step(optimizer, ids):
        with tf.GradientTape() as tape:
            loss = other * (tf.reduce_sum(layer(tf.constant(ids))) if ids else 1.0)
        variables = [other, *layer.trainable_weights] if ids else [other]
        optimizer.apply(tape.gradient(loss, variables), variables)

    layer.build()
    first = DeferredAdam(0.1)
    for ids in ([0], [1], [1]):
        step(first, ids)
    second = DeferredAdam(0.1, beta_1=0.8, beta_2=0.99)
    second.build([other, *layer.trainable_weights])
    before = layer.embeddings.numpy()
    step(second, [])
    step(second, [2])
    # Of the first optimizer's averages nothing is left that could move rows 0 and 1.
    np.testing.assert_allclose(layer.embeddings[:2], before[:2], rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_reads_the_full_table(policy):
    layer, optimizer = DeferredEmbedding(5, 2, dtype=policy), DeferredAdam(0.1)
    for ids in ([0], [1], [1]):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.cast(layer(tf.constant(ids)), tf.float32))
        optimizer.apply(tape.gradient(loss, layer.trainable_weights), layer.trainable_weights)
    read = layer(tf.constant([0, 1, 4]))
    expected = tf.cast(tf.gather(layer.embeddings, [0, 1, 4]), read.dtype)
    np.testing.assert_array_equal(tf.cast(read, tf.float32), tf.cast(expected, tf.float32))


def test_quadrature_against_the_sum_itself():
    nodes, weights = missed_quadrature(0.9, 0.999, 16, 1e-8)
    j = np.arange(1, len(weights) + 1)
    rates = np.random.default_rng(0).uniform(0, 1, len(j))
    for x in (0.0, 1e-9, 1e-7, 1e-3, 10.0):
        exact = np.sum(rates * 0.9**j / (x * 0.999 ** (j / 2) + 1e-7))
        np.testing.assert_allclose(rates @ weights @ (1 / (x * nodes + 1e-7)), exact, rtol=1e-12)


def test_memory_is_adams_and_a_number_a_row():
    made = []
    DeferredRows(lambda shape, *_: made.append(shape), rows=100_000, columns=64, dtype="float32")
    numbers = sum(int(np.prod(shape)) for shape in made)
    assert numbers - 2 * 100_000 * 64 == 100_000 + 1 + 2**16 * 8 + 9
