"""Feedback alignment by depth: networks, rates from held-out images, epochs to an accuracy."""

import re

import numpy as np
import pytest

from keras_bp.feedback import alignment

TINY = {
    "data": "digits",
    "channels": (2, 2, 4),
    "depths": (3,),
    "rates": (0.01,),
    "grid": {"images": 64, "epochs": 1, "held_out": 64},
    "images": 128,
    "epochs": 2,
    "seeds": 2,
    "batch_size": 64,
    "budgets": ((128, 3),),
    "shift": 1,
    "budget_seeds": 1,
    "targets": (0.05, 0.999),
    "gigabytes": 0.1,
}


@pytest.fixture
def feedback(experiment):
    return experiment("feedback_alignment")


def test_script_leaves_tables_and_a_picture_and_trains_nothing_twice(
    feedback, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(feedback, "RULES", ("FA", "norm"))
    monkeypatch.setitem(feedback.SIZES, "quick", TINY | {"seeds": 1})
    feedback.run("--quick")
    out = tmp_path / "tb_logs/feedback_alignment/quick"
    text = (out / "results.md").read_text()
    number = r" \d+\.\d\d ± \d+\.\d\d "
    for rule, ahead, angles in (
        ("FA", r" -?\d+\.\d ± 0\.0 ", r" \d+ ± \d+ \| \d+ ± \d+ "),
        ("norm", " - ", r" - \| - "),
    ):
        expected = rf"\| 3 \| {rule} \| 0.01 \|{number}\|{ahead}\| 0\.0 ± 0\.0 \| - \|{angles}\|\n"
        assert len(re.findall(expected, text)) == 1
        assert re.search(rf"\n\| {rule} \| \*\*0.01: \d+\.\d\*\* \|\n", text)
    assert re.findall(rf"\| 128 \| 3 \| 384 \| 1 \|{number}\|{number}\|\n", text)
    assert (out / "feedback_alignment.png").stat().st_size > 10_000
    monkeypatch.setattr(feedback, "train", None)
    feedback.run("--quick")
    assert "6 trainings" in capsys.readouterr().out


def test_rates_are_those_of_the_lowest_error_on_held_out_images(feedback):
    ran = []

    class FakeStudy(feedback.study.Study):
        def __init__(self):
            pass

        def run(self, jobs, train_job):
            ran.extend(jobs)
            return [{"accuracy": 1 - abs(job["rate"] - best(job))} for job in jobs]

    def best(job):
        return {"FA": 0.2, "DFA": 0.45}.get(job["rule"], 0.1)

    size = {**TINY, "depths": (3, 6), "rates": (0.05, 0.1, 0.2, 0.3)}
    searched, finals, longer = feedback.study_jobs(FakeStudy(), size, None)
    grid = [job for job in ran if job["held_out"]]
    final = [job for job in ran if not job["held_out"]]
    assert ran == grid + final and len(grid) == 2 * (6 * 4 + 2) and len(final) == 26
    assert all(job["held_out"] == 64 for job in grid)
    assert {job["seed"] for job in grid}.isdisjoint(job["seed"] for job in final)
    kinds = [(depth, rule) for depth in (3, 6) for rule in feedback.RULES]
    assert list(finals) == list(searched) == kinds
    assert searched[6, "DFA"] == pytest.approx(
        {0.05: 40, 0.1: 35, 0.2: 25, 0.3: 15, 0.4: 5, 0.5: 5}
    )
    for job in final:
        expected = {"FA": 0.2, "DFA": 0.4}.get(job["rule"], 0.1)
        assert job["rate"] == expected
    assert list(longer) == [(128, 2), (128, 3)]
    assert longer[128, 2] == (finals[3, "BP"], [])
    plain, augmented = longer[128, 3]
    assert len(plain) == len(augmented) == 1
    # Kinds first, then the budgets: the images as they are, then shifted.
    assert [job.get("shift") for job in final[-2:]] == [None, 1]


@pytest.mark.parametrize("rule", ["frozen", "norm"])
def test_controls_train_all_but_the_normalized_random_convolutions(feedback, rule):
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(64, 8, 8, 1)).astype("float32")
    y = rng.integers(10, size=64)
    model, twin = (
        feedback.networks.build(rule, 3, (8, 8, 1), (2, 3, 4), seed=1) for rule in (rule, "BP")
    )
    learning = {"frozen": ["output"], "norm": ["normalization", "output"]}[rule]
    names = [layer.name for layer in model.layers if layer.trainable_weights]
    assert sorted({name.split("_")[0] for name in names}) == learning
    np.testing.assert_array_equal(model(x, training=True), twin(x, training=True))
    before = {weight.path: weight.numpy() for weight in model.weights}
    model.compile("adam", feedback.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, verbose=0)
    for weight in model.weights:
        changes = "conv" not in weight.path
        assert np.any(weight.numpy() != before[weight.path]) == changes


def test_a_rule_is_ahead_of_norm_by_the_mean_difference_of_the_seeds(feedback):
    accuracies = {"BP": (0.9, 0.7), "norm": (0.5, 0.6)}
    finals = {
        (3, rule): [{"accuracy": value, "curve": [value], "angles": []} for value in values]
        for rule, values in accuracies.items()
    }
    searched = dict.fromkeys(
        ((3, rule) for rule in feedback.RULES), {0.001: 30.0, 0.01: 20.0, 0.03: 25.0}
    )
    text = feedback.tables(TINY, searched, finals, {(128, 2): (finals[3, "BP"], [])})
    assert "| 3 | BP | 0.01 | 20.00 ± 14.14 | 25.0 ± 21.2 |" in text  # 40 and 10 points
    assert "| 3 | norm | 0.01 | 45.00 ± 7.07 | - |" in text
    assert "| BP | 0.001: 30.0, **0.01: 20.0**, 0.03: 25.0 |\n" in text


def test_grid_never_sees_the_test_images(feedback):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, 8, 8, 1)).astype("float32")
    y = rng.integers(10, size=128)
    job = {**TINY["grid"], "rule": "BP", "depth": 3, "channels": (2, 2, 4), "rate": 0.01}
    result = feedback.train({**job, "seed": 0, "batch_size": 64}, (x, None, y, None), [])
    assert list(result) == ["accuracy", "curve"] and len(result["curve"]) == 1


@pytest.mark.parametrize(
    ("accuracy", "curve", "expected"),
    [
        (0.4, [0.3, 0.5, 0.2], 1.5),
        (0.4, [0.4, 0.5], 1.0),
        (0.2, [0.3], 0.5),
        (0.05, [0.3], 0.0),
        (0.4, [0.3, 0.2, 0.5], 2 + 2 / 3),
        (0.4, [0.3, 0.2], np.nan),
    ],
)
def test_epochs_to_an_accuracy(feedback, accuracy, curve, expected):
    assert feedback.epochs_to(accuracy, curve) == pytest.approx(expected, nan_ok=True)


def test_epochs_to_an_accuracy_invert_a_rising_curve(feedback):
    curve = np.sort(np.random.default_rng(0).uniform(0.1, 0.9, size=7))
    for epochs in np.linspace(0, 7, 29):
        accuracy = np.interp(epochs, range(8), [0.1, *curve])
        assert feedback.epochs_to(accuracy, curve) == pytest.approx(epochs)


@pytest.mark.parametrize("depth", [3, 10])
def test_rules_share_the_network_and_its_kernels(feedback, depth):
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
    y = np.arange(16) % 10
    outputs = {}
    for rule in feedback.RULES:
        model = feedback.networks.build(rule, depth, (8, 8, 1), (2, 3, 4), seed=1)
        kernels = [w for w in model.weights if w.name == "kernel"]
        assert [len(kernel.shape) for kernel in kernels] == [4] * depth + [2]
        outputs[rule] = model(x).numpy()
        model.compile(loss="sparse_categorical_crossentropy")
        angles = [layer.angle for layer in alignment(model, x, y).values()]
        assert angles[-1] < 1e-3  # the output layer has its true gradient
        assert (angles[0] < 1e-3) == (rule in ("BP", "frozen", "norm"))
        np.testing.assert_array_equal(outputs[rule], outputs["BP"])


def test_sizes_of_images_and_stages(feedback):
    build = feedback.networks.build
    for shape, sides in ((8, 8, 1), [8, 4, 2]), ((32, 32, 3), [16, 8, 4]):
        model = build("BP", 10, shape, (2, 3, 4), seed=0)
        shapes = [layer.output.shape[1:] for layer in model.layers if "conv" in layer.name]
        expected = zip(sides, (2, 3, 4), (3, 3, 4), strict=True)
        assert shapes == [(n, n, filters) for n, filters, count in expected for _ in range(count)]


def test_missing_data_are_said_before_the_start(feedback, tmp_path, monkeypatch):
    monkeypatch.setitem(feedback.SIZES["full"], "gigabytes", 0.1)
    with pytest.raises(SystemExit, match=r"--data-dir must .* cifar10.npz. Received: .*/none"):
        feedback.run("--full", "--data-dir", tmp_path / "none")
    assert not (tmp_path / "tb_logs").exists()
