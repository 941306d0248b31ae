"""Records as a table: one row for each network, with mean and standard deviation over seeds."""

from __future__ import annotations

import csv
import io
import json
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Format = Literal["text", "markdown", "csv", "latex", "json"]
FORMATS = ("text", "markdown", "csv", "latex", "json")
#: Characters of a table, from which on its headers are broken.
WIDE = 160
#: What is said where nobody knows which of two runs counts.
TWICE = "{experiment}, phase {phase}: the same seed stands in several runs; name one with records="
#: In the place of its steps, of a network that was not trained here.
GIVEN = "given"
#: Of a linear control, the FLOP with its modules as one convolution each.
COLLAPSED = "collapsed FLOP (million)"
Cells = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Row:
    """One network of one experiment, over all its seeds.

    Errors are fractions. ``error_deviation`` is the sample standard deviation, None for one seed; ``views_error_mean``
    and its deviation are over ten views of each image, None where they were not taken. ``relative_macs`` is over the
    parent's; ``collapsed_macs`` is of a linear control whose modules were collapsed, None of others. ``settings``: what
    tells the row from others of its experiment, if it was run in several ways.
    """

    experiment: str
    settings: str
    network: str
    role: str
    seeds: tuple[int, ...]
    error_mean: float
    error_deviation: float | None
    views_error_mean: float | None
    views_error_deviation: float | None
    start_error_mean: float
    evaluated_on: str
    macs: int
    relative_macs: float | None
    collapsed_macs: int | None
    parameters: int
    steps: int
    images_per_second: float | None
    seconds: float


def tabulate(records: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows of ``records``: those of one experiment, phase and setting are averaged over their seeds.

    Raises:
        ValueError: two records are of the same experiment, phase and seed but of different runs.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    seen = set()
    for record in records:
        made = (*_key(record), record["seed"], record.get("lineage", {}).get("network"))
        if made[-1] is None or made not in seen:  # the same run in two folders is one
            groups.setdefault(_key(record), []).append(record)
        seen.add(made)
    parents = {_key(r)[:2]: r["macs"] for r in records if r["role"] == "parent"}
    rows = []
    for key, group in groups.items():
        group.sort(key=lambda record: record["seed"])
        seeds = tuple(record["seed"] for record in group)
        if len(set(seeds)) < len(seeds):
            raise ValueError(TWICE.format(experiment=key[0], phase=group[0]["phase"]))
        errors = [record["error"] for record in group]
        over_views = [record["views"]["error"] for record in group if record.get("views")]
        over_views = over_views if len(over_views) == len(group) else []
        speeds = [record["images_per_second"] for record in group if record["images_per_second"]]
        first = group[0]
        rows.append(
            Row(
                experiment=first["experiment"],
                settings=first.get("told_apart", ""),
                network=first["label"],
                role=first["role"],
                seeds=seeds,
                error_mean=statistics.fmean(errors),
                error_deviation=statistics.stdev(errors) if len(errors) > 1 else None,
                views_error_mean=statistics.fmean(over_views) if over_views else None,
                views_error_deviation=statistics.stdev(over_views) if len(over_views) > 1 else None,
                start_error_mean=statistics.fmean(record["start_error"] for record in group),
                evaluated_on=first["data"]["evaluated_on"],
                macs=first["macs"],
                relative_macs=first["macs"] / parents[key[:2]] if key[:2] in parents else None,
                collapsed_macs=first.get("collapsed_macs"),
                parameters=first["parameters"],
                steps=first["steps"],
                images_per_second=statistics.fmean(speeds) if speeds else None,
                seconds=sum(record["seconds"] for record in group),
            )
        )
    return rows


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    """Records of one key differ in their seed alone."""
    return (record["experiment"], record["settings"].get("variant", ""), record["index"], record["phase"])


def columns(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and what a person reads: per cent, million, ``x``. The error is that of the last epoch.

    There is a column for ten views and one for collapsed FLOP if any row has them, and one for settings if an
    experiment was run in several ways.
    """
    views = any(row.views_error_mean is not None for row in rows)
    settings = any(row.settings for row in rows)
    collapsed = any(row.collapsed_macs is not None for row in rows)
    header = ["experiment", *(["settings"] if settings else []), "network", "seeds", "error %"]
    header += [*(["10-view error %"] if views else []), "at start %"]
    header += ["FLOP (million)", "rel. FLOP", *([COLLAPSED] if collapsed else []), "parameters", "steps", "images/s"]
    written = []
    for row in rows:
        over_views = [with_deviation(row.views_error_mean, row.views_error_deviation)] if views else []
        written.append(
            [
                row.experiment,
                *([row.settings] if settings else []),
                row.network,
                str(len(row.seeds)),
                with_deviation(row.error_mean, row.error_deviation),
                *over_views,
                f"{100 * row.start_error_mean:.2f}",
                millions(row.macs),
                "" if row.relative_macs is None else f"{row.relative_macs:.2f}x",
                *([millions(row.collapsed_macs)] if collapsed else []),
                f"{row.parameters:,}",
                f"{row.steps:,}" if row.steps else GIVEN,
                "" if row.images_per_second is None else f"{row.images_per_second:,.0f}",
            ]
        )
    return header, written


def caption(records: Sequence[dict[str, Any]]) -> str:
    """What the errors of a table are of, and what was left out of them."""
    images: dict[str, set[str]] = {}
    for r in records:
        what = f"{r['data']['name']}, {r['data']['images']:,} {r['data']['evaluated_on']} images"
        images.setdefault(what, set()).add(" ".join(filter(None, (r["experiment"], r.get("told_apart")))))
    listed = [f"{what} ({', '.join(sorted(of))})" if images.keys() - {what} else what for what, of in images.items()]
    said = f"Error at the end of training, on {'; '.join(sorted(listed))}; mean ± deviation over seeds."
    return "\n".join(filter(None, (said, left_out(records))))


def left_out(records: Sequence[dict[str, Any]]) -> str:
    """How many images could not be read, by experiment; empty where all could."""
    counts: dict[str, int] = {}
    for record in records:
        name = record["experiment"]
        counts[name] = max(counts.get(name, 0), record["data"].get("unreadable") or 0)
    said = [f"up to {count:,} in a phase of {name}" for name, count in counts.items() if count]
    return (
        f"Images that could not be read: {', '.join(said)} (unreadable.txt in its folder names them)." if said else ""
    )


def millions(macs: int | None) -> str:
    """FLOP in millions; empty for None."""
    if macs is None:
        return ""
    return f"{macs / 1e6:,.1f}" if macs >= 1e7 else f"{macs / 1e6:.3f}"


def with_deviation(mean: float | None, deviation: float | None) -> str:
    """In per cent; empty for None."""
    if mean is None:
        return ""
    return f"{100 * mean:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def format_rows(rows: Sequence[Row], format: Format = "text") -> str:
    """``rows`` as text, Markdown, LaTeX, CSV or JSON; the last two hold plain numbers."""
    if format == "json":
        return json.dumps([asdict(row) for row in rows], indent=1)
    if format == "csv":
        return (
            to_csv([list(asdict(rows[0]))] + [[_plain(v) for v in asdict(row).values()] for row in rows])
            if rows
            else ""
        )
    return WRITERS[format](*columns(rows))


def to_text(header: Sequence[str], body: Cells) -> str:
    """Columns padded to equal width, numbers to the right; of a wide table headers stand in several lines."""
    inside = [max((len(line[i]) for line in body), default=0) for i in range(len(header))]
    heads = [[name] for name in header]
    if sum(max(map(len, column)) for column in zip(header, *body, strict=True)) + 2 * len(header) > WIDE:
        heads = [
            textwrap.wrap(name, max(width, 7), break_long_words=False)
            for name, width in zip(header, inside, strict=True)
        ]
    widths = [max(width, *map(len, head)) for width, head in zip(inside, heads, strict=True)]
    rows = max(map(len, heads))
    above = [[""] * (rows - len(head)) + head for head in heads]
    numeric = [is_numeric([line[i] for line in body]) for i in range(len(header))]

    def pad(line: Sequence[str]) -> str:
        parts = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)]
        return "  ".join(parts).rstrip()

    named = [pad(line) for line in zip(*above, strict=True)]
    return "\n".join([*named, "  ".join("-" * w for w in widths), *map(pad, body)])


def is_numeric(column: Sequence[str]) -> bool:
    """Whether the cells of a column stand to the right."""
    return all(cell[:1].isdigit() or cell[:1] in ("", "-", "+") or cell == GIVEN for cell in column)


def to_markdown(header: Sequence[str], body: Cells) -> str:
    rule = ["---"] * len(header)
    lines = [[cell.replace("|", r"\|") for cell in line] for line in [header, *body]]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def to_latex(header: Sequence[str], body: Cells) -> str:
    """A ``tabular`` with rules of the booktabs package."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_escaped, cells)) + r" \\"

    columns = "".join("r" if is_numeric([row[i] for row in body]) else "l" for i in range(len(header)))
    parts = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", line(header), r"\midrule", *map(line, body)]
    return "\n".join([*parts, r"\bottomrule", r"\end{tabular}"])


#: Characters that mean something else to LaTeX, and how it is made to show them.
_OF_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\to$"}
)


def _escaped(text: str) -> str:
    return text.translate(_OF_LATEX)


def to_csv(lines: Cells) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue().rstrip("\n")


#: How a header and lines of words become a table that a person reads.
WRITERS = {"text": to_text, "markdown": to_markdown, "latex": to_latex}


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
