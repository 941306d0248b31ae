"""Turns modules with near-linear activations back into one convolution, for inference."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from morphnet.flops import count_macs, count_parameters
from morphnet.graph import SINK, SOURCE, Edge, ModuleGraph
from morphnet.morph.images import Batch
from morphnet.nn.activation import ParametricActivation
from morphnet.nn.branch import Branch, SplitShortcut
from morphnet.nn.graph_conv import ConvShape, GraphConv2d, ModuleShape, edge_key
from morphnet.nn.metadata import metadata_of
from morphnet.nn.mode import evaluation_mode, without_tf32
from morphnet.nn.replace import replace_module
from morphnet.nn.resnet import ResNet, rebuild
from morphnet.solvers.algebra import add, compose

#: Largest distance of a slope from 1 (Eq. 8) in a module that is collapsed.
TOLERANCE = 0.05


@dataclass(frozen=True)
class ModuleCollapse:
    """The outcome of one module.

    Attributes:
        bend: the largest distance of its slopes from 1; 0 if it has none.
        reason: why it was not collapsed; None if it was.
    """

    name: str
    bend: float
    reason: str | None


@dataclass(frozen=True)
class CollapseReport:
    """The outcome of a collapse.

    Attributes:
        difference: the largest difference of logits over the largest logit, on the images; None without images.
        errors_before, errors_after: None without labels.
    """

    tolerance: float
    modules: tuple[ModuleCollapse, ...]
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    difference: float | None
    errors_before: int | None
    errors_after: int | None
    images: int

    @property
    def collapsed(self) -> tuple[str, ...]:
        return tuple(module.name for module in self.modules if module.reason is None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = dict(vars(self))
        modules = values.pop("modules")
        return {**values, "modules": [vars(module) for module in modules]}

    def __str__(self) -> str:
        lines = [f"{len(self.collapsed)} of {len(self.modules)} modules became one convolution"]
        lines += [f"  {m.name}: left as it is: {m.reason}" for m in self.modules if m.reason is not None]
        lines += [
            f"  FLOP        {self.macs_before:,} -> {self.macs_after:,} "
            f"({self.macs_after / max(self.macs_before, 1):.3f}x)",
            f"  parameters  {self.parameters_before:,} -> {self.parameters_after:,}",
        ]
        if self.difference is not None:
            on = f"on {self.images} images"
            lines.append(f"  logits      differ by at most {self.difference:.1e} of the largest, {on}")
        if self.errors_before is not None:
            lines.append(f"  errors      {self.errors_before:,} -> {self.errors_after:,} of {self.images:,}")
        return "\n".join(lines)


def collapse(
    network: nn.Module,
    *,
    tolerance: float = TOLERANCE,
    images: Iterable[Batch] | None = None,
    input_size: tuple[int, ...] = (1, 3, 32, 32),
) -> tuple[Any, CollapseReport]:
    """A copy of ``network`` for inference, in which each module with slopes near 1 is one convolution.

    A module whose slopes are all within ``tolerance`` of 1 is nearly an affine map, whose filter and bias are composed
    in float64 from its filters and batch normalisations. Training should continue with the given network, not this one.

    Args:
        network: one of our ResNets with morphed shortcuts, or any network with grown convolutions.
        images: batches of images, or of (images, labels), to measure the change on.
        input_size: ``(N, C, H, W)`` for which FLOP are counted.

    Returns:
        The network, of the same class, and a report.

    Raises:
        ValueError: the network has no morphed module, or the tolerance is negative.

    Source: Eqs. (2), (5), (8), (9) read backwards.
    """
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance={tolerance}: a number from 0 is needed, such as {TOLERANCE}")
    modules = {name: m for name, m in network.named_modules() if isinstance(m, (SplitShortcut, GraphConv2d))}
    if not modules:
        raise ValueError(f"this {type(network).__name__} has no morphed module to collapse")
    replaced: dict[str, GraphConv2d] = {}
    outcomes = []
    with torch.no_grad():
        for name, module in modules.items():
            slopes = [m.a.detach().double() for m in module.modules() if isinstance(m, ParametricActivation)]
            bend = max((float((a - 1).abs().max()) for a in slopes), default=0.0)
            reason = _obstacle(module)
            if reason is None and bend > tolerance:
                reason = f"a slope is {bend:.3f} from 1, over the tolerance of {tolerance:g}"
            if reason is None:
                replaced[name] = _one_convolution(module)
            outcomes.append(ModuleCollapse(name, bend, reason))
        result = _with(network, replaced)
    report = CollapseReport(
        tolerance,
        tuple(outcomes),
        count_macs(network, input_size),
        count_macs(result, input_size),
        count_parameters(network),
        count_parameters(result),
        *_compare(network, result, images),
    )
    metadata = metadata_of(result)
    metadata["collapsed"] = [*metadata.get("collapsed", []), *report.collapsed]
    return result, report


def _obstacle(module: nn.Module) -> str | None:
    """Why a module is not one convolution even if its activations are linear; None if it is."""
    if any(isinstance(inner, GraphConv2d) for inner in module.modules() if inner is not module):
        return "a convolution in it is a module of its own"
    if isinstance(module, SplitShortcut):
        shape = module.shape
        if shape.padding == "same" and shape.kernel_sizes[1] > 1:
            return "its second convolution pads for itself, so that the outer pixels are no convolution's"
        return None
    assert isinstance(module, GraphConv2d)
    graph = module.shape.graph
    later = [edge for edge in graph.edges if edge.source != SOURCE]
    if module.shape.padding == "same" and any(edge.kernel != (1, 1) for edge in later):
        return "its convolutions pad for themselves, so that the outer pixels are no convolution's"
    if module.shape.conv.groups != 1:
        return "it has groups"
    return "it is one convolution already" if len(graph.edges) == 1 and not len(module.norms) else None


def _one_convolution(module: nn.Module) -> GraphConv2d:
    """The convolution, with bias, that ``module`` is in evaluation mode where its activations are linear."""
    if isinstance(module, SplitShortcut):
        branches = [branch for branch in module.branches if isinstance(branch, Branch)]
        like, channels = branches[0].conv1.weight, branches[0].conv1.in_channels
        weight, bias = _affine_of_branch(branches[0])
        if module.shape.two_branches:
            other, constant = _affine_of_branch(branches[1])
            weight, bias = add(weight, other), bias + constant
        else:
            rest = torch.eye(channels, dtype=weight.dtype, device=weight.device)[:, :, None, None]
            weight = add(weight, module.shape.shares[1] * rest)
        conv = replace(ConvShape.identity(channels), bias=True)
    else:
        assert isinstance(module, GraphConv2d)
        weight, bias = _affine_of_graph(module)
        like = next(module.convs.parameters())
        conv = replace(module.shape.conv, bias=True)
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    made = GraphConv2d(ModuleShape(conv, ModuleGraph([Edge("s", "t", kernel)]), activation=None))
    made.get_parameter("convs.s-t.weight").data = weight.to(like).contiguous()
    made.biases[SINK].data = bias.to(like)
    return made.to(like.device).eval()


def _affine_of_branch(branch: Branch) -> tuple[Tensor, Tensor]:
    """Filter and bias of conv - BN - linear - conv - BN, float64."""
    first, offset = _normalised(branch.conv1.weight, branch.bn1)
    linear = _linear_part(branch.act)
    first, offset = first * linear[:, None, None, None], offset * linear
    second, last = _normalised(branch.conv2.weight, branch.bn2)
    return compose(second, first), last + second.sum((2, 3)) @ offset


def _affine_of_graph(module: GraphConv2d) -> tuple[Tensor, Tensor]:
    """Filter and bias of a grown convolution, vertex by vertex as Eq. (5), float64."""
    graph, widths = module.shape.graph, module.widths
    like = next(module.convs.parameters()).double()
    reached: dict[str, tuple[Tensor | None, Tensor]] = {SOURCE: (None, like.new_zeros(widths[SOURCE]))}
    for vertex in graph.vertices[1:]:
        total: Tensor | None = None
        constant = like.new_zeros(widths[vertex])
        for edge in graph.edges_into(vertex):
            key = edge_key(edge.name)
            if edge.identity:
                eye = torch.eye(widths[vertex], dtype=like.dtype, device=like.device)
                weight, offset = edge.scale * eye[:, :, None, None], torch.zeros_like(constant)
            else:
                norm = dict(module.norms.items()).get(key)
                weight, offset = _normalised(module.get_parameter(f"convs.{key}.weight"), norm)
            before, shift = reached[edge.source]
            route = weight if before is None else compose(weight, before)
            total = route if total is None else add(total, route)
            constant = constant + offset + weight.sum((2, 3)) @ shift
        name = module._keys[graph.vertices.index(vertex)]
        if name in module.biases:
            constant = constant + module.biases[name].double()
        if name in module.activations:
            linear = _linear_part(module.activations[name])  # type: ignore[arg-type]
            assert total is not None
            total, constant = total * linear[:, None, None, None], constant * linear
        reached[vertex] = (total, constant)
    weight, bias = reached[SINK]  # type: ignore[assignment]
    return weight, bias


def _normalised(weight: Tensor, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Filter and bias of a convolution and the batch normalisation behind it, as it evaluates (Eq. 9)."""
    weight = weight.double()
    if norm is None:
        return weight, torch.zeros(weight.shape[0], dtype=torch.float64, device=weight.device)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return weight * scale[:, None, None, None], norm.bias.double() - norm.running_mean.double() * scale


def _linear_part(activation: ParametricActivation) -> Tensor:
    """The factor of each channel that is closest to an activation with slopes near 1."""
    a = activation.a.double()
    return (1 + a) / 2 if activation.function == "relu" else torch.ones_like(a)


def _with(network: nn.Module, replaced: Mapping[str, GraphConv2d]) -> nn.Module:
    """A copy of ``network``, in evaluation mode, with the modules of ``replaced`` in their places."""
    if isinstance(network, ResNet):
        blocks = {f"{name}.{block.shortcut_name}": name for name, block in network.named_blocks()}
        gone = {blocks[name] for name in replaced if name in blocks}
        kept = {name: shape for name, shape in network.architecture.shortcuts.items() if name not in gone}
        result: nn.Module = rebuild(network, replace(network.architecture, shortcuts=kept))
    else:
        result = copy.deepcopy(network)
    for name, made in replaced.items():
        replace_module(result, result.get_submodule(name), made)
    return result.eval()


def _compare(
    network: nn.Module, result: nn.Module, images: Iterable[Batch] | None
) -> tuple[float | None, int | None, int | None, int]:
    """Largest difference of logits over the largest logit, errors of both networks, and the number of images."""
    difference = largest = 0.0
    wrong, count, labelled = [0, 0], 0, True
    device = next(network.parameters()).device
    with evaluation_mode(network), without_tf32(), torch.inference_mode():
        for batch in images or ():
            x, labels = (batch, None) if isinstance(batch, Tensor) else (batch[0], batch[1])
            outputs = [each(x.to(device)).double() for each in (network, result)]
            difference = max(difference, float((outputs[0] - outputs[1]).abs().max()))
            largest = max(largest, float(outputs[0].abs().max()))
            count += len(x)
            labelled = labelled and labels is not None
            if labels is not None:
                wrong = [w + int((y.argmax(1) != labels.to(device)).sum()) for w, y in zip(wrong, outputs, strict=True)]
    if not count:
        return None, None, None, 0
    before, after = wrong if labelled else (None, None)
    return difference / max(largest, 1e-300), before, after, count
