"""Values, first and second derivatives of every op and option, against autodiff of its twin."""

import ops_calculus as calculus
import pytest
import tensorflow as tf
from ops_cases import BRANCHES, CASES, truth

from keras_bp import ops

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_branch = pytest.mark.parametrize("case", BRANCHES, ids=lambda case: case.name)

# The cases have up to a hundred numbers of order 1, a few thousand operations: some hundred
# roundings of float64 at worst. Second derivatives divide by a variance twice more.
FLOAT64 = 1e-13
SECOND = 1e-12


def compare(actual, case):
    for part, twin, tolerance in zip(
        actual, truth(case.name), (FLOAT64, FLOAT64, SECOND), strict=True
    ):
        calculus.assert_near(part, twin, tolerance)


def test_the_cases_are_told_apart_and_call_every_op():
    assert len({case.name for case in CASES}) == len(CASES)
    for cases in (CASES, BRANCHES):
        assert {case.name.split()[0] for case in cases} == set(ops.__all__)


@every_case
def test_eager(case):
    compare(calculus.second_derivatives(case.op)(*calculus.tensors(case.arguments)), case)


@every_branch
def test_in_a_graph_with_unknown_dimensions(case):
    differentiate = tf.function(
        calculus.second_derivatives(case.op), input_signature=case.signature, autograph=False
    )
    compare(differentiate(*calculus.tensors(case.arguments)), case)


# These ask whether they are compiled by XLA and take another way then: one case of each such way.
ASK_FOR_XLA = (
    "batch_normalization rank 3",
    "batch_normalization mask, axis 1",
    "binary_crossentropy logits True",
    "categorical_crossentropy some rows 0, {'from_logits': True}",
    "categorical_crossentropy many, any sum, {'from_logits': True}",
    "dropout rate",
)
COMPILED = [case for case in BRANCHES if case.name.startswith(ASK_FOR_XLA)]
assert len(COMPILED) == len(ASK_FOR_XLA)
# Of the others one op stands for all: XLA compiles what a graph holds.
COMPILED += [case for case in BRANCHES if case.name.startswith("group_normalization")][:1]


@pytest.mark.parametrize("case", COMPILED, ids=lambda case: case.name)
def test_compiled_by_xla(case):
    differentiate = tf.function(
        calculus.second_derivatives(case.op), jit_compile=True, autograph=False
    )
    compare(differentiate(*calculus.tensors(case.arguments)), case)


@pytest.mark.parametrize(
    # The twin draws another mask in float64; dropout in float32 has tests of its own.
    "case",
    [case for case in CASES if not case.name.startswith("dropout")],
    ids=lambda case: case.name,
)
def test_float32(case):
    arguments = calculus.tensors(case.arguments, "float32")
    y, gradients = calculus.first_derivatives(case.op)(*arguments)
    assert {t.dtype for t in (y, *gradients)} == {tf.float32}
    # Eight roundings of 6e-8, twice: the project's bound. The twin's own do not count: it is in
    # float64, on the same numbers.
    calculus.assert_near([y, gradients], truth(case.name)[:2], 1e-6)


# The project's bound on the figure; the step of 1e-5 leaves about 1e-10.
DIFFERENCES = 1e-8


@every_branch
def test_central_differences_entry_by_entry(case):
    _, analytic = calculus.first_derivatives(case.op)(*calculus.tensors(case.arguments))
    numeric = calculus.numerical_gradients(case.op, case.arguments)
    assert calculus.relative_difference(analytic, numeric) < DIFFERENCES


@pytest.mark.parametrize("case", BRANCHES[::6], ids=lambda case: case.name)
@pytest.mark.parametrize("off", [1e-3, -1e-3])
def test_a_gradient_that_is_a_thousandth_off_is_found(case, off):
    @tf.custom_gradient
    def spoilt(*arguments):
        def backward(upstream):
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                y = case.op(*arguments)
            gradients = tape.gradient(y, arguments, output_gradients=upstream)
            return [gradients[0] * (1 + off), *gradients[1:]]

        return case.op(*arguments), backward

    arguments = calculus.tensors(case.arguments)
    _, analytic = calculus.first_derivatives(spoilt)(*arguments)
    numeric = calculus.numerical_gradients(case.op, case.arguments)
    assert calculus.relative_difference(analytic, numeric) > DIFFERENCES
    with pytest.raises(AssertionError):
        calculus.assert_near(analytic, truth(case.name)[1], 1e-6)
