"""What once went wrong without a word: names that collide, attributes set late, channels far weaker than others."""

import pytest
import torch
from torch import nn

from morphnet import Edge, ModuleGraph, load_network, morph_conv, morph_network, save_network, solve

BRIDGE = [("s", "a"), ("s", "b"), ("a", "c"), ("b", "c"), ("a", "t"), ("c", "t"), ("b", "t")]


def _bridge():
    return ModuleGraph([Edge(u, v, 3) for u, v in BRIDGE])


def _difference(conv, module):
    x = torch.randn(2, conv.in_channels, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        return float((module(x) - conv(x)).abs().max())


@pytest.fixture
def conv():
    torch.manual_seed(0)
    return nn.Conv2d(4, 4, 3, padding=1).double().eval()


def test_parallel_edges_and_vertices_of_like_names_keep_filters_of_their_own(conv):
    graph = ModuleGraph([Edge("s", "a", 3), Edge("s", "a", 3), Edge("s", "a_1", 3), Edge("a", "t"), Edge("a_1", "t")])
    module = morph_conv(conv, graph)
    assert len(module.convs) == 5
    assert _difference(conv, module) < 1e-12


def test_a_vertex_may_have_the_name_of_a_method_of_torchs_containers(conv):
    graph = ModuleGraph([Edge("s", "keys", 3), Edge("keys", "keys_", 3), Edge("keys_", "t", 3)], {"keys_": 6})
    module = morph_conv(conv, graph)
    assert len(module.activations) == 2
    assert _difference(conv, module) < 1e-12


def test_settings_changed_after_a_convolution_was_built_are_those_that_count():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, padding=1, stride=2).double()
    conv.stride, conv.dilation, conv.padding = (1, 1), (2, 2), (2, 2)
    assert _difference(conv, morph_conv(conv, _bridge())) < 1e-12


def test_an_image_without_a_batch_is_refused(conv):
    with pytest.raises(AssertionError, match="batches of images"):
        morph_conv(conv, _bridge())(torch.randn(4, 9, 9, dtype=torch.float64))


def test_an_output_channel_far_weaker_than_the_others_keeps_its_digits():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight[0] *= 1e-5
        conv.weight[1] *= 1e-3
        module = morph_conv(conv, _bridge()).double()
        x = torch.randn(2, 16, 9, 9, dtype=torch.float64)
        ours, theirs = module(x), conv.double()(x)
    worst = (ours - theirs).abs().amax((0, 2, 3)) / theirs.abs().amax((0, 2, 3))
    assert worst.max() < 1e-4
    assert worst[1:].max() < 1e-6


@pytest.mark.parametrize("scale", [1e-170, 1e160])
def test_filters_that_cannot_be_squared_are_refused(scale):
    with pytest.raises(ValueError, match="scale it"):
        solve(_bridge(), scale * torch.ones(4, 4, 3, 3, dtype=torch.float64))


def test_a_replaced_forward_is_refused(conv):
    conv.forward = lambda x: 2 * x
    with pytest.raises(ValueError, match="forward was replaced"):
        morph_conv(conv, _bridge())


def test_nothing_random_of_the_caller_moves(conv):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    morph_conv(conv, _bridge())
    assert torch.equal(state, torch.get_rng_state())


def test_a_module_made_in_inference_mode_can_be_trained(conv):
    with torch.inference_mode():
        module = morph_conv(conv.float(), _bridge())
    module(torch.randn(1, 4, 9, 9)).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


class Tied(nn.Module):
    def __init__(self, last=nn.ReLU):
        super().__init__()
        self.c, self.d, self.e = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.e.weight = self.d.weight
        self.last = last()

    def forward(self, x):
        return self.last(self.e(self.d(self.c(x)))).mean((2, 3))


def test_tied_weights_are_not_morphed_and_stay_tied_in_a_file(tmp_path):
    with pytest.raises(ValueError, match="shares a parameter with e"):
        morph_network(Tied(), {"d": _bridge()})
    child, _ = morph_network(Tied(), {"c": _bridge()})
    loaded = load_network(save_network(child, tmp_path / "tied.safetensors"), base=Tied())
    assert loaded.e.weight is loaded.d.weight
    with pytest.raises(ValueError, match="last is a ReLU in the saved network; there it is Tanh"):
        load_network(tmp_path / "tied.safetensors", base=Tied(nn.Tanh))
