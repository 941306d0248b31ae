"""Batches for training, evaluation and calibration, of images in memory or in files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from morphnet.data.feed import Batches, generator_for
from morphnet.data.images import ImageData, Split
from morphnet.data.memory import Augmentation, TrainBatches
from morphnet.data.pixels import Normaliser
from morphnet.data.stream import ScaleAugmentation, StreamBatches, evaluation_chunk, stream_evaluation

#: Images in an evaluation batch.
EVALUATION_BATCH = 500


def evaluation_count(data: ImageData, batch_size: int = EVALUATION_BATCH, views: int = 1) -> int:
    """The number of batches of :func:`evaluation_batches` over all processes."""
    if not isinstance(data.test, Split):
        batch_size = evaluation_chunk(views)
    return -(-len(data.test) // batch_size)


def evaluation_batches(
    data: ImageData, batch_size: int = EVALUATION_BATCH, part: int = 0, count: int = 1, views: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image of ``data.test`` once, normalised, in order; ``(N, C, H, W)``, or ``(N, views, C, H, W)``.

    Of ``count`` processes each takes every ``count``-th batch, from ``part`` on.
    """
    for images, labels, _ in placed_batches(data, batch_size, part, count, views):
        yield images, labels


def placed_batches(
    data: ImageData, batch_size: int = EVALUATION_BATCH, part: int = 0, count: int = 1, views: int = 1
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The same, each batch with the places of its images in ``data.test``: int64 of shape ``(N,)``, on the CPU."""
    split = data.test
    if not isinstance(split, Split):
        yield from stream_evaluation(data, part, count, views)
        return
    if views != 1:
        raise ValueError(f"views={views} goes with images in files; {data.name} is in memory")
    normaliser = Normaliser(data.mean, data.std, split.device)
    pairs = zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True)
    placed = zip(pairs, torch.arange(len(split)).split(batch_size), strict=True)
    for (images, labels), places in itertools.islice(placed, part, None, count):
        yield normaliser(images), labels, places


def train_batches(
    data: ImageData, batch_size: int, augmentation: Augmentation | ScaleAugmentation, key: tuple[object, ...]
) -> Batches:
    """Training batches of ``data``; raises ``ValueError`` if the augmentation is for the other kind of images."""
    in_memory = isinstance(data.train, Split)
    if in_memory != isinstance(augmentation, Augmentation):
        where = "memory" if in_memory else "files"
        raise ValueError(f"{data.name} is in {where}, and {type(augmentation).__name__} is for other images")
    if isinstance(augmentation, Augmentation):
        return TrainBatches(data, batch_size, augmentation, key)
    return StreamBatches(data, batch_size, augmentation, key)


def check_calibration(key: str, count: int, images: int) -> None:
    """Refuses too few calibration batches or training images to keep some for the proof."""
    if images < 4:
        raise ValueError(f"a morph needs at least 4 training images, a half for its proof; there are {images}")
    if count < 2:
        raise ValueError(f"{key}={count}: at least 2 are needed, a half to measure on and a half for the proof")


def calibration_batches(
    data: ImageData,
    augmentation: Augmentation | ScaleAugmentation,
    key: Sequence[object],
    count: int = 8,
    batch_size: int = 128,
) -> list[tuple[Tensor, Tensor]]:
    """``count`` augmented training batches for a morph: the first half to measure on, the rest for its proof.

    No image comes twice. A small data set gives smaller or fewer batches.
    """
    order = torch.randperm(len(data.train), generator=generator_for(*key, "halves"))
    kept = count // 2
    chosen: list[tuple[Tensor, Tensor]] = []
    for half, (part, wanted) in enumerate(zip(order.tensor_split(2), (count - kept, kept), strict=True)):
        pool = replace(data, train=data.train.take(part))
        wanted = max(1, min(wanted, len(part) // 2))
        batches = train_batches(pool, min(batch_size, len(part) // wanted), augmentation, (*key, half))
        chosen += itertools.islice(batches.epoch(0), wanted)
    return chosen
