"""The interface of training batches, and the generators of their order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from morphnet.data.images import ImageData


def generator_for(*key: object) -> torch.Generator:
    """A CPU generator whose state is a function of ``key``, the same on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


Plan = TypeVar("Plan", bound=tuple[Any, ...])


def part_of(plan: Plan, index: int, count: int) -> Plan:
    """Part ``index`` of ``count`` of every batch: what one of ``count`` processes trains on.

    Args:
        plan: tensors whose last axis is the place in a batch.
    """
    width = plan[0].shape[-1] // count
    return type(plan)(*(t.narrow(-1, index * width, width) for t in plan))


class Feed(Protocol):
    """Gives a process its part of every batch: :meth:`load`, then for each step :meth:`advance` and :meth:`batch`."""

    def load(self, epoch: int, row: int) -> None:
        """Begins at batch ``row`` of ``epoch``."""

    def advance(self) -> None:
        """Prepares the next step on the host."""

    def batch(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """(images, labels) of ``row``, a tensor of one number on the device; reads nothing back from the device."""

    def close(self) -> None:
        """Ends the workers."""


class Batches(Protocol):
    """Training batches of images in memory or in files."""

    @property
    def data(self) -> ImageData: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def key(self) -> tuple[object, ...]: ...
    def __len__(self) -> int: ...
    def feed(self, index: int = 0, count: int = 1) -> Feed: ...
    def epoch(self, index: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


def check_batch_size(batch_size: int, data: ImageData) -> None:
    """Refuses a batch larger than the training set."""
    if not 1 <= batch_size <= len(data.train):
        raise ValueError(
            f"optim.batch_size={batch_size}: {data.name} has {len(data.train)} training images; "
            "give a batch size from 1 to that"
        )
