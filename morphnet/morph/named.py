"""The morph of named layers: targets of patterns, plans, new layers, and the delivered child."""

from __future__ import annotations

import copy
import fnmatch
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from morphnet.graph import SINK, GraphError, ModuleGraph
from morphnet.morph.apply import zero_share
from morphnet.morph.enlarging import enlarge_layer
from morphnet.morph.layer import GrownLayer, InexactError, activation_name, feasible_or_why, grow, why_not
from morphnet.morph.operations import Deepen, Enlarge, Operation, Widen, words
from morphnet.morph.plan import Settings
from morphnet.morph.report import LayerReport
from morphnet.morph.widening import widen_layer
from morphnet.nn.graph_conv import ConvShape, GraphConv2d, ModuleShape
from morphnet.nn.replace import replace_module, what_a_fresh_one_would_lose
from morphnet.solvers import TOLERANCE
from morphnet.suggest import suggest


@dataclass(frozen=True)
class Target:
    """A layer and its operation."""

    name: str
    operation: Operation


def find_targets(network: nn.Module, patterns: Mapping[str, Operation]) -> list[Target]:
    """The layers that the patterns match, in the order of the network.

    Args:
        patterns: globs of ``fnmatch`` on module names (``*`` matches dots too), each with an operation. Any name of a
            layer may match; the first one is used.

    Raises:
        ValueError: a pattern matches nothing, a layer that cannot be morphed, or a layer of another pattern; all such
            problems are listed.
    """
    if not patterns:
        raise ValueError("no pattern of layer names was given")
    names = dict(network.named_modules())
    names.pop("", None)
    first = {layer: name for name, layer in names.items()}
    own = {name: first[layer] for name, layer in network.named_modules(remove_duplicate=False) if layer in first}
    chosen: dict[str, Target] = {}
    problems = []
    for pattern, operation in patterns.items():
        if not isinstance(operation, (ModuleGraph, Deepen, Widen, Enlarge)):
            raise TypeError(f"{pattern}: a ModuleGraph, Deepen, Widen or Enlarge is needed; got {operation!r}")
        matched = list(dict.fromkeys(own[name] for name in own if fnmatch.fnmatchcase(name, pattern)))
        if not matched:
            problems.append(f"{pattern!r} matches no layer{_near(pattern, network)}")
        for name in matched:
            refusal = why_not(names[name]) or what_a_fresh_one_would_lose(network, names[name])
            if not refusal and isinstance(operation, (Widen, Enlarge)) and not isinstance(names[name], nn.Conv2d):
                refusal = f"{operation} needs a convolution"
            if refusal:
                problems.append(f"{name} cannot be morphed: {refusal}")
            elif name in chosen:
                problems.append(f"{name} is matched by two patterns")
            else:
                chosen[name] = Target(name, operation)
    if problems:
        listed = "\n  ".join(problems[:30]) + (f"\n  and {len(problems) - 30} more" if len(problems) > 30 else "")
        raise ValueError(f"nothing was morphed:\n  {listed}")
    return [chosen[name] for name in names if name in chosen]


def _near(pattern: str, network: nn.Module) -> str:
    morphable = [name for name, layer in network.named_modules() if name and why_not(layer) is None]
    if not morphable:
        return "; there is no convolution and no identity to morph"
    return suggest(pattern, morphable, count=3, cutoff=0.4) or f"; there are {', '.join(morphable[:3])}, ..."


def identity_channels(network: nn.Module, targets: Sequence[Target], x: Tensor | None) -> dict[str, int]:
    """Channels of the identities among ``targets``, found by running ``network`` on ``x``.

    Raises:
        ValueError: there is no input, or an identity gets no blob ``(N, C, H, W)``.
    """
    layers = {t.name: network.get_submodule(t.name) for t in targets}
    identities = {name: layer for name, layer in layers.items() if not isinstance(layer, nn.Conv2d)}
    if not identities:
        return {}
    if x is None:
        raise ValueError(
            f"{', '.join(identities)}: how many channels pass through an identity is found by running the network; "
            "give example_input= or calibration="
        )
    shapes: dict[str, tuple[int, ...]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            shapes.setdefault(name, tuple(inputs[0].shape))

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in identities.items()]
    try:
        with torch.no_grad():
            network(x[:2])
    finally:
        for handle in handles:
            handle.remove()
    for name in identities:
        if len(shapes.get(name, ())) != 4:
            got = f"a tensor of shape {shapes[name]}" if name in shapes else "nothing"
            raise ValueError(f"{name}: blobs (N, C, H, W) have to pass through it to be morphed; {got} does")
    return {name: shape[1] for name, shape in shapes.items()}


def plan_layers(
    network: nn.Module, targets: Sequence[Target], channels: Mapping[str, int], settings: Settings
) -> dict[str, ModuleShape]:
    """The shapes of the new modules.

    Raises:
        ValueError: widths or groups do not fit a layer.
        InexactError: a layer has no exact solution, as far as its graph shows; all such layers are named.
    """
    shapes: dict[str, ModuleShape] = {}
    problems, inexact = [], []
    for target in targets:
        operation = target.operation
        layer = network.get_submodule(target.name)
        if isinstance(operation, Deepen):
            operation = operation.graph(layer)
        if not isinstance(operation, ModuleGraph):
            continue
        conv = ConvShape.of(layer) if isinstance(layer, nn.Conv2d) else ConvShape.identity(channels[target.name])
        shape = ModuleShape(conv, operation, settings.padding, activation_name(settings.activation), settings.norm)
        try:
            why = feasible_or_why(shape)
        except (GraphError, ValueError) as error:
            problems.append(f"{target.name}: {error}")
            continue
        too_small = any(k > m for k, m in zip(conv.kernel_size, operation.kernel, strict=True))
        if why and settings.method == "auto" and too_small:
            inexact.append(f"{target.name}: {why}")
        shapes[target.name] = shape
    if problems:
        raise ValueError("nothing was morphed:\n  " + "\n  ".join(problems))
    if inexact and not settings.allow_inexact:
        raise InexactError("nothing was morphed, since it could not be exact:\n  " + "\n  ".join(inexact))
    return shapes


def apply_layers(
    exact: nn.Module,
    targets: Sequence[Target],
    shapes: Mapping[str, ModuleShape],
    settings: Settings,
    generator: torch.Generator,
) -> tuple[tuple[LayerReport, ...], list[GraphConv2d]]:
    """Changes the layers of ``exact``, a float64 copy of the parent, in place.

    Returns:
        A report for each target, and the modules that are new.

    Raises:
        ValueError: a layer cannot be widened or enlarged.
        InexactError: filters were not found exactly; every such layer is named.
    """
    reports, modules, inexact = [], [], []
    for target in targets:
        started = time.perf_counter()
        if target.name in shapes:
            report, module = _become_module(exact, target, shapes[target.name], settings, generator)
            modules.append(module)
        else:
            report = _change_size(exact, target, generator)
        reports.append(replace(report, seconds=time.perf_counter() - started))
        if not report.residual <= TOLERANCE:
            inexact.append(f"{target.name}: {report.outcome}")
    if inexact and not settings.allow_inexact:
        raise InexactError("no exact solution was found:\n  " + "\n  ".join(inexact))
    return tuple(reports), modules


def _become_module(
    exact: nn.Module, target: Target, shape: ModuleShape, settings: Settings, generator: torch.Generator
) -> tuple[LayerReport, GraphConv2d]:
    layer = exact.get_submodule(target.name)
    conv = layer if isinstance(layer, nn.Conv2d) else None
    if conv is not None and ConvShape.of(conv) != shape.conv:
        raise ValueError(
            f"{target.name}: widening another layer changes its channels, so its module would not fit; "
            "widen first, then morph the child"
        )
    if settings.method == "net2net":
        module = _net2net(conv, shape)
        grown = GrownLayer(module, 0.0, 1.0, zero_share(module), "identity insert", ())
    else:
        grown = grow(conv, shape, generator, settings.method, settings.init)
    replace_module(exact, layer, grown.module.to(next(exact.parameters()).device))
    report = LayerReport(
        name=target.name,
        change=f"{type(layer).__name__} -> {words(target.operation)}",
        residual=grown.residual,
        condition=grown.condition,
        zero_share=grown.zero_share,
        seconds=0.0,
        module=shape.to_dict(),
        outcome=grown.outcome,
        weak=grown.weak,
    )
    return report, grown.module


def _change_size(exact: nn.Module, target: Target, generator: torch.Generator) -> LayerReport:
    operation = target.operation
    if isinstance(operation, Widen):
        channels = exact.get_parameter(f"{target.name}.weight").shape[0]
        changed = widen_layer(exact, target.name, math.ceil(channels * operation.factor), generator)
    else:
        assert isinstance(operation, Enlarge)
        changed = enlarge_layer(exact, target.name, operation.kernel)
    return LayerReport(
        name=target.name,
        change="; ".join(f"{name}: {what}" for name, what in changed.items()) or "had it already",
        residual=0.0,
        condition=1.0,
        zero_share=zero_share(exact.get_submodule(target.name)),
        seconds=0.0,
        outcome=str(operation),
    )


def _net2net(conv: nn.Conv2d | None, shape: ModuleShape) -> GraphConv2d:
    """Net2DeeperNet: the parent's filter first, then an identity."""
    grown = GraphConv2d(shape).double().eval()
    first, second = (grown.get_submodule(f"convs.{key}") for key in ("s-a", "a-t"))
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    with torch.no_grad():
        for layer in (first, second):
            nn.init.dirac_(layer.weight, layer.groups)
        if conv is not None:
            first.weight.zero_()
            first.weight[:, :, : conv.kernel_size[0], : conv.kernel_size[1]] = conv.weight
            if conv.bias is not None:
                grown.get_parameter("biases.a").copy_(conv.bias)
    return grown


def deliver_layers(exact_child: nn.Module, parent: nn.Module) -> nn.Module:
    """A copy of ``exact_child`` with the dtype, mode and trainability of each layer of ``parent``."""
    child = copy.deepcopy(exact_child)
    parts = dict(parent.named_modules(remove_duplicate=False))
    tensors = {**dict(parent.named_parameters()), **dict(parent.named_buffers())}
    main = next(p.dtype for p in parent.parameters() if p.is_floating_point())

    def origin(name: str) -> nn.Module:
        while name not in parts:
            name = name.rpartition(".")[0]
        return parts[name]

    for name, module in child.named_modules():
        old = origin(name)
        module.training = old.training
        like = next((p for p in old.parameters() if p.is_floating_point()), None)
        for key, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is None or not value.is_floating_point():
                continue
            before = tensors.get(f"{name}.{key}" if name else key)
            dtype = before.dtype if before is not None else like.dtype if like is not None else main
            value.data = value.data.to(dtype)
            if isinstance(value, nn.Parameter):
                own = before if isinstance(before, nn.Parameter) else like
                if name.endswith("biases") and key == SINK:  # the bias of the convolution
                    own = next((p for k, p in old.named_parameters() if k == "bias"), own)
                value.requires_grad_(own is None or own.requires_grad)
    return child
