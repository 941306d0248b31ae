"""A network for other classes: everything but its last layer stays."""

import pytest
import torch
from torch import nn

from morphnet import load_network, morph_network, save_network
from morphnet.nn.head import with_new_head
from morphnet.nn.resnet import ResNet, cifar_architecture
from morphnet.nn.zoo import build, classes_of


def _generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture(scope="module")
def grown():
    parent = ResNet(cifar_architecture(14, 10, widths=(4, 8, 8)), _generator()).eval()
    batches = [torch.randn(8, 3, 16, 16, generator=_generator()) for _ in range(4)]
    return morph_network(parent, "1c1", calibration=batches, allow_inexact=True)[0]


def test_all_but_the_head_stays_and_the_file_knows_it(grown, tmp_path):
    before = {name: value.clone() for name, value in grown.state_dict().items()}
    grown.metadata |= {"data": "digits", "class_names": list("0123456789"), "mean": [0.5] * 3}
    child = with_new_head(grown, 7, _generator())
    assert {"data", "class_names", "mean"} & child.metadata.keys() == {"mean"}
    assert "class_names" in grown.metadata
    assert (classes_of(child), classes_of(grown), child.architecture.classes) == (7, 10, 7)
    changed = [name for name, value in child.state_dict().items() if not torch.equal(value, grown.state_dict()[name])]
    assert changed == ["linear.weight", "linear.bias"]
    assert all(torch.equal(value, before[name]) for name, value in grown.state_dict().items())
    again = load_network(save_network(child, tmp_path / "n.safetensors"))
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(x), child.eval()(x))
    assert torch.equal(with_new_head(grown, 7, _generator()).linear.weight, child.linear.weight)


@pytest.mark.parametrize(
    "name", ["shufflenet_v2_x1_0", "mobilenet_v3_small", pytest.param("vgg11_bn", marks=pytest.mark.slow)]
)
def test_a_network_of_torchvision_keeps_its_class(name, tmp_path):
    network = with_new_head(build(name), 5)
    assert type(network) is type(build(name))
    assert classes_of(load_network(save_network(network, tmp_path / "n.safetensors"))) == 5


def test_what_has_no_head_is_refused():
    with pytest.raises(ValueError, match="has no linear layer"):
        with_new_head(nn.Sequential(nn.Conv2d(1, 1, 1)), 2)
    with pytest.raises(ValueError, match="classes=0"):
        with_new_head(nn.Sequential(nn.Linear(1, 1)), 0)
