"""The check that all workers agree."""

import functools
import hashlib
import json
from typing import Any

import tensorflow as tf


def check_same(strategy: tf.distribute.Strategy, **facts: Any) -> None:
    """Check that all workers of a strategy have the same facts.

    If code, options or shapes of variables differ, workers wait for each other in different
    operations, fail with an unrelated error, or train without one. Call this on all workers before
    the model is created in the strategy's scope.

    Args:
        strategy: the `tf.distribute.Strategy`.
        **facts: what to compare, under names for the error: strings, numbers, lists and
            dictionaries, or objects that `str` tells apart.

    Raises:
        ValueError: on all workers alike, if they differ.

    Example:
        >>> strategy = tf.distribute.get_strategy()  # here with one worker
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> variables = [f"{v.path} {v.shape} {v.dtype}" for v in model.variables]
        >>> keras_bp.workers.check_same(strategy, batch_size=64, variables=variables)
    """
    _compare(gather(strategy, facts))


def gather(strategy: tf.distribute.Strategy, facts: Any) -> list:
    """Return what each worker of a strategy says, in their order, on all of them.

    All workers must call this at the same point: each waits for the others.

    Args:
        strategy: the `tf.distribute.Strategy`.
        facts: what this worker says: strings, numbers, lists and dictionaries, or objects that
            `str` tells apart.

    Example:
        >>> strategy = tf.distribute.get_strategy()  # here with one worker
        >>> keras_bp.workers.gather(strategy, {"examples": 640})
        [{'examples': 640}]
    """
    text = json.dumps(facts, default=str).encode()
    digests = _gathered(strategy, list(hashlib.sha256(text).digest()[:16])).reshape(-1, 16)
    if (digests == digests[0]).all():
        return [json.loads(text) for _ in digests]
    lengths = _gathered(strategy, [len(text)])
    texts = _gathered(strategy, list(text.ljust(lengths.max())))
    return [json.loads(bytes(row.tolist())) for row in texts.reshape(len(lengths), -1)]


def _gathered(strategy, values):
    """Return the values of all replicas, one after another."""
    gathered = _gather(strategy)(tf.constant(values, tf.int32))
    return strategy.experimental_local_results(gathered)[0].numpy()


@functools.lru_cache(maxsize=1)
def _gather(strategy):
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.int32)])
    def gather(values):
        return strategy.run(
            lambda: tf.distribute.get_replica_context().all_gather(tf.identity(values), axis=0)
        )

    return gather


def _compare(all_facts):
    first = all_facts[0]
    for number, other in enumerate(all_facts):
        for name in {**first, **other}:
            missing = "nothing"
            one, two = first.get(name, missing), other.get(name, missing)
            if one != two:
                one, two = _difference(one, two)
                raise ValueError(
                    f"All workers must have the same `{name}`. Received: {one} on worker 0, "
                    f"{two} on worker {number}"
                )


def _difference(one, two):
    """Return both values, or for two texts or lists the first lines or members that differ."""
    if isinstance(one, str) and isinstance(two, str):
        one, two = one.splitlines(), two.splitlines()
    if isinstance(one, list) and isinstance(two, list):
        for place in range(max(len(one), len(two))):
            parts = [repr(v[place]) if place < len(v) else "no more" for v in (one, two)]
            if parts[0] != parts[1]:
                return [f"{part} (number {place})" for part in parts]
    return repr(one), repr(two)
