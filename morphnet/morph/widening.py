"""More channels for one convolution, with the function of the network unchanged (Net2WiderNet).

Source: Chen, Goodfellow, Shlens 2015 (arXiv 1511.05641), Sec. 2.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from morphnet.morph.readers import find_readers
from morphnet.nn.activation import ParametricActivation
from morphnet.nn.replace import convolution_like, parameter_like, plain_convolution, replace_module


def widen_layer(network: nn.Module, name: str, channels: int, generator: torch.Generator) -> dict[str, str]:
    """Gives the convolution ``name`` more output channels, in place, and adapts the layers that read them.

    The new channels are replicas of random old ones. Each consumer (convolutions; linear layers after flattening or
    global pooling) splits its weight for a channel among the replicas in random unequal shares, different for each of
    its outputs: the function is kept in both modes, and the replicas get different gradients from the first step on.

    Args:
        network: changed in place.
        name: an ``nn.Conv2d`` without groups.
        channels: the new number of output channels, above the old one.
        generator: a CPU generator for replicas and shares.

    Returns:
        The changes by layer name, such as ``{"conv1": "Conv2d, output channels 16 -> 24"}``.

    Raises:
        ValueError: it is not a plain convolution, its output goes to an operation that may mix channels (an addition, a
            concatenation, a grouped convolution, the output of the network), or ``torch.fx`` cannot trace the network.
            Nothing is changed.

    The trace does not see channel numbers that Python code reads from attributes (``self.conv.out_channels``). Dropout
    in training mode drops replicas independently: only the expectation is kept.
    """
    conv = plain_convolution(network, name)
    if not isinstance(channels, int) or channels <= conv.out_channels:
        raise ValueError(f"{name}: it has {conv.out_channels} output channels; more are needed, got {channels!r}")
    readers = find_readers(network, name)

    old = conv.out_channels
    extra = torch.randint(old, (channels - old,), generator=generator)
    origin = torch.cat([torch.arange(old), extra])
    bias = None if conv.bias is None else parameter_like(conv.bias, _replicas(conv.bias, origin))
    wide = convolution_like(conv, _replicas(conv.weight, origin), bias)
    changes: list[tuple[nn.Module, nn.Module, str, str]] = [
        (conv, wide, f"Conv2d, output channels {old} -> {channels}", name)
    ]
    for part, block in readers.followers.items():
        layer = network.get_submodule(part)
        index = (origin[:, None] * block + torch.arange(block)).flatten()  # ``block`` consecutive features a channel
        words = f"{type(layer).__name__}, channels {old * block} -> {len(index)}"
        changes.append((layer, _replicated(layer, index), words, part))
    for part, block in readers.consumers.items():
        layer = network.get_submodule(part)
        what = "input channels" if isinstance(layer, nn.Conv2d) else "input features"
        words = f"{type(layer).__name__}, {what} {old * block} -> {channels * block}"
        changes.append((layer, _shared_out(layer, origin, old, block, generator), words, part))
    for before, after, _, _ in changes:
        replace_module(network, before, after.train(before.training))
    return {part: words for _, _, words, part in changes}


def _replicas(value: Tensor, origin: Tensor) -> Tensor:
    """``value`` with its first axis replicated, in its memory format."""
    rows = value.detach()[origin.to(value.device)]
    return rows.contiguous(memory_format=_memory_format(value))


def _memory_format(value: Tensor) -> torch.memory_format:
    channels_last = value.dim() == 4 and not value.is_contiguous()
    if channels_last and value.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _replicated(layer: nn.Module, origin: Tensor) -> nn.Module:
    """``layer``, which has one number per channel, with replicated channels."""
    fresh: nn.Module
    if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm1d)):
        settings: dict[str, Any] = {"eps": layer.eps, "momentum": layer.momentum, "affine": layer.affine}
        if layer.affine and layer.bias is None:
            settings["bias"] = False
        fresh = type(layer)(
            len(origin), **settings, track_running_stats=layer.track_running_stats, device=torch.device("meta")
        )
    elif isinstance(layer, ParametricActivation):
        fresh = ParametricActivation(layer.function, len(origin))
    else:
        fresh = nn.PReLU(len(origin), device="meta")
    for key, parameter in layer._parameters.items():
        if parameter is not None:
            setattr(fresh, key, parameter_like(parameter, _replicas(parameter, origin)))
    for key, buffer in layer._buffers.items():
        if buffer is not None:  # num_batches_tracked has no channels
            setattr(fresh, key, _replicas(buffer, origin) if buffer.dim() else buffer.clone())
    return fresh


def _shared_out(layer: nn.Module, origin: Tensor, old: int, block: int, generator: torch.Generator) -> nn.Module:
    """``layer`` with its weights for each input channel split among the replicas."""
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    weight = layer.weight.detach()
    rows = weight.reshape(len(weight), old, -1)
    raw = 0.5 + torch.rand(len(weight), len(origin), generator=generator, dtype=torch.float64)
    total = torch.zeros(len(weight), old, dtype=torch.float64).index_add_(1, origin, raw)
    shares, index = (raw / total[:, origin])[:, :, None].to(weight.device), origin.to(weight.device)
    wide = rows.new_empty(len(weight), len(origin), rows.shape[2])
    step = max(1, 2**22 // max(1, wide[0].numel()))  # rows at a time: float64 weights of a VGG's classifier are large
    for start in range(0, len(weight), step):
        part = slice(start, start + step)
        wide[part] = rows[part].double()[:, index] * shares[part]
    if isinstance(layer, nn.Conv2d):
        filters = wide.reshape(len(weight), len(origin), *weight.shape[2:])
        return convolution_like(layer, filters.contiguous(memory_format=_memory_format(weight)), layer.bias)
    fresh = nn.Linear(len(origin) * block, layer.out_features, layer.bias is not None, device="meta")
    fresh.weight = parameter_like(layer.weight, wide.reshape(len(weight), -1))
    if layer.bias is not None:
        fresh.bias = layer.bias
    return fresh
