"""Two replicas make the steps of one on the same global batch; fits are in tests/distribution."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import (
    KINDS,
    Problem,
    assert_close,
    assert_same,
    make,
)

# Each half of the batch is summed by itself, and the two halves then: roundings of 6e-8 in
# gradients of size 1, over four updates, and quotients by their size.
ROUNDING = 3e-6


def shares(gradients, replica):
    """Cut gradients in two, unequally, such that the parts' sum is the whole."""
    share = 0.25 if replica == 0 else 0.75
    parts = []
    for gradient in gradients:
        if isinstance(
            gradient, tf.IndexedSlices
        ):  # rows 0 and 3 here, 1 and 2, of the same id, apart
            rows = gradient.values[replica::2], gradient.indices[replica::2]
            parts.append(tf.IndexedSlices(*rows, gradient.dense_shape))
        else:
            parts.append(gradient * share)
    return parts


def steps(name, options, strategy=None, count=4):
    """Return each replica's values and the optimizer after some steps."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        problem, optimizer = Problem(name), make(name, **options)

        def replica_step(gradients):
            context = tf.distribute.get_replica_context()
            if context.num_replicas_in_sync > 1:
                number = tf.get_static_value(context.replica_id_in_sync_group)
                gradients = shares(gradients, int(number))
            optimizer.apply(gradients, problem.variables)

        def step(gradients):
            tf.distribute.get_strategy().run(replica_step, args=(gradients,))

        # Tracing two replicas takes seconds: for one by rows, tests/distribution have a fused one.
        if name == "LazyAdam":
            step = tf.function(step)

        for number in range(count):
            step(problem.gradients(number))
        if name == "LazyAdam":
            assert step.experimental_get_tracing_count() == 1
        optimizer.flush()
        variables = [problem.matrix, problem.scalar, problem.variables[2].value]
        if not strategy:
            return [[v.numpy() for v in variables]], problem.read(), optimizer
        copies = zip(*(strategy.experimental_local_results(v) for v in variables), strict=True)
        return [[v.numpy() for v in copy] for copy in copies], problem.read(), optimizer


def check(name, options, replicas, count=4):
    two, read, optimizer = steps(name, options, replicas, count)
    _, alone, single = steps(name, options, count=count)
    assert_close(read, alone, ROUNDING)
    # Every replica has made the same update by itself.
    assert_same(two[0], two[1])
    assert optimizer.iterations.numpy() == single.iterations.numpy()
    for variable, other in zip(optimizer.variables, single.variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), other.numpy(), atol=ROUNDING)


@pytest.mark.parametrize("name", KINDS)
def test_with_every_option(name, replicas):
    """Accumulation with a rest that flush applies, averages, decay, a bound and a loss scale."""
    options = {
        "gradient_accumulation_steps": 2,
        "global_clipnorm": 1.0,
        "weight_decay": 0.05,
        "exclude_from_decay": "scalar",
        "use_ema": True,
        "ema_momentum": 0.5,
        "ema_overwrite_frequency": 2,
        "loss_scale_factor": 2.0,
        "layer_decay": 0.5,
        "cautious": True,
        "adaptive_clip": 0.5,
        "clip_above_zscore": 2.5,
    }
    if name == "LazyAdam":
        options["correction"] = "row"  # counts of the rows are summed too
    check(name, options, replicas, count=5)


@pytest.mark.parametrize("bound", ["clipnorm", "clipvalue"])
def test_bounds_hold_for_the_global_gradient(bound, replicas):
    check("SGD", {bound: 0.5}, replicas)


def test_not_a_number_in_one_replica_skips_the_step_in_all(replicas):
    with replicas.scope():
        variable = tf.Variable([1.0, 2.0])
        optimizer = make("Adam", loss_scale_factor=2.0)
        optimizer.build([variable])

        @tf.function
        def step(values):
            replicas.run(lambda v: optimizer.apply([v], [variable]), args=(values,))

        for spoilt in (0, 1):
            entries = [[1.0, 1.0], [1.0, 1.0]]
            entries[spoilt][0] = np.nan
            step(
                replicas.experimental_distribute_values_from_function(
                    lambda context, e=entries: tf.constant(e[context.replica_id_in_sync_group])
                )
            )
        assert optimizer.iterations.numpy() == 0
        assert variable.numpy().tolist() == [1.0, 2.0]


def test_use_average_weights_under_the_strategy(replicas):
    """Schedule-free goes to its average in every replica, and back."""
    _, _, optimizer = steps("ScheduleFreeAdamW", {}, replicas)
    variables = [
        v.value if isinstance(v, keras.Variable) else v for v in optimizer._trainable_variables
    ]
    before = [v.numpy() for v in variables]
    optimizer.use_average_weights()
    for variable, old in zip(variables, before, strict=True):
        first, second = replicas.experimental_local_results(variable)
        assert np.array_equal(first, second) and np.any(first.numpy() != old)
    optimizer.use_training_weights()
    assert_close(variables, before, 1e-6)
