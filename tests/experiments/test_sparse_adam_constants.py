"""Each constant in the proofs of docs/sparse_adam.md bounds what it should, and is not idle."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_bp.deferred.rows import _lagrange, decayed
from keras_bp.layers import DeferredEmbedding
from keras_bp.optimizers import DeferredAdam

WIDE = np.longdouble
BETAS = [(0.9, 0.999), (0.5, 0.9), (0.9, 0.95)]


@pytest.fixture
def study(experiment):
    return experiment("sparse_adam")


def missed_sum(x, b1, b2, epsilon=1.0, steps=2000):
    j = np.arange(1, steps + 1).astype(WIDE)
    return np.sum(WIDE(b1) ** j / (x * WIDE(b2) ** (j / 2) + epsilon))


def test_rho_is_reached_where_cauchy_schwarz_is_an_equality(study):
    known = study.constants(0.9, 0.999, "float64", resolution=0.5)
    age = np.arange(3000.0)
    g = (known.beta_1 / known.beta_2) ** age
    m = (1 - known.beta_1) * np.sum(known.beta_1**age * g)
    v = (1 - known.beta_2) * np.sum(known.beta_2**age * g**2)
    assert m / np.sqrt(v) == pytest.approx(known.rho)


@pytest.mark.parametrize("betas", BETAS, ids=str)
def test_a_missed_sum_is_at_most_inequality_3_and_comes_near_it(betas):
    r = betas[0] / np.sqrt(betas[1])
    shares = [missed_sum(x, *betas) * (x + 1) * (1 - r) / r for x in np.logspace(-8, 8, 33)]
    assert 0.999 < max(shares) <= 1 + 1e-12


def test_the_logistic_function_in_the_strip_of_lemma_2():
    generator = np.random.default_rng(0)
    z = generator.normal(0, 3, 10_000) + 1j * np.pi / 2 * generator.uniform(-1, 1, 10_000)
    z = np.append(z, 0.5j * np.pi)  # where it is an equality
    shares = np.abs(1 / (1 + np.exp(-z))) * (1 + np.exp(-z.real)) / np.sqrt(2)
    assert 1 - 1e-12 < shares.max() <= 1 + 1e-12


@pytest.mark.parametrize("betas", BETAS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kappa(study, monkeypatch, betas, dtype):
    """It is below Lemma 2's, does not depend on the grid, and bounds the worst schedule's error."""
    monkeypatch.setattr(sys.modules["constants"], "_FAR", 1200)  # b1^1200 is nothing
    known = study.constants(*betas, dtype)
    finer = study.constants(*betas, dtype, resolution=0.02)
    assert 0 < known.kappa <= known.kappa_proved
    assert finer.kappa == pytest.approx(known.kappa, rel=0.01)
    assert finer.condition == pytest.approx(known.condition, rel=0.01)
    b1, b2 = map(WIDE, (known.beta_1, known.beta_2))
    steps = np.arange(1, known.window + 1)
    nodes, _ = _lagrange(known.beta_1, steps, known.nodes)
    j, nodes, worst = steps.astype(WIDE), nodes.astype(WIDE), 0.0
    others = [np.delete(nodes, k) for k in range(known.nodes)]
    basis = [
        np.prod((j[:, None] - o) / (n - o), axis=1) for n, o in zip(nodes, others, strict=True)
    ]
    for x in np.exp(np.arange(-10.0, 25.0, 0.25)).astype(WIDE):
        wrong = b1**j * (np.array(basis).T @ (1 / (x * b2 ** (nodes / 2) + 1)))
        wrong -= b1**j / (x * b2 ** (j / 2) + 1)
        # Of all rates in [0, 1]: 1 where the errors have one sign, and then where they are missed.
        late = missed_sum(x, b1, b2) - np.sum(b1**j / (x * b2 ** (j / 2) + 1))
        found = max(np.sum(np.maximum(wrong, 0)), late - np.sum(np.minimum(wrong, 0)))
        worst = max(worst, float(found / missed_sum(x, b1, b2)))
    assert 0.45 * known.kappa < worst <= 1.01 * known.kappa


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("beta", [0.05, 0.9, 0.999])
def test_the_powers_that_decay_an_average(study, dtype, beta):
    beta, n = float(np.dtype(dtype).type(beta)), np.arange(0, 400)
    n = n[n * -np.log(beta) < 80]
    ones = tf.ones((len(n), 1), dtype)
    power, _ = decayed(ones, ones, tf.constant(n), *tf.constant([beta, beta], tf.float64))
    exact = WIDE(beta) ** n.astype(WIDE)
    bound = sys.modules["constants"].power_error(beta, n, dtype)
    share = np.abs(power.numpy()[:, 0] / exact - 1) / bound
    assert 0.1 < share.max() <= 1


@pytest.mark.parametrize("betas", [*BETAS, (0.05, 0.5), (0.96, 0.9997)], ids=str)
def test_the_size_of_a_step(study, betas):
    optimizer = DeferredAdam(0.1, *betas)
    shares = []
    for t in range(1, 400):
        size = optimizer._coefficients(
            tf.constant(0.1, tf.float64), tf.constant(float(t), tf.float64), tf.float64
        )[0].numpy()
        p1, p2 = (WIDE(beta) ** t for beta in betas)
        exact = WIDE(0.1) * np.sqrt(1 - p2) / (1 - p1)
        bound = sys.modules["constants"].size_error((p1, p2), "float64")
        shares.append(abs(size / exact - 1) / bound)
    assert 0.05 < max(shares) <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("betas", BETAS[:2], ids=str)
def test_the_roundings_of_one_update(study, betas, dtype):
    """Of the missed sum, of m, of sqrt(v) and of the step, for random averages and gaps."""
    constants = sys.modules["constants"]
    known, rounds = constants.constants(*betas, dtype, resolution=0.5), constants.ROUNDINGS
    u, epsilon = constants.UNIT[dtype], 2.0**-20
    b1, b2, rows, rate = WIDE(known.beta_1), WIDE(known.beta_2), 1500, 2.0**-7
    generator, shares = np.random.default_rng(0), {}
    for n in (1, 3, 50):  # 50 is more than J for the betas (0.5, 0.9)
        layer = DeferredEmbedding(rows, 2, embeddings_initializer="zeros", dtype=dtype)
        layer.build()
        optimizer = DeferredAdam(rate, *betas, epsilon=epsilon)
        optimizer.build(layer.trainable_weights)
        table, state = layer.weights[0], layer.weights[0].deferred_rows

        def update(ids, g, optimizer=optimizer, table=table):
            slices = tf.IndexedSlices(tf.constant(g, table.dtype), tf.constant(ids), table.shape)
            optimizer.apply([slices], [table])

        update([0], np.zeros((1, 2)))
        # All rows but those that the turn will take have the averages below, of update 1.
        ids = np.arange((n + 5) * state.turn, rows)
        m = generator.normal(size=(rows, 2)) * 10 ** generator.uniform(-9, 1, (rows, 2))
        v = (m / known.rho) ** 2 * 10 ** generator.uniform(0, 4, (rows, 2))
        state.momentum.assign(m), state.velocity.assign(v)
        state.last_update.assign(np.ones(rows))
        m, v = (variable.numpy()[ids].astype(WIDE) for variable in (state.momentum, state.velocity))
        for _ in range(n):
            update([0], np.zeros((1, 2)))
        t = np.arange(1, n + 4).astype(WIDE)
        alpha = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
        of_alpha = constants.size_error((b1**t, b2**t), dtype)
        j = np.arange(1, n + 1).astype(WIDE)[:, None, None]
        f = 1 / (np.sqrt(v) * b2 ** (j / 2) + epsilon)
        missed = m * np.sum(alpha[1:-2, None, None] * b1**j * f, axis=0)
        largest, phi = alpha[1:-2].max(), np.abs(m) / (np.sqrt(v) + epsilon)
        error = 1.01 * known.kappa + constants.sum_error(known, n, dtype) + of_alpha[1:-2].max()
        bound = error * largest * known.r / (1 - known.r) * phi
        read = layer(ids).numpy()
        shares.setdefault("missed", []).append(np.max(np.abs(read + missed) / bound))

        g = (
            m.astype(float)
            * generator.normal(size=m.shape)
            * 10 ** generator.uniform(-2, 2, m.shape)
        )
        g = g.astype(dtype)
        update(ids, g)
        e1, e2 = (constants.power_error(float(b), n, dtype) for b in (b1, b2))
        old = np.abs(m) * b1**n
        exact = b1 ** (n + 1) * m + (1 - b1) * g
        found = state.momentum.numpy()[ids]
        bound = (rounds["mean"] * u + e1) * (old + (1 - b1) * np.abs(g))
        shares.setdefault("m", []).append(np.max(np.abs(found - exact) / bound))
        y = np.sqrt(b2 ** (n + 1) * v + (1 - b2) * g.astype(WIDE) ** 2)
        found_y = np.sqrt(state.velocity.numpy()[ids].astype(WIDE))
        shares.setdefault("y", []).append(
            np.max(np.abs(found_y / y - 1) / (rounds["root"] * u + e2 / 2))
        )
        # The step alone, where nothing is missed, from the averages as they are held.
        before = table.value.numpy()[ids].astype(WIDE)
        update(ids, g)
        m, v = (variable.numpy()[ids].astype(WIDE) for variable in (state.momentum, state.velocity))
        after, step = table.value.numpy()[ids].astype(WIDE), alpha[-1] * m / (np.sqrt(v) + epsilon)
        bound = (rounds["step"] * u + of_alpha[-1]) * np.abs(step) + u * np.abs(after)
        shares.setdefault("step", []).append(np.max(np.abs(before - after - step) / bound))
    largest = {name: float(max(values)) for name, values in shares.items()}
    assert all(0.005 < share <= 1 for share in largest.values()), largest


@pytest.mark.parametrize("betas", BETAS, ids=str)
def test_a_steps_difference_is_at_most_inequality_6_with_lambda(study, betas):
    """Gradients that differ by 1 at most: the quotients by (1 + rho) / sigma, in gaps too."""
    known = study.constants(*betas, "float64", resolution=0.5)
    generator, largest, epsilon = np.random.default_rng(0), 0.0, 0.1
    age = np.arange(60)[::-1, None]
    for scale in np.repeat([1.0, 3.0, 10.0, 100.0], 5):
        g = scale * (known.beta_1 / known.beta_2) ** age * generator.uniform(0.5, 1, (60, 200))
        g += generator.normal(size=g.shape)
        difference = generator.choice([-1.0, 1.0], g.shape) * (
            generator.uniform(size=g.shape) < 0.9
        )
        difference[:, ::2] = generator.choice([-1.0, 1.0], 100)
        visits = generator.uniform(size=60) < generator.uniform(0.1, 1)
        visits[0], sigma = True, np.inf
        # Adam's averages and DeferredAdam's: the last axis.
        m = v = np.zeros((200, 2))
        for one, off, visited in zip(g, difference, visits, strict=True):
            pair = np.stack([one, one + off], axis=-1) * visited
            m, v = betas[0] * m + (1 - betas[0]) * pair, betas[1] * v + (1 - betas[1]) * pair**2
            if visited:
                sigma = np.minimum(sigma, np.sqrt(v[:, 1]) + epsilon)
            wrong = np.abs(np.diff(m / (np.sqrt(v) + epsilon), axis=-1)[:, 0])
            largest = max(largest, np.max(wrong * sigma / (1 + known.rho)))
    assert 0.05 < largest <= 1


def test_what_adam_and_lazy_adam_move_a_row_by_per_visit():
    """The page's s(n), for the gradient 1 every n steps, and its limit."""
    b1, b2 = 0.9, 0.999
    r = b1 / np.sqrt(b2)

    def s(n):
        return (1 - b1) / (1 - b1**n) * np.sqrt((1 - b2**n) / (1 - b2)) * (1 - r**n) / (1 - r)

    for n in (1, 7, 100):
        m = v = 0.0
        for t in range(20_000 // n * n):
            if t % n == 0:
                moved = 0.0
            m, v = b1 * m + (1 - b1) * (t % n == 0), b2 * v + (1 - b2) * (t % n == 0)
            moved += np.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1)) * m / np.sqrt(v)
        assert moved == pytest.approx(s(n), rel=1e-6)
    assert s(100) - 1 == pytest.approx(8.80, abs=0.005)
    assert s(100_000) - 1 == pytest.approx(30.77, abs=0.005)
