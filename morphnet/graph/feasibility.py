"""Decides from the graph alone, before anything is solved, whether a module can hold a filter exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from morphnet.graph.edge import Edge
from morphnet.graph.module import SINK, SOURCE, ModuleGraph


@dataclass(frozen=True)
class Anchor:
    """An edge whose kernel holds the parent's, with a path wide enough to carry the parent's whole filter.

    Attributes:
        before: edges from the source to the tail of ``edge``, through vertices of at least C_i channels.
        after: edges from the head of ``edge`` to the sink, through vertices of at least C_j channels.
    """

    edge: Edge
    before: tuple[Edge, ...]
    after: tuple[Edge, ...]

    def __str__(self) -> str:
        return " ".join([e.name for e in self.before] + [f"[{self.edge.name}]"] + [e.name for e in self.after])


@dataclass(frozen=True)
class Feasibility:
    """What the graph alone says about an exact solution.

    Attributes:
        anchors: every edge that meets the wider condition; one is enough for an exact solution.
        equations: numbers in the padded parent filter, |G~_l|.
        largest_filter: numbers in the largest filter of the module.
        advice: the smallest change that would meet the condition; empty if it is met.
    """

    anchors: tuple[Anchor, ...]
    equations: int
    largest_filter: int
    advice: str

    @property
    def is_exact(self) -> bool:
        """Whether an exact solution is known to exist."""
        return bool(self.anchors)

    @property
    def meets_eq3(self) -> bool:
        """Whether one filter has as many numbers as the padded parent filter: Eq. (3), Correctness of Algorithm 2."""
        return self.largest_filter >= self.equations

    def __str__(self) -> str:
        eq3 = (
            f"Eq. (3){', which is not needed then,' if self.is_exact and not self.meets_eq3 else ''} is "
            f"{'' if self.meets_eq3 else 'not '}met: the largest filter has {self.largest_filter:,} numbers, "
            f"the padded parent filter {self.equations:,}"
        )
        if not self.is_exact:
            return f"no edge can take the whole filter: {self.advice}; {eq3}"
        names = [anchor.edge.name for anchor in self.anchors]
        edges = f"edge {names[0]}" if len(names) == 1 else f"any of the edges {', '.join(names)}"
        return f"exactly: {edges} can take the whole filter; {eq3}"


def check_feasible(graph: ModuleGraph, weight_shape: Sequence[int]) -> Feasibility:
    """Whether ``graph`` can hold any filter of shape ``(C_j, C_i, H, W)``.

    Sufficient condition, wider than Eq. (3): some path has an edge whose kernel holds the parent's, every vertex before
    that edge has at least C_i channels and every vertex after it at least C_j.

    Raises:
        GraphError: an identity edge joins different widths.

    Source: Eq. (3), Sec. 3.6; the wider condition is this project's.
    """
    if len(weight_shape) != 4 or min(weight_shape) < 1:
        raise ValueError(f"check_feasible: the shape (C_j, C_i, H, W) of a filter is needed; got {tuple(weight_shape)}")
    out_channels, in_channels, height, width = weight_shape
    widths = graph.widths(in_channels, out_channels)
    rows, columns = graph.kernel
    sizes = [widths[e.source] * widths[e.target] * len(e.taps) for e in graph.convolutions]
    anchors = []
    for edge in graph.convolutions:
        if edge.kernel[0] < height or edge.kernel[1] < width:
            continue
        before = _path(graph, SOURCE, edge.source, {v for v in widths if widths[v] >= in_channels})
        after = _path(graph, edge.target, SINK, {v for v in widths if widths[v] >= out_channels})
        if before is not None and after is not None:
            anchors.append(Anchor(edge, before, after))
    return Feasibility(
        tuple(anchors),
        out_channels * in_channels * max(rows, height) * max(columns, width),
        max(sizes, default=0),
        "" if anchors else _advice(graph, widths, (height, width), in_channels, out_channels),
    )


def _path(graph: ModuleGraph, start: str, end: str, allowed: set[str]) -> tuple[Edge, ...] | None:
    """A shortest path through ``allowed``; of parallel edges, first an identity with a scale of at least 0.5."""
    if start not in allowed or end not in allowed:
        return None
    ways: dict[str, tuple[Edge, ...]] = {start: ()}
    waiting = [start]
    for vertex in waiting:
        if vertex == end:
            return ways[vertex]
        for edge in sorted(
            graph.edges_out_of(vertex), key=lambda e: (not (e.identity and abs(e.scale) >= 0.5), e.target, e.name)
        ):
            if edge.target in allowed and edge.target not in ways:
                ways[edge.target] = (*ways[vertex], edge)
                waiting.append(edge.target)
    return None


def _advice(
    graph: ModuleGraph, widths: dict[str, int], kernel: tuple[int, int], in_channels: int, out_channels: int
) -> str:
    """The smallest set of changes, kernels to enlarge and vertices to widen, that would meet the condition."""
    if not graph.convolutions:
        return "the module has no convolution; add one"
    best: list[str] | None = None
    for edge in graph.convolutions:
        before = _path(graph, SOURCE, edge.source, set(widths))
        after = _path(graph, edge.target, SINK, set(widths))
        assert before is not None
        assert after is not None
        changes = []
        if edge.kernel[0] < kernel[0] or edge.kernel[1] < kernel[1]:
            grown = [max(k, p + 1 - p % 2) for k, p in zip(edge.kernel, kernel, strict=True)]
            changes.append(f"give edge {edge.name} a kernel of at least {grown[0]}x{grown[1]}")
        for path, needed in ((before, in_channels), ((edge, *after[:-1]) if after else (), out_channels)):
            changes += [
                f"give vertex {e.target} at least {needed} channels (it has {widths[e.target]})"
                for e in path
                if widths[e.target] < needed
            ]
        if best is None or len(changes) < len(best):
            best = changes
    return " and ".join(best or [])
