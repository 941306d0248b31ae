"""The changed layers of a network as plain values: grown convolutions, and layers of other shapes."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from torch import nn

from morphnet.nn.activation import ParametricActivation
from morphnet.nn.graph_conv import GraphConv2d, ModuleShape
from morphnet.nn.replace import replace_module

#: Layers whose shape a morph may change, with the settings that make one of them.
LAYERS: dict[str, type[nn.Module]] = {
    "Conv2d": nn.Conv2d,
    "Linear": nn.Linear,
    "BatchNorm1d": nn.BatchNorm1d,
    "BatchNorm2d": nn.BatchNorm2d,
    "PReLU": nn.PReLU,
    "ParametricActivation": ParametricActivation,
}

_ARGUMENTS = {
    kind: tuple(name for name in inspect.signature(cls).parameters if name not in ("device", "dtype", "a", "init"))
    for kind, cls in LAYERS.items()
}


def describe_structure(network: nn.Module, base: nn.Module | None = None) -> dict[str, Any]:
    """The grown convolutions of ``network``, and the settings of its layers.

    Args:
        base: the network it was made from, which is not changed; with it, only layers that differ are listed.

    Returns:
        JSON values for :func:`restore_structure`; empty dictionaries where nothing was changed.
    """
    modules = {name: m.shape.to_dict() for name, m in network.named_modules() if isinstance(m, GraphConv2d)}
    layers = {name: settings for name, m in network.named_modules() if (settings := _settings(m)) is not None}
    if base is not None:
        if modules:
            base = copy.deepcopy(base)
            restore_structure(base, {"modules": modules, "layers": {}})
        before = dict(base.named_modules())
        layers = {name: s for name, s in layers.items() if name not in before or _settings(before[name]) != s}
    return {"modules": modules, "layers": layers}


def restore_structure(network: nn.Module, structure: dict[str, Any]) -> None:
    """Gives ``network`` the layers that ``structure`` describes, in place, with arbitrary weights.

    Raises:
        ValueError: a name is missing in ``network``, or a layer there is of another kind.
    """
    for name, values in structure.get("modules", {}).items():
        shape = ModuleShape.from_dict(values)
        old = _part(network, name)
        if isinstance(old, GraphConv2d) and old.shape == shape:
            continue
        plain = isinstance(old, (nn.Conv2d, nn.Identity)) or (isinstance(old, nn.Sequential) and len(old) == 0)
        if not plain or isinstance(old, GraphConv2d):
            raise ValueError(f"{name} is a {type(old).__name__}; a convolution or an identity is needed, unmorphed")
        replace_module(network, old, GraphConv2d(shape).train(old.training))
    for name, values in structure.get("layers", {}).items():
        old = _part(network, name)
        if _settings(old) == values:
            continue
        kind = values.get("kind") if isinstance(values, dict) else None
        if kind not in LAYERS or type(old) is not LAYERS[kind]:
            raise ValueError(f"{name} is a {type(old).__name__}; a {kind} is needed")
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "kind"}
        replace_module(network, old, LAYERS[kind](**settings).train(old.training))


def _part(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"this {type(network).__name__} has no {name}") from error


def _settings(layer: nn.Module) -> dict[str, Any] | None:
    """The constructor's arguments of a layer of ``LAYERS``, as JSON values; None for any other."""
    kind = next((name for name, cls in LAYERS.items() if type(layer) is cls), None)
    if kind is None:
        return None
    settings: dict[str, Any] = {"kind": kind}
    for name in _ARGUMENTS[kind]:
        if name == "bias":
            value: Any = layer.bias is not None
        elif name == "channels":
            value = layer.get_parameter("a").numel()
        else:
            value = getattr(layer, name)
        settings[name] = list(value) if isinstance(value, tuple) else value
    return settings
