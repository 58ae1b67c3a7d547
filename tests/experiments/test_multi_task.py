"""Scenes are rendered exactly, predictions are measured as on NYUv2, and the study runs."""

import importlib

import numpy as np
import pytest
import tensorflow as tf

TINY = {
    "scenes": 16,
    "epochs": 2,
    "seeds": 1,
    "rates": [1e-3],
    "groups": [
        ("base", ["Sum", "IMTLG"]),
        ("one task alone", ["segmentation", "depth", "normals"]),
    ],
    "one rate": {"groups": [("an unrelated task", ["Sum", "IMTLG"])]},
}


@pytest.fixture
def parts(experiment):
    """Return the experiment, and a function that gives a module of its folder."""
    return experiment("multi_task"), importlib.import_module


def empty_scene(scenes, **changes):
    light = np.array([0.0, 1.0, 0.0])
    albedos = np.full((2, 3), 0.5)
    scene = scenes.Scene(8.0, [], [], albedos, light, height=1.5, pitch=0.0)
    return scene._replace(**changes)


def test_floor_and_wall(parts):
    scenes = parts[1]("scenes")
    view = scenes.render(empty_scene(scenes))
    below = (np.arange(64) + 0.5 - 32) / 64  # the tangent of the angle below the horizon
    with np.errstate(divide="ignore"):
        depth = np.where(below > 1.5 / 8.0, 1.5 / below, 8.0)
    np.testing.assert_allclose(view.depth, np.tile(depth[:, None], 64), rtol=1e-6)
    floor = below > 1.5 / 8.0
    assert np.array_equal(view.segmentation, np.tile(~floor[:, None], 64))
    np.testing.assert_allclose(view.normals[floor], np.tile([0, 1, 0], (floor.sum(), 64, 1)))
    # The light stands above: the floor is lit, the wall only by what comes from everywhere.
    np.testing.assert_allclose(view.image[floor], 0.5, rtol=1e-6)
    np.testing.assert_allclose(view.image[~floor], 0.5 * scenes.AMBIENT, rtol=1e-6)


def test_a_camera_that_looks_down(parts):
    scenes = parts[1]("scenes")
    view = scenes.render(empty_scene(scenes, pitch=0.2), size=65)
    assert view.segmentation[32, 32] == 0
    assert view.depth[32, 32] == pytest.approx(1.5 / np.sin(0.2))
    np.testing.assert_allclose(view.normals[32, 32], [0, np.cos(0.2), -np.sin(0.2)], rtol=1e-5)


def test_a_sphere_and_its_shadow(parts):
    scenes = parts[1]("scenes")
    sphere = (np.array([0.0, 1.0, 5.0]), 1.0)
    scene = empty_scene(scenes, spheres=[sphere], albedos=np.full((3, 3), 0.5), height=1.0)
    view = scenes.render(scene, size=65)  # an odd number, so that a ray is the camera's axis
    assert view.depth[32, 32] == pytest.approx(4.0)
    np.testing.assert_allclose(view.normals[32, 32], [0.0, 0.0, -1.0], atol=1e-6)
    # The tangent cone: sin = radius / distance.
    rays = scenes.camera_rays(65)
    cosines = rays[:, 2] / np.linalg.norm(rays, axis=1)
    inside = (cosines > np.sqrt(1 - 0.2**2)).reshape(65, 65)
    assert np.array_equal(view.segmentation == 2, inside)
    # Under the sphere the floor is dark: where |(x, z) - (0, 5)| < 1.
    floor = view.segmentation == 0
    place = rays.reshape(65, 65, 3) * view.depth[..., None]
    shadow = np.hypot(place[..., 0], place[..., 2] - 5.0) < 1.0
    assert shadow[floor].any()
    dark = view.image[..., 0] < 0.4
    assert np.array_equal(dark[floor], shadow[floor])


def test_a_turned_box(parts):
    scenes = parts[1]("scenes")
    half = np.array([1.0, 0.5, 1.0])
    box = (np.array([0.0, 0.5, 5.0]), half, np.pi / 4)
    scene = empty_scene(scenes, boxes=[box], albedos=np.full((3, 3), 0.5), height=0.5)
    view = scenes.render(scene, size=65)
    assert view.depth[32, 32] == pytest.approx(5.0 - np.sqrt(2.0), rel=1e-4)  # an edge
    assert view.segmentation[32, 32] == 3
    root = np.sqrt(0.5)
    np.testing.assert_allclose(view.normals[32, 36], [root, 0.0, -root], atol=1e-6)
    np.testing.assert_allclose(view.normals[32, 28], [-root, 0.0, -root], atol=1e-6)
    # The right side lies in z - x = 5 - sqrt(2), at 45 degrees from the edge.
    x = scenes.camera_rays(65)[32 * 65 + 36, 0]
    assert view.depth[32, 36] == pytest.approx((5.0 - np.sqrt(2.0)) / (1.0 - x), rel=1e-6)


def test_what_is_nearest_is_seen(parts):
    """A march along the rays finds the same surfaces, by the solids' inside alone."""
    scenes = parts[1]("scenes")
    rng = np.random.default_rng(5)
    turned = [(np.array([0.0, 0.5, 4.0]), np.array([1.0, 0.5, 0.2]), 0.5)]
    turned = empty_scene(scenes, boxes=turned, albedos=np.full((3, 3), 0.5))
    for scene in (turned, scenes.random_scene(rng), scenes.random_scene(rng)):
        view = scenes.render(scene, size=32)
        rays = scenes.camera_rays(32) @ scenes.rotation(scene).T
        steps = np.arange(0.5, 13.0, 0.01)
        found = np.full(len(rays), -1)
        depth = np.zeros(len(rays))
        for t in steps:
            points = np.array([0.0, scene.height, 0.0]) + t * rays
            kinds = inside(scene, points)
            new = (found < 0) & (kinds >= 0)
            found[new], depth[new] = kinds[new], t
        same = found == view.segmentation.ravel()
        assert same.mean() > 0.99  # at edges the march may step over a corner
        assert np.max(np.abs(depth - view.depth.ravel())[same]) < 0.1
        assert np.median(np.abs(depth - view.depth.ravel())) < 0.01


def inside(scene, points):
    """Return the class of the solid that each point is in, or -1."""
    kinds = np.full(len(points), -1)
    kinds[points[:, 1] < 0.0] = 0
    kinds[points[:, 2] > scene.wall] = 1
    for center, radius in scene.spheres:
        kinds[np.linalg.norm(points - center, axis=1) < radius] = 2
    for center, half, yaw in scene.boxes:
        x, y, z = (points - center).T
        # About the vertical axis, from x towards -z.
        along = x * np.cos(yaw) - z * np.sin(yaw)
        across = x * np.sin(yaw) + z * np.cos(yaw)
        within = (abs(along) < half[0]) & (abs(y) < half[1]) & (abs(across) < half[2])
        kinds[within] = 3
    return kinds


def test_normals_are_those_of_the_depth(parts):
    """The points that the depth says, by finite differences, lie in the normals' planes."""
    scenes = parts[1]("scenes")
    rng, errors = np.random.default_rng(1), []
    for _ in range(5):
        view = scenes.render(scenes.random_scene(rng))
        points = scenes.camera_rays().reshape(64, 64, 3) * view.depth[..., None]
        across = points[1:-1, 2:] - points[1:-1, :-2]
        down = points[2:, 1:-1] - points[:-2, 1:-1]
        normal = np.cross(across, down)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        normals = view.normals[1:-1, 1:-1]
        errors.append(1.0 - np.abs(np.sum(normal * normals, axis=-1)))
        np.testing.assert_allclose(np.linalg.norm(view.normals, axis=-1), 1.0, rtol=1e-5)
        rays = scenes.camera_rays().reshape(64, 64, 3)
        assert np.all(np.sum(view.normals * rays, axis=-1) < 1e-6)  # towards the camera
    assert np.median(errors) < 1e-6
    assert np.mean(np.array(errors) < 1e-2) > 0.85  # not where two surfaces meet


def test_the_same_seed_gives_the_same_scenes(parts):
    scenes = parts[1]("scenes")
    x, labels = scenes.make_data(3, 7, 32)
    scenes.make_data.cache_clear()
    again, _ = scenes.make_data(3, 7, 32)
    other, _ = scenes.make_data(3, 8, 32)
    assert np.array_equal(x, again)
    assert not np.array_equal(x, other)
    assert x.shape == (3, 64, 64, 5)
    shapes = {task: label.shape for task, label in labels.items()}
    assert shapes == {
        "segmentation": (3, 32, 32),
        "depth": (3, 32, 32, 1),
        "normals": (3, 32, 32, 3),
    }


def test_measures(parts):
    measures = parts[1]("measures")
    wanted = np.array([[[0, 0], [1, 1]]])
    found = np.eye(2)[[[[0, 1], [1, 1]]]]
    measured = measures.measure("segmentation", found, wanted)
    assert measured == pytest.approx({"miou": 100 * (1 / 2 + 2 / 3) / 2, "pixel_accuracy": 75.0})
    depth = measures.measure("depth", np.array([[[[2.0], [5.0]]]]), np.array([[[[4.0], [4.0]]]]))
    assert depth == pytest.approx({"absolute": 1.5, "relative": 37.5})
    angles = np.radians([0.0, 10.0, 20.0, 25.0, 90.0])
    predicted = 3.0 * np.stack([np.sin(angles), 0 * angles, np.cos(angles)], -1)[None, None]
    normals = measures.measure("normals", predicted, np.array([0.0, 0.0, 1.0]))
    expected = {"mean": 29.0, "median": 20.0, "11": 40.0, "22": 60.0, "30": 80.0}
    assert normals == pytest.approx(expected, rel=1e-5)


def test_improvement(parts):
    measures = parts[1]("measures")
    base = {
        "segmentation": {"miou": 50.0, "pixel_accuracy": 80.0},
        "depth": {"absolute": 1.0, "relative": 20.0},
    }
    found = {
        "segmentation": {"miou": 55.0, "pixel_accuracy": 80.0},  # + 10 % and 0
        "depth": {"absolute": 0.8, "relative": 22.0},  # + 20 % and - 10 %
    }
    assert measures.improvement(found, base) == pytest.approx(5.0)
    assert measures.improvement(base, base) == 0.0


def test_a_ratio_from_a_similarity(parts):
    conflicts = parts[1]("conflicts")
    lengths = np.array([1.0, 1.5, 30.0])
    assert conflicts.ratio(2 * lengths / (1 + lengths**2)) == pytest.approx(lengths)


def test_a_step_without_a_cosine_does_not_move_others_into_another_epoch(parts, tmp_path):
    conflicts = parts[1]("conflicts")
    cosines = {1: 0.5, 2: -0.25, 6: 1.0}  # of six steps in three epochs
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        for step, cosine in cosines.items():
            tf.summary.scalar(f"{conflicts.COSINE}a/b/x-y", cosine, step)
            tf.summary.scalar(f"{conflicts.SIMILARITY}a/b/x-y", 0.8, step)  # lengths 1 and 2
    writer.close()
    (row,) = conflicts.read(tmp_path, epochs=3, steps=6)
    assert (row["layer"], row["pair"], row["steps"]) == ("a/b", "x-y", [2, 0, 1])
    np.testing.assert_allclose(row["cosine"], [0.125, np.nan, 1.0])
    np.testing.assert_allclose(row["conflicting"], [0.5, np.nan, 0.0])
    np.testing.assert_allclose(row["ratio"], [2.0, np.nan, 2.0], rtol=1e-6)


def test_differences_are_by_seed(parts):
    comparison = parts[1]("comparison")

    def results(*errors):
        return [{"measures": {"depth": {"absolute": e, "relative": 10.0 * e}}} for e in errors]

    found = comparison.differences(
        {
            ("base", "Sum"): results(1.0, 3.0),  # the mean is 2
            ("base", "PCGrad"): results(0.5, 3.5),
            ("base", "CAGrad"): results(1.0, 2.0),
            ("related", "Sum"): results(4.0, 4.0),
            ("related", "PCGrad"): results(2.0, 2.0),
            (comparison.ALONE, "depth"): results(9.0, 9.0),
        }
    )
    expected = {
        ("base", "PCGrad"): [25.0, -25.0],
        ("base", "CAGrad"): [0.0, 50.0],
        ("related", "PCGrad"): [50.0, 50.0],
    }
    assert found.keys() == expected.keys()
    for kind, values in expected.items():
        np.testing.assert_allclose(found[kind], values)


def test_differences_that_hold_among_many(parts):
    comparison = parts[1]("comparison")
    p = comparison.p_values({"a": np.array([1.0, 2.0, 3.0]), "b": np.array([1.0])})
    assert p["a"] == pytest.approx(0.0742, abs=1e-4) and np.isnan(p["b"])
    # 0.05 / 4, / 3, / 2: the third misses, so the fourth, below 0.05, does not count either.
    assert comparison.holm({"w": 0.03, "x": 0.012, "y": 0.04, "z": 0.016}) == {"x", "z"}
    assert comparison.holm({"x": 0.03, "y": np.nan}) == set()
    assert comparison.holm({"x": 0.02, "y": np.nan}) == {"x"}


def test_a_table_marks_what_differs(parts):
    report = parts[1]("report")
    found = {"ahead": np.array([1.0, 2.0]), "behind": np.array([-1.0, -2.0])}
    assert report._marked(found, "ahead", {"ahead"}) == "**1.5 ± 0.7**"
    assert report._marked(found, "behind", {"behind"}) == "*-1.5 ± 0.7*"
    assert report._marked(found, "ahead", set()) == "1.5 ± 0.7"


def test_every_training_is_in_one_group(parts):
    module = parts[0]
    size = module.SIZES["full"]
    groups = module.trainings(size)
    jobs = {kind: job for group in groups for kind, job in group.items()}
    assert len({str(job) for job in jobs.values()}) == sum(map(len, groups)) == len(jobs)
    assert jobs["an unrelated task", "PCGrad"]["tasks"] == [*module.TASKS, "unrelated"]
    name = "Sum, depth x 0.25"
    chosen = [("an unrelated task", [name]), ("one task alone", ["depth"])]
    first, second = module.trainings(size | {"groups": chosen})
    assert second["one task alone", "depth"]["tasks"] == ["depth"]
    by_hand = first["an unrelated task", name]
    assert by_hand["combiner"] == "Sum"
    assert by_hand["loss_weights"] == {"depth": 0.25, "unrelated": 0.25}
    at_one_rate = module.trainings(size | size["one rate"])
    assert sum(map(len, at_one_rate)) == 11 + 5 * 5


def test_each_training_has_its_own_rate_chosen_on_validation_data(parts, monkeypatch, tmp_path):
    module = parts[0]
    optima = {"Sum": 0.01, "PCGrad": 0.1}  # within the rates, and beyond them
    trained = []

    def train(study_, job, folder):
        trained.append(job)
        error = 1.0 + abs(np.log(job["rate"] / optima[job["combiner"]]))
        return {"measures": {"depth": {"absolute": error, "relative": error}}, "job": job}

    monkeypatch.setattr(module, "train", train)
    options = module.study.parser("").parse_args(["--processes", "1", "--out", str(tmp_path)])
    groups = [("base", ["Sum", "PCGrad"]), ("one task alone", ["depth"])]
    size = TINY | {"rates": [0.003, 0.01, 0.03], "seeds": 2, "groups": groups}
    study = module.study.Study(module.__file__, options, [])
    searched, results = module.train_all(study, size)
    assert list(searched["base", "PCGrad"]) == [0.003, 0.01, 0.03, 0.09, 0.3]
    rates = {("base", "Sum"): 0.01, ("base", "PCGrad"): 0.09, ("one task alone", "depth"): 0.01}
    assert results.keys() == rates.keys()
    finals = [result["job"] for kind in rates for result in results[kind]]
    assert [job["rate"] for job in finals] == [rate for rate in rates.values() for _ in range(2)]
    assert [job["seed"] for job in finals] == [0, 1] * 3 and module.GRID_SEED not in (0, 1)
    assert {job["data"] for job in finals} == {"test"}
    grids = [job for job in trained if job not in finals]
    assert len(grids) == sum(map(len, searched.values())) == 3 + 5 + 3
    assert {(job["data"], job["seed"]) for job in grids} == {("validation", module.GRID_SEED)}


def test_blocks_are_where_they_belong(parts):
    """A head's map has each place's block of pixels there."""
    network = parts[1]("network")
    model = network.build(["depth"], None, 2, 2, 1e-3, 10, {}, 0)
    layers = {layer.name: layer for layer in model.layers}
    blocks = np.arange(8 * 8 * 16.0).reshape(1, 8, 8, 16)
    values = blocks
    order = [layer for layer in model.layers if type(layer).__name__ in ("Reshape", "Permute")]
    for layer in order:
        values = layer(values)
    wanted = blocks.reshape(8, 8, 4, 4).transpose(0, 2, 1, 3).reshape(32, 32)
    np.testing.assert_array_equal(values[0, :, :, 0], wanted)
    assert layers["depth"].output.shape == (None, 32, 32, 1)


# An eager step still reads its data by tf.data's graph.
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_the_study(parts, monkeypatch, tmp_path):
    module = parts[0]
    monkeypatch.setitem(module.SIZES, "quick", TINY)
    monkeypatch.setattr(module, "TEST", 8)
    tf.config.run_functions_eagerly(True)  # tracing takes longer than so few steps
    try:
        module.run("--quick", "--out", tmp_path / "out")
    finally:
        tf.config.run_functions_eagerly(False)
    text = (tmp_path / "out/results.md").read_text()
    for line in (
        "| (one task alone) | 0.001, 0.001, 0.001 |",
        "| IMTLG | 0.001 |",
        "| an unrelated task |",
        "The rates of 0 of 5 kinds of training were searched, by 0 trainings;",
    ):
        assert line in text
    for layer in ("conv_1", "conv_4", "global"):
        assert f"| {layer} | " in text
    for name in ("multi_task.png", "multi_task_conflicts.png", "scenes.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
