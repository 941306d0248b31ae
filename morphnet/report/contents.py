"""A report: the tables and figures of records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from matplotlib.figure import Figure

from morphnet.report.comparison import ControlLine, PaperLine, Run, control_lines, paper_lines, runs_of
from morphnet.report.comparison_table import control_foot, controls_table, paper_table
from morphnet.report.figures import TITLES, draw_cost, draw_curves, draw_rows
from morphnet.report.first_steps import FirstSteps, draw_first_steps, first_steps_table, read_first_steps
from morphnet.report.record import Record, names_of
from morphnet.report.table import Format, Row, Table, caption, left_out, rows_of, runs_table
from morphnet.report.variants import SEED


@dataclass(frozen=True)
class Report:
    """Tables and figures of ``records``; runs of ``recipe`` count in those of the paper.

    Raises:
        ValueError: (where they are asked for) one seed stands in several runs, or predictions are damaged.
    """

    records: Sequence[Record]
    recipe: str = "paper"

    @cached_property
    def runs(self) -> list[Run]:
        return runs_of(self.records)

    @cached_property
    def rows(self) -> list[Row]:
        return rows_of(self.records)

    @cached_property
    def controls(self) -> list[ControlLine]:
        return control_lines(self.runs)

    @cached_property
    def paper(self) -> dict[int, list[PaperLine]]:
        """The lines of Tables 1 to 3, with those that were not run."""
        return {number: paper_lines(self.runs, number, self.recipe) for number in TITLES}

    @cached_property
    def first_steps(self) -> tuple[list[FirstSteps], list[str]]:
        """The phases whose first steps were watched, and a message for each damaged file."""
        watched, damaged = [], []
        for record, name in zip(self.records, names_of(self.records), strict=True):
            try:
                steps = read_first_steps(record, name)
            except ValueError as error:
                damaged.append(str(error))
            else:
                watched += [steps] if steps is not None else []
        return watched, damaged

    def table(self, name: str) -> Table:
        """One of :data:`~morphnet.report.table.TABLES`."""
        if name == "runs":
            return runs_table(self.rows)
        if name == "controls":
            return controls_table(self.controls)
        return first_steps_table(self.first_steps[0]) if name == "first_steps" else paper_table(self.paper[int(name)])

    def write(self, name: str, format: Format) -> str | None:
        """One of :data:`~morphnet.report.table.TABLES` with its notes; None if it is empty."""
        table, notes = self.table(name), ""
        if name == "runs":
            notes = {"text": caption(self.records), "markdown": left_out(self.records)}.get(format, "")
        elif name == "controls" and format in ("text", "markdown"):
            notes = "\n".join(control_foot(self.controls))
        return "\n\n".join(filter(None, (table.write(format), notes))) if table.cells else None

    def figures(self) -> Iterator[tuple[str, Figure, str]]:
        """Every figure with its name and caption."""
        for number, lines in self.paper.items():
            if any(line.runs for line in lines):
                yield f"cost_table{number}", draw_cost(lines), "The paper's rows hollow, measured ones filled."
        names: list[str] = []
        for key in dict.fromkeys(run.key for run in self.runs):
            group = [run for run in self.runs if run.key == key]
            variants = {run.key[1] for run in self.runs if run.key[0] == key[0]}
            folder = f"_{SEED.sub('', group[0].first.run_dir.name)}" if len(variants) > 1 else ""
            if any(record.history for run in group for record in run.phases.values()):
                name = f"curves_{key[0].replace('/', '_')}{folder}"
                names.append(name)  # of two variants with folders of the same name the second gets a number
                name += f"_{names.count(name)}" if names.count(name) > 1 else ""
                yield name, draw_curves(group), f"Error over training: {group[0].title}."
        if self.first_steps[0]:
            yield "first_steps", draw_first_steps(self.first_steps[0]), ""
        yield "cost", draw_rows(self.rows), "Error against cost, every network of the table above."
