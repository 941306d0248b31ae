"""What a phase takes over from the one before: rates, momentum, and how much of the weights."""

import copy
import json

import pytest
import torch
from torch import nn

from morphnet.config import AfterConfig, OptimConfig, PhaseConfig, ScheduleConfig, TrainConfig
from morphnet.nn.resnet import ResNet, cifar_architecture
from morphnet.train import plan_phases, run_experiment
from morphnet.train.handover import (
    MOMENTUM_FILE,
    Beginning,
    kept_parameters,
    load_momentum,
    momentum_of,
    save_momentum,
    shapes_of,
    shrink_and_perturb,
)
from morphnet.train.optimizer import make_optimizer
from tests.train.test_shared import ARCHITECTURE, DATA, _experiment


def _network(**settings):
    return ResNet(cifar_architecture(14, 3, widths=(4, 4, 4), **settings), torch.Generator().manual_seed(0))


def _run(folder, after, controls=(), **changes):
    config = TrainConfig(
        phases=[PhaseConfig(), PhaseConfig(morph="1c1")],
        controls=list(controls),
        schedule=ScheduleConfig(steps=6),
        after=AfterConfig(**after),
    )
    plans = plan_phases(config, ARCHITECTURE, 3, len(DATA.train))
    return run_experiment(_experiment(folder, **changes), plans, ARCHITECTURE, None), folder / "first" / "phases"


def test_kept_are_parameters_of_the_same_name_and_shape():
    before, after = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU()), nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU())
    assert kept_parameters(after, shapes_of(before)) == {"0.bias", "1.weight"}


def test_shrink_and_perturb_mixes_weights_with_random_ones_and_leaves_normalisations():
    network = _network(activation="prelu")
    before = copy.deepcopy(network.state_dict())
    shrink_and_perturb(network, AfterConfig(shrink=0.5, perturb=0.0), torch.Generator().manual_seed(3))
    for name, value in network.state_dict().items():
        weight = before[name].dim() > 1 or name.startswith("linear")
        torch.testing.assert_close(value, before[name] * (0.5 if weight else 1), rtol=0, atol=0)
    network.load_state_dict(before)
    shrink_and_perturb(network, AfterConfig(shrink=1.0, perturb=0.1), torch.Generator().manual_seed(3))
    fresh = ResNet(network.architecture, torch.Generator().manual_seed(3))
    torch.testing.assert_close(network.conv1.weight, before["conv1.weight"] + 0.1 * fresh.conv1.weight)


def test_a_rate_for_what_was_there():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    groups = make_optimizer(network, 0.1, beginning=Beginning(frozenset({"0.weight", "0.bias"}), 0.1)).param_groups
    assert [(len(g["params"]), g.get("lr_factor", 1.0), g["weight_decay"]) for g in groups] == [
        (2, 1.0, 1e-4),
        (2, 0.1, 1e-4),
    ]
    assert len(make_optimizer(network, 0.1, beginning=Beginning(frozenset({"0.weight"}))).param_groups) == 1


def test_momentum_goes_by_name_and_shape(tmp_path):
    network, wider = nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Sequential(nn.Conv2d(3, 4, 3))
    optimizer = make_optimizer(network, 0.1, OptimConfig(weight_decay=0.0))
    network(torch.ones(1, 3, 2, 2)).sum().backward()
    optimizer.step()
    save_momentum(momentum_of(network, optimizer), tmp_path)
    kept = load_momentum(tmp_path)
    assert kept.keys() == {"0.weight", "0.bias"}
    assert kept["0.bias"].eq(4).all()
    fresh = make_optimizer(wider, 0.1, beginning=Beginning(momentum=kept))
    found = momentum_of(wider, fresh)
    assert found["0.bias"].eq(4).all()
    assert found["0.weight"].eq(0).all()


def test_momentum_that_is_not_there_or_damaged_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*momentum\.safetensors.*after\.momentum=fresh"):
        load_momentum(tmp_path)
    (tmp_path / MOMENTUM_FILE).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is damaged"):
        load_momentum(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept_lr": -0.1}, "after.kept_lr=-0.1"),
        ({"kept_lr": float("nan")}, "after.kept_lr=nan"),
        ({"momentum": "parent"}, "after.momentum='parent'; expected fresh or kept"),
        ({"shrink": 0.0}, "after.shrink=0.0"),
        ({"perturb": -1.0}, "after.perturb=-1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("(", r"\(")):
        AfterConfig(**change)


def test_a_run_whose_kept_layers_stand_still_changes_new_ones_alone(tmp_path):
    from morphnet.store import load_network

    _, phases = _run(tmp_path, {"kept_lr": 0.0})
    before, after = (load_network(phases / "1_1c1" / f"{f}.safetensors") for f in ("start", "network"))
    parent = load_network(phases / "0_parent" / "network.safetensors")
    kept = kept_parameters(after, shapes_of(parent))
    changed = {name for name, p in after.named_parameters() if not p.equal(before.get_parameter(name))}
    assert kept
    assert not changed & kept
    assert {n for n, p in after.named_parameters() if n not in kept and p.dim() > 1} <= changed


def test_a_run_takes_the_momentum_of_its_parent_and_writes_its_own(tmp_path):
    fresh, _ = _run(tmp_path / "fresh", {})
    kept, phases = _run(tmp_path / "kept", {"momentum": "kept"})
    assert (phases / "1_1c1" / MOMENTUM_FILE).is_file()
    assert fresh[0].lineage.network == kept[0].lineage.network
    assert fresh[1].lineage.network != kept[1].lineage.network
    assert kept[1].handover == {"kept_lr": 1.0, "momentum": "kept", "shrink": 1.0, "perturb": 0.0}


def test_shrink_and_perturb_changes_where_a_phase_starts_and_not_its_proof(tmp_path):
    records, phases = _run(tmp_path, {"shrink": 0.5, "perturb": 0.1}, ["relu", "scratch"])
    assert json.loads((phases / "1_1c1" / "morph_report.json").read_text())["passed"]
    parent, child, relu, scratch = records
    assert child.start_loss != pytest.approx(parent.loss)
    assert relu.start_loss != pytest.approx(parent.loss)
    assert scratch.handover["shrink"] == 1.0
