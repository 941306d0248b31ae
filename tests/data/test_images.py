import numpy as np
import pytest
import torch
from torch.testing import assert_close

from morphnet.data import load_arrays, load_cifar, load_digits, with_normalisation, with_validation
from morphnet.data.pixels import Normaliser


def _arrays(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8),
        "train_labels": np.arange(40) % 4,
        "test_images": rng.integers(0, 256, (8, 6, 5, 3), dtype=np.uint8),
        "test_labels": np.arange(8) % 4,
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def _save(path, **changes):
    np.savez(path, **_arrays(**changes))
    return path


def test_digits_are_300_and_1497_real_images_always_the_same():
    data = load_digits()
    assert (len(data.train), len(data.test)) == (300, 1497)
    assert data.input_size == (1, 8, 8)
    assert data.train.images.dtype == torch.uint8
    assert torch.bincount(data.train.labels).min() >= 28
    assert torch.equal(data.train.images, load_digits().train.images)
    both = torch.cat([data.train.images, data.test.images]).flatten(1)
    assert len(both.unique(dim=0)) == 1797


def test_own_normalisation_gives_mean_0_and_deviation_1():
    data = with_normalisation(load_digits(), "own")
    x = Normaliser(data.mean, data.std, torch.device("cpu"))(data.train.images).double()
    assert_close(x.mean(), torch.zeros(()).double(), atol=1e-5, rtol=0)
    assert_close(x.std(correction=0), torch.ones(()).double(), atol=1e-5, rtol=0)


def test_arrays_of_ones_own_are_read(tmp_path):
    path = _save(tmp_path / "a.npz", class_names=np.array(["a", "b", "c", "d"]))
    data = load_arrays("mine", path)
    assert data.class_names == ("a", "b", "c", "d")
    assert data.input_size == (3, 6, 5)
    expected = torch.from_numpy(_arrays()["train_images"]).permute(0, 3, 1, 2)
    assert torch.equal(data.train.images, expected)
    gray = load_arrays(
        "gray", _save(tmp_path / "g.npz", **{key: _arrays()[key][..., 0] for key in ("train_images", "test_images")})
    )
    assert gray.input_size == (1, 6, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "holds no test_labels"),
        ({"train_images": np.zeros((40, 6, 5, 3))}, "train_images must be uint8"),
        ({"train_images": np.zeros((40, 3, 6, 5), np.uint8)}, "5 channels in last place"),
        ({"train_images": np.zeros((0, 6, 5, 3), np.uint8)}, "train_images must be uint8"),
        ({"train_labels": np.zeros(3, int)}, "must be 40 whole numbers"),
        ({"train_labels": np.zeros(40)}, "whole numbers from 0"),
        ({"train_labels": np.full(40, -1)}, "whole numbers from 0"),
        ({"test_images": np.zeros((8, 7, 5, 3), np.uint8)}, "test images"),
        ({"class_names": np.array(["a"])}, "label 3 has no name"),
    ],
)
def test_wrong_arrays_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_arrays("mine", _save(tmp_path / "a.npz", **changes))


def test_pickled_arrays_and_other_files_are_refused(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        train_images=np.array([object()]),
        **{k: v for k, v in _arrays().items() if k != "train_images"},
    )
    with pytest.raises(ValueError, match="plain arrays"):
        load_arrays("mine", tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match=r"is no \.npz, or not whole"):
        load_arrays("mine", tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", np.zeros(3))
    with pytest.raises(ValueError, match="cannot be read"):
        load_arrays("mine", tmp_path / "c.npy")
    with pytest.raises(FileNotFoundError, match=r"data\.path="):
        load_arrays("mine", tmp_path / "none.npz")


def test_cifar_that_is_not_there_says_what_to_set(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.download=true"):
        load_cifar("cifar10", tmp_path, download=False)


def test_validation_is_stratified_seeded_and_taken_from_training(tmp_path):
    data = load_arrays("mine", _save(tmp_path / "a.npz"))
    split = with_validation(data, 8, seed=1)
    assert (len(split.train), len(split.test)) == (32, 8)
    assert torch.bincount(split.test.labels).tolist() == [2, 2, 2, 2]
    assert split.evaluated_on == "validation"
    assert torch.equal(split.test.images, with_validation(data, 8, seed=1).test.images)
    assert not torch.equal(split.test.images, with_validation(data, 8, seed=2).test.images)
    together = torch.cat([split.train.images, split.test.images]).flatten(1).unique(dim=0)
    assert len(together) == 40
    for count in (-1, 1, 40, 400):
        with pytest.raises(ValueError, match=f"data.validation={count}"):
            with_validation(data, count, seed=0)


@pytest.mark.parametrize(
    "value", ["mine", 3, [0.5], [[0.5], [0.5]], [[0.5] * 3, [0.5, 0.5, 0.0]], [["a"] * 3, [1] * 3], [[0.5] * 3] * 3]
)
def test_wrong_normalisation_is_refused_with_what_is_expected(tmp_path, value):
    data = load_arrays("mine", _save(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match=r"data\.normalize"):
        with_normalisation(data, value)
