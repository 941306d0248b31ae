"""The result of a solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from morphnet.graph import Edge

#: Largest relative residual, in float64, of an exact solution.
TOLERANCE = 1e-10


class Filters(dict[Edge, Tensor]):
    """The filter of every convolution of a module, ``(C_target, C_source, H, W)``, by edge or by the edge's name."""

    def __missing__(self, key: object) -> Tensor:
        for edge, weight in self.items():
            if edge.name == key:
                return weight
        raise KeyError(f"no filter for {key!s}; expected one of {', '.join(e.name for e in self)}")


@dataclass(frozen=True)
class Solution:
    """Filters of a module that compute, exactly or nearly, what one parent filter computes.

    Attributes:
        filters: one per convolution, float64, on the device of the parent's filter.
        residual: norm of (module's filter - parent's) over the norm of the parent's.
        converged: whether the residual is at most ``TOLERANCE``.
        outcome: one sentence; if it did not converge, what would make it exact.
        condition: condition number of the linear system, which amplifies errors of the other filters.
        zero_share: share of exact zeros in the filters.
        iterations: linear systems solved in sequence; sweeps over all edges with ``als``.
        seconds: solving time.
        method: ``auto`` or ``als``.
        weak: filters of too low a rank or norm and paths of too small a norm, in words.
    """

    filters: Mapping[Edge, Tensor]
    residual: float
    converged: bool
    outcome: str
    condition: float
    zero_share: float
    iterations: int
    seconds: float
    method: str
    weak: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Type1Solution:
    """Two filters in series that stand for one.

    Attributes:
        inner: F_l, shape ``(C_l, C_i, H_1, W_1)``, float64.
        outer: F_{l+1}, shape ``(C_j, C_l, H_2, W_2)``, float64.
        residual, condition, converged, outcome: as in :class:`Solution`.
    """

    inner: Tensor
    outer: Tensor
    residual: float
    condition: float
    converged: bool
    outcome: str
