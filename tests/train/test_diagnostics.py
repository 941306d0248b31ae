"""Diagnostics of training: at every evaluation, and of the first steps after a morph."""

import copy
import csv
import itertools

import pytest
import torch
from torch import nn

from morphnet.config import PhaseConfig, ScheduleConfig, TrainConfig
from morphnet.morph import morph_network
from morphnet.report.first_steps import draw_first_steps, first_steps_table, read_first_steps
from morphnet.report.record import read_record
from morphnet.train import plan_phases, run_experiment
from morphnet.train.diagnostics import COLUMNS, Diagnostics
from morphnet.train.handover import kept_parameters, shapes_of
from tests.train.test_shared import ARCHITECTURE, DATA, _experiment


def _plans(controls):
    phases = [PhaseConfig(), PhaseConfig(morph="1c1")]
    config = TrainConfig(phases=phases, controls=list(controls), schedule=ScheduleConfig(steps=9))
    return plan_phases(config, ARCHITECTURE, 3, len(DATA.train))


def _run(folder, controls=("prelu",), **changes):
    plans = _plans(controls)
    return run_experiment(
        _experiment(folder, trainer={"watch_steps": 6, "watch_every": 2}, **changes), plans, ARCHITECTURE, None
    )


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
    plans = _plans(["prelu"])
    plain = run_experiment(_experiment(tmp_path / "plain"), plans, ARCHITECTURE, None)
    assert [r.lineage.network for r in watched] == [r.lineage.network for r in plain]


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
    records = [read_record(path) for path in paths]
    found = [steps for record in records if (steps := read_first_steps(record, record.label))]
    assert [steps.network for steps in found] == ["1c1", "PReLU parent trained on"]
    text = first_steps_table(found).write()
    assert "6 of 9" in text  # watched steps
    assert "growth of modules" in first_steps_table(found).write("markdown")
    assert "PReLU parent trained on" in text
    assert len(first_steps_table(found).write("csv").splitlines()) == 3
    figure = draw_first_steps(found)
    drawn = [len(axes.lines) for axes in figure.axes]
    assert drawn == [2, 2, 1, 1]  # a control has neither slopes in modules nor growth
    paths[1].with_name("watch.csv").write_text("step,loss\n0,what\n")
    with pytest.raises(ValueError, match=r"watch\.csv is damaged"):
        read_first_steps(records[1], records[1].label)


@pytest.fixture
def grown(make_network):
    parent = make_network(14)
    batches = [torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    child, _ = morph_network(parent, "1c1", calibration=batches, allow_inexact=True)
    return child, kept_parameters(child, shapes_of(parent))


def test_kept_and_new_layers_are_told_apart(grown):
    child, kept = grown
    diagnostics = Diagnostics(kept, lambda: copy.deepcopy(child))
    found = diagnostics.measure(child)
    new = [p for name, p in child.named_parameters() if name not in kept and p.dim() > 1]
    assert found["norms/weights_new"] == pytest.approx(float(nn.utils.get_total_norm(new)))
    assert found["slopes/layer2.1.shortcut.branches.0.act"] == 1
    assert found["bn_drift/running_mean_kept"] == found["bn_drift/running_mean_new"] == 0
    assert not any("gradients" in name for name in found)
    child(torch.randn(2, 3, 16, 16)).sum().backward()
    assert diagnostics.measure(child)["norms/gradients_kept"] > 0


def test_the_drift_is_in_deviations_of_the_start(grown):
    child, kept = grown
    diagnostics = Diagnostics(kept, lambda: copy.deepcopy(child))
    diagnostics.measure(child)
    norms = {name: m for name, m in child.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in norms.values():
        norm.running_mean += 2 * (norm.running_var + norm.eps).sqrt()
    found = diagnostics.measure(child)
    assert found["bn_drift/running_mean_kept"] == pytest.approx(2, rel=1e-5)
    assert found["bn_drift/running_mean_new"] == pytest.approx(2, rel=1e-5)


def test_a_parent_has_one_group(make_network):
    network = make_network(14)
    found = Diagnostics(frozenset(), lambda: copy.deepcopy(network)).measure(network)
    assert {name for name in found if not name.startswith("slopes/")} == {
        "norms/weights", "bn_drift/running_mean",
    }  # fmt: skip
