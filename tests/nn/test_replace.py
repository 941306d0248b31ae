import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from morphnet.nn.replace import convolution_like, names_of, plain_convolution, replace_module


class _Twice(nn.Module):
    """One convolution under two names, and a container under two more."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3)
        self.again = self.first
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1))
        self.same_body = self.body


def test_names_of_gives_every_name():
    network = _Twice()
    assert names_of(network, network.first) == ["first", "again"]
    assert names_of(network, network.body[1]) == ["body.1", "same_body.1"]
    assert names_of(network, nn.ReLU()) == []
    assert names_of(network, network) == [""]


def test_a_module_is_replaced_under_every_name():
    network = _Twice()
    new = nn.Identity()
    assert replace_module(network, network.first, new) == ["first", "again"]
    assert network.first is new
    assert network.again is new
    assert replace_module(network, network.body[1], new) == ["body.1", "same_body.1"]
    assert network.same_body[1] is new
    assert not any(isinstance(part, nn.Conv2d) for part in network.modules())


def test_the_order_of_a_sequence_is_kept():
    network = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())
    replace_module(network, network[1], nn.GELU())
    assert [type(part) for part in network] == [nn.ReLU, nn.GELU, nn.Sigmoid]


def test_what_is_not_there_cannot_be_replaced():
    network = _Twice()
    with pytest.raises(ValueError, match="Tanh to replace is no part of this _Twice"):
        replace_module(network, nn.Tanh(), nn.ReLU())
    with pytest.raises(ValueError, match="cannot be replaced inside itself"):
        replace_module(network, network, nn.ReLU())


class _Centred(nn.Conv2d):
    """A convolution that computes something of its own."""


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.ConvTranspose2d(3, 3, 3), "ConvTranspose2d; only layers of the class nn.Conv2d"),
        (nn.LazyConv2d(3, 3), "LazyConv2d, a subclass of nn.Conv2d"),
        (torch.ao.nn.quantized.Conv2d(3, 3, 3), "class Conv2d; only"),
        (_Centred(3, 3, 3), "_Centred, a subclass"),
        (parametrizations.weight_norm(nn.Conv2d(3, 3, 3)), "ParametrizedConv2d"),
        (weight_norm(nn.Conv2d(3, 3, 3)), "carries hooks"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # the deprecation of what is tested here, by PyTorch
def test_only_plain_convolutions_are_taken(layer, words):
    with pytest.raises(ValueError, match=words):
        plain_convolution(nn.Sequential(layer), "0")


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(ValueError, match=r"'frist': no layer of this _Twice has that name; did you mean first\?"):
        plain_convolution(_Twice(), "frist")


def test_a_tied_parameter_is_named():
    network = _Twice()
    network.body[1] = nn.Conv2d(3, 3, 3)
    network.body[1].weight = network.first.weight
    with pytest.raises(ValueError, match=r"shares a parameter with body\.1"):
        plain_convolution(network, "first")


def test_a_convolution_alike_keeps_settings_and_the_random_state():
    conv = nn.Conv2d(4, 6, (3, 5), 2, (1, 2), 2, groups=2, padding_mode="reflect").double().eval()
    conv.weight.requires_grad_(False)
    state = torch.get_rng_state()
    fresh = convolution_like(conv, torch.zeros(8, 2, 1, 1).bfloat16(), None, stride=3)
    assert torch.equal(torch.get_rng_state(), state)
    expected = "4, 8, kernel_size=(1, 1), stride=(3, 3), padding=(1, 2), dilation=(2, 2), groups=2"
    assert fresh.extra_repr().startswith(expected)
    assert (fresh.padding_mode, fresh.weight.dtype, fresh.weight.requires_grad) == ("reflect", torch.bfloat16, False)
    assert not fresh.training
    assert convolution_like(conv, conv.weight, conv.bias).bias is conv.bias
