"""The checkpoints of several workers, each with a directory of its own.

That a training over two workers goes on where it was is in distribution/test_two_workers.py.
"""

import json
import threading
import types

import numpy as np
import pytest
import tensorflow as tf
from resumable_cases import make_model

from keras_bp.callbacks import ResumableTraining
from keras_bp.callbacks.resumable._checkpoints import Checkpoints, RefusedError


def of_two_workers(folder, places, damaged=(), refused=()):
    """Return what two workers read, each of which has written checkpoints at some places."""
    barrier, said = threading.Barrier(2, timeout=60), [None, None]
    read, errors = [None, None], [None, None]

    def work(number):
        def gather(facts):
            said[number] = json.loads(json.dumps(facts))
            barrier.wait()
            everything = list(said)
            barrier.wait()
            return everything

        def value(place, entries):
            if (number, place) in refused:
                raise RefusedError(f"worker {number} refuses")
            return place, float(entries.array("value", tf.float32, ()))

        checkpoints = Checkpoints(folder / str(number), keep=3)
        for place in places[number]:
            checkpoints.save(place, {"value": tf.constant(10.0 * place[0] + place[1])}, {})
        checkpoints.failure(wait=True)
        for place in [p for n, p in damaged if n == number]:
            name = f"epoch-{place[0]}" + (f"-batch-{place[1]}" if place[1] else "")
            [data] = (folder / str(number)).glob(f"{name}.data-*")
            data.write_bytes(data.read_bytes()[:-3])
        try:
            read[number] = checkpoints.newest(value, gather)
        except ValueError as error:
            errors[number] = str(error)
        checkpoints.close()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert read[0] == read[1]
    return read[0], errors


FOUR_PLACES = [(1, 0), (1, 7), (1, 14), (2, 0)]


@pytest.mark.filterwarnings("ignore:The checkpoint epoch")
@pytest.mark.filterwarnings("ignore:There is no checkpoint of all")
def test_all_workers_take_the_same_checkpoint(tmp_path):
    one, ahead = FOUR_PLACES[:3], FOUR_PLACES
    for number, (places, damaged, expected) in enumerate(
        [
            ((ahead, ahead), (), (2, 0)),
            ((ahead, one), (), (1, 14)),
            ((one, ahead), (), (1, 14)),
            ((ahead, one), [(1, (1, 14))], (1, 7)),  # which the first one could read
            ((ahead, one), [(0, (1, 14))], (1, 7)),
            (([(1, 0)], []), (), None),  # killed while the first checkpoint was written
        ]
    ):
        found, errors = of_two_workers(tmp_path / str(number), places, damaged)
        assert errors == [None, None]
        assert found == (expected and (expected, 10.0 * expected[0] + expected[1]))
    damaged = [(0, place) for place in FOUR_PLACES]
    _, errors = of_two_workers(tmp_path / "none", (ahead, ahead), damaged[1:])
    assert all("where none can be read" in error for error in errors)
    # Also one of another training, of which a worker that is new has nothing.
    for name, places in ("both", (ahead, ahead)), ("new", (ahead, [])):
        _, errors = of_two_workers(tmp_path / name, places, refused=[(0, (2, 0))])
        assert errors == ["worker 0 refuses"] * 2


def test_workers_ask_once_a_second(tmp_path, monkeypatch):
    """Whether one was told to end: however long a batch of training or of validation takes."""
    resumable, now, asked = ResumableTraining(tmp_path), [0.0], []

    def total(said):
        asked.append(now[0])
        return said

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    resumable.set_model(make_model())
    monkeypatch.setattr(resumable, "_interrupts", types.SimpleNamespace(received=None))
    monkeypatch.setattr(resumable, "_sum", total)
    resumable.on_test_end()
    for number, seconds, begin in (
        (5, 0.4, resumable.on_test_begin),
        (3000, 0.001, resumable.on_test_end),
        (5, 0.4, lambda: None),
    ):
        for _ in range(number):
            now[0] += seconds
            resumable._asked()
        begin()
    assert np.diff([*asked, now[0]]).max() < 1.5
    assert len(asked) < 30
