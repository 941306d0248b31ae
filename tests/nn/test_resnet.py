import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from morphnet.morph import Widen, morph_network
from morphnet.nn.activation import ParametricActivation
from morphnet.nn.branch import ShortcutShape
from morphnet.nn.resnet import (
    Architecture,
    PaddingShortcut,
    ResNet,
    bare,
    cifar_architecture,
    imagenet_architecture,
    with_parametric_activations,
)
from morphnet.nn.torchvision import convert_torchvision


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 56])
def test_a_cifar_resnet_has_so_many_layers_with_weights(depth):
    network = ResNet(cifar_architecture(depth, 10))
    layers = [m for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and "shortcut" not in n]
    assert len(layers) == depth == network.architecture.depth


@pytest.mark.parametrize("depth", [2, 7, 18, 21, 0, -4])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match="6n\\+2 layers"):
        cifar_architecture(depth, 10)


def test_stages_have_any_width_and_images_any_channels():
    network = ResNet(cifar_architecture(14, 7, widths=(3, 5, 11), in_channels=1))
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 7)


def test_imagenet_resnet18_has_the_parameter_names_and_function_of_torchvision():
    theirs = torchvision.models.resnet18().eval()
    ours = ResNet(imagenet_architecture(18)).eval()
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_an_imagenet_resnet_has_the_names_shapes_and_order_of_torchvision(depth):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")()
    ours = bare(imagenet_architecture(depth))
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    layers = [m for n, m in ours.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and "downsample" not in n]
    assert len(layers) == depth == ours.architecture.depth


@pytest.mark.parametrize("depth", [20, 49, 51, 0])
def test_a_depth_that_no_imagenet_resnet_has_is_refused(depth):
    with pytest.raises(ValueError, match=f"network.depth={depth}: .* 18, 34, 50, 101 or 152 layers"):
        imagenet_architecture(depth)


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_a_torchvision_resnet_becomes_ours_whatever_its_weights_and_statistics(name):
    theirs = getattr(torchvision.models, name)(num_classes=7)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.5, generator=generator)
                module.running_var.uniform_(0.3, 3, generator=generator)
                module.weight.normal_(0, 0.7, generator=generator)
                module.bias.normal_(0, 0.7, generator=generator)
    ours = convert_torchvision(theirs)
    assert ours.architecture == imagenet_architecture(int(name.removeprefix("resnet")), 7)
    assert ours.training
    x = torch.randn(2, 3, 75, 64, generator=generator)
    for network in (theirs, ours):
        network.eval()
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.double()(x.double()), theirs.double()(x.double()))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnext50_32x4d", {}),
        ("wide_resnet50_2", {}),
        ("resnet50", {"replace_stride_with_dilation": [False, False, True]}),
    ],
)
def test_grouped_wide_and_dilated_resnets_stay_of_their_own_class(name, settings):
    with torch.device("meta"):
        network = getattr(torchvision.models, name)(**settings)
    assert convert_torchvision(network) is None


def test_the_stride_of_a_bottleneck_is_that_of_its_3x3_convolution(make_bottlenecks):
    block = dict(make_bottlenecks().named_blocks())["layer2.0"]
    assert [conv.stride for conv in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (2, 2), (1, 1)]
    assert block.shortcut_part[0].stride == (2, 2)


def test_a_torchvision_network_with_an_exchanged_layer_is_not_converted():
    network = torchvision.models.resnet18()
    network.relu = nn.GELU()
    network.layer1[0].relu = nn.GELU()
    with pytest.raises(ValueError, match="a layer was exchanged"):
        convert_torchvision(network)


def test_padding_shortcut_keeps_every_second_pixel_between_channels_of_zeros():
    x = torch.randn(2, 4, 6, 6)
    y = PaddingShortcut(4, 8, 2)(x)
    assert_close(y[:, 2:6], x[:, :, ::2, ::2])
    assert y[:, :2].abs().sum() == y[:, 6:].abs().sum() == 0


def test_parametric_activations_are_the_same_function(make_network, batches):
    network = make_network()
    converted = with_parametric_activations(network)
    assert torch.equal(converted(batches[0]), network(batches[0]))
    assert sum(isinstance(m, ParametricActivation) for m in converted.modules()) == 13
    assert with_parametric_activations(converted).state_dict().keys() == converted.state_dict().keys()


def test_parametric_activations_are_as_wide_as_a_widened_layer(make_network, batches):
    network, _ = morph_network(make_network(), {"layer2.1.conv1": Widen(1.5)}, example_input=batches[0])
    converted = with_parametric_activations(network)
    assert torch.equal(converted(batches[0]), network(batches[0]))
    assert (converted.layer2[1].act1.a.numel(), converted.layer2[1].act2.a.numel()) == (12, 8)


def test_parametric_activations_of_bottlenecks_are_the_same_function(make_bottlenecks, batches):
    network = make_bottlenecks()
    converted = with_parametric_activations(network)
    assert torch.equal(converted(batches[0]), network(batches[0]))
    assert sum(isinstance(m, ParametricActivation) for m in converted.modules()) == 1 + 3 * 5


def test_slopes_that_are_there_are_kept(make_network, batches):
    network = make_network(activation="prelu")
    assert torch.equal(with_parametric_activations(network)(batches[0]), network(batches[0]))


def test_an_architecture_comes_back_from_json():
    shape = ShortcutShape((3, 1), 8, two_branches=True, split=0.3, padding="exact", activation="tanh")
    architecture = cifar_architecture(14, 10, widths=(4, 8, 16), activation="prelu", shortcuts={"layer2.1": shape})
    import json

    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "rleu"}, "network.activation='rleu'"),
        ({"shortcut": "none"}, "network.shortcut='none'"),
        ({"widths": (8, 4, 16), "shortcut": "padding"}, "cannot drop channels"),
        ({"widths": (8, 16)}, "one width per stage"),
        ({"widths": (8, 0, 16)}, "at least 1"),
        ({"in_channels": 0}, "at least 1"),
    ],
)
def test_wrong_architectures_are_refused_with_the_key_named(change, message):
    with pytest.raises(ValueError, match=message):
        cifar_architecture(14, 10, **change)


def test_the_kind_of_block_is_described_where_it_is_not_the_basic_one():
    basic = cifar_architecture(14, 10)
    assert "block" not in basic.to_dict()  # as in files written before there was a choice
    assert Architecture.from_dict(basic.to_dict()).block == "basic"
    bottlenecks = imagenet_architecture(50)
    assert bottlenecks.to_dict()["block"] == "bottleneck"
    assert Architecture.from_dict(bottlenecks.to_dict()) == bottlenecks
    with pytest.raises(ValueError, match="block='bottelneck'; expected 'basic' or 'bottleneck'"):
        Architecture.from_dict({**bottlenecks.to_dict(), "block": "bottelneck"})


def test_a_description_with_a_missing_or_unknown_key_is_refused():
    description = cifar_architecture(14, 10).to_dict()
    with pytest.raises(ValueError, match="not the description of a network"):
        Architecture.from_dict({**description, "depht": 3})
    del description["widths"]
    with pytest.raises(ValueError, match="not the description of a network"):
        Architecture.from_dict(description)


def test_a_shortcut_that_changes_the_shape_cannot_be_split():
    with pytest.raises(ValueError, match=r"layer2\.0: its shortcut changes the shape"):
        ResNet(cifar_architecture(14, 10, shortcuts={"layer2.0": ShortcutShape((1, 1), 32)}))


def test_equal_generators_make_equal_networks():
    first, second = (ResNet(cifar_architecture(8, 10), torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
