"""Trainings in which every public layer, loss, optimizer and schedule takes part."""

import contextlib
import inspect

import keras
import numpy as np
import tensorflow as tf

import keras_bp

CLASSES, ROWS, STEPS = 3, 7, 4
EMBEDDINGS = ("DeferredEmbedding", "Embedding")

# What a layer is made with; `synchronized`, so that two replicas are as one device.
LAYERS = {
    "BatchNormalization": {"synchronized": True, "momentum": 0.8},
    "DeferredEmbedding": {"input_dim": ROWS, "output_dim": 4},
    "Dense": {"units": 6, "activation": "tanh", "kernel_regularizer": "l2"},
    "Detach": {},
    "DirectFeedback": {"feedback_initializer": keras.initializers.RandomNormal(seed=2)},
    "Dropout": {"rate": 0.3, "seed": 5},
    "Embedding": {"input_dim": ROWS, "output_dim": 4},
    "FeedbackConv2D": {"filters": 4, "kernel_size": 2, "feedback": "sign"},
    "FeedbackDense": {"units": 6, "activation": "tanh", "feedback_initializer": "orthogonal"},
    "GroupNormalization": {"groups": 2, "epsilon": 1e-4},
    "LayerNormalization": {"epsilon": 1e-4},
}
# The activation before it.
LOSSES = {
    "BinaryCrossentropy": "sigmoid",
    "CategoricalCrossentropy": "softmax",
    "SparseCategoricalCrossentropy": "softmax",
}
# An option for some, so that a file has to keep it.
OPTIMIZERS = {
    "SGD": {"momentum": 0.5},
    "Adadelta": {"epsilon": 1e-2},
    "Adafactor": {"relative_step": False},
    "Adagrad": {"epsilon_in_sqrt": False},
    "Adam": {"clipnorm": 0.5},
    "AdamW": {"weight_decay": 0.01, "exclude_from_decay": "bias_and_normalization"},
    "Adamax": {},
    "DeferredAdam": {},
    "DoG": {"r_epsilon": 0.1},
    "Ftrl": {"l1_regularization_strength": 1e-3, "initial_accumulator_value": 0.01},
    "HypergradientAdam": {"hypergradient_rate": 1e-4},
    "Lamb": {"global_clipnorm": 1.0},
    "LazyAdam": {},
    "Lion": {},
    "Momentum": {"gradient_accumulation_steps": 2},
    "Nadam": {"momentum_decay": 0.004},
    "Muon": {"exclude_output": False, "rms_rate": "original"},
    "Nesterov": {},
    "Prodigy": {"d0": 0.1, "weight_decay": 0.01},
    "RMSprop": {"centered": True},
    "ScheduleFreeAdamW": {},
    "ScheduleFreeRAdam": {"silent_sgd_phase": False},
    "ScheduleFreeSGD": {"weight_decay": 0.01},
}
SCHEDULES = {
    "CosineAnnealing": (0.05, 8),
    "CosineRestarts": (0.05, 2),
    "Cyclical": (0.01, 0.05, 2),
    "ExponentialDecay": (0.05, 2, 0.5),
    "GPT3": (0.05, 16.0, 90.0),
    "LinearDecay": (0.05, 8),
    "OneCycle": (0.05, 8),
    "Sequential": ([0.01, 0.05], [2]),
    "StepDecay": (0.05, 2, 0.5),
    "Warmup": (0.05, 2),
    "WarmupCosine": (0.05, 8, 2),
}
# Each name of a kind stands in one of them at least, each optimizer in one; DeferredAdam beside its
# embedding.
TRAININGS = [
    ("BatchNormalization", "CategoricalCrossentropy", "SGD", "WarmupCosine"),
    ("DeferredEmbedding", "CategoricalCrossentropy", "DeferredAdam", "CosineRestarts"),
    ("Dense", "SparseCategoricalCrossentropy", "Adam", "Cyclical"),
    ("Dropout", "SparseCategoricalCrossentropy", "AdamW", "ExponentialDecay"),
    ("Embedding", "BinaryCrossentropy", "LazyAdam", "GPT3"),
    ("GroupNormalization", "CategoricalCrossentropy", "Lamb", "LinearDecay"),
    ("LayerNormalization", "SparseCategoricalCrossentropy", "Momentum", "OneCycle"),
    ("FeedbackConv2D", "CategoricalCrossentropy", "Nesterov", "Sequential"),
    ("DirectFeedback", "BinaryCrossentropy", "RMSprop", "StepDecay"),
    ("LayerNormalization", "BinaryCrossentropy", "ScheduleFreeAdamW", "Warmup"),
    ("Embedding", "CategoricalCrossentropy", "Prodigy", "CosineAnnealing"),
    ("FeedbackDense", "SparseCategoricalCrossentropy", "DoG", "LinearDecay"),
    ("Dense", "SparseCategoricalCrossentropy", "HypergradientAdam", "StepDecay"),
    ("Dense", "BinaryCrossentropy", "Lion", "LinearDecay"),
    ("Embedding", "BinaryCrossentropy", "Adagrad", "StepDecay"),
    ("Embedding", "CategoricalCrossentropy", "Ftrl", "Cyclical"),
    ("Dense", "BinaryCrossentropy", "Adadelta", "StepDecay"),
    ("Dense", "BinaryCrossentropy", "Adamax", "Warmup"),
    ("Dense", "BinaryCrossentropy", "Nadam", "WarmupCosine"),
    ("FeedbackConv2D", "BinaryCrossentropy", "Adafactor", "ExponentialDecay"),
    ("Dense", "BinaryCrossentropy", "ScheduleFreeRAdam", "CosineRestarts"),
    ("Dense", "BinaryCrossentropy", "ScheduleFreeSGD", "CosineAnnealing"),
    ("Dense", "BinaryCrossentropy", "Muon", "WarmupCosine"),
]
# What stands before a layer: what it takes, and some weights that get its inputs' gradient.
BEFORE = {
    "DirectFeedback": lambda: [keras_bp.layers.Dense(5, "tanh"), keras_bp.layers.Detach()],
    "FeedbackConv2D": lambda: [keras.layers.Reshape((3, 4, 1)), keras_bp.layers.Dense(2, "tanh")],
    "FeedbackDense": lambda: [keras_bp.layers.Dense(5, "tanh")],
}
KINDS = {
    # Detach stands before DirectFeedback.
    "layers": [*(layer for layer, _, _, _ in TRAININGS), "Detach"],
    "losses": [loss for _, loss, _, _ in TRAININGS],
    "optimizers": [optimizer for _, _, optimizer, _ in TRAININGS],
    "schedules": [schedule for _, _, _, schedule in TRAININGS],
}

_generator = np.random.default_rng(0)
NUMBERS = _generator.normal(size=(16, 3, 4)).astype("float32")
IDS = _generator.integers(0, ROWS, (16, 3)).astype("int32")
LABELS = _generator.integers(0, CLASSES, 16)
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


def public_classes(module=keras_bp, prefix=""):
    """Return all classes that `__all__` names, here and in the modules that it names.

    A class that is found under two names counts once, under the later one: `layers.Detach`.
    """
    found = {}
    for name in module.__all__:
        item = getattr(module, name)
        if inspect.ismodule(item):
            found |= public_classes(item, f"{prefix}{name}.")
        elif inspect.isclass(item):
            found[prefix + name] = item
    names = {item: name for name, item in found.items()}
    return {name: item for item, name in names.items()}


def data(training):
    """Return the inputs and labels of a training."""
    layer, loss, _, _ = training
    one_hot = loss != "SparseCategoricalCrossentropy"
    labels = np.eye(CLASSES, dtype="float32")[LABELS] if one_hot else LABELS
    return IDS if layer in EMBEDDINGS else NUMBERS, labels


def make_optimizer(name, schedule):
    rate = getattr(keras_bp.schedules, schedule)(*SCHEDULES[schedule])
    return getattr(keras_bp.optimizers, name)(rate, **OPTIMIZERS[name])


def make_model(training, layers=keras_bp.layers, strategy=None, **compile_options):
    """Return the compiled model; `layers` is the module that its layer is taken from."""
    layer, loss, optimizer, schedule = training
    keras.utils.set_random_seed(1)
    ids = layer in EMBEDDINGS
    with strategy.scope() if strategy else contextlib.nullcontext():
        subject = getattr(layers, layer)(**LAYERS[layer], name="subject")
        parts = [
            keras.Input((3,), dtype="int32") if ids else keras.Input((3, 4)),
            *BEFORE.get(layer, list)(),
            *([] if layer == "DirectFeedback" else [subject]),
            keras.layers.Flatten(),
            keras_bp.layers.Dense(CLASSES, LOSSES[loss], name="head"),
        ]
        model = keras.Sequential(parts)
        if layer == "DirectFeedback":
            model = keras.Model(
                model.inputs[0], subject([model.outputs[0], model.layers[0].output])
            )
        cost = getattr(keras_bp.losses, loss)()
        options = {"jit_compile": False, **compile_options}
        model.compile(make_optimizer(optimizer, schedule), cost, **options)
    return model


def fit(model, training, epochs=2):
    x, y = data(training)
    return model.fit(x, y, epochs=epochs, **FIT).history["loss"]


def tape_loop(model, training):
    """The steps of `fit`, with a GradientTape."""
    x, y = data(training)
    for step in range(STEPS):
        rows = slice(8 * (step % 2), 8 * (step % 2) + 8)
        with tf.GradientTape() as tape:
            loss = model.loss(y[rows], model(x[rows], training=True)) + sum(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
    model.optimizer.finalize_variable_values(model.trainable_variables)
