"""One evaluation: a network and batches in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphnet.data import ImageData, evaluation_batches, evaluation_count
from morphnet.nn.mode import evaluation_mode, without_tf32
from morphnet.train.engine import Engine
from morphnet.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Evaluation:
    """Mean cross entropy, and the errors among so many images; ``error`` is their share."""

    loss: float
    errors: int
    images: int

    @property
    def error(self) -> float:
        return self.errors / self.images


class Running:
    """Loss, errors and images so far, summed on the device: reading them is what waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        errors = (logits.argmax(1) != labels).sum()
        count = torch.full_like(errors, len(labels))
        self.sums += torch.stack([loss.detach().double() * len(labels), errors.double(), count.double()])

    def read(self, ranks: Ranks = ALONE) -> Evaluation:
        loss, errors, images = ranks.add_up(self.sums.clone()).tolist()
        if not images:
            raise ValueError("none of the images that errors are counted on can be read: is data.path still there?")
        return Evaluation(loss / images, int(errors), int(images))


def evaluate(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], engine: Engine, ranks: Ranks = ALONE
) -> Evaluation:
    """Loss and errors of ``network`` in evaluation mode; its own mode comes back.

    Args:
        batches: those of this process; what the ``ranks`` find is added up, so no image may be given to two of them.
            Images of shape ``(N, V, C, H, W)`` are V views each, over which the probabilities are averaged.
    """
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
    return running.read(ranks)


def evaluate_together(
    network: nn.Module,
    data: ImageData,
    engine: Engine,
    ranks: Ranks,
    step: int = 0,
    look: Callable[[], None] = lambda: None,
    views: int = 1,
) -> Evaluation:
    """Loss and errors of ``network`` on the images of ``data`` that errors are counted on, shared by all processes.

    Args:
        step: iterations of the phase so far, for messages.
        look: called after every batch that all processes have, equally often by each of them.
        views: of each image.

    Raises:
        FloatingPointError: the network computes what is no number.
    """
    ranks.spread_buffers(network)
    part = evaluation_batches(data, part=ranks.index, count=ranks.count, views=views)
    common = evaluation_count(data, views=views) // ranks.count  # some processes have one batch more

    def looked_between() -> Iterator[tuple[Tensor, Tensor]]:
        for done, batch in enumerate(part, 1):
            yield batch
            if done <= common:
                look()

    found = evaluate(network, looked_between(), engine.evaluator(), ranks)
    if not math.isfinite(found.loss):
        raise FloatingPointError(
            f"the network computes {found.loss} on the {data.evaluated_on} images after {step:,} steps; "
            "check the parent and data.normalize, or try a lower optim.lr"
        )
    return found
