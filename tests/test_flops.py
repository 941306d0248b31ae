"""The golden figures: exact multiply-accumulates, and that they round to the paper's."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from morphnet import count_macs
from morphnet.morph import plan_morph
from morphnet.nn.resnet import ResNet, bare, cifar_architecture, imagenet_architecture
from morphnet.spec import parse_spec

GOLDEN = {
    (20, None): 40_813_184,
    (20, "1c1"): 43_958_912,
    (20, "3c1"): 56_541_824,
    (20, "3c3"): 69_124_736,
    (20, "1c1_2branch"): 47_104_640,
    (56, None): 125_747_840,
    (56, "1c1_half"): 132_039_296,
    (56, "1c1"): 138_330_752,
    (110, None): 253_149_824,
    (110, "1c1_half"): 267_305_600,
    (110, "1c1"): 279_888_512,
}


@pytest.mark.parametrize(("depth", "spec"), GOLDEN)
@pytest.mark.parametrize(("classes", "more"), [(10, 0), (100, 5_760)])
def test_cifar_networks_cost_what_the_tables_say(depth, spec, classes, more):
    architecture = cifar_architecture(depth, classes)
    if spec is not None:
        architecture = plan_morph(architecture, parse_spec(spec)).child
    assert count_macs(bare(architecture)) == GOLDEN[depth, spec] + more


@pytest.mark.parametrize(("spec", "macs"), [(None, 1_814_073_344), ("1c1", 1_916_833_792)])
def test_imagenet_resnet18_costs_what_table_3_says(spec, macs):
    architecture = imagenet_architecture(18)
    if spec is not None:
        architecture = plan_morph(architecture, parse_spec(spec)).child
    assert count_macs(bare(architecture), (1, 3, 224, 224)) == macs


@pytest.mark.parametrize(
    ("depth", "macs"), [(34, 3_663_761_408), (50, 4_089_184_256), (101, 7_801_405_440), (152, 11_513_626_624)]
)
def test_deeper_imagenet_resnets_cost_what_torchvision_says(depth, macs):
    assert count_macs(bare(imagenet_architecture(depth)), (1, 3, 224, 224)) == macs


def test_every_identity_shortcut_of_resnet50_costs_as_much():
    child = bare(plan_morph(imagenet_architecture(50), parse_spec("1c1")).child)
    assert count_macs(child, (1, 3, 224, 224)) == 4_089_184_256 + 12 * 411_041_792


def test_counting_changes_neither_mode_nor_device_nor_statistics():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert count_macs(network, (2, 3, 8, 8)) == 2 * 4 * 3 * 9 * 36
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


class _Growing(nn.Module):
    """Activations and sums whose result is larger than what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False), nn.PReLU(4)

    def forward(self, x):
        column = self.act(self.norm(x[..., :1]))
        return self.conv(column + x) + self.conv(torch.add(column, x, alpha=2)).relu() + self.conv(1 + x)


@pytest.mark.parametrize("activation", ["relu", "prelu", "gelu"])
@pytest.mark.parametrize("shortcut", ["projection", "padding"])
@pytest.mark.parametrize("training", [False, True])
def test_the_count_is_pytorchs_on_real_numbers(activation, shortcut, training):
    architecture = cifar_architecture(14, 10, widths=(4, 6, 8), shortcut=shortcut, activation=activation)
    if training and activation == "prelu":
        architecture = plan_morph(architecture, parse_spec("3c1_2branch")).child
    _compare(ResNet(architecture).train(training), torch.randn(2, 3, 15, 17))


def test_the_count_is_pytorchs_where_shapes_are_broadcast():
    _compare(_Growing().eval(), torch.randn(2, 4, 5, 6))


def _compare(network, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    assert count_macs(network, x.shape) == counter.get_total_flops() // 2 > 0


def test_a_network_without_weights_is_counted_as_it_is():
    architecture = cifar_architecture(8, 10)
    network = bare(architecture)
    network.bn1.eval()
    assert count_macs(network) == count_macs(ResNet(architecture))
    assert network.training
    assert network.layer1.training
    assert not network.bn1.training


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.PReLU(4)])
def test_a_layer_without_cost_refuses_other_channels_too(layer):
    with pytest.raises(ValueError, match=r"input of size \(1, 5, 8, 8\)"):
        count_macs(nn.Sequential(layer, nn.Conv2d(5, 3, 3)), (1, 5, 8, 8))


def test_an_input_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"input of size \(1, 5, 8, 8\)"):
        count_macs(nn.Conv2d(3, 4, 3), (1, 5, 8, 8))
