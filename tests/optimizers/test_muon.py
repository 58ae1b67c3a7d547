"""Muon: which variables are matrices, their orthogonalization, and the steps of independent rules.

The iterates of optax and torch lie in `fixtures`, beside the script that made them.
"""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import optimizers
from keras_bp.optimizers.muon import orthogonalized

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
OPTAX, TORCH = (dict(np.load(FIXTURES / f"muon_{name}.npz")) for name in ("optax", "torch"))
RATE = 2.0**-8
STANDARD = 3.4445, -4.775, 2.0315
PATHS = {
    "tall": "tall/kernel",
    "wide": "wide/kernel",
    "query": "attention/query/kernel",
    "attention_output": "attention/attention_output/kernel",
    "conv": "conv/kernel",
    "bias": "conv/bias",
}
# As in test_optimizers_parity.py: in float32 the roundings of 20 steps, in float64 next to none.
# The iteration makes up to 500 times as much of a rounding, of a move of 1e-3 a step.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


@pytest.fixture
def dtype(request):
    """A float type that is Keras's while the test runs: learning rates are of it."""
    keras.config.set_floatx(request.param)
    yield request.param
    keras.config.set_floatx("float32")


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def iterates(
    optimizer, dtype="float64", names=tuple(PATHS), variable=tf.Variable, paths=PATHS, **options
):
    """Return {name: the arrays after each of 20 steps} of the fixtures' problem."""
    variables = [variable(OPTAX[f"initial/{n}"], dtype=dtype, name=paths[n]) for n in names]
    optimizer.build(variables)

    @tf.function(**options)
    def step(gradients):
        optimizer.apply(gradients, variables)

    after = []
    for gradients in zip(*(OPTAX[f"gradients/{n}"] for n in names), strict=True):
        step([tf.constant(gradient, dtype) for gradient in gradients])
        after.append([v.numpy() for v in variables])
    return dict(zip(names, map(np.stack, zip(*after, strict=True)), strict=True))


# Independent rules.

LIBRARIES = {
    "optax rms": {"nesterov": False},
    "optax original": {"nesterov": False, "rms_rate": "original"},
    "optax whole": dict(
        **dict(nesterov=False, rms_rate=0.5, per_head=False, momentum=0.8, ns_steps=3),
        **dict(muon_a=3.0, muon_b=-3.2, muon_c=1.2, weight_decay=0.5, adam_lr_ratio=0.25),
        **dict(adam_weight_decay=0.0625, adam_beta_1=0.8, adam_beta_2=0.99),
    ),
    "torch original": {"rms_rate": "original"},
    "torch rms": {"weight_decay": 0.5},
    "torch plain": dict(nesterov=False, momentum=0.8, ns_steps=3, weight_decay=0.25),
}


@pytest.mark.parametrize(
    "case, dtype",
    [*((c, "float64") for c in LIBRARIES), ("optax whole", "float32"), ("torch rms", "float32")],
    indirect=["dtype"],
)
def test_the_steps_of_other_libraries(case, dtype):
    library, name = case.split()
    expected = {"optax": OPTAX, "torch": TORCH}[library]
    options = {"weight_decay": 0.0, "adam_weight_decay": 0.0, **LIBRARIES[case]}
    optimizer = optimizers.Muon(RATE, epsilon=1e-12, exclude_output=False, **options)
    names = [n for n in PATHS if f"{name}/{dtype}/{n}" in expected]
    for key, arrays in iterates(optimizer, dtype, names).items():
        np.testing.assert_allclose(
            arrays[expected["steps"] - 1],
            expected[f"{name}/{dtype}/{key}"],
            rtol=0,
            # Epsilon is added to the corrected root there, to the other one here.
            atol=1e-10 if key == "bias" and dtype == "float64" else TOLERANCE[dtype],
            err_msg=key,
        )


def as_matrices(name, array, per_head):
    """The matrices of an array, each of inputs by outputs, and the function that undoes it."""
    shape = array.shape
    if name == "query" and per_head:
        return [array[:, head] for head in range(shape[1])], lambda m: np.stack(m, axis=1)
    if name == "attention_output" and per_head:
        return list(array), np.stack
    split = -1 if name != "query" else 1
    rows = int(np.prod(shape[:split]))
    return [array.reshape(rows, -1)], lambda m: m[0].reshape(shape)


def twin(name, steps, o):
    """The rule in NumPy, one matrix at a time, from the options of an optimizer."""
    w = OPTAX[f"initial/{name}"].astype("float64")
    m, v, after = 0.0, 0.0, []
    for step, g in enumerate(OPTAX[f"gradients/{name}"][:steps].astype("float64"), 1):
        if name == "bias":
            w = w - RATE * (o.adam_weight_decay or 0) * w
            m = o.adam_beta_1 * m + (1 - o.adam_beta_1) * g
            v = o.adam_beta_2 * v + (1 - o.adam_beta_2) * g**2
            root = np.sqrt(1 - o.adam_beta_2**step)
            size = RATE * o.adam_lr_ratio * root / (1 - o.adam_beta_1**step)
            w = w - size * m / (np.sqrt(v) + o.epsilon)
            after.append(w)
            continue
        w = w - RATE * (o.weight_decay or 0) * w
        m = o.momentum * m + g
        matrices, joined = as_matrices(name, g + o.momentum * m if o.nesterov else m, o.per_head)
        moves = []
        for x in matrices:
            n, k = x.shape
            x = x / np.sqrt((x * x).sum())
            for _ in range(o.ns_steps):
                gram = x @ x.T
                x = o.muon_a * x + (o.muon_b * gram + o.muon_c * gram @ gram) @ x
            original = np.sqrt(max(1, k / n))
            factors = {None: 1.0, "original": original}
            moves.append(factors.get(o.rms_rate, 0.2 * np.sqrt(max(n, k))) * x)
        w = w - RATE * joined(moves)
        after.append(w)
    return np.stack(after)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": None, "adam_weight_decay": 0.5, "per_head": False, "nesterov": False},
        {"weight_decay": 0.5, "adam_weight_decay": None, "rms_rate": None, "adam_lr_ratio": 0.5},
        {"rms_rate": "original"},
    ],
    ids=str,
)
def test_the_steps_of_a_twin_in_numpy(float64, options):
    optimizer = optimizers.Muon(RATE, exclude_output=False, **options)
    for name, arrays in iterates(optimizer).items():
        expected = twin(name, len(arrays), optimizer)
        np.testing.assert_allclose(arrays, expected, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    "options", [{}, {"nesterov": False, "rms_rate": None, "adam_lr_ratio": 0.25}], ids=str
)
def test_the_steps_of_keras(float64, options):
    """On matrices and a bias, with the same variables in the same order."""
    names = ["tall", "bias", "wide"]
    problem = {"names": names, "variable": keras.Variable, "paths": {n: n for n in names}}
    options = {"weight_decay": 0.5, "adam_weight_decay": 0.25, **options}
    ours = optimizers.Muon(RATE, exclude_output=False, **options)
    theirs = keras.optimizers.Muon(RATE, **options)
    after, expected = (iterates(optimizer, **problem) for optimizer in (ours, theirs))
    for name in names:
        # Keras adds 1e-7 to the norm, which is between 0.03 and 30.
        np.testing.assert_allclose(after[name], expected[name], rtol=0, atol=1e-6, err_msg=name)
    saved = [[(v.name, v.shape) for v in o.variables] for o in (ours, theirs)]
    assert saved[0] == saved[1]


# The orthogonalization.


def matrices(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 5, 4)], ids=str)
def test_orthogonalized_is_the_polar_factor(shape):
    """With the coefficients that converge, its product of singular vectors; else those vectors."""
    x = matrices(shape)
    u, sizes, v = np.linalg.svd(x, full_matrices=False)
    exact = orthogonalized(tf.constant(x), (15 / 8, -10 / 8, 3 / 8), 30, "float64")
    np.testing.assert_allclose(exact, u @ v, atol=1e-12)
    soon = orthogonalized(tf.constant(x), STANDARD, 5, "float64").numpy()
    inner = np.swapaxes(u, -1, -2) @ soon @ np.swapaxes(v, -1, -2)
    values = np.diagonal(inner, axis1=-2, axis2=-1)
    np.testing.assert_allclose(inner * (1 - np.eye(inner.shape[-1])), 0, atol=1e-12)
    assert sizes.min() > 0.01 * np.sqrt((sizes**2).sum(-1)).max()
    assert 0.65 < values.min() and values.max() < 1.25


def test_orthogonalized_does_not_see_the_size():
    """From the smallest to the largest numbers of float32; a matrix of zeros beside stays one."""
    x = matrices((3, 4, 6)).astype("float32")
    x[1] = 0.0
    expected = orthogonalized(tf.constant(x), STANDARD, 5, "float32").numpy()
    assert not expected[1].any() and expected[0].any()
    for power in (-100, 120):  # of 2: exact
        scaled = orthogonalized(tf.constant(x * 2.0**power), STANDARD, 5, "float32")
        np.testing.assert_array_equal(scaled, expected)


def test_orthogonalized_in_bfloat16():
    x = tf.constant(matrices((8, 64, 32)), "float32")
    exact, rounded = (orthogonalized(x, STANDARD, 5, d).numpy() for d in ("float32", "bfloat16"))
    assert rounded.dtype == "float32"
    # bfloat16 keeps 8 bits, 0.4 %, and each of the five steps rounds four times.
    difference = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-3 < difference < 0.1
    w = [tf.Variable(tf.zeros((64, 32)), name="a/kernel"), tf.Variable(tf.zeros((2, 2)), name="b")]
    optimizers.Muon(1.0, ns_dtype="bfloat16", rms_rate=None, momentum=0.0).apply(
        [x[0], tf.zeros((2, 2))], w
    )
    np.testing.assert_array_equal(-w[0].numpy(), rounded[0])


# The variables.


def test_which_rule_each_variable_gets():
    layers = keras.layers
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, name="words")(inputs)
    x = layers.MultiHeadAttention(3, 2, name="attention")(x, x)
    x = layers.GroupQueryAttention(2, 4, 2, name="grouped")(x, x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Conv1D(4, 3, name="conv")(x)
    x = layers.DepthwiseConv1D(2, depth_multiplier=2, name="depthwise")(x)
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 3))(x)
    x = layers.Reshape((3, 6))(x)
    x = layers.GRU(2, name="gru")(x)
    heads = [layers.Dense(2, name="first")(x), layers.Dense(1, name="last")(x)]
    model = keras.Model(inputs, heads)
    optimizer = optimizers.Muon(weight_decay=0.25, adam_weight_decay=0.5)
    rows = optimizers.describe(optimizer, model)
    rules = {row.path.removeprefix(model.name + "/"): row.rule for row in rows}
    projection = dict.fromkeys(["query", "key", "value"], "Muon (3, 4, 2)")
    expected = {
        "words/embeddings": "AdamW",
        **{f"attention/{name}/kernel": rule for name, rule in projection.items()},
        "attention/attention_output/kernel": "Muon (3, 2, 4)",
        "grouped/query/kernel": "Muon (4, 4, 2)",
        "grouped/key/kernel": "Muon (2, 4, 2)",
        "grouped/attention_output/kernel": "Muon (4, 2, 4)",
        "norm/gamma": "AdamW",
        "conv/kernel": "Muon (12, 4)",
        "depthwise/kernel": "AdamW",
        "einsum_dense/kernel": "AdamW",
        "gru/gru_cell/kernel": "Muon",
        "gru/gru_cell/recurrent_kernel": "Muon",
        "gru/gru_cell/bias": "AdamW",  # of two axes
        "first/kernel": "Muon",
        "last/kernel": "AdamW",
    }
    assert {path: rules[path] for path in expected} == expected
    assert {rule for path, rule in rules.items() if path.endswith("bias")} == {"AdamW"}
    for row in rows:
        muon = row.rule != "AdamW"
        assert row.slots == (("momentum",) if muon else ("momentum", "velocity"))
        assert row.decay == (0.25 if muon else 0.5)


def named(*paths):
    return [tf.Variable(np.eye(2, dtype="float32"), name=path) for path in paths]


def rules(variables, **options):
    optimizer = optimizers.Muon(**options)
    optimizer.build(variables)
    return [optimizer._rule_name(variable) for variable in variables]


def test_what_the_arguments_exclude():
    variables = [*named("token_embedding/w", "dense/kernel", "head/kernel"), tf.Variable(1.0)]
    assert rules(variables) == ["AdamW", "Muon", "AdamW", "AdamW"]
    assert rules(variables, exclude_output=False) == ["AdamW", "Muon", "Muon", "AdamW"]
    assert rules(variables, exclude_embeddings=False)[0] == "Muon"
    excluded = {"exclude_layers": ["^dense"], "exclude_output": False}
    assert rules(variables, **excluded) == ["AdamW", "AdamW", "Muon", "AdamW"]
    # A variable outside of all layers is a layer of its own.
    assert rules(named("w", "w", "w")) == ["Muon", "Muon", "AdamW"]


def test_attention_as_a_whole():
    variables = [
        tf.Variable(tf.ones((4, 3, 2)), name="attention/query/kernel"),
        tf.Variable(tf.ones((3, 2, 4)), name="attention/attention_output/kernel"),
    ]
    whole = rules(variables, per_head=False, exclude_output=False)
    assert whole == ["Muon (4, 6)", "Muon (6, 4)"]


@pytest.mark.parametrize(
    "paths, options",
    [
        (["head/kernel"], {}),
        (["embedding/embeddings", "head/kernel", "head/bias"], {}),
        (["dense/kernel", "head/kernel"], {"exclude_layers": ["dense"]}),
    ],
    ids=str,
)
def test_without_a_hidden_matrix(paths, options):
    optimizer = optimizers.Muon(**options)
    with pytest.raises(ValueError, match="hidden matrix.*exclude_output.*Received: .*head/kernel"):
        optimizer.build(named(*paths))
    assert not optimizer.built and not optimizer._trainable_variables


def test_exclude_layers_that_match_nothing():
    with pytest.raises(ValueError, match="`exclude_layers` must match .* Received: 'ouput'"):
        optimizers.Muon(exclude_layers=["dense", "ouput"]).build(
            named("dense/kernel", "out/kernel")
        )


# Steps.


def test_a_kernel_in_half_precision_is_updated_through_a_copy_in_float32():
    shapes = {"attention/query/kernel": (2, 2, 3), "head/kernel": (2, 1)}
    gradients = [tf.constant(matrices(shape), "bfloat16") for shape in shapes.values()]
    found = []
    for dtype in ("bfloat16", "float32"):
        weights = [tf.Variable(tf.ones(s, dtype), name=path) for path, s in shapes.items()]
        optimizer = optimizers.Muon(3e-3)
        for _ in range(8):  # steps that bfloat16 alone would lose
            optimizer.apply([tf.cast(g, dtype) for g in gradients], weights)
        found.append([tf.cast(weight, "bfloat16") for weight in weights])
    for rounded, exact in zip(*found, strict=True):
        np.testing.assert_array_equal(rounded, exact)
        assert np.any(rounded != 1)


def test_gradients_of_zeros_move_nothing():
    variables = named("dense/kernel", "head/kernel")
    optimizer = optimizers.Muon(0.1, weight_decay=0.0, adam_weight_decay=0.0)
    optimizer.apply([tf.zeros((2, 2))] * 2, variables)
    for variable in variables:
        np.testing.assert_array_equal(variable, np.eye(2))


def test_a_sparse_gradient_is_the_dense_one():
    """Of a matrix every row is part of the direction, those without a gradient too."""
    sparse = tf.IndexedSlices(tf.constant(matrices((3, 2))), tf.constant([2, 0, 2]), [3, 2])
    tables = [tf.Variable(matrices((3, 2), seed=1), name="words/embeddings") for _ in range(2)]
    for table, gradient in zip(tables, [sparse, tf.convert_to_tensor(sparse)], strict=True):
        head = tf.Variable(tf.ones((1, 2), tf.float64), name="head/kernel")
        optimizer = optimizers.Muon(0.1, exclude_embeddings=False, gradient_accumulation_steps=2)
        for _ in range(4):
            optimizer.apply([gradient, tf.ones((1, 2), tf.float64)], [table, head])
    np.testing.assert_allclose(*tables, atol=1e-14)
    assert not np.any(tables[0].numpy() == matrices((3, 2), seed=1))


def test_steps_compiled_by_xla():
    names = ["query", "conv", "bias"]
    plain, compiled = (
        iterates(optimizers.Muon(RATE, exclude_output=False), "float32", names, jit_compile=jit)
        for jit in (False, True)
    )
    for name in names:
        np.testing.assert_allclose(compiled[name], plain[name], rtol=0, atol=1e-6, err_msg=name)


def test_two_replicas_take_the_step_of_one(replicas):
    """Each finds the matrices of its own copies, in a layout that the shape does not tell."""
    shapes = {"attention/query/kernel": (2, 2, 2), "head/kernel": (2, 1)}
    gradients = [tf.constant(matrices(shape), "float32") for shape in shapes.values()]

    def variables():
        return [tf.Variable(tf.ones(shape), name=path) for path, shape in shapes.items()]

    def updated(step):
        weights = variables()
        optimizer = optimizers.Muon(0.1)
        optimizer.build(weights)
        for _ in range(2):
            step(optimizer, weights)
        return [weight.numpy() for weight in weights]

    one = updated(lambda optimizer, weights: optimizer.apply(gradients, weights))

    def of_two(optimizer, weights):
        halves = [gradient / 2 for gradient in gradients]
        replicas.run(lambda: optimizer.apply([tf.identity(g) for g in halves], weights))

    with replicas.scope():
        two = updated(tf.function(of_two))
    for expected, found in zip(one, two, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
