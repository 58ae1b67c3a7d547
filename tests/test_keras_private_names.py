"""The private names of Keras and TensorFlow are there, listed, and touched in `_keras` only."""

import ast
import importlib
import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp import _keras
from keras_bp._private_names import PRIVATE_NAMES

PACKAGE = pathlib.Path(keras_bp.__file__).parent


@pytest.fixture(scope="module")
def keras_objects():
    """A model that was fitted, a Sequential one, and what their training made."""
    inputs = keras.Input((3,), name="inputs")
    dense = keras.layers.Dense(2, activation="softmax", name="dense")
    model = keras.Model(inputs, dense(inputs), name="model")
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2, use_ema=True)
    model.compile(optimizer, "mse")
    asked = []
    asking = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: asked.extend(
            [_keras.fit_arguments(model), _keras.epoch_iterator(model)]
        )
    )
    model.fit(np.ones((4, 3)), np.ones((4, 2)), batch_size=2, verbose=0, callbacks=[asking])
    penalized = keras.layers.ActivityRegularization(l2=1.0)
    penalized(tf.ones((1, 2)))
    embedding = keras.layers.Embedding(3, 2)
    embedding.build()
    return types.SimpleNamespace(
        model=model,
        inputs=inputs,
        asked=asked[0],
        epochs=asked[1],
        dense=dense,
        kernel=dense.kernel,
        optimizer=optimizer,
        penalized=penalized,
        embedding=embedding,
        sequential=keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]),
        loss=keras.losses.MeanSquaredError(dtype="float32"),
        stopping=keras.callbacks.EarlyStopping("loss", mode="min"),
    )


def _logits(k):
    logits = tf.constant([[1.0, 2.0]])
    return keras.activations.softmax(logits)._keras_logits is logits


def _mask(k):
    mask = keras.layers.Masking()(tf.constant([[[1.0], [0.0]]]))._keras_mask
    return np.asarray(mask).tolist() == [[True, False]]


def _is_improvement(k):
    k.stopping._set_monitor_op()
    return k.stopping._is_improvement(1.0, 2.0) and not k.stopping._is_improvement(2.0, 1.0)


def _clipped(k):
    (clipped,) = keras.optimizers.SGD(clipvalue=1.0)._clip_gradients([tf.constant([3.0])])
    return float(clipped[0]) == 1.0


def _not_empty(k):
    gradient = tf.ones_like(k.kernel)
    left = k.optimizer._filter_empty_gradients([gradient], [k.kernel])
    return left[0][0] is gradient and left[1] == [k.kernel]


def _unknown(k):
    with pytest.raises(ValueError, match="variable"):
        k.optimizer._check_variables_are_known([keras.Variable([1.0])])
    return True


def _left_out_of_decay(k):
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay([k.kernel])
    optimizer.build([k.kernel, k.dense.bias])
    return not optimizer._use_weight_decay(k.kernel) and optimizer._use_weight_decay(k.dense.bias)


def _overwritten(k):
    variable = keras.Variable([1.0])
    before = k.optimizer._overwrite_variable_with_gradient(variable)
    variable.overwrite_with_gradient = True
    return not before and k.optimizer._overwrite_variable_with_gradient(variable)


def _loss_ids(k):
    with keras.StatelessScope(collect_losses=True) as scope:
        k.penalized(tf.ones((1, 2)))
    return k.penalized._loss_ids == {id(scope.losses[0])}


def _member(module, name):
    return lambda k: isinstance(getattr(importlib.import_module(module), name), type)


def _adapter(module, name, data):
    module = importlib.import_module(f"keras.src.trainers.data_adapters.{module}")
    return getattr(module, name)(data)


def _seeded():
    tf.random.set_seed(7)
    return _keras.context.context()._seed == 7


# Each says whether the name still means what `_keras` takes it for; an AttributeError says no.
def _asks_its_map(k):
    rule, asked = keras.optimizers.SGD(), []
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("Keras has MultiOptimizer from 3.15 on")
    composite = keras.optimizers.MultiOptimizer(lambda variable: rule)
    with _keras.in_composites(composite, asked.append):
        composite.build([k.kernel])
    return asked == [rule]


def _stays_one_operation(k):
    @tf.function
    def either(x):
        return _keras.one_operation(tf.cond(x[0] > 0, lambda: x, lambda: 2 * x))

    operations = either.get_concrete_function(tf.TensorSpec((2,))).graph.get_operations()
    [condition] = (o for o in operations if o.type == "StatelessIf")
    lowered = condition.get_attr("_lower_using_switch_merge")
    return not lowered and either(tf.constant([-1.0, 1.0]))[1] == 2.0


def _sees_tangents():
    x = tf.ones([])
    with tf.autodiff.ForwardAccumulator(x, x):
        return _keras.has_tangents([x * 2.0]) and not _keras.has_tangents([tf.zeros([])])


def _creates_outside_of_traces():
    made = []

    @tf.function
    def step():
        if not made:
            with _keras.outside_of_traces():
                made.append(tf.Variable(2.0))
        return made[0] + 1.0

    return float(step()) == 3.0 and step.experimental_get_tracing_count() == 1


def _traced_again(k):
    traces = []
    function = tf.function(lambda: traces.append(_keras.called_functions()))
    function()
    function()
    _keras.drop_traces(function)
    function()
    return traces == [[function], [function]]


def _metrics_are_built(k):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    before = len(model.metrics_variables)
    _keras.build_metrics(model, (tf.TensorSpec((None, 3)), tf.TensorSpec((None, 1))))
    return before < len(model.metrics_variables)


def _current_iterator(k):
    [_, (*_, iterator)] = k.epochs._enumerate_iterator()
    return k.epochs._current_iterator is not iterator  # the next epoch's


def _goes_on(k):
    data = tf.data.Dataset.range(3).shuffle(2)
    one, other = iter(data), iter(data)
    next(one)
    state = _keras.iterator_state(one)
    _keras.set_iterator_state(other, state)
    return _keras.seeds_in(state) == 1 and int(next(other)) == int(next(one))


PROBES = {
    "Layer._flatten_layers": lambda k: k.dense in k.model._flatten_layers(),
    "Layer._losses": lambda k: len(k.penalized._losses) == 1,
    "Layer._loss_ids": _loss_ids,
    "Layer._dtype_policy": lambda k: vars(k.dense)["_dtype_policy"] is k.dense.dtype_policy,
    "InputLayer._dtype": lambda k: vars(k.model.layers[0])["_dtype"] == "float32",
    "Functional._inputs": lambda k: list(k.model._inputs) == [k.inputs],
    "Functional._inputs_struct": lambda k: k.model._inputs_struct is k.inputs,
    "Functional._outputs_struct": lambda k: k.model._outputs_struct is k.model.output,
    "KerasTensor._dtype": lambda k: vars(k.inputs)["_dtype"] == "float32",
    "Variable._value": lambda k: vars(k.kernel)["_value"] is k.kernel.value,
    "Variable._dtype": lambda k: vars(k.kernel)["_dtype"] == "float32",
    "Loss._dtype": lambda k: vars(k.loss)["_dtype"] == "float32",
    "Loss._dtype_policy": lambda k: vars(k.loss)["_dtype_policy"].compute_dtype == "float32",
    "Dense._kernel": lambda k: k.dense._kernel is k.kernel,
    "Embedding._embeddings": lambda k: k.embedding._embeddings is k.embedding.embeddings,
    "Sequential._functional": lambda k: k.sequential._functional.inputs == k.sequential.inputs,
    "Functional._nodes_by_depth": lambda k: k.model._nodes_by_depth[0][0].operation is k.dense,
    "KerasTensor._keras_history": lambda k: k.inputs._keras_history.operation.name == "inputs",
    "tensor._keras_logits": _logits,
    "tensor._keras_mask": _mask,
    "Model._compile_loss": lambda k: isinstance(k.model._compile_loss, keras.Loss),
    "Model._loss_tracker": lambda k: k.model._loss_tracker in k.model.metrics,
    "Model._compile_config": lambda k: k.model._compile_config.config["optimizer"] is k.optimizer,
    "Model._initial_epoch": lambda k: "_initial_epoch" in vars(k.model),
    "Model.fit": lambda k: k.asked["x"].shape == (4, 3) and k.asked["verbose"] == 0,
    "Model._symbolic_build": _metrics_are_built,
    "Model._get_metrics_result_or_logs": lambda k: (
        k.model._get_metrics_result_or_logs({"other": 1.0}) == {"other": 1.0}
    ),
    "EpochIterator._enumerate_iterator": lambda k: (
        [step[:2] for step in k.epochs._enumerate_iterator()] == [(0, 0), (1, 1)]
    ),
    "EpochIterator._current_iterator": _current_iterator,
    "EpochIterator._steps_seen": lambda k: (
        next(k.epochs._enumerate_iterator()) and k.epochs._steps_seen == 1
    ),
    "Iterator._iterator_resource": _goes_on,
    "CompileLoss._flat_losses": lambda k: (
        len(k.model._compile_loss._flat_losses) == 1
        and k.model._compile_loss._flat_losses[0]._replace(loss=None).loss is None
    ),
    "MonitorCallback._is_improvement": _is_improvement,
    "MonitorCallback._set_monitor_op": lambda k: (
        k.stopping._set_monitor_op() is None and k.stopping.monitor_op(1.0, 2.0)
    ),
    "Optimizer._accumulated_gradients": lambda k: (
        k.optimizer._accumulated_gradients[0].shape == k.kernel.shape
    ),
    "Optimizer._check_variables_are_known": _unknown,
    "Optimizer._clip_gradients": _clipped,
    "Optimizer._distribution_strategy": lambda k: k.optimizer._distribution_strategy.extended,
    "Optimizer._filter_empty_gradients": _not_empty,
    "Optimizer._get_variable_index": lambda k: k.optimizer._get_variable_index(k.kernel) == 0,
    "Optimizer._iterations": lambda k: (
        int(k.optimizer._iterations) == 2 and int(k.optimizer.iterations) == 1
    ),
    "Optimizer._learning_rate": lambda k: float(k.optimizer._learning_rate) == np.float32(0.1),
    "Optimizer._model_variables_moving_average": lambda k: (
        len(k.optimizer._model_variables_moving_average) == 2
    ),
    "Optimizer._overwrite_variable_with_gradient": _overwritten,
    "Optimizer._trainable_variables": lambda k: k.optimizer._trainable_variables[0] is k.kernel,
    "Optimizer._trainable_variables_indices": lambda k: (
        sorted(k.optimizer._trainable_variables_indices.values()) == [0, 1]
    ),
    "Optimizer._use_weight_decay": _left_out_of_decay,
    "Optimizer._var_key": lambda k: (
        k.optimizer._var_key(k.kernel) in k.optimizer._trainable_variables_indices
    ),
    "MultiOptimizer._optimizer_map": _asks_its_map,
    "Function._function_cache": _traced_again,
    "Function._omit_frequent_tracing_warning": lambda k: (
        tf.function(abs)._omit_frequent_tracing_warning is False
    ),
    "Operation._set_attr": _stays_one_operation,
    "sys._current_frames": _traced_again,
    "GradientTape._persistent": lambda k: (
        tf.GradientTape(persistent=True)._persistent and not tf.GradientTape()._persistent
    ),
    "keras.src.backend.common.global_state": lambda k: (
        _keras.global_state.get_global_attribute("object_name_uids") is not None
    ),
    "keras.src.random.seed_generator.global_seed_generator": lambda k: isinstance(
        _keras.global_seed_state(), keras.Variable
    ),
    "keras.src.utils.tracking.Tracker": _member("keras.src.utils.tracking", "Tracker"),
    "tf.__internal__.tracking.TrackableDataStructure": lambda k: isinstance(
        k.optimizer._trainable_variables, _keras.TrackedContainer
    ),
    "keras.src.callbacks.monitor_callback.MonitorCallback": lambda k: isinstance(
        k.stopping, _keras.MonitorCallback
    ),
    "tensorflow.python.eager.context": lambda k: _keras.context.context().clear_kernel_cache,
    "context.eager_mode": lambda k: _creates_outside_of_traces(),
    "Context._rng": lambda k: _keras.context.context()._rng.getstate,
    "tensorflow.python.ops.stateful_random_ops": lambda k: hasattr(
        _keras.stateful_random_ops, "global_generator"
    ),
    "Context._seed": lambda k: _seeded(),
    "Context.abort_collective_ops": lambda k: callable(
        _keras.context.context().abort_collective_ops
    ),
    "Model._maybe_symbolic_build": lambda k: callable(k.model._maybe_symbolic_build),
    "GeneratorDataAdapter._first_batches": lambda k: (
        _adapter("generator_data_adapter", "GeneratorDataAdapter", iter([(np.ones(2),)] * 3))
        ._first_batches[0][0]
        .shape
        == (2,)
    ),
    "PyDatasetAdapter._standardize_batch": lambda k: (
        _adapter(
            "py_dataset_adapter", "PyDatasetAdapter", keras.utils.PyDataset()
        )._standardize_batch([1, 2])
        == (1, 2)
    ),
    "input_lib._calculate_replicas_with_values": lambda k: callable(
        importlib.import_module(
            "tensorflow.python.distribute.input_lib"
        )._calculate_replicas_with_values
    ),
    "tensorflow.python.eager.record": lambda k: _keras.tape_is_recording() is False,
    "tensorflow.python.eager.forwardprop_util": lambda k: _sees_tangents(),
    "tensorflow.python.ops.control_flow_util": lambda k: callable(
        _keras.control_flow_util.GraphOrParentsInXlaContext
    ),
}


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_name_is_what_we_take_it_for(name, keras_objects):
    assert name in PROBES, f"{name} has no probe"
    try:
        holds = PROBES[name](keras_objects)
    except (AttributeError, KeyError, ImportError) as error:
        pytest.fail(f"{name}: {PRIVATE_NAMES[name]}. {error}")
    assert holds, f"{name}: {PRIVATE_NAMES[name]}"


def test_every_probe_is_of_a_listed_name():
    assert PROBES.keys() == PRIVATE_NAMES.keys()


ATTRIBUTES = {name.rsplit(".", 1)[1] for name in PRIVATE_NAMES if "._" in name}
# The public methods of a namedtuple.
OF_NAMEDTUPLES = {"_asdict", "_fields", "_make", "_replace"}


def _is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in OF_NAMEDTUPLES


def _defined(trees):
    """Collect the private attributes that the package's own classes and objects define."""
    names = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)  # at the top of a class, for one
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if _is_own(node.value, set()):
                names.add(node.attr)
    return names - ATTRIBUTES


def _is_own(base, classes):
    """Tell whether an attribute's base is self, cls, super() or a class of the same file."""
    if isinstance(base, ast.Call) and isinstance(base.func, ast.Name):
        return base.func.id == "super"
    return isinstance(base, ast.Name) and base.id in {"self", "cls"} | classes


def _foreign(tree, defined):
    """List (line, what) where a file's code touches a private name that is not the package's."""
    classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names]
            modules = [getattr(node, "module", None) or module for module in modules]
            for module in sorted(set(modules)):
                if module.startswith(("keras.src", "tensorflow.python")):
                    found.append((node.lineno, f"imports {module}"))
        elif isinstance(node, ast.keyword) and node.arg in ATTRIBUTES:
            found.append((node.value.lineno, f"{node.arg}="))
        elif isinstance(node, ast.Attribute) and node.attr == "__internal__":
            found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Constant) and node.value in ATTRIBUTES:
            found.append((node.lineno, repr(node.value)))
        elif isinstance(node, ast.Attribute) and _is_private(node.attr):
            listed, own = node.attr in ATTRIBUTES, _is_own(node.value, classes)
            if not own and (listed or node.attr not in defined):
                found.append((node.lineno, ast.unparse(node)))
            elif own and not listed and node.attr not in defined:
                found.append((node.lineno, f"{ast.unparse(node)}, inherited and not listed"))
    return found


def test_private_names_are_touched_in_one_file_only():
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    defined = _defined(trees.values())
    left = [
        f"keras_bp/{path.relative_to(PACKAGE)}:{line}: {what}"
        for path, tree in trees.items()
        if path.name != "_keras.py"
        for line, what in _foreign(tree, defined)
    ]
    assert not left, f"{len(left)} not through keras_bp._keras:\n" + "\n".join(left)


def test_what_that_file_touches_is_listed():
    tree = ast.parse((PACKAGE / "_keras.py").read_text())
    touched = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and _is_private(node.attr)
    }
    # This one is the package's own.
    assert touched - {"_keras_bp_activation"} <= ATTRIBUTES
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith(("keras.", "tensorflow."))
        for alias in node.names
    }
    assert imported <= PRIVATE_NAMES.keys()


@pytest.mark.parametrize(
    "source",
    [
        "model._initial_epoch = 3",
        "getattr(tensor, '_keras_logits', None)",
        "optimizer._never_heard_of",
        "from keras.src.utils.tracking import Tracker",
        "import tensorflow.python.eager.context",
        "class A(B):\n    def f(self):\n        self._inherited()",
    ],
)
def test_a_touched_private_name_is_found(source):
    assert _foreign(ast.parse(source), set())


def test_own_private_names_are_not():
    source = "class A:\n    def f(self, other):\n        self._mine = other._mine\n        A._mine"
    tree = ast.parse(source)
    assert not _foreign(tree, _defined([tree]))
