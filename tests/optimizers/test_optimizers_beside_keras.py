"""What Keras 3.15 gets wrong and this package does not, case by case on both.

Keras's side is a strict expected failure: it tells when a later Keras mends it.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import optimizers as ours

theirs = keras.optimizers


def both(fact, raises=AssertionError, mended=None):
    """Run a test on this package, and on Keras as an expected failure, up to what `mended` it."""
    mark = pytest.mark.xfail(strict=True, raises=raises, reason=f"Keras 3.15, {fact}")
    marks = [] if mended and keras.__version__ >= mended else [mark]
    return pytest.mark.parametrize(
        "module", [pytest.param(ours, id="ours"), pytest.param(theirs, id="keras", marks=marks)]
    )


def repeated(rows=((1.0,), (1.0,), (1.0,), (1.0,)), ids=(1, 1, 1, 2)):
    """A sparse gradient of a table, with id 1 three times."""
    shape = tf.constant([4, len(rows[0])])
    return tf.IndexedSlices(tf.constant(rows), tf.constant(ids), shape)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop"])
@both("K1: the rows of an id are not summed")
def test_k1_repeated_ids_make_the_dense_step(module, name):
    sparse, dense = tf.Variable(tf.ones((4, 1))), tf.Variable(tf.ones((4, 1)))
    one, other = getattr(module, name)(0.01), getattr(module, name)(0.01)
    for _ in range(3):
        one.apply([repeated()], [sparse])
        other.apply([tf.convert_to_tensor(repeated())], [dense])
    np.testing.assert_allclose(sparse, dense, atol=1e-7)
    if name == "Adam":
        assert round(float(sparse[1, 0]), 3) == 0.970


@both("K2: IndexedSlices / float", raises=TypeError)
def test_k2_loss_scale_factor_with_a_sparse_gradient(module):
    table = tf.Variable(tf.ones((4, 1)))
    module.SGD(1.0, loss_scale_factor=2.0).apply([repeated()], [table])
    np.testing.assert_array_equal(table, [[1.0], [-0.5], [0.5], [1.0]])


TWICE = {"rows": ((1.0, 1.0), (1.0, 1.0)), "ids": (1, 1)}


@pytest.mark.parametrize("bound", ["clipnorm", "global_clipnorm"])
@both("K2: the norm is that of the rows before they are summed")
def test_k2_clipping_leaves_the_norm_of_its_bound(module, bound):
    table = tf.Variable(tf.zeros((4, 2)))
    # The gradient [2, 2] of row 1, of norm 2.83.
    module.SGD(1.0, **{bound: 1.0}).apply([repeated(**TWICE)], [table])
    np.testing.assert_allclose(np.linalg.norm(table), 1.0, rtol=1e-6)


def micro_step_operations(optimizer, table):
    """The types of the operations that run in a micro-step which makes no update."""
    optimizer.build([table])

    @tf.function
    def step(gradient):
        optimizer.apply([gradient], [table])

    graph = step.get_concrete_function(repeated()).graph.as_graph_def()
    [cond] = [node for node in graph.node if node.op in ("If", "StatelessIf")]
    otherwise = cond.attr["else_branch"].func.name
    [branch] = [f for f in graph.library.function if f.signature.name == otherwise]
    return [node.op for node in [*graph.node, *branch.node_def]]


@pytest.mark.parametrize("options", [{"global_clipnorm": 1.0}, {"clipnorm": 1.0}], ids=str)
@both("K2: clipping makes the table dense")
def test_k2_clipping_keeps_a_gradient_sparse(module, options):
    seen = []

    class Probe(module.SGD):
        def update_step(self, gradient, variable, learning_rate):  # Keras's
            seen.append(gradient)

        def _rule(self, variable, gradient, *args):  # ours
            seen.append(gradient)

    Probe(1.0, **options).apply([repeated()], [tf.Variable(tf.ones((4, 1)))])
    assert isinstance(seen[0], tf.IndexedSlices)
    # Keras's clipnorm keeps it sparse too, so there it fails for its wrong norm only.
    norm = np.linalg.norm(tf.convert_to_tensor(seen[0]))
    np.testing.assert_allclose(norm, 1.0, rtol=1e-6)


@both("K2: accumulation makes the table dense")
def test_k2_accumulation_keeps_the_gradient_sparse(module):
    optimizer = module.SGD(1.0, gradient_accumulation_steps=2)
    operations = micro_step_operations(optimizer, tf.Variable(tf.ones((4, 1))))
    # No variable is written whole: rows are added to it.
    assert "AssignVariableOp" not in operations and "ResourceScatterAdd" in operations


@pytest.mark.parametrize(
    "options",
    [{"gradient_accumulation_steps": 2}, {"use_ema": True, "ema_overwrite_frequency": 2}],
    ids=str,
)
@both("K3: merge_call in a cond", raises=RuntimeError)
def test_k3_under_mirrored_strategy(module, options, replicas):
    if module is theirs and "use_ema" in options and keras.__version__ >= "3.16":
        pytest.skip("Keras has mended it")
    with replicas.scope():
        variable = tf.Variable([1.0, 2.0])
        optimizer = module.SGD(0.5, **options)
        optimizer.build([variable])
        gradient = tf.constant([1.0, -1.0])

        @tf.function
        def step():
            # A tensor of its own in each replica, as a tape's gradients are.
            replicas.run(lambda: optimizer.apply([tf.identity(gradient)], [variable]))

        step()
        step()
    # The two replicas' gradients sum up to 2. The mean of two micro-steps makes one step of 1; two
    # steps of 1 end at the average of 0 and -1, with a share of 0.01 for the last.
    expected = 0.0 if "gradient_accumulation_steps" in options else -0.01
    np.testing.assert_allclose(variable.numpy(), [expected, 3.0 - expected], atol=1e-6)


@both("K4: clipped before the sum over the replicas")
def test_k4_global_clipnorm_of_the_global_gradient(module, replicas):
    with replicas.scope():
        variable = tf.Variable([0.0, 0.0])
        optimizer = module.SGD(1.0, global_clipnorm=1.0)
        optimizer.build([variable])

        @tf.function
        def step():
            def replica():
                first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
                gradient = tf.where(first, tf.constant([3.0, 0.0]), tf.constant([0.0, 4.0]))
                optimizer.apply([gradient], [variable])

            replicas.run(replica)

        step()
    np.testing.assert_allclose(variable.numpy(), [-0.6, -0.8], atol=1e-6)


def micro_steps(optimizer, count, gradient=1.0):
    variable = tf.Variable(1.0)
    for _ in range(count):
        optimizer.apply([tf.constant(gradient)], [variable])
    return variable


@both("K5: the micro-batches left at the end are lost")
def test_k5_fit_applies_the_rest(module):
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    net.compile(module.SGD(0.1, gradient_accumulation_steps=4), "mse", run_eagerly=True)
    before = net.get_weights()[0]
    net.fit(np.ones((2, 1)), np.full((2, 1), 5.0), batch_size=1, verbose=0)
    assert net.get_weights()[0] != before


@both("K5: the average moves on every micro-step")
def test_k5_averages_count_updates(module):
    options = {"use_ema": True, "ema_momentum": 0.5, "gradient_accumulation_steps": 2}
    optimizer = module.SGD(0.1, **options)
    micro_steps(optimizer, 6)
    # Weights 0.9, 0.8 and 0.7 after the updates; the first sets the average.
    [average] = [v for v in optimizer.variables if "average" in v.path]
    np.testing.assert_allclose(float(average.numpy()), 0.775, rtol=1e-6)


@both("K5: schedules count micro-steps")
def test_k5_schedules_count_updates(module):
    schedule = theirs.schedules.PiecewiseConstantDecay([0], [1.0, 0.1])
    variable = micro_steps(module.SGD(schedule, gradient_accumulation_steps=2), 2)
    # One update, at the first rate.
    np.testing.assert_allclose(variable.numpy(), 0.0, atol=1e-6)


def decaying(module):
    """A model whose kernel decays and whose bias does not, with gradients of zero."""
    optimizer = module.AdamW(0.1, weight_decay=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    layers = [keras.Input((2,)), keras.layers.Dense(1, bias_initializer="ones")]
    net = keras.Sequential(layers)
    net.compile(optimizer, "mse", run_eagerly=True)
    return net


def apply_zeros(net):
    net.optimizer.apply([tf.zeros(v.shape) for v in net.trainable_variables])


@both("K6: the exclusion is lost by save and load")
def test_k6_exclusion_is_saved(module, tmp_path):
    net = decaying(module)
    net.optimizer.build(net.trainable_variables)
    apply_zeros(net)
    assert net.get_weights()[1] == 1.0
    net.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    apply_zeros(loaded)
    assert loaded.get_weights()[1] == 1.0


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.block = keras.layers.Dense(1, name="block")

    def call(self, x):
        return self.block(x)


@both("K6: patterns are matched with TensorFlow's names: here 'subclassed/kernel:0'")
def test_k6_exclusion_by_layer(module):
    net = Subclassed()
    net(tf.ones((1, 2)))
    optimizer = module.AdamW(0.1, weight_decay=1.0)
    optimizer.exclude_from_weight_decay(var_names=["block/kernel$"])
    before = net.get_weights()[0]
    optimizer.apply([tf.zeros(v.shape) for v in net.trainable_variables], net.trainable_variables)
    np.testing.assert_array_equal(net.get_weights()[0], before)


@both("K6: the guard against a late call never fires", pytest.fail.Exception, mended="3.16")
def test_k6_late_exclusion_is_refused(module):
    optimizer = module.AdamW(0.1)
    optimizer.build([tf.Variable(1.0)])
    with pytest.raises(ValueError, match="before the optimizer is built"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])


def fitted(optimizer, callback):
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    net.compile(optimizer, "mse", run_eagerly=True)
    net.fit(np.ones((2, 1)), np.ones((2, 1)), epochs=3, verbose=0, callbacks=[callback])
    return float(net.optimizer.learning_rate)


def halving():
    return theirs.schedules.ExponentialDecay(0.1, 1, 0.5)


@both("K7: the rate of a schedule cannot be set", raises=TypeError)
def test_k7_reduce_on_plateau_scales_a_schedule(module):
    callback = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100.0)
    # Twice reduced by half, after three steps of the schedule.
    rate = fitted(module.SGD(halving()), callback)
    np.testing.assert_allclose(rate, 0.1 * 0.5**3 * 0.5**2, rtol=1e-6)


@both("K7: the rate of a schedule cannot be set", raises=TypeError)
def test_k7_learning_rate_scheduler_scales_a_schedule(module):
    callback = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
    np.testing.assert_allclose(fitted(module.SGD(halving()), callback), 0.1 * 0.5**6, rtol=1e-6)


@both("K7: a callable's rate cannot be set", raises=AttributeError)
def test_k7_the_rate_of_a_callable_can_be_set(module):
    optimizer = module.SGD(lambda: 0.5)
    optimizer.learning_rate = 0.25
    assert float(optimizer.learning_rate) == 0.25
    np.testing.assert_allclose(micro_steps(optimizer, 1).numpy(), 0.75)


@both("K8: the decay stands outside of the trust ratio")
def test_k8_lamb_decays_inside_of_the_trust_ratio(module):
    """The reference: algorithm 2 of You et al., as optax.lamb has it, in NumPy."""
    w, generator = np.array([3.0, -4.0]), np.random.default_rng(0)
    variable, m, v = tf.Variable(w), 0.0, 0.0
    optimizer = module.Lamb(0.125, weight_decay=0.1)
    for t in range(1, 11):
        g = generator.normal(size=2)
        optimizer.apply([tf.constant(g)], [variable])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-7) + 0.1 * w
        w = w - 0.125 * np.linalg.norm(w) / np.linalg.norm(u) * u
    # In float64; Keras takes some of the constants in float32.
    np.testing.assert_allclose(variable.numpy(), w, atol=1e-6)


@both("`relative_step=False` has no effect")
def test_adafactor_without_relative_step(module):
    """A constant gradient: every update takes half of the weight, also where 0.5 > 1 / sqrt(t)."""
    variable, optimizer = tf.Variable(1.0), module.Adafactor(0.5, relative_step=False)
    for _ in range(6):
        optimizer.apply([tf.constant(2.0)], [variable])
    np.testing.assert_allclose(variable.numpy(), 0.5**6, rtol=1e-6)


@both("Adafactor keeps the average that follows from its factors")
def test_adafactor_keeps_rows_and_columns_alone(module):
    optimizer = module.Adafactor()
    optimizer.build([tf.Variable(tf.zeros((3, 64, 32)))])
    assert sum(np.prod(v.shape) for v in optimizer.variables) == 3 * (64 + 32) + 2


@both("FTRL divides by the root of all squares, or by the rate, where they are 0")
def test_ftrl_without_a_gradient_or_a_rate_so_far(module):
    variable, optimizer = tf.Variable([1.0, 2.0]), module.Ftrl(0.5, initial_accumulator_value=0.0)
    optimizer.apply([tf.constant([1.0, 0.0])], [variable])
    np.testing.assert_allclose(variable.numpy(), [0.5, 2.0])
    optimizer.learning_rate = 0.0
    optimizer.apply([tf.constant([1.0, 1.0])], [variable])
    np.testing.assert_allclose(variable.numpy(), [0.5, 2.0])
