"""ResumableTraining where a checkpoint is damaged or of another training, and with bad input."""

import warnings

import keras
import numpy as np
import pytest
from resumable_cases import OPTIMIZERS, Cut, fit, make_model, several, state

from keras_bp.callbacks import ResumableTraining

L = keras.layers


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)


def checkpoints(directory):
    return sorted(directory.glob("epoch-*.data-*"), key=lambda p: int(p.name[6:].split(".")[0]))


@pytest.mark.parametrize("name", ["several", "scaled"])
def test_a_corrupt_checkpoint_is_passed_over(name, data, tmp_path):
    data = [array[:12] for array in data]
    whole = make_model(OPTIMIZERS[name]())
    fit(whole, data)
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(OPTIMIZERS[name]()), data, ResumableTraining(tmp_path), Cut(2, 1))
    older, newest = checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:1000])
    model = make_model(OPTIMIZERS[name]())
    with pytest.warns(RuntimeWarning, match=r"epoch-2 cannot be read; trying an earlier one"):
        fit(model, data, ResumableTraining(tmp_path))
    np.testing.assert_equal(state(model), state(whole))


def test_no_checkpoint_can_be_read(data, tmp_path):
    data = [array[:6] for array in data]
    fit(make_model(), data, ResumableTraining(tmp_path), epochs=2)
    for path in checkpoints(tmp_path):
        path.write_bytes(b"")
    model = make_model()
    before = state(model)
    with (
        pytest.warns(RuntimeWarning, match="cannot be read"),
        pytest.raises(ValueError, match=r"`backup_dir` must hold .*Received.*none can be read"),
    ):
        fit(model, data, ResumableTraining(tmp_path))
    np.testing.assert_equal(state(model)[: len(before)], before)


@pytest.mark.parametrize(
    "make", [lambda: make_model(units=9), lambda: make_model("sgd")], ids=["model", "optimizer"]
)
def test_a_checkpoint_of_another_model(make, data, tmp_path):
    data = [array[:6] for array in data]
    fit(make_model(), data, ResumableTraining(tmp_path), epochs=1)
    with pytest.raises(ValueError, match=r"`backup_dir` .*same model.*Received: .* number \d+ is"):
        fit(make(), data, ResumableTraining(tmp_path))


@pytest.mark.parametrize("wrap", [keras.optimizers.LossScaleOptimizer, several])
def test_a_checkpoint_of_another_optimizer_inside_of_one(wrap, data, tmp_path):
    """The variables of both look alike."""
    data = [array[:6] for array in data]
    adam, lamb = keras.optimizers.Adam, keras.optimizers.Lamb
    fit(make_model(wrap(adam())), data, ResumableTraining(tmp_path), epochs=1)
    with pytest.raises(ValueError, match='"Adam"\' there and .*"Lamb"\' here'):
        fit(make_model(wrap(lamb())), data, ResumableTraining(tmp_path))
    fit(make_model(wrap(adam())), data, ResumableTraining(tmp_path), epochs=1)


def test_bad_input(data, tmp_path):
    with pytest.raises(TypeError, match=r"`backup_dir` must be a path.*Received: backup_dir=None"):
        ResumableTraining(None)
    with pytest.raises(ValueError, match=r"`backup_dir` must be a path.*Received: backup_dir=''"):
        ResumableTraining("")
    with pytest.raises(TypeError, match=r"`callbacks` must be a list .*Received: callbacks=3"):
        ResumableTraining("c", callbacks=3)
    for wrong in "stop", ["warn"]:
        with pytest.raises(ValueError, match=r"`save_failure` must be one of .*Received: save_f"):
            ResumableTraining("c", save_failure=wrong)
    for wrong, error in (0, ValueError), ("batch", TypeError):
        with pytest.raises(error, match=rf"`save_freq` must be .*Received: save_freq={wrong!r}"):
            ResumableTraining("c", save_freq=wrong)
    with pytest.raises(ValueError, match=r"`save_seconds` must be .*Received: save_seconds=0"):
        ResumableTraining("c", save_seconds=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`backup_dir` must name .*Received: backup_dir="):
        fit(make_model(), data, ResumableTraining(tmp_path / "file" / "below"))
    by_name = Subclass()
    with warnings.catch_warnings(action="ignore"):  # Keras's, that its state is not built
        by_name.build((None, 4))
    assert by_name.built
    for unbuilt in keras.Sequential([L.Dense(1)]), by_name:
        unbuilt.compile("sgd", "mse")
        with pytest.raises(ValueError, match=r"needs a model that is built .*Received: model"):
            fit(unbuilt, data, ResumableTraining(tmp_path / "c"))
