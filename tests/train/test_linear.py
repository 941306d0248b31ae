"""The control ``linear``: new slopes stay at 1 while the rest is trained, so that it collapses exactly."""

import pytest
import torch

from morphnet import collapse
from morphnet.config import AfterConfig, MorphConfig, OptimConfig, PhaseConfig, ScheduleConfig, TrainConfig
from morphnet.data import evaluation_batches
from morphnet.morph import Deepen, Widen, morph_network
from morphnet.nn.resnet import ResNet, cifar_architecture
from morphnet.store import load_network
from morphnet.train import plan_phases, run_experiment
from morphnet.train.handover import load_momentum
from morphnet.train.phase import Phase
from tests.modules import module
from tests.train.test_shared import ARCHITECTURE, DATA, _experiment

FORK = module("sa at st")


def _plans(*phases, layers=(), parent=ARCHITECTURE, given=False, controls=("linear",), morphing=None, after=None):
    config = TrainConfig(
        phases=[PhaseConfig(), *(PhaseConfig(**phase) for phase in phases)],
        controls=list(controls),
        schedule=ScheduleConfig(steps=6),
        morphing=morphing or MorphConfig(),
        after=after or AfterConfig(),
        parent="given" if given else None,
    )
    return plan_phases(config, parent, 3, len(DATA.train), layers)


def _run(folder, plans, parent=None, **changes):
    """The records, and for each phase the network it began with and the one it left, by name."""
    experiment = _experiment(folder, **{"trainer": {"checkpoint_seconds": 1000.0}, **changes})
    records = run_experiment(experiment, plans, None if parent else ARCHITECTURE, parent)
    networks = {
        plan.name: [
            load_network(experiment.run_dir / "phases" / plan.folder / f"{n}.safetensors") for n in ("start", "network")
        ]
        for plan in plans
    }
    return records, networks


def _inside(network):
    """The slopes in modules."""
    parts = (".branches.", ".activations.")
    named = {name: value.detach() for name, value in network.named_parameters() if name.endswith(".a")}
    return {name: value for name, value in named.items() if any(part in name for part in parts)}


def _assert_held(start, network, but=()):
    """New slopes are 1 to the last bit, and everything else has moved; ``but`` are slopes that the parent had."""
    held = {name: value for name, value in _inside(network).items() if name not in but}
    assert held
    assert all(bool((slope == 1).all()) for slope in held.values())
    before = dict(start.named_parameters())
    assert {name for name, value in network.named_parameters() if torch.equal(value, before[name])} == set(held)
    return len(held)


def test_new_slopes_stay_at_1_and_all_else_is_trained_from_where_the_child_starts(tmp_path):
    _, networks = _run(tmp_path, _plans({"morph": "1c1"}))
    _assert_held(*networks["linear"])
    start, child_start = (networks[name][0].state_dict() for name in ("linear", "1c1"))
    assert all(torch.equal(value, child_start[name]) for name, value in start.items())
    assert all(bool((slope != 1).any()) for slope in _inside(networks["1c1"][1]).values())


@pytest.mark.parametrize(
    "changes",
    [
        {"optimisation": OptimConfig(ema=0.9, nesterov=True)},
        {"optimisation": OptimConfig(momentum=0.0)},
        {"trainer": {"watch_steps": 4, "watch_every": 2}},
    ],
    ids=["average", "no momentum", "watched"],
)
def test_they_stay_at_1_however_the_phase_is_trained(tmp_path, changes):
    _, networks = _run(tmp_path, _plans({"morph": "1c1_2branch"}), **changes)
    _assert_held(*networks["linear"])


def test_a_chain_holds_the_slopes_of_all_its_phases_and_its_momentum_has_none_of_them(tmp_path):
    phases = [{"morph": "1c1"}, {"target": "layer2.1.conv2", "module": "fork"}, {}]
    plans = _plans(*phases, layers=[None, None, {"layer2.1.conv2": FORK}, None], after=AfterConfig(momentum="kept"))
    records, networks = _run(tmp_path, plans)
    assert [_assert_held(*networks[f"linear_{i}"]) for i in range(1, 4)] == [3, 4, 4]
    momentum = load_momentum(tmp_path / "first" / "phases" / plans[-1].folder)
    assert set(dict(networks["linear_3"][1].named_parameters())) - set(momentum) == set(
        _inside(networks["linear_3"][1])
    )
    assert all(record.collapsed_macs < record.macs for record in records[4:])
    assert all(record.collapsed_macs is None for record in records[:4])


def test_slopes_that_a_given_parent_has_are_trained(tmp_path):
    torch.manual_seed(0)
    images = [torch.randn(20, 3, 8, 8) for _ in range(4)]
    parent, _ = morph_network(ResNet(ARCHITECTURE), "1c1", calibration=images, allow_inexact=True)
    there = _inside(parent)
    plans = _plans({"morph": "1c1_2branch"}, parent=parent.architecture, given=True)
    _, networks = _run(tmp_path, plans, parent)
    start, network = networks["linear"]
    _assert_held(start, network, but=there)
    assert len(_inside(network)) == 2 * len(there)


def test_layers_that_become_modules_are_held_and_collapse(tmp_path):
    torch.manual_seed(0)
    parent = ResNet(cifar_architecture(8, 3, widths=(4, 4, 4)))
    layers = [None, {"layer2.0.conv2": Deepen(3)}, {"conv1": FORK}]
    phases = [{"target": "layer2.0.conv2", "deepen": 3}, {"target": "conv1", "module": "fork"}]
    records, networks = _run(tmp_path, _plans(*phases, layers=layers, parent=parent, given=True), parent)
    assert [_assert_held(*networks[name]) for name in ("linear_1", "linear_2")] == [1, 2]
    _, report = collapse(networks["linear_2"][1], tolerance=0, input_size=(1, 3, 8, 8))
    assert report.collapsed == ("conv1", "layer2.0.conv2")
    assert records[4].collapsed_macs == report.macs_after
    assert records[4].collapsed_parameters == report.parameters_after


def test_a_phase_that_goes_on_holds_them_too(tmp_path, monkeypatch):
    plans = _plans({"morph": "1c1"})
    _, whole = _run(tmp_path / "whole", plans)
    save = Phase.save

    def die(phase):
        save(phase)
        if phase.outputs.name == "linear":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Phase, "save", die)
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path / "parts", plans, trainer={"checkpoint_seconds": 0.0})
    records, parts = _run(tmp_path / "parts", plans)
    assert records[2].resumed == 1
    _assert_held(*parts["linear"])
    end = whole["linear"][1].state_dict()
    assert all(torch.equal(value, end[name]) for name, value in parts["linear"][1].state_dict().items())


@pytest.mark.parametrize(("spec", "padding"), [("1c1", "same"), ("3c1_2branch", "same"), ("3c3", "exact")])
def test_it_collapses_into_the_same_function_for_the_flop_its_record_says(tmp_path, spec, padding):
    morphing = MorphConfig(padding=padding)
    records, networks = _run(tmp_path, _plans({"morph": spec}, morphing=morphing), morphing=morphing)
    network = networks["linear"][1].double()
    images = [(x.double(), y) for x, y in evaluation_batches(DATA)]
    _, report = collapse(network, tolerance=0, images=images, input_size=(1, 3, 8, 8))
    assert len(report.collapsed) == 3
    assert report.difference < 1e-12
    assert report.errors_before == report.errors_after == records[2].errors
    assert (records[2].macs, records[2].collapsed_macs) == (report.macs_before, report.macs_after)


def test_a_second_convolution_that_pads_for_itself_has_no_collapsed_flop(tmp_path):
    records, networks = _run(tmp_path, _plans({"morph": "3c3"}))
    _assert_held(*networks["linear"])
    assert records[2].collapsed_macs is records[2].collapsed_parameters is None


@pytest.mark.parametrize(
    ("phases", "settings"),
    [
        ([{}], {}),
        ([{"widen": 2, "target": "conv1"}], {"layers": [None, {"conv1": Widen(2)}]}),
        ([{"morph": "3c1"}], {"given": True}),
    ],
    ids=["no morph", "wider", "larger kernels of branches that were there"],
)
def test_it_is_refused_where_no_phase_brings_slopes(phases, settings, make_network):
    if settings.get("given"):
        images = [torch.randn(16, 3, 16, 16) for _ in range(2)]
        child, _ = morph_network(make_network(14), "1c1", calibration=images, allow_inexact=True)
        settings = {**settings, "parent": child.architecture}
    with pytest.raises(ValueError, match=r"controls=\[linear\] holds the slopes .* no phase brings one"):
        _plans(*phases, **settings)
