"""Where a `fit` is in its data, and how another one gets there."""

import contextlib
import random
import time
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_bp import _keras

# A position that takes longer to read, of a large shuffle buffer, is not read again.
_READING_SECONDS = 0.5


def random_states():
    """Return the states of Python's and NumPy's global generators, as JSON can hold them."""
    version, state, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    return [[version, list(state), gauss], [kind, keys.tolist(), *rest]]


def set_random_states(states):
    """Set them to what `checked_states` has returned."""
    python, numpy = states
    random.setstate(python)
    np.random.set_state(numpy)


def checked_states(states):
    """Return states from a file, or raise a ValueError, TypeError or OverflowError."""
    (version, state, gauss), (kind, keys, position, *gaussian) = states
    python = version, tuple(state), gauss
    random.Random(0).setstate(python)
    numpy = kind, np.array(keys, np.uint32), position, *gaussian
    np.random.RandomState(0).set_state(numpy)
    if not 0 <= position <= len(keys):
        raise ValueError(f"NumPy's generator is at {position}")
    return python, numpy


class DataPosition:
    """The position of a running `fit` in its data.

    Keras goes through the data of an epoch by a generator, which yields once for each call of the
    train function and makes the iterators. A new process gets to a position by going through the
    generators of the epochs before without taking data: this makes as many iterators, each of which
    draws a seed for its order, and calls the hooks of a `PyDataset`. The iterator of a `tf.data`
    pipeline then takes over its saved state, if it has one; otherwise batches are taken and
    dropped. A pipeline that has run to its end, ahead of the training, no longer tells how many
    seeds it has drawn: then batches are taken from the iterator as it was when it was made. A
    `cache` in memory is filled by the first iterator, in the order of which it stays.

    Args:
        model: the `keras.Model`, in a `fit`.
    """

    def __init__(self, model):
        self._model = model
        self._iterator = _keras.epoch_iterator(model)
        arguments = _keras.fit_arguments(model)
        self._ends = not arguments.get("steps_per_epoch")
        # Keras's pipeline of arrays carries its permutation along; "batch" shuffles in each batch.
        of_arrays = arguments.get("y") is not None or hasattr(arguments.get("x"), "shape")
        self._ignore_random = of_arrays and arguments.get("shuffle") != "batch"
        self._target = self._first = self._last = self._fresh = self._begun = None
        self._at_first = random_states()
        self._yields, self._passed, self._finished, self._readable = 0, 0, False, True
        self._cached, self._taken = False, 0  # of the last iterator, while epochs are passed over
        if self._iterator is not None:
            self._original = _keras.enumeration(self._iterator)
            _keras.set_enumeration(self._iterator, self._enumerate)

    @property
    def known(self):
        """Whether this is Keras's own `fit`, whose data can be followed."""
        return self._iterator is not None

    def build_metrics(self):
        """Make the variables of the metrics, which Keras makes in the first batch."""
        # Where there is a strategy, Keras has made them already.
        if self._model.distribute_strategy is tf.distribute.get_strategy():
            spec = self._iterator.data_adapter.get_tf_dataset().element_spec
            _keras.build_metrics(self._model, spec)

    def description(self):
        """Return the position as JSON can hold it, and a dictionary of states of iterators."""
        state = None if self._fresh is None else self._read(self._last)
        if state is not None and _keras.seeds_in(state) != _keras.seeds_in(self._fresh):
            state = None
        states = {"data": state, "fresh data": self._fresh}
        description = {
            "calls": self._yields,
            "finished": self._finished,
            "passed": self._passed,
            "per_call": self._model.steps_per_execution,
            "begun": self._begun or random_states(),
            "now": random_states(),
        }
        return description, {name: s for name, s in states.items() if s is not None}

    def end_epoch(self):
        """Note that an epoch has ended."""
        # Data of unknown length end by an error in the train function.
        self._passed = 0 if self._finished else self._yields
        self._yields = 0

    def go_to(self, epochs, description, states):
        """Let the next epoch begin there.

        Args:
            epochs: how many epochs of this data are done.
            description: what `description` has returned, with checked random states.
            states: the iterators' states.
        """
        self._target = epochs, description, states

    def pass_over_validations(self, count):
        """Let the validation that begins come after `count` others of an earlier process.

        For each one Keras makes an iterator anew, and calls the hooks of a `PyDataset`.
        """
        method, values = _keras.running_call()
        if not count or method != "evaluate":  # one that a subclass has written
            return
        iterator, random, (_, states) = (
            values["epoch_iterator"],
            random_states(),
            self.description(),
        )
        with warnings.catch_warnings(), _without_loading(iterator.data_adapter):
            warnings.simplefilter("ignore")  # Keras's, that the data ran out
            for _ in range(count):
                with iterator.catch_stop_iteration():
                    for _ in _keras.enumeration(iterator)():
                        if iterator.num_batches is None:  # only the data tell the end
                            raise StopIteration
                iterator.reset()
        set_random_states(checked_states(random))
        if states:  # it may draw from the same `shuffle`
            _keras.set_iterator_state(self._last, states.get("data", states["fresh data"]))

    def _enumerate(self):
        target, self._target = self._target, None
        if target is None:
            self._begin()
            yield from self._epoch()
            return
        epochs, description, states = target
        set_random_states(checked_states(self._at_first))  # of which hooks may have drawn
        with _without_loading(self._iterator.data_adapter):
            for _ in range(epochs):
                self._pass_over(description["passed"])
        set_random_states(description["begun"])
        self._begun = random_states()
        if not description["calls"]:
            self._take_position(states)
            set_random_states(description["now"])
            self._begin()
            yield from self._epoch()
            return
        steps = self._epoch()
        for _ in range(description["calls"]):
            next(steps, None)
        if description["finished"]:
            for _ in steps:
                pass
        self._take_position(states)
        set_random_states(description["now"])
        yield from steps

    def _begin(self):
        """Note the random states, of which a `PyDataset`'s order is drawn with its first batch."""
        goes_on = _keras.lasting_iterator(self._iterator) is not None
        if not (goes_on and _keras.batches_taken(self._iterator)):
            self._begun = random_states()

    def _epoch(self):
        self._yields, self._finished = 0, False
        for step in self._original():
            self._yields += 1
            self._see(step[2])
            yield step
        self._finished = True
        self._see(_keras.lasting_iterator(self._iterator))

    def _see(self, iterator):
        if iterator is not None and iterator is not self._last:
            self._first = self._first or iterator
            self._last, self._fresh, self._taken = iterator, self._read(iterator), 0

    def _read(self, iterator):
        """Return the state of an iterator, None if it is not to be had, or not soon."""
        if not self._readable:
            return None
        began = time.perf_counter()
        state = _keras.iterator_state(iterator, self._ignore_random)
        # What a cache holds is part of the state once it is full: all data.
        self._cached = self._cached or (state is not None and _keras.caches_in(state) > 0)
        self._readable = (
            state is not None
            and not self._cached
            and time.perf_counter() - began < _READING_SECONDS
        )
        return state if self._readable else None

    def _pass_over(self, passed):
        """Go through an epoch without taking data, but those that fill a cache."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras's, that the data ran out
            with self._iterator.catch_stop_iteration():
                for _ in self._epoch():
                    if self._cached and self._last is self._first:
                        self._take(self._model.steps_per_execution)
                    if self._yields == passed:
                        raise StopIteration
        self.end_epoch()

    def _take_position(self, states):
        state = states.get("data", states.get("fresh data"))
        if state is not None:
            try:
                _keras.set_iterator_state(self._last, state)
            except tf.errors.OpError as error:
                raise ValueError(
                    "`x` of `fit` must be the dataset of the training that is resumed. Received: "
                    f"one that cannot go on from its position ({error})"
                ) from error
            self._fresh = states["fresh data"]
        lasts = self._yields > 0 and not self._finished  # not at an epoch's end
        if "data" not in states and (lasts or not self._ends):
            count = _keras.batches_taken(self._iterator) - self._taken
            with _by_index(self._iterator.data_adapter, count):
                self._take(count)

    def _take(self, count):
        for _ in range(count):
            next(self._last, None)
        self._taken += count


@contextlib.contextmanager
def _without_loading(adapter):
    """Keep a `PyDataset`'s workers from loading batches."""
    enqueuer = getattr(adapter, "enqueuer", None)
    if enqueuer is None:
        yield
        return
    adapter.enqueuer = None
    try:
        yield
    finally:
        adapter.enqueuer = enqueuer


@contextlib.contextmanager
def _by_index(adapter, count):
    """Let a `PyDataset` without workers load only the first of `count` batches."""
    loads = isinstance(getattr(adapter, "py_dataset", None), keras.utils.PyDataset)
    if not loads or adapter.enqueuer is not None:
        yield
        return
    adapter.py_dataset = _Passed(adapter.py_dataset, count)
    try:
        yield
    finally:
        adapter.py_dataset = adapter.py_dataset.dataset


class _Passed:
    """A `PyDataset` whose first batches are all the same one."""

    def __init__(self, dataset, count):
        self.dataset, self._left, self._batch = dataset, count, None

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __getitem__(self, index):
        self._left -= 1
        if self._left < 0:
            return self.dataset[index]
        if self._batch is None:
            self._batch = self.dataset[index]
        return self._batch
