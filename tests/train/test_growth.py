"""What a phase grows into is tried before anything is trained."""

import pytest
import torch

import morphnet.train.growth as growth
from morphnet.morph import Deepen, InexactError, Widen
from morphnet.nn.resnet import ResNet
from morphnet.train.growth import network_like, rehearse
from tests.modules import module
from tests.train.test_estimate import _plans
from tests.train.test_shared import ARCHITECTURE, _experiment

GOOD, FLAT = module("sa at st"), module("sa at", kernel=1)


def _layers(*operations):
    phases = [{}] + [{"target": "layer2.*.conv2", "module": "written"}] * len(operations)
    return _plans(phases, layers=[None, *({"layer2.*.conv2": operation} for operation in operations)])


def test_layers_that_can_become_modules_pass(tmp_path):
    rehearse(_experiment(tmp_path), _layers(GOOD), ARCHITECTURE, None)
    assert not list(tmp_path.iterdir())


def test_a_later_phase_is_tried_on_what_the_ones_before_make(tmp_path):
    with pytest.raises(InexactError, match=r"phase 1_\S+ could not begin, so nothing is trained: nothing was morphed"):
        rehearse(_experiment(tmp_path), _layers(FLAT), ARCHITECTURE, None)
    with pytest.raises(ValueError, match=r"phase 2_\S+ could not begin"):
        rehearse(_experiment(tmp_path), _layers(GOOD, Widen(2)), ARCHITECTURE, None)


def test_layers_go_on_through_a_spec(tmp_path):
    layers = {"target": "layer2.*.conv2", "module": "written"}

    def plans(last):
        given = [None, {"layer2.1.conv2": GOOD}, None, {last: Deepen(3)}]
        return _plans([{}, layers, {"morph": "1c1"}, layers], layers=given)

    rehearse(_experiment(tmp_path), plans("layer2.1.conv2.convs.s-a"), ARCHITECTURE, None)
    with pytest.raises(ValueError, match=r"phase 3_\S+ could not begin.*\n.*it is a module already"):
        rehearse(_experiment(tmp_path), plans("layer2.1.conv2"), ARCHITECTURE, None)
    shortcut = [{}, layers, {"morph": "1c1"}]
    module_there = _plans(shortcut, layers=[None, {"layer2.1.shortcut": GOOD}, None])
    with pytest.raises(ValueError, match=r"phase 2_1c1 could not begin.*is a module already"):
        rehearse(_experiment(tmp_path), module_there, ARCHITECTURE, None)


def test_a_given_parent_is_tried_itself_and_stays_as_it_is(tmp_path):
    parent = ResNet(ARCHITECTURE, torch.Generator().manual_seed(0)).eval()
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    rehearse(_experiment(tmp_path), _layers(GOOD), None, parent)
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())
    assert network_like(_experiment(tmp_path), _layers(GOOD)[0], {}, None, parent) is parent


def test_a_phase_that_has_begun_is_tried_no_more(tmp_path, monkeypatch):
    experiment, plans = _experiment(tmp_path), _layers(FLAT)
    folder = experiment.run_dir / "phases" / plans[1].folder
    folder.mkdir(parents=True)
    (folder / "start.safetensors").write_bytes(b"")
    monkeypatch.setattr(growth, "morph_network", lambda *_, **__: pytest.fail("it was tried"))
    rehearse(experiment, plans, ARCHITECTURE, None)
