"""Tables: values and cells in every format, and records as one row for each network, averaged over seeds."""

from __future__ import annotations

import csv
import io
import json
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tabulate import tabulate

from morphnet.report.record import Record, names_of

Format = Literal["text", "markdown", "csv", "latex", "json"]
TABLES = ("runs", "1", "2", "3", "controls", "first_steps")
FORMATS = ("text", "markdown", "csv", "latex", "json")
#: A text table of this many characters or more has its headers wrapped.
WIDE = 160
#: The message where it is unclear which of two runs counts.
TWICE = "{experiment}, phase {phase}: the same seed stands in several runs; name one with records="
#: The cell for the steps of a network that was not trained here.
GIVEN = "given"
#: The header for the FLOP of a linear control with its modules as one convolution each.
COLLAPSED = "collapsed FLOP (million)"
#: The header for links to records, which only Markdown has.
RECORDS = "records"
Line = TypeVar("Line")


@dataclass(frozen=True)
class Table:
    """Lines as plain values for CSV and JSON, and as cells that a person reads for the other formats."""

    values: list[dict[str, Any]]
    header: list[str]
    cells: list[list[str]]

    def without(self, *names: str) -> Table:
        """The table without the columns ``names``."""
        kept = [i for i, name in enumerate(self.header) if name not in names]
        return Table(self.values, [self.header[i] for i in kept], [[line[i] for i in kept] for line in self.cells])

    def without_empty(self, *names: str) -> Table:
        """The table without those of the columns ``names`` that are empty."""
        empty = [name for i, name in enumerate(self.header) if not any(line[i] for line in self.cells)]
        return self.without(*(name for name in names if name in empty))

    def write(self, format: Format = "text") -> str:
        if format == "json":
            return json.dumps(self.values, indent=1)
        if format == "csv":
            lines = [[_plain(value) for value in line.values()] for line in self.values]
            return write_cells(list(self.values[0]), lines, "csv")
        table = self if format == "markdown" else self.without(RECORDS)
        return write_cells(table.header, table.cells, format)


def make_table(
    lines: Sequence[Line], columns: Mapping[str, Callable[[Line], str]], values: Callable[[Line], dict[str, Any]]
) -> Table:
    """``lines`` as a table.

    Args:
        columns: by header, the cell of a line.
        values: of a line, by their names in CSV and JSON.
    """
    cells = [[cell(line) for cell in columns.values()] for line in lines]
    return Table([values(line) for line in lines], list(columns), cells)


def write_cells(header: Sequence[str], cells: Sequence[Sequence[str]], format: Format = "text") -> str:
    """Cells as CSV or as a text, Markdown or LaTeX (booktabs) table with numbers to the right."""
    if format == "csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([header, *cells])
        return buffer.getvalue().rstrip("\n")
    if format == "markdown":  # not padded: a longer link would change every line
        escaped = [[cell.replace("|", r"\|") for cell in line] for line in (header, ["---"] * len(header), *cells)]
        return "\n".join("| " + " | ".join(line) + " |" for line in escaped)
    align = ["right" if is_numeric([line[i] for line in cells]) else "left" for i in range(len(header))]
    if format == "latex":
        table = tabulate(cells, header, "latex_booktabs", colalign=align, disable_numparse=True)
        return table.replace("±", r"$\pm$").replace("→", r"$\to$")
    return tabulate(cells, _wrapped(header, cells), "simple", colalign=align, disable_numparse=True)


def _wrapped(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """``header``, in several lines if the table is wide, with the last lines at the same height."""
    widths = [max([7, *(len(line[i]) for line in cells)]) for i in range(len(header))]
    if sum(max(len(name), width) + 2 for name, width in zip(header, widths, strict=True)) <= WIDE:
        return list(header)
    heads = [textwrap.wrap(name, width, break_long_words=False) for name, width in zip(header, widths, strict=True)]
    height = max(map(len, heads))
    return ["\n".join([""] * (height - len(head)) + head) for head in heads]


def is_numeric(column: Sequence[str]) -> bool:
    """Whether the cells of a column are aligned to the right."""
    return all(cell[:1].isdigit() or cell[:1] in ("", "-", "+") or cell == GIVEN for cell in column)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return " ".join("-" if v is None else str(v) for v in value) if isinstance(value, list | tuple) else str(value)


def per_cent(value: float | None, digits: int = 2) -> str:
    """A fraction in per cent; empty for None."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def millions(macs: int | None) -> str:
    """FLOP in millions; empty for None."""
    if macs is None:
        return ""
    return f"{macs / 1e6:,.1f}" if macs >= 1e7 else f"{macs / 1e6:.3f}"


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def with_deviation(values: Sequence[float]) -> str:
    """Mean and deviation of fractions in per cent; empty without values."""
    spread = f" ± {per_cent(deviation(values))}" if len(values) > 1 else ""
    return per_cent(statistics.fmean(values)) + spread if values else ""


# --- one row for each network ---


@dataclass(frozen=True)
class Row:
    """One network of one experiment.

    Attributes:
        records: one for each seed, in their order.
        network: what tables call it.
        parent_macs: multiply-accumulates of the parent; None if its record is missing.
    """

    records: Sequence[Record]
    network: str
    parent_macs: int | None

    @property
    def first(self) -> Record:
        """The record of the first seed; all seeds share everything except measurements."""
        return self.records[0]

    @property
    def seeds(self) -> list[int]:
        return [record.seed for record in self.records]

    @property
    def errors(self) -> list[float]:
        return [record.error for record in self.records]

    @property
    def views_errors(self) -> list[float]:
        """Over ten views of each image; empty where they were not taken for every seed."""
        errors = [record.views.error for record in self.records if record.views is not None]
        return errors if len(errors) == len(self.records) else []

    @property
    def relative_macs(self) -> float | None:
        """Over the parent's."""
        return None if self.parent_macs is None else self.first.macs / self.parent_macs

    @property
    def images_per_second(self) -> float | None:
        speeds = [record.images_per_second for record in self.records if record.images_per_second]
        return statistics.fmean(speeds) if speeds else None

    def values(self) -> dict[str, Any]:
        """Plain values for CSV and JSON; errors are fractions, deviations those of the sample."""
        first = self.first
        return {
            "experiment": first.experiment,
            "settings": first.variation,
            "network": self.network,
            "role": first.role,
            "control": first.control,
            "seeds": self.seeds,
            "error_mean": statistics.fmean(self.errors),
            "error_deviation": deviation(self.errors),
            "views_error_mean": statistics.fmean(self.views_errors) if self.views_errors else None,
            "views_error_deviation": deviation(self.views_errors),
            "start_error_mean": statistics.fmean(record.start_error for record in self.records),
            "evaluated_on": first.data.evaluated_on,
            "macs": first.macs,
            "relative_macs": self.relative_macs,
            "collapsed_macs": first.collapsed_macs,
            "parameters": first.parameters,
            "steps": first.steps,
            "images_per_second": self.images_per_second,
            "seconds": sum(record.seconds for record in self.records),
        }


def rows_of(records: Sequence[Record]) -> list[Row]:
    """The rows of ``records``, each with all seeds of one experiment, phase and setting.

    Raises:
        ValueError: two records are of the same experiment, phase and seed but of different runs.
    """
    groups: dict[tuple[Any, ...], dict[int, Record]] = {}
    names: dict[tuple[Any, ...], str] = {}
    for record, name in zip(records, names_of(records), strict=True):
        key = (*record.group, record.folder)
        names.setdefault(key, name)
        same = groups.setdefault(key, {}).setdefault(record.seed, record)
        if same.lineage.network != record.lineage.network:  # the same run in two folders is one
            raise ValueError(TWICE.format(experiment=record.experiment, phase=record.phase))
    parents = {record.group: record.macs for record in records if record.role == "parent"}
    ordered = {key: [seeds[seed] for seed in sorted(seeds)] for key, seeds in groups.items()}
    return [Row(seeds, names[key], parents.get(seeds[0].group)) for key, seeds in ordered.items()]


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "experiment": lambda row: row.first.experiment,
    "settings": lambda row: row.first.variation,
    "network": lambda row: row.network,
    "seeds": lambda row: str(len(row.records)),
    "error %": lambda row: with_deviation(row.errors),
    "10-view error %": lambda row: with_deviation(row.views_errors),
    "at start %": lambda row: per_cent(statistics.fmean(record.start_error for record in row.records)),
    "FLOP (million)": lambda row: millions(row.first.macs),
    "rel. FLOP": lambda row: "" if row.relative_macs is None else f"{row.relative_macs:.2f}x",
    COLLAPSED: lambda row: millions(row.first.collapsed_macs),
    "parameters": lambda row: f"{row.first.parameters:,}",
    "steps": lambda row: f"{row.first.steps:,}" if row.first.steps else GIVEN,
    "images/s": lambda row: "" if row.images_per_second is None else f"{row.images_per_second:,.0f}",
}


def runs_table(rows: Sequence[Row]) -> Table:
    """One line for each network. The error is that of the last epoch, mean and deviation over seeds."""
    return make_table(rows, _COLUMNS, Row.values).without_empty("settings", "10-view error %", COLLAPSED)


def caption(records: Sequence[Record]) -> str:
    """The images that the errors of a table are of, and those that were left out."""
    images: dict[str, set[str]] = {}
    for record in records:
        counted = f"{record.data.name}, {record.data.images:,} {record.data.evaluated_on} images"
        images.setdefault(counted, set()).add(f"{record.experiment} {record.variation}".strip())
    listed = [
        f"{counted} ({', '.join(sorted(of))})" if images.keys() - {counted} else counted
        for counted, of in images.items()
    ]
    errors = f"Error at the end of training, on {'; '.join(sorted(listed))}; mean ± deviation over seeds."
    return "\n".join(filter(None, (errors, left_out(records))))


def left_out(records: Sequence[Record]) -> str:
    """How many images could not be read, by experiment; empty where all could."""
    counts: dict[str, int] = {}
    for record in records:
        counts[record.experiment] = max(counts.get(record.experiment, 0), record.data.unreadable)
    listed = ", ".join(f"up to {count:,} in a phase of {name}" for name, count in counts.items() if count)
    return f"Images that could not be read: {listed} (unreadable.txt in its folder names them)." if listed else ""
