"""The first steps after a morph, as they are written down."""

import csv
import itertools

import pytest

from morphnet.config import MorphConfig, PhaseConfig, ScheduleConfig
from morphnet.report.first_steps import draw_first_steps, format_first_steps, read_first_steps
from morphnet.report.record import read_record
from morphnet.train import plan_phases, run_experiment
from morphnet.train.diagnostics import COLUMNS
from tests.train.test_shared import ARCHITECTURE, DATA, _experiment


def _run(folder, controls=("prelu",), **changes):
    plans = plan_phases(
        [PhaseConfig(), PhaseConfig(morph="1c1")],
        list(controls),
        ScheduleConfig(steps=9),
        0.1,
        3,
        ARCHITECTURE,
        MorphConfig(),
        False,
        len(DATA.train),
    )
    return run_experiment(_experiment(folder, watch=(6, 2), **changes), plans, ARCHITECTURE, None)


def _rows(folder, phase="1_1c1"):
    with open(folder / "first" / "phases" / phase / "watch.csv") as file:
        return list(csv.DictReader(file))


def test_the_rows_of_a_child(tmp_path):
    _run(tmp_path)
    rows = _rows(tmp_path)
    assert [row["step"] for row in rows] == ["0", "2", "4", "6"]
    assert list(rows[0])[: len(COLUMNS)] == list(COLUMNS)
    grown = ["growth:layer1.1.shortcut", "growth:layer2.1.shortcut", "growth:layer3.1.shortcut"]
    assert list(rows[0])[len(COLUMNS) :] == grown
    start = {key: float(value) for key, value in rows[0].items() if value}
    assert start["slopes_in_modules"] == 1
    assert start["slopes_elsewhere"] == start["growth"] == start["moved_new"] == start["moved_kept"] == 0
    for before, after in itertools.pairwise(rows[1:]):
        assert float(after["growth"]) != float(before["growth"]) > 0
        assert 0 < float(before["moved_kept"]) < float(after["moved_kept"])
    with open(tmp_path / "first" / "phases" / "1_1c1" / "steps.csv") as file:
        steps = list(csv.DictReader(file))
    assert float(rows[2]["loss"]) == pytest.approx(sum(float(s["loss"]) for s in steps[2:4]) / 2)
    assert float(rows[2]["error"]) == sum(int(s["errors"]) for s in steps[2:4]) / 40


def test_a_control_has_no_modules_to_grow_and_a_parent_is_not_watched(tmp_path):
    _run(tmp_path)
    control = _rows(tmp_path, "3_prelu_trained_on")
    assert control[-1]["growth"] == control[-1]["slopes_in_modules"] == control[-1]["moved_new"] == ""
    assert float(control[-1]["slopes_elsewhere"]) != 0
    assert not (tmp_path / "first" / "phases" / "0_parent" / "watch.csv").exists()


@pytest.mark.slow
def test_watching_changes_nothing_in_the_training(tmp_path):
    watched = _run(tmp_path / "watched")
    plans = plan_phases(
        [PhaseConfig(), PhaseConfig(morph="1c1")],
        ["prelu"],
        ScheduleConfig(steps=9),
        0.1,
        3,
        ARCHITECTURE,
        MorphConfig(),
        False,
        len(DATA.train),
    )
    plain = run_experiment(_experiment(tmp_path / "plain"), plans, ARCHITECTURE, None)
    assert [r["lineage"]["network"] for r in watched] == [r["lineage"]["network"] for r in plain]


@pytest.mark.parametrize("step", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 4, 7))])
def test_an_interrupted_run_ends_with_the_same_file(tmp_path, monkeypatch, step):
    from morphnet.train.phase import Phase

    _run(tmp_path / "whole", controls=())
    read, dies_at = Phase.read_losses, [step]

    def dying(self):
        read(self)
        if self.outputs.name == "1c1" and dies_at and self.state.step == dies_at[0]:
            dies_at.clear()
            raise KeyboardInterrupt

    monkeypatch.setattr(Phase, "read_losses", dying)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "died", controls=())
    _run(tmp_path / "died", controls=())
    files = [tmp_path / run / "first" / "phases" / "1_1c1" / "watch.csv" for run in ("whole", "died")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_table_and_figure_of_watched_phases(tmp_path):
    _run(tmp_path)
    paths = sorted((tmp_path / "first" / "phases").glob("*/record.json"))
    found = [steps for path in paths if (steps := read_first_steps(read_record(path), path))]
    assert [steps.network for steps in found] == ["1c1", "PReLU parent trained on"]
    text = format_first_steps(found)
    assert "6 of 9" in text  # watched steps
    assert "growth of modules" in format_first_steps(found, "markdown")
    assert "PReLU parent trained on" in text
    assert len(format_first_steps(found, "csv").splitlines()) == 3
    figure = draw_first_steps(found)
    drawn = [len(axes.lines) for axes in figure.axes]
    assert drawn == [2, 2, 1, 1]  # a control has neither slopes in modules nor growth
    paths[1].with_name("watch.csv").write_text("step,loss\n0,what\n")
    with pytest.raises(ValueError, match=r"watch\.csv is damaged"):
        read_first_steps(read_record(paths[1]), paths[1])
