"""More channels with the same function: which networks, which layers follow, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils import weight_norm

from morphnet.morph.widening import widen_layer
from morphnet.nn.activation import ParametricActivation
from morphnet.nn.resnet import ResNet, cifar_architecture


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _lived_in(network):
    """``network`` in float64 with random weights, slopes and running statistics, those of no fresh network."""
    network = network.to(torch.float64)
    generator = _generator(3)
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if value.dim() == 1 and value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
                value.copy_(noise + 0.5 if name.endswith(("running_var", "weight")) else noise - 0.5)
    return network


def _widened(network, name, channels, shape=(4, 3, 16, 16), modes=(False, True)):
    """A widened copy, after the comparison in both modes at 1e-12; dropout is always off."""
    child = copy.deepcopy(network)
    report = widen_layer(child, name, channels, _generator())
    x = torch.randn(shape, generator=_generator(1), dtype=torch.float64)
    for training in modes:
        before, after = copy.deepcopy(network).train(training), copy.deepcopy(child).train(training)
        for part in (*before.modules(), *after.modules()):
            if isinstance(part, nn.Dropout):
                part.eval()
        with torch.no_grad():
            expected, found = before(x), after(x)
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    return child, report


def _vgg(**conv):
    return _lived_in(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, **conv), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1, **conv), nn.PReLU(8), nn.Dropout(0.3), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(8 * 16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5),
        )
    )  # fmt: skip


@pytest.mark.parametrize("conv", [{}, {"bias": False}, {"padding_mode": "circular"}])
def test_a_chain_of_layers_is_kept(conv):
    network = _vgg(**conv)
    child, report = _widened(network, "0", 11)
    assert report == {
        "0": "Conv2d, output channels 6 -> 11",
        "1": "BatchNorm2d, channels 6 -> 11",
        "4": "Conv2d, input channels 6 -> 11",
    }
    assert child[0].padding_mode == child[4].padding_mode == conv.get("padding_mode", "zeros")
    assert (child[0].bias is None) == (conv.get("bias") is False)
    child, report = _widened(child, "4", 30)
    assert report == {
        "4": "Conv2d, output channels 8 -> 30",
        "5": "PReLU, channels 8 -> 30",
        "9": "Linear, input features 128 -> 480",
    }


def test_every_old_channel_is_there_and_the_shares_are_positive_unequal_and_add_up():
    network = _vgg()
    child, _ = _widened(network, "0", 15)
    assert torch.equal(child[0].weight[:6], network[0].weight)
    origin = [(network[0].weight == row).flatten(1).all(1).nonzero().item() for row in child[0].weight]
    assert len(set(origin[6:])) > 1
    shares = child[4].weight / network[4].weight[:, origin]
    assert shares.min() > 0
    total = torch.zeros(8, 6, 3, 3, dtype=torch.float64).index_add_(1, torch.tensor(origin), shares.detach())
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-14)
    copies = [i for i, old in enumerate(origin) if old == origin[-1]]
    assert len(copies) > 1
    assert len(shares[:, copies, 0, 0].flatten().unique()) > len(copies)


def _different(rows):
    """How many of the rows are not the same, by more than rounding."""
    rows = rows.detach().flatten(1)
    return len((rows / rows.abs().max()).mul(1e9).round().unique(dim=0))


def test_replicas_part_in_training():
    network = _vgg().train()
    child, _ = _widened(network, "0", 12)
    child[6].eval()
    assert _different(child[0].weight) == 6
    optimizer = torch.optim.SGD(child.parameters(), lr=0.1)
    x, y = torch.randn(16, 3, 16, 16, generator=_generator(), dtype=torch.float64), torch.arange(16) % 5
    for step in range(2):
        optimizer.zero_grad()
        F.cross_entropy(child(x), y).backward()
        gradients = child[0].weight.grad
        assert (gradients.flatten(1).norm(dim=1) > 0).all()
        assert _different(gradients) == 12
        # What reads a replica sees the same blob in the first step, and another one in the second.
        assert _different(child[4].weight.grad.transpose(0, 1)) == (6 if step == 0 else 12)
        optimizer.step()
        assert _different(child[0].weight) == 12


@pytest.mark.parametrize(
    "settings", [{"affine": False}, {"track_running_stats": False}, {"momentum": None, "eps": 0.1}]
)
def test_settings_of_the_batch_normalisation_are_kept(settings):
    network = _lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **settings), nn.Conv2d(4, 2, 3)))
    child, _ = _widened(network, "0", 9)
    for key in ("eps", "momentum", "affine", "track_running_stats"):
        assert getattr(child[1], key) == getattr(network[1], key)


def test_dtype_mode_frozen_parameters_and_random_state_are_kept():
    network = _vgg().to(torch.float32, memory_format=torch.channels_last).eval()
    network[0].requires_grad_(False)
    network[1].train()
    network[1].double()
    x = torch.randn(2, 3, 16, 16)
    state = torch.get_rng_state()
    widen_layer(network, "0", 9, _generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in network[:3]] == [False, True, False]
    assert not any(parameter.requires_grad for parameter in network[0].parameters())
    assert network[1].weight.dtype == torch.float64
    assert network[4].weight.dtype == torch.float32
    assert network[1].weight.requires_grad
    assert network[4].weight.is_contiguous(memory_format=torch.channels_last)
    network[1].float()
    assert torch.isfinite(network(x)).all()


def test_the_same_seed_gives_the_same_child():
    first, second, third = (_vgg() for _ in range(3))
    second.load_state_dict(first.state_dict())
    third.load_state_dict(first.state_dict())
    for network, seed in ((first, 0), (second, 0), (third, 1)):
        widen_layer(network, "4", 13, _generator(seed))
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    assert not torch.equal(first[9].weight, third[9].weight)


def test_a_block_of_a_torchvision_resnet():
    child, report = _widened(_lived_in(torchvision.models.resnet18()), "layer1.0.conv1", 80, (2, 3, 64, 64))
    assert list(report) == ["layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2"]
    assert child.layer1[0].conv2.weight.shape == (64, 80, 3, 3)


def test_the_first_and_the_last_convolution_of_a_vgg():
    with torch.device("meta"):
        network = torchvision.models.vgg11_bn(num_classes=10)
    network.classifier = nn.Sequential(nn.Linear(512 * 49, 16), nn.ReLU(), nn.Linear(16, 10))  # the real one is 1 GB
    network.features.to_empty(device="cpu")
    for part in network.features:
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    network = _lived_in(network)
    _, report = _widened(network, "features.0", 70, (2, 3, 32, 32))
    assert list(report) == ["features.0", "features.1", "features.4"]
    _, report = _widened(network, "features.25", 520, (2, 3, 32, 32))
    assert report["classifier.0"] == f"Linear, input features {512 * 49} -> {520 * 49}"


@pytest.mark.parametrize("activation", ["relu", "prelu", "pgelu"])
def test_a_block_of_our_resnet(activation):
    network = _lived_in(ResNet(cifar_architecture(8, classes=10, activation=activation)))
    child, report = _widened(network, "layer1.0.conv1", 21)
    assert ("layer1.0.act1" in report) == activation.startswith("p")
    assert child.layer1[0].conv1.out_channels == 21


class _Net(nn.Module):
    """conv, then ``forward_of(self, x)``, whose parts are the keyword arguments."""

    def __init__(self, forward_of, **parts):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.forward_of = forward_of
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x, labels=None):
        if labels is not None:
            raise AssertionError("the trace took an optional argument for given")
        return self.forward_of(self, self.conv(x), x)


class _Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class _Odd(nn.Module):
    """A part that torch.fx cannot trace."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def _by_count(net, y, x):
    n, c, h, w = y.shape
    return net.fc(y.view(n, c * h * w))


@pytest.mark.parametrize(
    ("forward", "parts"),
    [
        (lambda net, y, x: net.fc(torch.flatten(F.max_pool2d(F.relu(y, inplace=True), 2), 1)), {"fc": 4 * 16}),
        (lambda net, y, x: net.fc(F.adaptive_avg_pool2d(F.gelu(y), 1).flatten(1)), {"fc": 4}),
        (lambda net, y, x: net.fc(F.avg_pool2d(y.relu(), y.size()[2:]).view(y.size(0), -1)), {"fc": 4}),
        (lambda net, y, x: net.fc(y.tanh().reshape((x.shape[0], -1))), {"fc": 4 * 64}),
        (_by_count, {"fc": 4 * 64}),
        (lambda net, y, x: net.fc(F.silu(y).mean([2, 3])), {"fc": 4}),
        (lambda net, y, x: net.fc(y.mean((-2, -1), keepdim=True).flatten(1)), {"fc": 4}),
        (lambda net, y, x: net.fc(F.dropout(y, 0.0, net.training).amax((2, 3)) / y.size(2)), {"fc": 4}),
        (lambda net, y, x: net.last(net.act(y) + y * 2), {"act": _Swish()}),
        (lambda net, y, x: net.last(F.interpolate(F.pad(y, (1, 1, 0, 0)), size=x.shape[2:])), {}),
        (lambda net, y, x: net.odd(net.last(F.leaky_relu(y, 0.1))), {"odd": _Odd()}),
        (lambda net, y, x: net.last(net.act(y)), {"act": ParametricActivation("gelu", 4, a=0.3)}),
        (lambda net, y, x: net.last(net.act(y)), {"act": nn.PReLU()}),
        (lambda net, y, x: net.last(y) + net.other(y), {"other": nn.Conv2d(4, 2, 3)}),
        (lambda net, y, x: net.fc(net.norm(y.flatten(1))), {"norm": nn.BatchNorm1d(256), "fc": 256}),
    ],
)
def test_what_may_stand_between_a_convolution_and_its_readers(forward, parts):
    parts = {key: nn.Linear(part, 3) if isinstance(part, int) else part for key, part in parts.items()}
    network = _lived_in(_Net(forward, last=nn.Conv2d(4, 2, 3), **parts))
    _widened(network, "conv", 7, (4, 3, 8, 8))


def _assert_refused(network, name, match, channels=100):
    before = {key: (part, part.training) for key, part in network.named_modules(remove_duplicate=False)}
    state = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=match) as caught:
        widen_layer(network, name, channels, _generator())
    assert "\n" not in str(caught.value)
    after = {key: (part, part.training) for key, part in network.named_modules(remove_duplicate=False)}
    assert after == before
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("network", "name", "match"),
    [
        (
            "resnet18",
            "layer1.0.conv2",
            r"added to that of maxpool at add \(a shortcut\); widen layer1\.0\.conv1 instead",
        ),
        ("resnet18", "conv1", r"conv1: .* added to that of layer1\.0\.bn2 at add"),
        ("resnet18", "bn1", "class BatchNorm2d; only layers of the class nn.Conv2d"),
        (
            "mobilenet_v2",
            "features.0.0",
            r"read by features\.1\.conv\.0\.0, a grouped convolution \(groups=32\); widen",
        ),
        (
            "mobilenet_v2",
            "features.1.conv.0.0",
            r"it is a grouped convolution \(groups=32\); widen features\.1\.conv\.1 ",
        ),
        ("densenet121", "features.conv0", r"concatenated with others at cat; .*denselayer1\.conv1 instead"),
        ("squeezenet1_0", "classifier.1", "an output of the network"),
    ],
)
def test_networks_of_torchvision_are_refused_where_channels_are_not_free(network, name, match):
    _assert_refused(getattr(torchvision.models, network)(), name, match, 2000)


@pytest.mark.parametrize(
    ("forward", "parts", "match"),
    [
        (lambda net, y, x: net.last(y + x.sum()), {}, "added to sum_1 at add"),
        (lambda net, y, x: net.last(y * net.other(y)), {"other": nn.Conv2d(4, 4, 1)}, "multiplied with that of other"),
        (lambda net, y, x: net.last(y.mean(1, keepdim=True).expand(-1, 4, -1, -1)), {}, "over its channels"),
        (lambda net, y, x: net.last(y / y.mean()), {}, "the mean at mean is taken over all"),
        (lambda net, y, x: net.last(F.softmax(y, 1)), {}, "reaches softmax, which is not known"),
        (lambda net, y, x: net.last(net.norm(y)), {"norm": nn.GroupNorm(2, 4)}, r"reaches norm \(a GroupNorm\)"),
        (lambda net, y, x: net.last(net.norm(y)), {"norm": nn.LayerNorm([4, 8, 8])}, r"norm \(a LayerNorm\)"),
        (lambda net, y, x: net.last(net.odd(y)), {"odd": _Odd()}, r"odd \(a _Odd, which torch.fx cannot trace: symb"),
        (lambda net, y, x: net.fc(y.view(-1, 256)), {"fc": nn.Linear(256, 3)}, r"view\(-1, 256\).*counted by hand"),
        (lambda net, y, x: net.fc(y), {"fc": nn.Linear(8, 3)}, r"reaches fc \(a Linear\)"),
        (lambda net, y, x: net.last(y[:, :4]), {}, "reaches getitem"),
        (lambda net, y, x: net.last(y * y.size(1)), {}, "reaches mul"),
        (lambda net, y, x: net.last(net.conv(y[:, :3])), {}, "reaches getitem|used 2 times"),
        (lambda net, y, x: net.last(y) + net.last(net.relu(y)), {"relu": nn.ReLU()}, "last is used 2 times"),
        (lambda net, y, x: net.last(y) + net.conv.weight.sum(), {}, r"takes conv\.weight by itself"),
        (lambda net, y, x: net.last(x.repeat(1, 2, 1, 1)[:, :4]), {}, "no layer reads its output"),
        (lambda net, y, x: net.last(y) if net.training else y, {}, "an output of the network"),
        (lambda net, y, x: net.up(y), {"up": nn.ConvTranspose2d(4, 2, 3)}, r"up \(a ConvTranspose2d\)"),
        (lambda net, y, x: net.up(y), {"up": weight_norm(nn.Conv2d(4, 2, 3))}, "up, which carries hooks"),
        (lambda net, y, x: net.last(y) if x.sum() > 0 else y, {}, "torch.fx cannot trace the forward pass of _Net"),
        (lambda net, y, x: F.max_pool2d(y, 2, return_indices=True)[0], {}, "reaches max_pool2d"),
        (lambda net, y, x: net.last(F.pad(y, (0, 0, 0, 0, 0, 0))), {}, "reaches pad"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")  # the deprecation of weight_norm, by PyTorch
def test_what_mixes_channels_is_refused(forward, parts, match):
    network = _Net(forward, last=nn.Conv2d(4, 2, 3), **parts)
    network.last.eval()
    _assert_refused(network, "conv", f"^conv: .*({match})")


def test_frames_that_are_gathered_by_a_view_are_refused():
    class Video(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(2 * 4 * 64, 3)

        def forward(self, x):
            frames = self.conv(x.view(-1, 3, 8, 8))
            return self.fc(frames.view(x.size(0), -1))

    assert Video()(torch.randn(5, 2, 3, 8, 8)).shape == (5, 3)
    _assert_refused(Video(), "conv", "is given another shape at view_1")


def test_a_reader_with_a_tied_weight_is_refused():
    network = _vgg()
    network.append(nn.Linear(128, 12))
    network[13].weight = network[9].weight
    _assert_refused(network, "4", "9 has to follow, and it shares a parameter with 13")


@pytest.mark.parametrize("channels", [6, 3, 7.0])
def test_fewer_channels_are_refused(channels):
    _assert_refused(_vgg(), "0", "it has 6 output channels; more are needed", channels)


def test_an_unknown_name_is_refused():
    _assert_refused(_vgg(), "0.conv", r"'0.conv': no layer of this Sequential has that name; there are 0")


def test_a_part_with_two_names_is_replaced_under_both():
    network = _Net(lambda net, y, x: net.last(y), last=nn.Conv2d(4, 2, 3)).double()
    network.alias, network.conv_alias = network.last, network.conv
    child, report = _widened(network, "conv_alias", 9, (2, 3, 8, 8))
    assert child.alias is child.last
    assert child.conv is child.conv_alias
    assert list(report) == ["conv_alias", "last"]


def test_readers_of_the_training_mode_follow_too():
    def forward(net, y, x):
        return net.last(y), net.aux(y.mean((2, 3))) if net.training else None

    network = _Net(forward, last=nn.Conv2d(4, 2, 3), aux=nn.Linear(4, 3)).eval()
    assert "aux" in widen_layer(network, "conv", 9, _generator())
    network.train()(torch.randn(2, 3, 8, 8))
