"""Solves one filter of a module with all others fixed: the linear system of Eq. (7)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from morphnet.graph import Support
from morphnet.solvers.algebra import adjoint, compose, fit, zero_pad

#: Most unknowns of an inner edge that is solved by a dense matrix.
DENSE_UNKNOWNS = 600
#: Largest number of entries of a dense matrix (float64, 8 bytes each).
DENSE_ENTRIES = 6e7
#: Iterations of the matrix-free solver.
LSMR_ITERATIONS = 200


def tap_mask(kernel: tuple[int, int], taps: Support) -> Tensor:
    """Booleans of shape ``kernel``, true at ``taps``."""
    mask = torch.zeros(kernel, dtype=torch.bool)
    for row, column in taps:
        mask[row + kernel[0] // 2, column + kernel[1] // 2] = True
    return mask


def deconvolve(
    target: Tensor, after: Tensor | None, before: Tensor | None, mask: Tensor, shape: tuple[int, int]
) -> Tensor:
    """The filter X with ``after ⊛ X ⊛ before`` nearest to ``target``: least squares, minimum norm.

    Args:
        target: ``(C_j, C_i, H~, W~)``, at least as large as the composed kernel.
        after: all routes from the edge's head to the sink, ``(C_j, C_head, H, W)``; None for the identity.
        before: all routes from the source to the edge's tail, ``(C_tail, C_i, H, W)``; None for the identity.
        mask: taps of X that may be non-zero; its shape is X's kernel.
        shape: (C_head, C_tail).

    An edge at the sink decouples over output channels, one at the source over input channels, one between 1x1
    neighbours over taps. Any other needs a dense matrix or, above ``DENSE_UNKNOWNS``, an iterative solver.

    Source: ``deconv`` of Algorithm 2, Eq. (7).
    """
    if after is None and before is None:
        return _crop(target, mask)
    if after is None:
        assert before is not None
        return solve_outer(target, [(before, mask)])[0]
    if before is None:
        return adjoint(solve_outer(adjoint(target), [(adjoint(after), mask.flip(-1, -2))])[0])
    if after.shape[2:] == (1, 1) and before.shape[2:] == (1, 1):
        left, right = torch.linalg.pinv(after[:, :, 0, 0]), torch.linalg.pinv(before[:, :, 0, 0])
        return torch.einsum("xj,jiyz,iw->xwyz", left, _crop(target, mask), right)
    unknowns = shape[0] * shape[1] * int(mask.sum())
    if unknowns <= DENSE_UNKNOWNS and unknowns * target.numel() <= DENSE_ENTRIES:
        return _dense(target, after, before, mask, shape)
    return _iterate(target, after, before, mask, shape)


def solve_outer(target: Tensor, inner: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Outer filters X_e with ``sum_e X_e ⊛ inner_e`` nearest to ``target``, all at once.

    ``inner`` has, for each e, the filter it follows, ``(C_e, C_i, H, W)``, and the mask of its own taps. Decouples over
    output channels: one matrix of ``C_i H~ W~`` rows and ``sum_e C_e taps_e`` columns.

    Raises:
        MemoryError: that matrix would have more than ``DENSE_ENTRIES`` entries.

    Source: Eq. (5) with all edges fixed but those into the sink.
    """
    kernel = (target.shape[2], target.shape[3])
    columns = sum(filter_.shape[0] * int(mask.sum()) for filter_, mask in inner)
    rows = target.shape[1] * kernel[0] * kernel[1]
    if rows * columns > DENSE_ENTRIES:
        raise MemoryError(
            f"the system of the edges into the sink has {rows:,} x {columns:,} entries, more than the solver takes"
        )
    matrices = []
    for filter_, mask in inner:
        mid, taps = filter_.shape[0], torch.nonzero(mask)
        unit = torch.zeros(mid, len(taps), mid, *mask.shape, dtype=target.dtype)
        for i, (row, column) in enumerate(taps.tolist()):
            unit[:, i, :, row, column] = torch.eye(mid, dtype=target.dtype)
        composed = compose(unit.flatten(0, 1), filter_)
        matrices.append(zero_pad(composed, kernel).flatten(1).T)
    matrix = torch.cat(matrices, dim=1)
    used = matrix.abs().sum(1) > 0  # rows that no tap reaches do not involve the unknowns
    solved = torch.linalg.lstsq(matrix[used], target.flatten(1).T[used], driver="gelsy").solution.T
    filters, start = [], 0
    for filter_, mask in inner:
        count = filter_.shape[0] * int(mask.sum())
        weight = torch.zeros(target.shape[0], filter_.shape[0], *mask.shape, dtype=target.dtype)
        weight[:, :, mask] = solved[:, start : start + count].reshape(target.shape[0], filter_.shape[0], -1)
        filters.append(weight)
        start += count
    return filters


def _crop(target: Tensor, mask: Tensor) -> Tensor:
    """The centre of ``target`` in the shape of ``mask``, zero outside of its taps."""
    return fit(target, (mask.shape[0], mask.shape[1])) * mask


def _apply(x: Tensor, after: Tensor, before: Tensor, kernel: tuple[int, int]) -> Tensor:
    return zero_pad(compose(after, compose(x, before)), kernel)


def _dense(target: Tensor, after: Tensor, before: Tensor, mask: Tensor, shape: tuple[int, int]) -> Tensor:
    kernel = (target.shape[2], target.shape[3])
    places = torch.nonzero(mask.expand(*shape, *mask.shape))
    columns = []
    for place in places.tolist():
        # A filter of one non-zero entry is an outer product of one column of `after` and one row of `before`.
        head, tail, row, column = place
        x = torch.zeros(1, 1, *mask.shape, dtype=target.dtype)
        x[0, 0, row, column] = 1
        columns.append(_apply(x, after[:, head : head + 1], before[tail : tail + 1], kernel).flatten())
    solution = torch.linalg.lstsq(torch.stack(columns, 1), target.flatten()[:, None], driver="gelsy").solution[:, 0]
    weight = torch.zeros(*shape, *mask.shape, dtype=target.dtype)
    weight[tuple(places.T)] = solution
    return weight


def _iterate(target: Tensor, after: Tensor, before: Tensor, mask: Tensor, shape: tuple[int, int]) -> Tensor:
    from scipy.sparse.linalg import LinearOperator, lsmr  # slow to import, rarely needed

    kernel = (target.shape[2], target.shape[3])
    size = (*shape, *mask.shape)
    after_t, before_t = adjoint(after), adjoint(before)

    def forwards(vector: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.asarray(vector, dtype=np.float64)).reshape(size) * mask
        return _apply(x, after, before, kernel).numpy().ravel()

    def backwards(vector: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(np.asarray(vector, dtype=np.float64)).reshape(target.shape)
        return _crop(compose(after_t, compose(y, before_t)), mask).numpy().ravel()

    entries = int(np.prod(size))
    operator = LinearOperator((target.numel(), entries), matvec=forwards, rmatvec=backwards, dtype=np.float64)
    solution = lsmr(operator, target.numpy().ravel(), atol=1e-14, btol=1e-14, maxiter=LSMR_ITERATIONS)[0]
    return torch.from_numpy(solution).reshape(size) * mask
