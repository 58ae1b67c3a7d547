"""Image data of a file, and the words for a file that holds something else."""

import numpy as np
import pytest

from experiments import image_data

KEYS = {"x_train": 40, "x_test": 10, "y_train": 40, "y_test": 10}


@pytest.fixture
def arrays():
    """Return arrays as Keras has them: bytes, and CIFAR-10's labels in a column."""
    random = np.random.default_rng(0)
    return {
        name: random.integers(0, 256, (n, 32, 32, 3)).astype("uint8")
        if name.startswith("x")
        else random.integers(0, 10, (n, 1))
        for name, n in KEYS.items()
    }


def test_images_are_standardized_by_the_training_images(arrays, tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays)
    x, x_test, y, y_test = image_data.load_images("cifar10", tmp_path)
    assert (x.dtype, y.dtype, y.shape) == ("float32", "int64", (40,))
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0.0, atol=1e-3)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1.0, atol=1e-3)
    train = arrays["x_train"].astype("float64")
    expected = (arrays["x_test"] - train.mean((0, 1, 2))) / train.std((0, 1, 2))
    np.testing.assert_allclose(x_test, expected, atol=1e-3)
    assert sorted(y) == sorted(arrays["y_train"].ravel())
    np.testing.assert_array_equal(y_test, arrays["y_test"].ravel())
    assert len(image_data.load_images("cifar10", tmp_path, 7)[0]) == 7


@pytest.mark.parametrize("values", [(254, 255), (101,) * 99 + (255,)])
def test_many_images_are_standardized_exactly(values, arrays, tmp_path):
    # Sums of 400 images of such bytes, and of their squares, are beyond float32's integers: in such
    # sums the first mean is wrong by a deviation or more, the second deviation by 5e-4 of itself.
    random = np.random.default_rng(0)
    arrays["x_train"] = random.choice(np.array(values, "uint8"), (400, 32, 32, 3))
    arrays["y_train"] = np.zeros(400, "int64")
    np.savez(tmp_path / "cifar10.npz", **arrays)
    x, *_ = image_data.load_images("cifar10", tmp_path)
    # Rounded to float32, a mean of 254.5 is off by up to 1.5e-5 of the deviation of 0.5.
    np.testing.assert_allclose(x.mean((0, 1, 2), dtype="float64"), 0.0, atol=2e-5)
    np.testing.assert_allclose(x.std((0, 1, 2), dtype="float64"), 1.0, atol=1e-5)


def test_digits_need_no_file():
    x, x_test, y, y_test = image_data.load_images("digits")
    assert x.shape == (1437, 8, 8, 1) and x_test.shape == (360, 8, 8, 1)
    assert set(y) == set(y_test) == set(range(10))


FAULTS = {
    "a label too high": (
        "y_test",
        lambda y: y + 10,
        "0 to 9 in y_test. Received: int64 from 1",
    ),
    "a label below 0": ("y_train", lambda y: y - 1, "in y_train. Received: int64 from -1 to"),
    "labels that are no integers": ("y_test", lambda y: y + 0.5, "y_test. Received: float64 from"),
    "labels in words": ("y_train", lambda y: y.astype(str), "in y_train. Received: <U"),
    "one label too few": ("y_test", lambda y: y[1:], r"Received: \(10, 32, 32, 3\) and \(9, 1\)$"),
    "another shape": ("x_train", lambda x: x[..., 0], r"Received: \(40, 32, 32\) and"),
    "NaN": ("x_train", lambda x: np.where(x, x, np.nan), "x_train. Received: NaN or infinity$"),
    "complex": ("x_test", lambda x: x + 1j, "numbers in x_test. Received: complex128$"),
    "objects": ("x_test", lambda x: x.astype(object), "must be a whole file as np.savez"),
    "an array is missing": ("y_train", None, "Received: x_train, x_test, y_test$"),
}


@pytest.mark.parametrize(("key", "harm", "said"), FAULTS.values(), ids=list(FAULTS))
def test_what_is_said_of_arrays_that_are_no_images_or_labels(key, harm, said, arrays, tmp_path):
    value = arrays.pop(key)
    if harm:
        arrays[key] = harm(value)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    with pytest.raises(SystemExit, match=said) as raised:
        image_data.load_images("cifar10", tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'cifar10.npz'} must ")


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-500])


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def one_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def no_archive(path):
    path.write_text("Not found\n")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut_off, "not an .npz file, or only a part of one$"),
        (change_a_byte, "[^ ]"),  # zipfile's words or zlib's
        (one_array, "not an .npz file"),
        (no_archive, "not an .npz file"),
        (lambda path: path.write_text(""), "not an .npz file"),
    ],
)
def test_a_broken_file_is_named(harm, said, arrays, tmp_path):
    path = tmp_path / "cifar10.npz"
    np.savez_compressed(path, **arrays)
    harm(path)
    whole = "cifar10.npz must be a whole file as np.savez writes it. Received: "
    with pytest.raises(SystemExit, match=whole + said):
        image_data.load_images("cifar10", tmp_path)


def test_a_folder_without_the_file_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"holds mnist.npz. Received: .*, which lacks it$"):
        image_data.load_images("mnist", tmp_path)
    with pytest.raises(SystemExit, match="which is no folder$"):
        image_data.load_images("mnist", tmp_path / "nowhere")
