"""Batches whose order and augmentation are a function of (seed, phase, epoch)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from morphnet.data.images import ImageData, Normaliser, Split


def generator_for(*key: object) -> torch.Generator:
    """A CPU generator whose state is a function of ``key``, the same on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Augmentation:
    """Zeros added on each side before a random crop of the old size, and whether images are mirrored at random."""

    pad: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"data.pad={self.pad}: a number of pixels from 0 is needed")


@dataclass(frozen=True)
class EpochPlan:
    """What every place of every batch of an epoch shows.

    Attributes:
        order: indices of images, shape ``(batches, batch_size)``.
        offsets: row and column of each crop, shape ``(batches, 2, batch_size)``.
        mirrored: shape ``(batches, batch_size)``.
    """

    order: Tensor
    offsets: Tensor
    mirrored: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.order, self.offsets, self.mirrored

    def part(self, index: int, count: int) -> EpochPlan:
        """Part ``index`` of ``count`` of every batch: what one of ``count`` processes trains on."""
        width = self.order.shape[-1] // count
        return EpochPlan(*(t.narrow(-1, index * width, width) for t in self.tensors()))

    def to(self, device: torch.device) -> EpochPlan:
        return EpochPlan(*(t.to(device) for t in self.tensors()))


@dataclass(frozen=True)
class TrainBatches:
    """The training batches of one epoch after the other, on the device the images are on.

    Attributes:
        data: what they are drawn from.
        batch_size: images in a batch; an incomplete last one is left out, a different one each epoch.
        key: what the order depends on beside the epoch: (seed, phase).
    """

    data: ImageData
    batch_size: int
    augmentation: Augmentation
    key: tuple[object, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= len(self.data.train):
            raise ValueError(
                f"optim.batch_size={self.batch_size}: {self.data.name} has {len(self.data.train)} training images; "
                "give a batch size from 1 to that"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.data.train) // self.batch_size

    def plan(self, index: int) -> EpochPlan:
        """Everything random in epoch ``index``, on the CPU: a function of the key and the epoch alone."""
        generator = generator_for(*self.key, index)
        count, shape = len(self) * self.batch_size, (len(self), self.batch_size)
        order = torch.randperm(len(self.data.train), generator=generator)[:count]
        offsets = torch.randint(2 * self.augmentation.pad + 1, (2, count), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        return EpochPlan(order.view(shape), offsets.view(2, *shape).transpose(0, 1), mirrored.view(shape))

    def batch(self, order: Tensor, offsets: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """(images, labels) of one row of a plan: float32 ``(N, C, H, W)``, int64 ``(N,)``.

        Reads nothing back from the device, so that it can be captured as part of a CUDA graph.
        """
        split, pad = self.data.train, self.augmentation.pad
        images = split.images[order]
        if pad:
            images = random_crop(images, pad, offsets)
        if self.augmentation.flip:
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        return self.normaliser(images), split.labels[order]

    @cached_property
    def normaliser(self) -> Normaliser:
        return Normaliser(self.data.mean, self.data.std, self.data.train.images.device)

    def epoch(self, index: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of epoch ``index`` from batch ``start`` on."""
        plan = self.plan(index).to(self.data.train.images.device)
        for row in range(start, len(self)):
            yield self.batch(*(t[row] for t in plan.tensors()))


def random_crop(images: Tensor, pad: int, offsets: Tensor) -> Tensor:
    """Each image padded with ``pad`` zeros on every side and cropped to its old size.

    Args:
        images: shape ``(N, C, H, W)``.
        offsets: row and column of each crop, shape ``(2, N)``, from 0 to ``2 pad``.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (pad, pad, pad, pad))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, offsets[0], offsets[1]]


#: Images of an evaluation that are computed at once.
EVALUATION_BATCH = 500


def evaluation_count(data: ImageData, batch_size: int = EVALUATION_BATCH) -> int:
    """How many batches :func:`evaluation_batches` gives, over all processes."""
    return -(-len(data.test) // batch_size)


def evaluation_batches(
    data: ImageData, batch_size: int = EVALUATION_BATCH, part: int = 0, count: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image of ``data.test`` once, normalised, in order.

    Of ``count`` processes each takes every ``count``-th batch, from ``part`` on.
    """
    normaliser = Normaliser(data.mean, data.std, data.test.images.device)
    pairs = zip(data.test.images.split(batch_size), data.test.labels.split(batch_size), strict=True)
    for images, labels in itertools.islice(pairs, part, None, count):
        yield normaliser(images), labels


def check_calibration(key: str, count: int, images: int) -> None:
    """Refuses so few calibration batches, or training images, that none would be left for the proof."""
    if images < 4:
        raise ValueError(f"a morph needs at least 4 training images, a half for its proof; there are {images}")
    if count < 2:
        raise ValueError(f"{key}={count}: at least 2 are needed, a half to measure on and a half for the proof")


def calibration_batches(
    data: ImageData, augmentation: Augmentation, key: Sequence[object], count: int = 8, batch_size: int = 128
) -> list[tuple[Tensor, Tensor]]:
    """``count`` augmented training batches for a morph: the first half to measure on, the rest for its proof.

    No image comes twice. A small data set gives smaller batches, and of a tiny one fewer.
    """
    order = torch.randperm(len(data.train), generator=generator_for(*key, "halves"))
    kept = count // 2
    found: list[tuple[Tensor, Tensor]] = []
    for half, (part, wanted) in enumerate(zip(order.tensor_split(2), (count - kept, kept), strict=True)):
        part = part.to(data.train.labels.device)
        pool = replace(data, train=Split(data.train.images[part], data.train.labels[part]))
        wanted = max(1, min(wanted, len(part) // 2))
        batches = TrainBatches(pool, min(batch_size, len(part) // wanted), augmentation, (*key, half))
        found += itertools.islice(batches.epoch(0), wanted)
    return found
