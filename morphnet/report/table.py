"""Tables: values and cells in every format, and records as one row for each network, averaged over seeds."""

from __future__ import annotations

import csv
import io
import json
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from tabulate import tabulate

from morphnet.report.record import Record, names_of

Format = Literal["text", "markdown", "csv", "latex", "json"]
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
    """``header``, for a wide table in several lines, of which the last stand beside each other."""
    widths = [max([7, *(len(line[i]) for line in cells)]) for i in range(len(header))]
    if sum(max(len(name), width) + 2 for name, width in zip(header, widths, strict=True)) <= WIDE:
        return list(header)
    heads = [textwrap.wrap(name, width, break_long_words=False) for name, width in zip(header, widths, strict=True)]
    height = max(map(len, heads))
    return ["\n".join([""] * (height - len(head)) + head) for head in heads]


def is_numeric(column: Sequence[str]) -> bool:
    """Whether the cells of a column stand to the right."""
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


def with_deviation(mean: float | None, deviation: float | None) -> str:
    """In per cent; empty for None."""
    return per_cent(mean) + ("" if deviation is None else f" ± {per_cent(deviation)}")


# --- one row for each network ---


@dataclass(frozen=True)
class Row:
    """One network of one experiment, over all its seeds.

    Errors are fractions. ``error_deviation`` is the sample standard deviation, None for one seed; ``views_error_mean``
    and its deviation are over ten views of each image, None where they were not taken. ``relative_macs`` is over the
    parent's; ``collapsed_macs`` is of a linear control whose modules were collapsed. ``settings`` distinguishes the row
    from others of an experiment that was run in several ways.
    """

    experiment: str
    settings: str
    network: str
    role: str
    seeds: tuple[int, ...]
    error_mean: float
    error_deviation: float | None
    views_error_mean: float | None
    views_error_deviation: float | None
    start_error_mean: float
    evaluated_on: str
    macs: int
    relative_macs: float | None
    collapsed_macs: int | None
    parameters: int
    steps: int
    images_per_second: float | None
    seconds: float
    control: str | None
    label: str


def rows_of(records: Sequence[Record]) -> list[Row]:
    """The rows of ``records``: those of one experiment, phase and setting are averaged over their seeds.

    Raises:
        ValueError: two records are of the same experiment, phase and seed but of different runs.
    """
    groups: dict[tuple[Any, ...], dict[tuple[int, str], tuple[Record, str]]] = {}
    for record, name in zip(records, names_of(records), strict=True):
        group = groups.setdefault((*record.group, record.folder), {})
        group.setdefault((record.seed, record.lineage.network), (record, name))  # the same run in two folders is one
    parents = {record.group: record.macs for record in records if record.role == "parent"}
    rows = []
    for named in groups.values():
        seeds = sorted((record for record, _ in named.values()), key=lambda record: record.seed)
        if len({record.seed for record in seeds}) < len(seeds):
            raise ValueError(TWICE.format(experiment=seeds[0].experiment, phase=seeds[0].phase))
        network = next(iter(named.values()))[1]
        rows.append(_row(seeds, network, parents.get(seeds[0].group)))
    return rows


def _row(seeds: Sequence[Record], network: str, parent_macs: int | None) -> Row:
    first = seeds[0]
    errors = [record.error for record in seeds]
    views = [record.views.error for record in seeds if record.views is not None]
    views = views if len(views) == len(seeds) else []
    speeds = [record.images_per_second for record in seeds if record.images_per_second]
    return Row(
        experiment=first.experiment,
        settings=first.variation,
        network=network,
        role=first.role,
        seeds=tuple(record.seed for record in seeds),
        error_mean=statistics.fmean(errors),
        error_deviation=statistics.stdev(errors) if len(errors) > 1 else None,
        views_error_mean=statistics.fmean(views) if views else None,
        views_error_deviation=statistics.stdev(views) if len(views) > 1 else None,
        start_error_mean=statistics.fmean(record.start_error for record in seeds),
        evaluated_on=first.data.evaluated_on,
        macs=first.macs,
        relative_macs=None if parent_macs is None else first.macs / parent_macs,
        collapsed_macs=first.collapsed_macs,
        parameters=first.parameters,
        steps=first.steps,
        images_per_second=statistics.fmean(speeds) if speeds else None,
        seconds=sum(record.seconds for record in seeds),
        control=first.control,
        label=first.label,
    )


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "experiment": lambda row: row.experiment,
    "settings": lambda row: row.settings,
    "network": lambda row: row.network,
    "seeds": lambda row: str(len(row.seeds)),
    "error %": lambda row: with_deviation(row.error_mean, row.error_deviation),
    "10-view error %": lambda row: with_deviation(row.views_error_mean, row.views_error_deviation),
    "at start %": lambda row: per_cent(row.start_error_mean),
    "FLOP (million)": lambda row: millions(row.macs),
    "rel. FLOP": lambda row: "" if row.relative_macs is None else f"{row.relative_macs:.2f}x",
    COLLAPSED: lambda row: millions(row.collapsed_macs),
    "parameters": lambda row: f"{row.parameters:,}",
    "steps": lambda row: f"{row.steps:,}" if row.steps else GIVEN,
    "images/s": lambda row: "" if row.images_per_second is None else f"{row.images_per_second:,.0f}",
}


def runs_table(rows: Sequence[Row]) -> Table:
    """One line for each network. The error is that of the last epoch."""
    return make_table(rows, _COLUMNS, asdict).without_empty("settings", "10-view error %", COLLAPSED)


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
