import copy
import json

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from morphnet.graph import Edge, ModuleGraph
from morphnet.morph.layer import InexactError, feasible_or_why, morph_conv, why_not
from morphnet.nn.graph_conv import ConvShape, GraphConv2d, ModuleShape
from morphnet.solvers import embed_even, solve
from tests.modules import BRIDGE, convolutions, module, normal

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

D = module(BRIDGE)


def _conv(channels=4, seed=0, **settings):
    torch.manual_seed(seed)
    settings.setdefault("padding", 1)
    return nn.Conv2d(channels, channels, settings.pop("kernel_size", 3), **settings)


def _error(layer, conv, x):
    """Largest difference over the largest output."""
    with torch.no_grad():
        y, expected = layer(x), conv(x)
    assert y.shape == expected.shape
    return float((y - expected).abs().max() / expected.abs().max())


@settings(deadline=None, max_examples=120)
@given(convolutions(), st.sampled_from(["prelu", "silu", None]))
def test_every_pixel_is_the_convolutions(case, activation):
    layer = morph_conv(case.conv, case.graph, activation=activation)
    assert _error(layer, case.conv, case.x) < 1e-10


@settings(deadline=None, max_examples=40, derandomize=True)
@given(convolutions())
def test_in_float32_the_error_is_that_of_float32(case):
    conv = case.conv.float()
    layer = morph_conv(conv, case.graph)
    assert {value.dtype for value in layer.parameters()} == {torch.float32}
    with torch.no_grad():
        expected = copy.deepcopy(conv).double()(case.x)
        error = (layer(case.x.float()).double() - expected).abs().max() / expected.abs().max()
    assert float(error) < 1e-5


@settings(deadline=None, max_examples=25)
@given(convolutions(most_inner=2), st.integers(0, 1))
def test_with_same_padding_the_size_and_the_interior_are_the_convolutions(case, more):
    conv, graph = case.conv, case.graph
    layer = morph_conv(conv, graph, padding="same")
    assert layer(case.x).shape == conv(case.x).shape
    # Beyond the module's radius, and what the convolution's own padding and kernel may shift.
    far = [r * d + 9 for r, d in zip(graph.radius, conv.dilation, strict=True)]
    x = normal(1, conv.in_channels, *(2 * f + 18 + more for f in far), seed=4)
    with torch.no_grad():
        y, expected = layer(x), conv(x)
    assert y.shape == expected.shape
    rows, columns = (f // s for f, s in zip(far, conv.stride, strict=True))
    inside = (slice(None), slice(None), slice(rows, -rows), slice(columns, -columns))
    assert expected[inside].numel() > 0
    assert float((y - expected)[inside].abs().max() / expected.abs().max()) < 1e-10


@settings(deadline=None, max_examples=30)
@given(convolutions(parent_kernels=((3, 3), (1, 3), (3, 5)), most_inner=2, padding="same", padding_modes=("circular",)))
def test_same_padding_is_exact_on_a_torus(case):
    radius = max(r * d for r, d in zip(case.graph.radius, case.conv.dilation, strict=True))
    x = normal(1, case.conv.in_channels, radius + 5, radius + 6)
    assert _error(morph_conv(case.conv, case.graph, padding="same"), case.conv, x) < 1e-10


def test_same_padding_differs_at_the_border_alone():
    """A paraunitary pair has all its taps off the centre in both filters; a graded one meets one of them at a time."""
    conv = nn.Conv2d(4, 4, 1, bias=False).double()
    nn.init.dirac_(conv.weight)
    layer = morph_conv(conv, module("sa at"), padding="same")
    x = normal(1, 4, 9, 9)
    difference = (layer(x) - conv(x)).detach().abs().amax((0, 1))
    assert difference[1:-1, 1:-1].max() < 1e-10
    assert difference.max() > 1e-3
    assert _error(morph_conv(conv, module("sa at")), conv, x) < 1e-10
    assert _error(morph_conv(conv, module("sa at"), padding="same", init="sparse"), conv, x) < 1e-10


@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (5, 5), (2, 2), (4, 3)])
@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
def test_module_d_stands_for_kernels_that_fit_its_edges(kernel, stride):
    conv = nn.Conv2d(3, 5, kernel, stride, padding=2, padding_mode="reflect").double()
    graph = ModuleGraph([Edge(u, v, 5 if u + v == "ac" else 3) for u, v in BRIDGE], {"c": 6})
    assert _error(morph_conv(conv, graph), conv, normal(2, 3, 8, 9)) < 1e-10


@settings(deadline=None, max_examples=40)
@given(convolutions(), st.booleans())
def test_gradients_reach_every_parameter(case, padded):
    layer = morph_conv(case.conv, case.graph, padding="same" if padded else "exact")
    # After the first step nothing is an identity any more, and every slope has negative inputs to see.
    y = layer(torch.cat([case.x, -case.x]))
    (y * normal(*y.shape, seed=5)).sum().backward()
    for name, value in layer.named_parameters():
        assert value.grad is not None, name
        assert torch.isfinite(value.grad).all(), name
        assert value.grad.abs().max() > 0, name
        if name.startswith("convs"):
            assert value.dim() == 4


def test_a_step_of_training_moves_it_downhill():
    conv = _conv()
    layer = morph_conv(conv, D, norm="batch", calibration=[torch.randn(32, 4, 8, 8)])
    layer.train()
    x, target = torch.randn(16, 4, 8, 8), torch.randn(16, 4, 8, 8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(6):
        loss = F.mse_loss(layer(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_delivered_as_the_convolution_was(training, requires_grad, dtype):
    conv = _conv().to(dtype).train(training).requires_grad_(requires_grad)
    layer = morph_conv(conv, D, norm="batch", calibration=[torch.randn(8, 4, 6, 6)])
    assert all(part.training == training for part in layer.modules())
    for value in layer.parameters():
        assert value.dtype == dtype
        assert value.requires_grad == requires_grad
        assert value.device == conv.weight.device
        assert value.is_leaf
    assert {value.dtype for value in layer.buffers() if value.is_floating_point()} == {dtype}


@pytest.mark.gpu
def test_on_a_gpu_it_stays_there_with_its_calibration():
    conv = _conv().cuda().eval()
    x = torch.randn(8, 4, 6, 6, device="cuda")
    layer = morph_conv(conv, D, norm="batch", calibration=[x])
    assert {value.device for value in layer.state_dict().values()} == {x.device}
    assert _error(layer, conv, x) < 1e-2  # TF32


def test_the_convolution_is_not_changed_and_nothing_is_shared():
    conv = _conv()
    before = copy.deepcopy(conv.state_dict())
    layer = morph_conv(conv, module("st st"), init="sparse")
    ours = {value.data_ptr() for value in conv.parameters()}
    assert not ours & {value.data_ptr() for value in layer.parameters()}
    with torch.no_grad():
        for value in layer.parameters():
            value.zero_()
    assert all(torch.equal(conv.state_dict()[name], value) for name, value in before.items())


def test_the_generator_decides_the_filters():
    def weight(seed):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return morph_conv(_conv(), D, generator=generator).convs["s-a"].weight

    assert torch.equal(weight(3), weight(3))
    assert not torch.equal(weight(3), weight(4))
    torch.manual_seed(1)
    first = weight(None)
    torch.manual_seed(2)
    assert torch.equal(first, weight(None))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_thin_pair_grows_beside_a_3x3_convolution(stride):
    conv = nn.Conv2d(16, 16, 3, stride, 1, bias=False).double()
    graph = module("st sa:1x1 at:1x1", channels={"a": "0.5x"})
    solution = solve(graph, conv.weight)
    assert solution.converged
    assert solution.residual < 1e-12
    assert (solution.weak, solution.zero_share) == ((), 0.0)
    grown, x = morph_conv(conv, graph), normal(2, 16, 9, 10)
    assert_close(grown(x), conv(x), rtol=1e-10, atol=1e-10)
    assert grown.convs["s-a"].weight.shape == (8, 16, 1, 1)


def test_groups_are_solved_one_by_one():
    conv = nn.Conv2d(6, 4, 3, padding=1, groups=2).double()
    layer = morph_conv(conv, module("sa at", channels={"a": 8}))
    assert layer.convs["s-a"].weight.shape == (8, 3, 3, 3)
    assert not torch.equal(layer.convs["s-a"].weight[:4], layer.convs["s-a"].weight[4:])
    assert _error(layer, conv, normal(1, 6, 7, 7)) < 1e-10
    depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4).double()
    assert _error(morph_conv(depthwise, D), depthwise, normal(1, 4, 7, 7)) < 1e-10
    with pytest.raises(ValueError, match=r"vertex 'a' has 5 channels, which the 2 groups .* do not divide"):
        morph_conv(conv, module("sa at", channels={"a": 5}))


@pytest.mark.parametrize("norm", [None, "batch"])
def test_it_is_saved_as_plain_values_and_a_state_dict(tmp_path, norm):
    layer = morph_conv(_conv(), D, norm=norm, calibration=[torch.randn(8, 4, 6, 6)] if norm else None).eval()
    (tmp_path / "shape.json").write_text(json.dumps(layer.shape.to_dict()))
    torch.save(layer.state_dict(), tmp_path / "weights.pt")
    read = GraphConv2d(ModuleShape.from_dict(json.loads((tmp_path / "shape.json").read_text()))).eval()
    read.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = torch.randn(2, 4, 7, 7)
    assert torch.equal(read(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("norm", [None, "batch"])
def test_it_runs_under_autocast(norm):
    conv = _conv()
    layer = morph_conv(conv, module("sa at st=0.5 st"), norm=norm, calibration=[torch.randn(8, 4, 6, 6)]).train()
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().mean().backward()
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in layer.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert float((layer.eval()(x) - conv(x)).abs().max() / conv(x).abs().max()) < 0.1


GRAPHS = [D, module("sa at st=0.5"), module("sa:1x3 at:1x1 st:3x1 sa")]


@pytest.mark.parametrize("graph", GRAPHS, ids=["D", "shortcut", "parallel"])
@pytest.mark.parametrize("conv", [{}, {"stride": 2, "padding_mode": "reflect"}, {"padding": 0}], ids=str)
@pytest.mark.parametrize("padding", ["exact", "same"])
def test_it_is_exported_and_traced(graph, conv, padding):
    layer = morph_conv(_conv(kernel_size=(1, 3), **conv), graph, padding=padding).eval()
    x = torch.randn(2, 4, 8, 9)
    exported = torch.export.export(layer, (x,))
    assert_close(exported.module()(x), layer(x))
    assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))


def test_it_is_exported_for_any_batch_and_size():
    layer = morph_conv(_conv(stride=2), D).eval()
    sizes = {0: torch.export.Dim("n", min=1), 2: torch.export.Dim("h", min=4), 3: torch.export.Dim("w", min=4)}
    exported = torch.export.export(layer, (torch.randn(2, 4, 8, 8),), dynamic_shapes={"x": sizes})
    x = torch.randn(3, 4, 11, 6)
    assert_close(exported.module()(x), layer(x))


@pytest.mark.parametrize("norm", [None, "batch"])
def test_it_is_compiled_without_a_break(norm):
    """Traced whole, forwards and backwards, by the front end alone; the C++ back end is a slow test."""
    layer = morph_conv(_conv(), module("sa at st=0.5"), norm=norm, calibration=[torch.randn(8, 4, 6, 6)]).train()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x = torch.randn(4, 4, 6, 6)
    assert_close(compiled(x), copy.deepcopy(layer)(x))
    compiled(x).sum().backward()
    assert layer.convs["s-a"].weight.grad.abs().max() > 0


@pytest.mark.slow
def test_it_is_compiled_by_inductor():
    layer = morph_conv(_conv(), D).train()
    x = torch.randn(4, 4, 6, 6)
    compiled = torch.compile(layer, fullgraph=True)
    assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
    compiled(x).sum().backward()
    assert layer.convs["s-a"].weight.grad.abs().max() > 0


def test_it_trains_in_a_process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        layer = morph_conv(_conv(), D, norm="batch", calibration=[torch.randn(8, 4, 6, 6)]).train()
        network = DistributedDataParallel(layer)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        before = layer.convs["b-c"].weight.detach().clone()
        for _ in range(2):  # a second pass fails if a parameter took no part in the first
            optimizer.zero_grad()
            network(torch.randn(4, 4, 6, 6)).square().mean().backward()
            optimizer.step()
        assert not torch.equal(layer.convs["b-c"].weight, before)
    finally:
        dist.destroy_process_group()


@pytest.fixture
def calibration():
    """Inputs whose channels differ in mean and scale."""
    generator = torch.Generator().manual_seed(7)
    scale, mean = torch.rand(4, 1, 1, generator=generator) + 0.5, torch.randn(4, 1, 1, generator=generator)
    return [mean + scale * torch.randn(64, 4, 8, 8, generator=generator) for _ in range(5)]


@settings(deadline=None, max_examples=20)
@given(convolutions(most_inner=2))
def test_batch_normalisation_is_exact_in_evaluation(case):
    layer = morph_conv(case.conv.eval(), case.graph, norm="batch", calibration=[case.x, case.x + 1])
    assert sum(isinstance(part, nn.BatchNorm2d) for part in layer.modules()) == len(case.graph.convolutions)
    assert _error(layer, case.conv, case.x) < 1e-8


@pytest.mark.parametrize("graph", [D, module("sa at st=0.5"), module("sa:1x1 at")], ids=["D", "shortcut", "1c3"])
@pytest.mark.parametrize("conv", [{}, {"stride": 2}, {"bias": False, "padding_mode": "reflect"}], ids=str)
def test_batch_normalisation_in_training_follows_the_convolution(calibration, graph, conv):
    conv = _conv(**conv).eval()
    layer = morph_conv(conv, graph, norm="batch", calibration=calibration[:4])
    assert _error(layer, conv, calibration[4]) < 1e-5
    layer.train()
    with torch.no_grad():
        y, expected = layer(calibration[4]), conv(calibration[4])
    # Statistics of 64 images of 8 x 8 pixels: 1.6 % of a standard deviation, seven times over in module (D).
    assert float((y - expected).std() / expected.std()) < 0.1


def test_batch_normalisation_is_not_the_identity_of_a_fresh_one(calibration):
    """The training mode is the test: fresh statistics would be exact in evaluation as well."""
    conv = _conv().eval()
    layer = morph_conv(conv, D, norm="batch", calibration=calibration).train()
    for part in layer.norms.values():
        assert_close(part.weight, (part.running_var + part.eps).sqrt())
        assert_close(part.bias, part.running_mean)
        nn.init.ones_(part.weight)
        nn.init.zeros_(part.bias)
    with torch.no_grad():
        y, expected = layer(calibration[0]), conv(calibration[0])
    assert float((y - expected).std() / expected.std()) > 0.5


def test_batch_normalisation_needs_inputs_of_the_convolution():
    with pytest.raises(ValueError, match=r"give calibration=, inputs of the convolution"):
        morph_conv(_conv(), D, norm="batch")
    with pytest.raises(ValueError, match=r"give calibration="):
        morph_conv(_conv(), D, norm="batch", calibration=[])
    for wrong in (torch.zeros(2, 3, 8, 8), torch.zeros(4, 8, 8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8), "images"):
        with pytest.raises(ValueError, match=r"inputs of shape \(N, 4, H, W\) are needed"):
            morph_conv(_conv(), D, norm="batch", calibration=[wrong])


class _Scaled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def _hooked(register):
    conv = _conv()
    getattr(conv, register)(lambda *_: None)
    return conv


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d is a transposed convolution"),
        (nn.LazyConv2d(4, 3), "LazyConv2d has no weights yet"),
        (nn.Conv1d(4, 4, 3), "Conv1d is no convolution and no identity"),
        (nn.Conv3d(4, 4, 3), "Conv3d"),
        (nn.Linear(4, 4), "Linear is no convolution"),
        (_Scaled(4, 4, 3), "_Scaled is a subclass of Conv2d"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), "ParametrizedConv2d is a subclass"),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)), "parametrization"),
        (_hooked("register_forward_hook"), "it carries hooks"),
        (_hooked("register_forward_pre_hook"), "it carries hooks"),
        (_hooked("register_full_backward_hook"), "it carries hooks"),
        (nn.Conv2d(4, 4, 3, dtype=torch.complex64), "complex64"),
        (torch.ao.nn.quantized.Conv2d(4, 4, 3), "Conv2d is quantised"),
        (torch.ao.nn.qat.Conv2d(4, 4, 3, qconfig=torch.ao.quantization.default_qat_qconfig), "is quantised"),
        (GraphConv2d(ModuleShape(ConvShape.of(nn.Conv2d(4, 4, 3)), D)), "it is a module already"),
        (nn.Identity(), "an nn.Conv2d is needed"),
        (nn.Sequential(), "an nn.Conv2d is needed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_it_cannot_stand_for_is_refused_by_name(layer, match):
    with pytest.raises(ValueError, match=f"morph_conv: .*{match}"):
        morph_conv(layer, D)


def test_what_can_become_a_module():
    assert [why_not(layer) for layer in (nn.Conv2d(1, 1, 1), nn.Identity(), nn.Sequential())] == [None] * 3
    assert why_not(nn.Sequential(nn.Identity())) is not None
    assert why_not(nn.ReLU()) is not None


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"activation": "rely"}, ValueError, "activation='rely'; expected one of prelu"),
        ({"activation": nn.ReLU()}, TypeError, "a name such as 'prelu' is needed; got ReLU"),
        ({"norm": "layer"}, ValueError, "norm='layer'; expected None or 'batch'"),
        ({"padding": "valid"}, ValueError, "padding='valid'; expected 'exact' or 'same'"),
        ({"method": "newton"}, ValueError, "method='newton'"),
        ({"init": "fancy"}, ValueError, "init='fancy'"),
        ({"graph": "bridge"}, TypeError, "a ModuleGraph is needed; got str"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(change, error, match):
    with pytest.raises(error, match=match):
        morph_conv(**{"conv": _conv(), "graph": D, **change})


@pytest.mark.parametrize("activation", ["prelu", "relu"])
def test_prelu_and_relu_name_one_activation(activation):
    assert morph_conv(_conv(), D, activation=activation).shape.activation == "relu"


@pytest.mark.parametrize("activation", [None, "none"])
def test_none_is_no_activation(activation):
    layer = morph_conv(_conv(), D, activation=activation)
    assert not layer.activations
    assert layer.shape.activation is None


def test_an_inexact_module_is_refused_unless_allowed():
    conv, graph = _conv().double(), module("sa at", channels={"a": 2})
    with pytest.raises(InexactError, match=r"residual .* give vertex a at least 4 channels \(it has 2\)"):
        morph_conv(conv, graph)
    assert issubclass(InexactError, ValueError)
    layer = morph_conv(conv, graph, allow_inexact=True)
    error = _error(layer, conv, normal(2, 4, 8, 8))
    assert 1e-3 < error < 2
    assert feasible_or_why(layer.shape) is not None
    assert "give vertex a at least 4 channels" in feasible_or_why(layer.shape)
    wide = morph_conv(conv, module("sa at", channels={"a": 4}))
    assert feasible_or_why(wide.shape) is None


def test_als_that_stalls_is_refused():
    with pytest.raises(InexactError, match="method=auto is exact here"):
        morph_conv(_conv(2), module("sa at st=0.5"), method="als")


@pytest.mark.parametrize("kernel", [(2, 2), (4, 3)])
def test_an_even_kernel_is_feasible_where_the_next_odd_one_is(kernel):
    conv = _conv(kernel_size=kernel)
    odd = embed_even(conv.weight).shape[2:]
    graph = ModuleGraph([Edge("s", "a", tuple(odd)), Edge("a", "t", 1)])
    assert feasible_or_why(ModuleShape(ConvShape.of(conv), graph)) is None
    small = ModuleGraph([Edge("s", "a", 1), Edge("a", "t", 1)])
    assert f"a kernel of at least {odd[0]}x{odd[1]}" in feasible_or_why(ModuleShape(ConvShape.of(conv), small))
