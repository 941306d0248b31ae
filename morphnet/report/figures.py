"""Figures 5 and 6 of the paper from records: error against cost, and error over training."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from morphnet.report.comparison import PaperLine, Run
from morphnet.report.record import Record
from morphnet.report.table import Row

#: Errors of the literature that the paper compares itself with, by table; lines in a figure.
LITERATURE = {1: (("ResNet-110", 0.0661), ("ResNet-164", 0.0546))}
TITLES = {1: "CIFAR-10", 2: "CIFAR-100", 3: "ImageNet, top-1"}
PAPER, OURS, CHILD, GRAY = "#6b7280", "#c2410c", "#1d4ed8", "#404040"
#: Marks of networks as points, by role.
MARKS = {"parent": "s", "child": "o", "control": "x"}
#: Errors that differ by more than this factor have a logarithmic axis.
LOGARITHMIC = 5.0
#: Colours of experiments, in the order they are drawn.
RUNS = (CHILD, "#15803d", "#7e22ce", OURS, "#0e7490", "#be185d", "#4d7c0f")
#: Colours of controls, in the order they are drawn.
CONTROLS = ("#15803d", "#a16207", "#7e22ce", "#0e7490", "#be185d", "#4d7c0f")


def draw_cost(lines: Sequence[PaperLine]) -> Figure:
    """Error against multiply-accumulates (Fig. 5): the paper's rows hollow, measured ones filled with their deviation.

    Dashed lines lead from each parent to its children.

    Args:
        lines: of one table; only those over one view are drawn.
    """
    lines = [line for line in lines if line.views == 1]
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    parents = {line.row.depth: line for line in reversed(lines) if line.row.spec is None}
    shown = False
    for line in lines:
        parent = parents[line.row.depth]
        point, start = _point(line), _point(parent)
        if line.row.spec is not None:
            _link(axes, (parent.row.flop, 100 * parent.paper_error), (line.row.flop, 100 * line.paper_error), PAPER)
            if point and start:
                _link(axes, start, point, OURS)
        axes.plot(line.row.flop, 100 * line.paper_error, "o", mfc="white", mec=PAPER, ms=6)
        if point:
            spread = 100 * statistics.stdev(line.errors) if len(line.errors) > 1 else None
            axes.errorbar(*point, yerr=spread, fmt="o", color=OURS, ms=5, capsize=2, lw=1)
            shown = True
        if line.row.spec is None:
            place = (line.row.flop, 100 * line.paper_error)
            axes.annotate(line.row.name, place, xytext=(6, 4), textcoords="offset points", fontsize=7, color=GRAY)
    table = lines[0].row.table
    for name, error in LITERATURE.get(table, ()):
        axes.axhline(100 * error, color=PAPER, lw=0.8, ls=":")
        height = axes.get_yaxis_transform()
        axes.text(0.77, 100 * error, f"{name} (literature)", transform=height, ha="center", va="bottom", fontsize=7)
    if table in LITERATURE:
        axes.plot([], [], ":", color=PAPER, lw=0.8, label="literature, He et al. 2016")
    axes.plot([], [], "o", mfc="white", mec=PAPER, label="as printed in the paper")
    if shown:
        axes.plot([], [], "o", color=OURS, label="measured here, mean and deviation over seeds")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 4, 6)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set(xlabel="FLOP (million multiply-accumulates)", ylabel="error (%)", title=TITLES[table])
    _finish(axes)
    return figure


def draw_curves(runs: Sequence[Run]) -> Figure:
    """Error over the iterations of training (Fig. 6) of one experiment: parent, children, and every control.

    Each seed is a thin line; a phase begins on the axis where its source ended, children at dotted lines. The axis of
    errors that differ many times over is logarithmic.
    """
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    labels: dict[str, Any] = {}
    colours = iter(CONTROLS * 3)
    drawn: list[float] = []
    for run in runs:
        for record in run.phases.values():
            points = _curve(run, record)
            if not points:
                continue
            kind, style = (record.label, "--") if record.role == "control" else (record.role, "-")
            if kind not in labels:
                labels[kind] = {"parent": GRAY, "child": CHILD}.get(kind) or next(colours)
                axes.plot([], [], style, color=labels[kind], label=_legend(run, kind))
            axes.plot(*zip(*points, strict=True), style, color=labels[kind], lw=1, alpha=0.85)
            drawn += [error for _, error in points]
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for start in _starts(runs):
        axes.axvline(start, color=PAPER, lw=0.7, ls=":")
    if min(drawn, default=0.0) > 0 and max(drawn) > LOGARITHMIC * min(drawn):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set(xlabel="iterations", ylabel="error (%)", title=plain(runs[0].title))
    _finish(axes)
    return figure


def _starts(runs: Sequence[Run]) -> list[int]:
    """The iterations at which children begin."""
    return sorted({run.iterations_before(child) for run in runs for child in run.children()})


def draw_rows(rows: Sequence[Row]) -> Figure:
    """Error against multiply-accumulates of every row of a table, with its deviation over seeds.

    A parent is a square, a child a circle, a control a cross. Each experiment has its colour; if there is only one,
    each kind of control. Parents and children have their names beside them, where there is room.
    """
    figure = Figure(figsize=(6.8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    runs = list(dict.fromkeys((row.first.experiment, row.first.variation) for row in rows))
    single = len(runs) == 1
    keys = [_colour_key(row, single) for row in rows]
    colours = dict(zip(dict.fromkeys(keys), itertools.cycle(RUNS), strict=False))
    for row, key in zip(rows, keys, strict=True):
        spread = 100 * statistics.stdev(row.errors) if len(row.errors) > 1 else None
        place = _place(row)
        axes.errorbar(*place, yerr=spread, fmt=MARKS[row.first.role], color=colours[key], ms=5, capsize=2, lw=1)
    axes.margins(x=0.25, y=0.12)
    _name_points(axes, [row for row in rows if row.first.role != "control"])
    shown = dict(zip(keys, rows, strict=True))
    for role, mark in MARKS.items():
        if any(row.first.role == role for row in rows) and not (single and role == "control"):
            axes.plot([], [], mark, color=GRAY, label=role)
    for key, row in shown.items():
        if not single or row.first.role == "control":
            axes.plot([], [], MARKS["control"] if single else "-", color=colours[key], label=plain(key))
    axes.set(xlabel="FLOP (million multiply-accumulates)", ylabel="error (%)", title="Error against cost")
    _finish(axes)
    return figure


def _colour_key(row: Row, single: bool) -> str:
    """The meaning of the colour of a row in :func:`draw_rows`."""
    if single:
        return row.first.label if row.first.role == "control" else row.first.role
    return row.first.experiment + (f" ({row.first.variation})" if row.first.variation else "")


def _name_points(axes: Axes, rows: Sequence[Row]) -> None:
    """Writes the networks beside their points, parents first, where there is room."""
    taken: list[tuple[float, float]] = []
    to_axes = axes.transData + axes.transAxes.inverted()
    axes.autoscale_view()
    for row in sorted(rows, key=lambda row: list(MARKS).index(row.first.role)):
        place = _place(row)
        x, y = to_axes.transform(place)
        if all(abs(y - other) > 0.045 or abs(x - across) > 0.3 for across, other in taken):
            axes.annotate(plain(row.network), place, xytext=(6, 3), textcoords="offset points", fontsize=7, color=GRAY)
            taken.append((x, y))


def _place(row: Row) -> tuple[float, float]:
    return row.first.macs / 1e6, 100 * statistics.fmean(row.errors)


def _legend(run: Run, kind: str) -> str:
    children = " → ".join(child.label for child in run.children())
    return plain(f"child ({children})" if kind == "child" else kind)


def plain(text: str) -> str:
    """``text`` for a figure, where two dollar signs would make a formula."""
    return text.replace("$", r"\$")


def _curve(run: Run, record: Record) -> list[tuple[int, float]]:
    """(iteration, error in per cent) of every evaluation of a phase, with iterations counted from the first parent."""
    before = run.iterations_before(record)
    return [(before + entry["step"], 100 * entry["errors"] / entry["images"]) for entry in record.history]


def _point(line: PaperLine) -> tuple[float, float] | None:
    if not line.runs:
        return None
    return line.runs[0].record.macs / 1e6, 100 * statistics.fmean(line.errors)


def _link(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.plot(*zip(start, end, strict=True), "--", color=colour, lw=0.7, alpha=0.7)


def _finish(axes: Axes) -> None:
    axes.grid(color="#e5e7eb", lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(fontsize=7, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
