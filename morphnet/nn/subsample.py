"""Strided sampling of pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def subsample(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Rows and columns 0, s, 2s, ... of ``x``.

    Args:
        x: shape ``(N, C, H, W)``.
        stride: (s of the rows, s of the columns).

    The same values as ``x[:, :, ::s, ::s]``. Through ``torch.compile`` on the CPU its gradient is written to a
    tensor of its own: the compiler's code would test each pixel wherever the gradient is read, which is slow
    (``results/throughput``).
    """
    compiling = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    if compiling and x.device.type == "cpu":  # in this order: torch.fx cannot ask for a device
        return _Subsample.apply(x, stride)
    return x[:, :, :: stride[0], :: stride[1]]


class _Subsample(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, stride: tuple[int, int]) -> Tensor:
        return x[:, :, :: stride[0], :: stride[1]].clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        x, ctx.stride = inputs
        ctx.shape = x.shape

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        n, c, h, w = ctx.shape
        # In channels-last order, in which whole pixels are written.
        spread = grad.new_zeros(n, h, w, c)
        rows = torch.arange(0, h, ctx.stride[0], device=grad.device)
        columns = torch.arange(0, w, ctx.stride[1], device=grad.device)
        spread[:, rows[:, None], columns] = grad.permute(0, 2, 3, 1)
        return spread.permute(0, 3, 1, 2), None
