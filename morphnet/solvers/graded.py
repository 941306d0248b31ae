"""Filters that are exact by construction: graded, well conditioned, dense if the widths allow.

A random rotation splits every vertex space into Y + X; the source is all Y, the sink all X. Filters map Y to Y and X to
X by their centre taps, Y to X by any tap, and never X to Y. A route passes from Y to X exactly once, so the module's
filter is

    sum_e  A_e  J_e  B_e,        J_e the Y-to-X part of edge e, all its taps,

with matrices B_e (routes within Y from the source to the tail of e) and A_e (routes within X from its head to the
sink): linear in all off-centre taps. All J_e but one are random; that of the anchor, whose kernel holds the parent's,
takes what is missing, by two pseudo-inverses, tap by tap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from morphnet.graph import SINK, SOURCE, Edge, ModuleGraph
from morphnet.graph.feasibility import Anchor
from morphnet.solvers.algebra import orthogonal, zero_pad
from morphnet.solvers.solution import Filters

#: Largest condition number of each of the two matrices around the anchor; their product stays below 3.
GUARD = 1.7
#: Norm of all random contributions together, over the norm of the parent's filter.
RANDOM_SHARE = 0.7
#: Least gain of the routes around a random filter; below it the route is weak.
LEAST_ROUTE = 0.01


@dataclass(frozen=True)
class Graded:
    """Filters, and the condition number of the system that gave the anchor's."""

    filters: Filters
    condition: float


def split_vertices(graph: ModuleGraph, widths: Mapping[str, int], anchor: Anchor, dense: bool) -> dict[str, int]:
    """Channels of X at every vertex; the share of X never falls along an edge.

    At least C_i channels are Y before the anchor and at least C_j are X after it; elsewhere the share grows with the
    position between source and sink. Without ``dense`` every vertex is all Y or all X: the edges from Y to X are a cut
    of the module.
    """
    in_channels, out_channels = widths[SOURCE], widths[SINK]
    low, high = dict.fromkeys(graph.vertices, 0.0), dict.fromkeys(graph.vertices, 1.0)
    low[SINK], high[SOURCE] = 1.0, 0.0
    rigid_before = any(e.identity for e in anchor.before)
    rigid_after = any(e.identity for e in anchor.after)
    for vertex in (anchor.edge.source, *(e.source for e in anchor.before)):
        high[vertex] = 0.0 if rigid_before else (widths[vertex] - in_channels) / widths[vertex]
    for vertex in (anchor.edge.target, *(e.target for e in anchor.after)):
        low[vertex] = 1.0 if rigid_after else out_channels / widths[vertex]
    for vertex in graph.vertices:  # a bound holds for all later, or all earlier, vertices
        low[vertex] = max([low[vertex], *(low[e.source] for e in graph.edges_into(vertex))])
    for vertex in reversed(graph.vertices):
        high[vertex] = min([high[vertex], *(high[e.target] for e in graph.edges_out_of(vertex))])
    if not dense:
        return {v: widths[v] if low[v] > 0 else 0 for v in graph.vertices}
    place = _places(graph)
    return {v: int(min(max(place[v], low[v]), high[v]) * widths[v] + 0.5 + 1e-9) for v in graph.vertices}


def _places(graph: ModuleGraph) -> dict[str, float]:
    """Positions between 0 at the source and 1 at the sink, growing along every edge."""
    behind, ahead = {SOURCE: 0}, {SINK: 0}
    for vertex in graph.vertices[1:]:
        behind[vertex] = 1 + max(behind[e.source] for e in graph.edges_into(vertex))
    for vertex in reversed(graph.vertices[:-1]):
        ahead[vertex] = 1 + max(ahead[e.target] for e in graph.edges_out_of(vertex))
    return {v: behind[v] / (behind[v] + ahead[v]) for v in graph.vertices}


def expected_zeros(
    graph: ModuleGraph, widths: Mapping[str, int], x_channels: Mapping[str, int], anchor: Anchor, dense: bool
) -> int:
    """Number of zeros in the filters of a graded solution around ``anchor``."""
    rows, columns = anchor.edge.kernel
    filled = 1
    zeros = 0
    for edge in graph.convolutions:
        inside = min(rows, edge.kernel[0]) * min(columns, edge.kernel[1]) if dense else 1
        crosses = x_channels[edge.target] > 0 and x_channels[edge.source] < widths[edge.source]
        taps = inside if crosses else 1
        if edge is not anchor.edge:
            filled = max(filled, taps)
            zeros += widths[edge.source] * widths[edge.target] * (edge.kernel[0] * edge.kernel[1] - taps)
    return zeros + widths[anchor.edge.source] * widths[anchor.edge.target] * max(0, rows * columns - filled)


def solve_graded(
    graph: ModuleGraph,
    target: Tensor,
    widths: Mapping[str, int],
    anchor: Anchor,
    generator: torch.Generator,
    dense: bool,
) -> Graded:
    """Filters whose module computes ``target`` exactly, around one anchor, of unit scale along its path.

    Args:
        target: the parent's filter, ``(C_j, C_i, H, W)``, odd kernel, float64 on the CPU.
        dense: off-centre taps wherever the widths allow; else only the anchor has them.
    """
    x_channels = split_vertices(graph, widths, anchor, dense)
    y_channels = {v: widths[v] - x_channels[v] for v in graph.vertices}
    rotations = _rotations(graph, widths, x_channels, generator)
    rotated = _turn(target, rotations.get(SINK), rotations.get(SOURCE))

    # X is the same problem backwards: every matrix transposed, from sink to source.
    y_blocks, b = _guarded(graph, y_channels, anchor.before, generator, forwards=True, end=anchor.edge.source)
    x_blocks, a = _guarded(
        graph, x_channels, tuple(reversed(anchor.after)), generator, forwards=False, end=anchor.edge.target
    )

    parts: dict[Edge, Tensor] = {}
    missing = zero_pad(rotated, anchor.edge.kernel)
    others = [e for e in graph.convolutions if e is not anchor.edge and x_channels[e.target] and y_channels[e.source]]
    size = float(torch.linalg.norm(target)) or min(target.shape[:2]) ** 0.5
    share = RANDOM_SHARE * size / max(len(others), 1) ** 0.5
    for edge in graph.edges:
        y, x = y_channels[edge.source], x_channels[edge.target]
        if edge is anchor.edge or not y or not x:
            continue
        if edge.identity:
            part = edge.scale * torch.eye(widths[edge.source], dtype=torch.float64)[y_channels[edge.target] :, :y]
            part = part[:, :, None, None]
        else:
            kernel = [min(k, m) for k, m in zip(edge.kernel, anchor.edge.kernel, strict=True)] if dense else [1, 1]
            part = torch.randn(x, y, *kernel, generator=generator, dtype=torch.float64)
        through = _through(a[edge.target], part, b[edge.source])
        if not edge.identity:
            # A route may have a tiny gain by chance; scaling its filter up to compensate would harm.
            least = LEAST_ROUTE * float(torch.linalg.norm(part))
            gain = share / max(float(torch.linalg.norm(through)), least, 1e-30)
            part, through = gain * part, gain * through
            parts[edge] = part
        missing = missing - zero_pad(through, anchor.edge.kernel)
    left, right = a[anchor.edge.target], b[anchor.edge.source]
    left_inverse, right_inverse = torch.linalg.pinv(left), torch.linalg.pinv(right)
    solved = _through(left_inverse, missing, right_inverse)
    parts[anchor.edge] = solved + _null_noise(solved, left, left_inverse, right, right_inverse, generator, dense)

    filters = Filters()
    for edge in graph.convolutions:
        y_head, y_tail = y_channels[edge.target], y_channels[edge.source]
        weight = torch.zeros(widths[edge.target], widths[edge.source], *edge.kernel, dtype=torch.float64)
        row, column = edge.radius
        weight[:y_head, :y_tail, row, column] = y_blocks[edge]
        weight[y_head:, y_tail:, row, column] = x_blocks[edge]
        if edge in parts:
            weight[y_head:, :y_tail] = zero_pad(parts[edge], edge.kernel)
        filters[edge] = _turn(weight, _transposed(rotations.get(edge.target)), _transposed(rotations.get(edge.source)))
    return Graded(filters, _condition(left) * _condition(right))


def _guarded(
    graph: ModuleGraph,
    channels: Mapping[str, int],
    path: tuple[Edge, ...],
    generator: torch.Generator,
    *,
    forwards: bool,
    end: str,
) -> tuple[dict[Edge, Tensor], dict[str, Tensor]]:
    """Centre blocks within Y (or, backwards, within X) and the matrix of all routes to every vertex.

    Semi-orthogonal blocks, isometric on the signal along ``path``; all others are scaled down until the routes
    to ``end`` have a condition number of at most ``GUARD``. Where identity edges, which cannot be scaled, are in
    the way, the path is scaled up.

    Returns:
        Blocks ``(C_target, C_source)`` of every edge, and matrices ``(C_v, C_i)``; backwards ``(C_j, C_v)``.
    """
    origin = SOURCE if forwards else SINK
    order = graph.vertices if forwards else tuple(reversed(graph.vertices))
    into = graph.edges_into if forwards else graph.edges_out_of

    def tail(edge: Edge) -> str:
        return edge.source if forwards else edge.target

    def head(edge: Edge) -> str:
        return edge.target if forwards else edge.source

    blocks: dict[Edge, Tensor] = {}  # as maps from tail to head, in either direction
    signal = torch.eye(channels[origin], dtype=torch.float64)
    for edge in path:
        blocks[edge], signal = _isometric(edge, channels[tail(edge)], channels[head(edge)], signal, generator)
    for edge in graph.edges:
        if edge in blocks:
            continue
        if edge.identity:
            # Y has the first coordinates and X the last, so either part is a corner of the identity.
            size = max(channels[tail(edge)], channels[head(edge)])
            eye = edge.scale * torch.eye(size, dtype=torch.float64)
            rows, columns = channels[head(edge)], channels[tail(edge)]
            blocks[edge] = eye[:rows, :columns] if forwards else eye[size - rows :, size - columns :]
        else:
            blocks[edge] = orthogonal(channels[head(edge)], channels[tail(edge)], generator)
            blocks[edge] = blocks[edge] / max(len(into(head(edge))), 1) ** 0.5

    def routes(rest: float, gain: float) -> tuple[dict[Edge, Tensor], dict[str, Tensor]]:
        scaled = {}
        for edge, block in blocks.items():
            factor = 1.0 if edge.identity else gain if edge in path else rest
            scaled[edge] = factor * block
        reached = {origin: torch.eye(channels[origin], dtype=torch.float64)}
        for vertex in order[1:]:
            total = torch.zeros(channels[vertex], channels[origin], dtype=torch.float64)
            for edge in into(vertex):
                total = total + scaled[edge] @ reached[tail(edge)]
            reached[vertex] = total
        return scaled, reached

    tries = [(1.0, 1.0), (0.7, 1.0), (0.5, 1.0), (0.35, 1.0), (0.2, 1.0), (0.1, 1.0), (0.05, 1.0)]
    tries += [(0.05 * gain, gain) for gain in (2.0, 4.0, 8.0, 16.0)]
    best: tuple[float, dict[Edge, Tensor], dict[str, Tensor]] | None = None
    for rest, gain in tries:
        scaled, reached = routes(rest, gain)
        condition = _condition(reached[end]) if end != origin else 1.0
        if best is None or condition < best[0]:
            best = (condition, scaled, reached)
        if condition <= GUARD:
            break
    assert best is not None
    _, scaled, reached = best
    if forwards:
        return scaled, reached
    return {e: block.T for e, block in scaled.items()}, {v: matrix.T for v, matrix in reached.items()}


def _isometric(
    edge: Edge, columns: int, rows: int, signal: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A block that keeps lengths on the span of ``signal`` (orthonormal columns), and the image of ``signal``."""
    if edge.identity:
        eye = edge.scale * torch.eye(rows, columns, dtype=torch.float64)
        return eye, signal if edge.scale > 0 else -signal
    if rows >= columns:
        block = orthogonal(rows, columns, generator)
        return block, block @ signal
    image = orthogonal(rows, signal.shape[1], generator)
    rest = torch.eye(columns, dtype=torch.float64) - signal @ signal.T
    return image @ signal.T + orthogonal(rows, columns, generator) @ rest, image


def _null_noise(
    solved: Tensor,
    left: Tensor,
    left_inverse: Tensor,
    right: Tensor,
    right_inverse: Tensor,
    generator: torch.Generator,
    dense: bool,
) -> Tensor:
    """A random filter invisible to the routes before and after it, which gives a wide anchor full rank."""
    x, y = solved.shape[:2]
    if x == left.shape[0] and y == right.shape[1]:
        return torch.zeros_like(solved)
    noise = torch.randn(solved.shape, generator=generator, dtype=torch.float64)
    if not dense:
        centre = torch.zeros_like(noise)
        row, column = solved.shape[2] // 2, solved.shape[3] // 2
        centre[:, :, row, column] = noise[:, :, row, column]
        noise = centre
    noise = noise - _through(left_inverse @ left, noise, right @ right_inverse)
    size = float(torch.linalg.norm(noise))
    wanted = max(0.5 * float(torch.linalg.norm(solved)), 1e-6)
    return noise * (wanted / size) if size > 1e-9 * noise.numel() ** 0.5 else torch.zeros_like(solved)


def _rotations(
    graph: ModuleGraph, widths: Mapping[str, int], x_channels: Mapping[str, int], generator: torch.Generator
) -> dict[str, Tensor]:
    """A random rotation of every vertex whose space is split; vertices joined by identities share one."""
    group = graph.identity_groups()
    split = {group[v] for v in graph.vertices if 0 < x_channels[v] < widths[v]}
    drawn: dict[str, Tensor] = {}
    for vertex in graph.vertices:
        if group[vertex] in split and group[vertex] not in drawn:
            drawn[group[vertex]] = orthogonal(widths[vertex], widths[vertex], generator)
    return {v: drawn[group[v]] for v in graph.vertices if group[v] in drawn}


def _transposed(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.T


def _turn(weight: Tensor, outer: Tensor | None, inner: Tensor | None) -> Tensor:
    """``outer^T weight inner``: the filter in other coordinates of its channels, the same for every tap."""
    if outer is not None:
        weight = torch.einsum("ab,acyx->bcyx", outer, weight)
    if inner is not None:
        weight = torch.einsum("abyx,bc->acyx", weight, inner)
    return weight


def _through(left: Tensor, weight: Tensor, right: Tensor) -> Tensor:
    """``left weight right``, tap by tap."""
    taps = weight.permute(2, 3, 0, 1)
    return (left @ taps @ right).permute(2, 3, 0, 1)


def _condition(matrix: Tensor) -> float:
    """Ratio of the largest to the smallest singular value; infinite without full rank."""
    if 0 in matrix.shape:
        return 1.0
    values = torch.linalg.svdvals(matrix)
    return float(values[0] / values[-1]) if values[-1] > 1e-14 * values[0] else float("inf")
