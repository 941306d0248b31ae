"""Initial weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def initialise(
    network: nn.Module, generator: torch.Generator | None = None, chosen: Callable[[str], bool] = lambda name: True
) -> None:
    """Draws the convolutions and linear layers of ``network`` anew, and resets its batch normalisations, in place.

    Slopes of parametric activations are left as they are.

    Args:
        generator: a CPU generator for the weights.
        chosen: tells by its name whether a layer is drawn.

    Source: He et al. 2015 (normal, fan out) for convolutions; linear layers uniform within 1/sqrt(fan in).
    """
    for name, module in network.named_modules():
        if not chosen(name):
            continue
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
