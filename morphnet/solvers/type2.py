"""The TYPE-II atomic morph: one convolution becomes two in parallel."""

from __future__ import annotations

import torch
from torch import Tensor

from morphnet.solvers.algebra import fit, zero_pad


def solve_type2(target: Tensor, first: Tensor, second: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two filters whose sum is ``target``, ``(C_j, C_i, H, W)``; ``first`` and ``second`` are the masks of their taps.

    A tap of both filters is split at random around its half; a tap of one goes there; a tap of none is lost.

    Source: Eq. (4), Sec. 3.2.
    """
    kernel = [max(sizes) for sizes in zip(target.shape[2:], first.shape, second.shape, strict=True)]
    size = (kernel[0], kernel[1])
    whole = zero_pad(target, size)
    masks = [zero_pad(mask[None, None].to(target.dtype), size)[0, 0] for mask in (first, second)]
    noise = torch.randn(whole.shape, generator=generator, dtype=target.dtype)
    scale = torch.linalg.norm(target) / max(target.numel(), 1) ** 0.5
    half = 0.5 * whole + 0.25 * scale * noise
    ours = masks[0] * (1 - masks[1]) * whole + masks[0] * masks[1] * half
    theirs = masks[1] * (whole - ours)
    return fit(ours, _kernel(first)), fit(theirs, _kernel(second))


def _kernel(mask: Tensor) -> tuple[int, int]:
    return (mask.shape[0], mask.shape[1])
