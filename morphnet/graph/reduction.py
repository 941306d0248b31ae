"""Algorithm 1: reduces a module to fewer edges by undoing TYPE-I and TYPE-II morphs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from morphnet.graph.edge import Edge, Support
from morphnet.graph.module import SINK, SOURCE, ModuleGraph


@dataclass(frozen=True)
class Step:
    """One atomic morph, the tuple (M, e_1, {e_2, e_3}, type) of Algorithm 1: in ``graph``, ``edge`` becomes ``parts``.

    Attributes:
        kind: ``"I"``, two edges in series; ``"II"``, two in parallel.
        parts: the two new edges; with TYPE-I in the order of the data, F_l then F_{l+1}.
        graph: the module before the morph, which contains ``edge``.
    """

    kind: Literal["I", "II"]
    edge: Edge
    parts: tuple[Edge, Edge]
    graph: ModuleGraph
    _after: ModuleGraph

    @property
    def vertex(self) -> str | None:
        """The new vertex between the two edges of TYPE-I; None for TYPE-II."""
        return self.parts[0].target if self.kind == "I" else None

    @property
    def morphed(self) -> ModuleGraph:
        """The module after the morph, which contains ``parts``."""
        return self._after

    def apply(self, graph: ModuleGraph) -> ModuleGraph:
        """``graph`` with ``edge`` replaced by ``parts``; raises ValueError if ``edge`` is not in it."""
        if not any(e is self.edge for e in graph.edges):
            raise ValueError(f"this step morphs edge {self.edge.name}, which is not in the graph")
        edges = [part for e in graph.edges for part in (self.parts if e is self.edge else (e,))]
        channels = dict(graph.channels)
        if self.vertex is not None and self.vertex in self._after.channels:
            channels[self.vertex] = self._after.channels[self.vertex]
        return ModuleGraph.of_parts(edges, channels)

    @property
    def formula(self) -> str:
        """The equation of the filters, such as ``r1 = a-t ⊛ s-a``."""
        first, second = (part.name for part in self.parts)
        return f"{self.edge.name} = " + (f"{second} ⊛ {first}" if self.kind == "I" else f"{first} + {second}")

    def __str__(self) -> str:
        where = f"{self.edge.source}-{self.edge.target}, {self.edge.describe()}"
        how = "in parallel" if self.vertex is None else f"in series, with the new vertex {self.vertex}"
        name, parts = self.formula.split(" = ")
        return f"TYPE-{self.kind:2}  {name} ({where}) becomes {parts}: {how}"


@dataclass(frozen=True)
class Reduction:
    """The result of Algorithm 1.

    Attributes:
        module: the graph that was reduced.
        steps: the morphing sequence Q; applied to ``irreducible`` in this order, they rebuild ``module``.
        irreducible: the graph that remains; one edge if the module is simple morphable (Definition 6).
    """

    module: ModuleGraph
    steps: tuple[Step, ...]
    irreducible: ModuleGraph

    @property
    def is_simple_morphable(self) -> bool:
        """Whether atomic morphs alone make the module from a single convolution (Definition 6)."""
        return len(self.irreducible.edges) == 1

    def replay(self) -> Iterator[ModuleGraph]:
        """The modules from ``irreducible`` to ``module``, one per step."""
        graph = self.irreducible
        yield graph
        for step in self.steps:
            graph = step.apply(graph)
            yield graph

    def __str__(self) -> str:
        number = f"{len(self.steps)} atomic {'morph' if len(self.steps) == 1 else 'morphs'}"
        ends = [(e.name, f"{e.source}-{e.target}") for e in self.irreducible.edges]
        left = ", ".join(name if name.startswith(pair) else f"{name} ({pair})" for name, pair in ends)
        if self.is_simple_morphable and not self.steps:
            head = "simple morphable: it is one convolution"
        elif self.is_simple_morphable:
            head = f"simple morphable: one convolution grows into it by {number}"
        elif not self.steps:
            head = "complex: irreducible as it is, no atomic morph leads to it"
        else:
            head = f"complex: an irreducible module grows into it by {number}; its edges are {left}"
        return "\n".join([head, *(f"  {i}. {step}" for i, step in enumerate(self.steps, 1))])


def reduce(graph: ModuleGraph) -> Reduction:
    """Undoes atomic morphs until a whole pass changes nothing.

    Takes candidates in order of name, so the order of the edges does not matter.

    Source: Algorithm 1, which as printed does not end on a complex module.
    """
    if not isinstance(graph, ModuleGraph):
        raise TypeError(f"reduce: a ModuleGraph is needed; got {type(graph).__name__}")
    module = graph
    steps: list[Step] = []
    while True:
        before = len(steps)
        for check in (check_type1, check_type2):
            while (step := check(graph, f"r{len(steps) + 1}")) is not None:
                steps.append(step)
                graph = step.graph
        if len(steps) == before:
            return Reduction(module, tuple(reversed(steps)), graph)


def check_type1(graph: ModuleGraph, name: str = "r1") -> Step | None:
    """The step whose reverse removes a vertex with one edge in and one out, or None (CHECKTYPEI, Sec. 3.5)."""
    for vertex in sorted(graph.inner):
        into, out = graph.edges_into(vertex), graph.edges_out_of(vertex)
        if len(into) == len(out) == 1:
            first, second = into[0], out[0]
            if first.identity and second.identity:
                whole = Edge(first.source, second.target, identity=True, scale=first.scale * second.scale)
            else:
                taps = {(y + v, x + h) for y, x in first.taps for v, h in second.taps}
                whole = _edge(first.source, second.target, frozenset(taps))
            return _step("I", whole.named(name), (first, second), graph)
    return None


def check_type2(graph: ModuleGraph, name: str = "r1") -> Step | None:
    """The step whose reverse joins two parallel edges, or None (CHECKTYPEII, Sec. 3.5)."""
    seen: dict[tuple[str, str], Edge] = {}
    for edge in sorted(graph.edges, key=lambda e: (e.signature, e.name)):
        ends = (edge.source, edge.target)
        if ends not in seen:
            seen[ends] = edge
            continue
        first = seen[ends]
        if first.identity and edge.identity:
            whole = Edge(*ends, identity=True, scale=first.scale + edge.scale)
        else:
            whole = _edge(*ends, first.taps | edge.taps)
        return _step("II", whole.named(name), (first, edge), graph)
    return None


def _edge(source: str, target: str, taps: Support) -> Edge:
    rows, columns = max(abs(y) for y, _ in taps), max(abs(x) for _, x in taps)
    kernel = (2 * rows + 1, 2 * columns + 1)
    return Edge(source, target, kernel, support=None if len(taps) == kernel[0] * kernel[1] else taps)


def _step(kind: Literal["I", "II"], whole: Edge, parts: tuple[Edge, Edge], graph: ModuleGraph) -> Step:
    edges, placed = [], False
    for edge in graph.edges:
        if edge is not parts[0] and edge is not parts[1]:
            edges.append(edge)
        elif not placed:
            edges.append(whole)
            placed = True
    inner = {v for e in edges for v in (e.source, e.target)} - {SOURCE, SINK}
    channels = {vertex: width for vertex, width in graph.channels.items() if vertex in inner}
    return Step(kind, whole, parts, ModuleGraph.of_parts(edges, channels), graph)
