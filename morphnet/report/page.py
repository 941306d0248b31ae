"""The records of a run or a sweep as one HTML page that needs no other file."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure

from morphnet.report.comparison import Run, control_lines, paper_lines, runs_of
from morphnet.report.comparison_table import control_foot, controls_table, paper_table
from morphnet.report.figures import TITLES, draw_cost, draw_curves, draw_rows
from morphnet.report.first_steps import draw_first_steps, first_steps_table, read_first_steps
from morphnet.report.modules import draw_morph, proof_lines
from morphnet.report.record import Record, names_of
from morphnet.report.table import RECORDS, Table, is_numeric, left_out, rows_of, runs_table
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
CONTROLS = (
    "Every child, and below it its controls. “Over the child” is the control's error minus the child's on the same "
    "seed: above zero, the child is better."
)
PAPER_ROWS = "Rows that were run; improvement is the parent's error minus the child's, in points."


@dataclass(frozen=True)
class _Drawing:
    svg: Markup
    caption: str


@dataclass(frozen=True)
class _Grid:
    """A table for the template.

    Attributes:
        numeric: of each column, whether it stands to the right.
        rows: the heading that a row shares with its neighbours, its cells, and the records it links to.
        linked: whether there is a column of links.
    """

    header: list[str]
    numeric: list[bool]
    rows: list[tuple[list[str], list[str], Sequence[Record]]]
    linked: bool


@dataclass(frozen=True)
class _Section:
    anchor: str
    title: str
    note: str = ""
    table: _Grid | None = None
    figures: Sequence[_Drawing] = ()
    messages: Sequence[str] = ()


def render_page(records: Sequence[Record], recipe: str = "paper") -> str:
    """The page of ``records``, with the proofs and configurations beside their files.

    Tables, figures, each module before and after its morph, proofs, lineage, configuration and environment; no script,
    nothing loaded from elsewhere.
    """
    runs = runs_of(records)
    experiments = list(dict.fromkeys(run.key[0] for run in runs))
    return _template().render(
        title=experiments[0] if len(experiments) == 1 else f"{len(experiments)} experiments",
        finished=max(record.finished for record in records).replace("T", " ").replace("+00:00", " UTC"),
        sections=_sections(records, runs, recipe),
        runs=[_run(run) for run in runs],
        anchor=_anchor,
    )


def write_page(records: Sequence[Record], path: Path, recipe: str = "paper") -> None:
    """Writes the page to ``path``."""
    text = render_page(records, recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode(errors="replace"))  # a command may hold names that are not valid text


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")


def _sections(records: Sequence[Record], runs: Sequence[Run], recipe: str) -> list[_Section]:
    rows = rows_of(records)
    note = f"{RESULTS} {left_out(records)}".strip()
    sections = [_Section("results", "Results", note, _grid(runs_table(rows), GROUPED))]
    controls = control_lines(runs)
    if controls:
        table = _grid(controls_table(controls), GROUPED, [line.records for line in controls])
        note = " ".join([CONTROLS, *control_foot(controls)])
        sections.append(_Section("controls", "Beside their controls", note, table))
    for number, title in TITLES.items():
        lines = paper_lines(runs, number, recipe)
        measured = [line for line in lines if line.runs]
        if measured:
            table = _grid(paper_table(measured), links=[[run.record for run in line.runs] for line in measured])
            drawing = _drawing(draw_cost(lines), f"table{number}", "The paper's rows hollow, measured ones filled.")
            title = f"Table {number} of the paper, {title}"
            sections.append(_Section(f"table{number}", title, PAPER_ROWS, table, [drawing]))
    drawings = [_drawing(draw_rows(rows), "cost", "Error against cost, every network of the table above.")]
    for i, key in enumerate(dict.fromkeys(run.key for run in runs)):
        group = [run for run in runs if run.key == key]
        if any(record.history for run in group for record in run.phases.values()):
            drawings.append(_drawing(draw_curves(group), f"curves{i}", f"Error over training: {group[0].title}."))
    sections.append(_Section("figures", "Figures", figures=drawings))
    return sections + _watched(records)


def _watched(records: Sequence[Record]) -> list[_Section]:
    """The first steps of phases that were watched, and the files of those that are damaged."""
    watched, damaged = [], []
    for record, name in zip(records, names_of(records), strict=True):
        try:
            steps = read_first_steps(record, name)
        except ValueError as error:
            damaged.append(str(error))
        else:
            watched += [steps] if steps is not None else []
    sections = []
    if watched:
        table, drawing = _grid(first_steps_table(watched), GROUPED), _drawing(draw_first_steps(watched), "first", "")
        sections.append(_Section("first-steps", "First steps after a morph", table=table, figures=[drawing]))
    if damaged:
        sections.append(_Section("damaged", "What could not be read", messages=damaged))
    return sections


def _grid(table: Table, grouped: Sequence[str] = (), links: Sequence[Sequence[Record]] = ()) -> _Grid:
    """``table`` with the columns ``grouped`` as headings, and for each row the records to link to."""
    table = table.without(RECORDS)
    rest = table.without(*grouped)
    headings = table.without(*rest.header).cells
    numeric = [is_numeric([line[i] for line in rest.cells]) for i in range(len(rest.header))]
    records = links or [()] * len(table.cells)
    return _Grid(rest.header, numeric, list(zip(headings, rest.cells, records, strict=True)), bool(links))


def _anchor(record: Record) -> str:
    """The id of a phase on the page."""
    return "phase-" + re.sub(r"\W+", "-", f"{record.experiment}-{record.run_dir.name}-{record.file.parent.name}")


def _drawing(figure: Figure, name: str, caption: str) -> _Drawing:
    """``figure`` as SVG for a page; its colours follow the page's, and no other ``name`` has the same ids."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = re.sub(r' id="[a-z0-9.]+_\d+"', "", text[text.index("<svg") :])  # these are the same in every figure
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    return _Drawing(Markup(text), caption)


# --- one run ---


def _run(run: Run) -> dict[str, Any]:
    records = list(run.phases.values())
    config = run.first.run_dir / "config.yaml"
    return {
        "title": run.title,
        "seed": run.seed,
        "phases": [_phase(record, name) for record, name in zip(records, names_of(records), strict=True)],
        "configuration": config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None,
        "environment": _environment(run.first),
    }


def _phase(record: Record, name: str) -> dict[str, Any]:
    cost = f"{record.macs:,} multiply-accumulates, {record.parameters:,} parameters"
    if record.collapsed_macs is not None:
        cost += f"; {record.collapsed_macs:,} multiply-accumulates with its modules as one convolution each"
    facts = [
        ("error", f"{100 * record.error:.2f} % ({record.errors:,} of {record.data.images:,})"),
        ("before its first step", f"{100 * record.start_error:.2f} %"),
        ("trained for", f"{record.steps:,} iterations" if record.steps else "given, not trained"),
        ("cost", cost),
        ("network", _lineage(record)),
    ]
    phase: dict[str, Any] = {"record": record, "name": name, "facts": facts, "proof": [], "module": None, "damage": ""}
    report = record.file.with_name("morph_report.json")
    if report.is_file():
        try:
            phase |= _morph(json.loads(report.read_text()), _anchor(record))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            phase["damage"] = str(error)
    return phase


def _lineage(record: Record) -> Markup:
    """Every network from the first to this one, by its name if it has one and the beginning of its hash."""
    steps = [step for ancestor in record.lineage.ancestors for step in _steps(ancestor)]
    own = Markup("<b>{}</b> <small>{}</small>").format(record.phase, record.lineage.network[:8])
    begin = Markup("<br><small>began as {}; beginnings of sha256</small>").format(record.lineage.start[:8])
    return Markup(" → ").join([*steps, own]) + begin


def _steps(ancestor: Mapping[str, Any]) -> list[str]:
    """An ancestor, and how it was changed outside of a run."""
    name, hashed = ancestor.get("phase") or ancestor.get("source") or "", str(ancestor.get("network") or "")[:8]
    steps: list[str] = [Markup("{} <small>{}</small>").format(name, hashed).strip()]
    if ancestor.get("morph"):
        steps.append(f"morph {ancestor['morph']}")
    if ancestor.get("new_head"):
        steps.append(f"new head for {ancestor['new_head']} classes")
    return [*steps, "collapse"] if "collapse" in ancestor else steps


def _morph(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    verdict = Markup('<span class="{}">{}</span>').format(
        *(("good", "passed") if report["passed"] else ("bad", "failed"))
    )
    facts = [("proof", verdict + f" on {report['inputs']}"), *proof_lines(dict(report))]
    facts.append(("settings", f"bn={report['bn']}, padding={report['padding']}, method={report['method']}"))
    drawn = draw_morph(dict(report))
    module = None if drawn is None else _drawing(drawn, name, "Before the morph and after it.")
    return {"proof": facts, "module": module}


def _environment(record: Record) -> list[tuple[str, str]]:
    commit = record.commit
    return [
        ("command", Markup("<code>{}</code>").format(" ".join(record.command))),
        ("commit", "" if commit is None else commit.hash + " with uncommitted changes" * commit.dirty),
        ("hardware", ", ".join(f"{key} {value}" for key, value in record.hardware.items())),
        ("software", ", ".join(f"{key} {value}" for key, value in record.versions.items())),
        ("data", json.dumps(asdict(record.data))),
        ("optimisation", json.dumps(record.optimisation)),
        ("schedule", json.dumps(record.schedule) if record.schedule else "none: the network was given"),
    ]
