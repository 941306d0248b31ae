"""Comparisons as tables: the paper's with what was measured here, and children beside their controls."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from morphnet.report.comparison import ControlLine, PaperLine, Record
from morphnet.report.table import COLLAPSED, GIVEN, WRITERS, Format, millions, to_csv, with_deviation

PAPER_HEADER = (
    "network", "settings", "phases", "views", "error %, paper", "error %", "seeds", "improvement, paper", "improvement",
    "relative %, paper", "relative %", "FLOP, paper (million)", "FLOP (million)", "rel. FLOP, paper", "steps",
    "records",
)  # fmt: skip
CONTROL_HEADER = (
    "experiment", "settings", "network", "error %", "seeds", "over the child (points)", "95 % interval",
    "McNemar p", "error overlap %", "FLOP (million)", "rel. FLOP", COLLAPSED, "steps", "records",
)  # fmt: skip
#: What stands below the table where predictions were kept.
MCNEMAR = (
    "McNemar p: exact two-sided binomial test of the images that only the child or only the control gets wrong. Of "
    "several seeds (each in brackets) an image counts once, for the network that gets it wrong in more of them. It is "
    "about these networks; the interval is about training them again."
)
OVERLAP = (
    "Error overlap: images that child and control both get wrong, of those that either gets wrong; mean over seeds."
)


def format_paper(lines: Sequence[PaperLine], format: Format = "text") -> str:
    """The paper's rows with what was measured; cells of what was not are empty.

    ``improvement`` is the parent's error minus the child's, in points, over the runs of the same seed; ``steps`` those
    of the last phase, of which the paper's have 64,000 on CIFAR.
    """
    if format == "json":
        return json.dumps([_paper_values(line) for line in lines], indent=1)
    if format == "csv":
        values = [_paper_values(line) for line in lines]
        return to_csv([list(values[0]), *([_plain(v) for v in row.values()] for row in values)])
    return WRITERS[format](*paper_columns(lines, format))


def paper_columns(lines: Sequence[PaperLine], format: Format) -> tuple[list[str], list[list[str]]]:
    """Header and cells as a person reads them."""
    body = [_paper_cells(line) for line in lines]
    header, body = _without_empty(PAPER_HEADER, "settings", body)
    if format != "markdown":
        header, body = _without(header, "records", body)
    return (header, body) if any(line.views > 1 for line in lines) else _without(header, "views", body)


def format_controls(lines: Sequence[ControlLine], format: Format = "text") -> str:
    """Every child, then its controls: their errors, and by how much they are above the child's, seed by seed.

    From three seeds on the difference is a mean with its paired t interval; below that all differences are listed.
    """
    if format == "json":
        return json.dumps([_control_values(line) for line in lines], indent=1)
    if format == "csv":
        values = [_control_values(line) for line in lines]
        return to_csv([list(values[0]), *([_plain(v) for v in row.values()] for row in values)])
    return WRITERS[format](*control_columns(lines, format))


def control_columns(lines: Sequence[ControlLine], format: Format) -> tuple[list[str], list[list[str]]]:
    """Header and cells as a person reads them."""
    header, body = _without_empty(CONTROL_HEADER, "settings", [_control_cells(line) for line in lines])
    for name in ("McNemar p", "error overlap %", COLLAPSED):
        header, body = _without_empty(header, name, body)
    return (header, body) if format == "markdown" else _without(header, "records", body)


def control_foot(lines: Sequence[ControlLine]) -> list[str]:
    """What is said of the columns that are made from predictions; nothing where no record has any."""
    kept = any(pair is not None for line in lines for pair in line.pairs)
    return [MCNEMAR, OVERLAP] if kept else []


def _without_empty(header: Sequence[str], name: str, body: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The table without its column ``name`` if no line has anything there."""
    place = list(header).index(name)
    return (list(header), body) if any(cells[place] for cells in body) else _without(header, name, body)


def _without(header: Sequence[str], name: str, body: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    kept = [i for i, found in enumerate(header) if found != name]
    return [header[i] for i in kept], [[cells[i] for i in kept] for cells in body]


def _paper_cells(line: PaperLine) -> list[str]:
    row, first = line.row, line.runs[0].record if line.runs else None
    paper_parent = line.paper_parent_error
    gain = None if paper_parent is None else paper_parent - line.paper_error
    return [
        row.name,
        "" if first is None else first.get("told_apart", ""),
        str(len(row.via) + 1) + (f" ({' → '.join((*row.via, row.spec or ''))})" if row.via else ""),
        str(line.views),
        f"{100 * line.paper_error:.2f}",
        _mean(line.errors),
        str(len(line.runs)) if line.runs else "",
        _percent(gain),
        _mean(line.improvements),
        _percent(None if gain is None or not paper_parent else gain / paper_parent, 1),
        _percent(statistics.fmean(line.relative_improvements) if line.relative_improvements else None, 1),
        f"{row.flop:.1f}" if row.flop < 1000 else f"{row.flop:,.0f}",
        "" if first is None else f"{first['macs'] / 1e6:,.1f}",
        f"{row.relative_flop:.2f}x",
        "" if first is None else f"{first['steps']:,}" if first["steps"] else GIVEN,
        _links([run.record for run in line.runs]),
    ]


def _links(records: Sequence[Record]) -> str:
    """A link to the record of every seed, in Markdown."""
    return ", ".join(f"[seed {record['seed']}]({record.get('path', '')})" for record in records)


def _control_cells(line: ControlLine) -> list[str]:
    interval = line.interval
    if len(line.differences) < 3:
        difference = ", ".join(f"{100 * d:+.2f}" for d in line.differences)
    else:
        difference = f"{100 * statistics.fmean(line.differences):+.2f}"
    return [
        line.experiment,
        line.record.get("told_apart", ""),
        line.label,
        _mean(line.errors),
        str(len(line.errors)),
        difference,
        "" if interval is None else f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}",
        _mcnemar(line),
        _mean([overlap for overlap in line.overlaps if overlap is not None]),
        millions(line.record["macs"]),
        "" if line.parent_macs is None else f"{line.record['macs'] / line.parent_macs:.2f}x",
        millions(line.record.get("collapsed_macs")),
        f"{line.record['steps']:,}",
        _links(line.records),
    ]


def _paper_values(line: PaperLine) -> dict[str, Any]:
    first = line.runs[0].record if line.runs else None
    return {
        "table": line.row.table,
        "network": line.row.name,
        "settings": "" if first is None else first.get("told_apart", ""),
        "via": list(line.row.via),
        "views": line.views,
        "paper_error": line.paper_error,
        "paper_parent_error": line.paper_parent_error,
        "paper_flop_million": line.row.flop,
        "paper_relative_flop": line.row.relative_flop,
        "seeds": [run.seed for run in line.runs],
        "errors": line.errors,
        "improvements": line.improvements,
        "relative_improvements": line.relative_improvements,
        "macs": None if first is None else first["macs"],
        "steps": None if first is None else first["steps"],
        "records": [run.record.get("path") for run in line.runs],
    }


def _control_values(line: ControlLine) -> dict[str, Any]:
    return {
        "experiment": line.experiment,
        "settings": line.record.get("told_apart", ""),
        "child": line.child,
        "network": line.label,
        "role": line.record["role"],
        "seeds": line.seeds,
        "errors": line.errors,
        "differences": list(line.differences),
        "interval": None if line.interval is None else list(line.interval),
        "only_child_wrong": [None if pair is None else pair.only_child for pair in line.pairs],
        "only_control_wrong": [None if pair is None else pair.only_control for pair in line.pairs],
        "mcnemar_by_seed": line.mcnemar_by_seed,
        "mcnemar": line.mcnemar,
        "error_overlaps": line.overlaps,
        "macs": line.record["macs"],
        "relative_macs": None if line.parent_macs is None else line.record["macs"] / line.parent_macs,
        "collapsed_macs": line.record.get("collapsed_macs"),
        "steps": line.record["steps"],
        "records": [record.get("path") for record in line.records],
    }


def _mcnemar(line: ControlLine) -> str:
    """p over all seeds, and of several each of them in brackets; empty where no seed keeps predictions."""
    shown = ["-" if p is None else f"{p:.2g}" for p in (line.mcnemar, *line.mcnemar_by_seed)]
    if all(pair is None for pair in line.pairs):
        return ""
    return shown[0] if len(line.pairs) == 1 else f"{shown[0]} ({', '.join(shown[1:])})"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    return with_deviation(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _percent(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return " ".join("-" if v is None else str(v) for v in value) if isinstance(value, list) else str(value)
