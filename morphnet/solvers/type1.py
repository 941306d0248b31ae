"""The TYPE-I atomic morph: one convolution becomes two in series."""

from __future__ import annotations

import torch
from torch import Tensor

from morphnet.solvers.algebra import compose, zero_pad
from morphnet.solvers.solution import TOLERANCE, Type1Solution


def solve_type1(target: Tensor, inner: Tensor, outer_kernel: tuple[int, int]) -> Type1Solution:
    """The outer filter that computes ``target`` after the given inner one: least squares, minimum norm, float64.

    Args:
        target: G_l, shape ``(C_j, C_i, H, W)``; padded with zeros to the effective kernel.
        inner: F_l, shape ``(C_l, C_i, H_1, W_1)``.
        outer_kernel: ``(H_2, W_2)``, with ``H_1 + H_2 - 1 >= H`` and the same for the width.

    Raises:
        ValueError: the filters disagree on C_i, or the composed kernel is smaller than the target's.

    With F_l fixed, Eq. (2) is linear in F_{l+1} and decouples: every output channel has the same matrix, of ``C_i
    K~^2`` rows and ``C_l K_2^2`` columns. Source: Eq. (2), Sec. 3.2.
    """
    target, inner = target.double(), inner.double()
    if target.shape[1] != inner.shape[1]:
        raise ValueError(f"the target takes {target.shape[1]} channels, the inner filter {inner.shape[1]}")
    effective = tuple(k1 + k2 - 1 for k1, k2 in zip(inner.shape[2:], outer_kernel, strict=True))
    padded = zero_pad(target, (effective[0], effective[1]))
    matrix = _matrix(inner, outer_kernel)
    solved = torch.linalg.lstsq(matrix, padded.flatten(1).T, driver="gelsd").solution
    outer = solved.T.reshape(target.shape[0], inner.shape[0], *outer_kernel)
    residual = float(torch.linalg.norm(compose(outer, inner) - padded) / torch.linalg.norm(padded).clamp_min(1e-300))
    converged = residual <= TOLERANCE
    return Type1Solution(inner, outer, residual, _condition(matrix), converged, _outcome(residual, converged, matrix))


def _matrix(inner: Tensor, outer_kernel: tuple[int, int]) -> Tensor:
    """The matrix of Eq. (2) as a map from one output channel of F_{l+1} to one of G~_l."""
    mid, taps = inner.shape[0], outer_kernel[0] * outer_kernel[1]
    unit = torch.eye(mid * taps, dtype=inner.dtype, device=inner.device).reshape(mid * taps, mid, *outer_kernel)
    return compose(unit, inner).flatten(1).T


def _condition(matrix: Tensor) -> float:
    """Ratio of the largest to the smallest non-zero singular value."""
    values = torch.linalg.svdvals(matrix)
    values = values[values > values[0] * max(matrix.shape) * torch.finfo(matrix.dtype).eps]
    return float(values[0] / values[-1]) if len(values) else float("inf")


def _outcome(residual: float, converged: bool, matrix: Tensor) -> str:
    if converged:
        return f"exact: residual {residual:.1e}"
    rows, columns = matrix.shape
    return (
        f"residual {residual:.1e} > {TOLERANCE:.0e}: {columns} unknowns for {rows} equations per output channel; "
        "give the outer filter more channels or a larger kernel, or the inner one zeros outside of its centre"
    )
