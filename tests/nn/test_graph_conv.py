import copy
import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from morphnet.graph import Edge, GraphError, ModuleGraph
from morphnet.nn.activation import ParametricActivation
from morphnet.nn.graph_conv import ConvShape, GraphConv2d, ModuleShape, edge_key, group_widths, strides_at_source
from morphnet.solvers import module_filter
from tests.modules import BRIDGE, convolutions, module, normal

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def _shape(graph, conv=None, **settings):
    return ModuleShape(ConvShape.of(conv or nn.Conv2d(4, 4, 3, padding=1)), graph, **settings)


def _randomised(shape, seed=0):
    """A grown layer that has been trained, as it were: no value is what it started with."""
    layer = GraphConv2d(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in layer.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
        for name, value in layer.named_buffers():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5 * name.endswith("var"))
    return layer


@settings(deadline=None, max_examples=50)
@given(convolutions(), st.sampled_from(["exact", "same"]), st.booleans(), st.sampled_from([None, "relu", "gelu"]))
def test_the_output_has_the_size_of_the_convolutions(case, padding, norm, activation):
    shape = ModuleShape(ConvShape.of(case.conv), case.graph, padding, activation, norm)
    layer = GraphConv2d(shape).double()
    assert layer(case.x).shape == case.conv(case.x).shape


def _random_linear(case, padding):
    """The layer with random filters and nothing else, and the one filter that it computes, group by group."""
    shape = ModuleShape(replace(ConvShape.of(case.conv), bias=False), case.graph, padding, None)
    layer = _randomised(shape).double()
    groups = case.conv.groups
    share = {v: width // groups for v, width in layer.widths.items() if v in case.graph.inner}
    graph = ModuleGraph.of_parts(case.graph.edges, share)
    whole = []
    for i in range(groups):
        filters = {e: layer.convs[edge_key(e.name)].weight.chunk(groups)[i].detach() for e in graph.convolutions}
        whole.append(module_filter(graph, filters, case.conv.in_channels // groups, case.conv.out_channels // groups))
    return layer, torch.cat(whole)


def _reach(conv, graph):
    """Pixels that the module sees before and after those that the convolution sees, per axis (rows, columns)."""
    ways = []
    for radius, size, d in zip(graph.radius, conv.kernel_size, conv.dilation, strict=True):
        ways.append(((radius - size // 2) * d, (radius - (size - 1 - size // 2)) * d))
    return ways


@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_with_exact_padding_it_is_one_convolution_with_one_rim(case):
    """Whatever the filters are: the parent's own padding in its own mode, zeros beyond, and no edge padded."""
    conv = case.conv
    layer, whole = _random_linear(case, "exact")
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    (top, bottom), (left, right) = _reach(conv, case.graph)
    x = F.pad(F.pad(case.x, ConvShape.of(conv).rim, mode), (left, right, top, bottom))
    expected = F.conv2d(x, whole, None, conv.stride, 0, conv.dilation, conv.groups)
    y = layer(case.x).detach()
    assert y.shape == expected.shape
    assert float((y - expected).abs().max()) < 1e-11 * float(expected.abs().max())


@settings(deadline=None, max_examples=30)
@given(convolutions(most_inner=2), st.integers(0, 1))
def test_with_same_padding_the_interior_is_that_of_one_convolution(case, more):
    conv = case.conv
    layer, whole = _random_linear(case, "same")
    (top, bottom), (left, right) = _reach(conv, case.graph)
    far = [r * d + 9 for r, d in zip(case.graph.radius, conv.dilation, strict=True)]
    x = normal(1, conv.in_channels, *(2 * f + 18 + more for f in far), seed=4)
    padded = F.pad(F.pad(x, ConvShape.of(conv).rim), (left, right, top, bottom))
    expected = F.conv2d(padded, whole, None, conv.stride, 0, conv.dilation, conv.groups)
    y = layer(x).detach()
    assert y.shape == expected.shape
    rows, columns = (f // s for f, s in zip(far, conv.stride, strict=True))
    inside = (slice(None), slice(None), slice(rows, -rows), slice(columns, -columns))
    assert expected[inside].numel() > 0
    assert float((y - expected)[inside].abs().max()) < 1e-11 * float(expected.abs().max())


@settings(deadline=None, max_examples=30)
@given(convolutions(parent_kernels=((3, 3), (1, 3), (3, 5)), most_inner=2, padding="same", padding_modes=("circular",)))
def test_with_same_padding_on_a_torus_it_is_one_convolution(case):
    conv = case.conv
    layer, whole = _random_linear(case, "same")
    rows, columns = (r * d for r, d in zip(case.graph.radius, conv.dilation, strict=True))
    x = normal(1, conv.in_channels, rows + 5, columns + 6)
    expected = F.conv2d(
        F.pad(x, (columns, columns, rows, rows), "circular"), whole, dilation=conv.dilation, groups=conv.groups
    )
    assert float((layer(x) - expected).detach().abs().max()) < 1e-11 * float(expected.abs().max())


@settings(deadline=None, max_examples=30)
@given(convolutions(), st.sampled_from(["exact", "same"]), st.booleans())
def test_a_shape_survives_json_and_builds_the_same_layer(case, padding, norm):
    shape = ModuleShape(ConvShape.of(case.conv), case.graph, padding, "relu", norm)
    read = ModuleShape.from_dict(json.loads(json.dumps(shape.to_dict())))
    assert read == shape
    assert [e.name for e in read.graph.edges] == [e.name for e in shape.graph.edges]
    layer, other = _randomised(shape).double().eval(), GraphConv2d(read).double().eval()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(case.x), other(case.x))


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("graph"),
        lambda values: values.pop("conv"),
        lambda values: values.update(colour="red"),
        lambda values: values["conv"].update(colour="red"),
        lambda values: values["conv"].pop("kernel_size"),
        lambda values: values.update(conv=3),
        lambda values: values.update(graph=[1]),
        lambda values: values.update(padding="valid"),
    ],
)
def test_what_is_no_description_of_a_layer_is_refused(change):
    values = _shape(module("sa at")).to_dict()
    change(values)
    with pytest.raises(ValueError, match=r"not the description of a grown convolution|a module has the key|'exact' or"):
        ModuleShape.from_dict(values)


def test_parts_are_named_after_edges_and_vertices():
    graph = module("sa sa at bt=1 ab st", channels={"a": 4})
    layer = GraphConv2d(_shape(graph, nn.Conv2d(4, 4, 3), norm=True))
    assert set(layer.convs) == set(layer.norms) == {"s-a", "s-a-1", "a-t", "a-b", "s-t"}
    assert set(layer.activations) == {"a", "b"}
    assert set(layer.biases) == {"a", "b", "t"}
    assert all(layer.convs[edge_key(e.name)].kernel_size == e.kernel for e in graph.convolutions)
    assert all(isinstance(part, ParametricActivation) for part in layer.activations.values())


def test_every_filter_is_a_parameter_of_four_dimensions():
    layer = GraphConv2d(_shape(module(BRIDGE, channels={"a": 2, "c": 6})))
    filters = {name: value for name, value in layer.named_parameters() if name.startswith("convs")}
    assert len(filters) == 7
    assert all(isinstance(value, nn.Parameter) and value.dim() == 4 for value in filters.values())
    assert filters["convs.a-c.weight"].shape == (6, 2, 3, 3)
    assert filters["convs.s-a.weight"].shape == (2, 4, 3, 3)


@pytest.mark.parametrize("vertex", ["forward", "keys", "items", "training", "type", "pop", "a"])
def test_a_vertex_may_have_any_name(vertex):
    graph = ModuleGraph([Edge("s", vertex, 3), Edge(vertex, "t", 1)])
    layer = GraphConv2d(_shape(graph))
    assert layer(torch.zeros(1, 4, 6, 6)).shape == (1, 4, 6, 6)
    assert len(layer.activations) == 1
    assert len(layer.biases) == 2


def test_inner_vertices_alone_are_activated_and_after_the_sum():
    """Two routes of 1 and -2 meet in one vertex: relu(1 - 2) = 0, while relu(1) + relu(-2) = 1."""
    layer = GraphConv2d(_shape(module("sa sa at", 1), nn.Conv2d(1, 1, 1)))
    with torch.no_grad():
        for key, value in {"s-a": 1.0, "s-a-1": -2.0, "a-t": -5.0}.items():
            layer.convs[key].weight.fill_(value)
        layer.activations["a"].a.zero_()
        layer.biases["a"].fill_(4.0)
        layer.biases["t"].fill_(-3.0)
        one = torch.ones(1, 1, 1, 1)
        assert layer(one).item() == -5 * 3 - 3  # relu(1 - 2 + 4) = 3, and no activation at the sink
        assert layer(5 * one).item() == -3
        layer.activations["a"].a.fill_(0.5)
        assert layer(5 * one).item() == -5 * -0.5 - 3


def test_without_an_activation_or_a_bias_there_is_none():
    layer = GraphConv2d(_shape(module("sa at"), nn.Conv2d(4, 4, 3, bias=False), activation=None))
    assert not layer.activations
    assert not layer.biases
    assert not layer.norms
    assert len(list(layer.parameters())) == 2


@pytest.mark.parametrize("stride", [(2, 2), (2, 1)])
@pytest.mark.parametrize("padding", ["exact", "same"])
def test_the_stride_is_at_the_sink_or_at_the_source_where_all_that_follows_is_1x1(stride, padding):
    conv = nn.Conv2d(4, 4, 3, stride, 1)
    late, early = module("sa at:1x3 st"), module("sa at:1x1 st st=1")
    assert not strides_at_source(late)
    assert strides_at_source(early)
    layer = GraphConv2d(_shape(late, conv, padding=padding))
    assert layer.convs["s-a"].stride == (1, 1)
    assert layer.convs["a-t"].stride == layer.convs["s-t"].stride == stride
    layer = GraphConv2d(_shape(early, conv, padding=padding))
    assert layer.convs["s-a"].stride == layer.convs["s-t"].stride == stride
    assert layer.convs["a-t"].stride == (1, 1)
    for graph in (late, early):
        x = torch.randn(1, 4, 9, 10)
        assert GraphConv2d(_shape(graph, conv, padding=padding))(x).shape == conv(x).shape


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([0, 1, 2, (2, 0), "same", "valid"]), st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 2]))
def test_the_rim_is_the_convolutions_padding(padding, kernel, dilation):
    conv = nn.Conv2d(1, 1, kernel, padding=padding, dilation=dilation)
    left, right, top, bottom = ConvShape.of(conv).rim
    height = 9 + top + bottom - dilation * (kernel - 1)
    width = 9 + left + right - dilation * (kernel - 1)
    assert conv(torch.zeros(1, 1, 9, 9)).shape[2:] == (height, width)
    if padding == "same":
        assert (height, width) == (9, 9)


def test_groups_divide_every_width():
    conv = ConvShape.of(nn.Conv2d(4, 6, 3, groups=2))
    assert group_widths(module("sa at", channels={"a": 8}), conv) == {"s": 4, "a": 8, "t": 6}
    with pytest.raises(ValueError, match="vertex 'a' has 5 channels, which the 2 groups of the convolution do not div"):
        group_widths(module("sa at", channels={"a": 5}), conv)
    layer = GraphConv2d(ModuleShape(conv, module("sa at", channels={"a": 8})))
    assert layer.convs["s-a"].weight.shape == (8, 2, 3, 3)
    assert layer.convs["a-t"].groups == 2


def test_an_identity_that_does_not_fit_is_refused():
    with pytest.raises(GraphError, match="joins 3 and 4 channels"):
        GraphConv2d(_shape(module("st=1 st"), nn.Conv2d(3, 4, 1)))


def test_it_answers_what_a_network_may_ask_of_a_convolution():
    conv = nn.Conv2d(4, 8, (3, 1), 2, dilation=(1, 2), groups=2)
    layer = GraphConv2d(ModuleShape(ConvShape.of(conv), module("sa at")))
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"):
        assert getattr(layer, name) == getattr(conv, name)
    assert "padding=exact" in repr(layer)
    assert "s-a 3x3" in repr(layer)


def test_a_copy_is_independent():
    layer = _randomised(_shape(module(BRIDGE), norm=True)).eval()
    other = copy.deepcopy(layer)
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(layer(x), other(x))
    with torch.no_grad():
        other.convs["s-a"].weight.zero_()
    assert not torch.allclose(layer(x), other(x))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("padding", ["exact", "same"])
def test_channels_last_gives_the_same(norm, padding):
    layer = _randomised(_shape(module("sa at st=0.5 st"), padding=padding, norm=norm)).eval()
    x = torch.randn(2, 4, 7, 8)
    y = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    layer = layer.to(memory_format=torch.contiguous_format)
    assert_close(y, layer(x), rtol=1e-4, atol=1e-5 * float(y.detach().abs().max()))


def test_a_batch_norm_follows_each_convolution():
    layer = GraphConv2d(
        _shape(module("sa at st", 1), nn.Conv2d(2, 2, 1, bias=False), norm=True, activation=None)
    ).double()
    for conv in layer.convs.values():
        nn.init.ones_(conv.weight)
    layer.train()
    y = layer(normal(64, 2, 5, 5))
    assert_close(y.mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)
    assert y.detach().std() == pytest.approx(2, rel=0.02)  # two equal routes of unit variance
    assert all(int(norm.num_batches_tracked) == 1 for norm in layer.norms.values())


def test_the_work_of_an_exact_rim_is_that_of_its_pixels():
    """One padded input of 3 + 3 + 1 convolutions: no blob is larger than what comes after it needs."""
    layer = GraphConv2d(_shape(module("sa at"), nn.Conv2d(1, 1, 3, padding=1, bias=False), activation=None))
    sizes = []
    for conv in layer.convs.values():
        conv.register_forward_hook(lambda _, __, y: sizes.append(tuple(y.shape[2:])))
    layer(torch.zeros(1, 1, 10, 8))
    assert sizes == [(12, 10), (10, 8)]
    assert math.prod(sizes[0]) * 9 + math.prod(sizes[1]) * 9 == 1800
