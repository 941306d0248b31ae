"""``morphnet report``: the records of finished runs as one table."""

from __future__ import annotations

import glob
from pathlib import Path

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass
from morphnet.config import ReportConfig


def main() -> None:
    """Prints the table."""
    run_job("report", report)


def report(composed: DictConfig) -> None:
    config = to_dataclass(composed, ReportConfig)

    from morphnet.report.record import read_record
    from morphnet.report.table import FORMATS, format_rows, tabulate

    if config.format not in FORMATS:
        raise ValueError(f"format={config.format!r}; expected one of {', '.join(FORMATS)}")
    paths = find_records(config.records)
    if not paths:
        raise FileNotFoundError(f"records={config.records}: no finished phase there; run morphnet train first")
    print(format_rows(tabulate([read_record(path) for path in paths]), config.format))  # type: ignore[arg-type]


def find_records(pattern: str) -> list[Path]:
    """The records that ``pattern`` matches, or that lie in the folders it matches.

    A parent that runs share is no run: its record stands in each of them.
    """
    from morphnet.report.record import PARENT_FILE

    found: set[Path] = set()
    for match in map(Path, glob.glob(pattern, recursive=True)):
        found.update(match.glob("**/record.json") if match.is_dir() else [match] * (match.name == "record.json"))
    return sorted(path for path in found if not path.with_name(PARENT_FILE).exists())
