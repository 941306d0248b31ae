"""What a solver found."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

#: Relative residual, in float64, below which the morphism equation counts as solved.
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Type1Solution:
    """Two filters in series that stand for one.

    Attributes:
        inner: F_l, shape ``(C_l, C_i, H_1, W_1)``, float64.
        outer: F_{l+1}, shape ``(C_j, C_l, H_2, W_2)``, float64.
        residual: norm of (composed filter - target) over the norm of the target.
        condition: condition number of the linear system; how much an error of the inner filter is enlarged.
        converged: whether the residual is below ``TOLERANCE``.
        outcome: one sentence; where it did not converge, what would help.
    """

    inner: Tensor
    outer: Tensor
    residual: float
    condition: float
    converged: bool
    outcome: str
