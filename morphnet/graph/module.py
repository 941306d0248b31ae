"""A module M = (V, E): a single-source, single-sink acyclic graph of convolutions (Definition 1)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from morphnet.graph.edge import Edge, GraphError, Support

#: The names of source and sink in every module.
SOURCE, SINK = "s", "t"

#: A number of channels, or a multiple of max(C_i, C_j) such as ``"0.5x"``.
Width = int | str


class ModuleGraph:
    """A single-source, single-sink acyclic graph whose vertices are blobs and whose edges are convolutions.

    ``s`` is the source and ``t`` the sink. Blobs are added where edges meet. Parallel edges are allowed. Graphs are
    equal if their edges, in any order, and their widths are equal.

    Args:
        edges: at least one :class:`Edge`. The graph names them and copies an edge that another graph named.
        channels: widths of inner vertices: numbers or multiples of max(C_i, C_j) such as ``"0.5x"``; default ``"1x"``.

    Attributes:
        edges: in the given order, named.
        channels: as given.
        vertices: in topological order, ``s`` first and ``t`` last.

    Raises:
        GraphError: there is a cycle, a second source or sink, or an invalid width.

    Source: Definition 1, Sec. 3.3.
    """

    def __init__(self, edges: Iterable[Edge], channels: Mapping[str, Width] | None = None) -> None:
        if not isinstance(edges, Iterable):
            raise TypeError(f"ModuleGraph: a list of edges is needed; got {type(edges).__name__}")
        given = list(edges)
        for edge in given:
            if not isinstance(edge, Edge):
                raise TypeError(f"ModuleGraph: edges are Edge(source, target, kernel); got {edge!r}")
            if edge.identity and edge.scale == 0:
                raise GraphError(
                    f"edge {edge.source}-{edge.target}: an identity with scale 0 has no effect; leave it out"
                )
        self._build(_named(given), dict(channels or {}))
        _check_channels(self)

    @classmethod
    def of_parts(cls, edges: Iterable[Edge], channels: Mapping[str, Width]) -> ModuleGraph:
        """A graph whose edges keep their names, for the steps of a reduction."""
        graph = cls.__new__(cls)
        graph._build(list(edges), dict(channels))
        return graph

    def _build(self, edges: list[Edge], channels: dict[str, Width]) -> None:
        self.edges: tuple[Edge, ...] = tuple(edges)
        self.channels = channels
        self._into: dict[str, list[Edge]] = {}
        self._out: dict[str, list[Edge]] = {}
        for edge in edges:
            for vertex in (edge.source, edge.target):
                self._into.setdefault(vertex, [])
                self._out.setdefault(vertex, [])
            self._into[edge.target].append(edge)
            self._out[edge.source].append(edge)
        _check_ends(self._into, self._out)
        self.vertices: tuple[str, ...] = _sorted_vertices(self._into, self._out)

    def edges_into(self, vertex: str) -> tuple[Edge, ...]:
        return tuple(self._into[vertex])

    def edges_out_of(self, vertex: str) -> tuple[Edge, ...]:
        return tuple(self._out[vertex])

    def __getitem__(self, name: str) -> Edge:
        """The edge with this name."""
        for edge in self.edges:
            if edge.name == name:
                return edge
        raise KeyError(f"no edge is called {name!r}; expected one of {', '.join(e.name for e in self.edges)}")

    @property
    def inner(self) -> tuple[str, ...]:
        """Every vertex but source and sink."""
        return tuple(v for v in self.vertices if v not in (SOURCE, SINK))

    @property
    def convolutions(self) -> tuple[Edge, ...]:
        """The edges that have a filter."""
        return tuple(e for e in self.edges if not e.identity)

    def widths(self, in_channels: int, out_channels: int) -> dict[str, int]:
        """Channels of every vertex, for a parent filter of shape ``(out_channels, in_channels, H, W)``.

        Raises:
            GraphError: an identity edge joins vertices of different widths.
        """
        default = max(in_channels, out_channels)
        widths = {SOURCE: in_channels}
        for vertex in self.inner:
            widths[vertex] = _width(self.channels.get(vertex, default), default)
        widths[SINK] = out_channels
        for edge in self.edges:
            if edge.identity and widths[edge.source] != widths[edge.target]:
                raise GraphError(
                    f"identity edge {edge.name} joins {widths[edge.source]} and {widths[edge.target]} channels, which "
                    "must be equal: set channels of its inner vertex, or make it a 1x1 convolution"
                )
        return widths

    def paths(self) -> Iterator[tuple[Edge, ...]]:
        """Every path from source to sink, the terms of Eq. (5); there may be very many, see :meth:`count_paths`."""

        def walk(vertex: str) -> Iterator[tuple[Edge, ...]]:
            if vertex == SINK:
                yield ()
            for edge in self._out[vertex]:
                for rest in walk(edge.target):
                    yield (edge, *rest)

        return walk(SOURCE)

    def count_paths(self) -> int:
        """Number of paths from source to sink, by dynamic programming."""
        count = {SINK: 1}
        for vertex in reversed(self.vertices[:-1]):
            count[vertex] = sum(count[e.target] for e in self._out[vertex])
        return count[SOURCE]

    def radius_to_sink(self) -> dict[str, tuple[int, int]]:
        """For each vertex, the largest radius (rows, columns) of any path to the sink."""
        reach = {SINK: (0, 0)}
        for vertex in reversed(self.vertices[:-1]):
            ways = [(e.radius[0] + reach[e.target][0], e.radius[1] + reach[e.target][1]) for e in self._out[vertex]]
            reach[vertex] = (max(y for y, _ in ways), max(x for _, x in ways))
        return reach

    @property
    def radius(self) -> tuple[int, int]:
        """Radius (rows, columns) of the module's own filter."""
        return self.radius_to_sink()[SOURCE]

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel size of the module's own filter, K~ of Sec. 3.1."""
        return (2 * self.radius[0] + 1, 2 * self.radius[1] + 1)

    @property
    def support(self) -> Support:
        """The taps that the module's own filter can have."""
        taps: dict[str, set[tuple[int, int]]] = {SOURCE: {(0, 0)}}
        for vertex in self.vertices[1:]:
            taps[vertex] = {(y + v, x + h) for e in self._into[vertex] for y, x in taps[e.source] for v, h in e.taps}
        return frozenset(taps[SINK])

    def identity_groups(self) -> dict[str, str]:
        """Group name of every vertex; identity edges join the vertices of a group."""
        group = {v: v for v in self.vertices}
        for edge in self.edges:
            if edge.identity:
                old, new = group[edge.target], group[edge.source]
                group = {v: new if g == old else g for v, g in group.items()}
        return group

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the form of ``configs/module/``, for :meth:`from_dict`."""
        edges: list[dict[str, Any]] = []
        for edge in self.edges:
            values: dict[str, Any] = {"source": edge.source, "target": edge.target}
            values |= {"identity": True, "scale": edge.scale} if edge.identity else {"kernel": list(edge.kernel)}
            edges.append(values)
        return {"edges": edges, "channels": dict(self.channels)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModuleGraph:
        """The graph described by :meth:`to_dict` or by a file of ``configs/module/``.

        Raises:
            GraphError: a key is missing or unknown, or the graph is not a module.
        """
        if not isinstance(values, Mapping) or set(values) - {"edges", "channels"} or "edges" not in values:
            raise GraphError("a module has the key 'edges' and optionally 'channels'")
        if not isinstance(values["edges"], (list, tuple)):
            raise GraphError("edges is a list of {source, target, kernel} or {source, target, identity: true, scale}")
        channels = values.get("channels") or {}
        if not isinstance(channels, Mapping):
            raise GraphError("channels maps inner vertices to widths, such as {a: 32, b: 0.5x}")
        edges = []
        for i, edge in enumerate(values["edges"]):
            known = {"source", "target", "kernel", "identity", "scale"}
            if not isinstance(edge, Mapping) or set(edge) - known or not {"source", "target"} <= set(edge):
                raise GraphError(
                    f"edges.{i}: {{source, target, kernel}} or {{source, target, identity: true, scale}}; got {edge}"
                )
            given = {key: value for key, value in edge.items() if value is not None}
            edges.append(Edge(**given))
        return cls(edges, dict(channels))

    def _signature(self) -> tuple[Any, ...]:
        return (Counter(edge.signature for edge in self.edges), {k: str(v) for k, v in self.channels.items()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModuleGraph) and self._signature() == other._signature()

    def __hash__(self) -> int:
        return hash(frozenset(self._signature()[0].items()))

    def __repr__(self) -> str:
        channels = f", channels={self.channels}" if self.channels else ""
        return f"ModuleGraph([{', '.join(map(str, self.edges))}]{channels})"


def _named(edges: list[Edge]) -> list[Edge]:
    named: list[Edge] = []
    taken: Counter[tuple[str, str]] = Counter()
    for edge in edges:
        ends = (edge.source, edge.target)
        name = f"{edge.source}-{edge.target}" + (f".{taken[ends]}" if taken[ends] else "")
        taken[ends] += 1
        if edge.name == "" and not any(edge is other for other in named):
            object.__setattr__(edge, "name", name)
        named.append(edge if edge.name == name and not any(edge is other for other in named) else edge.named(name))
    return named


def _check_ends(into: Mapping[str, list[Edge]], out: Mapping[str, list[Edge]]) -> None:
    if not into:
        raise GraphError("a module has at least one edge, from 's' to 't'; got none")
    for vertex, what in ((SOURCE, "source"), (SINK, "sink")):
        if vertex not in into:
            raise GraphError(f"a module has a {what} called {vertex!r}; no edge touches it")
    cycle = _find_cycle(out)
    if cycle:
        raise GraphError(f"a module has no cycles; got {' -> '.join(cycle)}")
    if into[SOURCE]:
        raise GraphError(f"edge {into[SOURCE][0].name} leads into the source 's'")
    if out[SINK]:
        raise GraphError(f"edge {out[SINK][0].name} leads out of the sink 't'")
    for vertex in sorted(into):
        if vertex != SOURCE and not into[vertex]:
            raise GraphError(f"vertex {vertex!r} is a second source: no edge leads into it, only 's' may have none")
        if vertex != SINK and not out[vertex]:
            raise GraphError(f"vertex {vertex!r} is a second sink: no edge leads out of it, only 't' may have none")


def _find_cycle(out: Mapping[str, list[Edge]]) -> list[str] | None:
    done: set[str] = set()
    for start in sorted(out):
        if start in done:
            continue
        trail: list[str] = []
        waiting: list[tuple[str, bool]] = [(start, False)]
        while waiting:
            vertex, leave = waiting.pop()
            if leave:
                done.add(trail.pop())
            elif vertex in trail:
                return [*trail[trail.index(vertex) :], vertex]
            elif vertex not in done:
                trail.append(vertex)
                waiting.append((vertex, True))
                waiting += [(e.target, False) for e in out[vertex]]
    return None


def _sorted_vertices(into: Mapping[str, list[Edge]], out: Mapping[str, list[Edge]]) -> tuple[str, ...]:
    missing = {vertex: len(edges) for vertex, edges in into.items()}
    ready, ordered = [SOURCE], []
    while ready:
        ready.sort(reverse=True)  # by name, so that the order of the edges changes nothing
        vertex = ready.pop()
        ordered.append(vertex)
        for edge in out[vertex]:
            missing[edge.target] -= 1
            if missing[edge.target] == 0 and edge.target != SINK:
                ready.append(edge.target)
    return (*ordered, SINK)


def _check_channels(graph: ModuleGraph) -> None:
    for vertex, width in graph.channels.items():
        if vertex in (SOURCE, SINK):
            raise GraphError(f"channels: the parent filter sets the width of {vertex!r}; leave it out")
        if vertex not in graph.vertices:
            raise GraphError(
                f"channels: there is no vertex {vertex!r}; inner vertices are {', '.join(graph.inner) or 'none'}"
            )
        try:
            _width(width, 1)
        except GraphError as error:
            raise GraphError(f"channels of vertex {vertex!r}: {error}") from None


def _width(width: Any, largest: int) -> int:
    if type(width) is int and width >= 1:
        return width
    if isinstance(width, str) and (match := re.fullmatch(r"([0-9]*\.?[0-9]+)x", width)) and float(match[1]) > 0:
        return max(1, math.ceil(float(match[1]) * largest - 1e-9))
    raise GraphError(f"a number from 1, or a multiple of max(C_i, C_j) such as '0.5x', is needed; got {width!r}")
