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
    from morphnet.report.first_steps import FirstSteps
    from morphnet.report.record import Record

TABLES = ("runs", "1", "2", "3", "controls", "first_steps")
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
    _report(config, records)
    if damaged:
        raise ValueError("left out, and the rest is above:\n  " + "\n  ".join(damaged))


def _check(config: ReportConfig) -> None:
    """Refuses values and combinations that are impossible."""
    from morphnet.report.table import FORMATS

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


def _report(config: ReportConfig, records: list[Record]) -> None:
    from morphnet.report.comparison import paper_lines, recipe_of_tables, runs_of, why_none
    from morphnet.report.variants import with_variations

    _check_recipe(config.with_recipe, records)
    recipe = recipe_of_tables(config.with_recipe)
    if config.verify:
        from morphnet.cli.verification import verify

        verify(records, config.device, _say)
    if config.collect:
        from morphnet.cli.collection import collect

        for folder in collect(records):
            _say(f"collected in {folder}")
    near = config.output or "."
    records = [replace(r, path=Path(os.path.relpath(r.file, near)).as_posix()) for r in with_variations(records)]
    if config.format == "html":
        from morphnet.report.page import write_page

        place = Path(config.output or "report") / "report.html"
        write_page(records, place, recipe)
        print(place)
        return
    text = _table(records, config.table, config.format, recipe)
    if text is None:
        what = {
            "controls": "no run with a control there; train with controls=[relu]",
            "first_steps": "no phase whose first steps were watched; train with trainer.watch_steps=500",
        }
        raise FileNotFoundError(f"records={config.records}: {what[config.table]}")
    print(text)
    if config.table.isdigit():
        runs, number = runs_of(records), int(config.table)
        if not any(line.runs for line in paper_lines(runs, number, recipe)):
            why = why_none(runs, number, recipe)
            _say(f"none of these records is of a run of Table {number}: {why} (docs/tables.md says what a row is)")
    if config.output is not None:
        _write(records, Path(config.output), recipe)


def _check_recipe(recipe: str, records: list[Record]) -> None:
    """Refuses a recipe that is neither a preset nor in a record."""
    from morphnet.cli.reference import options_of

    known = {*options_of("recipe"), "paper", *(r.settings.recipe for r in records if r.settings.recipe)}
    if recipe not in known:
        raise ValueError(f"with_recipe={recipe!r}; expected one of {', '.join(sorted(known))}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _table(records: list[Record], name: str, format: str, recipe: str) -> str | None:
    """One of ``TABLES`` with the text below it; None if it would be empty."""
    from morphnet.report.comparison import control_lines, paper_lines, runs_of
    from morphnet.report.comparison_table import control_foot, controls_table, paper_table
    from morphnet.report.first_steps import first_steps_table
    from morphnet.report.table import caption, left_out, rows_of, runs_table

    below = ""
    if name == "runs":
        table = runs_table(rows_of(records))
        below = {"text": caption(records), "markdown": left_out(records)}.get(format, "")
    elif name == "controls":
        lines = control_lines(runs_of(records))
        table = controls_table(lines)
        below = "\n".join(control_foot(lines)) if format in ("text", "markdown") else ""
    elif name == "first_steps":
        table = first_steps_table(_watched(records))
    else:
        table = paper_table(paper_lines(runs_of(records), int(name), recipe))
    if not table.cells:
        return None
    return "\n\n".join(filter(None, (table.write(format), below)))  # type: ignore[arg-type]


def _write(records: list[Record], output: Path, recipe: str) -> None:
    """All tables in every format, the figures, and the page, into ``output``."""
    from morphnet.report.comparison import paper_lines, runs_of
    from morphnet.report.figures import TITLES, draw_cost, draw_curves, draw_rows
    from morphnet.report.first_steps import draw_first_steps
    from morphnet.report.page import write_page
    from morphnet.report.picture import save_picture
    from morphnet.report.table import rows_of
    from morphnet.report.variants import SEED
    from morphnet.store import write_whole

    output.mkdir(parents=True, exist_ok=True)
    written = []
    for table in TABLES:
        for format, suffix in SUFFIXES.items():
            text = _table(records, table, format, recipe)
            if text is not None:
                written.append(output / f"{f'table{table}' if table.isdigit() else table}.{suffix}")
                write_whole(written[-1], (text + "\n").encode())
    runs = runs_of(records)
    for number in TITLES:
        lines = paper_lines(runs, number, recipe)
        if any(line.runs for line in lines):
            written += save_picture(draw_cost(lines), output / f"cost_table{number}")
    for key in dict.fromkeys(run.key for run in runs):
        group = [run for run in runs if run.key == key]
        variants = {run.key[1] for run in runs if run.key[0] == key[0]}
        folder = SEED.sub("", group[0].first.run_dir.name)
        name = f"curves_{key[0].replace('/', '_')}" + (f"_{folder}" if len(variants) > 1 else "")
        if any(record.history for run in group for record in run.phases.values()):
            written += save_picture(draw_curves(group), output / name)
    watched = _watched(records)
    if watched:
        written += save_picture(draw_first_steps(watched), output / "first_steps")
    written += save_picture(draw_rows(rows_of(records)), output / "cost")
    write_page(records, output / "report.html", recipe)
    written.append(output / "report.html")
    _say(f"{len(written)} files in {output}")


def _watched(records: list[Record]) -> list[FirstSteps]:
    """The phases of ``records`` whose first steps were watched."""
    from morphnet.report.first_steps import read_first_steps
    from morphnet.report.record import names_of

    phases = [read_first_steps(record, name) for record, name in zip(records, names_of(records), strict=True)]
    return [steps for steps in phases if steps is not None]


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
