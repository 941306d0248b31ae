import pytest
import torch
from torch.testing import assert_close

from morphnet.nn.subsample import _Subsample, subsample


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [(2, 2), (1, 3), (2, 1)])
@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1)])
def test_its_own_gradient_is_that_of_the_slice(layout, stride, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    want = subsample(x, stride)
    assert_close(want, x[:, :, :: stride[0], :: stride[1]], rtol=0, atol=0)
    got = _Subsample.apply(x, stride)
    assert_close(got, want, rtol=0, atol=0)
    grad = torch.randn_like(want)
    (expected,) = torch.autograd.grad(want, x, grad)
    (found,) = torch.autograd.grad(got, x, grad)
    assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.slow
def test_it_is_what_a_compiled_network_computes_by():
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    compiled = torch.compile(lambda x: subsample(torch.relu(x), (2, 2)) * 3, fullgraph=True)
    (expected,) = torch.autograd.grad(torch.relu(x)[:, :, ::2, ::2].mul(3).sum(), x)
    (found,) = torch.autograd.grad(compiled(x).sum(), x)
    assert_close(found, expected)
