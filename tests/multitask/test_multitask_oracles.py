"""The combiners on cases that are worked out by hand, and what they hold in all others."""

import numpy as np
import pytest
import tensorflow as tf
from combiner_cases import RULES as ALL_RULES
from combiner_cases import Compiled

from keras_bp import multitask

ROWS = np.array([[1.0, 0.0], [-1.0, 1.0]])
# On a Jacobian BlockwiseUPGrad is UPGrad, by the same method.
assert multitask.BlockwiseUPGrad._weights is multitask.UPGrad._weights
RULES = {name: cls for name, cls in ALL_RULES.items() if name != "BlockwiseUPGrad"}


def seeded(name):
    return RULES[name](**({"seed": 1} if name == "PCGrad" else {}))


S2, S5 = np.sqrt(2.0), np.sqrt(5.0)
ORACLES = [
    (multitask.Sum(), [0.0, 1.0]),
    (multitask.Mean(), [0.0, 0.5]),
    # h_1 = g_1 + g_2 / 2 and h_2 = g_2 + g_1.
    (multitask.PCGrad(), [0.5, 1.5]),
    (multitask.PCGrad(reduction="mean"), [0.25, 0.75]),
    (multitask.UPGrad(), [0.25, 0.75]),
    (multitask.BlockwiseUPGrad(), [0.25, 0.75]),  # one block
    # The line from (1, 0) to (-1, 1) is nearest to 0 at a = (3/5, 2/5).
    (multitask.MGDA(), [0.2, 0.4]),
    # d_1 = (d_2 - d_1) / sqrt(2), on the line through the two.
    (multitask.IMTLG(), [3.0 - 2.0 * S2, S2 - 1.0]),
    # M = [[1, -1], [-1, 2]] has l = (3 -+ sqrt 5) / 2, and M^(-1/2) = (M + I)^(-1) M^(-1/2)(M + I)
    # is, by Cayley-Hamilton, adj(M + I) / sqrt 5 = [[3, 1], [1, 2]] / sqrt 5.
    (multitask.AlignedMTL(), (S5 - 1) / 2 * np.array([4.0, 3.0]) / (2 * S5) @ ROWS),
    # The ball around (0, 1/2) with radius 1/4: its point (1/4, 1/2) gives both tasks 1/4.
    (multitask.CAGrad(c=0.5), [0.25, 0.5]),
    (multitask.CAGrad(c=0.0), [0.0, 0.5]),
]


@pytest.mark.parametrize("combiner, wanted", ORACLES, ids=lambda item: repr(item)[:24])
def test_the_worked_example(combiner, wanted):
    combined = combiner.combine(tf.constant(ROWS))
    np.testing.assert_allclose(combined, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ALL_RULES)
def test_every_rule_has_a_worked_example(name):
    assert name in {type(combiner).__name__ for combiner, _ in ORACLES}


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("name", RULES)
def test_opposite_gradients_give_zero(name, scale):
    rows = scale * np.array([[1.0, 2.0, -0.3], [-1.0, -2.0, 0.3]], np.float32)
    np.testing.assert_array_equal(RULES[name]().combine(tf.constant(rows)), np.zeros(3))


@pytest.mark.parametrize("name", RULES)
def test_one_task_alone_keeps_its_direction(name):
    rows = tf.constant([[3.0, -4.0, 1.0]])
    factor = 1.5 if name == "CAGrad" else 1.0  # the ball's end: (1 + c) g
    np.testing.assert_allclose(RULES[name]().combine(rows), factor * rows[0], rtol=1e-6)


def nasty_cases():
    rng = np.random.default_rng(5)
    normal = rng.normal(size=(4, 6))
    yield "zeros", np.zeros((3, 4))
    yield "no parameters", np.zeros((3, 0))
    yield "a zero row", normal * [[1.0], [0.0], [1.0], [1.0]]
    yield "equal rows", np.ones((5, 3))
    yield "opposite rows", normal[[0, 0, 1, 1]] * [[1.0], [-1.0], [1.0], [-1.0]]
    yield "nearly dependent", normal[[0, 0, 1, 2]] + 1e-7 * normal
    yield "nearly opposite", normal[[0, 0, 1, 2]] * [[1.0], [-1.0], [1.0], [1.0]] + 1e-7 * normal
    yield "of all sizes", normal * [[1e-20], [1.0], [1e20], [1e-8]]
    yield "the largest", np.sign(normal) * 3.4e38
    yield "the smallest", np.sign(normal) * 1.5e-38
    yield "many tasks", rng.normal(size=(24, 8))


@pytest.mark.parametrize("rows", [pytest.param(rows, id=name) for name, rows in nasty_cases()])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", RULES)
def test_finite_gradients_give_no_nan(name, dtype, rows):
    assert not np.isnan(RULES[name]().combine(tf.cast(rows, dtype))).any()


@pytest.mark.parametrize("name", RULES)
def test_the_largest_float64_gives_no_nan(name):
    rows = np.array([[1.7e308, -1e308], [-1.7e308, -1e308], [1e-300, 1e308]])
    assert not np.isnan(RULES[name]().combine(tf.constant(rows))).any()


@pytest.mark.parametrize("scale", [1e-18, 1e18])
@pytest.mark.parametrize("name", RULES)
def test_the_rule_does_not_depend_on_the_scale(name, scale):
    rows = np.random.default_rng(3).normal(size=(3, 5))
    plain, scaled = seeded(name).combine(rows), seeded(name).combine(scale * rows)
    np.testing.assert_allclose(scaled, scale * plain, rtol=1e-9)


@pytest.mark.parametrize("apart", [1e2, 1e5, 1e8])
def test_cagrad_finds_the_way_of_a_task_with_a_small_gradient(apart):
    """The two gradients conflict, however far their lengths are apart."""
    rows = np.array([[1.0, -0.9, 0.2], [0.1, 0.8, -0.3]])
    rows[1] /= apart
    combined, mean = multitask.CAGrad(c=0.5).combine(tf.constant(rows)), rows.mean(axis=0)
    # With the mean along g_1, the ball's point that helps g_2 most lies from its centre along g_2.
    wanted = mean + 0.5 * np.linalg.norm(mean) * rows[1] / np.linalg.norm(rows[1])
    assert np.all(rows @ wanted >= (rows @ wanted)[1])
    np.testing.assert_allclose(combined, wanted, rtol=1e-6)


@pytest.mark.parametrize("small", [1e-6, 1e-8, 1e-10])
def test_cagrad_finds_the_way_of_a_mix_of_gradients(small):
    """A small gradient that is against a large one, whose share in g_w is as small."""
    rows = np.array([[1.0, 0.0, 0.0], [-0.95, 0.3, 0.0], [-1.0, 0.1, 0.3]])
    rows[2] *= small
    combined, mean = multitask.CAGrad(c=0.5).combine(tf.constant(rows)).numpy(), rows.mean(axis=0)
    assert np.linalg.norm(combined - mean) == pytest.approx(0.5 * np.linalg.norm(mean), rel=1e-6)
    assert (rows @ combined).min() > 0.02 * small


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", RULES)
def test_half_precision_is_combined_in_float32(name, dtype):
    # Squares that overflow float16, and products that cancel.
    rows = tf.cast(np.random.default_rng(4).normal(size=(3, 50)) * 1000.0, dtype)
    combined = seeded(name).combine(rows)
    assert combined.dtype == rows.dtype
    wanted = tf.cast(seeded(name).combine(tf.cast(rows, tf.float32)), dtype)
    np.testing.assert_array_equal(combined.numpy(), wanted.numpy())


@pytest.mark.parametrize(
    "bad", [np.nan, *(pytest.param(bad, marks=pytest.mark.long) for bad in (np.inf, -np.inf))]
)
@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_not_finite_is_left_out(name, bad):
    """As if the task were not there."""
    rows = np.random.default_rng(6).normal(size=(3, 5))
    rows[1] -= rows[0]  # a conflict
    faulty = np.insert(rows, 1, rows[2], axis=0)
    faulty[1, 2] = bad
    combined = RULES[name]().combine(tf.constant(faulty))
    if name == "PCGrad":  # in one of its orders
        wanted = [RULES[name]().combine(tf.constant(rows)) for _ in range(30)]
        errors = [np.abs(combined - w).max() for w in wanted]
        assert min(errors) < 1e-12
    else:
        np.testing.assert_allclose(combined, RULES[name]().combine(tf.constant(rows)), atol=1e-9)
    none = RULES[name]().combine(tf.constant(np.full((2, 3), bad)))
    np.testing.assert_array_equal(none, np.zeros(3))


def conflicts(combiner):
    """Count the cases with a task that the combined gradient conflicts with."""
    rng = np.random.default_rng(0)
    combine, count = Compiled(combiner), 0
    for _ in range(300):
        rows = rng.normal(size=(3, 5))
        # Relative: projections end at a product of 0, but for rounding.
        products = rows @ combine(rows) / np.linalg.norm(rows) ** 2
        count += products.min() < -1e-9
    return count


# Counted on another draw: two counts of the same rare thing differ by the root of their sum.
COUNTED = {
    "UPGrad": 0,
    "MGDA": 0,
    "IMTLG": 2,
    "PCGrad": 6,
    "AlignedMTL": 11,
    "Mean": 69,
}


@pytest.mark.parametrize("name", COUNTED)
def test_conflicts_left_in_300_random_cases(name):
    left, listed = conflicts(seeded(name)), COUNTED[name]
    if listed == 0:
        assert left == 0
    else:
        assert abs(left - listed) <= 3 * np.sqrt(left + listed)
