"""What GradientMonitor measures of noise and curvature, beside steps that stay the same."""

import contextlib
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp.callbacks import GradientMonitor
from keras_bp.recording import LastBatch, RecordingTrainFunction

EVERY = {"noise_scale_every": 2, "sharpness_every": 2, "hessian_every": 2}
TAGS = {
    "gradient_noise_scale",
    "gradient_noise_scale_low",
    "gradient_noise_scale_high",
    "critical_learning_rate",
    "critical_sharpness",
    "hessian/largest_eigenvalue",
}
rng = np.random.default_rng(0)
X = rng.normal(size=(20, 3)).astype("float32")
Y = rng.integers(3, size=20)


def regularizing():
    layers = keras_bp.layers
    return [layers.Dense(4, "relu", kernel_regularizer="l2"), layers.Dropout(0.3)]


def normalizing():
    return [*regularizing(), keras_bp.layers.BatchNormalization()]


def table():
    return [
        keras.layers.Lambda(lambda x: keras.ops.cast(x > 0, "int32")),
        keras_bp.layers.Embedding(2, 2),
        keras.layers.Flatten(),
    ]


def sequences():
    """Timesteps of which some are masked."""
    return [
        keras.layers.Reshape((3, 1)),
        keras.layers.Lambda(lambda x: keras.ops.relu(x)),
        keras.layers.Masking(),
        keras.layers.SimpleRNN(3),
    ]


def sgd(**options):
    return lambda: keras_bp.optimizers.SGD(0.1, **options)


def lazy_adam():
    return keras_bp.optimizers.LazyAdam(0.01)


def keras_adam():
    return keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)


# Layers, optimizer, options of `compile`, batch size, and the steps that are measured. A last batch
# of 2 after three of 6 is traced once more.
CASES = {
    "execution": (regularizing, sgd(), {"steps_per_execution": 3}, 5, [3, 4, 7, 8]),
    "jit": (normalizing, sgd(momentum=0.9), {"jit_compile": True}, 6, [2, 4, 6, 8]),
    "masks": (sequences, keras_adam, {"run_eagerly": True}, 5, [2, 4]),
    "accumulation": (
        normalizing,
        sgd(gradient_accumulation_steps=2),
        {"run_eagerly": True},
        5,
        [2, 4],
    ),
    "sparse": (table, lazy_adam, {}, 6, [2, 4, 6, 8]),
    "float16": (regularizing, sgd(), {"run_eagerly": True}, 5, [2, 4, 6, 8]),
    "replicas": (normalizing, sgd(), {"jit_compile": False}, 6, [2, 4, 6, 8]),
}
LONG = [pytest.param(name, marks=pytest.mark.long) for name in list(CASES)[1:]]


def train(log_dir, layers, optimizer, options, batch_size, scope, policy, **every):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    with scope:
        model = keras.Sequential([keras.Input((3,)), *layers(), keras.layers.Dense(3)])
        model.compile(
            optimizer(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options
        )
    monitor = GradientMonitor(log_dir, **every)
    weights = np.linspace(0.5, 1.5, len(X))
    fit = {"batch_size": batch_size, "epochs": 2, "verbose": 0, "callbacks": [monitor]}
    history = model.fit(X, Y, sample_weight=weights, **fit).history
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return monitor, history, [variable.numpy() for variable in variables]


@pytest.mark.parametrize("name", ["execution", *LONG])
def test_no_bit_of_a_training_changes(name, tmp_path, read_events, request):
    *arguments, steps = CASES[name]
    policy = "mixed_float16" if name == "float16" else "float32"

    def results(log_dir, **every):
        scope = contextlib.nullcontext()
        if name == "replicas":
            scope = request.getfixturevalue("replicas").scope()
        return train(tmp_path / log_dir, *arguments, scope, policy, **every)

    monitor, history, state = results("on", **EVERY)
    _, plain_history, plain_state = results("off")
    assert history == plain_history
    for measured, plain in zip(state, plain_state, strict=True):
        np.testing.assert_array_equal(measured, plain)
    tags = read_events(tmp_path / "on")
    assert TAGS <= set(tags) and not TAGS & set(read_events(tmp_path / "off"))
    for tag in TAGS:
        assert list(tags[tag]) == steps, tag
    rates, sharpness = (
        np.array(list(tags[f"critical_{kind}"].values())) for kind in ("learning_rate", "sharpness")
    )
    # 0 and infinity where an update raises the loss of its last micro-batch at any rate.
    np.testing.assert_allclose(rates, 2 / sharpness, rtol=1e-5)
    assert np.isfinite(list(tags["hessian/largest_eigenvalue"].values())).all()
    assert np.isfinite(tags["gradient_noise_scale_low"][steps[-1]])
    copied = pickle.loads(pickle.dumps(monitor))
    assert copied.hessian_every == 2 and copied._curvature.every == monitor._curvature.every


def regression(*, examples=12, **options):
    x = (rng.normal(size=(examples, 2)) * [2, 1]).astype("float32")
    y = (x @ [[1.0], [2.0]] + rng.normal(size=(examples, 1))).astype("float32")
    model = keras.Sequential([keras.Input((2,)), keras_bp.layers.Dense(1, use_bias=False)])
    model.compile(keras_bp.optimizers.SGD(0.01, **options), "mse", run_eagerly=True)
    return model, x, y


def gradient(x, y, w):
    return 2 * x.T @ (x @ w - y) / len(x)


@pytest.mark.parametrize("micro", [1, 2])
def test_values_equal_those_of_numpy(micro, tmp_path, read_events):
    options = {"gradient_accumulation_steps": micro} if micro > 1 else {}
    model, x, y = regression(**options)
    (w,) = (weight.numpy() for weight in model.weights)
    every = {name: 1 for name in EVERY}
    size = len(x) // micro
    monitor = GradientMonitor(tmp_path, **every)
    model.fit(x, y, batch_size=size, shuffle=False, verbose=0, callbacks=[monitor])
    tags = {tag: steps[1] for tag, steps in read_events(tmp_path).items() if tag in TAGS}
    # All weights are those before the update: the noise from parts of equal size,
    parts = np.split(np.arange(len(x)), 2 * micro)
    each = np.array([gradient(x[rows], y[rows], w) for rows in parts])
    noise = each.var(0, ddof=1).sum() * len(parts[0])
    signal = np.square(each.mean(0)).sum() - noise / len(x)
    np.testing.assert_allclose(tags["gradient_noise_scale"], noise / signal, rtol=1e-4)
    # the others from the last micro-batch, along the update that all of them make.
    last, update = np.arange(len(x))[-size:], -gradient(x, y, w)
    hessian = 2 * x[last].T @ x[last] / size
    slope = (gradient(x[last], y[last], w) * update).sum()
    rate = -2 * slope / (update.T @ hessian @ update).item()
    np.testing.assert_allclose(tags["critical_learning_rate"], rate, rtol=1e-3)
    np.testing.assert_allclose(
        tags["hessian/largest_eigenvalue"], np.linalg.eigvalsh(hessian)[-1], rtol=0.05
    )


def softmax_gradient(x, y, kernel):
    """Return the gradient of the crossentropy of a linear layer, with a bias of 0."""
    outputs = np.exp(x @ kernel)
    error = outputs / outputs.sum(1, keepdims=True) - np.eye(3)[y]
    return np.concatenate([(x.T @ error).ravel(), error.sum(0)]) / len(x)


def test_replicas_give_the_numbers_of_one_process(replicas, tmp_path, read_events):
    values = []
    for name, scope in (("one", contextlib.nullcontext()), ("two", replicas.scope())):
        keras.utils.set_random_seed(0)
        with scope:
            model = keras.Sequential([keras.Input((3,)), keras_bp.layers.Dense(3)])
            model.compile(
                keras_bp.optimizers.SGD(0.1),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
        kernel = model.layers[0].kernel.numpy()
        monitor = GradientMonitor(tmp_path / name, noise_scale_every=1, sharpness_every=1)
        model.fit(X, Y, batch_size=20, shuffle=False, verbose=0, callbacks=[monitor])
        tags = read_events(tmp_path / name)
        values.append(tags["critical_learning_rate"][1])
        noise = monitor._curvature._estimates[0]
    np.testing.assert_allclose(*values, rtol=1e-3)
    # Four parts of 5 examples, two on each replica.
    each = np.array([softmax_gradient(X[i : i + 5], Y[i : i + 5], kernel) for i in range(0, 20, 5)])
    spread = each.var(0, ddof=1).sum() * 5
    signal = np.square(each.mean(0)).sum() - spread / 20
    np.testing.assert_allclose(noise, [spread, signal], rtol=1e-3)


def test_nothing_is_in_the_step_while_it_is_off(tmp_path):
    graphs = []
    for every in ({}, EVERY):
        model, *_ = regression()
        model.compile("sgd", "mse")
        monitor = GradientMonitor(tmp_path, **every)
        monitor.set_model(model)
        monitor._start_if_needed()
        recorders = RecordingTrainFunction.of(model)._recorders
        data = tf.data.Dataset.from_tensors((tf.ones((4, 2)), tf.ones((4, 1)))).repeat()
        operations = []

        def train_step(data, own=model.train_step, operations=operations):
            logs = own(data)
            graph = tf.compat.v1.get_default_graph()
            operations.append(sorted(operation.type for operation in graph.get_operations()))
            return logs

        object.__setattr__(model, "train_step", train_step)
        monitor._function.arm()
        model.train_function(iter(data))
        graphs.append(operations[-1])
        assert [isinstance(r, LastBatch) for r in recorders] == [False, True][: len(recorders)]
    # On, the step's own operations are the same too: it only hands its data out.
    assert graphs[0] == graphs[1]


class OwnLoss(keras.Sequential):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.optimizer.scale_loss(tf.reduce_sum(self(x)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def test_a_step_of_another_loss_is_refused(tmp_path):
    model = OwnLoss([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    monitor = GradientMonitor(tmp_path, sharpness_every=1)
    with pytest.raises(ValueError, match="what `compute_loss` returns.*another loss"):
        model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0, callbacks=[monitor])
    monitor = GradientMonitor(tmp_path)
    model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0, callbacks=[monitor])


@pytest.mark.parametrize("name", EVERY)
def test_intervals_are_checked(name, tmp_path):
    with pytest.raises(ValueError, match=name):
        GradientMonitor(tmp_path, **{name: 0})
