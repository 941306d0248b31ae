"""``morphnet report``: the records of finished runs as a table."""

from __future__ import annotations

import glob
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass
from morphnet.cli.output import refuse_file
from morphnet.config import ReportConfig

if TYPE_CHECKING:
    from morphnet.report.contents import Report
    from morphnet.report.record import Record

#: The endings of files, by format.
SUFFIXES = {"text": "txt", "markdown": "md", "csv": "csv", "latex": "tex", "json": "json"}


def main() -> None:
    """Prints the table."""
    run_job("report", report)


def report(composed: DictConfig) -> None:
    config = to_dataclass(composed, ReportConfig)

    _check(config)
    paths = find_records(config.records)
    if not paths:
        raise FileNotFoundError(f"records={config.records}: no finished phase there; run morphnet train first")
    records, damaged = _read(paths)
    damaged += _report(config, records)
    if damaged:
        raise ValueError("left out, and the rest is above:\n  " + "\n  ".join(damaged))


def _check(config: ReportConfig) -> None:
    """Refuses values and combinations that are impossible."""
    from morphnet.report.table import FORMATS, TABLES

    for key, value, expected in (("table", config.table, TABLES), ("format", config.format, (*FORMATS, "html"))):
        if value not in expected:
            raise ValueError(f"{key}={value!r}; expected one of {', '.join(expected)}")
    if config.output == "":
        raise ValueError("output is empty: give a folder")
    if config.output is not None:
        refuse_file(Path(config.output))
    if config.output is not None and Path(config.output).suffix[1:] in (*SUFFIXES.values(), "html"):
        raise ValueError(f"output={config.output}: a folder is needed; one table goes into a file by format=csv > FILE")
    if config.format == "html" and config.table != "runs":
        raise ValueError(f"format=html table={config.table}: the page has every table; leave table= out")


def _read(paths: list[Path]) -> tuple[list[Record], list[str]]:
    """The records in ``paths``, and a message for each damaged one."""
    from morphnet.report.record import read_record

    records, damaged = [], []
    for path in paths:
        try:
            records.append(read_record(path))
        except ValueError as error:
            damaged.append(str(error))
    if not records:
        raise ValueError("\n  ".join(damaged))
    return records, damaged


def _report(config: ReportConfig, records: list[Record]) -> list[str]:
    """Prints and writes what is asked for; returns a message for each damaged file."""
    from morphnet.report.comparison import recipe_of_tables, why_none
    from morphnet.report.contents import Report
    from morphnet.report.variants import with_variations

    _check_recipe(config.with_recipe, records)
    config = replace(config, with_recipe=recipe_of_tables(config.with_recipe))
    if config.verify:
        from morphnet.cli.verification import verify

        verify(records, config.device, _say)
    if config.collect:
        from morphnet.cli.collection import collect

        for folder in collect(records):
            _say(f"collected in {folder}")
    near = config.output or "."
    records = [replace(r, path=Path(os.path.relpath(r.file, near)).as_posix()) for r in with_variations(records)]
    made = Report(records, recipe_of_tables(config.with_recipe))
    if config.format == "html":
        from morphnet.report.page import write_page

        place = Path(config.output or "report") / "report.html"
        write_page(made, place)
        print(place)
        return []
    text = made.write(config.table, config.format)  # type: ignore[arg-type]
    damaged = made.first_steps[1] if config.table == "first_steps" or config.output is not None else []
    if text is not None:
        print(text)
    elif not damaged:
        what = {
            "controls": "no run with a control there; train with controls=[relu]",
            "first_steps": "no phase whose first steps were watched; train with trainer.watch_steps=500",
        }
        raise FileNotFoundError(f"records={config.records}: {what[config.table]}")
    if config.table.isdigit() and not any(line.runs for line in made.paper[int(config.table)]):
        why = why_none(made.runs, int(config.table), made.recipe)
        _say(f"none of these records is of a run of Table {config.table}: {why} (docs/tables.md says what a row is)")
    if config.output is not None:
        _write(made, Path(config.output))
    return damaged


def _check_recipe(recipe: str, records: list[Record]) -> None:
    """Refuses a recipe that is neither a preset nor in a record."""
    from morphnet.cli.reference import options_of

    known = {*options_of("recipe"), "paper", *(r.settings.recipe for r in records if r.settings.recipe)}
    if recipe not in known:
        raise ValueError(f"with_recipe={recipe!r}; expected one of {', '.join(sorted(known))}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(made: Report, output: Path) -> None:
    """All tables in every format, the figures, and the page, into ``output``."""
    from morphnet.report.page import write_page
    from morphnet.report.picture import save_picture
    from morphnet.report.table import TABLES
    from morphnet.store import write_whole

    output.mkdir(parents=True, exist_ok=True)
    written = [output / "report.html"]
    for table in TABLES:
        for format, suffix in SUFFIXES.items():
            text = made.write(table, format)  # type: ignore[arg-type]
            if text is not None:
                written.append(output / f"{f'table{table}' if table.isdigit() else table}.{suffix}")
                write_whole(written[-1], (text + "\n").encode())
    for name, figure, _ in made.figures():
        written += save_picture(figure, output / name)
    write_page(made, output / "report.html")
    _say(f"{len(written)} files in {output}")


def find_records(pattern: str) -> list[Path]:
    """The records that ``pattern`` matches, or in the folders it matches; each run has its own of a shared parent."""
    from morphnet.report.record import PHASE_FILE

    paths: set[Path] = set()
    for match in map(Path, glob.glob(pattern, recursive=True)):
        paths.update(match.glob("**/record.json") if match.is_dir() else [match] * (match.name == "record.json"))
    return sorted((path for path in paths if not path.with_name(PHASE_FILE).exists()), key=_in_order)


def _in_order(path: Path) -> tuple[Path, int, str]:
    """By run, then by the number of the phase: ``2_1c1`` before ``10_random``."""
    number = path.parent.name.partition("_")[0]
    return path.parent.parent, int(number) if number.isdigit() else -1, path.parent.name
