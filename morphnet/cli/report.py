"""``morphnet report``: the records of finished runs as a table."""

from __future__ import annotations

import glob
from pathlib import Path

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass
from morphnet.config import ReportConfig

TABLES = ("runs", "1", "2", "3", "controls")


def main() -> None:
    """Prints the table."""
    run_job("report", report)


def report(composed: DictConfig) -> None:
    config = to_dataclass(composed, ReportConfig)

    from morphnet.report.comparison import control_lines, paper_lines, runs_of
    from morphnet.report.comparison_table import format_controls, format_paper
    from morphnet.report.record import read_record
    from morphnet.report.table import FORMATS, format_rows, tabulate

    for key, value, expected in (("table", config.table, TABLES), ("format", config.format, FORMATS)):
        if value not in expected:
            raise ValueError(f"{key}={value!r}; expected one of {', '.join(expected)}")
    paths = find_records(config.records)
    if not paths:
        raise FileNotFoundError(f"records={config.records}: no finished phase there; run morphnet train first")
    records = [{**read_record(path), "path": path.as_posix()} for path in paths]
    runs = runs_of(records)
    if config.table == "runs":
        print(format_rows(tabulate(records), config.format))  # type: ignore[arg-type]
    elif config.table == "controls":
        lines = control_lines(runs)
        if not lines:
            raise FileNotFoundError(
                f"records={config.records}: no run with a control there; train with controls=[relu]"
            )
        print(format_controls(lines, config.format))  # type: ignore[arg-type]
    else:
        print(format_paper(paper_lines(runs, int(config.table)), config.format))  # type: ignore[arg-type]


def find_records(pattern: str) -> list[Path]:
    """The records that ``pattern`` matches, or that lie in the folders it matches.

    A parent that runs share is no run: its record stands in each of them.
    """
    from morphnet.report.record import PARENT_FILE

    found: set[Path] = set()
    for match in map(Path, glob.glob(pattern, recursive=True)):
        found.update(match.glob("**/record.json") if match.is_dir() else [match] * (match.name == "record.json"))
    return sorted(path for path in found if not path.with_name(PARENT_FILE).exists())
