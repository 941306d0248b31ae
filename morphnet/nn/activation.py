"""The parametric activation of Eq. (8)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Activation functions that a configuration or a saved network may name.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
}


class Activation(nn.Module):
    """An activation function without parameters."""

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function
        self._call = FUNCTIONS[function]

    def forward(self, x: Tensor) -> Tensor:
        return self._call(x)

    def extra_repr(self) -> str:
        return self.function


class ParametricActivation(nn.Module):
    """P-phi(x) = (1 - a) phi(x) + a x, with one ``a`` per channel.

    ``a = 1`` is the identity, ``a = 0`` is phi itself. For phi = ReLU this is PReLU with slope a.

    Args:
        function: phi, a name in ``FUNCTIONS`` or any callable that maps a tensor to one of its shape.
        channels: number of channels C.
        a: the value every channel starts with.

    Shapes: ``(N, C, ...)`` to the same.

    Source: Eq. (8). The paper restricts a to [0, 1] and trains PReLU, which does not; neither does this.
    """

    def __init__(self, function: str | Callable[[Tensor], Tensor], channels: int, a: float = 0.0) -> None:
        super().__init__()
        self.function = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
        self._call = FUNCTIONS[function] if isinstance(function, str) else function
        self.start = float(a)
        self.a = nn.Parameter(torch.full((channels,), self.start))

    def reset_parameters(self) -> None:
        """Sets every slope to the value it started with."""
        nn.init.constant_(self.a, self.start)

    def forward(self, x: Tensor) -> Tensor:
        if self.function == "relu":
            return prelu(x, self.a)
        y = self._call(x).to(x.dtype)
        # Channels last, so that `a` fits any number of dimensions without asking for it (torch.fx cannot).
        return torch.lerp(y.movedim(1, -1), x.movedim(1, -1), self.a.to(x.dtype)).movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"{self.function}, channels={self.a.numel()}"


@torch.fx.wrap
def prelu(x: Tensor, a: Tensor) -> Tensor:
    """max(x, 0) + a min(x, 0), with one slope per channel.

    Args:
        x: shape ``(N, C, H, W)`` or ``(N, C)``; any floating dtype.
        a: shape ``(C,)``; cast to the dtype of ``x``.

    The same values as ``torch.nn.functional.prelu``. On the CPU a training step through it takes a half to a
    fifth of the time, because PyTorch's backward kernel is slow there (``results/README.md``).
    """
    if x.device.type != "cpu" or x.dim() != 4 or torch.compiler.is_compiling():
        return F.prelu(x, a.to(x.dtype))
    if not x.is_contiguous() and not x.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous()
    return _PReLU.apply(x, a)


class _PReLU(torch.autograd.Function):
    """PReLU on rows of memory, in which the slopes repeat: long inner loops, which PyTorch vectorises."""

    @staticmethod
    def forward(x: Tensor, a: Tensor) -> Tensor:
        return _like(F.prelu(_rows(x), _tile(a, x)), x)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
        x, a = ctx.saved_tensors
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        grad_rows, rows = _rows(grad.contiguous(memory_format=layout)), _rows(x)
        positive = torch.ops.aten.threshold_backward(grad_rows, rows, 0)
        negative = grad_rows - positive
        # In place: on the CPU every large new buffer costs page faults that outweigh the arithmetic.
        grad_x = _like(positive.addcmul_(negative, _tile(a, x)), x) if ctx.needs_input_grad[0] else None
        grad_a = _untile(negative.mul_(rows).sum(0), x).to(a.dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_a


def _channels_last(x: Tensor) -> bool:
    return not x.is_contiguous()  # both readings are right for one channel or one pixel


def _rows(x: Tensor) -> Tensor:
    """``x`` as a matrix of its memory: ``(N H, W C)`` in channels-last layout, else ``(N, C H W)``."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n * h, w * c) if _channels_last(x) else x.reshape(n, c * h * w)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """The inverse of :func:`_rows`."""
    n, c, h, w = x.shape
    return rows.view(n, h, w, c).permute(0, 3, 1, 2) if _channels_last(x) else rows.view(n, c, h, w)


def _tile(a: Tensor, x: Tensor) -> Tensor:
    """The slope that belongs to each column of ``_rows(x)``."""
    _, _, h, w = x.shape
    a = a.to(x.dtype)
    return a.repeat(w) if _channels_last(x) else a.repeat_interleave(h * w)


def _untile(columns: Tensor, x: Tensor) -> Tensor:
    """Sum of ``columns`` over all that belong to one channel, in at least float32."""
    _, c, h, w = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    if _channels_last(x):
        return columns.view(w, c).sum(0, dtype=dtype)
    return columns.view(c, h * w).sum(1, dtype=dtype)
