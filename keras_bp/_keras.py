"""All that reads a private name of Keras or TensorFlow of a foreign object.

`_private_names` lists the names. A subclass (our optimizers, layers and models) also uses what it
inherits from Keras through `self`; these names are listed too.
"""

import contextlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.callbacks.monitor_callback import MonitorCallback as MonitorCallback
from keras.src.random.seed_generator import global_seed_generator
from keras.src.utils.tracking import Tracker as Tracker
from tensorflow.python.eager import context, forwardprop_util, record
from tensorflow.python.ops import control_flow_util, stateful_random_ops

PACKAGE = "keras_bp"

TrackedContainer = tf.__internal__.tracking.TrackableDataStructure
LEARNING_RATE = "_learning_rate"
"""The attribute from which an optimizer reads its rate, to lend it another one for a while."""

serializable = keras.saving.register_keras_serializable(package=PACKAGE)
"""Class decorator: registers the class as `keras_bp>ClassName`.

A `.keras` file then loads with `safe_mode=True` and without `custom_objects`, as soon as
`keras_bp` has been imported.
"""


# Layers and models


def flat_layers(layer: keras.Layer, *, recursive: bool = True, include_self: bool = False) -> list:
    """List the layers that a layer holds: at all depths, or only directly.

    `Model.layers` lists the latter; Keras has no public way for other layers.
    """
    return list(layer._flatten_layers(include_self=include_self, recursive=recursive))


def is_built(model: keras.Model) -> bool:
    """Tell whether all layers of a model are built.

    The flag `built` of a model without `call`, whose `train_step` calls the layers, stays False;
    so does that of any layer that only holds others, if these are called without it.
    """
    if model.built:
        return True
    layers = [layer for layer in flat_layers(model) if not _only_holds_layers(layer)]
    return bool(model.weights) and all(layer.built for layer in layers)


def _only_holds_layers(layer):
    # With a `build` of its own a layer may have weights of its own. Keras wraps the instance's.
    builds = not isinstance(layer, keras.Model) and type(layer).build is not keras.Layer.build
    return not builds and bool(flat_layers(layer, recursive=False))


def renormalization(renorm: bool, clipping: Any, momentum: float) -> dict[str, Any]:
    """Return the arguments of batch renormalization for the installed BatchNormalization.

    Raises:
        ValueError: if renormalization is asked for, and Keras, before 3.14, does not have it.
    """
    if "renorm" in inspect.signature(keras.layers.BatchNormalization).parameters:
        return {"renorm": renorm, "renorm_clipping": clipping, "renorm_momentum": momentum}
    if renorm:
        raise ValueError(
            "`renorm` must be False: Keras has batch renormalization from 3.14 on. "
            f"Received: renorm={renorm} with Keras {keras.__version__}"
        )
    return {}


def functional_of(model: keras.Model) -> Any:
    """Return the functional model of a Sequential one, and any other model as it is."""
    return model._functional if isinstance(model, keras.Sequential) else model


def graph_nodes(graph: Any) -> list | None:
    """List a functional model's nodes from its inputs on, or None if there is no graph."""
    if not hasattr(graph, "_nodes_by_depth"):
        return None
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in graph._nodes_by_depth[depth]]


def graph_input_names(graph: Any) -> list[str]:
    """List the names of a functional model's input layers, in the order of its inputs."""
    return [tensor._keras_history.operation.name for tensor in graph.inputs]


def functional_structures(model: keras.Model) -> tuple[Any, Any]:
    """Return a functional model's symbolic inputs and outputs, structured as they were given."""
    return model._inputs_struct, model._outputs_struct


def symbolic_inputs(model: Any) -> Sequence[Any]:
    """List a functional model's symbolic inputs; none of anything else."""
    return getattr(model, "_inputs", ())


# What follows writes past Keras's `__setattr__`, which would track the values or refuse them.


def set_float_dtype(owner: Any, dtype: str) -> None:
    """Give a layer, a loss or a symbolic tensor another dtype, if its own is floating."""
    attributes, is_float = vars(owner), keras.backend.is_float_dtype
    # Losses, input layers and symbolic tensors keep one outside of a policy.
    if "_dtype" in attributes and is_float(attributes["_dtype"]):
        attributes["_dtype"] = dtype
    # A loss has no `compute_dtype`.
    if "_dtype_policy" in attributes and is_float(getattr(owner, "compute_dtype", dtype)):
        attributes["_dtype_policy"] = keras.DTypePolicy(dtype)


def clear_losses(layer: keras.Layer) -> None:
    """Give a layer empty lists for the losses that its calls add."""
    vars(layer).update(_losses=[], _loss_ids=set())


def set_value(variable: keras.Variable, value: tf.Variable, dtype: str) -> None:
    """Let a Keras variable hold another `tf.Variable`, of this dtype."""
    vars(variable).update(_value=value, _dtype=dtype)


def replace_value(variable: keras.Variable, other: keras.Variable) -> None:
    """Let a scalar variable hold another one's value, and spoil what it held.

    That gets another shape: a function that was traced with it fails, instead of computing with it.
    """
    held = variable._value
    variable._value = other._value
    for copy in tf.distribute.get_strategy().experimental_local_results(held):
        tf.raw_ops.AssignVariableOp(resource=copy.handle, value=tf.zeros((0,), copy.dtype))


# Tensors: what Keras's layers and losses attach to a tensor


def set_logits(tensor: Any, logits: Any, activation: str) -> None:
    """Attach the activation and its input to the output of a sigmoid or a last-axis softmax.

    Keras attaches only the input, so that its losses take a softmax's logits for a sigmoid's.
    """
    tensor._keras_logits = logits
    tensor._keras_bp_activation = activation


def logits_of(tensor: Any) -> tuple[Any, str | None]:
    """Return the logits behind a tensor and the activation, or None twice if that is uncertain.

    The activation is "sigmoid", or "softmax" over the last axis. It is certain where `set_logits`
    has named it, and in a graph, where the tensor is that operation's output. Keras's attribute
    alone tells neither activation nor axis. It is all there is eagerly: it counts if the tensor is
    one of these two of the logits, to the last bit, and nothing else that sets the attribute.
    """
    logits = getattr(tensor, "_keras_logits", None)
    activation = getattr(tensor, "_keras_bp_activation", None)
    operation = getattr(tensor, "op", None)  # an eager tensor has none
    if activation is None and operation is not None and operation.type in ("Sigmoid", "Softmax"):
        logits, activation = operation.inputs[0], operation.type.lower()
    elif activation is None and logits is not None and tf.executing_eagerly():
        activation = _activation_between(tf.convert_to_tensor(logits), tensor)
    return (None, None) if activation is None else (logits, activation)


def _activation_between(logits, outputs):
    """Name the only one of Keras's activations with logits that gives these outputs, or None."""
    if logits.shape != outputs.shape or logits.dtype != outputs.dtype or not logits.shape.rank:
        return None
    with tf.init_scope():  # outside of tapes
        candidates = [("sigmoid", tf.sigmoid(logits)), ("softmax", tf.nn.softmax(logits))]
        candidates += [(None, tf.nn.softmax(logits, k)) for k in range(logits.shape.rank - 1)]
        if tf.size(logits) > logits.shape[-1]:
            over_all = tf.nn.softmax(tf.reshape(logits, [-1]))
            candidates.append((None, tf.reshape(over_all, logits.shape)))
        found = [name for name, values in candidates if tf.reduce_all(values == outputs)]
    return found[0] if len(found) == 1 else None


def mask_of(tensor: Any) -> Any:
    """Return the mask on a tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def set_mask(tensor: Any, mask: Any) -> None:
    """Attach a mask to a tensor: entries that a mean leaves out."""
    tensor._keras_mask = mask


def copy_annotations(source: Any, target: Any, change: Callable[[Any], Any] = lambda x: x) -> Any:
    """Give `target` the logits (changed by a function), their activation and the mask."""
    logits, activation = logits_of(source)
    if activation is not None:
        set_logits(target, change(logits), activation)
    if mask_of(source) is not None:
        set_mask(target, mask_of(source))
    return target


# Training


def set_compiled_optimizer(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Let a compiled model train with another optimizer, and save it.

    Not by `compile`, which would recreate the metrics, forget that training is to stop, and may be
    overridden.
    """
    model.optimizer = optimizer
    model._compile_config.config["optimizer"] = optimizer
    # The train function was traced with the old optimizer.
    model.make_train_function(force=True)


def initial_epoch(model: keras.Model) -> int | None:
    """Return the epoch in which the coming `fit` begins."""
    return model._initial_epoch


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Let the coming `fit` begin in this epoch."""
    model._initial_epoch = epoch


def _callers(frame: types.FrameType | None) -> Iterator[types.FrameType]:
    """Go through a frame and those of its callers."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def fit_arguments(model: keras.Model) -> dict[str, Any]:
    """Return the arguments of the `fit` of a model that is running; empty outside of one.

    Keras hands callbacks neither the data nor a way to them.
    """
    found = _fit_locals(model)
    names = inspect.signature(keras.Model.fit).parameters
    return {name: found[name] for name in names} if found else {}


def _fit_locals(model):
    calls = _running_calls()
    return next((v for name, v in calls if name == "fit" and v["self"] is model), {})


def running_call() -> tuple[str, dict[str, Any]] | None:
    """Return the innermost `fit`, `evaluate` or `predict` that runs: its name and its variables.

    A strategy is told neither the model nor the arguments.
    """
    return next(_running_calls(), None)


def _running_calls():
    for frame in _callers(inspect.currentframe()):
        name = frame.f_code.co_name
        # Only of these: to look at a frame's variables keeps them alive for a while.
        values = frame.f_locals if name in ("fit", "evaluate", "predict") else {}
        if isinstance(values.get("self"), keras.Model):
            names = inspect.signature(getattr(keras.Model, name)).parameters
            if all(n in values for n in names if n != "kwargs"):  # not that of a subclass
                yield name, values


def first_batch() -> Any:
    """Return the first batch of data that Keras is about to distribute, if they come only once.

    That is, of a generator, or of a PyDataset whose batches are made by threads or processes; None
    for other data.
    """
    for frame in _callers(inspect.currentframe()):
        adapter: Any = getattr(frame.f_locals.get("self"), "data_adapter", None)
        if hasattr(adapter, "_first_batches"):
            return adapter._first_batches[0]
        if getattr(adapter, "enqueuer", None) is not None:
            return adapter._standardize_batch(adapter.py_dataset[0])
    return None


WANTS_SHAPES = "_maybe_symbolic_build"
"""Keras's function that takes a batch of data only to build a model by its shapes."""
COUNTS_WORKERS = "_calculate_replicas_with_values"
"""TensorFlow's function that asks on how many workers there are data left."""


def called_by(name: str) -> bool:
    """Tell whether a function of this name is among the callers."""
    return any(frame.f_code.co_name == name for frame in _callers(inspect.currentframe()))


def epoch_iterator(model: keras.Model) -> Any:
    """Return what goes through the epochs of the `fit` of a model that is running, or None."""
    return _fit_locals(model).get("epoch_iterator")


def enumeration(iterator: Any) -> Callable[[], Iterator[tuple]]:
    """Return what goes through one epoch: a function that yields (first, last, data iterator)."""
    return iterator._enumerate_iterator


def set_enumeration(iterator: Any, function: Callable[[], Iterator[tuple]]) -> None:
    """Let another function go through the epochs."""
    iterator._enumerate_iterator = function


def lasting_iterator(iterator: Any) -> Any:
    """Return the data iterator from which the next epoch begins or goes on, or None."""
    return iterator._current_iterator


def batches_taken(iterator: Any) -> int:
    """Return how many batches were taken of the data iterator."""
    return iterator._steps_seen


def iterator_state(iterator: Any, ignore_random: bool = False) -> tf.Tensor | None:
    """Return the state of a `tf.data` iterator, None if it cannot be read.

    Args:
        iterator: what `iter` of a dataset returns.
        ignore_random: whether to read it also if the dataset has random operations, whose own
            state is not read.
    """
    resource = getattr(iterator, "_iterator_resource", None)
    policy = tf.data.experimental.ExternalStatePolicy
    policy = policy.IGNORE if ignore_random else policy.FAIL
    if resource is None:  # a distributed one
        return None
    try:
        return tf.raw_ops.SerializeIterator(
            resource_handle=resource, external_state_policy=policy.value
        )
    except (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError):
        return None


def seeds_in(state: tf.Tensor) -> int:
    """Return how many generators of seeds a state of an iterator tells the position of."""
    return tf.io.serialize_tensor(state).numpy().count(b"@@num_random_samples")


def caches_in(state: tf.Tensor) -> int:
    """Return how many caches in memory the pipeline of a state has."""
    return tf.io.serialize_tensor(state).numpy().count(b"::MemoryCache")


def set_iterator_state(iterator: Any, state: tf.Tensor) -> None:
    """Let a `tf.data` iterator go on from a state."""
    tf.raw_ops.DeserializeIterator(resource_handle=iterator._iterator_resource, serialized=state)


def build_metrics(model: keras.Model, batch: Any) -> None:
    """Make the variables of the metrics that a model was compiled with.

    Args:
        model: a built `keras.Model`.
        batch: structure of `tf.TensorSpec`s, as `fit` takes a batch from a dataset.
    """
    model._symbolic_build(data_batch=batch)


def set_last_logs(model: keras.Model, logs: dict | None) -> None:
    """Tell the running `fit` what the last batch's logs are while it has trained no batch.

    None ends that.
    """
    if logs is None:
        vars(model).pop("_get_metrics_result_or_logs", None)
        return
    original = model._get_metrics_result_or_logs
    # Not as an attribute that the model tracks.
    vars(model)["_get_metrics_result_or_logs"] = lambda own: original(own or logs)


@contextlib.contextmanager
def in_compiled_losses(compile_loss: Any, listen: Callable[[Any], Callable]) -> Iterator[None]:
    """Replace each loss that `compile` was given by `listen(entry)`.

    Args:
        compile_loss: the model's `_compile_loss`, built.
        listen: function of an entry, with `loss` and `loss_weights`, that returns the loss to
            call instead.
    """
    entries = compile_loss._flat_losses
    compile_loss._flat_losses = [entry._replace(loss=listen(entry)) for entry in entries]
    try:
        yield
    finally:
        compile_loss._flat_losses = entries


# Optimizers


def leaf_optimizers(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """List the optimizers that step variables themselves: inside a wrapper or a composite.

    A `LossScaleOptimizer` holds one optimizer, a `MultiOptimizer` several.
    """
    holders = "inner_optimizer", "optimizers"
    every = all_optimizers(optimizer)
    return [one for one in every if not any(hasattr(one, holder) for holder in holders)]


def all_optimizers(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """List an optimizer and all inside it, a wrapper or composite before what it holds."""
    inner = getattr(optimizer, "inner_optimizer", None)
    members = getattr(optimizer, "optimizers", ()) if inner is None else [inner]
    return [optimizer, *(found for member in members for found in all_optimizers(member))]


@contextlib.contextmanager
def in_composites(optimizer: keras.optimizers.Optimizer, found: Callable) -> Iterator[None]:
    """Call `found` with each optimizer that a composite's function returns as a step is traced.

    Such a function may create an optimizer only then; `found` runs outside of the traced graph.
    """
    inner = optimizer
    while hasattr(inner, "inner_optimizer"):
        inner = inner.inner_optimizer
    if not hasattr(inner, "_optimizer_map"):
        yield
        return
    of_variable = inner._optimizer_map

    def watched(variable: Any) -> Any:
        with tf.init_scope():
            chosen = of_variable(variable)
            found(chosen)
        return chosen

    # The instance's dictionary is written to directly: Keras's __setattr__ would track it.
    vars(inner)["_optimizer_map"] = watched
    try:
        yield
    finally:
        vars(inner)["_optimizer_map"] = of_variable


def updates(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Tell whether an optimizer, built, updates a variable; Keras has no public way to ask."""
    return optimizer._var_key(variable) in optimizer._trainable_variables_indices


def decays(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Tell whether one of Keras's optimizers, built, lets its weight decay act on a variable."""
    return optimizer._use_weight_decay(variable)


def averages_of(optimizer: keras.optimizers.Optimizer) -> list[tuple[Any, Any]]:
    """List the variables that a built optimizer averages, each with its average."""
    averages = optimizer._model_variables_moving_average
    pairs = zip(optimizer._trainable_variables, averages, strict=True)
    return [(variable, average) for variable, average in pairs if average is not None]


def lend_averages(optimizers: list[keras.optimizers.Optimizer]) -> list[tuple[Any, tf.Tensor]]:
    """Put the averages of some optimizers in their variables' place, and return what was there.

    Before the first update there is no average, and the weights stay.

    Args:
        optimizers: list of optimizers that average their weights, Keras's too.

    Returns:
        List of (variable, its value before), to put the same bits back.
    """
    made = [o for o in optimizers if o.built and int(o.iterations.numpy()) > 0]
    pairs = [pair for optimizer in made for pair in averages_of(optimizer)]
    kept = [(variable, tf.identity(tf.convert_to_tensor(variable))) for variable, _ in pairs]
    for variable, average in pairs:
        variable.assign(tf.cast(tf.convert_to_tensor(average), variable.dtype))
    return kept


def accumulator_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> Any:
    """Return the variable in which an optimizer sums a variable's gradients since its update."""
    return optimizer._accumulated_gradients[optimizer._get_variable_index(variable)]


def learning_rate_of(optimizer: keras.optimizers.Optimizer) -> Callable[[], Any]:
    """Return a function that reads the rate that an optimizer was given, whatever that is."""
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return lambda: rate(optimizer._iterations)
    return rate if callable(rate) else lambda: rate


def rate_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """List the variables that hold the rate of an optimizer, or a factor on it."""
    held = (vars(optimizer).get(n) for n in (LEARNING_RATE, "_learning_rate_factor"))
    return [variable for variable in held if isinstance(variable, keras.Variable)]


def counter_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the variable that counts the micro-steps of one of Keras's optimizers."""
    return optimizer._iterations


def clip_by_optimizer(optimizer: keras.optimizers.Optimizer, gradients: list) -> list:
    """Return gradients as one of Keras's optimizers clips them."""
    return optimizer._clip_gradients(gradients)


# Traced functions and tapes


def called_functions() -> list[tf.types.experimental.PolymorphicFunction]:
    """List the `tf.function`s that are being called, and so traced, in whichever thread.

    A strategy traces each replica in a thread of its own, while the caller's waits.
    """
    found = {}
    for innermost in sys._current_frames().values():
        for frame in _callers(innermost):
            if frame.f_code.co_varnames[:1] == ("self",):
                owner = frame.f_locals.get("self")
                if isinstance(owner, tf.types.experimental.PolymorphicFunction):
                    found[id(owner)] = owner
    return list(found.values())


def one_operation(result: tf.Tensor) -> tf.Tensor:
    """Let the `tf.cond` that a tensor is the result of stay one operation as it runs.

    TensorFlow makes of it one for each value that the branches read, and those of the branch that
    is not taken: for the gradients of 400 variables that is 1 ms.
    """
    if not tf.executing_eagerly():
        attribute = tf.compat.v1.AttrValue(b=False)
        result.op.inputs[0].op._set_attr("_lower_using_switch_merge", attribute)
    return result


def traced(function: Callable, **options: Any) -> Any:
    """Return a `tf.function` of one object, without autograph.

    TensorFlow counts the traces of all objects' functions of one code together, and would warn of
    frequent retracing at the fifth object.
    """
    compiled: Any = tf.function(function, autograph=False, **options)
    compiled._omit_frequent_tracing_warning = True
    return compiled


def drop_traces(function: Any) -> None:
    """Let a `tf.function` be traced anew at its next call."""
    function._function_cache.clear()


@contextlib.contextmanager
def outside_of_traces() -> Iterator[None]:
    """Run as if no function were being traced, in the current strategy's scope.

    `tf.init_scope` does not suffice where variables are created: a function that sees any in its
    first trace is traced again, and it sees those of the default graph, which stays its own there.
    """
    if tf.executing_eagerly():
        yield
        return
    strategy = tf.distribute.get_strategy()
    with tf.init_scope(), tf.Graph().as_default(), context.eager_mode(), strategy.scope():
        yield


def is_persistent(tape: tf.GradientTape) -> bool:
    """Tell whether several gradients can be taken from a tape."""
    return tape._persistent


# The process


def compiled_by_xla() -> bool:
    """Tell whether the function that is being traced is under jit_compile=True.

    TensorFlow has no public way to ask. A function that was traced elsewhere and is called inside a
    compiled one was told no: use this only to choose between two forms that XLA can both compile.
    """
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )


def tape_is_recording() -> bool:
    """Tell whether any `tf.GradientTape` records what is being computed."""
    return record.could_possibly_record()


def has_tangents(tensors: Sequence[tf.Tensor]) -> bool:
    """Tell whether a `tf.autodiff.ForwardAccumulator` follows any of the tensors."""
    return bool(forwardprop_util.pack_tangents(list(tensors)).tangents)


def global_seed() -> int | None:
    """Return TensorFlow's global seed."""
    return getattr(context.context(), "_seed", None)


def abort_collectives(message: str) -> None:
    """Let all operations over several workers fail with a message, those that run and any later."""
    context.context().abort_collective_ops(tf.errors.UNAVAILABLE, message)


def global_seed_state() -> keras.Variable:
    """Return the state of the generator that layers without a seed of their own draw on."""
    return global_seed_generator().state


def remember_random_state(snapshot: Any) -> Callable[[], None]:
    """Remember Keras's and TensorFlow's random state; return a function that puts it back.

    Args:
        snapshot: object with `remember(objects)` and `restore()`.
    """
    # It exists once a seed was set; otherwise operations are seeded at random.
    tensorflow = getattr(context.context(), "_rng", None)
    operation_seeds = None if tensorflow is None else tensorflow.getstate()
    seeds = global_state.get_global_attribute("global_seed_generator")
    # Counters of automatic names: a layer that `build` creates is dense_3 again.
    names = global_state.get_global_attribute("object_name_uids")
    generator = stateful_random_ops.global_generator
    snapshot.remember([seeds, names, generator])

    def restore() -> None:
        if tensorflow is not None and tensorflow.getstate() != operation_seeds:
            tensorflow.setstate(operation_seeds)
            # An operation that drew one of these seeds stays in a cache, further along in its
            # stream; one that draws the seed again must start at the beginning.
            context.context().clear_kernel_cache()
        global_state.set_global_attribute("global_seed_generator", seeds)
        stateful_random_ops.global_generator = generator
        snapshot.restore()

    return restore
