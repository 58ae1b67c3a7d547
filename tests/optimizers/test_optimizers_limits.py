"""Limits beside clipping, for every rule: cautious, update_clip, adaptive_clip, norm outliers."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import (
    COLUMNS,
    NAMES,
    ROWS,
    Problem,
    assert_close,
    assert_same,
    make,
)

from keras_bp import optimizers

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
# Each refuses what would make another algorithm of it.
LIMITED = [n for n in NAMES if "cautious" not in getattr(optimizers, n).refused_options]


@pytest.fixture(scope="module")
def recorded():
    """What pytorch_optimizer does, and the gradients that it was given."""
    return {**np.load(FIXTURES / "torch.npz"), **np.load(FIXTURES / "cautious.npz")}


CAUTIOUS = {
    "adam": lambda: optimizers.Adam(3e-3, epsilon=1e-8, cautious=True),
    "lion": lambda: optimizers.Lion(3e-3, cautious=True),
}


@pytest.mark.parametrize("case", CAUTIOUS)
def test_cautious_matches_pytorch_optimizer(case, recorded):
    optimizer = CAUTIOUS[case]()
    variables = [tf.Variable(recorded[f"initial_{i}"]) for i in range(2)]
    step = tf.function(lambda *gradients: optimizer.apply(list(gradients), variables))
    kept = []
    for pair in zip(recorded["gradients_0"], recorded["gradients_1"], strict=True):
        step(*map(tf.constant, pair))
        kept.append([v.numpy() for v in variables])
    for i, arrays in enumerate(zip(*kept, strict=True)):
        expected = recorded[f"{case}/float32/{i}"]
        # Weights of size 0.5, rounded by 3e-8 in each of 100 steps, mostly at random.
        assert_close(np.stack(arrays)[recorded["steps"] - 1], expected, 1e-6)


def test_adaptive_clip_matches_pytorch_optimizer(recorded):
    initial, gradient = recorded["initial_0"], recorded["gradients_0"][0]
    kernel, head = tf.Variable(initial, name="hidden/kernel"), tf.Variable([[1.0]], name="h/kernel")
    optimizer = optimizers.SGD(1.0, adaptive_clip=0.5)
    optimizer.apply([tf.constant(gradient), tf.constant([[100.0]])], [kernel, head])
    assert_close(initial - kernel.numpy(), recorded["agc/0"], 1e-6)
    assert np.any(recorded["agc/0"] != gradient)
    np.testing.assert_array_equal(head, [[-99.0]])  # the output layer is not clipped


def limited(move, gradient, cautious, bound):
    """The same in NumPy, in float64."""
    if bound is not None:
        move = move * min(1.0, bound / max(np.sqrt(np.mean(move**2)), 1e-300))
    if cautious:
        mask = (move * gradient < 0) * 1.0
        move = move * mask * (mask.size / (mask.sum() + 1))
    return move


@pytest.mark.parametrize("options", [{"cautious": True}, {"update_clip": 0.3}], ids=str)
@pytest.mark.parametrize("name", LIMITED)
def test_each_rule_is_limited_as_in_numpy(name, options):
    """A plain rule is stepped beside it, from the same weights."""
    problem, plain = Problem(name), Problem(name)
    optimizer, twin = make(name, weight_decay=0.0, **options), make(name, weight_decay=0.0)
    # Rules that measure the distance from the start see where they are put.
    steps = 1 if hasattr(optimizer, "adapted_rate") else 4
    for step in range(steps):
        for variable, other in zip(plain.variables, problem.variables, strict=True):
            variable.assign(other)
        before = [v.numpy().astype("float64") for v in problem.variables]
        gradients = problem.gradients(step)
        optimizer.apply(gradients, problem.variables)
        twin.apply(plain.gradients(step), plain.variables)
        rate = getattr(optimizer, "adapted_rate", optimizer.learning_rate).numpy()
        expected = []
        for w, v, g in zip(before, plain.variables, gradients, strict=True):
            by_rows = "cautious" in options or twin._by_rows(v)
            rows = np.unique(g.indices) if isinstance(g, tf.IndexedSlices) and by_rows else ...
            move, g = v.numpy() - w, tf.convert_to_tensor(g).numpy()
            after = np.array(w)
            bound = options.get("update_clip") and rate * options["update_clip"]
            after[rows] += limited(move[rows], g[rows], options.get("cautious"), bound)
            expected.append(after)
        # Weights of size 1 and moves up to twice as large as the rule's, each rounded.
        assert_close([v.numpy() for v in problem.variables], expected, 1e-6)


def test_decay_beside_the_rule_is_not_limited():
    variable = tf.Variable([1.0, 2.0])
    options = {"weight_decay": 0.5, "cautious": True, "update_clip": 0.1}
    optimizers.SGD(0.5, **options).apply([tf.zeros([2])], [variable])
    np.testing.assert_array_equal(variable, [0.75, 1.5])
    ends = []
    for limits in ({}, {"cautious": True}):  # with the rate that it finds
        variable, optimizer = tf.Variable([1.0]), make("Prodigy", weight_decay=0.5, **limits)
        for gradient in (1.0, 0.0):
            optimizer.apply([tf.constant([gradient])], [variable])
            ends.append(variable.numpy()[0])
    first, second, cautious_first, cautious_second = ends
    rate = optimizer.adapted_rate.numpy()
    # The first move, alone in its variable, is halved; the second is decay alone, as momentum's
    # goes on without a gradient and is masked.
    assert cautious_second == pytest.approx(cautious_first * (1 - rate * 0.5), rel=1e-6)
    assert second < first


def test_a_limit_sees_the_float32_copy_and_the_jit_step():
    """Moves far below the spacing of bfloat16 are limited as in float32."""
    for jit in (False, True):
        variable = tf.Variable([1.0, -1.0, 1.0], dtype=tf.bfloat16)
        optimizer = optimizers.SGD(1e-4, momentum=0.9, cautious=True)
        optimizer.build([variable])

        @tf.function(jit_compile=jit)
        def step(gradient, optimizer=optimizer, variable=variable):
            optimizer.apply([gradient], [variable])

        step(tf.constant([1.0, 1.0, 1.0], tf.bfloat16))
        # The third velocity goes on against its gradient: it stays, the others move by 3 / 3.
        step(tf.constant([1.0, 1.0, -0.5], tf.bfloat16))
        [master] = [v for v in optimizer.variables if v.name.endswith("float32")]
        first = np.array([1.0, -1.0, 1.0]) - 1e-4 * 3 / 4
        assert_close([master], [first - 1e-4 * np.array([1.9, 1.9, 0.0])], 1e-7)


def test_the_units_of_adaptive_clipping():
    """Columns of kernels, filters, rows of tables, dense or sparse; vectors whole."""
    rng = np.random.default_rng(0)
    shapes = {"conv/kernel": (3, 3, 2, 4), "emb/embeddings": (5, 3), "conv/bias": (4,), "scale": ()}
    shapes |= {"attention/query/kernel": (3, 2, 4), "attention/query/bias": (2, 4)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    weights["emb/embeddings"][1] = 0.0  # an empty unit counts as one of norm 0.001
    axes = {"conv/kernel": (0, 1, 2), "emb/embeddings": (1,), "conv/bias": (0,), "scale": ()}
    axes |= {"attention/query/kernel": (0,), "attention/query/bias": (0, 1)}
    gradients = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    variables = [tf.Variable(w, name=name, dtype="float64") for name, w in weights.items()]
    variables.append(tf.Variable([[1.0]], dtype="float64", name="head/kernel"))
    for sparse in (False, True):
        given = [tf.constant(g) for g in gradients.values()] + [tf.zeros([1, 1], "float64")]
        if sparse:
            ids = tf.constant([4, 1, 1])
            rows = tf.gather(given[1], ids) * tf.constant([[1.0], [0.25], [0.75]], tf.float64)
            given[1] = tf.IndexedSlices(rows, ids, tf.constant([5, 3]))
        for variable, w in zip(variables, weights.values(), strict=False):
            variable.assign(w)
        optimizers.SGD(1.0, adaptive_clip=0.1).apply(given, variables)
        for variable, (name, w) in zip(variables, weights.items(), strict=False):
            g = gradients[name]
            norm = np.sqrt(np.sum(g**2, axes[name], keepdims=True))
            most = 0.1 * np.maximum(np.sqrt(np.sum(w**2, axes[name], keepdims=True)), 1e-3)
            step = np.where(norm > most, g * most / norm, g)
            if sparse and name == "emb/embeddings":
                step[[0, 2, 3]] = 0
            np.testing.assert_allclose(variable.numpy(), w - step, rtol=1e-12, err_msg=name)


def test_a_gradient_whose_square_overflows_is_clipped_to_its_weights():
    kernel = tf.Variable([[3.0], [4.0]], name="hidden/kernel")
    head = tf.Variable([[1.0]], name="head/kernel")
    optimizers.SGD(1.0, adaptive_clip=0.1).apply(
        [tf.constant([[3e30], [4e30]]), tf.zeros([1, 1])], [kernel, head]
    )
    np.testing.assert_allclose(kernel, [[2.7], [3.6]], rtol=1e-6)


def zclip(norms, threshold):
    """ZClip's algorithm 1 in NumPy: what each norm is clipped to, and its z-score."""
    clipped, scores, mean, variance = [], [], 0.0, 0.0
    for i, norm in enumerate(norms):
        z = (norm - mean) / np.sqrt(variance) if i >= 25 else 0.0
        kept = mean + threshold**2 / z * np.sqrt(variance) if z > threshold else norm
        clipped.append(kept)
        scores.append(z)
        if i < 25:
            mean, variance = np.mean(clipped), np.var(clipped)
        else:
            mean = 0.97 * mean + 0.03 * kept
            variance = 0.97 * variance + 0.03 * (kept - mean) ** 2
    return np.array(clipped), np.array(scores)


def norms_with_spikes():
    norms = 1.0 + 0.1 * np.random.default_rng(0).normal(size=50)
    norms[[10, 30, 40]] = 2.0, 5.0, 1e25
    return norms


def lengths(norms, jit=False, **options):
    """The length of the step along each of the gradients of these norms, and the optimizer."""
    variable, optimizer = tf.Variable([0.0, 0.0]), optimizers.SGD(1.0, **options)
    optimizer.build([variable])

    @tf.function(jit_compile=jit)
    def step(norm):
        variable.assign([0.0, 0.0])
        optimizer.apply([norm * tf.constant([0.6, -0.8])], [variable])
        return tf.cast(variable, tf.float64)

    moves = [step(tf.constant(norm, tf.float32)).numpy() for norm in norms]
    return np.linalg.norm(moves, axis=1), optimizer


@pytest.mark.parametrize("jit", [False, True])
def test_clip_above_zscore_is_zclip(jit):
    norms = norms_with_spikes()
    made, optimizer = lengths(norms, jit, clip_above_zscore=2.5)
    expected, _ = zclip(norms.astype("float32").astype("float64"), 2.5)
    # The gradients' norms are rounded to float32, and differences of norms to deviations.
    np.testing.assert_allclose(made, expected, rtol=2e-5)
    assert made[10] == pytest.approx(2.0) and made[30] < 1.5 and made[40] < 1.5
    assert int(optimizer.iterations) == 50


def test_skip_above_zscore():
    norms = norms_with_spikes()
    norms[45] = np.nan
    made, optimizer = lengths(norms, skip_above_zscore=6.0)
    _, scores = zclip(norms[:45], 6.0)
    skipped = {int(i) for i in np.flatnonzero(scores > 6.0)} | {45}
    assert skipped >= {30, 40, 45} and skipped == {int(i) for i in np.flatnonzero(made == 0)}
    assert int(optimizer.iterations) == 50 - len(skipped)
    both, _ = lengths(norms, skip_above_zscore=6.0, clip_above_zscore=2.5)
    assert both[30] == both[45] == 0 and both[46] > 0
    # A gradient that is not finite has no direction to be clipped to.
    assert np.isnan(lengths(norms[40:], clip_above_zscore=2.5)[0][5])


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_norms_that_become_larger_for_good_are_usual_soon(start):
    """After a warm-up of zeros, too, which do not count."""
    noise = np.random.default_rng(0).normal(size=230)
    norms = np.where(np.arange(230) < 30, start + 0.1 * abs(noise) * (start > 0), 10 + noise)
    for options in (
        {"skip_above_zscore": 6.0},
        {"skip_above_zscore": 6.0, "clip_above_zscore": 3.0},
    ):
        made, _ = lengths(norms, **options)
        assert np.count_nonzero(made[30:] == 0) < 20
        assert made[-50:].mean() > 5
    clipped, _ = lengths(norms, clip_above_zscore=2.5)
    assert clipped[-50:].min() > 0


def test_beside_equal_norms_none_is_an_outlier():
    made, _ = lengths([1.0] * 30 + [1.01] * 10, skip_above_zscore=6.0)
    assert made.min() > 0


def test_what_is_not_finite_does_not_count():
    counts = []
    for last in (1.0, np.inf, np.nan):
        norms = np.append(norms_with_spikes()[:28], last)
        _, optimizer = lengths(norms, skip_above_zscore=6.0)
        counts.append([v.numpy() for v in optimizer.variables if "gradient_norm" in v.name])
    assert_same(counts[1], counts[2])
    assert counts[0][2] == counts[1][2] + 1 == 29


def test_an_outlier_is_one_of_the_update_and_of_all_replicas(replicas):
    """With accumulation the mean's norm counts, and each replica skips with the others."""
    options = {"skip_above_zscore": 3.0, "gradient_accumulation_steps": 2}
    with replicas.scope():
        variable = tf.Variable([0.0])
        optimizer = optimizers.SGD(1.0, **options)
        optimizer.build([variable])

        @tf.function
        def step(gradient):
            def replica():
                first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
                optimizer.apply([tf.where(first, gradient, 0.0)], [variable])

            replicas.run(replica)

        ends = []
        for update in range(28):
            size = 1.0 + 0.01 * (update % 3)
            for share in (4.0, -2.0) if update == 27 else (1.5, 0.5):
                step(tf.constant([size * share * (8.0 if update == 26 else 1.0)]))
            ends.append(variable.numpy()[0])
    moves = np.diff(ends)
    # Update 26 is 8 times as large; in 27 large micro-steps cancel to an usual mean.
    assert moves[25] == 0.0 and moves[26] == pytest.approx(-1.0)
    assert int(optimizer.iterations.numpy()) == 27


def test_statistics_are_saved(tmp_path):
    """Half the steps, a copy by the variables, and the rest: as all in one."""
    norms = norms_with_spikes()
    whole, optimizer = lengths(norms, clip_above_zscore=2.5)
    _, first = lengths(norms[:30], clip_above_zscore=2.5)
    second = optimizers.SGD.from_config(optimizer.get_config())
    variable = tf.Variable([0.0, 0.0])
    second.build([variable])
    second.set_weights([v.numpy() for v in first.variables])
    second.apply([tf.constant([0.6, -0.8], tf.float32) * norms[30].astype("float32")], [variable])
    np.testing.assert_allclose(np.linalg.norm(variable.numpy()), whole[30], rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_refused_options_are_named(name):
    cls = getattr(optimizers, name)
    values = {"cautious": True, "adaptive_clip": 0.1, "update_clip": 1.0}
    values |= {"swa_start": 5, "lookahead_steps": 5}
    for option, value in values.items():
        if option in cls.refused_options:
            with pytest.raises(
                ValueError, match=f"^`{option}` must be left at.*in {name}.*Received"
            ):
                cls(**{option: value})
        else:
            assert cls(**{option: value}).get_config()[option] == value


@pytest.mark.parametrize(
    "option", ["adaptive_clip", "update_clip", "clip_above_zscore", "skip_above_zscore"]
)
def test_bounds_of_limits(option):
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"^`{option}` must be a finite.*Received: {option}="):
            optimizers.SGD(**{option: bad})
    with pytest.raises(TypeError, match=f"^`{option}` must be a finite.*Received: {option}="):
        optimizers.SGD(**{option: "1"})


def test_bounds_that_are_set_reach_the_compiled_step():
    variable = tf.Variable([0.0, 0.0])
    optimizer = optimizers.SGD(1.0, clip_above_zscore=2.0)
    step = tf.function(lambda: optimizer.apply([tf.constant([3.0, 4.0])], [variable]))
    moves = []
    settings = [None, ("clipnorm", 1.0), ("clipnorm", None), ("update_clip", 0.5)]
    for setting in settings:
        if setting:
            setattr(optimizer, *setting)
        before = variable.numpy()
        step()
        moves.append(np.linalg.norm(variable.numpy() - before))
    np.testing.assert_allclose(moves, [5.0, 1.0, 5.0, np.sqrt(2) / 2], rtol=1e-6)
    optimizer.weight_decay = 0.25
    for name, value in [("weight_decay", -1.0), ("adaptive_clip", -1.0), ("cautious", "no")]:
        before = getattr(optimizer, name)
        with pytest.raises((TypeError, ValueError), match=f"^`{name}` must be .*Received: {name}="):
            setattr(optimizer, name, value)
        assert getattr(optimizer, name) == before
    with pytest.raises(ValueError, match="`skip_above_zscore` must be above .*Received"):
        optimizer.skip_above_zscore = 1.0
    assert optimizer.skip_above_zscore is None and optimizer.weight_decay == 0.25
    plain = optimizers.SGD()
    plain.build([variable])
    with pytest.raises(ValueError, match="must be given before the optimizer is built.*Received"):
        plain.clip_above_zscore = 2.0
    with pytest.raises(ValueError, match="^`cautious` must be left at its default.*Received"):
        optimizers.ScheduleFreeAdamW().cautious = True


def test_limits_that_exclude_each_other():
    with pytest.raises(
        ValueError, match="`skip_above_zscore` must be above `clip_above_.*Received"
    ):
        optimizers.SGD(clip_above_zscore=3.0, skip_above_zscore=3.0)
    with pytest.raises(
        TypeError, match="`cautious` must be True or False. Received: cautious='no'"
    ):
        optimizers.SGD(cautious="no")


@pytest.mark.parametrize("name", ["SGD", "LazyAdam", "RMSprop", "Adam"])
def test_no_limit_changes_no_bit(name):
    """Bounds that nothing reaches; a bound on the update keeps the values to rounding."""
    problem, plain, bounded = Problem(name), Problem(name), Problem(name)
    options = {"adaptive_clip": 1e6, "clip_above_zscore": 1e6}
    problem.steps(make(name, **options), 3)
    plain.steps(make(name), 3)
    assert_same(problem.read(), plain.read())
    bounded.steps(make(name, update_clip=1e6), 3)
    assert_close(bounded.read(), plain.read(), 1e-6)


@pytest.mark.parametrize("option", [{"cautious": True}, {"update_clip": 0.5}], ids=str)
def test_micro_steps_of_a_table_are_limited_as_one(option):
    """Which rows have a gradient is known after accumulation, too."""
    ends = []
    rows = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([3, 5]), tf.constant([500, 2]))
    for micro_steps in (None, 2):
        table = tf.Variable(tf.ones([500, 2]))
        optimizer = optimizers.Adam(0.01, gradient_accumulation_steps=micro_steps, **option)
        for _ in range(3 * (micro_steps or 1)):
            optimizer.apply([rows], [table])
        ends.append(table.numpy())
    assert_close(*([end] for end in ends), 1e-7)
    assert np.abs(1 - ends[0]).max() < 0.031


def test_rows_that_only_momentum_moves_are_limited_too():
    table, optimizer = (
        tf.Variable(tf.ones([4, 1])),
        optimizers.RMSprop(0.1, momentum=0.9, cautious=True),
    )
    for row in (1, 2):
        rows = tf.IndexedSlices(tf.constant([[1.0]]), tf.constant([row]), tf.constant([4, 1]))
        optimizer.apply([rows], [table])
        if row == 1:
            first = table.numpy()[1]
    assert table.numpy()[1] == first < 1  # it has no gradient in the second update


def test_a_bounded_move_may_be_large():
    variable = tf.Variable([0.0, 0.0])
    optimizers.SGD(1.0, update_clip=1.0).apply([tf.constant([3e20, -4e20])], [variable])
    np.testing.assert_allclose(variable, np.sqrt(2) * np.array([-0.6, 0.8]), rtol=1e-6)


@pytest.mark.parametrize("option", [{"cautious": True}, {"adaptive_clip": 0.1}], ids=str)
def test_a_gradient_of_lower_precision(option):
    variables = [tf.Variable([1.0], dtype=tf.float64, name=n) for n in ("a/kernel", "b/kernel")]
    gradients = [tf.constant([1.0], tf.float32)] * 2
    optimizers.SGD(0.1, **option).apply(gradients, variables)
    assert variables[0].dtype == tf.float64 and variables[0].numpy()[0] < 1


def test_rows_alone_are_read_and_written_where_the_rule_does():
    """A cautious step of LazyAdam makes no copy of the table."""
    table = tf.Variable(tf.ones([ROWS, COLUMNS]))
    optimizer = make("LazyAdam", cautious=True)
    optimizer.build([table])

    @tf.function
    def step(rows, ids):
        optimizer.apply([tf.IndexedSlices(rows, ids, tf.constant([ROWS, COLUMNS]))], [table])

    graph = step.get_concrete_function(tf.ones([3, COLUMNS]), tf.constant([1, 2, 2])).graph
    shapes = {
        tuple(t.shape) for op in graph.get_operations() for t in op.outputs if t.dtype.is_floating
    }
    assert (ROWS, COLUMNS) not in shapes
