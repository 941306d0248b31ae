"""Comparisons as tables: the paper's rows with measurements, and children with their controls."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from morphnet.report.comparison import ControlLine, PaperLine
from morphnet.report.record import Record
from morphnet.report.table import (
    COLLAPSED,
    GIVEN,
    RECORDS,
    Table,
    make_table,
    millions,
    per_cent,
    with_deviation,
)

#: Notes for the columns that are made from predictions.
OVER = "Over the child: the control's error minus the child's on the same seeds; above zero, the child is better."
MCNEMAR = (
    "McNemar p: exact two-sided binomial test of the images that only the child or only the control gets wrong. Of "
    "several seeds (each in brackets) an image counts once, for the network that gets it wrong in more of them. It is "
    "about these networks; the interval is about training them again."
)
OVERLAP = (
    "Error overlap: images that child and control both get wrong, of those that either gets wrong; mean over seeds."
)


def paper_table(lines: Sequence[PaperLine]) -> Table:
    """The paper's rows with measurements; cells without one are empty.

    ``improvement`` is the parent's error minus the child's, in points, over the runs of the same seed; ``steps`` those
    of the last phase, of which the paper's have 64,000 on CIFAR.
    """
    table = make_table(lines, _PAPER_COLUMNS, _paper_values).without_empty("settings")
    return table if any(line.views > 1 for line in lines) else table.without("views")


def controls_table(lines: Sequence[ControlLine]) -> Table:
    """Every child, then its controls: their errors, and by how much they exceed the child's, seed by seed.

    From three seeds on the difference is a mean with its paired t interval; below that all differences are listed.
    """
    table = make_table(lines, _CONTROL_COLUMNS, _control_values)
    return table.without_empty("settings", "McNemar p", "error overlap %", COLLAPSED)


def control_foot(lines: Sequence[ControlLine]) -> list[str]:
    """Explains the columns; those made from predictions where a record has any."""
    kept = any(pair is not None for line in lines for pair in line.pairs)
    return [OVER, *([MCNEMAR, OVERLAP] if kept else [])]


def _first(line: PaperLine) -> Record | None:
    return line.runs[0].record if line.runs else None


def _paper_gain(line: PaperLine) -> float | None:
    return None if line.paper_parent_error is None else line.paper_parent_error - line.paper_error


def _paper_relative_gain(line: PaperLine) -> float | None:
    gain = _paper_gain(line)
    return gain / line.paper_parent_error if gain is not None and line.paper_parent_error else None


def _links(records: Sequence[Record]) -> str:
    """A link to the record of every seed, in Markdown."""
    return ", ".join(f"[seed {record.seed}]({record.path})" for record in records)


_PAPER_COLUMNS: dict[str, Callable[[PaperLine], str]] = {
    "network": lambda line: line.row.name,
    "settings": lambda line: first.variation if (first := _first(line)) else "",
    "phases": lambda line: (
        str(len(line.row.via) + 1) + (f" ({' → '.join((*line.row.via, line.row.spec or ''))})" if line.row.via else "")
    ),
    "views": lambda line: str(line.views),
    "error %, paper": lambda line: per_cent(line.paper_error),
    "error %": lambda line: with_deviation(line.errors),
    "seeds": lambda line: str(len(line.runs)) if line.runs else "",
    "improvement, paper": lambda line: per_cent(_paper_gain(line)),
    "improvement": lambda line: with_deviation(line.improvements),
    "relative %, paper": lambda line: per_cent(_paper_relative_gain(line), 1),
    "relative %": lambda line: (
        per_cent(statistics.fmean(line.relative_improvements), 1) if line.relative_improvements else ""
    ),
    "FLOP, paper (million)": lambda line: f"{line.row.flop:,.{1 if line.row.flop < 1000 else 0}f}",
    "FLOP (million)": lambda line: f"{first.macs / 1e6:,.1f}" if (first := _first(line)) else "",
    "rel. FLOP, paper": lambda line: f"{line.row.relative_flop:.2f}x",
    "steps": lambda line: "" if (first := _first(line)) is None else f"{first.steps:,}" if first.steps else GIVEN,
    RECORDS: lambda line: _links([run.record for run in line.runs]),
}


def _paper_values(line: PaperLine) -> dict[str, Any]:
    first = _first(line)
    return {
        "table": line.row.table,
        "network": line.row.name,
        "settings": "" if first is None else first.variation,
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
        "macs": None if first is None else first.macs,
        "steps": None if first is None else first.steps,
        "records": [run.record.path for run in line.runs],
    }


def _difference(line: ControlLine) -> str:
    if len(line.differences) < 3:
        return ", ".join(f"{100 * difference:+.2f}" for difference in line.differences)
    return f"{100 * statistics.fmean(line.differences):+.2f}"


def _mcnemar(line: ControlLine) -> str:
    """p over all seeds, and of several each of them in brackets; empty where no seed keeps predictions."""
    if all(pair is None for pair in line.pairs):
        return ""
    first, *seeds = ["-" if p is None else f"{p:.2g}" for p in (line.mcnemar, *line.mcnemar_by_seed)]
    return first if len(seeds) == 1 else f"{first} ({', '.join(seeds)})"


_CONTROL_COLUMNS: dict[str, Callable[[ControlLine], str]] = {
    "experiment": lambda line: line.first.experiment,
    "settings": lambda line: line.first.variation,
    "network": lambda line: line.network,
    "error %": lambda line: with_deviation(line.errors),
    "seeds": lambda line: str(len(line.errors)),
    "over the child (points)": _difference,
    "95 % interval": lambda line: " to ".join(f"{100 * end:+.2f}" for end in line.interval or ()),
    "McNemar p": _mcnemar,
    "error overlap %": lambda line: with_deviation([overlap for overlap in line.overlaps if overlap is not None]),
    "FLOP (million)": lambda line: millions(line.first.macs),
    "rel. FLOP": lambda line: "" if line.relative_macs is None else f"{line.relative_macs:.2f}x",
    COLLAPSED: lambda line: millions(line.first.collapsed_macs),
    "steps": lambda line: f"{line.first.steps:,}",
    RECORDS: lambda line: _links(line.records),
}


def _control_values(line: ControlLine) -> dict[str, Any]:
    return {
        "experiment": line.first.experiment,
        "settings": line.first.variation,
        "child": line.child,
        "network": line.network,
        "role": line.first.role,
        "control": line.first.control,
        "seeds": line.seeds,
        "errors": line.errors,
        "differences": list(line.differences),
        "interval": None if line.interval is None else list(line.interval),
        "only_child_wrong": [None if pair is None else pair.only_child for pair in line.pairs],
        "only_control_wrong": [None if pair is None else pair.only_control for pair in line.pairs],
        "mcnemar_by_seed": line.mcnemar_by_seed,
        "mcnemar": line.mcnemar,
        "error_overlaps": line.overlaps,
        "macs": line.first.macs,
        "relative_macs": line.relative_macs,
        "collapsed_macs": line.first.collapsed_macs,
        "steps": line.first.steps,
        "records": [record.path for record in line.records],
    }
