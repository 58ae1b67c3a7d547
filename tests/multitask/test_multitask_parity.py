"""The combiners give what torchjd's give on 1,000 random Jacobians.

torchjd's results lie in `fixtures`, beside the script that made them. Errors are measured against
the length of the gradients, ||J|| / T: the combined one may be 0.
"""

import pathlib

import make_fixtures
import numpy as np
import pytest
from combiner_cases import RULES, Compiled

from keras_bp import multitask

FIXTURE = dict(np.load(pathlib.Path(__file__).parent / "fixtures" / "torchjd.npz"))
JACOBIANS = make_fixtures.jacobians()
TOLERANCE = 1e-5
COUNTS = [50, pytest.param(1000, marks=pytest.mark.long)]


def expected(name, only=lambda rows: True):
    """Return the Jacobians that `only` lets pass, with what the fixture holds for each."""
    drawn = [rows for rows in JACOBIANS if only(rows)]
    ends = np.cumsum([rows.shape[1] for rows in drawn])
    return list(zip(drawn, np.split(FIXTURE[name], ends[:-1]), strict=True))


def chosen(name, count):
    """Return `count` cases; of fewer than all, those of two numbers of tasks: as many traces."""
    cases = expected(name)
    if count < len(cases):
        cases = [case for case in cases if len(case[0]) in (4, 10)]
    return cases[:count]


def error(combined, wanted, rows):
    length = np.linalg.norm(rows) / len(rows)
    return np.abs(combined - wanted).max() / (length or 1.0)


def test_the_jacobians_are_those_of_the_fixture():
    assert make_fixtures.digest(JACOBIANS) == pytest.approx(float(FIXTURE["digest"]), rel=1e-12)
    assert len(JACOBIANS) == 1000
    assert {len(rows) for rows in JACOBIANS} == set(range(2, 11))
    ranks = [np.linalg.matrix_rank(rows) < min(rows.shape) for rows in JACOBIANS]
    assert sum(ranks) > 200
    assert sum(not rows.any(axis=1).all() for rows in JACOBIANS) > 200


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["IMTLG", "AlignedMTL", "UPGrad"])
def test_the_rule_gives_torchjds_gradient(name, count):
    combine = Compiled(getattr(multitask, name)())
    for rows, wanted in chosen(name, count):
        assert error(combine(rows), wanted, rows) < TOLERANCE


def test_pcgrad_on_two_tasks_gives_torchjds_gradient():
    combine = Compiled(multitask.PCGrad())
    cases = expected("PCGrad", only=lambda rows: len(rows) == 2)
    assert len(cases) > 100
    for rows, wanted in cases:
        assert error(combine(rows), wanted, rows) < 1e-12


@pytest.mark.parametrize("count", COUNTS)
def test_mgda_is_the_exact_minimum_that_torchjds_iterations_come_near(count):
    combine = Compiled(multitask.MGDA())
    exact, iterated = chosen("exact/MGDA", count), chosen("MGDA", count)
    for (rows, wanted), (_, near) in zip(exact, iterated, strict=True):
        combined = combine(rows)
        assert error(combined, wanted, rows) < 1e-9
        # For any point x of the hull, ||x - d||^2 <= ||x||^2 - ||d||^2, d the nearest to 0.
        gap = near @ near - combined @ combined
        rounding = 1e-12 * np.linalg.norm(rows) ** 2
        assert gap >= -rounding
        assert (near - combined) @ (near - combined) <= gap + rounding


@pytest.mark.parametrize("count", COUNTS)
def test_cagrad_gives_torchjds_gradient_or_a_better_one(count):
    """Clarabel stops where the sum that is minimized is right to about 1e-10, d to its root."""
    combine = Compiled(multitask.CAGrad(c=make_fixtures.CAGRAD_C))
    apart = 0
    for rows, wanted in chosen("CAGrad", count):
        combined = combine(rows)
        difference = error(combined, wanted, rows)
        length = np.linalg.norm(rows)
        # Where the point is taken for Pareto stationary, both give 0, and not the ball's centre.
        found, theirs = (np.linalg.norm(d) > 1e-12 * length for d in (combined, wanted))
        assert found == theirs
        apart += difference > TOLERANCE
        # Three in a thousand are up to 1.2e-5 off; theirs, as they help the worst task less.
        assert difference < 2 * TOLERANCE
        if found:
            mean = rows.mean(axis=0)
            radius = make_fixtures.CAGRAD_C * np.linalg.norm(mean)
            assert np.linalg.norm(combined - mean) <= radius + 1e-12 * length
            assert (rows @ combined).min() >= (rows @ wanted).min() - 1e-10 * length**2
    assert apart <= count / 300


# Of the rules that are made of the same parts, one. AlignedMTL's spectrum and PCGrad, in a custom
# loop and in a model, are compiled by XLA in tests of their own.
IN_SUITE = {(name, 3) for name in ("CAGrad", "UPGrad")}


@pytest.mark.parametrize(
    "name, tasks",
    [
        (name, tasks)
        if (name, tasks) in IN_SUITE
        else pytest.param(name, tasks, marks=pytest.mark.long)
        for name in RULES
        for tasks in (3, 10)
    ],
)
def test_compiled_by_xla_it_is_the_same(name, tasks):
    tasks = 2 if name == "PCGrad" else tasks  # the orders differ under XLA
    combiner = RULES[name]()
    plain, compiled = Compiled(combiner), Compiled(combiner, jit_compile=True)
    # One shape, as each other one is compiled anew.
    width = 3 * tasks
    for rows in [rows for rows in JACOBIANS if len(rows) == tasks][:40]:
        padded = np.pad(rows, ((0, 0), (0, width - rows.shape[1])))
        # The eigenvalues are left with T roundings of the largest, which count as many times more
        # in the inverse as it is larger than the smallest; CAGrad stops at 1e-9.
        values = np.linalg.eigvalsh(rows @ rows.T)
        values = values[values > 1e-11 * values[-1]]
        condition = values[-1] / values[0] if len(values) else 1.0
        tolerance = 1e-9 + 1e-15 * tasks * condition
        assert tolerance < TOLERANCE
        assert error(compiled(padded), plain(padded), rows) < tolerance
