"""Modules that stayed near linear become one convolution again."""

import pytest
import torch
from torch import nn

from morphnet import Edge, ModuleGraph, collapse, count_macs, load_network, morph_network, save_network
from morphnet.nn.activation import ParametricActivation
from morphnet.nn.graph_conv import GraphConv2d

SIZE = (3, 16, 16)
FORK = ModuleGraph([Edge("s", "a", kernel=3), Edge("a", "t", kernel=(1, 3)), Edge("s", "t", kernel=3)])
SKIP = ModuleGraph([Edge("s", "a", kernel=3), Edge("a", "t", kernel=1), Edge("a", "t", identity=True, scale=0.5)])


def _batches(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(16, *SIZE, generator=generator) for _ in range(count)]


def _disturb(network, slopes=0.0):
    """Other statistics, scales and biases than a morph leaves, so that none of them can be forgotten."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for value in (module.weight, module.bias, module.running_mean):
                    value.add_(0.3 * torch.randn(value.shape, generator=generator))
                module.running_var.mul_(1 + torch.rand(module.running_var.shape, generator=generator))
            if isinstance(module, ParametricActivation) and float(module.a.mean()) > 0.5:
                module.a.add_(slopes * torch.rand(module.a.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize("spec", ["1c1", "3c1", "1c1_2branch", "1c1_half"])
def test_a_linear_shortcut_is_exactly_one_convolution(make_network, spec):
    child, _ = morph_network(make_network(20), spec, calibration=_batches(), allow_inexact=True)
    _disturb(child)
    small, report = collapse(child, images=_batches(1, 7), input_size=(1, *SIZE))
    assert len(report.collapsed) == len(child.architecture.shortcuts)
    assert report.difference < 1e-5
    assert report.macs_after == count_macs(small, (1, *SIZE)) < report.macs_before
    assert not small.architecture.shortcuts


@pytest.mark.parametrize("settings", [{}, {"bn": "calibrated"}])
@pytest.mark.parametrize("graph", [FORK, SKIP], ids=["fork", "skip"])
def test_a_linear_module_is_exactly_one_convolution(make_network, settings, graph):
    parent = make_network(14)
    child, _ = morph_network(
        parent, {"layer2.?.conv2": graph, "layer2.0.conv1": graph}, calibration=_batches(), **settings
    )
    _, report = collapse(_disturb(child), images=_batches(1, 7), input_size=(1, *SIZE))
    assert len(report.collapsed) == 3
    assert report.difference < 1e-5
    assert report.macs_after < report.macs_before


def test_a_bias_and_borders_are_kept():
    layer = nn.Sequential(nn.Conv2d(3, 4, 3, padding=2, stride=2, bias=True, padding_mode="reflect"), nn.Flatten())
    child, _ = morph_network(layer, {"0": FORK}, example_input=torch.zeros(2, 3, 9, 9))
    with torch.no_grad():
        for bias in child[0].biases.values():
            bias.add_(torch.randn(bias.shape, generator=torch.Generator().manual_seed(1)))
    _, report = collapse(child, images=[torch.randn(4, 3, 9, 9)], input_size=(1, 3, 9, 9))
    assert report.collapsed == ("0",)
    assert report.difference < 1e-5


def test_slopes_that_have_bent_keep_their_module(make_network):
    child, _ = morph_network(make_network(14), "1c1", calibration=_batches(), allow_inexact=True)
    with torch.no_grad():
        child.layer2[1].shortcut.branches[0].act.a[0] = 0.8
    small, report = collapse(child, images=_batches(1, 7), input_size=(1, *SIZE))
    assert report.collapsed == ("layer1.1.shortcut", "layer3.1.shortcut")
    (left,) = [module for module in report.modules if module.reason]
    assert "a slope is 0.200 from 1" in left.reason
    assert report.difference < 1e-5
    assert set(small.architecture.shortcuts) == {"layer2.1"}
    _, more = collapse(child, tolerance=0.3, images=_batches(1, 7), input_size=(1, *SIZE))
    assert len(more.collapsed) == 3
    assert 1e-5 < more.difference < 1
    assert "3 of 3 modules" in str(more)


def test_errors_are_counted_where_there_are_labels(make_network):
    child, _ = morph_network(make_network(14), "1c1", calibration=_batches(), allow_inexact=True)
    images = _batches(2, 7)
    labelled = [(x, child.eval()(x).argmax(1)) for x in images]
    _, report = collapse(child, images=labelled, input_size=(1, *SIZE))
    assert (report.errors_before, report.errors_after, report.images) == (0, 0, 32)


def test_a_shortcut_with_a_module_in_it_is_left_as_it_is(make_network):
    child, _ = morph_network(make_network(14), "1c1", calibration=_batches(), allow_inexact=True)
    name = next(name for name, _ in child.named_modules() if name.endswith("branches.0.conv1"))
    child, _ = morph_network(child, {name: FORK}, example_input=torch.zeros(2, *SIZE))
    _, report = collapse(child, input_size=(1, *SIZE))
    left = {module.name: module.reason for module in report.modules if module.reason}
    assert "a convolution in it is a module of its own" in left.values()


def test_padding_of_its_own_cannot_be_collapsed(make_network):
    child, _ = morph_network(make_network(14), "3c3", calibration=_batches(), allow_inexact=True)
    _, report = collapse(child, input_size=(1, *SIZE))
    assert report.collapsed == ()
    assert "outer pixels" in report.modules[0].reason
    child, _ = morph_network(
        make_network(14), {"layer2.1.conv2": FORK}, example_input=torch.zeros(2, *SIZE), padding="same"
    )
    assert collapse(child, input_size=(1, *SIZE))[1].collapsed == ()


def test_a_collapsed_network_is_saved_and_loaded(make_network, tmp_path):
    child, _ = morph_network(make_network(14), "1c1", calibration=_batches(), allow_inexact=True)
    small, _ = collapse(child, input_size=(1, *SIZE))
    save_network(small, tmp_path / "small.safetensors")
    again = load_network(tmp_path / "small.safetensors")
    x = _batches(1, 5)[0]
    assert again(x).equal(small(x))
    assert sum(isinstance(m, GraphConv2d) for m in again.modules()) == 3
    assert again.metadata["collapsed"] == ["layer1.1.shortcut", "layer2.1.shortcut", "layer3.1.shortcut"]


def test_what_was_never_morphed_is_refused(make_network):
    with pytest.raises(ValueError, match="no morphed module"):
        collapse(make_network(14))
    with pytest.raises(ValueError, match="tolerance=-1"):
        collapse(make_network(14), tolerance=-1)
