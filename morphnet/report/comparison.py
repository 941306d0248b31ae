"""Runs compared with the rows of the paper, and children with their controls."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from morphnet.nn.resnet import Architecture, split_activation
from morphnet.report.outcomes import Paired, compare_outcomes, mcnemar
from morphnet.report.paper import PAPER, PaperRow
from morphnet.report.record import Record
from morphnet.report.table import TWICE, Row

#: The table of the paper for each data set.
TABLES = {"cifar10": 1, "cifar100": 2, "imagenet": 3}
#: The parent of a row and that of a run agree in these, and in their activation.
SAME = ("family", "block", "blocks", "widths", "classes", "in_channels", "shortcuts")
#: Level of the intervals of paired differences.
CONFIDENCE = 0.95


def recipe_of_tables(name: str | None) -> str:
    """A recipe as the paper's tables count it: ``paper`` for those of the paper, for any data, and for none."""
    return "paper" if name is None or name.startswith("paper") else name


@dataclass(frozen=True)
class Run:
    """The phases of one run, by their folders."""

    phases: dict[str, Record]

    @property
    def first(self) -> Record:
        return next(iter(self.phases.values()))

    @property
    def key(self) -> tuple[str, str]:
        """Experiment and variant: what runs share that differ in their seed alone."""
        return self.first.group

    @property
    def title(self) -> str:
        """The experiment, and what distinguishes the run from others of it."""
        return self.first.experiment + (f" ({self.first.variation})" if self.first.variation else "")

    @property
    def recipe(self) -> str:
        """The recipe of the run; ``paper`` for those of the paper and for none."""
        return recipe_of_tables(self.first.settings.recipe)

    @property
    def seed(self) -> int:
        return self.first.seed

    def chain(self, record: Record) -> list[Record]:
        """From the parent to ``record``; only ``record`` where it started from random weights."""
        source = None if record.from_scratch else self.phases.get(record.source or "")
        return [*(self.chain(source) if source else []), record]

    def iterations_before(self, record: Record) -> int:
        """How long its network was trained before the phase of ``record``."""
        return sum(phase.steps for phase in self.chain(record)[:-1])

    def children(self) -> list[Record]:
        """In the order they were trained."""
        return [record for record in self.phases.values() if record.role == "child"]


def runs_of(records: Sequence[Record]) -> list[Run]:
    """``records`` as runs, each phase once, in the order they are given.

    Raises:
        ValueError: two runs have the same experiment, settings and seed.
    """
    runs: dict[tuple[Any, ...], dict[str, Record]] = {}
    for record in sorted(records, key=lambda record: record.index):
        known = runs.setdefault((*record.group, record.seed), {}).setdefault(record.folder, record)
        if known.lineage.network != record.lineage.network:
            raise ValueError(TWICE.format(experiment=record.experiment, phase=record.phase))
    return [Run(phases) for phases in runs.values()]


# --- the paper's tables ---


@dataclass(frozen=True)
class Measured:
    """One run as a row of the paper: errors as fractions, and their record."""

    seed: int
    error: float
    parent_error: float | None
    record: Record


@dataclass(frozen=True)
class PaperLine:
    """A row of the paper, as printed and as measured here.

    Attributes:
        views: of each image over which errors are counted: 1, or in Table 3 also 10.
        runs: of one variant, by seed; empty where none was run.
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
        return [(run.parent_error - run.error) / run.parent_error for run in self.runs if run.parent_error]


def paper_lines(runs: Sequence[Run], table: int, recipe: str = "paper") -> list[PaperLine]:
    """Every row of ``table``, one line for each variant that was run, and an empty line where none was.

    Args:
        recipe: of the runs that count; ``paper`` for the paper's recipes and for none.
    """
    runs = [run for run in runs if run.recipe == recipe]
    lines = []
    for row in (row for row in PAPER if row.table == table):
        for views in (1, 10) if row.error_ten_views is not None else (1,):
            measured: dict[tuple[str, str], dict[int, Measured]] = {}
            for run in runs:
                for record in run.phases.values():
                    if (value := _measured(run, record, row, views)) is not None:
                        measured.setdefault(run.key, {}).setdefault(run.seed, value)
            groups = [tuple(seeds[seed] for seed in sorted(seeds)) for seeds in _without_repeats(measured)]
            lines += [PaperLine(row, views, group) for group in groups or [()]]
    return lines


def why_none(runs: Sequence[Run], table: int, recipe: str = "paper") -> str:
    """Why no run of ``runs`` is in a line of ``table``, in words."""
    data = next(name for name, number in TABLES.items() if number == table)
    runs = [run for run in runs if any(record.data.name == data for record in run.phases.values())]
    if not runs:
        return f"it is of {data}, and they are not"
    if all(run.recipe != recipe for run in runs):
        return f"those of {data} are of with_recipe={' and '.join(sorted({run.recipe for run in runs}))}"
    parents = [r for run in runs if run.recipe == recipe for r in run.phases.values() if r.role == "parent"]
    if not parents:
        return f"the record of a parent is missing in those of {data}"
    reasons = [_differences(parents[0], row) for row in PAPER if row.table == table and row.spec is None]
    return f"their parent has {min(reasons, key=len)}" if all(reasons) else "they hold no morph of the paper"


def _differences(parent: Record, row: PaperRow) -> str:
    """How a parent differs from that of ``row``, by either kind of shortcut; empty where it does not."""
    try:
        architecture = Architecture.from_dict(dict(parent.architecture or {}))
    except (ValueError, KeyError, TypeError):
        return "an architecture that is none of the paper's"
    values = {key: (getattr(architecture, key), getattr(row.parent, key)) for key in SAME}
    differences = [f"{key}={own} (in the paper {paper})" for key, (own, paper) in values.items() if own != paper]
    if split_activation(architecture.activation) != ("relu", False):
        differences.append(f"activation={architecture.activation} (in the paper relu)")
    return ", ".join(differences)


def _without_repeats(measured: dict[tuple[str, str], dict[int, Measured]]) -> list[dict[int, Measured]]:
    """Networks that several experiments share, such as a parent or the child of a first phase, only once."""
    groups: dict[frozenset[str], dict[int, Measured]] = {}
    for seeds in measured.values():
        groups.setdefault(frozenset(value.record.lineage.network for value in seeds.values()), seeds)
    return [seeds for networks, seeds in groups.items() if not any(networks < other for other in groups)]


def _measured(run: Run, record: Record, row: PaperRow, views: int) -> Measured | None:
    if record.role == "control" or TABLES.get(record.data.name) != row.table:
        return None
    chain = run.chain(record)
    specs = tuple(phase.morph for phase in chain[1:])
    if specs != ((*row.via, row.spec) if row.spec is not None else ()) or _differences(chain[0], row):
        return None
    error = _error(record, views)
    parent_error = None if row.spec is None else _error(chain[0], views)
    return None if error is None else Measured(run.seed, error, parent_error, record)


def _error(record: Record, views: int) -> float | None:
    if views == 1:
        return record.error
    return record.views.error if record.views is not None and record.views.count == views else None


# --- children beside their controls ---


@dataclass(frozen=True)
class ControlLine(Row):
    """A child, or one of its controls.

    Attributes:
        child: the label of the child, or for a control of the child it is compared with.
        differences: a control's error minus the child's, for every seed that has both; empty for the child.
        pairs: the child and a control image by image, for the same seeds as ``differences``; None where one of them
            keeps no predictions.
    """

    child: str
    differences: tuple[float, ...] = ()
    pairs: tuple[Paired | None, ...] = ()

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

    A control counts where its run has the record of its child. Predictions beside the records are read.

    Raises:
        ValueError: the predictions of one are damaged.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        groups.setdefault(run.key, []).append(run)
    lines = []
    for group in groups.values():
        phases = [record for run in group for record in run.phases.values()]
        cost = next((record.macs for record in phases if record.role == "parent"), None)
        for index in sorted({record.index for record in phases if record.role == "child"}):
            children = {record.seed: record for record in phases if (record.role, record.index) == ("child", index)}
            controls: dict[tuple[int, str], list[Record]] = {}
            for record in phases:
                if record.beside == index and record.seed in children:
                    controls.setdefault((record.index, record.phase), []).append(record)
            if not controls:
                continue
            name = next(iter(children.values())).label
            lines.append(ControlLine(list(children.values()), name, cost, name))
            for _, same in sorted(controls.items()):
                pairs = [(control, children[control.seed]) for control in same]
                differences = tuple(control.error - child.error for control, child in pairs)
                images = tuple(compare_outcomes(child, control) for control, child in pairs)
                lines.append(ControlLine(same, same[0].label, cost, name, differences, images))
    return lines
