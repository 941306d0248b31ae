"""The TYPE-II atomic morph: one convolution becomes two in parallel."""

from __future__ import annotations

import torch
from torch import Tensor

from morphnet.solvers.algebra import add, zero_pad


def solve_type2(target: Tensor, first: Tensor, second: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two filters whose sum is ``target``.

    Args:
        target: ``(C_j, C_i, H, W)``.
        first, second: masks of the taps that each may have; their shapes are the kernels.

    Returns:
        Filters of those kernels. A tap that both have is split at random around its half; one that a single
        filter has goes there; one that none has is lost.

    Source: Eq. (4), Sec. 3.2.
    """
    kernel = [max(sizes) for sizes in zip(target.shape[2:], first.shape, second.shape, strict=True)]
    size = (kernel[0], kernel[1])
    whole = add(target, torch.zeros(*target.shape[:2], *size, dtype=target.dtype))
    masks = [zero_pad(mask[None, None].to(target.dtype), size)[0, 0] for mask in (first, second)]
    noise = torch.randn(whole.shape, generator=generator, dtype=target.dtype)
    scale = torch.linalg.norm(target) / max(target.numel(), 1) ** 0.5
    half = 0.5 * whole + 0.25 * scale * noise
    ours = masks[0] * (1 - masks[1]) * whole + masks[0] * masks[1] * half
    theirs = masks[1] * (whole - ours)
    return _crop(ours, first), _crop(theirs, second)


def _crop(weight: Tensor, mask: Tensor) -> Tensor:
    rows, columns = (weight.shape[2] - mask.shape[0]) // 2, (weight.shape[3] - mask.shape[1]) // 2
    return weight[:, :, rows : rows + mask.shape[0], columns : columns + mask.shape[1]]
