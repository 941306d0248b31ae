"""Batches of images in memory, whose order and augmentation are a function of (seed, phase, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from morphnet.data.feed import check_batch_size, generator_for, part_of
from morphnet.data.images import ImageData, Split
from morphnet.data.pixels import Normaliser
from morphnet.data.policy import POLICIES, Policy


@dataclass(frozen=True)
class Augmentation:
    """How training images in memory are varied.

    Attributes:
        pad: zeros added on each side before a random crop of the old size.
        flip: whether images are mirrored at random.
        policy: what torchvision does to each image after that, one of ``POLICIES``.
    """

    pad: int = 0
    flip: bool = False
    policy: str = "none"

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"data.policy={self.policy!r}; expected one of {', '.join(POLICIES)}")
        if self.pad < 0:
            raise ValueError(f"data.pad={self.pad}: a number of pixels from 0 is needed")


class EpochPlan(NamedTuple):
    """The images of an epoch and how they are varied.

    Attributes:
        order: indices of images, shape ``(batches, batch_size)``.
        offsets: row and column of each crop, shape ``(batches, 2, batch_size)``.
        mirrored: shape ``(batches, batch_size)``.
    """

    order: Tensor
    offsets: Tensor
    mirrored: Tensor


@dataclass(frozen=True)
class TrainBatches:
    """Training batches of images in memory, on their device.

    Attributes:
        batch_size: images in a batch; an incomplete last batch is left out.
        key: (seed, phase): the order depends on it and on the epoch.
    """

    data: ImageData
    batch_size: int
    augmentation: Augmentation
    key: tuple[object, ...]

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size, self.data)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.data.train) // self.batch_size

    def plan(self, index: int) -> EpochPlan:
        """The random choices of epoch ``index``, on the CPU; a function of the key and the epoch."""
        generator = generator_for(*self.key, index)
        count, shape = len(self) * self.batch_size, (len(self), self.batch_size)
        order = torch.randperm(len(self.data.train), generator=generator)[:count]
        offsets = torch.randint(2 * self.augmentation.pad + 1, (2, count), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        return EpochPlan(order.view(shape), offsets.view(2, *shape).transpose(0, 1), mirrored.view(shape))

    def batch(self, order: Tensor, offsets: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """(images, labels) of one row of a plan, before any policy: float32 ``(N, C, H, W)``, int64 ``(N,)``.

        It can be captured in a CUDA graph: nothing is read back from the device.
        """
        return self.normaliser(self.raw(order, offsets, mirrored)), self.split.labels[order]

    def raw(self, order: Tensor, offsets: Tensor, mirrored: Tensor) -> Tensor:
        """The images of one row, cropped and mirrored and not yet normalised: uint8 ``(N, C, H, W)``."""
        images = self.split.images[order]
        if self.augmentation.pad:
            images = random_crop(images, self.augmentation.pad, offsets)
        if self.augmentation.flip:
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        return images

    @cached_property
    def policy(self) -> Policy | None:
        """The policy, applied to every image on the host."""
        name = self.augmentation.policy
        return None if name == "none" else Policy(name, self.data.mean, self.key)

    @property
    def split(self) -> Split:
        assert isinstance(self.data.train, Split)
        return self.data.train

    @cached_property
    def normaliser(self) -> Normaliser:
        return Normaliser(self.data.mean, self.data.std, self.split.device)

    def feed(self, index: int = 0, count: int = 1) -> MemoryFeed:
        """The feed of process ``index`` of ``count``."""
        return MemoryFeed(self, index, count)

    def epoch(self, index: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of epoch ``index`` from batch ``start`` on."""
        plan = [t.to(self.split.device) for t in self.plan(index)]
        for row in range(start, len(self)):
            part = [t[row] for t in plan]
            if self.policy is None:
                yield self.batch(*part)
            else:
                images = self.policy(self.raw(*part), (index, row), 0)
                yield self.normaliser(images), self.split.labels[part[0]]


class MemoryFeed:
    """Batches of images on the device, from the plan of an epoch, which is copied into the same tensors every time."""

    def __init__(self, batches: TrainBatches, index: int, count: int) -> None:
        self.batches, self.index, self.count = batches, index, count
        device, rows, width = batches.split.device, len(batches), batches.batch_size // count
        self.order = torch.zeros(rows, width, dtype=torch.int64, device=device)
        self.offsets = torch.zeros(rows, 2, width, dtype=torch.int64, device=device)
        self.mirrored = torch.zeros(rows, width, dtype=torch.bool, device=device)
        self._next = (0, 0)  # epoch and row
        # Images of a policy, made on the host before each step; allocated here, for a CUDA graph to read.
        shape = (width, *batches.split.images.shape[1:])
        self._varied = None if batches.policy is None else torch.zeros(shape, dtype=torch.uint8, device=device)
        self._normaliser = batches.normaliser  # made here: it copies to the device, which a step must not

    def load(self, epoch: int, row: int) -> None:
        self._next = (epoch, row)
        plan = part_of(self.batches.plan(epoch), self.index, self.count)
        for own, planned in zip((self.order, self.offsets, self.mirrored), plan, strict=True):
            own.copy_(planned)

    def advance(self) -> None:
        policy = self.batches.policy
        if policy is None or self._varied is None:  # both are, or none
            return
        epoch, row = self._next
        raw = self.batches.raw(self.order[row], self.offsets[row], self.mirrored[row])
        self._varied.copy_(policy(raw, self._next, self.index * raw.shape[0]))
        self._next = (epoch, row + 1)

    def batch(self, row: Tensor) -> tuple[Tensor, Tensor]:
        # index_select and not [row]: the latter reads the index back from the device.
        plan = [t.index_select(0, row).squeeze(0) for t in (self.order, self.offsets, self.mirrored)]
        if self._varied is None:
            return self.batches.batch(*plan)
        return self._normaliser(self._varied), self.batches.split.labels[plan[0]]

    def close(self) -> None:
        pass


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
