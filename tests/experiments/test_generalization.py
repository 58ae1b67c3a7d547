"""Rates are chosen on held-out images, batches are augmented from a seed, trainings resume."""

import json

import keras
import numpy as np
import pytest

SMALL = {
    "dataset": "digits",
    "width": 2,
    "epochs": 2,
    "batch_size": 16,
    "grid_images": 100,
    "held_out": 50,
    "seeds": 2,
}


@pytest.fixture
def script(experiment, monkeypatch):
    module = experiment("generalization")
    monkeypatch.setitem(module.SIZES, "quick", SMALL)
    monkeypatch.setattr("residual_network.STAGES", 2)
    compile_model = keras.Model.compile
    monkeypatch.setattr(
        keras.Model,
        "compile",
        lambda *args, **kwargs: compile_model(*args, run_eagerly=True, **kwargs),
    )
    return module


def data_of(script, images=48):
    x, x_test, y, y_test = script.image_data.load_images("digits")
    return x[:images], y[:images], x_test[:20], y_test[:20]


def test_rates_are_chosen_on_held_out_images_and_tested_once(script, monkeypatch, capsys):
    x, x_test, y, y_test = script.image_data.load_images("digits")
    seen = []

    def train(job, folder, data, callbacks):
        seen.append((job, data))
        # The best: 0.003 of Adam's, inside the grid; 0.3 of SGD's, at its edge, and 0.9 is worse.
        best = 0.003 if job["optimizer"].startswith("Adam") else 0.3
        distance = abs(np.log(job["rate"] / best))
        error = 10 + distance + job["seed"] * (2 if job["optimizer"] == "SGD" else 1)
        return {
            "error": error,
            "training_error": error - 4,
            "training_loss": 0.5,
            "loss": 0.75,
            "error_by_epoch": [20.0, error],
        }

    monkeypatch.setattr(script, "train", train)
    monkeypatch.setattr(script.study.gc, "collect", int)  # no models are left to collect
    script.run("--out", "out")
    grid = [(job, data) for job, data in seen if job["judged"] == "50 held out"]
    final = [(job, data) for job, data in seen if job["judged"] == "test images"]
    assert len(grid) == 4 * 4 + 2 and len(final) == 4 * 2
    for job, data in grid:
        assert job["images"] == 100 and job["seed"] == 0
        expected = x[:100], y[:100], x[100:150], y[100:150]
        assert all(map(np.array_equal, data, expected))
    for job, data in final:
        assert job["rate"] == (0.003 if job["optimizer"].startswith("Adam") else 0.3)
        assert all(map(np.array_equal, data, (x, y, x_test, y_test)))
    output = capsys.readouterr().out
    # Errors 11 and 12 of Adam's seeds, 12 and 14 of SGD's.
    assert (
        "| Adam | 0.003 | - | 11.50 ± 0.71 | 7.50 ± 0.71 | 4.00 ± 0.00 | 0.750 ± 0.000 |" in output
    )
    assert "| AdamW, decay 0.1 | 0.003 | 0.0003 |" in output
    assert "| SGD, momentum 0.9, decay 0.003 | 0.3 | 0.0009 |" in output
    assert "| without decay | 1.50 ± 0.71 | 0.2 | 1.50 ± 0.71 |" in output
    assert "| with decay | 0.00 ± 0.00 | - | 0.00 ± 0.00 |" in output
    assert "**0.3: 10.0**, 0.9: 11.1 |" in output
    assert script.pathlib.Path("out/generalization.png").read_bytes().startswith(b"\x89PNG")
    records = script.pathlib.Path("out/records.jsonl").read_text().splitlines()
    assert len(list(map(json.loads, records))) == len(seen)
    script.run("--out", "out")
    assert len(seen) == len(records)  # nothing is trained again


@pytest.mark.parametrize("optimizer", ["AdamW", "SGDW"])
def test_the_decays_are_those_of_the_weights_alone(script, optimizer):
    make, settings, rates = script.OPTIMIZERS[optimizer]
    model = script.build_model((8, 8, 1), 2)
    rate = rates[2]
    optimizer = make(rate, **settings)
    optimizer.build(model.trainable_variables)
    kernels = [weight.path.endswith("kernel") for weight in model.trainable_variables]
    for weight in model.trainable_variables:
        weight.assign(np.ones(weight.shape))
    optimizer.apply([weight * 0 for weight in model.trainable_variables])
    for weight, kernel in zip(model.trainable_variables, kernels, strict=True):
        # The share is the same for both: 3e-3 * 0.1 = 0.1 * 3e-3.
        np.testing.assert_allclose(weight.numpy(), 1 - 3e-4 * kernel, rtol=1e-6)


def test_an_interrupted_training_ends_as_if_it_was_not(script, tmp_path):
    this_study = script.study.Study(
        script.__file__, script.study.parser("").parse_args(["--processes", "1"])
    )
    data = data_of(script)
    job = script.job_of(SMALL, "SGDW", 0.1, 3, 48, "test images")

    def cut_short(folder):
        def stop(epoch, logs):
            if epoch == 1:
                raise KeyboardInterrupt

        return [*this_study.callbacks(folder), keras.callbacks.LambdaCallback(on_epoch_begin=stop)]

    keras.backend.clear_session()  # as a study does between trainings: the layers' names begin anew
    whole = script.train(job, tmp_path / "whole", data, this_study.callbacks)
    keras.backend.clear_session()
    with pytest.raises(KeyboardInterrupt):
        script.train(job, tmp_path / "cut", data, cut_short)
    keras.backend.clear_session()
    assert script.train(job, tmp_path / "cut", data, this_study.callbacks) == whole
    assert len(whole["error_by_epoch"]) == 2 and whole["error"] == whole["error_by_epoch"][-1]


def test_a_data_set_that_is_too_small_is_refused(script, monkeypatch):
    monkeypatch.setitem(script.SIZES, "quick", {**SMALL, "held_out": 2000})
    with pytest.raises(SystemExit, match="must have 2100 training images.*Received: 1437"):
        script.run()


@pytest.mark.parametrize("mirror", [False, True])
def test_batches_are_the_images_shifted_and_mirrored(script, mirror):
    x, y, *_ = data_of(script)
    y = np.arange(len(x))  # to know which is which
    batches = script.AugmentedBatches(x, y, 20, shift=2, mirror=mirror, seed=5)
    epochs = []
    for _ in range(2):
        epochs.append([batches[index] for index in range(len(batches))])
        batches.on_epoch_end()
    again = script.AugmentedBatches(x, y, 20, shift=2, mirror=mirror, seed=5)
    again.on_epoch_end()
    for (images, labels), (expected, expected_labels) in zip(
        reversed([again[1], again[0]]), epochs[1], strict=True
    ):
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, expected_labels)
    found = []
    for epoch in epochs:
        labels = np.concatenate([labels for _, labels in epoch])
        assert len(labels) == 40 and len(set(labels)) == 40
        for image, label in zip(
            np.concatenate([images for images, _ in epoch]), labels, strict=True
        ):
            found.append(movements(x[label], image, 2))
    assert all(found)
    moved = {movement for movements_ in found for movement in movements_}
    assert len(moved) >= (30 if mirror else 20)  # 40 ± 3 of 50 are expected, 24 ± 1 of 25
    assert any(mirrored for *_, mirrored in moved) == mirror


def test_an_epoch_and_its_batches_draw_from_streams_of_their_own(script, monkeypatch):
    x, y, *_ = data_of(script)
    keys, default_rng = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda key: keys.append(key) or default_rng(key))
    batches = script.AugmentedBatches(x, y, 20, shift=1, mirror=True, seed=5)
    for _ in range(2):
        assert len([batches[index] for index in range(len(batches))]) == 2
        batches.on_epoch_end()
    # Keys that differ by zeros at their end alone give the same stream.
    states = {tuple(np.random.SeedSequence(key).generate_state(4)) for key in keys}
    assert len(states) == len(keys) == 3 + 2 * 2


def movements(image, moved, shift):
    """Return which shifts down and right, and whether mirrored, lead from an image to another."""
    found = []
    height, width, _ = image.shape
    for down in range(-shift, shift + 1):
        for right in range(-shift, shift + 1):
            shifted = np.zeros_like(image)
            for row in range(height):
                for column in range(width):
                    if 0 <= row - down < height and 0 <= column - right < width:
                        shifted[row, column] = image[row - down, column - right]
            for mirrored, candidate in ((False, shifted), (True, shifted[:, ::-1])):
                if np.array_equal(candidate, moved):
                    found.append((down, right, mirrored))
    return found
