"""Data sets in memory: scikit-learn's digits, torchvision's CIFAR, and ``.npz`` files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from morphnet.data.images import ImageData, Split

#: The arrays of an ``.npz``; ``class_names`` is optional.
KEYS = ("train_images", "train_labels", "test_images", "test_labels")
CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
DIGITS_TRAINING_IMAGES = 300


def load_digits() -> ImageData:
    """scikit-learn's 1,797 handwritten digits, 8x8, grayscale: 300 to train on, 1,497 to test.

    The split is stratified and always the same. With more training images two networks would hardly differ.
    """
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    bunch = sklearn_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    chosen, rest = train_test_split(
        np.arange(len(labels)), train_size=DIGITS_TRAINING_IMAGES, stratify=labels, random_state=0
    )
    train, test = (Split(images[part], labels[part]) for part in (torch.from_numpy(chosen), torch.from_numpy(rest)))
    return _data("digits", train, test, tuple(str(digit) for digit in range(10)))


def load_cifar(name: str, root: Path, download: bool) -> ImageData:
    """CIFAR-10 or -100 by torchvision, which checks the files.

    Raises:
        FileNotFoundError: the files are missing or damaged and could not be downloaded.
    """
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, CIFAR[name])
    try:
        parts = [dataset(root, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        problem = f"is not in data.root={str(root)!r}, or not whole: give data={name} data.download=true to fetch it,"
        if isinstance(error, OSError):
            problem = f"could not be downloaded to data.root={str(root)!r} ({error}): give"
        elsewhere = "data.root=FOLDER if it lies elsewhere, or data.path=FILE, an .npz of it"
        raise FileNotFoundError(f"{name} {problem} {elsewhere}") from error
    train, test = (
        Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts
    )
    return _data(name, train, test, tuple(parts[0].classes))


def load_arrays(name: str, path: Path) -> ImageData:
    """An ``.npz`` of ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` (and ``class_names``).

    Images are uint8, ``(N, H, W, C)`` or ``(N, H, W)``; labels are whole numbers from 0. Nothing in the file
    is executed.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or an array is missing or wrong.
    """
    if not path.is_file():
        folder = "is a folder; an .npz file is needed here: a folder of images goes with data=folder or data=imagenet"
        problem = folder if path.is_dir() else "there is no such file"
        raise FileNotFoundError(f"data.path={path}: {problem}")
    if not zipfile.is_zipfile(path) and path.read_bytes()[:6] != b"\x93NUMPY":
        raise ValueError(f"data.path={path} is no .npz, or not whole: arrays saved by numpy.savez are needed")
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        with opened as file:
            arrays = {key: file[key] for key in file.files if key in (*KEYS, "class_names")}
    except Exception as error:
        raise ValueError(f"data.path={path} cannot be read as an .npz of plain arrays: {error}") from error
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise ValueError(f"data.path={path} holds no {', '.join(missing)}; needed are {', '.join(KEYS)}")
    splits = [_split(path, part, arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test")]
    train, test = splits
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"data.path={path}: training images are {tuple(train.images.shape[1:])} (channels, height, width), "
            f"test images {tuple(test.images.shape[1:])}"
        )
    count = int(max(split.labels.max() for split in splits)) + 1
    names = tuple(str(name) for name in np.atleast_1d(arrays["class_names"])) if "class_names" in arrays else ()
    names = names or tuple(map(str, range(count)))
    if len(names) < count:
        raise ValueError(f"data.path={path}: label {count - 1} has no name among the {len(names)} class_names")
    return _data(name, train, test, names)


def _split(path: Path, part: str, images: np.ndarray, labels: np.ndarray) -> Split:
    name, got = f"data.path={path}: {part}_images", f"{images.dtype} {images.shape}"
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise ValueError(f"{name} must be uint8 of shape (N, H, W, C) or (N, H, W); got {got}")
    if images.ndim == 4 and images.shape[3] > 4:
        raise ValueError(f"{name} has {images.shape[3]} channels in last place; at most 4 are expected")
    name, got = f"data.path={path}: {part}_labels", f"{labels.dtype} {labels.shape}"
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1] or labels.min() < 0:
        raise ValueError(f"{name} must be {len(images)} whole numbers from 0; got {got}")
    if labels.max() >= max(len(labels), 1000):
        raise ValueError(f"{name} goes up to {labels.max()}, with {len(labels)} images; number them from 0")
    tensor: Tensor = torch.from_numpy(images)
    tensor = tensor[:, None] if images.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()
    return Split(tensor, torch.from_numpy(labels.astype(np.int64)))


def _data(name: str, train: Split, test: Split, class_names: tuple[str, ...]) -> ImageData:
    channels = train.images.shape[1]
    return ImageData(name, train, test, class_names, (0.0,) * channels, (1.0,) * channels)
