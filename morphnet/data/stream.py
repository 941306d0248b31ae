"""Batches of images that are read from their files by worker processes while the network trains."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from morphnet.data.decoding import UnreadableError
from morphnet.data.feed import check_batch_size, generator_for, part_of
from morphnet.data.files import FileSplit, Unreadable
from morphnet.data.images import ImageData
from morphnet.data.pixels import Normaliser
from morphnet.data.views import centre_view, random_view, ten_views

#: An image that cannot be decoded is replaced by the one about so many places further on.
STRIDE = 7919
#: So many unreadable images in a row are an error.
TRIES = 25
#: Views that one worker prepares at a time for an evaluation.
EVALUATION_CHUNK = 100


@dataclass(frozen=True)
class ScaleAugmentation:
    """Resizes the shorter side to a random length in this range, cuts out a random window and mirrors it or not.

    Source: Sec. 4.4, with [256, 480].
    """

    shorter_side: tuple[int, int] = (256, 480)
    flip: bool = True

    def __post_init__(self) -> None:
        low, high = self.shorter_side
        if not 1 <= low <= high:
            raise ValueError(f"data.shorter_side={[low, high]}: [shortest, longest] in pixels is needed, as [256,480]")


class StreamPlan(NamedTuple):
    """The images of an epoch and their views.

    Attributes:
        order: indices of images, shape ``(batches, batch_size)``.
        shorter: length of the shorter side, the same shape.
        positions: of the window, down and right, in [0, 1); shape ``(batches, 2, batch_size)``.
        mirrored: shape ``(batches, batch_size)``.
    """

    order: Tensor
    shorter: Tensor
    positions: Tensor
    mirrored: Tensor


@dataclass(frozen=True)
class StreamBatches:
    """Training batches of images in files, as :class:`~morphnet.data.TrainBatches` of those in memory.

    Order and views are a function of (key, epoch), whatever the number of workers and processes.
    """

    data: ImageData
    batch_size: int
    augmentation: ScaleAugmentation
    key: tuple[object, ...]

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size, self.data)
        low = self.augmentation.shorter_side[0]
        if low < self.split.viewing.crop:
            raise ValueError(
                f"data.shorter_side={list(self.augmentation.shorter_side)}: from data.crop={self.split.viewing.crop} "
                "pixels on a window fits"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.data.train) // self.batch_size

    @property
    def split(self) -> FileSplit:
        assert isinstance(self.data.train, FileSplit)
        return self.data.train

    def plan(self, index: int) -> StreamPlan:
        """The random choices of epoch ``index``: a function of the key and the epoch."""
        generator = generator_for(*self.key, index)
        count, shape = len(self) * self.batch_size, (len(self), self.batch_size)
        low, high = self.augmentation.shorter_side
        order = torch.randperm(len(self.split), generator=generator)[:count]
        shorter = torch.randint(low, high + 1, shape, generator=generator)
        positions = torch.rand(shape[0], 2, shape[1], generator=generator, dtype=torch.float64)
        mirrored = (torch.rand(shape, generator=generator) < 0.5) & self.augmentation.flip
        return StreamPlan(order.view(shape), shorter, positions, mirrored)

    def feed(self, index: int = 0, count: int = 1) -> StreamFeed:
        """The feed of process ``index`` of ``count``."""
        return StreamFeed(self, index, count)

    @cached_property
    def normaliser(self) -> Normaliser:
        return Normaliser(self.data.mean, self.data.std, self.split.device)

    def epoch(self, index: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of epoch ``index`` from batch ``start`` on."""
        feed = self.feed()
        try:
            feed.load(index, start)
            for _ in range(start, len(self)):
                feed.advance()
                images, labels = feed.batch(torch.empty(0))
                yield images, labels.clone()  # the next batch takes their place
        finally:
            feed.close()


class StreamFeed:
    """Batches of uint8 images, decoded by workers and copied into the same two tensors every time."""

    def __init__(self, batches: StreamBatches, index: int, count: int) -> None:
        self.batches, self.index, self.count = batches, index, count
        split, width = batches.split, batches.batch_size // count
        size = split.viewing.crop
        self.images = _pixelwise(width, size, split.device).zero_()
        self.labels = torch.zeros(width, dtype=torch.int64, device=split.device)
        self._start = (0, 0)
        self._iterator: Iterator[Any] | None = None

    def load(self, epoch: int, row: int) -> None:
        """Begins at batch ``row`` of ``epoch``; the workers start with the first step."""
        self.close()
        self._start = (epoch, row)

    def advance(self) -> None:
        """Waits for the next batch, and sends it to the device."""
        if self._iterator is None:
            epoch, row = self._start
            rows = _TrainingRows(self.batches.split, part_of(self.batches.plan(epoch), self.index, self.count))
            self._iterator = _loaded(rows, range(row, len(self.batches)), self.batches.split)
        item = next(self._iterator)
        if isinstance(item, ValueError):
            raise item
        images, labels, unreadable = item
        _note(self.batches.data.unreadable, unreadable)
        self.images.copy_(images, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)

    def batch(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """(images, labels) of the step: float32 ``(N, 3, H, W)``, int64 ``(N,)``; reads nothing from the device."""
        return self.batches.normaliser(self.images), self.labels

    def close(self) -> None:
        """Ends the workers."""
        self._iterator = None


def evaluation_chunk(views: int) -> int:
    """Images in an evaluation batch, for so many views of each."""
    return max(1, EVALUATION_CHUNK // views)


def stream_evaluation(
    data: ImageData, part: int = 0, count: int = 1, views: int = 1
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Every decodable image of ``data.test`` once, normalised, in order; process ``part`` of ``count`` takes its share.

    Yields images of shape ``(N, 3, H, W)``, or with ten views ``(N, 10, 3, H, W)``, labels, and the images' places in
    ``data.test``, on the CPU; N may be 0.
    """
    split = data.test
    assert isinstance(split, FileSplit)
    normaliser = Normaliser(data.mean, data.std, split.device)
    chunks = _EvaluationChunks(split, evaluation_chunk(views), views)
    for images, labels, places, unreadable in _loaded(chunks, range(part, len(chunks), count), split):
        _note(data.unreadable, unreadable)
        images, labels = (t.to(split.device, non_blocking=True) for t in (images, labels))
        images = normaliser(images)
        yield (images if views == 1 else images.unflatten(0, (len(labels), views))), labels, places


def _note(unreadable: Unreadable | None, files: list[tuple[str, str]]) -> None:
    if unreadable is not None:
        for name, reason in files:
            unreadable.add(name, reason)


class _TrainingRows(Dataset[Any]):
    """The rows of a plan: (images, labels, unreadable files with reasons).

    If too many files are unreadable, the item is an error: one raised in a worker would carry the worker's traceback.
    """

    def __init__(self, split: FileSplit, plan: StreamPlan) -> None:
        self.split, self.plan = split, plan

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, list[tuple[str, str]]] | ValueError:
        split, plan = self.split, self.plan
        width, size = plan.order.shape[1], split.viewing.crop
        images = _pixelwise(width, size)
        labels, unreadable = torch.empty(width, dtype=torch.int64), []
        values = zip(plan.order[row], plan.shorter[row], plan.positions[row].T, plan.mirrored[row], strict=True)
        for place, (index, shorter, position, mirrored) in enumerate(values):
            chosen = int(index)
            for _ in range(TRIES):
                try:
                    image = split.read(chosen)
                    break
                except (UnreadableError, OSError) as error:
                    unreadable.append((split.name(chosen), str(error)))
                    chosen = (chosen + 1 + STRIDE % max(1, len(split) - 1)) % len(split)
            else:
                name, reason = unreadable[-1]
                return ValueError(
                    f"{TRIES} images in a row cannot be read, the last one {split.root / name} ({reason}): is "
                    f"data.path={split.root} still there?"
                )
            down, right = position.tolist()
            images[place] = random_view(image, int(shorter), (down, right), bool(mirrored), size)
            labels[place] = split.labels[chosen]
        return images, labels, unreadable


class _EvaluationChunks(Dataset[Any]):
    """The chunks of a split: (views, labels, places, unreadable files with reasons); unreadable ones are left out."""

    def __init__(self, split: FileSplit, size: int, views: int) -> None:
        self.split, self.size, self.views = split, size, views

    def __len__(self) -> int:
        return -(-len(self.split) // self.size)

    def __getitem__(self, chunk: int) -> tuple[Tensor, Tensor, Tensor, list[tuple[str, str]]]:
        split, viewing = self.split, self.split.viewing
        chosen = range(chunk * self.size, min((chunk + 1) * self.size, len(split)))
        images = _pixelwise(len(chosen) * self.views, viewing.crop)
        places, unreadable = list[int](), []
        for index in chosen:
            try:
                image = split.read(index)
            except (UnreadableError, OSError) as error:
                unreadable.append((split.name(index), str(error)))
                continue
            make = centre_view if self.views == 1 else ten_views
            place = len(places) * self.views
            images[place : place + self.views] = make(image, viewing.shorter_side, viewing.crop)
            places.append(index)
        where = torch.tensor(places, dtype=torch.int64)
        return images[: len(places) * self.views], split.labels[where], where, unreadable


def _pixelwise(count: int, size: int, device: torch.device | None = None) -> Tensor:
    """Empty uint8 images of shape (count, 3, size, size), channels last in memory, as decoders make them."""
    return torch.empty(count, size, size, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)


def _loaded(dataset: Dataset[Any], rows: range, split: FileSplit) -> Iterator[Any]:
    """The items of ``dataset`` in ``rows``, in order, prepared by the workers of ``split``."""
    workers = min(split.workers, len(rows))
    settings: dict[str, Any] = {"worker_init_fn": _Worker(os.getpid()), "prefetch_factor": 2} if workers else {}
    if workers and sys.platform == "linux":
        settings["multiprocessing_context"] = "fork"  # from Python 3.14 on the parent would be a server of forks
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=None,
            sampler=rows,
            num_workers=workers,
            pin_memory=split.device.type == "cuda",
            generator=torch.Generator(),  # else it draws from the global one
            **settings,
        )
        return iter(loader)


@dataclass(frozen=True)
class _Worker:
    """Makes a worker ignore signals, which the parent handles, and end with the parent."""

    parent: int

    def __call__(self, index: int) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        end_with(self.parent, 1)  # else it would hold the run's lock


def end_with(parent: int, code: int) -> None:
    """Makes the system end this process when its ``parent`` has ended, on Linux; exits with ``code`` if it has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(code)
