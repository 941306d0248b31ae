"""The filter that a module computes (Eq. 5), and its distance from the parent's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from morphnet.graph import SINK, SOURCE, Edge, ModuleGraph
from morphnet.solvers.algebra import add, compose, zero_pad

#: Most multiply-accumulates for composing the module's filter; above, random inputs estimate the residual.
COMPOSE_MACS = 4e9
#: Number of random inputs, and their seed, which no filters are drawn with.
PROBES, PROBE_SEED = 4, 20_170_111


def filter_of(edge: Edge, filters: Mapping[Edge, Tensor], channels: int) -> Tensor:
    """The filter of ``edge``; for an identity, its scale times the 1x1 identity of ``channels``."""
    if not edge.identity:
        return filters[edge]
    like = next(iter(filters.values()), torch.zeros((), dtype=torch.float64))
    return edge.scale * torch.eye(channels, dtype=like.dtype, device=like.device)[:, :, None, None]


def routes_from_source(
    graph: ModuleGraph, filters: Mapping[Edge, Tensor], widths: Mapping[str, int], until: str = SINK
) -> dict[str, Tensor]:
    """For each vertex up to ``until`` but the source, the sum over its routes from it, ``(C_v, C_i, H, W)`` (Eq. 5)."""
    reached: dict[str, Tensor] = {}
    for vertex in graph.vertices[1:]:
        for edge in graph.edges_into(vertex):
            weight = filter_of(edge, filters, widths[edge.source])
            route = weight if edge.source == SOURCE else compose(weight, reached[edge.source])
            reached[vertex] = add(reached[vertex], route) if vertex in reached else route
        if vertex == until:
            break
    return reached


def routes_to_sink(
    graph: ModuleGraph, filters: Mapping[Edge, Tensor], widths: Mapping[str, int], until: str = SOURCE
) -> dict[str, Tensor]:
    """For each vertex back to ``until`` but the sink, the sum over its routes to it, ``(C_j, C_v, H, W)``."""
    reached: dict[str, Tensor] = {}
    for vertex in reversed(graph.vertices[:-1]):
        for edge in graph.edges_out_of(vertex):
            weight = filter_of(edge, filters, widths[edge.source])
            route = weight if edge.target == SINK else compose(reached[edge.target], weight)
            reached[vertex] = add(reached[vertex], route) if vertex in reached else route
        if vertex == until:
            break
    return reached


def module_filter(graph: ModuleGraph, filters: Mapping[Edge, Tensor], in_channels: int, out_channels: int) -> Tensor:
    """The module's filter ``(C_j, C_i, H~, W~)``, composed vertex by vertex; equal to :func:`path_sum` (Eq. 5)."""
    whole = routes_from_source(graph, filters, graph.widths(in_channels, out_channels))[SINK]
    return zero_pad(whole, graph.kernel)


def path_sum(graph: ModuleGraph, filters: Mapping[Edge, Tensor], in_channels: int, out_channels: int) -> Tensor:
    """The module's filter as the sum over all paths of their compositions, of which there may be very many (Eq. 5)."""
    widths = graph.widths(in_channels, out_channels)
    total: Tensor | None = None
    for path in graph.paths():
        route = filter_of(path[0], filters, in_channels)
        for edge in path[1:]:
            route = compose(filter_of(edge, filters, widths[edge.source]), route)
        total = route if total is None else add(total, route)
    assert total is not None
    return zero_pad(total, graph.kernel)


def evaluate_module(graph: ModuleGraph, filters: Mapping[Edge, Tensor], x: Tensor) -> Tensor:
    """The module run on ``x`` without padding, parallel paths cropped to align.

    Shapes: ``(N, C_i, H, W)``, at least the module's kernel, to ``(N, C_j, H - H~ + 1, W - W~ + 1)``.
    """
    reach = graph.radius_to_sink()
    blobs = {SOURCE: x}
    for vertex in graph.vertices[1:]:
        total: Tensor | None = None
        for edge in graph.edges_into(vertex):
            crop = [reach[edge.source][i] - reach[vertex][i] - edge.radius[i] for i in (0, 1)]
            blob = crop_rim(blobs[edge.source], crop[0], crop[1])
            y = edge.scale * blob if edge.identity else F.conv2d(blob, filters[edge])
            total = y if total is None else total + y
        assert total is not None
        blobs[vertex] = total
    return blobs[SINK]


def crop_rim(x: Tensor, rows: int, columns: int) -> Tensor:
    """``x`` without ``rows`` and ``columns`` on each side."""
    return x[:, :, rows : x.shape[2] - rows, columns : x.shape[3] - columns]


def residual_of(graph: ModuleGraph, filters: Mapping[Edge, Tensor], weight: Tensor) -> float:
    """Norm of (module's filter - ``weight``) over the norm of ``weight``; over 1 if that is zero.

    Composes the module's filter if that is cheap. Otherwise runs both on a few random normal inputs, which gives the
    same ratio up to sampling (and zero only for zero).
    """
    out_channels, in_channels = weight.shape[:2]
    rows, columns = graph.kernel
    macs = sum(
        in_channels * weight_.shape[0] * weight_.shape[1] * weight_.shape[2] * weight_.shape[3] * rows * columns
        for weight_ in filters.values()
    )
    if macs <= COMPOSE_MACS:
        whole = module_filter(graph, filters, in_channels, out_channels)
        difference, size = torch.linalg.norm(add(whole, -weight)), torch.linalg.norm(weight)
    else:
        generator = torch.Generator().manual_seed(PROBE_SEED)
        height, width = max(rows, weight.shape[2]), max(columns, weight.shape[3])
        x = torch.randn(PROBES, in_channels, height + 2, width + 2, generator=generator, dtype=weight.dtype)
        x = x.to(weight.device)
        ours = evaluate_module(graph, filters, crop_rim(x, (height - rows) // 2, (width - columns) // 2))
        crop = ((height - weight.shape[2]) // 2, (width - weight.shape[3]) // 2)
        theirs = F.conv2d(crop_rim(x, *crop), weight)
        difference, size = torch.linalg.norm(ours - theirs), torch.linalg.norm(theirs)
    return float(difference / size) if size > 0 else float(difference)
