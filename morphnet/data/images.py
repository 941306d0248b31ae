"""Image data sets: what is trained on, what errors are counted on, and how pixels become numbers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphnet.data.files import FileSplit, Unreadable
from morphnet.data.pixels import IMAGENET, statistics_of_counts


@dataclass(frozen=True)
class Split:
    """Images, uint8 of shape ``(N, C, H, W)``, and their labels, int64 of shape ``(N,)``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return (channels, height, width)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, indices: Tensor) -> Split:
        """The split of the images ``indices``, which are numbers or a mask."""
        indices = indices.to(self.device)
        return Split(self.images[indices], self.labels[indices])

    def describe(self, digest: Any) -> None:
        """Adds every image and label to a hash."""
        for tensor in (self.images, self.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of every channel over all pixels, in [0, 1]."""
        return statistics_of_counts(
            np.stack([np.bincount(c.cpu().numpy().ravel(), minlength=256) for c in self.images.unbind(1)])
        )


@dataclass(frozen=True)
class ImageData:
    """A data set: training images, test images, and their normalisation.

    Attributes:
        name: of the data set in records.
        train, test: the two splits, in memory or in files; ``test`` is the validation split if there is one.
        class_names: one name per label.
        mean, std: per channel, for pixels in [0, 1].
        evaluated_on: ``test`` or ``validation``.
        unreadable: the files that could not be decoded, for images in files.
    """

    name: str
    train: Split | FileSplit
    test: Split | FileSplit
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    evaluated_on: str = "test"
    unreadable: Unreadable | None = None

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.image_size

    @property
    def views(self) -> int:
        """10 if errors are also counted over ten views of each image at the end of a phase, else 1."""
        return 1 if isinstance(self.test, Split) else self.test.viewing.views

    @property
    def viewing(self) -> dict[str, Any] | None:
        """How images in files are evaluated, as plain values; None in memory."""
        return None if isinstance(self.test, Split) else asdict(self.test.viewing)

    def fingerprint(self) -> str:
        """sha256 over all images and labels (for files, their names); it tells data sets of one name apart."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            split.describe(digest)
        return digest.hexdigest()

    def to(self, device: torch.device) -> ImageData:
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def with_normalisation(data: ImageData, normalise: str | Sequence[Sequence[float]]) -> ImageData:
    """``data`` with its mean and standard deviation set.

    Args:
        normalise: ``own`` (of the training images), ``imagenet``, or ``[[means], [standard deviations]]``.

    Raises:
        ValueError: it is none of these, or does not have one positive deviation per channel.
    """
    channels = data.input_size[0]
    expected = f"data.normalize={normalise!r}; expected own, imagenet or [[means],[standard deviations]]"
    if isinstance(normalise, str):
        if normalise not in ("own", "imagenet"):
            raise ValueError(expected)
        mean, std = data.train.channel_statistics() if normalise == "own" else IMAGENET
    else:
        try:
            mean, std = (tuple(float(v) for v in values) for values in normalise)
        except (TypeError, ValueError):
            raise ValueError(f"{expected}, such as [[0.5,0.5,0.5],[0.25,0.25,0.25]]") from None
    values = (*mean, *std)
    if len(mean) != channels or len(std) != channels or min(std) < 1e-6 or not all(map(math.isfinite, values)):
        raise ValueError(
            f"data.normalize: {channels} means and {channels} standard deviations above 0 are needed, one each "
            f"per channel; got {list(mean)} and {list(std)}"
        )
    return replace(data, mean=mean, std=std)


def with_validation(data: ImageData, count: int, seed: int) -> ImageData:
    """``data`` with a stratified part of its training images as its test images.

    Args:
        count: validation images; each class gives the same share.
        seed: of the choice.

    Raises:
        ValueError: a class would be left without an image on one of the two sides.
    """
    total = len(data.train)
    if not 0 < count < total:
        raise ValueError(f"data.validation={count}: {data.name} has {total} training images; give fewer, or 0 for none")
    generator = torch.Generator().manual_seed(seed)
    labels = data.train.labels.cpu()
    held_out = []
    for label in range(data.classes):
        members = (labels == label).nonzero().flatten()
        share = round(len(members) * count / total)
        if not 0 < share < len(members):
            raise ValueError(
                f"data.validation={count}: class {data.class_names[label]!r} has {len(members)} training images, of "
                f"which {share} would be cut off; every class needs some on both sides"
            )
        held_out.append(members[torch.randperm(len(members), generator=generator)[:share]])
    validation = torch.cat(held_out).sort().values
    kept = torch.ones(total, dtype=torch.bool)
    kept[validation] = False
    return replace(data, train=data.train.take(kept), test=data.train.take(validation), evaluated_on="validation")
