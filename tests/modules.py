"""Random modules and filters for them, shared by the tests of solvers and layers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from morphnet.graph import Edge, ModuleGraph
from morphnet.solvers import Filters

#: Module (D), Eq. (6): the smallest module that no atomic morphs build.
BRIDGE = ("sa", "sb", "ac", "bc", "at", "ct", "bt")

EDGE_KERNELS = (1, 3, (1, 3), (3, 1), (3, 5))
PARENT_KERNELS = ((1, 1), (3, 3), (1, 3), (3, 1), (2, 2), (3, 2), (1, 4))
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
SCALES = (1.0, 0.5, 2.0, -0.3)
#: With these no two identities cancel each other, which the graph alone cannot see.
POSITIVE = (1.0, 0.5, 2.0)


def module(pairs, kernel=3, channels=None) -> ModuleGraph:
    """A module of edges such as ``"sa"``, all of one kernel; ``"sa:1x3"`` has its own, ``"st=0.5"`` is an identity."""
    edges = []
    for pair in pairs.split() if isinstance(pairs, str) else pairs:
        source, target, rest = pair[0], pair[1], pair[2:]
        if rest.startswith("="):
            edges.append(Edge(source, target, identity=True, scale=float(rest[1:])))
        elif rest:
            height, width = rest[1:].split("x")
            edges.append(Edge(source, target, (int(height), int(width))))
        else:
            edges.append(Edge(source, target, kernel))
    return ModuleGraph(edges, channels)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_filters(graph: ModuleGraph, in_channels: int, out_channels: int, seed: int = 0) -> Filters:
    widths = graph.widths(in_channels, out_channels)
    return Filters(
        {
            edge: normal(widths[edge.target], widths[edge.source], *edge.kernel, seed=seed + i)
            for i, edge in enumerate(graph.convolutions)
        }
    )


@dataclass(frozen=True)
class Problem:
    """A module and a parent's filter for it."""

    graph: ModuleGraph
    weight: Tensor = field(repr=False)

    @property
    def channels(self) -> tuple[int, int]:
        """C_i and C_j, as ``widths``, ``module_filter`` and their like take them."""
        return self.weight.shape[1], self.weight.shape[0]


@st.composite
def problems(draw, feasible=False, parent_kernels=PARENT_KERNELS, scales=SCALES, most_inner=4, groups=1):
    """A random module, of any widths, and a random filter.

    Args:
        feasible: one path is wide enough and one of its edges large enough for an exact solution.
        groups: widths and the filter's number of channels are those of a convolution with as many groups.
    """
    in_channels, out_channels = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    parent_kernel = draw(st.sampled_from(parent_kernels))
    pairs = draw(_pairs(most_inner))
    default = max(in_channels, out_channels)
    inner = sorted({v for pair in pairs for v in pair} - {"s", "t"})
    widths = {"s": in_channels, "t": out_channels} | {v: draw(st.sampled_from([default, 1, 2, 4, 5])) for v in inner}

    path, here = [], "s"
    while here != "t":
        step = draw(st.sampled_from([i for i, pair in enumerate(pairs) if pair[0] == here]))
        path.append(step)
        here = pairs[step][1]
    anchor = draw(st.integers(0, len(path) - 1))
    kernels = [draw(st.sampled_from(EDGE_KERNELS)) for _ in pairs]
    if feasible:
        for place, step in enumerate(path[:-1]):
            vertex, needed = pairs[step][1], in_channels if place < anchor else out_channels
            widths[vertex] = max(widths[vertex], needed)
        own = kernels[path[anchor]]
        own = (own, own) if isinstance(own, int) else own
        kernels[path[anchor]] = tuple(max(k, p + 1 - p % 2) for k, p in zip(own, parent_kernel, strict=True))

    edges = []
    for i, (source, target) in enumerate(pairs):
        if i != path[anchor] and widths[source] == widths[target] and draw(st.integers(0, 3)) == 0:
            edges.append(Edge(source, target, identity=True, scale=draw(st.sampled_from(scales))))
        else:
            edges.append(Edge(source, target, kernels[i]))
    given_widths = {v: groups * widths[v] for v in inner if widths[v] != default or draw(st.booleans())}
    weight = normal(groups * out_channels, in_channels, *parent_kernel, seed=draw(st.integers(0, 999)))
    return Problem(ModuleGraph(edges, given_widths), weight)


@st.composite
def _pairs(draw, most_inner):
    """The ends of the edges of a graph with one source and one sink; some are parallel."""
    inner = ["a", "b", "c", "d"][: draw(st.integers(0, most_inner))]
    order, pairs = ["s", *inner, "t"], []
    for i, vertex in enumerate(inner, start=1):
        pairs.append((draw(st.sampled_from(order[:i])), vertex))
    for i, vertex in enumerate(order[:-1]):
        if not any(source == vertex for source, _ in pairs):
            pairs.append((vertex, draw(st.sampled_from(order[i + 1 :]))))
    for _ in range(draw(st.integers(0, 3))):
        i = draw(st.integers(0, len(order) - 2))
        pairs.append((order[i], draw(st.sampled_from(order[i + 1 :]))))
    if not any(target == "t" for _, target in pairs):
        pairs.append((order[-2], "t"))
    return draw(st.permutations(pairs))


@dataclass(frozen=True)
class Case:
    """A convolution, a module for it and an input."""

    conv: nn.Conv2d
    graph: ModuleGraph
    x: Tensor = field(repr=False)


@st.composite
def convolutions(draw, parent_kernels=PARENT_KERNELS, most_inner=3, padding=None, padding_modes=PADDING_MODES):
    """A convolution in float64, of any stride, padding, dilation and groups, and a module that can hold it.

    Args:
        padding: instead of a random one.
    """
    groups = draw(st.sampled_from([1, 1, 2]))
    problem = draw(problems(True, parent_kernels=parent_kernels, scales=POSITIVE, most_inner=most_inner, groups=groups))
    if padding is None:
        padding = draw(st.sampled_from([0, "same", (2, 0), (1, 1), (0, 3)]))
    stride = (1, 1) if padding == "same" else draw(st.sampled_from([(1, 1), (2, 2), (2, 1)]))
    conv = nn.Conv2d(
        groups * problem.weight.shape[1],
        problem.weight.shape[0],
        tuple(problem.weight.shape[2:]),
        stride,
        padding,
        dilation=draw(st.sampled_from([1, 2, (1, 2)])),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(padding_modes)),
    ).double()
    with torch.no_grad():
        conv.weight.copy_(problem.weight)
        if conv.bias is not None:
            conv.bias.copy_(normal(conv.out_channels, seed=1))
    return Case(conv, problem.graph, normal(2, conv.in_channels, 9, draw(st.integers(8, 11)), seed=2))
