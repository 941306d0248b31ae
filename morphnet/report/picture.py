"""Pictures of modules: a graph as circles and arrows, and its reduction as one panel per step."""

from __future__ import annotations

import io
import itertools
import math
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.path import Path as Curve

from morphnet.graph import SINK, SOURCE, Edge, ModuleGraph, Reduction, Step
from morphnet.store.files import write_whole

#: Inches, which are the unit of every axes here.
COLUMN, ROW, RADIUS, MARGIN, TITLE, CHARACTER = 0.95, 0.72, 0.25, 0.45, 0.55, 0.068
FONT = "DejaVu Sans"  # matplotlib brings it along, and it has the sign of a composition
#: Most of them in a PNG, and along a side of it; a large module is drawn at a lower resolution.
PIXELS, SIDE = 5e7, 3e4
#: Random orders that are tried while lines still cross.
STARTS = 40
LINE, MARKED = "#404040", "#c2410c"

Point = tuple[float, float]
#: (left, right, bottom, top).
Box = tuple[float, float, float, float]
#: A vertex, or the place where an edge passes a column.
Item = str | tuple[Edge, int]


@dataclass(frozen=True)
class _Route:
    """Where an edge passes between its vertices; its label stands at ``points[middle]``."""

    points: tuple[Point, ...]
    middle: int

    @property
    def bend(self) -> float:
        return sum(abs(b[1] - a[1]) for a, b in itertools.pairwise(self.points))


@dataclass(frozen=True)
class _Layout:
    places: dict[str, Point]
    routes: dict[Edge, _Route]

    def before(self, step: Step) -> _Layout:
        """The layout of ``step.graph``, made from that of ``step.morphed``: all that stays keeps its place."""
        routes = {edge: route for edge, route in self.routes.items() if not any(edge is p for p in step.parts)}
        first, second = (self.routes[part] for part in step.parts)
        if len(step.graph.edges) == 1:
            (x, y), (u, v) = self.places[SOURCE], self.places[SINK]
            routes[step.edge] = _Route((((x + u) / 2, (y + v) / 2),), 0)
        elif step.vertex is None:
            routes[step.edge] = min(first, second, key=lambda route: route.bend)
        else:
            points = (*first.points, self.places[step.vertex], *second.points)
            routes[step.edge] = _Route(points, len(first.points))
        return _Layout({v: place for v, place in self.places.items() if v != step.vertex}, routes)

    def box(self) -> Box:
        """Left, right, bottom and top."""
        points = [*self.places.values(), *(point for route in self.routes.values() for point in route.points)]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return (min(xs) - MARGIN, max(xs) + MARGIN, min(ys) - MARGIN, max(ys) + MARGIN)


@dataclass(frozen=True)
class _Panel:
    """One drawing of a module; the edges ``marked`` stand out."""

    graph: ModuleGraph
    layout: _Layout
    box: Box
    widths: Mapping[str, int]
    title: str
    marked: Collection[Edge] = ()


def draw_module(axes: Axes, graph: ModuleGraph, widths: Mapping[str, int] | None = None, title: str = "") -> None:
    """Draws ``graph`` from left to right: vertices with their widths, convolutions with their kernels.

    Args:
        axes: emptied; a unit of the data is an inch.
        widths: of every vertex, from :meth:`ModuleGraph.widths`.
    """
    layout = _lay_out(graph)
    _draw(axes, _Panel(graph, layout, layout.box(), widths or {}, title))


def draw_modules(panels: Sequence[tuple[ModuleGraph, Mapping[str, int], str]], columns: int = 4) -> Figure:
    """Modules, each with the widths of its vertices and a title; at most ``columns`` in a row."""
    drawn = []
    for graph, widths, title in panels:
        layout = _lay_out(graph)
        drawn.append(_Panel(graph, layout, layout.box(), widths, title))
    return _draw_panels(drawn, columns)


def draw_reduction(reduction: Reduction, widths: Mapping[str, int]) -> Figure:
    """One panel for the module and one for every reverse step of Algorithm 1, down to the irreducible graph.

    The edge that a step made is marked; everything else keeps its place.
    """
    layout = _lay_out(reduction.module)
    box = layout.box()
    size = f"edges: {len(reduction.module.edges)}, paths from s to t: {reduction.module.count_paths():,}"
    panels = [_Panel(reduction.module, layout, box, widths, f"the module\n{size}")]
    for step in reversed(reduction.steps):
        layout = layout.before(step)
        title = f"TYPE-{step.kind}: {step.formula}\n{_explanation(step)}"
        panels.append(_Panel(step.graph, layout, box, widths, title, (step.edge,)))
    end = "one convolution is left: simple morphable" if reduction.is_simple_morphable else "complex: no further step"
    panels[-1] = replace(panels[-1], title=f"{panels[-1].title.splitlines()[0]}\n{end}")
    return _draw_panels(panels, 3 if box[1] - box[0] < 6 else 2)


def _draw_panels(panels: Sequence[_Panel], columns: int) -> Figure:
    """All panels in one scale, with ``columns`` in a row."""
    width = max(2.6, *(panel.box[1] - panel.box[0] for panel in panels))
    inner = max(panel.box[3] - panel.box[2] for panel in panels)
    height = inner + TITLE
    columns = min(len(panels), columns)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(columns * width, rows * height))
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        place = (column / columns, 1 - (row + 1) / rows, 1 / columns, inner / height / rows)
        x, y = (panel.box[0] + panel.box[1]) / 2, (panel.box[2] + panel.box[3]) / 2
        box = (x - width / 2, x + width / 2, y - inner / 2, y + inner / 2)
        _draw(figure.add_axes(place, label=f"panel {i}"), replace(panel, box=box))
    return figure


def save_picture(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Writes ``path.png`` and ``path.svg``, each whole or not at all, and returns their names.

    The same figure gives the same bytes.
    """
    width, height = figure.get_size_inches()
    resolution = min(150.0, math.sqrt(PIXELS / (width * height)), SIDE / max(width, height))
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context({"svg.hashsalt": "morphnet", "svg.fonttype": "path"}):
        for kind in ("png", "svg"):
            buffer = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else {}
            figure.savefig(buffer, format=kind, dpi=resolution, facecolor="white", metadata=metadata)
            written.append(path.with_name(f"{path.name}.{kind}"))
            write_whole(written[-1], buffer.getvalue())
    return (written[0], written[1])


def _explanation(step: Step) -> str:
    return "parallel edges joined" if step.vertex is None else f"edges in series joined, {step.vertex} gone"


def _label(edge: Edge, named: bool) -> str:
    what = f"id {edge.scale:g}" if edge.identity else f"{edge.kernel[0]}x{edge.kernel[1]}"
    if len(edge.taps) < edge.kernel[0] * edge.kernel[1]:
        what += f"\n({len(edge.taps)} taps)"
    return f"{edge.name}: {what}" if named else what


def _draw(axes: Axes, panel: _Panel) -> None:
    graph, layout, widths = panel.graph, panel.layout, panel.widths
    axes.clear()
    axes.set(xlim=panel.box[:2], ylim=panel.box[2:], aspect="equal")
    axes.axis("off")
    axes.set_title(panel.title, fontsize=9.5, fontfamily=FONT, pad=2)
    ends = Counter((edge.source, edge.target) for edge in graph.edges)
    for edge in graph.edges:
        route = layout.routes[edge]
        colour = MARKED if edge in panel.marked else LINE
        axes.add_patch(
            FancyArrowPatch(
                path=_curve(layout.places[edge.source], route.points, layout.places[edge.target]),
                arrowstyle="-|>,head_width=2.6,head_length=5",
                linestyle="--" if edge.identity else "-",
                linewidth=2.2 if edge in panel.marked else 1.2,
                color=colour,
                fill=True,
                capstyle="butt",
                zorder=1,
            )
        )
        axes.text(
            *route.points[route.middle],
            _label(edge, named=ends[edge.source, edge.target] > 1 or edge.name != f"{edge.source}-{edge.target}"),
            fontsize=8.5,
            fontfamily=FONT,
            color=colour,
            ha="center",
            va="center",
            linespacing=1.0,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"},
            zorder=2,
        )
    for vertex in graph.vertices:
        x, y = layout.places[vertex]
        end = vertex in (SOURCE, SINK)
        axes.add_patch(Circle((x, y), RADIUS, facecolor="#dbeafe" if end else "white", edgecolor="black", zorder=3))
        name: dict[str, Any] = {"fontfamily": FONT, "ha": "center", "zorder": 4}
        size = min(10.0, 40 / len(vertex))
        if vertex in widths:
            axes.text(x, y + 0.01, vertex, fontsize=size, va="bottom", fontweight="bold", **name)
            axes.text(x, y - 0.03, str(widths[vertex]), fontsize=8, va="top", **name)
        else:
            axes.text(x, y, vertex, fontsize=size, va="center", fontweight="bold", **name)


def _curve(source: Point, bends: tuple[Point, ...], target: Point) -> Curve:
    """Out of one circle, through every bend without a turn beyond it, into the other circle."""
    start, leave = _on_circle(source, bends[0])
    end, arrive = _on_circle(target, bends[-1])
    stops = [start, *bends, end]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(stops)]
    # The harmonic mean where a curve goes on up or down, else level: no overshoot (Fritsch and Butland, 1984).
    level = [2 * p * q / (p + q) if p * q > 0 else 0.0 for p, q in itertools.pairwise(slopes)]
    points = [start]
    for i, (a, b) in enumerate(itertools.pairwise(stops)):
        reach = 0.4 * (b[0] - a[0])
        points.append(leave if i == 0 else (a[0] + reach, a[1] + reach * level[i - 1]))
        points.append(arrive if i == len(stops) - 2 else (b[0] - reach, b[1] - reach * level[i]))
        points.append(b)
    return Curve(points, [Curve.MOVETO, *[Curve.CURVE4] * (len(points) - 1)])


def _on_circle(centre: Point, towards: Point) -> tuple[Point, Point]:
    """The point of the circle that faces ``towards``, and the control point of a curve that meets it squarely."""
    x, y = towards[0] - centre[0], 0.9 * (towards[1] - centre[1])
    length = math.hypot(x, y)
    x, y = x / length, y / length
    far = RADIUS + 0.3 * (length - RADIUS)
    return (centre[0] + RADIUS * x, centre[1] + RADIUS * y), (centre[0] + far * x, centre[1] + far * y)


def _lay_out(graph: ModuleGraph) -> _Layout:
    """Vertices in columns by the length of the longest way to them; an edge has a place of its own in every column
    that it passes and in one between each two, so that nothing runs through anything."""
    depth = {SOURCE: 0}
    for vertex in graph.vertices[1:]:
        depth[vertex] = 1 + max(depth[edge.source] for edge in graph.edges_into(vertex))
    columns: list[list[Item]] = [[] for _ in range(2 * depth[SINK] + 1)]
    neighbours: dict[Item, tuple[list[Item], list[Item]]] = {v: ([], []) for v in graph.vertices}
    for vertex in graph.vertices:
        columns[2 * depth[vertex]].append(vertex)
    chains: dict[Edge, list[Item]] = {}
    for edge in graph.edges:
        bends: list[Item] = [(edge, c) for c in range(2 * depth[edge.source] + 1, 2 * depth[edge.target])]
        for c, bend in enumerate(bends, 2 * depth[edge.source] + 1):
            columns[c].append(bend)
            neighbours[bend] = ([], [])
        for a, b in itertools.pairwise([edge.source, *bends, edge.target]):
            neighbours[a][1].append(b)
            neighbours[b][0].append(a)
        chains[edge] = bends
    rows = _rows(_ordered(columns, neighbours), neighbours)
    tilt = (rows[SINK] - rows[SOURCE]) / (len(columns) - 1)  # source and sink come to stand level
    apart = max(COLUMN, 0.35 + CHARACTER * max(len(_label(edge, named=True).split("\n")[0]) for edge in graph.edges))
    places = {item: (apart * c, -ROW * (rows[item] - tilt * c)) for c, column in enumerate(columns) for item in column}
    routes = {edge: _Route(tuple(places[b] for b in bends), len(bends) // 2) for edge, bends in chains.items()}
    return _Layout({vertex: places[vertex] for vertex in graph.vertices}, routes)


def _ordered(columns: list[list[Item]], neighbours: Mapping[Item, tuple[list[Item], list[Item]]]) -> list[list[Item]]:
    """The columns, each in an order with few crossings of what joins them."""

    def crossings(left: list[Item], right: list[Item]) -> int:
        place = {item: i for i, item in enumerate(right)}
        ends = [[place[b] for b in neighbours[a][1]] for a in left]
        return sum(p > q for one, other in itertools.combinations(ends, 2) for p in one for q in other)

    def total(order: list[list[Item]]) -> int:
        return sum(crossings(a, b) for a, b in itertools.pairwise(order))

    def swept(order: list[list[Item]]) -> list[list[Item]]:
        best = [list(column) for column in order]
        for sweep in range(8):
            side = sweep % 2  # 0: by what stands to the left; 1: by what stands to the right
            for c in range(1, len(order)) if side == 0 else range(len(order) - 2, -1, -1):
                place = {item: i for i, item in enumerate(order[c - 1 if side == 0 else c + 1])}
                beside = {item: [place[n] for n in neighbours[item][side]] for item in order[c]}
                order[c].sort(key=lambda item: sum(beside[item]) / len(beside[item]))
            if total(order) < total(best):
                best = [list(column) for column in order]
        return best

    shuffle = random.Random(0).shuffle
    best = swept([list(column) for column in columns])
    for _ in range(STARTS):
        if total(best) == 0:
            break
        other = [list(column) for column in columns]
        for column in other:
            shuffle(column)
        best = min(best, swept(other), key=total)
    return best


def _rows(columns: list[list[Item]], neighbours: Mapping[Item, tuple[list[Item], list[Item]]]) -> dict[Item, float]:
    """A row for every item, at least 1 apart within a column and close to its neighbours."""
    rows = {item: i - (len(column) - 1) / 2 for column in columns for i, item in enumerate(column)}
    for _ in range(40):
        for column in columns:
            wanted = []
            for item in column:
                beside = [*neighbours[item][0], *neighbours[item][1]]
                wanted.append(sum(rows[n] for n in beside) / len(beside))
            rows.update(zip(column, _apart(wanted), strict=True))
    return rows


def _apart(wanted: list[float]) -> list[float]:
    """The rows nearest to ``wanted``, in the same order, that are at least 1 apart."""
    blocks: list[tuple[float, int]] = []  # mean of wanted - place, and number of items
    for i, row in enumerate(wanted):
        blocks.append((row - i, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [((a * m + b * n) / (m + n), m + n)]
    return [mean + i for i, mean in enumerate(mean for mean, n in blocks for _ in range(n))]
