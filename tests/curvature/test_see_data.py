"""Recorders see the data of a step."""

import contextlib

import keras
import numpy as np
import pytest

from keras_bp.recording import Recorder, RecordingTrainFunction


class _Data(Recorder):
    """Keeps the data that it sees."""

    def __init__(self, model):
        super().__init__(model)
        self.seen = []

    def see_data(self, data):
        self.seen.append(data)

    def see_update(self, gradients, variables):
        return contextlib.nullcontext()


class _Armed(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.model.train_function.arm()


@pytest.mark.parametrize("parts", [2, 3])
def test_a_recorder_sees_the_data_as_the_train_step_gets_them(parts):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    data = [np.ones((4, 2)), np.arange(4.0)[:, None], np.arange(1.0, 5.0)][:parts]
    recorder = _Data(model)
    RecordingTrainFunction.of(model).add(recorder)
    model.fit(
        *data[:2],
        sample_weight=(data + [None])[2],
        batch_size=2,
        shuffle=False,
        verbose=0,
        callbacks=[_Armed()],
    )
    assert [len(seen) for seen in recorder.seen] == [parts, parts]
    for part, given in enumerate(data):
        seen = np.concatenate([seen[part] for seen in recorder.seen])
        np.testing.assert_array_equal(seen, given)
