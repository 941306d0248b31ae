"""An edge of a module: one convolution, or one scaled identity."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

#: Offsets (rows, columns) from the centre of a kernel, (0, 0).
Support = frozenset[tuple[int, int]]


class GraphError(ValueError):
    """A graph that is not a module; the message names the vertex or edge at fault."""


@dataclass(frozen=True, eq=False)
class Edge:
    """A convolution from one blob to another; with ``identity``, the map ``scale * I``, which has no filter.

    Edges compare by object identity, so every edge is a key of its own, even beside an equal one.

    Attributes:
        source, target: names of vertices: letters, digits and ``_``.
        kernel: odd height and width, stored as a pair; one number stands for both.
        identity: no filter, only ``scale``.
        scale: factor of an identity edge, not zero.
        support: taps that may be non-zero, if not the whole kernel: a reduced edge has those of what it stands for.
        name: ``s-t``, and ``s-t.1``, ``s-t.2`` for further edges between the same vertices; set by the graph.

    Raises:
        GraphError: a name, kernel, scale or support is invalid.

    Source: Sec. 3.3.
    """

    source: str
    target: str
    kernel: Any = 1
    identity: bool = field(default=False, kw_only=True)
    scale: float = field(default=1.0, kw_only=True)
    support: Support | None = field(default=None, kw_only=True, repr=False)
    name: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        where = f"edge {self.source}-{self.target}"
        for vertex in (self.source, self.target):
            if not isinstance(vertex, str) or not re.fullmatch(r"[A-Za-z0-9_]+", vertex):
                raise GraphError(f"{where}: a vertex name consists of letters, digits and '_'; got {vertex!r}")
        if self.source == self.target:
            raise GraphError(f"{where} is a cycle: an edge joins two different vertices")
        object.__setattr__(self, "kernel", _kernel(where, self.kernel))
        if not isinstance(self.identity, bool):
            raise GraphError(f"{where}: identity is true or false; got {self.identity!r}")
        if self.identity and self.kernel != (1, 1):
            raise GraphError(f"{where} is an identity, so it has no kernel; got {self.kernel}")
        rows, columns = self.radius
        if self.support is not None and not (
            self.support and all(abs(y) <= rows and abs(x) <= columns for y, x in self.support)
        ):
            raise GraphError(f"{where}: support needs offsets (row, column) within the {self.kernel} kernel")
        if not isinstance(self.scale, (int, float)) or isinstance(self.scale, bool) or not math.isfinite(self.scale):
            raise GraphError(f"{where}: scale is a number; got {self.scale!r}")
        if not self.identity and self.scale != 1:
            raise GraphError(f"{where}: scale={self.scale} belongs to an identity edge; its filter is solved for")

    @property
    def radius(self) -> tuple[int, int]:
        """Taps on either side of the centre, per axis."""
        return (self.kernel[0] // 2, self.kernel[1] // 2)

    @property
    def taps(self) -> Support:
        """The taps that may be non-zero, as offsets from the centre."""
        if self.support is not None:
            return self.support
        rows, columns = self.radius
        return frozenset((y, x) for y in range(-rows, rows + 1) for x in range(-columns, columns + 1))

    @property
    def signature(self) -> tuple[Any, ...]:
        """Everything but the name, sortable; equal edges have equal signatures."""
        return (
            self.source,
            self.target,
            self.kernel,
            self.identity,
            float(self.scale),
            () if self.support is None else tuple(sorted(self.support)),
        )

    def named(self, name: str) -> Edge:
        """A copy with the given name."""
        copy = replace(self)
        object.__setattr__(copy, "name", name)
        return copy

    def describe(self) -> str:
        """What the edge does: ``3x3``, ``5x5 with 21 of 25 taps``, ``0.5 x identity``."""
        if self.identity:
            return "identity" if self.scale == 1 else f"{self.scale:g} x identity"
        full = self.kernel[0] * self.kernel[1]
        few = f" with {len(self.taps)} of {full} taps" if len(self.taps) < full else ""
        return f"{self.kernel[0]}x{self.kernel[1]}{few}"

    def __str__(self) -> str:
        return f"{self.name or f'{self.source}-{self.target}'} {self.describe()}"


def _kernel(where: str, kernel: Any) -> tuple[int, int]:
    pair = (kernel, kernel) if isinstance(kernel, int) else kernel
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(type(k) is int for k in pair):
        raise GraphError(f"{where}: kernel is an odd number, or a pair of them (height, width); got {kernel!r}")
    if any(k < 1 or k % 2 == 0 for k in pair):
        raise GraphError(f"{where}: kernel {kernel!r} is not odd; use 1, 3, 5, ..., so that it has a centre")
    return (pair[0], pair[1])
