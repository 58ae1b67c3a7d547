"""Every layer is a drop-in for its Keras namesake: arguments, weights, configuration, numbers."""

import inspect

import keras
import numpy as np
import pytest
from layer_cases import NAMES, OPTIONS, REQUIRED, built_pair, calls, pair

from keras_bp import layers

# Every argument of every constructor, none at its default, in the order of the signature.
ALL_ARGUMENTS = {
    "BatchNormalization": {
        "axis": 1,
        "momentum": 0.9,
        "epsilon": 1e-5,
        "center": True,
        "scale": False,
        "beta_initializer": "ones",
        "gamma_initializer": "zeros",
        "moving_mean_initializer": "ones",
        "moving_variance_initializer": "zeros",
        "beta_regularizer": "l2",
        "gamma_regularizer": "l1",
        "beta_constraint": "non_neg",
        "gamma_constraint": "unit_norm",
        "renorm": True,
        "renorm_clipping": {"rmax": 3.0, "dmax": 5.0},
        "renorm_momentum": 0.8,
        "synchronized": True,
    },
    "Dense": {
        "units": 4,
        "activation": "tanh",
        "use_bias": False,
        "kernel_initializer": "he_normal",
        "bias_initializer": "ones",
        "kernel_regularizer": "l2",
        "bias_regularizer": "l1",
        "activity_regularizer": "l1",
        "kernel_constraint": None,  # LoRA goes without
        "bias_constraint": "unit_norm",
        "lora_rank": 2,
        "lora_alpha": 3,
        "quantization_config": keras.quantizers.Int8QuantizationConfig(),
    },
    "Dropout": {"rate": 0.25, "noise_shape": (None, 1), "seed": 7},
    "GroupNormalization": {
        "groups": 3,
        "axis": 1,
        "epsilon": 1e-5,
        "center": False,
        "scale": True,
        "beta_initializer": "ones",
        "gamma_initializer": "zeros",
        "beta_regularizer": "l2",
        "gamma_regularizer": "l1",
        "beta_constraint": "non_neg",
        "gamma_constraint": "unit_norm",
    },
    "LayerNormalization": {
        "axis": [1, 2],
        "epsilon": 1e-5,
        "center": False,
        "scale": True,
        "beta_initializer": "ones",
        "gamma_initializer": "zeros",
        "beta_regularizer": "l2",
        "gamma_regularizer": "l1",
        "beta_constraint": "non_neg",
        "gamma_constraint": "unit_norm",
    },
}


def config_without_name(layer):
    return {key: value for key, value in layer.get_config().items() if key != "name"}


def test_every_layer_is_in_every_table():
    assert set(REQUIRED) == set(ALL_ARGUMENTS) == {name for name, _, _ in OPTIONS} == set(NAMES)


def _arguments(function):
    """List names, kinds and defaults; Keras annotates nothing."""
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters]


@pytest.fixture
def _known_arguments(name):
    parameters = inspect.signature(getattr(keras.layers, name)).parameters
    if name == "BatchNormalization" and "renorm" not in parameters:
        pytest.skip("Keras has batch renormalization from 3.14 on")


@pytest.mark.usefixtures("_known_arguments")
@pytest.mark.parametrize("name", NAMES)
def test_class_and_signatures(name):
    theirs, ours = getattr(keras.layers, name), getattr(layers, name)
    assert issubclass(ours, theirs)
    assert _arguments(ours) == _arguments(theirs)
    for method in ("call", "build", "compute_output_shape"):
        assert _arguments(getattr(ours, method)) == _arguments(getattr(theirs, method)), method


@pytest.mark.usefixtures("_known_arguments")
@pytest.mark.parametrize("name", NAMES)
def test_configuration(name):
    arguments = ALL_ARGUMENTS[name]
    expected = [
        p.name
        for p in inspect.signature(getattr(keras.layers, name)).parameters.values()
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    assert list(arguments) == expected
    theirs, ours = pair(name, **arguments)
    assert list(ours.get_config()) == list(theirs.get_config())
    assert config_without_name(ours) == config_without_name(theirs)
    again = type(ours).from_config(ours.get_config())
    assert type(again) is getattr(layers, name)
    assert again.get_config() == ours.get_config()


@pytest.mark.parametrize("name", NAMES)
def test_positional_arguments_and_defaults(name):
    positional = getattr(layers, name)(*ALL_ARGUMENTS[name].values(), name="x", trainable=False)
    keyword = getattr(layers, name)(**ALL_ARGUMENTS[name], name="x", trainable=False)
    assert positional.get_config() == keyword.get_config()
    theirs, ours = pair(name)
    assert config_without_name(ours) == config_without_name(theirs)


@pytest.mark.parametrize("name, options, shape", OPTIONS, ids=str)
def test_weights_and_shapes(name, options, shape):
    theirs, ours = pair(name, **options)
    symbolic = [layer(keras.Input(batch_shape=shape)) for layer in (theirs, ours)]
    assert symbolic[1].shape == symbolic[0].shape
    assert symbolic[1].dtype == symbolic[0].dtype
    assert ours.compute_output_shape(shape) == theirs.compute_output_shape(shape)
    assert ours.supports_masking == theirs.supports_masking
    weights = [[(w.name, w.shape, w.dtype, w.trainable) for w in x.weights] for x in (theirs, ours)]
    assert weights[1] == weights[0]
    trainable = [[w.name for w in layer.trainable_weights] for layer in (theirs, ours)]
    assert trainable[1] == trainable[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("front", ["Masking", "Embedding"])
def test_masks_travel_on(name, front):
    if front == "Masking":
        first = keras.layers.Masking()
        x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
        x[:, 3:] = 0
    else:
        first = keras.layers.Embedding(7, 4, mask_zero=True)
        x = np.random.default_rng(0).integers(0, 3, (3, 5))
    theirs, ours = built_pair(name, (3, 5, 4))
    features = first(x)
    call = calls(name)[0]
    outputs = [layer(features, **call) for layer in (theirs, ours)]
    np.testing.assert_array_equal(outputs[1]._keras_mask, features._keras_mask)
    # Keras adds 1e-7 to the count of what the mask lets through.
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    assert ours(first(keras.Input(x.shape[1:])))._keras_mask is not None


L1_IN_FLOAT64 = pytest.mark.skipif(
    keras.__version__ < "3.14", reason="Keras's L1 takes float32 variables only"
)


@L1_IN_FLOAT64
@pytest.mark.parametrize("name", ["BatchNormalization", "GroupNormalization", "LayerNormalization"])
def test_regularizers_and_constraints_of_normalizations(name):
    options = {
        "beta_regularizer": keras.regularizers.L2(0.1),
        "gamma_regularizer": keras.regularizers.L1(0.2),
        "gamma_constraint": keras.constraints.MaxNorm(1.0),
        "beta_constraint": "non_neg",
    }
    check_regularizers_and_constraints(name, options)


@L1_IN_FLOAT64
def test_regularizers_and_constraints_of_dense():
    options = {
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "bias_regularizer": keras.regularizers.L1(0.2),
        "activity_regularizer": keras.regularizers.L2(0.3),
        "kernel_constraint": keras.constraints.MaxNorm(1.0, axis=0),
        "bias_constraint": "non_neg",
        "activation": "softmax",
    }
    check_regularizers_and_constraints("Dense", options)


def check_regularizers_and_constraints(name, options):
    """Compare the added losses, then the weights after a step that the constraints cut."""
    theirs, ours = built_pair(name, (6, 4), dtype="float64", **options)
    x = np.random.default_rng(1).normal(size=(6, 4))
    for layer in (theirs, ours):
        layer(x)
        assert len(layer.losses) == (3 if name == "Dense" else 2)
        optimizer = keras.optimizers.SGD(10.0)
        gradients = [np.cos(np.arange(w.numpy().size)).reshape(w.shape) for w in layer.weights]
        pairs = zip(gradients, layer.weights, strict=True)
        optimizer.apply_gradients([(g, w) for g, w in pairs if w.trainable])
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-12)
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12)
    bias = next(w for w in ours.weights if w.name in ("bias", "beta"))
    assert np.all(bias.numpy() >= 0)
    assert np.any(bias.numpy() == 0)
