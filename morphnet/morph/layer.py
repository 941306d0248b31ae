"""The morph of one convolution to a module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from morphnet.graph import SINK, ModuleGraph
from morphnet.morph.statistics import batch_norms, set_identity_norms
from morphnet.nn.graph_conv import ConvShape, GraphConv2d, ModuleShape, Padding, edge_key, group_widths
from morphnet.nn.replace import what_a_fresh_one_would_lose
from morphnet.nn.resnet import phi_of
from morphnet.solvers import TOLERANCE, check_feasible, solve


class InexactError(ValueError):
    """No exact solution was found; the message names the layer, the residual, and what would make it exact."""

    exit_code = 3  # of the command line


@dataclass(frozen=True)
class GrownLayer:
    """A grown layer and the figures of its solution, the worst of all groups."""

    module: GraphConv2d
    residual: float
    condition: float
    zero_share: float
    outcome: str
    weak: tuple[str, ...]


@torch.inference_mode(False)
def morph_conv(
    conv: nn.Conv2d,
    graph: ModuleGraph,
    *,
    activation: str | None = "prelu",
    norm: str | None = None,
    calibration: Iterable[Tensor] | None = None,
    padding: Padding = "exact",
    method: str = "auto",
    init: str = "dense",
    generator: torch.Generator | None = None,
    allow_inexact: bool = False,
) -> GraphConv2d:
    """A module that computes what ``conv`` computes, as an ``nn.Module`` of the same dtype, device and mode.

    Args:
        conv: an ``nn.Conv2d`` with any settings; each of its groups is morphed alone. It is not changed and shares no
            tensor with the result.
        graph: the module; with groups, widths are divided among them.
        activation: the parametric activation of inner vertices, such as ``prelu``; None for none.
        norm: ``batch`` for a batch normalisation after every convolution, set to the identity (Eq. 9).
        calibration: inputs of the convolution, each ``(N, C_i, H, W)``; needed with ``norm``.
        padding: ``exact``: every pixel is the parent's; ``same``: every edge pads for itself, as in the paper.
        method, init, generator: see :func:`~morphnet.solvers.solve`.
        allow_inexact: return the module even if no exact solution was found.

    Shapes: of the result as of ``conv``, ``(N, C_i, H, W)`` to ``(N, C_j, H', W')``.

    Raises:
        ValueError: an argument is wrong, or the layer cannot be morphed.
        InexactError: no exact solution was found.

    Source: Definition 2, Theorem 8; Sec. 3.7.
    """
    refusal = why_not(conv)
    if refusal or not isinstance(conv, nn.Conv2d):
        raise ValueError(f"morph_conv: {refusal or 'an nn.Conv2d is needed'}")
    if not isinstance(graph, ModuleGraph):
        raise TypeError(f"morph_conv: a ModuleGraph is needed; got {type(graph).__name__}")
    if norm not in (None, "batch"):
        raise ValueError(f"norm={norm!r}; expected None or 'batch'")
    batches = list(calibration) if calibration is not None else []
    if norm is not None and not batches:
        raise ValueError(
            "norm='batch' sets batch normalisations from data: give calibration=, inputs of the convolution"
        )
    for x in batches:
        if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] != conv.in_channels or not x.is_floating_point():
            raise ValueError(f"calibration: inputs of shape (N, {conv.in_channels}, H, W) are needed")
        if len(x) < 2 or not torch.isfinite(x).all():
            raise ValueError("calibration: batches of at least two finite inputs are needed")
    shape = ModuleShape(ConvShape.of(conv), graph, padding, activation_name(activation), norm is not None)
    grown = grow(conv, shape, generator or torch.Generator().manual_seed(0), method, init)
    if not grown.residual <= TOLERANCE and not allow_inexact:
        raise InexactError(f"morph_conv: {grown.outcome}")
    module = grown.module
    if norm is not None:
        set_identity_norms(module, batch_norms(module), [x.detach().cpu() for x in batches])
    return delivered(module, conv)


def activation_name(activation: str | None) -> str | None:
    """phi of an activation's name, such as ``relu`` for ``prelu``; None for ``none``.

    Raises:
        ValueError: there is no such activation.
    """
    return None if activation is None or activation == "none" else phi_of(activation)


def why_not(layer: nn.Module) -> str | None:
    """Why a layer cannot become a module; None if it can.

    A plain ``nn.Conv2d``, an ``nn.Identity`` and an empty ``nn.Sequential`` can. Subclasses, hooks, transposed, lazy
    and quantised layers may compute something else with the weights.
    """
    if type(layer) is nn.Identity or (type(layer) is nn.Sequential and len(layer) == 0):
        return None
    name = type(layer).__name__
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return f"{name} has no weights yet: run the network once, so that it becomes a Conv2d"
    if "quantized" in type(layer).__module__ or "ao.nn" in type(layer).__module__:
        return f"{name} is quantised: morph the network before it is quantised"
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return f"{name} is a transposed convolution, which is not of the form of Eq. (1)"
    if isinstance(layer, GraphConv2d):
        return f"it is a module already: morph one of its convolutions, such as convs.{next(iter(layer.convs))}"
    if type(layer) is not nn.Conv2d:
        if isinstance(layer, nn.Conv2d):
            return f"{name} is a subclass of Conv2d and may compute something else with its weight (a parametrization?)"
        return f"{name} is no convolution and no identity"
    if "forward" in vars(layer):
        return "its forward was replaced, so that it may compute something else with its weight"
    if loss := what_a_fresh_one_would_lose(layer, layer):
        return loss
    if layer.weight.is_complex() or not layer.weight.is_floating_point():
        return f"its weight is {layer.weight.dtype}; a real floating dtype is needed"
    return None


def grow(
    layer: nn.Conv2d | None, shape: ModuleShape, generator: torch.Generator, method: str = "auto", init: str = "dense"
) -> GrownLayer:
    """The module of ``shape``, in float64 and evaluation mode, with filters that compute what ``layer`` computes.

    Args:
        layer: the convolution; None for the identity of ``shape.conv.in_channels`` channels.

    Batch normalisations are fresh and must be set before the module is used.
    """
    conv = shape.conv
    with torch.random.fork_rng(devices=[]):  # the initial weights do not matter
        module = GraphConv2d(shape).double().eval()
    if layer is None:
        weight = torch.eye(conv.in_channels, dtype=torch.float64)[:, :, None, None]
    else:
        weight = layer.weight.detach().to("cpu", torch.float64)
    graph = _of_one_group(shape)
    solutions = [solve(graph, part, method, generator, init=init) for part in weight.chunk(conv.groups)]
    with torch.no_grad():
        for edge in graph.convolutions:
            filters = torch.cat([solution.filters[edge] for solution in solutions])
            module.get_parameter(f"convs.{edge_key(edge.name)}.weight").copy_(filters)
        if layer is not None and layer.bias is not None:
            module.biases[SINK].copy_(layer.bias.detach())
    worst = max(solutions, key=lambda s: s.residual if s.residual == s.residual else float("inf"))
    return GrownLayer(
        module,
        worst.residual,
        max(s.condition for s in solutions),
        sum(s.zero_share for s in solutions) / len(solutions),
        worst.outcome,
        tuple(dict.fromkeys(words for s in solutions for words in s.weak)),
    )


def delivered(module: GraphConv2d, layer: nn.Module) -> GraphConv2d:
    """``module`` in the dtype, device, mode and trainability of ``layer``."""
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor):
        module = module.to(weight.device, weight.dtype)
        module.requires_grad_(weight.requires_grad)
        bias = getattr(layer, "bias", None)
        if isinstance(bias, Tensor):
            module.biases[SINK].requires_grad_(bias.requires_grad)
    return module.train(layer.training)


def feasible_or_why(shape: ModuleShape) -> str | None:
    """Why no exact solution is known for ``shape``, or None; nothing is solved."""
    conv = shape.conv
    kernel = [k + 1 - k % 2 for k in conv.kernel_size]
    filters = (conv.out_channels // conv.groups, conv.in_channels // conv.groups, *kernel)
    feasible = check_feasible(_of_one_group(shape), filters)
    return None if feasible.is_exact else str(feasible)


def _of_one_group(shape: ModuleShape) -> ModuleGraph:
    """The graph with the widths of one group of the convolution, and the same edges."""
    widths = group_widths(shape.graph, shape.conv)
    return ModuleGraph.of_parts(shape.graph.edges, {v: widths[v] // shape.conv.groups for v in shape.graph.inner})
