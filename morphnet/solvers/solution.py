"""What a solver found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from morphnet.graph import Edge

#: Relative residual, in float64, below which the morphism equation counts as solved.
TOLERANCE = 1e-10


class Filters(dict[Edge, Tensor]):
    """The filter of every convolution of a module, ``(C_target, C_source, H, W)``; also found by the edge's name."""

    def __missing__(self, key: object) -> Tensor:
        for edge, weight in self.items():
            if edge.name == key:
                return weight
        raise KeyError(f"no filter for {key!s}; there are {', '.join(e.name for e in self)}")


@dataclass(frozen=True)
class Solution:
    """Filters of a module that compute what one parent filter computes, or come near it.

    Attributes:
        filters: one per convolution, float64, on the device of the parent's filter; identity edges have none.
        residual: norm of (module's filter - parent's) over the norm of the parent's.
        converged: whether the residual is at most ``TOLERANCE``.
        outcome: one sentence; where it did not converge, what would make it exact.
        condition: condition number of the linear system; how much an error of the other filters is enlarged.
        zero_share: share of exact zeros in the filters.
        iterations: linear systems solved one after the other; sweeps over all edges with ``als``.
        seconds: time it took.
        method: ``auto`` or ``als``.
        weak: edges and paths that are not alive: filters of too low a rank or too small a norm, in words.
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
