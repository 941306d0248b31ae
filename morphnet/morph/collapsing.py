"""The way back, for inference: modules whose activations stayed near linear become one convolution again."""

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

#: How far a slope may be from 1 (Eq. 8) in a module that is collapsed.
TOLERANCE = 0.05


@dataclass(frozen=True)
class ModuleCollapse:
    """What became of one module.

    Attributes:
        bend: the largest distance of its slopes from 1; 0 where it has none.
        reason: why it was left as it is; None if it was collapsed.
    """

    name: str
    bend: float
    reason: str | None


@dataclass(frozen=True)
class CollapseReport:
    """What a collapse did, and how far it changed the network.

    Attributes:
        difference: the largest difference of logits over the largest logit, on the images; None without images.
        errors_before, errors_after, images: counted where the images came with labels.
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
        return {
            **{key: value for key, value in vars(self).items() if key != "modules"},
            "modules": [vars(module) for module in self.modules],
        }

    def __str__(self) -> str:
        lines = [f"{len(self.collapsed)} of {len(self.modules)} modules became one convolution"]
        lines += [f"  {m.name}: left as it is: {m.reason}" for m in self.modules if m.reason is not None]
        lines += [
            f"  FLOP        {self.macs_before:,} -> {self.macs_after:,} "
            f"({self.macs_after / max(self.macs_before, 1):.3f}x)",
            f"  parameters  {self.parameters_before:,} -> {self.parameters_after:,}",
        ]
        if self.difference is not None:
            lines.append(
                f"  logits      differ by at most {self.difference:.1e} of the largest, on {self.images} images"
            )
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
    """A copy of ``network`` for inference, in which modules with slopes near 1 are one convolution each.

    A module whose activations all have slopes within ``tolerance`` of 1 computes nearly an affine map; its filters and
    the running statistics of its batch normalisations are composed to that map's filter and bias, in float64. The rest
    stays. Training goes on from the network that was given, not from this one.

    Args:
        network: one of our ResNets with morphed shortcuts, or any network with grown convolutions.
        images: batches of images, or of (images, labels), on which the change is measured.
        input_size: ``(N, C, H, W)`` that FLOP are counted for.

    Returns:
        The network, of the same class, and what was done.

    Raises:
        ValueError: nothing in the network was ever morphed, or the tolerance is negative.

    Source: Eqs. (2), (5), (8), (9) read backwards.
    """
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance={tolerance}: a number from 0 is needed, such as {TOLERANCE}")
    modules = {name: m for name, m in network.named_modules() if isinstance(m, (SplitShortcut, GraphConv2d))}
    if not modules:
        raise ValueError(f"this {type(network).__name__} has no morphed module to collapse")
    done: dict[str, GraphConv2d] = {}
    told = []
    with torch.no_grad():
        for name, module in modules.items():
            bend = _bend(module)
            reason = _obstacle(module)
            if reason is None and bend > tolerance:
                reason = f"a slope is {bend:.3f} from 1, over the tolerance of {tolerance:g}"
            if reason is None:
                done[name] = _one_convolution(module)
            told.append(ModuleCollapse(name, bend, reason))
        result = _with(network, done)
    difference, errors, count = _compare(network, result, images)
    report = CollapseReport(
        tolerance,
        tuple(told),
        count_macs(network, input_size),
        count_macs(result, input_size),
        count_parameters(network),
        count_parameters(result),
        difference,
        errors[0] if errors else None,
        errors[1] if errors else None,
        count,
    )
    metadata = metadata_of(result)
    metadata["collapsed"] = [*metadata.get("collapsed", []), *report.collapsed]
    return result, report


def _bend(module: nn.Module) -> float:
    slopes = [m.a.detach() for m in module.modules() if isinstance(m, ParametricActivation)]
    return max((float((a.double() - 1).abs().max()) for a in slopes), default=0.0)


def _obstacle(module: nn.Module) -> str | None:
    """Why a module is no convolution even where it is linear; None if it is one."""
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
        channels = module.branches[0].conv1.in_channels  # type: ignore[union-attr,operator]
        maps = [_affine_of_branch(branch) for branch in module.branches]  # type: ignore[arg-type]
        weight, bias = maps[0]
        for other, constant in maps[1:]:
            weight, bias = add(weight, other), bias + constant
        if not module.shape.two_branches:
            rest = torch.eye(int(channels), dtype=weight.dtype, device=weight.device)[:, :, None, None]  # type: ignore[arg-type]
            weight = add(weight, module.shape.shares[1] * rest)
        like = module.branches[0].conv1.weight  # type: ignore[union-attr]
        conv = replace(ConvShape.identity(int(channels)), bias=True)  # type: ignore[arg-type]
    else:
        assert isinstance(module, GraphConv2d)
        weight, bias = _affine_of_graph(module)
        like = next(iter(module.convs.values())).weight  # type: ignore[union-attr,assignment]
        conv = replace(module.shape.conv, bias=True)
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    made = GraphConv2d(ModuleShape(conv, ModuleGraph([Edge("s", "t", kernel)]), activation=None))
    made.convs["s-t"].weight.data = weight.to(like).contiguous()  # type: ignore[arg-type,union-attr]
    made.biases[SINK].data = bias.to(like)  # type: ignore[arg-type]
    return made.to(like.device).eval()  # type: ignore[arg-type]


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
    some = next(iter(module.convs.values())).weight
    reached: dict[str, tuple[Tensor | None, Tensor]] = {
        SOURCE: (None, torch.zeros(widths[SOURCE], dtype=torch.float64, device=some.device))  # type: ignore[arg-type]
    }
    for vertex in graph.vertices[1:]:
        total: Tensor | None = None
        constant = torch.zeros(widths[vertex], dtype=torch.float64, device=some.device)  # type: ignore[arg-type]
        for edge in graph.edges_into(vertex):
            key = edge_key(edge.name)
            if edge.identity:
                eye = torch.eye(widths[vertex], dtype=torch.float64, device=some.device)  # type: ignore[arg-type]
                weight, offset = edge.scale * eye[:, :, None, None], torch.zeros_like(constant)
            else:
                norm = dict(module.norms.items()).get(key)
                weight, offset = _normalised(module.convs[key].weight, norm)  # type: ignore[arg-type]
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
) -> tuple[float | None, tuple[int, int] | None, int]:
    """Largest difference of logits over the largest logit, errors of both where there are labels, and images."""
    difference = largest = 0.0
    errors, count, labelled = [0, 0], 0, True
    device = next(network.parameters()).device
    with evaluation_mode(network), without_tf32(), torch.inference_mode():
        for batch in images or ():
            x, labels = (batch, None) if isinstance(batch, Tensor) else (batch[0], batch[1])
            outputs = [net(x.to(device)).double() for net in (network, result)]
            difference = max(difference, float((outputs[0] - outputs[1]).abs().max()))
            largest = max(largest, float(outputs[0].abs().max()))
            count += len(x)
            if labels is None:
                labelled = False
            else:
                wrong = [int((logits.argmax(1) != labels.to(device)).sum()) for logits in outputs]
                errors = [errors[0] + wrong[0], errors[1] + wrong[1]]
    if not count:
        return None, None, 0
    return difference / max(largest, 1e-300), (errors[0], errors[1]) if labelled else None, count
