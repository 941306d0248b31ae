"""Operations on filters: composition, zero padding, random orthogonal matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Filter of the layer that applies ``inner`` and then ``outer``.

    Args:
        outer: F_{l+1}, shape ``(C_j, C_l, H_2, W_2)``.
        inner: F_l, shape ``(C_l, C_i, H_1, W_1)``, same dtype and device.

    Returns:
        Shape ``(C_j, C_i, H_1 + H_2 - 1, W_1 + W_2 - 1)``. Equal to the two layers if all padding precedes ``inner``;
        if each layer pads for itself and both kernels exceed 1x1, the outermost pixels differ.

    Raises:
        ValueError: the two filters disagree on C_l.

    Source: Eq. (2).
    """
    if outer.shape[1] != inner.shape[0]:
        raise ValueError(f"the outer filter takes {outer.shape[1]} channels, the inner one gives {inner.shape[0]}")
    height, width = outer.shape[2:]
    composed = F.conv2d(inner.transpose(0, 1), outer.flip(-1, -2), padding=(height - 1, width - 1))
    return composed.transpose(0, 1)


def zero_pad(weight: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """``weight``, ``(C_j, C_i, H, W)``, centred in a kernel of zeros; with "same" padding the function is the same.

    Raises:
        ValueError: ``kernel_size`` is smaller than ``(H, W)`` or of another parity.

    Source: G~_l of Eq. (2), Sec. 3.4.
    """
    grow = [large - small for large, small in zip(kernel_size, weight.shape[2:], strict=True)]
    if min(grow) < 0 or any(g % 2 for g in grow):
        raise ValueError(f"a {tuple(weight.shape[2:])} kernel cannot be centred in a {tuple(kernel_size)} kernel")
    return F.pad(weight, (grow[1] // 2, grow[1] // 2, grow[0] // 2, grow[0] // 2))


def add(first: Tensor, second: Tensor) -> Tensor:
    """Sum of two filters ``(C_j, C_i, H, W)`` of the same channels; zeros pad the smaller of the two odd kernels.

    Source: Eq. (4) in the extended definition of Sec. 3.4 (Lemma 4).
    """
    if first.shape[:2] != second.shape[:2]:
        raise ValueError(f"cannot add filters of {tuple(first.shape[:2])} and {tuple(second.shape[:2])} channels")
    kernel = (max(first.shape[2], second.shape[2]), max(first.shape[3], second.shape[3]))
    return zero_pad(first, kernel) + zero_pad(second, kernel)


def fit(weight: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """``weight`` centred in another odd kernel: padded with zeros or cropped, per axis."""
    rows, columns = (large - small for large, small in zip(kernel_size, weight.shape[2:], strict=True))
    return F.pad(weight, (columns // 2, columns // 2, rows // 2, rows // 2))


def adjoint(weight: Tensor) -> Tensor:
    """The filter of the transposed map: channels swapped, taps rotated by 180 degrees about the centre."""
    return weight.transpose(0, 1).flip(-1, -2)


def orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A uniformly random matrix ``(rows, columns)`` with orthonormal columns (or rows, if there are fewer).

    float64, all singular values 1, determinant +1 if square.
    """
    if 0 in (rows, columns):
        return torch.zeros(rows, columns, dtype=torch.float64)
    tall = torch.randn(max(rows, columns), min(rows, columns), generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(tall)
    q = q * torch.sign(torch.diagonal(r))
    if rows == columns and torch.linalg.det(q) < 0:
        q[:, 0] = -q[:, 0]
    return q if rows >= columns else q.T.contiguous()
