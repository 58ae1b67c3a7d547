"""Each question of the flowchart decides where it should, and the settings are those it names."""

import keras
import numpy as np
import pytest

import keras_bp
from keras_bp.layers import DeferredEmbedding
from keras_bp.tuning import suggestion


def layers(*shape, dtype="float32"):
    """Return a function of layers that returns their model."""
    return lambda *layers: keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def small():
    return layers(8)(keras.layers.Dense(32), keras.layers.Dense(2))


def table():
    pooled = keras.layers.GlobalAveragePooling1D()
    return layers(4, dtype="int32")(DeferredEmbedding(20, 4), pooled, keras.layers.Dense(1))


def recurrent():
    """The recurrent layer lies inside of a wrapper."""
    return layers(5, 2)(keras.layers.Bidirectional(keras.layers.GRU(4)), keras.layers.Dense(1))


def attention():
    inputs = keras.Input((5, 8))
    return keras.Model(inputs, keras.layers.MultiHeadAttention(2, 4)(inputs, inputs))


MANY = {"examples": 10_001}
FEW = {"examples": 10_000}


@pytest.mark.parametrize(
    "make, counts, name, reason",
    [
        (small, FEW, "SGD", "10,000 examples, 10,000 or fewer"),
        (small, MANY, "AdamW", "10,001 examples"),
        (table, FEW, "DeferredAdam", "DeferredEmbedding"),
        (table, {"examples": 10**6, "batch_size": 8192}, "DeferredAdam", "DeferredEmbedding"),
        (recurrent, FEW, "AdamW", "recurrent"),
        (attention, FEW, "AdamW", "attention"),
        (attention, {"examples": 10**6, "batch_size": 8192}, "Lamb", "8,192 examples"),
        (small, {"examples": 10**6, "batch_size": 8191}, "AdamW", "1,000,000 examples"),
    ],
)
def test_each_branch_of_the_flowchart(make, counts, name, reason):
    optimizer, why = keras_bp.suggest_optimizer(make(), epochs=2, **counts)
    assert type(optimizer).__name__ == name
    assert why.startswith(f"{name}") and reason in why.splitlines()[0]
    assert optimizer.global_clipnorm == 1.0
    assert bool(optimizer.weight_decay) == (name != "DeferredAdam")


def test_over_a_million_weights_adamw_is_taken_for_few_examples_too(monkeypatch):
    model = small()
    monkeypatch.setattr(suggestion, "MANY_WEIGHTS", model.count_params())
    assert isinstance(
        keras_bp.suggest_optimizer(model, epochs=1, **FEW)[0], keras_bp.optimizers.SGD
    )
    monkeypatch.setattr(suggestion, "MANY_WEIGHTS", model.count_params() - 1)
    optimizer, why = keras_bp.suggest_optimizer(model, epochs=1, **FEW)
    assert isinstance(optimizer, keras_bp.optimizers.AdamW)
    assert why.startswith("AdamW, since the model has 354 weights")


def rates(examples, epochs, batch_size=32, model=None):
    optimizer = keras_bp.suggest_optimizer(
        model or small(), examples=examples, epochs=epochs, batch_size=batch_size
    ).optimizer
    schedule = optimizer._learning_rate
    return schedule(np.arange(schedule.total_steps + 1)).numpy(), schedule.warmup_steps


def test_the_schedule_lasts_as_long_as_the_training():
    values, warmup = rates(19_999, 4)  # the last batch of an epoch is smaller
    assert len(values) - 1 == 4 * 625 and warmup == 125  # steps, and a twentieth of them
    assert values[0] == 0 and values[-1] == pytest.approx(0, abs=1e-9)
    assert values.argmax() == warmup and values.max() == pytest.approx(0.01)
    assert len(rates(1, 1)[0]) - 1 == 2  # one step, for which there must be a schedule, too


def test_the_rate_falls_with_the_width_and_rises_with_the_batch():
    # Matrices of 512 x 512 and 512 x 2: roots of their sizes 512 and 32, and 128 between them.
    wide = layers(512)(keras.layers.Dense(512), keras.layers.Dense(2))
    assert rates(20_000, 1, model=wide)[0].max() == pytest.approx(0.4 / 128)
    words, pooled = keras.layers.Embedding(99, 512), keras.layers.GlobalAveragePooling1D()
    text = layers(4, dtype="int32")(words, pooled, *wide.layers)
    assert rates(20_000, 1, model=text)[0].max() == pytest.approx(0.4 / 128)  # no matrix more
    assert rates(20_000, 1, 256, wide)[0].max() == pytest.approx(0.4 / 128)
    assert rates(20_000, 100, 1024, wide)[0].max() == pytest.approx(0.4 / 128 * 2)
    assert rates(10**6, 1, 32_768, wide)[0].max() == pytest.approx(0.3 / np.sqrt(128))  # Lamb's


def two_tables(embedding, rows):
    """The scores of a recommender: products of a user's row and an item's."""
    inputs = [keras.Input((), dtype="int32") for _ in rows]
    vectors = [embedding(n, 32)(ids) for n, ids in zip(rows, inputs, strict=True)]
    return keras.Model(inputs, keras.layers.Dot(1)(vectors))


def suggestion_of(model, batch_size=256):
    return keras_bp.suggest_optimizer(
        model, examples=10**6, epochs=10, batch_size=batch_size
    ).why.splitlines()


def test_tables_alone_have_the_rate_of_the_recommender():
    for embedding in (DeferredEmbedding, keras.layers.Embedding):
        model = two_tables(embedding, (100, 200))
        assert rates(10**6, 1, model=model)[0].max() == pytest.approx(0.003)
        assert rates(10**6, 1, 1024, model)[0].max() == pytest.approx(0.006)
        assert suggestion_of(model)[1] == (
            "Rate 0.003: tables alone (0.003 is best in experiments/recommender, as a constant "
            "rate)."
        )
    scales = layers(3)(keras.layers.BatchNormalization())
    assert rates(10**6, 1, model=scales)[0].max() == pytest.approx(0.01)
    assert suggestion_of(scales)[1] == "Rate 0.01: no matrices."


@pytest.mark.parametrize("embedding", [keras.layers.Embedding, keras_bp.layers.Embedding])
def test_deferred_adam_is_named_for_a_large_table(embedding):
    lines = suggestion_of(two_tables(embedding, (1000, 100_000)))
    assert lines[0].startswith("AdamW")
    assert lines[-1].startswith("For its table of 100,000 rows, try DeferredEmbedding and")


def test_deferred_adam_is_not_named_for_other_tables():
    frozen = two_tables(keras.layers.Embedding, (1000, 100_000))
    frozen.layers[-2].trainable = False
    for model, batch_size in (
        (two_tables(keras.layers.Embedding, (1000, 99_999)), 256),
        (frozen, 256),
        (two_tables(DeferredEmbedding, (1000, 100_000)), 256),
        (two_tables(keras.layers.Embedding, (1000, 100_000)), 8192),  # Lamb
    ):
        assert not any("table of" in line for line in suggestion_of(model, batch_size))


def test_a_suggested_optimizer_trains():
    model, x = small(), np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")
    optimizer = keras_bp.suggest_optimizer(model, examples=64, epochs=20, batch_size=64).optimizer
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, run_eagerly=True)
    losses = model.fit(x, y, epochs=20, batch_size=64, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    assert float(optimizer.learning_rate) == pytest.approx(0, abs=1e-9)
    decays = [t.decay for t in keras_bp.optimizers.describe(optimizer, model)]
    assert decays == [5e-4, 0, 5e-4, 0]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"examples": 0}, ValueError, r"`examples` must be an integer of 1 or more.*examples=0$"),
        ({"examples": 50.0}, TypeError, r"`examples`.*examples=50\.0$"),
        ({"epochs": 0}, ValueError, r"`epochs`.*epochs=0$"),
        ({"epochs": True}, TypeError, r"`epochs`.*epochs=True$"),
        ({"batch_size": -1}, ValueError, r"`batch_size`.*batch_size=-1$"),
        ({"batch_size": None}, TypeError, r"`batch_size`.*batch_size=None$"),
    ],
)
def test_counts_that_are_none(options, error, message):
    with pytest.raises(error, match=message):
        keras_bp.suggest_optimizer(small(), **{"examples": 100, "epochs": 1, **options})


def test_models_without_weights():
    frozen = small()
    frozen.trainable = False
    unbuilt = keras.Sequential([keras.layers.Dense(1)], name="plain")
    for model, error, message in (
        ("model", TypeError, r"`model` must be a keras\.Model\. Received: model='model'$"),
        (unbuilt, ValueError, "`model` must be built.*Received: model 'plain', not built$"),
        (frozen, ValueError, "`model` must be built.*, without trainable weights$"),
    ):
        with pytest.raises(error, match=message):
            keras_bp.suggest_optimizer(model, examples=100, epochs=1)
