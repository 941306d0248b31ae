"""A larger kernel with the same function, over every setting of a convolution."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from morphnet.morph.enlarging import enlarge_layer

_pair = st.tuples


@given(
    kernel=_pair(st.integers(1, 4), st.integers(1, 4)),
    growth=_pair(st.integers(0, 2), st.integers(0, 2)),
    stride=_pair(st.integers(1, 3), st.integers(1, 3)),
    dilation=_pair(st.integers(1, 2), st.integers(1, 2)),
    padding=st.one_of(_pair(st.integers(0, 2), st.integers(0, 2)), st.sampled_from(["same", "valid"])),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_pixel_is_kept(kernel, growth, stride, dilation, padding, mode, groups, bias):
    if padding == "same":
        stride = 1
    conv = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups, bias, mode).double()
    network = nn.Sequential(copy.deepcopy(conv), nn.Identity())
    target = (kernel[0] + 2 * growth[0], kernel[1] + 2 * growth[1])
    report = enlarge_layer(network, "0", target)
    assert network[0].kernel_size == target
    assert bool(report) == (growth != (0, 0))
    x = torch.randn(2, 4, 11, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        before, after = conv(x), network(x)
    assert_close(after, before, rtol=0, atol=1e-12 * float(before.abs().max()))


def test_settings_of_the_layer_are_kept_and_new_taps_get_gradients():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False).bfloat16().eval(), nn.ReLU())
    network[0].weight.requires_grad_(False)
    assert enlarge_layer(network, "0", 5) == {"0": "Conv2d, kernel 3x3 -> 5x5"}
    conv = network[0]
    assert (conv.weight.dtype, conv.weight.requires_grad, conv.training) == (torch.bfloat16, False, False)
    assert conv.bias is None
    conv.float().weight.requires_grad_(True)
    network(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert (conv.weight.grad != 0).all()


def test_a_layer_with_two_names_is_enlarged_under_both():
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    network.append(network[0])
    enlarge_layer(network, "2", (3, 7))
    assert network[0] is network[2]
    assert network[0].padding == (1, 3)


@pytest.mark.parametrize("kernel", [1, 4, (5, 4), (3, 1), (3, 3, 3), 5.0, "5"])
def test_a_kernel_that_has_no_middle_for_the_old_one_is_refused(kernel):
    network = nn.Sequential(nn.Conv2d(3, 3, 3))
    before = network[0]
    with pytest.raises(ValueError, match=r"0: its kernel is 3x3.*the same parity, such as 5x5"):
        enlarge_layer(network, "0", kernel)
    assert network[0] is before


def test_the_kernel_it_has_already_changes_nothing():
    network = nn.Sequential(nn.Conv2d(3, 3, 3))
    before = network[0]
    assert enlarge_layer(network, "0", 3) == {}
    assert network[0] is before


def test_other_layers_are_refused_by_their_class():
    with pytest.raises(ValueError, match="ConvTranspose2d"):
        enlarge_layer(nn.Sequential(nn.ConvTranspose2d(3, 3, 3)), "0", 5)
