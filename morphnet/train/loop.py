"""One evaluation: a network and batches in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphnet.data import ImageData, evaluation_count, placed_batches
from morphnet.nn.mode import evaluation_mode, without_tf32
from morphnet.train.engine import Engine
from morphnet.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Evaluation:
    """Mean cross entropy, and the errors among so many images; ``error`` is their share.

    Attributes:
        predictions: the class of every image of ``ImageData.test``, in its order; -1 where it cannot be read. int32 of
            shape ``(N,)``, on the CPU; None where only the errors were counted.
    """

    loss: float
    errors: int
    images: int
    predictions: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def error(self) -> float:
        return self.errors / self.images

    def figures(self) -> dict[str, Any]:
        """Loss, errors and images, as plain values."""
        return {"loss": self.loss, "errors": self.errors, "images": self.images}


class Running:
    """Loss, errors and images so far, and what was predicted; on the device: reading them is what waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.predicted: list[Tensor] = []

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.predicted.append(logits.argmax(1))
        errors = (self.predicted[-1] != labels).sum()
        count = torch.full_like(errors, len(labels))
        self.sums += torch.stack([loss.detach().double() * len(labels), errors.double(), count.double()])

    def read(self, ranks: Ranks = ALONE) -> Evaluation:
        loss, errors, images = ranks.add_up(self.sums.clone()).tolist()
        if not images:
            raise ValueError("none of the images that errors are counted on can be read: is data.path still there?")
        return Evaluation(loss / images, int(errors), int(images))

    def predictions(self, places: list[Tensor], count: int, ranks: Ranks) -> Tensor:
        """Those of ``count`` images over all processes; ``places`` are of the images of this one, as they were given.

        int32 of shape ``(count,)``, on the CPU; -1 where no process had the image.
        """
        found = torch.zeros(count, dtype=torch.int32, device=self.sums.device)
        if self.predicted:
            found[torch.cat(places).to(found.device)] = torch.cat(self.predicted).int() + 1
        return ranks.add_up(found).cpu() - 1


def evaluate(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], engine: Engine, ranks: Ranks = ALONE
) -> Evaluation:
    """Loss and errors of ``network`` in evaluation mode; its own mode comes back.

    Args:
        batches: those of this process; what the ``ranks`` find is added up, so no image may be given to two of them.
            Images of shape ``(N, V, C, H, W)`` are V views each, over which the probabilities are averaged.
    """
    return _run_through(network, batches, engine).read(ranks)


def evaluate_data(
    network: nn.Module,
    data: ImageData,
    engine: Engine,
    ranks: Ranks = ALONE,
    views: int = 1,
    look: Callable[[], None] = lambda: None,
) -> Evaluation:
    """:func:`evaluate` on the images of ``data`` that errors are counted on, with what was predicted for each of them.

    Args:
        ranks: the processes that share the images.
        views: of each image.
        look: called after every batch that all processes have, equally often by each of them.
    """
    common = evaluation_count(data, views=views) // ranks.count  # some processes have one batch more
    places: list[Tensor] = []

    def looked_between() -> Iterator[tuple[Tensor, Tensor]]:
        for done, (images, labels, there) in enumerate(
            placed_batches(data, part=ranks.index, count=ranks.count, views=views), 1
        ):
            places.append(there)
            yield images, labels
            if done <= common:
                look()

    running = _run_through(network, looked_between(), engine)
    found = running.read(ranks)
    return replace(found, predictions=running.predictions(places, len(data.test), ranks))


def _run_through(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], engine: Engine) -> Running:
    running = Running(engine.device)
    with evaluation_mode(network), without_tf32(), torch.inference_mode():
        for images, labels in batches:
            if not len(labels):
                continue
            views = images.shape[1] if images.dim() == 5 else None
            with engine.autocast():
                logits = network(engine.place_images(images if views is None else images.flatten(0, 1)))
            logits = logits if logits.dtype == torch.float64 else logits.float()
            if views is not None:
                logits = logits.softmax(1).unflatten(0, (-1, views)).mean(1).log()
            running.add(F.cross_entropy(logits, labels), logits, labels)
    return running


def evaluate_together(
    network: nn.Module,
    data: ImageData,
    engine: Engine,
    ranks: Ranks,
    step: int = 0,
    look: Callable[[], None] = lambda: None,
    views: int = 1,
) -> Evaluation:
    """:func:`evaluate_data` in the precision of evaluations, with the buffers of the first process.

    Args:
        step: iterations of the phase so far, for messages.

    Raises:
        FloatingPointError: the network computes what is no number.
    """
    ranks.spread_buffers(network)
    found = evaluate_data(network, data, engine.evaluator(), ranks, views, look)
    if not math.isfinite(found.loss):
        raise FloatingPointError(
            f"the network computes {found.loss} on the {data.evaluated_on} images after {step:,} steps; "
            "check the parent and data.normalize, or try a lower optim.lr"
        )
    return found
