"""Layers of any network, named by patterns: the function is kept, and what cannot be done is refused by name."""

import copy
import functools
import hashlib
import json

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from morphnet import MorphError, morph_network
from morphnet.morph import Deepen, Enlarge, InexactError, Widen, find_targets
from morphnet.nn.graph_conv import GraphConv2d
from tests.modules import BRIDGE, module

PAIR = module("sa at")
#: configs/module/side_1c1.yaml
SIDE = module("st sa:1x1 at:1x1", channels={"a": "0.5x"})
PAIR_1X1 = module("sa at", 1)
BOTTLENECK = module("sa:1x1 ab bt:1x1 st", channels={"a": "0.25x", "b": "0.25x"})


@functools.cache
def _torchvision(name):
    """torchvision's ``name`` for ten classes, its batch normalisation those of no fresh network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = getattr(torchvision.models, name)(num_classes=10)
        if name == "vgg11_bn":  # 120 million weights that have nothing to do with it
            network.classifier = nn.Linear(512 * 49, 10)
        for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.normal_(norm.running_mean, 0, 0.1)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return network.eval()


class _Own(nn.Module):
    """Two outputs, no batch normalisation, an identity, an empty sequence and a layer under two names."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, (1, 2), padding_mode="reflect")
        self.body = nn.ModuleDict({"first": nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=2)})
        self.body["again"] = self.body["first"]
        self.shortcut, self.nothing = nn.Identity(), nn.Sequential()
        self.boxes = nn.Conv2d(8, 4, 2, bias=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = self.nothing(self.body["again"](torch.relu(self.body["first"](x))) + self.shortcut(x))
        return {"classes": self.head(y.mean((2, 3))), "boxes": [self.boxes(y)]}


def _own():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _Own().eval()


def _digest(network):
    digest = hashlib.sha256(repr(network).encode())
    for name, value in network.state_dict().items():
        digest.update(
            f"{name} {value.dtype}".encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def _images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _storages(network):
    return {value.untyped_storage().data_ptr() for value in network.state_dict().values()}


def _assert_kept(parent, child, report, x, tolerance=1e-5):
    """That the report says so, and that it is so on images that the morph has not seen."""
    assert report.passed
    assert not report.drift_declared
    assert report.proof.exactness.relative <= 1e-10
    assert report.proof.delivered.relative <= tolerance
    assert not _storages(parent) & _storages(child)
    with torch.no_grad():
        first, second = (copy.deepcopy(network).double().eval()(x.double()) for network in (parent, child))
    first, second = (y if isinstance(y, dict) else {"y": [y]} for y in (first, second))
    for key in first:
        for a, b in zip(first[key], second[key], strict=True):
            assert float((a - b).abs().max()) <= tolerance * float(a.abs().max())


TORCHVISION = [
    ("resnet18", {"layer4.1.conv2": BOTTLENECK}, ["layer4.1.conv2"]),
    ("resnet18", {"layer3.*.conv2": PAIR}, ["layer3.0.conv2", "layer3.1.conv2"]),
    (
        "resnet18",
        {"layer2.0.conv1": module(BRIDGE), "layer2.0.downsample.0": PAIR_1X1},
        ["layer2.0.conv1", "layer2.0.downsample.0"],
    ),
    pytest.param(
        "vgg11_bn",
        {"features.0": PAIR, "features.[48]": BOTTLENECK},
        ["features.0", "features.4", "features.8"],
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "densenet121",
        {"features.denseblock1.denselayer[12].conv2": PAIR, "features.transition1.conv": PAIR_1X1},
        [*(f"features.denseblock1.denselayer{i}.conv2" for i in (1, 2)), "features.transition1.conv"],
        marks=pytest.mark.slow,
    ),
    (
        "mobilenet_v2",
        {"features.2.conv.1.0": PAIR, "features.3.conv.0.0": PAIR_1X1},
        ["features.2.conv.1.0", "features.3.conv.0.0"],
    ),
]


@pytest.mark.parametrize(("name", "patterns", "layers"), TORCHVISION)
def test_layers_of_a_torchvision_network_become_modules(name, patterns, layers):
    parent = _torchvision(name)
    before = _digest(parent)
    child, report = morph_network(parent, patterns, example_input=torch.zeros(1, 3, 32, 32))
    assert _digest(parent) == before
    assert type(child) is type(parent)
    assert [layer.name for layer in report.layers] == layers
    assert [n for n, m in child.named_modules() if isinstance(m, GraphConv2d)] == layers
    assert all(layer.residual <= 1e-12 and layer.module for layer in report.layers)
    assert report.macs_after > report.macs_before
    assert report.parameters_after > report.parameters_before
    assert report.input_size == (1, 3, 32, 32)
    _assert_kept(parent, child, report, _images(2, 3, 48, 40))


def test_a_stride_is_carried_by_the_module():
    parent = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
    child, _ = morph_network(parent, {"0": BOTTLENECK})
    x = _images(1, 4, 9, 10)
    assert child[0].stride == (2, 2)
    assert_close(child(x), parent(x), atol=1e-5, rtol=1e-4)


def test_every_3x3_convolution_of_bottlenecks_gets_a_thin_pair_beside_it(make_bottlenecks, batches):
    parent = make_bottlenecks()
    child, report = morph_network(parent, {"layer*.*.conv2": SIDE}, calibration=batches)
    _assert_kept(parent, child, report, _images(2, 3, 41, 36))
    assert [layer.name for layer in report.layers] == [f"{name}.conv2" for name, _ in parent.named_blocks()]
    assert all((layer.weak, layer.zero_share) == ((), 0.0) and layer.condition <= 3 for layer in report.layers)
    thin = child.layer2[0].conv2.convs["s-a"]
    assert (thin.weight.shape, thin.stride) == ((4, 8, 1, 1), (2, 2))
    child.train()(_images(8, 3, 32, 32)).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for n, p in child.named_parameters() if ".convs." in n)


@pytest.mark.parametrize("bn", ["none", "calibrated"])
def test_an_identity_shortcut_of_a_bottleneck_becomes_a_module(make_bottlenecks, batches, bn):
    parent = make_bottlenecks()
    graph = module("sa at st=0.5", 1)
    child, report = morph_network(parent, {"layer2.1.downsample": graph}, calibration=batches, bn=bn)
    _assert_kept(parent, child, report, _images(2, 3, 41, 36))
    assert child.layer2[1].downsample.convs["s-a"].out_channels == 32


def test_a_bottleneck_is_widened_inside(make_bottlenecks, batches):
    parent = make_bottlenecks(activation="prelu")
    child, report = morph_network(parent, {"layer?.1.conv[12]": Widen(1.5)}, calibration=batches)
    _assert_kept(parent, child, report, _images(2, 3, 41, 36))
    assert child.layer2[1].conv3.weight.shape == (32, 12, 1, 1)


def test_a_depthwise_convolution_is_morphed_channel_by_channel():
    child, report = morph_network(nn.Sequential(nn.Conv2d(6, 6, 3, groups=6)), {"0": PAIR})
    assert {conv.groups for conv in child[0].convs.values()} == {6}
    assert report.layers[0].module["conv"]["groups"] == 6
    assert report.passed


def test_the_training_mode_is_kept_without_new_batch_normalisation(make_network):
    parent = make_network(8)
    child, report = morph_network(parent, {"layer*.conv1": PAIR}, example_input=torch.zeros(8, 3, 16, 16))
    assert report.proof.training.difference < 1e-3 * report.proof.training.size
    x = _images(4, 3, 32, 32).double()
    with torch.no_grad():
        first, second = (copy.deepcopy(network).double().train()(x) for network in (parent, child))
    assert_close(second, first, atol=1e-5, rtol=1e-5)


def test_every_new_parameter_gets_a_gradient():
    child, _ = morph_network(_own(), {"stem": BOTTLENECK, "body.first": PAIR}, example_input=torch.zeros(1, 3, 16, 16))
    y = child(_images(4, 3, 16, 16))
    (y["classes"].square().sum() + y["boxes"][0].square().sum()).backward()
    for name, parameter in child.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


# One's own networks ---------------------------------------------------------------------------------------------------


def test_a_network_of_ones_own_with_several_outputs():
    parent = _own()
    patterns = {"stem": module(BRIDGE, 5), "body.*": PAIR, "shortcut": PAIR, "nothing": PAIR_1X1, "boxes": BOTTLENECK}
    child, report = morph_network(parent, patterns, example_input=torch.zeros(1, 3, 16, 16), activation="pgelu")
    assert type(child) is _Own
    assert [layer.name for layer in report.layers] == ["stem", "body.first", "shortcut", "nothing", "boxes"]
    assert all(isinstance(m, GraphConv2d) for m in (child.shortcut, child.nothing, child.boxes))
    assert child.stem.activations["a"].function == "gelu"
    _assert_kept(parent, child, report, _images(3, 3, 17, 20))
    assert set(child(_images(1, 3, 16, 16))) == {"classes", "boxes"}


@pytest.mark.parametrize("pattern", ["body.first", "body.again", "body.*"])
def test_a_layer_under_two_names_goes_by_either_and_stays_one_layer(pattern):
    child, report = morph_network(_own(), {pattern: PAIR}, example_input=torch.zeros(1, 3, 16, 16))
    assert [layer.name for layer in report.layers] == ["body.first"]
    assert isinstance(child.body["first"], GraphConv2d)
    assert child.body["first"] is child.body["again"]


def test_a_deepcopy_and_a_second_morph_of_the_child_are_exact_too():
    parent = _own()
    first, _ = morph_network(parent, {"stem": PAIR}, example_input=torch.zeros(1, 3, 16, 16))
    second, report = morph_network(first, {"stem.convs.s-a": PAIR}, example_input=torch.zeros(1, 3, 16, 16))
    assert report.layers[0].name == "stem.convs.s-a"
    _assert_kept(parent, second, report, _images(2, 3, 16, 16))
    assert second.metadata["morphs"] == ["stem: module of 2 convolutions", "stem.convs.s-a: module of 2 convolutions"]
    assert first.metadata["morphs"] == ["stem: module of 2 convolutions"]


def test_the_dtype_of_every_layer_is_kept():
    parent = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    parent = parent.bfloat16().eval()
    parent[1].float()
    child, report = morph_network(parent, {"0": PAIR, "3": BOTTLENECK}, example_input=torch.zeros(1, 3, 8, 8))
    assert {p.dtype for i in (0, 3) for p in child[i].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in child[1].parameters()} == {torch.float32}
    assert report.proof.exactness.relative < 1e-10
    assert report.proof.tolerance["delivered"] == 0.2
    assert report.passed
    assert child(_images(2, 3, 8, 8).bfloat16()).dtype == torch.bfloat16


def test_frozen_layers_stay_frozen_and_modes_stay_what_they_were():
    parent = _own().train()
    parent.stem.eval().requires_grad_(False)
    parent.head.weight.requires_grad_(False)
    patterns = {"stem": PAIR, "body.first": PAIR, "shortcut": PAIR_1X1}
    child, _ = morph_network(parent, patterns, example_input=torch.zeros(1, 3, 16, 16))
    assert not any(p.requires_grad for p in child.stem.parameters())
    assert not any(m.training for m in child.stem.modules())
    assert all(p.requires_grad for part in (child.body, child.shortcut) for p in part.parameters())
    assert all(m.training for part in (child.body, child.shortcut) for m in part.modules())
    assert (child.head.weight.requires_grad, child.head.bias.requires_grad) == (False, True)
    assert child.training
    assert parent.training
    assert not parent.stem.training


def test_the_generator_decides_the_filters():
    def first(seed, **settings):
        generator = torch.Generator().manual_seed(seed)
        child, _ = morph_network(_own(), {"stem": PAIR}, generator=generator, **settings)
        return child.stem.convs["s-a"].weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    assert (first(1, init="sparse") == 0).float().mean() > (first(1) == 0).float().mean()


# Batch normalisation, padding, methods --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged_batches():
    return [_images(128, 3, 16, 16, seed=i) for i in range(8)]


def test_new_batch_normalisation_is_exact_in_both_modes_when_calibrated(make_network, judged_batches):
    parent = make_network(8)
    child, report = morph_network(
        parent, {"layer2.0.conv2": PAIR, "layer3.0.conv1": BOTTLENECK}, calibration=judged_batches, bn="calibrated"
    )
    assert len(child.layer2[0].conv2.norms) == 2
    assert len(child.layer3[0].conv1.norms) == 4
    assert report.proof.training.judged
    assert report.proof.training.ratio < 0.2
    _assert_kept(parent, child, report, _images(2, 3, 17, 19, seed=9))


def test_the_papers_batch_normalisation_drifts_and_says_so(make_network, batches):
    _, report = morph_network(make_network(8), {"layer2.0.conv2": PAIR}, calibration=batches, bn="paper")
    assert report.drift_declared
    assert report.passed
    assert report.proof.exactness.relative > 1e-3
    assert "bn=paper changes the function" in str(report)


@pytest.mark.parametrize("bn", ["calibrated", "paper"])
def test_new_batch_normalisation_needs_data(make_network, bn):
    with pytest.raises(ValueError, match=rf"bn={bn} sets new batch normalisations from data.*give calibration="):
        morph_network(make_network(8), {"layer2.0.conv2": PAIR}, bn=bn)


def test_same_padding_changes_the_border_alone_and_is_declared():
    parent = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).eval()
    wide = module("sa at", channels={"a": 40})
    given = {"example_input": torch.zeros(1, 3, 12, 12), "padding": "same", "method": "als"}
    child, report = morph_network(parent, {"0": wide}, **given)
    assert report.drift_declared
    assert report.passed
    assert report.layers[0].residual < 1e-10
    assert report.proof.exactness.relative > 1e-3
    assert "padding=same changes the function" in str(report)
    x = _images(2, 3, 12, 12)
    with torch.no_grad():
        difference = (child(x) - parent(x)).abs()
    assert float(difference[:, :, 1:-1, 1:-1].max()) < 1e-4
    assert float(difference.max()) > 1e-3


def test_theorem_8_as_printed_finds_a_feasible_module():
    parent = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten()).eval()
    graph = module("sa at", channels={"a": 40})
    child, report = morph_network(parent, {"0": graph}, example_input=torch.zeros(1, 3, 8, 8), method="als")
    assert report.layers[0].outcome.startswith("als")
    assert report.method == "als"
    _assert_kept(parent, child, report, _images(2, 3, 11, 8)[:, :, :8])
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["layers"][0]["module"]["graph"]["channels"] == {"a": 40}
    assert "nan" not in str(report)


def test_theorem_8_as_printed_that_stalls_is_refused_or_declared():
    parent = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten()).eval()
    given = {"example_input": torch.zeros(1, 3, 8, 8), "method": "als"}
    with pytest.raises(InexactError, match=r"no exact solution was found:\n  0: als: residual .* stalled"):
        morph_network(parent, {"0": PAIR_1X1}, **given)
    child, report = morph_network(parent, {"0": PAIR_1X1}, **given, allow_inexact=True)
    assert isinstance(child[0], GraphConv2d)
    assert report.drift_declared
    assert report.proof.failures
    assert "a filter without an exact solution changes the function" in str(report)
    assert "nan" not in str(report)
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_report_is_strict_json_even_of_a_network_of_nan():
    parent = _own()
    nn.init.constant_(parent.head.weight, float("nan"))
    with pytest.raises(MorphError) as caught:
        morph_network(parent, {"stem": PAIR}, example_input=torch.zeros(1, 3, 16, 16))
    values = json.loads(json.dumps(caught.value.report.to_dict(), allow_nan=False))
    assert values["passed"] is False
    assert values["proof"]["exactness"]["relative"] is None


# The layer morphs of earlier work -------------------------------------------------------------------------------------


def test_deepen_widen_and_enlarge_in_one_go():
    parent = _torchvision("resnet18")
    patterns = {"layer1.0.conv1": Widen(1.25), "layer1.1.conv1": Enlarge(5), "layer1.1.conv2": Deepen((1, 3))}
    child, report = morph_network(parent, patterns, example_input=torch.zeros(1, 3, 32, 32))
    assert child.layer1[0].conv1.out_channels == child.layer1[0].bn1.num_features == 80
    assert child.layer1[0].conv2.in_channels == 80
    assert child.layer1[1].conv1.kernel_size == (5, 5)
    convs = child.layer1[1].conv2.convs
    assert [convs[key].kernel_size for key in ("s-a", "a-t")] == [(3, 3), (1, 3)]
    assert report.spec == "layer1.0.conv1: widen(1.25); layer1.1.conv1: enlarge(5); layer1.1.conv2: deepen((1, 3))"
    assert "layer1.0.bn1: BatchNorm2d, channels 64 -> 80" in report.layers[0].change
    _assert_kept(parent, child, report, _images(2, 3, 40, 36))


def test_widening_follows_through_flattening_to_the_classifier():
    parent = _torchvision("vgg11_bn")
    child, report = morph_network(parent, {"features.25": Widen(1.01)}, example_input=torch.zeros(1, 3, 32, 32))
    assert child.features[25].out_channels == 518
    assert child.classifier.in_features == 518 * 49
    assert report.passed
    assert report.proof.exactness.relative <= 1e-10


def test_net2net_deepens_by_an_identity():
    parent = _own()
    child, report = morph_network(
        parent, {"stem": Deepen(3)}, example_input=torch.zeros(1, 3, 16, 16), method="net2net"
    )
    assert report.layers[0].outcome == "identity insert"
    assert torch.equal(child.stem.convs["s-a"].weight, parent.stem.weight)
    identity = nn.init.dirac_(torch.empty(8, 8, 3, 3))
    assert torch.equal(child.stem.convs["a-t"].weight, identity)
    assert report.layers[0].zero_share > 0.5
    _assert_kept(parent, child, report, _images(2, 3, 16, 16))


@pytest.mark.parametrize("patterns", [{"stem": PAIR}, {"stem": Deepen(3), "boxes": Enlarge(4)}])
def test_net2net_goes_with_deepen_alone(patterns):
    with pytest.raises(ValueError, match="method=net2net inserts an identity"):
        morph_network(_own(), patterns, method="net2net", example_input=torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("factor", [1, 0.5, "2", float("nan"), True])
def test_a_factor_that_widens_nothing_is_refused(factor):
    with pytest.raises(ValueError, match="a factor above 1 is needed"):
        Widen(factor)


def test_a_module_in_the_place_of_a_layer_that_widening_changes_is_refused():
    with pytest.raises(ValueError, match=r"layer1\.0\.conv2: .*widen first, then morph the child"):
        morph_network(
            _torchvision("resnet18"),
            {"layer1.0.conv1": Widen(1.5), "layer1.0.conv2": PAIR},
            example_input=torch.zeros(1, 3, 32, 32),
        )


# What the proof runs on -----------------------------------------------------------------------------------------------


def test_without_any_input_every_layer_is_proved_by_itself():
    parent = _own()
    child, report = morph_network(parent, {"stem": PAIR, "body.first": PAIR, "boxes": PAIR})
    assert "every replaced layer by itself" in report.inputs
    assert (report.macs_before, report.macs_after, report.input_size) == (None, None, None)
    assert report.proof.training is None
    assert "not counted" in str(report)
    assert "nan" not in str(report)
    json.dumps(report.to_dict(), allow_nan=False)
    _assert_kept(parent, child, report, _images(2, 3, 16, 16))


def test_a_layer_that_the_network_hides_is_compared_by_itself(monkeypatch):
    import morphnet.morph.named as named

    solved = named.grow

    def wrong(*arguments):
        found = solved(*arguments)
        with torch.no_grad():
            found.module.convs["a-t"].weight.mul_(1.01)
        return found

    monkeypatch.setattr(named, "grow", wrong)
    parent = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
    nn.init.zeros_(parent[1].weight)
    nn.init.ones_(parent[1].bias)
    with pytest.raises(MorphError, match="a replaced layer by itself"):
        morph_network(parent, {"0": PAIR}, example_input=torch.zeros(1, 3, 8, 8))


def test_widening_without_any_input_is_refused():
    with pytest.raises(ValueError, match=r"widen and enlarge .* give example_input= or calibration="):
        morph_network(_own(), {"stem": Widen(2), "boxes": PAIR})


def test_an_identity_without_any_input_is_refused():
    with pytest.raises(ValueError, match=r"shortcut, nothing: how many channels pass .*example_input="):
        morph_network(_own(), {"shortcut": PAIR, "nothing": PAIR})


def test_an_identity_that_no_blob_passes_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Identity())
    with pytest.raises(ValueError, match=r"2: blobs \(N, C, H, W\) have to pass .* a tensor of shape \(2, 144\) does"):
        morph_network(network, {"2": PAIR}, example_input=torch.zeros(1, 3, 8, 8))
    network = _own()
    network.idle = nn.Identity()
    with pytest.raises(ValueError, match=r"idle: blobs .* nothing does"):
        morph_network(network, {"idle": PAIR}, example_input=torch.zeros(1, 3, 16, 16))


def test_the_input_of_our_own_networks_is_known(make_network):
    _, report = morph_network(make_network(8), {"layer1.0.conv1": PAIR})
    assert report.input_size == (1, 3, 32, 32)
    assert "random normal inputs" in report.inputs


# What is refused ------------------------------------------------------------------------------------------------------


class _Scaled(nn.Conv2d):
    """A convolution that computes something of its own."""


def test_everything_that_cannot_be_morphed_is_listed_at_once():
    network = _own()
    network.add_module("norm", nn.BatchNorm2d(8))
    network.add_module("scaled", _Scaled(3, 3, 3))
    network.add_module("up", nn.ConvTranspose2d(3, 3, 3))
    network.add_module("lazy", nn.LazyConv2d(3, 3))
    network.add_module("normed", parametrizations.weight_norm(nn.Conv2d(3, 3, 3)))
    network.add_module("hooked", nn.Conv2d(3, 3, 3))
    network.hooked.register_forward_hook(lambda *_: None)
    before, names = repr(network), ("norm", "scaled", "up", "lazy", "normed", "hooked", "body", "head")
    patterns = {**dict.fromkeys(names, PAIR), "stm": PAIR, "stem": PAIR, "st*": PAIR, "shortcut": Widen(2)}
    with pytest.raises(ValueError, match=r"^nothing was morphed:\n") as caught:
        morph_network(network, patterns, example_input=torch.zeros(1, 3, 16, 16))
    message = str(caught.value)
    for words in (
        "norm cannot be morphed: BatchNorm2d is no convolution",
        "scaled cannot be morphed: _Scaled is a subclass of Conv2d",
        "up cannot be morphed: ConvTranspose2d is a transposed convolution",
        "lazy cannot be morphed: LazyConv2d has no weights yet",
        "normed cannot be morphed: ParametrizedConv2d is a subclass",
        "hooked cannot be morphed: it carries hooks",
        "body cannot be morphed: ModuleDict is no convolution",
        "head cannot be morphed: Linear is no convolution",
        "'stm' matches no layer; did you mean stem",
        "stem is matched by two patterns",
        "shortcut cannot be morphed: widen(2) needs a convolution",
    ):
        assert f"\n  {words}" in message
    assert len(message.splitlines()) == 12
    assert repr(network) == before


def test_a_long_list_of_problems_is_cut():
    network = nn.Sequential(*(nn.ReLU() for _ in range(40)), nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="and 10 more") as caught:
        find_targets(network, {"*": PAIR})
    assert len(str(caught.value).splitlines()) == 32


def test_a_module_is_not_morphed_again_as_a_whole():
    child, _ = morph_network(_own(), {"stem": PAIR})
    with pytest.raises(ValueError, match=r"stem cannot be morphed: it is a module already.*convs\.(s-a|s-t)"):
        morph_network(child, {"stem": PAIR})


def test_what_could_not_be_exact_is_named_before_anything_is_built(monkeypatch):
    def built(*_):
        raise AssertionError("something was built")

    monkeypatch.setattr("morphnet.morph.network.apply_layers", built)
    with pytest.raises(InexactError, match="nothing was morphed, since it could not be exact") as caught:
        morph_network(_own(), {"stem": PAIR_1X1, "body.first": PAIR, "boxes": PAIR_1X1})
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["stem", "boxes"]
    assert "kernel of at least 3x3" in lines[0]
    assert "kernel of at least 3x3" in lines[1]


def test_a_module_that_is_too_narrow_is_refused_with_what_would_make_it_exact():
    parent, graph = _own(), module("sa at", channels={"a": 1})
    before = _digest(parent)
    with pytest.raises(InexactError, match=r"stem: .*(channels|width)") as caught:
        morph_network(parent, {"stem": module("sa at:5x5", channels={"a": 1})})
    assert isinstance(caught.value, ValueError)
    assert _digest(parent) == before
    child, report = morph_network(parent, {"boxes": graph}, allow_inexact=True, example_input=torch.zeros(1, 3, 16, 16))
    assert report.drift_declared
    assert "a filter without an exact solution changes the function" in str(report)
    assert isinstance(child.boxes, GraphConv2d)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"boxes": module("sa at st=1.0")}, "boxes: identity edge s-t joins 8 and 4 channels"),
        ({"body.first": module("sa at", channels={"a": 3})}, "vertex 'a' has 3 channels, which the 2 groups"),
        ({"shortcut": module("sa at st=1.0 st")}, None),
    ],
)
def test_widths_that_do_not_fit_are_refused(patterns, message):
    given = {"example_input": torch.zeros(1, 3, 16, 16)}
    if message is None:
        assert morph_network(_own(), patterns, **given)[1].passed
        return
    with pytest.raises(ValueError, match=message) as caught:
        morph_network(_own(), patterns, **given)
    assert str(caught.value).startswith("nothing was morphed:")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"spec": {}}, ValueError, "no pattern of layer names"),
        ({"spec": {"stem": "1c1"}}, TypeError, "stem: a ModuleGraph, Deepen, Widen or Enlarge is needed; got '1c1'"),
        ({"bn": "folded"}, ValueError, "bn='folded'; with named layers expected one of none, calibrated, paper"),
        ({"padding": "full"}, ValueError, "padding='full'"),
        ({"method": "newton"}, ValueError, "method='newton'; expected auto, als or net2net"),
        ({"init": "zeros"}, ValueError, "init='zeros'; expected dense or sparse"),
        ({"activation": "wurst"}, ValueError, "activation='wurst'; expected one of prelu"),
        ({"example_input": torch.zeros(3, 8, 8)}, ValueError, "example_input"),
        ({"calibration": [torch.zeros(1, 3, 8, 8)]}, ValueError, "at least two batches"),
        ({"parent": "resnet18"}, TypeError, "an nn.Module is needed; got str"),
        ({"parent": nn.Sequential(nn.ReLU(), nn.Identity())}, ValueError, "this Sequential has no weights to morph"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    given = {"parent": _own(), "spec": {"stem": PAIR}, **arguments}
    with pytest.raises(error, match=message):
        morph_network(given.pop("parent"), given.pop("spec"), **given)


# Together with specs --------------------------------------------------------------------------------------------------


def test_a_spec_after_patterns_and_patterns_after_a_spec(make_network, batches):
    parent = make_network(14)
    first, _ = morph_network(parent, {"layer1.1.conv2": PAIR, "layer2.0.conv1": Deepen(3)}, calibration=batches)
    second, report = morph_network(first, "1c1", calibration=batches)
    assert isinstance(second.layer1[1].conv2, GraphConv2d)
    assert [layer.name for layer in report.layers] == ["layer1.1", "layer2.1", "layer3.1"]
    third, report = morph_network(
        second, {"layer1.1.shortcut.branches.0.conv1": PAIR_1X1, "layer3.0.shortcut.0": PAIR_1X1}, calibration=batches
    )
    assert third.metadata["morphs"][1] == "1c1"
    assert len(third.metadata["morphs"]) == 3
    _assert_kept(parent, third, report, _images(2, 3, 17, 19))


def test_a_spec_on_a_block_whose_shortcut_became_a_module_is_refused(make_network, batches):
    child, report = morph_network(make_network(14), {"layer2.1.shortcut": PAIR_1X1}, calibration=batches)
    assert report.passed
    with pytest.raises(ValueError, match=r"layer2\.1"):
        morph_network(child, "1c1", calibration=batches)


def test_a_spec_on_a_branch_that_has_a_module_in_it_is_refused(make_network, batches):
    child, _ = morph_network(make_network(14), "1c1", calibration=batches)
    child, _ = morph_network(child, {"layer2.1.shortcut.branches.0.conv2": PAIR_1X1}, calibration=batches)
    with pytest.raises(ValueError, match=r"layer2\.1 is a module already, or has one in it; 3c1 cannot morph it"):
        morph_network(child, "3c1", calibration=batches)
