"""The records of a run or a sweep as one HTML page that needs no other file."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from morphnet.report.comparison import Run
from morphnet.report.comparison_table import control_foot, paper_table
from morphnet.report.contents import Report
from morphnet.report.figures import TITLES
from morphnet.report.modules import draw_morph, proof_lines
from morphnet.report.record import Record, names_of
from morphnet.report.table import RECORDS, Table, is_numeric, left_out
from morphnet.store.files import write_whole

#: Colours of figures, and the page's variables for them, which have values for light and dark.
_COLOURS = {
    "#000000": "currentColor",
    "#404040": "currentColor",
    "#ffffff": "var(--paper)",
    "#dbeafe": "var(--node)",
    "#e5e7eb": "var(--rule)",
    "#6b7280": "var(--muted)",
    "#1d4ed8": "var(--blue)",
    "#c2410c": "var(--red)",
    "#15803d": "var(--green)",
    "#7e22ce": "var(--violet)",
    "#0e7490": "var(--cyan)",
    "#be185d": "var(--pink)",
    "#a16207": "var(--ochre)",
    "#4d7c0f": "var(--olive)",
}
#: Columns that become a heading above the rows that share them.
GROUPED = ("experiment", "settings")
RESULTS = (
    "Error at the end of training, mean and deviation over seeds; “at start” is before the phase's first step. FLOP "
    "are multiply-accumulates, “rel.” over the parent's."
)
CONTROLS = "Every child, and below it its controls."
PAPER_ROWS = "Rows that were run; improvement is the parent's error minus the child's, in points."


def render_page(report: Report) -> str:
    """The page of a report, with the proofs and configurations beside the files of its records.

    Tables, figures, each module before and after its morph, proofs, lineage, configuration and environment; no script,
    nothing loaded from elsewhere.
    """
    experiments = list(dict.fromkeys(record.experiment for record in report.records))
    loader = FileSystemLoader(Path(__file__).parent)
    options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, **options)  # type: ignore[arg-type]
    return environment.get_template("page.html").render(
        title=experiments[0] if len(experiments) == 1 else f"{len(experiments)} experiments",
        finished=max(record.finished for record in report.records).replace("T", " ").replace("+00:00", " UTC"),
        sections=_sections(report),
        damaged=report.first_steps[1],
        runs=report.runs,
        names_of=names_of,
        anchor=_anchor,
        configuration=_configuration,
        proof=_proof,
    )


def write_page(report: Report, path: Path) -> None:
    """Writes the page to ``path``."""
    text = render_page(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode(errors="replace"))  # a command may hold names that are not valid text


def _sections(report: Report) -> list[dict[str, Any]]:
    """Tables with their figures, in the order of the page."""
    drawings = {name: (_inline_svg(figure, name), caption) for name, figure, caption in report.figures()}

    def section(anchor: str, title: str, note: str = "", figures: Sequence[str] = (), **table: Any) -> dict[str, Any]:
        drawn = [drawings.pop(name) for name in figures]
        return {"anchor": anchor, "title": title, "note": note, "figures": drawn, "table": table}

    note = f"{RESULTS} {left_out(report.records)}".strip()
    sections = [section("results", "Results", note, **_grid(report.table("runs"), GROUPED))]
    if report.controls:
        note = " ".join([CONTROLS, *control_foot(report.controls)])
        grid = _grid(report.table("controls"), GROUPED, [line.records for line in report.controls])
        sections.append(section("controls", "Beside their controls", note, **grid))
    for number, lines in report.paper.items():
        measured = [line for line in lines if line.runs]
        if measured:
            grid = _grid(paper_table(measured), links=[[run.record for run in line.runs] for line in measured])
            title = f"Table {number} of the paper, {TITLES[number]}"
            sections.append(section(f"table{number}", title, PAPER_ROWS, [f"cost_table{number}"], **grid))
    watched = []
    if report.first_steps[0]:
        grid = _grid(report.table("first_steps"), GROUPED)
        watched = [section("first-steps", "First steps after a morph", figures=["first_steps"], **grid)]
    return [*sections, section("figures", "Figures", figures=["cost", *(d for d in drawings if d != "cost")]), *watched]


def _grid(table: Table, grouped: Sequence[str] = (), links: Sequence[Sequence[Record]] = ()) -> dict[str, Any]:
    """``table`` for the template: the columns ``grouped`` become headings, and each row links to its records."""
    table = table.without(RECORDS)
    rest = table.without(*grouped)
    headings = table.without(*rest.header).cells
    numeric = [is_numeric([line[i] for line in rest.cells]) for i in range(len(rest.header))]
    rows = list(zip(headings, rest.cells, links or [()] * len(table.cells), strict=True))
    return {"header": rest.header, "numeric": numeric, "rows": rows, "linked": bool(links)}


def _anchor(record: Record) -> str:
    """The id of a phase on the page."""
    return "phase-" + re.sub(r"\W+", "-", f"{record.experiment}-{record.run_dir.name}-{record.file.parent.name}")


def _inline_svg(figure: Figure, name: str) -> Markup:
    """``figure`` as SVG whose colours follow the page's; ids are unique as long as names are."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = re.sub(r' id="[a-z0-9.]+_\d+"', "", text[text.index("<svg") :])  # these are the same in every figure
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    return Markup(text)


def _configuration(run: Run) -> str | None:
    config = run.first.run_dir / "config.yaml"
    return config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None


def _proof(record: Record) -> dict[str, Any] | None:
    """The report of the morph that a phase began with: its proof and module, or how it is damaged; None without one."""
    path = record.file.with_name("morph_report.json")
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_text())
        keys = ("passed", "inputs", "bn", "padding", "method")
        figure = draw_morph(report)
        module = None if figure is None else _inline_svg(figure, _anchor(record))
        return {"damage": "", "lines": proof_lines(report), "module": module, **{key: report[key] for key in keys}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {"damage": str(error)}
