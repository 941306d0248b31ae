"""``morphnet report``: the records of finished runs as a table."""

from __future__ import annotations

import glob
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass
from morphnet.cli.output import refuse_file
from morphnet.config import ReportConfig

if TYPE_CHECKING:
    from morphnet.report.first_steps import FirstSteps

TABLES = ("runs", "1", "2", "3", "controls", "first_steps")
#: Of the files of each format.
SUFFIXES = {"text": "txt", "markdown": "md", "csv": "csv", "latex": "tex", "json": "json"}


def main() -> None:
    """Prints the table."""
    run_job("report", report)


def report(composed: DictConfig) -> None:
    config = to_dataclass(composed, ReportConfig)

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
    found = find_records(config.records)
    if not found:
        raise FileNotFoundError(f"records={config.records}: no finished phase there; run morphnet train first")
    paths, damaged = _readable(found)
    _report(config, paths)
    if damaged:
        raise ValueError("left out, and the rest is above:\n  " + "\n  ".join(damaged))


def _readable(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Those of ``paths`` that are records, and what is wrong with the others."""
    from morphnet.report.record import read_record

    good, damaged = [], []
    for path in paths:
        try:
            read_record(path)
        except ValueError as error:
            damaged.append(str(error))
        else:
            good.append(path)
    if not good:
        raise ValueError("\n  ".join(damaged))
    return good, damaged


def _report(config: ReportConfig, paths: list[Path]) -> None:
    from morphnet.report.comparison import recipe_of_tables, runs_of, why_none
    from morphnet.report.record import read_record
    from morphnet.report.variants import tell_apart

    _check_recipe(config.with_recipe, paths)
    config = replace(config, with_recipe=recipe_of_tables(config.with_recipe))
    if config.verify:
        from morphnet.cli.verification import verify

        verify(paths, config.device, _say)
    if config.collect:
        from morphnet.cli.collection import collect

        for folder in collect(paths):
            _say(f"collected in {folder}")
    if config.format == "html":
        from morphnet.report.page import write_page

        place = Path(config.output or "report") / "report.html"
        write_page(tell_apart([{**read_record(path), "file": path} for path in paths]), place, config.with_recipe)
        print(place)
        return
    near = config.output or "."
    records = tell_apart(
        [{**read_record(path), "path": Path(os.path.relpath(path, near)).as_posix(), "file": path} for path in paths]
    )
    found = _table(records, config.table, config.format, config.with_recipe)
    if found is None:
        what = {
            "controls": "no run with a control there; train with controls=[relu]",
            "first_steps": "no phase whose first steps were watched; train with trainer.watch_steps=500",
        }
        raise FileNotFoundError(f"records={config.records}: {what[config.table]}")
    print(found)
    if config.table.isdigit() and not _has_runs_of(records, int(config.table), config.with_recipe):
        why = why_none(runs_of(records), int(config.table), config.with_recipe)
        _say(f"none of these records is of a run of Table {config.table}: {why} (docs/tables.md says what a row is)")
    if config.output is not None:
        _write(records, Path(config.output), config.with_recipe)


def _check_recipe(recipe: str, paths: list[Path]) -> None:
    """Refuses a recipe that there is not, neither among the presets nor in a record."""
    from morphnet.cli.reference import options_of
    from morphnet.report.record import read_record

    known = {*options_of("recipe"), "paper"}
    if recipe not in known:
        known |= {str(found) for path in paths if (found := read_record(path)["settings"].get("recipe"))}
    if recipe not in known:
        raise ValueError(f"with_recipe={recipe!r}; expected one of {', '.join(sorted(known))}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _table(records: list[dict[str, Any]], table: str, format: str, recipe: str) -> str | None:
    """One of ``TABLES``; None if there is nothing to put in it."""
    from morphnet.report.comparison import control_lines, paper_lines, runs_of
    from morphnet.report.comparison_table import control_foot, format_controls, format_paper
    from morphnet.report.first_steps import format_first_steps
    from morphnet.report.table import caption, format_rows, left_out, tabulate

    if table == "runs":
        rows = format_rows(tabulate(records), format)  # type: ignore[arg-type]
        below = {"text": caption(records), "markdown": left_out(records)}.get(format)
        return f"{rows}\n\n{below}" if below else rows
    if table == "controls":
        lines = control_lines(runs_of(records))
        if not lines:
            return None
        rows = format_controls(lines, format)  # type: ignore[arg-type]
        foot = control_foot(lines) if format in ("text", "markdown") else []
        return "\n\n".join([rows, "\n".join(foot)]) if foot else rows
    if table == "first_steps":
        watched = _watched(records)
        return format_first_steps(watched, format) if watched else None  # type: ignore[arg-type]
    return format_paper(paper_lines(runs_of(records), int(table), recipe), format)  # type: ignore[arg-type]


def _has_runs_of(records: list[dict[str, Any]], table: int, recipe: str) -> bool:
    """Whether any of ``records`` is of a row of that table of the paper."""
    from morphnet.report.comparison import paper_lines, runs_of

    return any(line.runs for line in paper_lines(runs_of(records), table, recipe))


def _write(records: list[dict[str, Any]], output: Path, recipe: str) -> None:
    """All tables in every format, the figures, and the page, into ``output``."""
    from morphnet.report.comparison import paper_lines, runs_of
    from morphnet.report.figures import TITLES, draw_cost, draw_curves, draw_rows
    from morphnet.report.first_steps import draw_first_steps
    from morphnet.report.page import write_page
    from morphnet.report.picture import save_picture
    from morphnet.report.table import tabulate
    from morphnet.report.variants import SEED
    from morphnet.store import write_whole

    output.mkdir(parents=True, exist_ok=True)
    written = []
    for table in TABLES:
        for format, suffix in SUFFIXES.items():
            found = _table(records, table, format, recipe)
            if found is not None:
                written.append(output / f"{f'table{table}' if table.isdigit() else table}.{suffix}")
                write_whole(written[-1], (found + "\n").encode())
    runs = runs_of(records)
    for number in TITLES:
        lines = paper_lines(runs, number, recipe)
        if any(line.runs for line in lines):
            written += save_picture(draw_cost(lines), output / f"cost_table{number}")
    for key in dict.fromkeys(run.key for run in runs):
        group = [run for run in runs if run.key == key]
        variants = {run.key[1] for run in runs if run.key[0] == key[0]}
        folder = next(iter(group[0].phases.values()))["file"].parents[2].name
        name = f"curves_{key[0].replace('/', '_')}" + (f"_{SEED.sub('', folder)}" if len(variants) > 1 else "")
        if any(record.get("history") for run in group for record in run.phases.values()):
            written += save_picture(draw_curves(group), output / name)
    watched = _watched(records)
    if watched:
        written += save_picture(draw_first_steps(watched), output / "first_steps")
    written += save_picture(draw_rows(tabulate(records)), output / "cost")
    write_page(records, output / "report.html", recipe)
    written.append(output / "report.html")
    _say(f"{len(written)} files in {output}")


def _watched(records: list[dict[str, Any]]) -> list[FirstSteps]:
    """The phases of ``records`` whose first steps were watched."""
    from morphnet.report.first_steps import read_first_steps

    found = [read_first_steps(record, record["file"]) for record in records]
    return [steps for steps in found if steps is not None]


def find_records(pattern: str) -> list[Path]:
    """The records that ``pattern`` matches, or that lie in the folders it matches.

    A parent that runs share is no run: its record stands in each of them.
    """
    from morphnet.report.record import PHASE_FILE

    found: set[Path] = set()
    for match in map(Path, glob.glob(pattern, recursive=True)):
        found.update(match.glob("**/record.json") if match.is_dir() else [match] * (match.name == "record.json"))
    return sorted((path for path in found if not path.with_name(PHASE_FILE).exists()), key=_in_order)


def _in_order(path: Path) -> tuple[Path, int, str]:
    """By run, and of a run by the number of the phase: ``2_1c1`` before ``10_random``."""
    number = path.parent.name.partition("_")[0]
    return path.parent.parent, int(number) if number.isdigit() else -1, path.parent.name
