"""One step, one evaluation: a model and batches in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphnet.nn.mode import evaluation_mode, without_tf32
from morphnet.train.engine import Engine


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
    """Loss and errors of a stretch of training, summed on the device: reading them is what waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.images = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        count = len(labels)
        errors = (logits.argmax(1) != labels).sum()
        self.sums += torch.stack([loss.detach().double() * count, errors.double()])
        self.images += count

    def read(self) -> Evaluation:
        loss, errors = self.sums.tolist()
        return Evaluation(loss / max(self.images, 1), int(errors), max(self.images, 1))

    def state(self) -> tuple[float, float, int]:
        """(loss, errors, images), all summed, for a checkpoint."""
        loss, errors = self.sums.tolist()
        return loss, errors, self.images

    def restore(self, loss: float, errors: float, images: int) -> None:
        """The inverse of :meth:`state`."""
        self.sums = torch.tensor([loss, errors], dtype=torch.float64, device=self.sums.device)
        self.images = images


def train_step(
    model: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer, engine: Engine
) -> tuple[Tensor, Tensor]:
    """One step of the optimizer on one batch; returns the loss before it and the logits."""
    with engine.autocast():
        logits = model(engine.place_images(images))
    logits = logits.float()
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss, logits


def evaluate(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], engine: Engine) -> Evaluation:
    """Loss and errors of ``network`` in evaluation mode; its own mode comes back."""
    running = Running(engine.device)
    with evaluation_mode(network), without_tf32(), torch.inference_mode():
        for images, labels in batches:
            with engine.autocast():
                logits = network(engine.place_images(images))
            logits = logits.float()
            running.add(F.cross_entropy(logits, labels), logits, labels)
    return running.read()


def make_optimizer(
    network: nn.Module, lr: float, momentum: float, weight_decay: float, nesterov: bool
) -> torch.optim.SGD:
    """SGD over all parameters of ``network``, without weight decay on the slopes of Eq. (8).

    A decay of ``a`` would pull new layers back from the identity (a = 1) to the plain activation (a = 0).
    """
    slopes = [p for name, p in network.named_parameters() if name.endswith(".a")]
    chosen = {id(p) for p in slopes}
    others = [p for p in network.parameters() if id(p) not in chosen]
    groups: list[dict[str, object]] = [{"params": others, "weight_decay": weight_decay}]
    if slopes:
        groups.append({"params": slopes, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
