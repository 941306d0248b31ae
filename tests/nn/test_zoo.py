import functools

import pytest
import torch
import torchvision
from torch import nn

from morphnet import morph_network
from morphnet.morph import Enlarge
from morphnet.nn.zoo import NAMES, build, classes_of, recognise
from tests.modules import module


@functools.cache
def _plain(name, classes=10):
    with torch.device("meta"):
        return build(name, classes)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11_bn", "vgg16", "densenet121", "mobilenet_v3_small"])
@pytest.mark.parametrize("classes", [10, 1000])
def test_a_plain_network_is_recognised(name, classes):
    found = recognise(_plain(name, classes))
    assert found == (name, classes, {"modules": {}, "layers": {}})


def test_every_name_is_one_of_torchvision():
    assert set(NAMES) <= set(torchvision.models.list_models())


def test_a_morphed_network_is_recognised_with_what_was_changed():
    parent = torchvision.models.shufflenet_v2_x1_0(num_classes=4).eval()
    patterns = {"stage2.1.branch2.0": module("sa at", 1), "stage3.1.branch2.3": Enlarge(5)}
    child, _ = morph_network(parent, patterns, example_input=torch.zeros(1, 3, 32, 32))
    name, classes, structure = recognise(child)
    assert (name, classes) == ("shufflenet_v2_x1_0", 4)
    assert set(structure["modules"]) == {"stage2.1.branch2.0"}
    assert set(structure["layers"]) == {"stage3.1.branch2.3"}


@pytest.mark.parametrize("change", ["activation", "dropout", "added", "removed", "normalisation"])
def test_a_network_whose_layer_was_exchanged_is_not_recognised(change):
    network = torchvision.models.mobilenet_v2(num_classes=3)
    if change == "activation":
        network.features[3].conv[0][2] = nn.GELU()
    elif change == "dropout":
        network.classifier[0].p = 0.9
    elif change == "added":
        network.classifier.append(nn.Softmax(1))
    elif change == "removed":
        del network.features[4]
    else:
        network.features[3].conv[0][1] = nn.GroupNorm(4, 144)
    assert recognise(network) is None


class _Subclass(torchvision.models.MobileNetV2):
    """One that computes something else."""


def test_other_classes_are_not_recognised():
    assert recognise(nn.Sequential(nn.Linear(2, 3))) is None
    assert recognise(nn.ReLU()) is None
    assert recognise(_Subclass(num_classes=3)) is None


def test_classes_are_those_of_the_last_linear_layer():
    assert classes_of(_plain("vgg11_bn")) == 10
    assert classes_of(nn.Sequential(nn.Conv2d(3, 4, 1))) is None


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"torchvision:os\.system: expected one of alexnet, densenet121"):
        build("os.system")
