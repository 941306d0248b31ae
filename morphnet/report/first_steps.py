"""What happened in the first steps of phases, from their ``watch.csv``: one table, one figure."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from morphnet.report.figures import plain
from morphnet.report.record import WATCH_FILE
from morphnet.report.table import WRITERS, Format, to_csv

HEADER = (
    "experiment", "network", "seed", "watched steps", "error %", "at start %",
    "training error % of the watched, first tenth", "last tenth",
    "slopes in modules", "slopes elsewhere", "new weights moved", "kept weights moved", "growth of modules",
)  # fmt: skip
#: Of ``watch.csv``, those that are read here.
COLUMNS = ("step", "loss", "error", "slopes_in_modules", "slopes_elsewhere", "moved_new", "moved_kept", "growth")
#: What the figure shows of each run: column, title, factor.
PANELS = (
    ("loss", "training loss", 1.0),
    ("error", "training error (%)", 100.0),
    ("slopes_in_modules", "slopes a of modules (1: the identity)", 1.0),
    ("growth", "growth of modules (0: as after the morph)", 1.0),
)


@dataclass(frozen=True)
class FirstSteps:
    """The watched steps of one phase.

    Attributes:
        error, start_error: on the test (or validation) images, after the phase and before its first step.
        columns: of ``watch.csv``, by name; NaN where a cell is empty.
    """

    experiment: str
    network: str
    seed: int
    steps: int
    error: float
    start_error: float
    columns: dict[str, list[float]]

    def mean(self, column: str, first: float, last: float) -> float:
        """Mean of a column over a part of the watched steps, from the share ``first`` to ``last`` of them."""
        values = self.columns[column][1:]  # row 0 is before training
        part = values[int(first * len(values)) : math.ceil(last * len(values))]
        return math.fsum(part) / len(part) if part else math.nan

    def last(self, column: str) -> float:
        return self.columns[column][-1]


def read_first_steps(record: dict[str, Any], path: Path) -> FirstSteps | None:
    """The watched steps of the phase whose record lies at ``path``; None if there are none.

    Raises:
        ValueError: the file beside the record is damaged.
    """
    file = path.with_name(WATCH_FILE)
    if not file.is_file():
        return None
    try:
        with open(file, encoding="ascii") as lines:
            rows = list(csv.DictReader(lines))
        columns = {name: [float(row[name] or "nan") for row in rows] for name in rows[0]}
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise ValueError(f"no column {missing[0]}")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    known = ("experiment", "seed", "steps", "error", "start_error")
    return FirstSteps(network=record["label"], columns=columns, **{key: record[key] for key in known})


def format_first_steps(found: Sequence[FirstSteps], format: Format = "text") -> str:
    """One line for each phase: its errors, and where slopes, weights and modules stand at the last watched step."""
    if format in ("json", "csv"):
        values = [_values(f) for f in found]
        if format == "json":
            return json.dumps(values, indent=1)
        return to_csv([list(values[0]), *([str("" if v is None else v) for v in row.values()] for row in values)])
    return WRITERS[format](*first_steps_columns(found))


def first_steps_columns(found: Sequence[FirstSteps]) -> tuple[Sequence[str], list[list[str]]]:
    """Header and cells as a person reads them."""
    return HEADER, [_cells(f) for f in found]


def draw_first_steps(found: Sequence[FirstSteps]) -> Figure:
    """Loss, training error, slopes and growth over the first steps, a line for each phase."""
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    colours = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for axes, (column, title, factor) in zip(panels.flat, PANELS, strict=True):
        for i, one in enumerate(found):
            points = [(s, factor * v) for s, v in zip(one.columns["step"], one.columns[column], strict=True) if v == v]
            if points:
                name = plain(f"{one.experiment}: {one.network}" + (f", seed {one.seed}" if one.seed else ""))
                style = "--" if i >= 10 else "-"
                axes.plot(*zip(*points, strict=True), style, color=colours[2 * i % 20], lw=1.2, label=name)
        axes.set_title(title, fontsize=9)
        axes.grid(color="#e5e7eb", lw=0.6)
        axes.tick_params(labelsize=8)
        axes.ticklabel_format(useOffset=False)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in panels[1]:
        axes.set_xlabel("steps after the morph", fontsize=8)
    handles, labels = panels.flat[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def _values(found: FirstSteps) -> dict[str, Any]:
    known = {k: v for k, v in asdict(found).items() if k != "columns"}
    measured = {
        "train_error_first_tenth": found.mean("error", 0, 0.1),
        "train_error_last_tenth": found.mean("error", 0.9, 1),
        **{
            name: found.last(name)
            for name in ("slopes_in_modules", "slopes_elsewhere", "moved_new", "moved_kept", "growth")
        },
    }
    return {**known, **{k: None if math.isnan(v) else v for k, v in measured.items()}}


def _cells(found: FirstSteps) -> list[str]:
    values = _values(found)

    def number(key: str, factor: float = 1.0, digits: int = 3) -> str:
        return "" if values[key] is None else f"{factor * values[key]:.{digits}f}"

    return [
        found.experiment,
        found.network,
        str(found.seed),
        f"{found.columns['step'][-1]:,.0f} of {found.steps:,}",
        number("error", 100, 2),
        number("start_error", 100, 2),
        number("train_error_first_tenth", 100, 2),
        number("train_error_last_tenth", 100, 2),
        *(number(key) for key in ("slopes_in_modules", "slopes_elsewhere", "moved_new", "moved_kept", "growth")),
    ]
