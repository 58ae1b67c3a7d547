"""Faults planted in a training, which TrainingHealth must name: the check and the layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from keras_bp import losses
from keras_bp.callbacks import TrainingHealth

L = keras.layers
SGD, Adam = keras.optimizers.SGD, keras.optimizers.Adam
Normal, Constant = keras.initializers.RandomNormal, keras.initializers.Constant


def digits(examples=640):
    x, y = load_digits(return_X_y=True)
    return (x[:examples] / 16).astype("float32"), y[:examples]


def images(examples=640):
    x, y = digits(examples)
    return x.reshape(-1, 8, 8, 1), y


def pixels(examples=640):
    x, y = digits(examples)
    return x[:, :, None], y


def classifier(*hidden, inputs=(64,), optimizer=None, loss="sparse_categorical_crossentropy"):
    layers = [keras.Input(inputs), *hidden, L.Dense(10, "softmax", name="out")]
    model = keras.Sequential(layers)
    # Tracing Adam and compiling with XLA take longer than these trainings.
    model.compile(optimizer or SGD(0.01), loss, jit_compile=False)
    return model


def dense(units, activation="relu", name="h0", **options):
    return L.Dense(units, activation, name=name, **options)


def stack(number, units, activation, **options):
    return [dense(units, activation, name=f"h{i}", **options) for i in range(number)]


class Operation(L.Layer):
    """Calls a function: a layer without weights."""

    def __init__(self, function, name):
        super().__init__(name=name)
        self._function = function

    def call(self, x):
        return self._function(x)


def deep_sigmoid():
    return classifier(*stack(10, 32, "sigmoid")), digits(), {}


def recurrent(gain, activation, **options):
    return L.SimpleRNN(
        32, activation, recurrent_initializer=keras.initializers.Orthogonal(gain), **options
    )


def exploding_recurrent():
    layer = recurrent(1.5, "relu", name="rnn")
    return classifier(layer, inputs=(64, 1), optimizer=SGD(0.1)), pixels(320), {}


def exploding_tanh_recurrent():
    """It explodes in the very first step, and never after: the step has saturated the units."""
    layers = [recurrent(2.5, "tanh", name="rnn"), dense(16)]
    return classifier(*layers, inputs=(64, 1), optimizer=SGD(0.01)), pixels(320), {}


def deep_relu_with_normal_weights():
    weights = Normal(stddev=1.0)
    layers = stack(6, 64, "relu", kernel_initializer=weights)
    return classifier(*layers, optimizer=SGD(0.01)), digits(320), {}


def convolutions_with_normal_weights():
    weights = Normal(stddev=1.0)
    layers = [
        L.Conv2D(16, 3, activation="relu", kernel_initializer=weights, name=f"c{i}")
        for i in range(2)
    ]
    return classifier(*layers, L.Flatten(), inputs=(8, 8, 1)), images(320), {}


def constant_weights():
    """The activation is a layer of its own."""
    layers = [dense(32, None, kernel_initializer=Constant(0.01)), L.Activation("tanh", name="act")]
    return classifier(*layers, dense(16, name="h1")), digits(320), {}


def negative_biases():
    layers = [dense(64), dense(32, name="h1", bias_initializer=Constant(-5)), dense(32, name="h2")]
    return classifier(*layers), digits(), {"epochs": 3}


def large_tanh_weights():
    layers = [dense(64, "relu"), dense(32, "tanh", "h1", kernel_initializer=Normal(stddev=5.0))]
    return classifier(*layers), digits(), {}


def sgd_too_fast():
    return classifier(*stack(2, 64, "relu"), optimizer=SGD(100.0)), digits(320), {}


def adam_too_fast():
    return classifier(*stack(2, 64, "tanh"), optimizer=Adam(10.0)), digits(320), {}


def too_slow():
    return classifier(*stack(2, 64, "relu"), optimizer=SGD(1e-9)), digits(), {}


def no_rate():
    return classifier(*stack(2, 64, "relu"), optimizer=SGD(0.0)), digits(320), {}


def labels_that_belong_to_others():
    """Inputs and labels are shuffled apart."""
    parts = [
        tf.data.Dataset.from_tensor_slices(a).shuffle(640, seed=i) for i, a in enumerate(digits())
    ]
    batches = tf.data.Dataset.zip(*parts).batch(64)
    options = {"batch_size": None, "shuffle": False, "epochs": 20}
    return classifier(dense(16), optimizer=SGD(0.5)), (batches,), options


def few_examples():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 20)).astype("float32")
    y = (x[:, 0] + generator.normal(size=80) > 0).astype("int32")
    validation = x[40:], y[40:]
    model = classifier(*stack(2, 128, "relu"), inputs=(20,), optimizer=Adam(0.01))
    return model, (x[:40], y[:40]), {"epochs": 11, "validation_data": validation}


def logarithm_of_a_negative():
    log = Operation(keras.ops.log, name="log")
    return classifier(dense(32, "tanh"), log, dense(16, name="h1")), digits(320), {}


def root_at_zero():
    """A finite loss, but the derivative of the root is infinite at 0."""
    root = Operation(keras.ops.sqrt, name="root")
    layers = [dense(32), dense(32, "tanh", "h1", kernel_initializer="zeros"), root]
    return classifier(*layers, dense(16, None, "h2")), digits(320), {}


def logarithm_in_the_loss():
    def loss(y, p):
        return keras.ops.mean(keras.ops.log(keras.ops.relu(p - 0.5)))

    return classifier(dense(32), loss=loss), digits(320), {}


def missing_data():
    x, y = digits(320)
    x[100, 3] = np.nan
    return classifier(*stack(2, 32, "relu")), (x, y), {}


def a_layer_cut_off():
    stop = Operation(keras.ops.stop_gradient, name="stop")
    layers = [dense(32, name="h0"), stop, dense(16, name="h1")]
    return classifier(*layers), digits(320), {}


DIVERGES = {"update_ratio", "exploding", "not_finite", "dead_units", "unchanged_weights"}
DIVERGES |= {"vanishing", "saturation"}
NO_GRADIENT = {"vanishing", "unchanged_weights"}

# The planted fault, its check, its layer, and the checks that its consequences meet too; those that
# are another's like are left to the long tests.
FAULTS = [
    (deep_sigmoid, "vanishing", "h0", set()),
    (exploding_recurrent, "exploding", "rnn/simple_rnn_cell", DIVERGES),
    pytest.param(
        exploding_tanh_recurrent,
        "exploding",
        "rnn/simple_rnn_cell",
        DIVERGES,
        marks=pytest.mark.long,
    ),
    pytest.param(
        deep_relu_with_normal_weights, "poor_initialization", "h1", DIVERGES, marks=pytest.mark.long
    ),
    (convolutions_with_normal_weights, "poor_initialization", "c1", {"exploding"}),
    (constant_weights, "poor_initialization", "h0", set()),
    (negative_biases, "dead_units", "h1", NO_GRADIENT | {"poor_initialization"}),
    (large_tanh_weights, "saturation", "h1", {"poor_initialization"}),
    pytest.param(sgd_too_fast, "update_ratio", "h0", DIVERGES, marks=pytest.mark.long),
    (adam_too_fast, "update_ratio", "h0", DIVERGES),
    (too_slow, "update_ratio", "h0", set()),
    pytest.param(no_rate, "unchanged_weights", "h0", set(), marks=pytest.mark.long),
    (labels_that_belong_to_others, "loss_not_falling", None, set()),
    (few_examples, "overfitting", None, set()),
    (logarithm_of_a_negative, "not_finite", "log", set()),
    (root_at_zero, "not_finite", "h1", set()),
    (logarithm_in_the_loss, "not_finite", None, set()),
    pytest.param(missing_data, "not_finite", "h0", set(), marks=pytest.mark.long),
    (a_layer_cut_off, "unchanged_weights", "h0", {"vanishing"}),
]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(
    "fault, check, layer, consequences", FAULTS, ids=lambda p: getattr(p, "__name__", "")
)
def test_planted_fault_is_named(fault, check, layer, consequences):
    model, data, options = fault()
    found = []
    health = TrainingHealth(action=found.append)
    options = {"batch_size": 32, "shuffle": False, "verbose": 0, **options}
    model.fit(*data, callbacks=[health], **options)
    print(health.report)
    assert (check, layer) in [(finding.check, finding.layer) for finding in found]
    assert {finding.check for finding in found} <= {check} | consequences
    assert found == health.findings
    (finding,) = (f for f in found if (f.check, f.layer) == (check, layer))
    assert finding.advice and (layer or "the model") in str(finding)


@pytest.mark.parametrize("module", [losses, keras.losses])
def test_labels_outside_the_classes_are_named(module, request):
    """In a sentence, not at the end of a page on where the operation was made."""
    model = classifier(loss=module.SparseCategoricalCrossentropy())
    x, y = digits(64)
    y[37] = 11
    keras.config.disable_traceback_filtering()  # which hides what an error was made from
    request.addfinalizer(keras.config.enable_traceback_filtering)
    with pytest.raises(ValueError, match=r"label.*\b11\b.*10") as caught:
        model.fit(x, y, batch_size=32, verbose=0, callbacks=[TrainingHealth()])
    assert len(str(caught.value)) < 400
    assert "raph" not in str(caught.value)
    assert isinstance(caught.value.__cause__, tf.errors.InvalidArgumentError)
    # The first batch had right labels.
    assert model.optimizer.iterations == 1


def test_an_assertion_of_the_users_own_stays_as_it_is():
    words = "Received a label value [a] of mine"

    def loss(y, outputs):
        with tf.control_dependencies([tf.debugging.Assert(False, [words])]):
            return tf.identity(outputs)

    model = classifier(loss=loss)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"value \[a\] of mine") as caught:
        model.fit(*digits(32), verbose=0, callbacks=[TrainingHealth()])
    assert caught.value.__cause__ is None
