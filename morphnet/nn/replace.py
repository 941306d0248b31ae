"""Layers of a network replaced by others, under every name they have."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from morphnet.suggest import suggest


def names_of(network: nn.Module, module: nn.Module) -> list[str]:
    """Every name of ``module`` in ``network``, in its order."""
    return [name for name, part in network.named_modules(remove_duplicate=False) if part is module]


def replace_module(network: nn.Module, old: nn.Module, new: nn.Module) -> list[str]:
    """Replaces ``old`` by ``new`` under all its names, which are returned.

    References that are not registered, such as modules in a plain Python list, are not replaced.

    Raises:
        ValueError: ``old`` is ``network`` itself, or not in it.
    """
    if old is network:
        raise ValueError(f"a {type(network).__name__} cannot be replaced inside itself; give the network that holds it")
    names = names_of(network, old)
    if not names:
        raise ValueError(f"the {type(old).__name__} to replace is no part of this {type(network).__name__}")
    for parent in list(network.modules()):
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new
    return names


def plain_convolution(network: nn.Module, name: str) -> nn.Conv2d:
    """The layer ``name``, an ``nn.Conv2d`` that can be replaced by a new one.

    Raises:
        ValueError: there is no such layer, it is not exactly an ``nn.Conv2d`` (a subclass may compute something else),
            or a new layer would lose something (:func:`what_a_fresh_one_would_lose`).
    """
    parts = dict(network.named_modules(remove_duplicate=False))
    if not name or name not in parts:
        convolutions = [key for key, part in parts.items() if isinstance(part, nn.Conv2d)]
        first = f"; there are {', '.join(convolutions[:3])}" if convolutions else ", nor any convolution"
        known = suggest(name, convolutions, count=3) or first
        raise ValueError(f"{name!r}: no layer of this {type(network).__name__} has that name{known}")
    conv = parts[name]
    if type(conv) is not nn.Conv2d:
        kind = f"{type(conv).__name__}{', a subclass of nn.Conv2d' if isinstance(conv, nn.Conv2d) else ''}"
        raise ValueError(f"{name}: it is of the class {kind}; only layers of the class nn.Conv2d can be changed")
    loss = what_a_fresh_one_would_lose(network, conv)
    if loss:
        raise ValueError(f"{name}: {loss}")
    return conv


def what_a_fresh_one_would_lose(network: nn.Module, layer: nn.Module) -> str:
    """Why ``layer`` of ``network`` cannot be rebuilt from its settings and weights; empty if it can."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(layer, kind) for kind in hooks):
        return "it carries hooks (weight_norm, spectral_norm, pruning or your own); remove them first"
    if layer._modules:
        return "it holds modules of its own (a parametrization, say); remove them first"
    own = {id(parameter) for parameter in layer.parameters(recurse=False)}
    for name, other in network.named_modules():
        if other is not layer and any(id(parameter) in own for parameter in other.parameters(recurse=False)):
            return f"it shares a parameter with {name or 'the network itself'}; give each a parameter of its own first"
    return ""


def convolution_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, **settings: Any) -> nn.Conv2d:
    """A new convolution with the settings of ``conv``, other weights, and the given ``settings``.

    Args:
        weight: shape ``(C_out, C_in / groups, H, W)``, which gives kernel size and channels; trained if the old one is.
        bias: shape ``(C_out,)`` or None; ``conv.bias`` itself stays the same parameter.
        settings: constructor arguments that differ, such as ``padding``.
    """
    arguments: dict[str, Any] = {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "padding_mode": conv.padding_mode,
        **settings,
    }
    in_channels, kernel = weight.shape[1] * arguments["groups"], (weight.shape[2], weight.shape[3])
    # On "meta" no random numbers are drawn.
    fresh = nn.Conv2d(in_channels, len(weight), kernel, **arguments, bias=bias is not None, device="meta")
    fresh.weight = parameter_like(conv.weight, weight)
    if bias is not None:
        fresh.bias = parameter_like(conv.bias, bias)
    return fresh.train(conv.training)


def parameter_like(old: Tensor | None, value: Tensor) -> nn.Parameter:
    """``value`` as a parameter that is trained if ``old`` is; a parameter stays the same object."""
    if isinstance(value, nn.Parameter):
        return value
    return nn.Parameter(value.detach(), requires_grad=old is None or old.requires_grad)
