"""Theorem 8 as printed: Algorithm 1, then Algorithm 2 on the irreducible graph, then the atomic morphs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from morphnet.graph import SINK, SOURCE, ModuleGraph, Step, reduce
from morphnet.solvers.algebra import add, adjoint, compose, fit, zero_pad
from morphnet.solvers.deconvolution import deconvolve, solve_outer, tap_mask
from morphnet.solvers.module_filter import module_filter, routes_from_source, routes_to_sink
from morphnet.solvers.solution import TOLERANCE, Filters
from morphnet.solvers.type2 import solve_type2

#: Largest number of sweeps over all edges.
MAX_SWEEPS = 100
#: Algorithm 2 has stalled if a sweep lowers the residual by less than this share.
STALL = 1e-4

#: Called after every sweep with the module solved so far and its filters.
OnSweep = Callable[[ModuleGraph, Filters], None]


def solve_als(
    graph: ModuleGraph,
    target: Tensor,
    widths: Mapping[str, int],
    generator: torch.Generator,
    max_sweeps: int = MAX_SWEEPS,
    on_sweep: OnSweep | None = None,
    stop_at: float = math.inf,
) -> tuple[Filters, int]:
    """Filters by alternating least squares, and the number of sweeps.

    Args:
        target: the parent's filter, ``(C_j, C_i, H, W)``, odd kernel, float64 on the CPU.
        on_sweep: called after every sweep with the module solved so far, from the irreducible one to ``graph``.
        stop_at: value of ``time.perf_counter()`` after which no further sweep begins, except the first of each system.

    The result may be far from exact: the caller measures its residual. Source: Theorem 8; Algorithms 1 and 2.
    """
    reduction = reduce(graph)
    filters, sweeps = solve_irreducible(reduction.irreducible, target, widths, generator, max_sweeps, on_sweep, stop_at)
    for step in reduction.steps:
        sweeps += _replay(step, filters, target, widths, generator, max_sweeps, on_sweep, stop_at)
    return Filters({edge: filters[edge] for edge in graph.convolutions}), sweeps


def solve_irreducible(
    graph: ModuleGraph,
    target: Tensor,
    widths: Mapping[str, int],
    generator: torch.Generator,
    max_sweeps: int = MAX_SWEEPS,
    on_sweep: OnSweep | None = None,
    stop_at: float = math.inf,
) -> tuple[Filters, int]:
    """Filters and number of sweeps: solves one filter after the other, all others fixed, starting from random noise.

    Ends when the residual is at most ``TOLERANCE``, has stalled, or after ``max_sweeps``. Source: Algorithm 2, Eq. (7).
    """
    masks = {edge: tap_mask(edge.kernel, edge.taps) for edge in graph.convolutions}
    filters = Filters()
    for edge, mask in masks.items():
        shape = (widths[edge.target], widths[edge.source], *mask.shape)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        filters[edge] = noise * mask / (widths[edge.source] * int(mask.sum())) ** 0.5
    rows, columns = (max(sizes) for sizes in zip(graph.kernel, target.shape[2:], strict=True))
    padded = zero_pad(target, (rows, columns))
    size = max(float(torch.linalg.norm(padded)), 1e-300)
    residual, sweeps = float("inf"), 0
    while sweeps < max_sweeps:
        sweeps += 1
        for edge, mask in masks.items():
            before = (
                None if edge.source == SOURCE else routes_from_source(graph, filters, widths, edge.source)[edge.source]
            )
            after = None if edge.target == SINK else routes_to_sink(graph, filters, widths, edge.target)[edge.target]
            rest = Filters({**filters, edge: torch.zeros_like(filters[edge])})
            others = module_filter(graph, rest, target.shape[1], target.shape[0])
            missing = add(padded, -others)
            filters[edge] = deconvolve(missing, after, before, mask, (widths[edge.target], widths[edge.source]))
        whole = module_filter(graph, filters, target.shape[1], target.shape[0])
        last, residual = residual, float(torch.linalg.norm(add(padded, -whole))) / size
        if on_sweep is not None:
            on_sweep(graph, filters)
        if residual <= TOLERANCE or len(masks) == 1 or residual > last * (1 - STALL) or time.perf_counter() > stop_at:
            break
    return filters, sweeps


def _replay(
    step: Step,
    filters: Filters,
    target: Tensor,
    widths: Mapping[str, int],
    generator: torch.Generator,
    max_sweeps: int,
    on_sweep: OnSweep | None,
    stop_at: float,
) -> int:
    """Replaces the filter of the morphed edge by filters of its two parts; returns the number of sweeps."""
    first, second = step.parts
    if step.edge.identity:  # made of identities: it has no filter
        return 0
    whole = filters.pop(step.edge)
    masks = {part: tap_mask(part.kernel, part.taps) for part in step.parts if not part.identity}
    if step.kind == "II":
        if first.identity or second.identity:
            fixed, free = (first, second) if first.identity else (second, first)
            eye = fixed.scale * torch.eye(widths[free.target], dtype=target.dtype)[:, :, None, None]
            filters[free] = _crop_to(add(whole, -eye), masks[free])
        else:
            filters[first], filters[second] = solve_type2(whole, masks[first], masks[second], generator)
        return 0
    if first.identity or second.identity:
        fixed, free = (first, second) if first.identity else (second, first)
        # Identities that cancel each other give 0, whatever the filter is.
        filters[free] = _crop_to(whole / (fixed.scale or 1.0), masks[free])
        return 0

    def tell(inner: Tensor, outer: Tensor) -> None:
        if on_sweep is not None:
            on_sweep(step.morphed, Filters({**filters, first: inner, second: outer}))

    filters[first], filters[second], sweeps = _alternate(
        whole, masks[first], masks[second], widths[first.target], generator, max_sweeps, tell, stop_at
    )
    return sweeps


def _alternate(
    target: Tensor,
    inner: Tensor,
    outer: Tensor,
    mid_channels: int,
    generator: torch.Generator,
    max_sweeps: int,
    tell: Callable[[Tensor, Tensor], None],
    stop_at: float,
) -> tuple[Tensor, Tensor, int]:
    """Two filters in series: one solve if Eq. (3) holds, else alternating solves."""
    size = max(float(torch.linalg.norm(target)), 1e-300)
    first = torch.randn(mid_channels, target.shape[1], *inner.shape, generator=generator, dtype=target.dtype) * inner
    first = first / (target.shape[1] * int(inner.sum())) ** 0.5
    second = torch.randn(target.shape[0], mid_channels, *outer.shape, generator=generator, dtype=target.dtype) * outer
    second = second / (mid_channels * int(outer.sum())) ** 0.5
    residual = float("inf")
    outer_is_larger = target.shape[0] * int(outer.sum()) >= target.shape[1] * int(inner.sum())
    for sweep in range(1, max_sweeps + 1):
        for solve_second in (outer_is_larger, not outer_is_larger):
            if solve_second:
                second = solve_outer(target, [(first, outer)])[0]
            else:
                first = adjoint(solve_outer(adjoint(target), [(adjoint(second), inner.flip(-1, -2))])[0])
            now = float(torch.linalg.norm(add(target, -compose(second, first)))) / size
            if now <= TOLERANCE:
                tell(first, second)
                return first, second, sweep
        tell(first, second)
        if now > residual * (1 - STALL) or time.perf_counter() > stop_at:
            break
        residual = now
    return first, second, sweep


def _crop_to(weight: Tensor, mask: Tensor) -> Tensor:
    return fit(weight, (mask.shape[0], mask.shape[1])) * mask
