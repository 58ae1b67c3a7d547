"""Undo a trial on a model: all that training changes, or a few attributes."""

import collections
import contextlib
import random

import keras
import numpy as np
import tensorflow as tf

from keras_bp import _keras

# What is searched: objects that hold variables, or that a first training step builds.
_OBJECTS = (
    keras.Layer,
    keras.Loss,
    keras.Metric,
    keras.initializers.Initializer,
    keras.optimizers.Optimizer,
    keras.random.SeedGenerator,
    tf.random.Generator,
    _keras.Tracker,
    # TensorFlow's stand-ins for the lists and dicts of an optimizer, which hold the real ones.
    _keras.TrackedContainer,
)
_VARIABLES = (keras.Variable, tf.Variable)
_CONTAINERS = (list, tuple, dict, set)


@contextlib.contextmanager
def unchanged(model):
    """Undo on exit, also after an exception, all changes to a model and to random state.

    Yields:
        The `Snapshot`, which can `remember` further objects.
    """
    restore_random_state = _remember_random_state()
    snapshot = Snapshot()
    snapshot.remember(model)
    try:
        yield snapshot
    finally:
        snapshot.restore()
        restore_random_state()


class Snapshot:
    """Attributes, lists and variables of everything that its objects hold.

    A model, an optimizer or a metric that was not built is not built afterwards either: what was
    created meanwhile is dropped. So the next `fit` creates it from the same initializers.
    """

    def __init__(self):
        self._seen = {}  # the objects too, since an id holds only as long as its object lives
        self._attributes = []
        self._containers = []
        self._values = []

    def remember(self, root):
        """Remember an object and all that it holds, except what is known already."""
        found = [root]
        while found:
            item = found.pop()
            kind = next(
                (k for k in (_VARIABLES, _OBJECTS, _CONTAINERS) if isinstance(item, k)), None
            )
            if kind is None or id(item) in self._seen:
                continue
            self._seen[id(item)] = item
            if kind is _VARIABLES:
                self._values.append((item, tf.convert_to_tensor(item).numpy()))
            elif kind is _OBJECTS:
                attributes = getattr(item, "__dict__", {})
                self._attributes.append((attributes, dict(attributes)))
                found += [*attributes.values(), getattr(item, "__wrapped__", None)]
            elif isinstance(item, dict):
                self._containers.append((item, dict(item)))
                found += item.values()
            else:
                found += item
                if not isinstance(item, tuple):
                    self._containers.append((item, list(item)))

    def restore(self):
        """Restore everything."""
        restore_attributes(self._attributes)
        for item, contents in self._containers:
            _refill(item, contents)
        for variable, value in self._values:
            variable.assign(value)


def restore_attributes(saved):
    """Restore attributes, and delete new ones, given pairs of an object's `vars` and a copy of it.

    The dictionary is written to directly: Keras's `__setattr__` would track, and refuse.
    """
    for attributes, earlier in saved:
        for name in attributes.keys() - earlier.keys():
            del attributes[name]
        attributes.update(earlier)


def _refill(container, contents):
    """Restore a container's contents, past the methods by which Keras tracks changes."""
    if isinstance(container, dict):
        kept = list(container) == list(contents)
        if kept and all(container[key] is contents[key] for key in contents):
            return
        kind = collections.OrderedDict if isinstance(container, collections.OrderedDict) else dict
        kind.clear(container)
        for key, value in contents.items():
            kind.__setitem__(container, key, value)
    elif isinstance(container, set):
        set.clear(container)
        set.update(container, contents)
    else:
        list.__setitem__(container, slice(None), contents)


@contextlib.contextmanager
def unchanged_values(variables):
    """Restore the values of some variables at the exit, and leave them on their device."""
    before = [tf.identity(tf.convert_to_tensor(variable)) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def _remember_random_state():
    """Remember the random states of the process; return a function that restores them."""
    python, numpy = random.getstate(), np.random.get_state()
    restore_frameworks = _keras.remember_random_state(Snapshot())

    def restore():
        random.setstate(python)
        np.random.set_state(numpy)
        restore_frameworks()

    return restore


@contextlib.contextmanager
def replaced_attributes(holder, **attributes):
    """Temporarily replace an object's attributes, methods for instance.

    The instance's dictionary is written to directly: Keras's `__setattr__` would track them.
    """
    own = vars(holder)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        own.update(before)
        for name in attributes.keys() - before.keys():
            del own[name]


@contextlib.contextmanager
def lent_learning_rate(optimizer, rate, remember=lambda leaf: None):
    """Let an optimizer read its learning rate from a variable inside the `with` block.

    A schedule or a callable is set aside and restored.

    Args:
        optimizer: a `keras.optimizers.Optimizer`.
        rate: a `keras.Variable`, created in the optimizer's distribution strategy.
        remember: function that is called with each leaf optimizer before it is changed.

    Yields:
        The list of the leaf optimizers, to which those that are found later are appended.
    """

    def lend(leaf):
        remember(leaf)
        return rate

    with replaced_learning_rates(optimizer, lend) as leaves:
        yield leaves


@contextlib.contextmanager
def scaled_learning_rate(optimizer, factor):
    """Let an optimizer multiply its learning rate by a scalar variable inside the `with` block.

    Whatever its rate is, a number, a schedule or a callable; outside it reads as it was set.
    """

    def scale(leaf):
        rate = _keras.learning_rate_of(leaf)
        return lambda: tf.cast(rate(), factor.dtype) * factor

    with replaced_learning_rates(optimizer, scale):
        yield


@contextlib.contextmanager
def replaced_learning_rates(optimizer, rate_of):
    """Temporarily replace the learning rate of an optimizer, and of all inside it.

    Those inside a wrapper or a composite, also one that a composite's function creates only when a
    step is traced.

    Args:
        optimizer: a `keras.optimizers.Optimizer`.
        rate_of: function of a leaf optimizer that returns its rate meanwhile.

    Yields:
        The list of the leaf optimizers, to which those that are found later are appended.
    """
    with contextlib.ExitStack() as stack:
        leaves = []

        def replace(found):
            for leaf in _keras.leaf_optimizers(found):
                if all(leaf is not other for other in leaves):
                    rate = {_keras.LEARNING_RATE: rate_of(leaf)}
                    stack.enter_context(replaced_attributes(leaf, **rate))
                    leaves.append(leaf)

        replace(optimizer)
        stack.enter_context(_keras.in_composites(optimizer, replace))
        yield leaves
