"""Evaluation: a network and images in, loss, errors and predictions out."""

from __future__ import annotations

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


def evaluate(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], engine: Engine) -> Evaluation:
    """Loss and errors of ``network`` in evaluation mode; its own mode is restored.

    Args:
        batches: images and labels. Images of shape ``(N, V, C, H, W)`` are V views each, over which the probabilities
            are averaged.

    Raises:
        ValueError: there is no image.
    """
    sums, _ = _classify(network, batches, engine)
    return _evaluation(sums)


def evaluate_data(
    network: nn.Module,
    data: ImageData,
    engine: Engine,
    ranks: Ranks = ALONE,
    views: int = 1,
    look: Callable[[], None] = lambda: None,
) -> Evaluation:
    """:func:`evaluate` on the images of ``data`` that errors are counted on, with the prediction for each of them.

    Args:
        ranks: the processes that share the images.
        views: of each image.
        look: called after every batch that all processes have, equally often by each of them.
    """
    common = evaluation_count(data, views=views) // ranks.count  # some processes have one batch more
    places: list[Tensor] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        parts = placed_batches(data, part=ranks.index, count=ranks.count, views=views)
        for done, (images, labels, place) in enumerate(parts, 1):
            places.append(place)
            yield images, labels
            if done <= common:
                look()

    sums, classes = _classify(network, batches(), engine)
    # Each image belongs to one process; 0 stands for those that cannot be read, so that -1 remains.
    predictions = torch.zeros(len(data.test), dtype=torch.int32, device=engine.device)
    if classes:
        predictions[torch.cat(places).to(engine.device)] = torch.cat(classes).int() + 1
    evaluation = _evaluation(ranks.add_up(sums))
    return replace(evaluation, predictions=ranks.add_up(predictions).cpu() - 1)


def _evaluation(sums: Tensor) -> Evaluation:
    loss, errors, images = sums.tolist()
    if not images:
        raise ValueError("none of the images that errors are counted on can be read: is data.path still there?")
    return Evaluation(loss / images, int(errors), int(images))


def _classify(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], engine: Engine
) -> tuple[Tensor, list[Tensor]]:
    """Sums of loss, errors and images, and the predicted classes of each batch; on the device, without waiting."""
    sums, predicted = torch.zeros(3, dtype=torch.float64, device=engine.device), list[Tensor]()
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
            predicted.append(logits.argmax(1))
            errors = (predicted[-1] != labels).sum()
            loss, count = F.cross_entropy(logits, labels).double(), torch.full_like(errors, len(labels))
            sums += torch.stack([loss * len(labels), errors.double(), count.double()])
    return sums, predicted
