"""Runs beside the paper's rows, and children beside their controls."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from morphnet.nn.resnet import Architecture, split_activation
from morphnet.report.outcomes import Paired, compare_outcomes, mcnemar
from morphnet.report.paper import PAPER, PaperRow
from morphnet.report.table import TWICE

#: Which table of the paper goes with which data.
TABLES = {"cifar10": 1, "cifar100": 2, "imagenet": 3}
#: What the parent of a row and that of a run have in common, beside their activation.
SAME = ("family", "block", "blocks", "widths", "classes", "in_channels", "shortcuts")
#: Of the intervals of paired differences.
CONFIDENCE = 0.95

Record = dict[str, Any]
_PHASE = re.compile(r", phase (\d+)$")


def recipe_of_tables(name: str | None) -> str:
    """What the paper's tables count a recipe as: those of the paper, whatever data they are for, and none are one."""
    return "paper" if name is None or name.startswith("paper") else name


@dataclass(frozen=True)
class Run:
    """The phases of one run, by their folders."""

    phases: dict[str, Record]

    @property
    def key(self) -> tuple[str, str]:
        """Experiment and variant: what runs that differ in their seed alone share."""
        first = next(iter(self.phases.values()))
        return first["experiment"], first["settings"].get("variant", "")

    @property
    def title(self) -> str:
        """The experiment, and what tells the run from others of it."""
        first = next(iter(self.phases.values()))
        return first["experiment"] + (f" ({first['told_apart']})" if first.get("told_apart") else "")

    @property
    def recipe(self) -> str:
        """The recipe of the run; ``paper`` for those of the paper and for none."""
        return recipe_of_tables(next(iter(self.phases.values()))["settings"].get("recipe"))

    @property
    def seed(self) -> int:
        return int(next(iter(self.phases.values()))["seed"])

    def chain(self, record: Record) -> list[Record]:
        """From the parent to ``record``; one that started from random weights stands for itself."""
        source = None if record.get("from_scratch") else self.phases.get(record.get("source") or "")
        return [*(self.chain(source) if source else []), record]

    def children(self) -> list[Record]:
        """In the order they were trained."""
        return [r for r in self.phases.values() if r["role"] == "child"]

    def child(self, index: int) -> Record | None:
        """The child that is phase ``index``; None if its record is not there."""
        return next((child for child in self.children() if int(child["index"]) == index), None)

    def controls_of(self, index: int) -> list[Record]:
        """Those that were trained for the same phases as the child that is phase ``index``."""
        return [r for r in self.phases.values() if r["role"] == "control" and child_of(r) == index]

    def parent_macs(self) -> int | None:
        """Multiply-accumulates of the first parent; None if its record is not there."""
        return next((int(r["macs"]) for r in self.phases.values() if r["role"] == "parent"), None)


def child_of(control: Record) -> int:
    """The index of the child that a control stands beside; children are the phases right after the parent.

    One from scratch has the network of its source. Of several phases the others say in their label which it is.
    -1 where a record does not say it.
    """
    if control.get("from_scratch"):
        number = str(control.get("source")).partition("_")[0]
        return int(number) if number.isdigit() else -1
    phase = _PHASE.search(str(control["label"]))
    return int(phase[1]) if phase else 1


def runs_of(records: Sequence[Record]) -> list[Run]:
    """``records`` as runs, each phase once, in the order they are given.

    Raises:
        ValueError: two runs have the same experiment, settings and seed.
    """
    found: dict[tuple[Any, ...], dict[str, Record]] = {}
    for record in sorted(records, key=lambda r: int(r["index"])):
        key = (record["experiment"], record["settings"].get("variant", ""), record["seed"])
        there = found.setdefault(key, {}).setdefault(f"{record['index']}_{record['phase']}", record)
        if there.get("lineage", {}).get("network") != record.get("lineage", {}).get("network"):
            raise ValueError(TWICE.format(experiment=record["experiment"], phase=record["phase"]))
    return [Run(phases) for phases in found.values()]


def kind_of(control: Record) -> str:
    """The label of a control without the phase it belongs to."""
    return _PHASE.sub("", str(control["label"]))


# --- the paper's tables ---


@dataclass(frozen=True)
class Measured:
    """What one run found for a row: errors as fractions, and the record they stand in."""

    seed: int
    error: float
    parent_error: float | None
    record: Record


@dataclass(frozen=True)
class PaperLine:
    """A row of the paper, as printed and as measured here.

    Attributes:
        views: over which errors are counted: 1, or in Table 3 also 10.
        runs: of one variant, by seed; none where nobody has run it.
    """

    row: PaperRow
    views: int
    runs: tuple[Measured, ...] = ()

    @property
    def paper_error(self) -> float:
        return self.row.error if self.views == 1 else self.row.error_ten_views or float("nan")

    @property
    def paper_parent_error(self) -> float | None:
        """None for a parent itself."""
        if self.row.spec is None:
            return None
        parent = next(r for r in PAPER if (r.table, r.depth, r.spec) == (self.row.table, self.row.depth, None))
        return parent.error if self.views == 1 else parent.error_ten_views

    @property
    def errors(self) -> list[float]:
        return [run.error for run in self.runs]

    @property
    def improvements(self) -> list[float]:
        """The parent's error minus the child's, run by run."""
        return [run.parent_error - run.error for run in self.runs if run.parent_error is not None]

    @property
    def relative_improvements(self) -> list[float]:
        found = [(run.parent_error, run.error) for run in self.runs if run.parent_error]
        return [(before - after) / before for before, after in found]


def paper_lines(runs: Sequence[Run], table: int, recipe: str = "paper") -> list[PaperLine]:
    """Every row of ``table``, one line for each variant that was run; those nobody has run are there as well.

    Args:
        recipe: which runs count. ``paper`` are those of the paper's recipes, or of none.
    """
    runs = [run for run in runs if run.recipe == recipe]
    lines = []
    for row in (row for row in PAPER if row.table == table):
        for views in (1, 10) if row.error_ten_views is not None else (1,):
            found: dict[tuple[str, str], list[Measured]] = {}
            for run in runs:
                for record in run.phases.values():
                    measured = _measured(run, record, row, views)
                    if measured is not None and all(m.seed != run.seed for m in found.get(run.key, [])):
                        found.setdefault(run.key, []).append(measured)
            ordered = [tuple(sorted(group, key=lambda m: m.seed)) for group in _each_once(found)]
            lines += [PaperLine(row, views, group) for group in ordered] or [PaperLine(row, views)]
    return lines


def why_none(runs: Sequence[Run], table: int, recipe: str = "paper") -> str:
    """Why no run of ``runs`` is in a line of ``table``, in words."""
    data = next(name for name, number in TABLES.items() if number == table)
    runs = [run for run in runs if any(record["data"]["name"] == data for record in run.phases.values())]
    if not runs:
        return f"it is of {data}, and they are not"
    if all(run.recipe != recipe for run in runs):
        return f"those of {data} are of with_recipe={' and '.join(sorted({run.recipe for run in runs}))}"
    parents = [r for run in runs if run.recipe == recipe for r in run.phases.values() if r["role"] == "parent"]
    if not parents:
        return f"the record of a parent is missing in those of {data}"
    reasons = [_differences(parents[0], row) for row in PAPER if row.table == table and row.spec is None]
    return f"their parent has {min(reasons, key=len)}" if all(reasons) else "they hold no morph of the paper"


def _differences(parent: Record, row: PaperRow) -> str:
    """In what a parent is another network than that of ``row``; empty if in nothing."""
    try:
        architecture = Architecture.from_dict(parent["architecture"])
    except (ValueError, KeyError, TypeError):
        return "an architecture that is none of the paper's"
    differ = [key for key in SAME if getattr(architecture, key) != getattr(row.parent, key)]
    said = [f"{key}={getattr(architecture, key)} (in the paper {getattr(row.parent, key)})" for key in differ]
    if split_activation(architecture.activation) != ("relu", False):
        said.append(f"activation={architecture.activation} (in the paper relu)")
    return ", ".join(said)


def _each_once(found: dict[tuple[str, str], list[Measured]]) -> list[list[Measured]]:
    """Networks that several experiments share, such as a parent or the child of a first phase, are one line."""
    kept: dict[tuple[Any, ...], list[Measured]] = {}
    for group in found.values():
        networks = tuple(sorted(str(m.record.get("lineage", {}).get("network")) for m in group))
        kept.setdefault(networks, group)
    whole = [set(networks) for networks in kept]
    return [group for networks, group in kept.items() if not any(set(networks) < other for other in whole)]


def _measured(run: Run, record: Record, row: PaperRow, views: int) -> Measured | None:
    if record["role"] == "control" or TABLES.get(record["data"]["name"]) != row.table:
        return None
    chain = run.chain(record)
    specs = tuple(r.get("morph") for r in chain[1:])
    if specs != ((*row.via, row.spec) if row.spec is not None else ()) or not _is_papers(chain[0], row):
        return None
    errors = [_error(r, views) for r in (record, chain[0])]
    if errors[0] is None:
        return None
    return Measured(run.seed, errors[0], errors[1] if row.spec is not None else None, record)


def _is_papers(parent: Record, row: PaperRow) -> bool:
    """Whether a parent is the network the row starts from, by either kind of shortcut."""
    return not _differences(parent, row)


def _error(record: Record, views: int) -> float | None:
    if views == 1:
        return float(record["error"])
    over = record.get("views")
    return float(over["error"]) if over and over.get("count") == views else None


# --- children beside their controls ---


@dataclass(frozen=True)
class ControlLine:
    """A child, or one of its controls, over the seeds of one experiment.

    Attributes:
        child: the label of the child, of a control the one it stands beside.
        records: one for each seed, in their order.
        parent_macs: multiply-accumulates of the parent; None if its record is not there.
        differences: of a control, its error minus the child's, for every seed that has both; empty for the child.
        pairs: of a control, the child and itself image by image, for the same seeds as ``differences``; None where one
            of them keeps no predictions.
    """

    experiment: str
    child: str
    label: str
    records: tuple[Record, ...]
    differences: tuple[float, ...]
    parent_macs: int | None
    pairs: tuple[Paired | None, ...] = ()

    @property
    def record(self) -> Record:
        """Of the first seed; all seeds share what is no measurement."""
        return self.records[0]

    @property
    def errors(self) -> list[float]:
        return [float(record["error"]) for record in self.records]

    @property
    def seeds(self) -> list[int]:
        return [int(record["seed"]) for record in self.records]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Paired t interval of the difference, from three seeds on."""
        count = len(self.differences)
        if count < 3:
            return None
        from scipy.stats import t

        half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * statistics.stdev(self.differences) / count**0.5
        mean = statistics.fmean(self.differences)
        return mean - half, mean + half

    @property
    def mcnemar(self) -> float | None:
        """p over all seeds that keep predictions; see :func:`~morphnet.report.outcomes.mcnemar`."""
        return mcnemar([pair for pair in self.pairs if pair is not None])

    @property
    def mcnemar_by_seed(self) -> list[float | None]:
        """p within each seed."""
        return [None if pair is None else mcnemar([pair]) for pair in self.pairs]

    @property
    def overlaps(self) -> list[float | None]:
        """Share of errors that child and control both make, by seed."""
        return [None if pair is None else pair.overlap for pair in self.pairs]


def control_lines(runs: Sequence[Run]) -> list[ControlLine]:
    """Every child that has controls, of every experiment, each followed by its controls.

    A control counts where the record of its child is there. Beside records with a ``file`` their predictions are read.

    Raises:
        ValueError: those of one are damaged.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        groups.setdefault(run.key, []).append(run)
    lines = []
    for group in groups.values():
        for index in sorted({int(child["index"]) for run in group for child in run.children()}):
            children = {run.seed: child for run in group if (child := run.child(index)) is not None}
            controls: dict[tuple[int, str], list[Record]] = {}
            for run in group:
                for control in run.controls_of(index) if run.seed in children else []:
                    controls.setdefault((control["index"], control["phase"]), []).append(control)
            if not controls:
                continue
            first = next(iter(children.values()))
            experiment, name = first["experiment"], first["label"]
            cost = next((macs for run in group if (macs := run.parent_macs()) is not None), None)
            lines.append(ControlLine(experiment, name, name, tuple(children.values()), (), cost))
            for _, same in sorted(controls.items()):
                pairs = [(control, children[control["seed"]]) for control in same]
                differences = tuple(float(control["error"]) - float(child["error"]) for control, child in pairs)
                images = tuple(compare_outcomes(child, control) for control, child in pairs)
                lines.append(ControlLine(experiment, name, same[0]["label"], tuple(same), differences, cost, images))
    return lines
