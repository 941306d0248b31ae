"""Initial weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def initialise(
    network: nn.Module, generator: torch.Generator | None = None, chosen: Callable[[str], bool] = lambda name: True
) -> None:
    """Draws the convolutions and linear layers of ``network`` anew and resets all other layers, in place.

    Parametric activations get the slopes they start with: 1 in modules, 0 elsewhere.

    Args:
        generator: a CPU generator for the weights.
        chosen: tells by its name whether a layer is drawn.

    Source: He et al. 2015 (normal, fan out) for convolutions; linear layers uniform within 1/sqrt(fan in).
    """
    for index, (name, module) in enumerate(network.named_modules()):
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
        elif callable(getattr(module, "reset_parameters", None)):
            with torch.random.fork_rng(devices=[]):
                if generator is not None:
                    torch.manual_seed(generator.initial_seed() ^ index)
                module.reset_parameters()
