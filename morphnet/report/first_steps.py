"""The first steps of phases, from their ``watch.csv``: one table, one figure."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from morphnet.report.figures import plain
from morphnet.report.record import WATCH_FILE, Record
from morphnet.report.table import Table, make_table, per_cent

#: The columns of ``watch.csv`` that are read here.
LAST = ("slopes_in_modules", "slopes_elsewhere", "moved_new", "moved_kept", "growth")
COLUMNS = ("step", "loss", "error", *LAST)
#: The panels of the figure: column, title, factor.
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


def read_first_steps(record: Record, network: str) -> FirstSteps | None:
    """The watched steps of the phase of ``record``, which tables call ``network``; None if it was not watched.

    Raises:
        ValueError: the file beside the record is damaged.
    """
    file = record.file.with_name(WATCH_FILE)
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
    return FirstSteps(record.experiment, network, record.seed, record.steps, record.error, record.start_error, columns)


def first_steps_table(phases: Sequence[FirstSteps]) -> Table:
    """One line for each phase: its errors, and slopes, weights and modules at the last watched step."""
    return make_table(phases, _TABLE_COLUMNS, _values)


def draw_first_steps(phases: Sequence[FirstSteps]) -> Figure:
    """Loss, training error, slopes and growth over the first steps, a line for each phase."""
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    colours = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for axes, (column, title, factor) in zip(panels.flat, PANELS, strict=True):
        for i, phase in enumerate(phases):
            values = zip(phase.columns["step"], phase.columns[column], strict=True)
            points = [(step, factor * value) for step, value in values if not math.isnan(value)]
            if points:
                seed = f", seed {phase.seed}" if phase.seed else ""
                name = plain(f"{phase.experiment}: {phase.network}{seed}")
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


def _values(phase: FirstSteps) -> dict[str, Any]:
    measured = {
        "train_error_first_tenth": phase.mean("error", 0, 0.1),
        "train_error_last_tenth": phase.mean("error", 0.9, 1),
        **{name: phase.last(name) for name in LAST},
    }
    known = {key: value for key, value in asdict(phase).items() if key != "columns"}
    return known | {key: None if math.isnan(value) else value for key, value in measured.items()}


def _last(name: str) -> Callable[[FirstSteps], str]:
    return lambda phase: "" if math.isnan(phase.last(name)) else f"{phase.last(name):.3f}"


def _mean_error(first: float, last: float) -> Callable[[FirstSteps], str]:
    return lambda phase: "" if math.isnan(mean := phase.mean("error", first, last)) else per_cent(mean)


_TABLE_COLUMNS: dict[str, Callable[[FirstSteps], str]] = {
    "experiment": lambda phase: phase.experiment,
    "network": lambda phase: phase.network,
    "seed": lambda phase: str(phase.seed),
    "watched steps": lambda phase: f"{phase.last('step'):,.0f} of {phase.steps:,}",
    "error %": lambda phase: per_cent(phase.error),
    "at start %": lambda phase: per_cent(phase.start_error),
    "training error % of the watched, first tenth": _mean_error(0, 0.1),
    "last tenth": _mean_error(0.9, 1),
    "slopes in modules": _last("slopes_in_modules"),
    "slopes elsewhere": _last("slopes_elsewhere"),
    "new weights moved": _last("moved_new"),
    "kept weights moved": _last("moved_kept"),
    "growth of modules": _last("growth"),
}
