"""What every kind of training batches is, and the generators that their order comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from morphnet.data.images import ImageData


def generator_for(*key: object) -> torch.Generator:
    """A CPU generator whose state is a function of ``key``, the same on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Feed(Protocol):
    """What gives a process its part of every batch: :meth:`load`, then for each step :meth:`advance`, :meth:`batch`."""

    def load(self, epoch: int, row: int) -> None:
        """Begins at batch ``row`` of ``epoch``."""

    def advance(self) -> None:
        """What has to happen on the host before the next step."""

    def batch(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """(images, labels) of ``row``, a tensor of one number on the device; reads nothing back from the device."""

    def close(self) -> None:
        """Ends what works ahead."""


class Batches(Protocol):
    """The training batches of one epoch after the other, of images in memory or in files."""

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
    """Refuses a batch that the training images do not fill."""
    if not 1 <= batch_size <= len(data.train):
        raise ValueError(
            f"optim.batch_size={batch_size}: {data.name} has {len(data.train)} training images; "
            "give a batch size from 1 to that"
        )
