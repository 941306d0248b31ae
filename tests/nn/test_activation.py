import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from morphnet.nn.activation import FUNCTIONS, ParametricActivation, prelu

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "neither": lambda x: x.transpose(2, 3),
}


def _inputs(shape=(3, 5, 6, 6), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    a = torch.randn(shape[1], generator=generator, dtype=dtype)
    return x, a, torch.randn(shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 5, 6, 6), (2, 1, 4, 4), (4, 7, 1, 1), (1, 3, 2, 2)])
def test_prelu_and_its_gradients_are_those_of_pytorch(layout, shape):
    values, slopes, grad = _inputs(shape)
    results = []
    for function in (prelu, F.prelu):
        x, a = values.clone().requires_grad_(), slopes.clone().requires_grad_()
        y = function(LAYOUTS[layout](x), a)
        y.backward(LAYOUTS[layout](grad))
        results.append((y, x.grad, a.grad))
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)


def test_prelu_passes_gradcheck():
    x, a, _ = _inputs((2, 3, 4, 2))
    assert torch.autograd.gradcheck(prelu, (x.requires_grad_(), a.requires_grad_()))


def test_prelu_in_bfloat16_has_a_float32_slope_gradient_close_to_the_exact_one():
    values, slopes, grad = _inputs((16, 8, 16, 16), torch.float32)
    x = values.bfloat16().contiguous(memory_format=torch.channels_last)
    a = slopes.clone().requires_grad_()
    y = prelu(x, a)
    assert y.dtype == torch.bfloat16
    y.backward(grad.bfloat16())
    exact = (grad * values.clamp(max=0)).sum((0, 2, 3))
    assert a.grad is not None
    assert a.grad.dtype == torch.float32
    assert_close(a.grad, exact, rtol=0.02, atol=0.5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_of_one_is_the_identity_and_a_of_zero_the_function(function):
    x, _, _ = _inputs()
    assert torch.equal(ParametricActivation(function, 5, a=1.0).double()(x), x)
    assert_close(ParametricActivation(function, 5, a=0.0).double()(x), FUNCTIONS[function](x), rtol=0, atol=0)


def test_any_function_can_be_made_parametric():
    x, a, _ = _inputs()
    activation = ParametricActivation(torch.sin, 5).double()
    with torch.no_grad():
        activation.a.copy_(a)
    slope = a.view(1, -1, 1, 1)
    assert_close(activation(x), (1 - slope) * torch.sin(x) + slope * x)


def test_slopes_get_gradients_from_vectors_too():
    activation = ParametricActivation("gelu", 5, a=0.3)
    activation(torch.randn(4, 5)).sum().backward()
    assert activation.a.grad is not None
    assert activation.a.grad.abs().min() > 0
