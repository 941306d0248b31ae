"""How long phases will take, from a few measured steps."""

import pytest

import morphnet.train.estimate as estimate
from morphnet.config import OptimConfig, PhaseConfig, ScheduleConfig, TrainConfig
from morphnet.morph import Deepen
from morphnet.train import plan_phases, run_experiment
from morphnet.train.estimate import Estimator, Speed
from tests.modules import module
from tests.train.test_shared import ARCHITECTURE, DATA, _experiment


def _plans(phases=({}, {"morph": "1c1"}), controls=(), layers=(), steps=6):
    given = [PhaseConfig(**phase) for phase in phases]
    config = TrainConfig(phases=given, controls=list(controls), schedule=ScheduleConfig(steps=steps))
    return plan_phases(config, ARCHITECTURE, 3, len(DATA.train), layers)


def test_costs_are_those_of_the_networks_that_are_trained(tmp_path):
    plans = _plans(controls=["prelu", "scratch_total"])
    experiment = _experiment(tmp_path)
    found = Estimator().phases(experiment, plans, ARCHITECTURE, None)
    records = run_experiment(experiment, plans, ARCHITECTURE, None)
    assert [e.macs for e in found] == [r.macs for r in records]
    assert [e.parameters for e in found] == [r.parameters for r in records]
    assert [e.steps for e in found] == [r.steps for r in records]
    assert all(e.seconds > 0 for e in found)


@pytest.mark.slow
def test_layers_that_become_modules_are_built_as_well(tmp_path):
    layers = [None, {"layer2.*.conv2": module("sa at st")}, {"layer3.*.conv1": Deepen(3)}]
    phases = ({}, {"target": "layer2.*.conv2"}, {"target": "layer3.*.conv1", "deepen": 3})
    plans = _plans(phases, ["random"], layers)
    experiment = _experiment(tmp_path)
    found = Estimator().phases(experiment, plans, ARCHITECTURE, None)
    records = run_experiment(experiment, plans, ARCHITECTURE, None)
    assert [e.macs for e in found] == [r.macs for r in records]


def test_each_network_is_measured_once_and_time_is_proportional_to_steps(tmp_path, monkeypatch):
    asked = []

    def measure(experiment, network):
        asked.append(network)
        return Speed(100.0, 1000.0)

    monkeypatch.setattr(estimate, "measure_speed", measure)
    estimator, experiment = Estimator(), _experiment(tmp_path, trainer={"evaluate_every": 2})
    found = estimator.phases(experiment, _plans(controls=["net2net", "scratch", "prelu"], steps=12), ARCHITECTURE, None)
    assert len(asked) == len(estimator) == 3  # parent, child (as net2net and from scratch), PReLU parent
    # 12 steps of 20 images; before the first, then after every second of four epochs: 30 images each
    assert {e.seconds for e in found} == {12 * 20 / 100 + 3 * 30 / 1000}
    estimator.phases(experiment, _plans(), ARCHITECTURE, None)
    assert len(asked) == 3


def test_a_given_parent_is_evaluated_and_not_trained(tmp_path, make_network):
    parent = make_network(14, widths=(4, 4, 4))
    given = [PhaseConfig(), PhaseConfig(morph="1c1")]
    config = TrainConfig(phases=given, schedule=ScheduleConfig(steps=6), parent="given")
    plans = plan_phases(config, parent.architecture, 3, 60)
    found = Estimator().phases(_experiment(tmp_path), plans, None, parent)
    assert [e.steps for e in found] == [0, 6]
    assert 0 < found[0].seconds < found[1].seconds


@pytest.mark.parametrize("changes", [{"batch_size": 60}, {"optimisation": OptimConfig(ema=0.9)}])
def test_a_single_batch_and_an_average_are_measured_too(tmp_path, changes):
    (found, *_) = Estimator().phases(_experiment(tmp_path, **changes), _plans(), ARCHITECTURE, None)
    assert found.speed.training > 0
    assert found.speed.evaluation > 0
