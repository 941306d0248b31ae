"""The records of a run or a sweep as one HTML page that needs nothing beside it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from morphnet.report.comparison import Run, control_lines, paper_lines, runs_of
from morphnet.report.comparison_table import control_columns, control_foot, paper_columns
from morphnet.report.figures import TITLES, draw_cost, draw_curves, draw_rows
from morphnet.report.first_steps import draw_first_steps, first_steps_columns, read_first_steps
from morphnet.report.modules import draw_morph, proof_lines
from morphnet.report.table import columns, is_numeric, left_out, tabulate
from morphnet.store.files import write_whole

#: Colours of figures, and the name under which the page has one for light and one for dark.
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
#: What rows of one run have in common.
GROUPED = ("experiment", "settings")
_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2937; --muted: #6b7280; --rule: #e5e7eb;
  --band: #f6f7f9; --node: #dbeafe;
  --blue: #1d4ed8; --red: #c2410c; --green: #15803d; --violet: #7e22ce; --cyan: #0e7490; --pink: #be185d;
  --ochre: #a16207; --olive: #4d7c0f; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e5e7eb; --muted: #9ca3af; --rule: #2f3640;
  --band: #1b2027; --node: #1e3a5f; --blue: #7aa2ff; --red: #ff9a62; --green: #5fd38a; --violet: #c79bff;
  --cyan: #5ccfe6; --pink: #ff8ac0; --ochre: #e0b34f; --olive: #b3d65c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, .note { color: var(--muted); margin: .25rem 0 1rem; max-width: 60rem; }
a { color: var(--blue); }
.wide { overflow-x: auto; margin: .5rem 0; border: 1px solid var(--rule); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--rule); }
tr:last-child td { border-bottom: 0; } th { background: var(--band); font-weight: 600; }
tbody td:first-child { white-space: normal; min-width: 7rem; } .group th { white-space: normal; padding-top: .8rem; }
.group small { color: var(--muted); font-weight: 400; }
td.number, th.number { text-align: right; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }
figure { margin: 0; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 24rem; height: auto; max-height: 40rem; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
figcaption { color: var(--muted); font-size: .875rem; }
details { border: 1px solid var(--rule); border-radius: 6px; margin: .75rem 0; padding: 0 1rem; }
summary { cursor: pointer; padding: .6rem 0; font-weight: 600; }
details > :last-child { margin-bottom: 1rem; }
pre { overflow-x: auto; background: var(--band); padding: .75rem; border-radius: 6px; font-size: .8rem; }
.good { color: var(--green); } .bad { color: var(--red); font-weight: 600; }
nav { font-size: .9rem; } nav a { margin-right: 1rem; }
@media (max-width: 40rem) { body { padding: 1rem .6rem 3rem; } table { font-size: .8rem; }
  th, td { padding: .3rem .4rem; } figure svg { min-width: 0; } }
@media print { body { max-width: none; padding: 0; font-size: 11px; } nav { display: none; }
  pre, .wide { overflow: visible; white-space: pre-wrap; } .wide, figure { break-inside: avoid; }
  h2, h3, summary, .note { break-after: avoid; } h2 { margin-top: 1.5rem; }
  th, td { white-space: normal; padding: .2rem .4rem; }
  .figures { display: block; } figure svg { max-height: 9cm; width: auto; max-width: 100%; }
  details::details-content { content-visibility: visible; } details pre { columns: 3; font-size: 8px; } }
"""


def render_page(records: Sequence[dict[str, Any]], recipe: str = "paper") -> str:
    """The page of ``records``, each with its ``file``, beside which its proof and its configuration are looked for.

    Tables, figures, each module before and after its morph, proofs, lineage, configuration and environment; no script,
    nothing loaded from elsewhere.
    """
    runs = runs_of(records)
    watched, damaged = [], []
    for record in records:
        try:
            found = read_first_steps(record, record["file"])
        except ValueError as error:
            damaged.append(str(error))
        else:
            watched += [found] if found is not None else []
    names = list(dict.fromkeys(run.key[0] for run in runs))
    results = " ".join(filter(None, (_RESULTS, left_out(records))))
    parts = [_section("results", "Results", _table(*columns(tabulate(records)), GROUPED), results)]
    controls = control_lines(runs)
    if controls:
        links = [_links(line.records) for line in controls]
        body = _table(*control_columns(controls, "text"), GROUPED, links)
        note = " ".join([_CONTROLS, *control_foot(controls)])
        parts.append(_section("controls", "Beside their controls", body, note))
    for number, title in TITLES.items():
        lines = paper_lines(runs, number, recipe)
        if any(line.runs for line in lines):
            measured = [line for line in lines if line.runs]
            links = [_links([run.record for run in line.runs]) for line in measured]
            body = _table(*paper_columns(measured, "text"), links=links)
            drawn = _figure(draw_cost(lines), f"table{number}", "The paper's rows hollow, measured ones filled.")
            parts.append(_section(f"table{number}", f"Table {number} of the paper, {title}", body + drawn, _PAPER))
    figures = [_figure(draw_rows(tabulate(records)), "cost", "Error against cost, every network of the table above.")]
    for i, key in enumerate(dict.fromkeys(run.key for run in runs)):
        group = [run for run in runs if run.key == key]
        if any(record.get("history") for run in group for record in run.phases.values()):
            figures.append(_figure(draw_curves(group), f"curves{i}", f"Error over training: {group[0].title}."))
    parts.append(_section("figures", "Figures", f'<div class="figures">{"".join(figures)}</div>'))
    if watched:
        body = _table(*first_steps_columns(watched), GROUPED) + _figure(draw_first_steps(watched), "first", "")
        parts.append(_section("first-steps", "First steps after a morph", body))
    if damaged:
        body = "".join(f'<p class="bad">{escape(message)}</p>' for message in damaged)
        parts.append(_section("damaged", "What could not be read", body))
    parts.append(_section("runs", "Runs", "".join(_run(run, open_=len(runs) == 1) for run in runs)))
    contents = "".join(f'<a href="#{i}">{escape(t)}</a>' for i, t in _HEADING.findall("".join(parts)))
    title = names[0] if len(names) == 1 else f"{len(names)} experiments"
    finished = (
        max((str(r.get("finished") or "") for r in records), default="").replace("T", " ").replace("+00:00", " UTC")
    )
    said = f"{len(runs)} run{'s' if len(runs) > 1 else ''} of morphnet" + (
        f", the last one done {finished}" * bool(finished)
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · morphnet</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1><p>{escape(said)}</p><nav>{contents}</nav>\n{''.join(parts)}</body></html>\n"
    )


_HEADING = re.compile(r'<section id="([^"]+)"><h2>([^<]+)</h2>')
_RESULTS = (
    "Error at the end of training, mean and deviation over seeds; “at start” is before the phase's first step. FLOP "
    "are multiply-accumulates, “rel.” over the parent's."
)
_CONTROLS = (
    "Every child, and below it its controls. “Over the child” is the control's error minus the child's on the same "
    "seed: above zero, the child is better."
)
_PAPER = "Rows that were run; improvement is the parent's error minus the child's, in points."


def _section(anchor: str, title: str, body: str, note: str = "") -> str:
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{said}{body}</section>\n'


def _table(
    header: Sequence[str],
    body: Sequence[Sequence[str]],
    grouped: Sequence[str] = (),
    links: Sequence[str] = (),
) -> str:
    """A table; what stands under ``grouped`` is a heading above the rows that share it, where they differ.

    Args:
        links: HTML of a last column, one for each row.
    """
    numeric = [is_numeric([row[i] for row in body]) for i in range(len(header))]
    first = [i for i, name in enumerate(header) if name in grouped]
    rest = [i for i in range(len(header)) if i not in first]
    kinds = {i: ' class="number"' if numeric[i] else "" for i in rest}
    head = "".join(f"<th{kinds[i]}>{escape(header[i])}</th>" for i in rest) + "<th>records</th>" * bool(links)
    rows, before = [], None
    for row, link in zip(body, links or [""] * len(body), strict=True):
        group = [row[i] for i in first]
        if group != before and first:
            said = escape(group[0]) + "".join(f" <small>{escape(text)}</small>" for text in group[1:] if text)
            rows.append(f'<tr class="group"><th colspan="{len(rest) + bool(links)}">{said}</th></tr>')
        before = group
        cells = "".join(f"<td{kinds[i]}>{escape(row[i])}</td>" for i in rest) + f"<td>{link}</td>" * bool(links)
        rows.append(f"<tr>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _anchor(record: dict[str, Any]) -> str:
    """The id of a phase on the page."""
    file = record["file"]
    return "phase-" + re.sub(r"\W+", "-", f"{record['experiment']}-{file.parents[2].name}-{file.parent.name}")


def _links(records: Sequence[dict[str, Any]]) -> str:
    """To the phases of ``records``, further down."""
    return " ".join(f'<a href="#{_anchor(record)}">seed {record["seed"]}</a>' for record in records)


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{v}</td></tr>" for k, v in pairs)
    return f'<div class="wide"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _figure(figure: Figure, name: str, caption: str) -> str:
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{to_inline_svg(figure, name)}{said}</figure>"


def to_inline_svg(figure: Figure, name: str) -> str:
    """``figure`` as SVG for a page: its ids begin with ``name``, its colours follow the page's."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="', f' id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    for colour, shown in _COLOURS.items():
        text = text.replace(colour, shown)
    text = re.sub(r"<text(?![^>]*fill)", '<text fill="currentColor"', text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*pt"', r"\1", text, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", text, count=1)


# --- one run ---


def _run(run: Run, open_: bool) -> str:
    records = list(run.phases.values())
    first = records[0]
    folder = first["file"].parents[2]
    title = f"{run.title}, seed {run.seed}"
    body = "".join(_phase(record) for record in records)
    config = folder / "config.yaml"
    if config.is_file():
        text = config.read_text(encoding="utf-8", errors="replace")
        body += f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>"
    body += f"<details><summary>Environment</summary>{_environment(first)}</details>"
    return f"<details{' open' if open_ else ''}><summary>{escape(title)}</summary>{body}</details>"


def _phase(record: dict[str, Any]) -> str:
    counted = f"{_count(record.get('errors'))} of {_count(record['data'].get('images'))}"
    facts = [
        ("error", f"{100 * record['error']:.2f} % ({counted})"),
        ("before its first step", f"{100 * record['start_error']:.2f} %"),
        ("trained for", f"{record['steps']:,} iterations" if record["steps"] else "given, not trained"),
        ("cost", f"{record['macs']:,} multiply-accumulates, {record['parameters']:,} parameters" + _collapsed(record)),
        ("network", _lineage(record)),
    ]
    text = f'<h3 id="{_anchor(record)}">{escape(str(record["label"]))}</h3>' + _pairs(
        (k, v if k == "network" else escape(v)) for k, v in facts
    )
    report = record["file"].with_name("morph_report.json")
    if report.is_file():
        try:
            found = json.loads(report.read_text())
            text += _morph(found, f"m{record['index']}s{record['seed']}{record['file'].parents[2].name}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            text += f'<p class="bad">the report of the morph is damaged: {escape(str(error))}</p>'
    return text


def _collapsed(record: dict[str, Any]) -> str:
    macs = record.get("collapsed_macs")
    return "" if macs is None else f"; {macs:,} multiply-accumulates with its modules as one convolution each"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _lineage(record: dict[str, Any]) -> str:
    """Every network from the first to this one, by its name if it has one and the beginning of its hash."""
    found = record.get("lineage") or {}
    steps = [step for ancestor in found.get("ancestors") or [] for step in _steps(ancestor)]
    hashed = f"<small>{escape(str(found.get('network', ''))[:8])}</small>"
    chain = " → ".join([*steps, f"<b>{escape(str(record['phase']))}</b> {hashed}"])
    return f"{chain}<br><small>began as {escape(str(found.get('start', ''))[:8])}; beginnings of sha256</small>"


def _steps(ancestor: dict[str, Any]) -> list[str]:
    """An ancestor, and how it was changed outside of a run."""
    name, hashed = str(ancestor.get("phase") or ancestor.get("source") or ""), str(ancestor.get("network") or "")[:8]
    steps = [f"{escape(name)} <small>{escape(hashed)}</small>".strip()]
    if ancestor.get("morph"):
        steps.append(f"morph {escape(str(ancestor['morph']))}")
    if ancestor.get("new_head"):
        steps.append(f"new head for {escape(str(ancestor['new_head']))} classes")
    return [*steps, "collapse"] if "collapse" in ancestor else steps


def _morph(report: dict[str, Any], name: str) -> str:
    verdict = '<span class="good">passed</span>' if report["passed"] else '<span class="bad">failed</span>'
    facts = [("proof", f"{verdict} on {escape(str(report['inputs']))}")]
    facts += [(label, escape(found)) for label, found in proof_lines(report)]
    facts.append(("settings", escape(f"bn={report['bn']}, padding={report['padding']}, method={report['method']}")))
    drawn = draw_morph(report)
    shown = "" if drawn is None else _figure(drawn, re.sub(r"\W", "", name), "Before the morph and after it.")
    return _pairs(facts) + shown


def _environment(record: dict[str, Any]) -> str:
    commit = record.get("commit") or {}
    hardware, versions = record.get("hardware") or {}, record.get("versions") or {}
    command = " ".join(str(part) for part in record.get("command") or [])
    schedule = json.dumps(record["schedule"]) if record.get("schedule") else "none: the network was given"
    commit_said = f"{commit.get('hash', '')}{' with uncommitted changes' if commit.get('dirty') else ''}"
    facts = [
        ("command", f"<code>{escape(command)}</code>"),
        ("commit", escape(commit_said)),
        ("hardware", escape(", ".join(f"{k} {v}" for k, v in hardware.items()))),
        ("software", escape(", ".join(f"{k} {v}" for k, v in versions.items()))),
        ("data", escape(json.dumps(record["data"]))),
        ("optimisation", escape(json.dumps(record.get("optimisation")))),
        ("schedule", escape(schedule)),
    ]
    return _pairs(facts)


def write_page(records: Sequence[dict[str, Any]], path: Path, recipe: str = "paper") -> None:
    """Writes the page to ``path``."""
    text = render_page(records, recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode(errors="replace"))  # a command may hold names that are no text
