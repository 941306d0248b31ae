"""The moving average of a network's weights, which is evaluated and delivered in its place."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average over the steps of a phase, of parameters and floating-point buffers.

    Nothing is read back from the device, so that an update can be part of a CUDA graph. In the first steps the average
    follows faster: its decay is at most ``(1 + step) / (10 + step)``.

    Args:
        network: whose weights are averaged; the average begins with them.
        decay: share of the old average that stays after a step.

    Attributes:
        network: a copy with the averaged weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._source = network
        self._share = torch.zeros((), device=next(network.parameters()).device)  # of the new weights

    def prepare(self, step: int) -> None:
        """Before the update of ``step``, counted from 0."""
        self._share.fill_(1 - min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def update(self) -> None:
        source = [*self._source.parameters(), *self._source.buffers()]
        for average, value in zip(self.tensors(), source, strict=True):
            if average.is_floating_point():
                average.lerp_(value.detach(), self._share.to(average.dtype))
            else:
                average.copy_(value)

    def tensors(self) -> list[torch.Tensor]:
        """Everything that an update changes."""
        return [*self.network.parameters(), *self.network.buffers()]
