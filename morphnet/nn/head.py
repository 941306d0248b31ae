"""A new classifier for a network."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from morphnet.nn.initialise import initialise
from morphnet.nn.metadata import metadata_of
from morphnet.nn.resnet import ResNet


def with_new_head(network: nn.Module, classes: int, generator: torch.Generator | None = None) -> nn.Module:
    """A copy of ``network`` whose last linear layer is a new one of ``classes`` outputs, with random weights.

    Every other weight stays; ``data`` and ``class_names`` are removed from the metadata.

    Args:
        generator: a CPU generator for the new weights.

    Raises:
        ValueError: there is no linear layer, or ``classes`` is below 1.
    """
    if classes < 1:
        raise ValueError(f"classes={classes}: a number from 1 is needed")
    network = copy.deepcopy(network)
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name]
    if not names:
        raise ValueError(f"this {type(network).__name__} has no linear layer, so it has no head to exchange")
    name = names[-1]
    old = network.get_submodule(name)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, classes, device=old.weight.device, dtype=old.weight.dtype)
    initialise(new.cpu(), generator)
    network.set_submodule(name, new.to(old.weight.device).train(old.training))
    if isinstance(network, ResNet):
        network.architecture = replace(network.architecture, classes=classes)
    for key in ("data", "class_names"):
        metadata_of(network).pop(key, None)
    return network
