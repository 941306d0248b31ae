"""``solve``: filters for any module, exact if the graph allows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from morphnet.graph import SINK, SOURCE, ModuleGraph
from morphnet.graph.feasibility import Feasibility, check_feasible
from morphnet.solvers.algebra import add, adjoint, orthogonal, zero_pad
from morphnet.solvers.als import MAX_SWEEPS, solve_als
from morphnet.solvers.balance import balance, source_and_sink_are_tied
from morphnet.solvers.deconvolution import solve_outer, tap_mask
from morphnet.solvers.graded import expected_zeros, solve_graded, split_vertices
from morphnet.solvers.liveness import find_weak
from morphnet.solvers.module_filter import module_filter, residual_of, routes_from_source, routes_to_sink
from morphnet.solvers.paraunitary import identity_chains, solve_identity_chains
from morphnet.solvers.solution import TOLERANCE, Filters, Solution

METHODS = ("auto", "als")
INITS = ("dense", "sparse")
#: Condition number above which another anchor is tried.
GOOD_CONDITION = 3.0
#: Smallest norm of an output channel, over the mean of all, that is scaled up before solving.
WEAKEST_ROW = 1e-3
#: Largest |G~_l| for which alternating least squares is tried if no exact solution is known.
ALS_EQUATIONS = 5_000
#: Limits of that attempt: sweeps and seconds.
ALS_SWEEPS, ALS_SECONDS = 20, 20.0
#: Limit of ``als`` in seconds.
MAX_SECONDS = 600.0


def solve(
    graph: ModuleGraph,
    weight: Tensor,
    method: str = "auto",
    generator: torch.Generator | None = None,
    *,
    init: str = "dense",
    max_sweeps: int = MAX_SWEEPS,
    max_seconds: float = MAX_SECONDS,
) -> Solution:
    """Filters of ``graph`` whose composition is ``weight``: the modular network morphism equation (Eq. 5).

    Args:
        weight: the parent's filter G_l, ``(C_j, C_i, H, W)`` as in ``conv2d``, any dtype and device. An even kernel is
            embedded in the next odd one: a row or column of zeros at its end.
        method: ``auto`` is exact by construction if the condition of
            :func:`~morphnet.graph.feasibility.check_feasible` holds and approximates otherwise; ``als`` is Theorem 8's
            route as printed.
        generator: CPU generator of the random filters; by default one with seed 0.
        init: with ``auto``: ``dense``, as few zeros as the widths allow; ``sparse``, one edge has the whole kernel and
            all others their centre tap.
        max_sweeps, max_seconds: limits of ``als``, checked before each sweep.

    Returns:
        A :class:`Solution`. Missing the tolerance is an outcome: ``converged`` is False and ``outcome`` says what would
        make it exact.

    Raises:
        ValueError, TypeError: an argument is wrong.

    Source: Eqs. (2) to (7), Algorithm 2, Theorem 8.
    """
    started = time.perf_counter()
    _check_arguments(graph, weight, method, init, max_sweeps, max_seconds)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    out_channels, in_channels = weight.shape[:2]
    widths = graph.widths(in_channels, out_channels)
    target = embed_even(weight.detach().to("cpu", torch.float64))
    if not graph.convolutions:
        residual = _identity_residual(graph, target, widths)
        outcome = "the module has only identities: nothing to solve"
        outcome += "" if residual <= TOLERANCE else f", and their sum differs from the filter by {residual:.1e}"
        return Solution(Filters(), residual, residual <= TOLERANCE, outcome, 1.0, 0.0, 0, 0.0, method)
    if method == "als":
        filters, sweeps = solve_als(graph, target, widths, generator, max_sweeps, stop_at=started + max_seconds)
        residual, condition = residual_of(graph, filters, target), float("nan")
        outcome = f"als: residual {residual:.1e} after {sweeps} sweeps"
        if not residual <= TOLERANCE:
            advice = check_feasible(graph, tuple(target.shape))
            ended = "not converged" if sweeps >= max_sweeps else "stalled"
            ended = f"stopped after {max_seconds:g} s" if time.perf_counter() - started > max_seconds else ended
            outcome += f", {ended}; "
            outcome += "method=auto is exact here" if advice.is_exact else advice.advice
    else:
        feasible = check_feasible(graph, tuple(target.shape))
        filters, condition, sweeps = _solve_auto(graph, target, widths, feasible, generator, init == "dense")
        residual = residual_of(graph, filters, target)
        outcome = _outcome(residual, feasible)
    converged = residual <= TOLERANCE
    weak = find_weak(graph, filters, target)
    numbers = sum(w.numel() for w in filters.values())
    zeros = sum(int((w == 0).sum()) for w in filters.values())
    return Solution(
        filters=Filters({edge: filters[edge].to(weight.device) for edge in graph.convolutions}),
        residual=residual,
        converged=converged,
        outcome=outcome,
        condition=condition,
        zero_share=zeros / numbers,
        iterations=sweeps,
        seconds=time.perf_counter() - started,
        method=method,
        weak=weak,
    )


def embed_even(weight: Tensor) -> Tensor:
    """``weight`` with odd kernel sizes: a row or column of zeros after an even one."""
    rows, columns = (1 - size % 2 for size in weight.shape[2:])
    return torch.nn.functional.pad(weight, (0, columns, 0, rows))


def _check_arguments(
    graph: ModuleGraph, weight: Tensor, method: str, init: str, max_sweeps: int, max_seconds: float
) -> None:
    if not isinstance(graph, ModuleGraph):
        raise TypeError(f"solve: a ModuleGraph is needed; got {type(graph).__name__}")
    if not isinstance(weight, Tensor) or weight.dim() != 4 or weight.numel() == 0 or not weight.is_floating_point():
        got = f"{tuple(weight.shape)} of {weight.dtype}" if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"solve: a real filter of shape (C_j, C_i, H, W) is needed; got {got}")
    if not torch.isfinite(weight).all():
        raise ValueError("solve: the filter contains infinities or NaN")
    largest = float(weight.detach().abs().max())
    if largest and not 1e-100 < largest < 1e100:
        raise ValueError(
            f"solve: the largest value of the filter is {largest:.0e}, and its square is out of the range of float64; "
            "scale it"
        )
    if max_sweeps < 1 or not max_seconds > 0:
        raise ValueError(
            f"max_sweeps={max_sweeps}, max_seconds={max_seconds}: at least one sweep and some time are needed"
        )
    if method not in METHODS:
        raise ValueError(f"method={method!r}; expected {' or '.join(METHODS)}")
    if init not in INITS:
        raise ValueError(f"init={init!r}; expected {' or '.join(INITS)}")


def _solve_auto(
    graph: ModuleGraph,
    target: Tensor,
    widths: Mapping[str, int],
    feasible: Feasibility,
    generator: torch.Generator,
    dense: bool,
) -> tuple[Filters, float, int]:
    """The first good solution: paraunitary chains, then graded filters around each anchor, then approximations."""
    tied = source_and_sink_are_tied(graph)
    rows = _row_scales(graph, target)
    even = target / rows[:, None, None, None]
    size = float(torch.linalg.norm(even))
    # Solves for a filter of unit scale; `balance` spreads the factor over the module.
    gain = 1.0 if tied or size == 0 else size / min(target.shape[:2]) ** 0.5
    best: tuple[tuple[bool, int, float], Filters, float] | None = None
    count = 0

    def offer(filters: Filters, condition: float) -> bool:
        nonlocal best
        residual = residual_of(graph, filters, target)
        weak = len(find_weak(graph, filters, target)) + (not condition <= GOOD_CONDITION)
        rank = (not residual <= TOLERANCE, weak if residual <= TOLERANCE else 0, residual)
        if best is None or rank < best[0]:
            best = (rank, filters, condition)
        return not rank[0] and not weak

    modes = [True, False] if dense else [False]
    candidates = [
        (expected_zeros(graph, widths, split, anchor, mode), len(anchor.before) + len(anchor.after), anchor, mode)
        for mode in modes
        for anchor in feasible.anchors
        for split in [split_vertices(graph, widths, anchor, mode)]
    ]
    candidates.sort(key=lambda c: (c[0], c[1], c[2].edge.name))
    chains = identity_chains(graph, target) if dense and (not candidates or candidates[0][0]) else None
    if chains is not None:
        count += 1
        scale, edges = chains
        filters = solve_identity_chains(edges, scale, target.shape[0], generator)
        if offer(balance(graph, filters), 1.0):
            assert best is not None
            return best[1], best[2], count
    for _, _, anchor, mode in candidates[:8]:
        count += 1
        graded = solve_graded(graph, even / gain, widths, anchor, generator, mode)
        scaled = {e: w * rows[:, None, None, None] if e.target == SINK else w for e, w in graded.filters.items()}
        if offer(balance(graph, scaled, gain), graded.condition):
            break
    if best is None or best[0][0]:
        for attempt in _attempts(graph, target, widths, generator):
            count += 1
            try:
                filters = attempt()
            except MemoryError:
                continue
            if offer(balance(graph, filters), float("nan")) or (best is not None and not best[0][0]):
                break
    if best is None:  # too large for every attempt: random filters and their residual
        best = ((True, 0, 1.0), Filters(_random_filters(graph, widths, generator, False)), float("nan"))
    return best[1], best[2], count


def _row_scales(graph: ModuleGraph, target: Tensor) -> Tensor:
    """Factors of the output channels, taken out before solving and put back into the edges at the sink.

    A channel much weaker than the others would be a small difference of large numbers and lose digits in the cast. All
    1 if no channel is that weak, or if an identity leads into the sink, which cannot be scaled.
    """
    norms = target.flatten(1).norm(dim=1)
    mean = norms.square().mean().sqrt()
    if not mean or norms.min() > 0.1 * mean or any(e.identity for e in graph.edges_into(SINK)):
        return torch.ones_like(norms)
    return (norms / mean).clamp_min(WEAKEST_ROW)


def _attempts(
    graph: ModuleGraph, target: Tensor, widths: Mapping[str, int], generator: torch.Generator
) -> list[Callable[[], Filters]]:
    """Solvers that may be exact although no edge can take the whole filter."""
    attempts: list[Callable[[], Filters]] = [
        partial(solve_end, graph, target, widths, generator, at_sink=at_sink, full=full)
        for full in (True, False)
        for at_sink in (True, False)
    ]
    rows, columns = graph.kernel
    if target.shape[0] * target.shape[1] * rows * columns <= ALS_EQUATIONS:
        stop_at = time.perf_counter() + ALS_SECONDS
        attempts.append(lambda: solve_als(graph, target, widths, generator, ALS_SWEEPS, stop_at=stop_at)[0])
    return attempts


def solve_end(
    graph: ModuleGraph,
    target: Tensor,
    widths: Mapping[str, int],
    generator: torch.Generator,
    *,
    at_sink: bool,
    full: bool,
) -> Filters:
    """Solves all edges into the sink (or out of the source) as one linear system, all others drawn at random.

    ``full``: the others are random on the whole kernel, else on the centre tap only, which leaves fewer equations.

    Raises:
        MemoryError: the system is too large.
    """
    filters = _random_filters(graph, widths, generator, full)
    ends = [e for e in (graph.edges_into(SINK) if at_sink else graph.edges_out_of(SOURCE)) if not e.identity]
    if not ends:
        raise MemoryError("only identities lead there")
    # The solution nearest to random filters: the one of minimum norm has low rank.
    size = float(torch.linalg.norm(target)) or 1.0
    start = Filters()
    for edge in ends:
        noise = torch.randn(filters[edge].shape, generator=generator, dtype=torch.float64)
        start[edge] = noise * (size / (2 * float(torch.linalg.norm(noise)) * len(ends) ** 0.5))
    missing = add(target, -module_filter(graph, Filters({**filters, **start}), widths[SOURCE], widths[SINK]))
    masks = [tap_mask(edge.kernel, edge.taps) for edge in ends]
    if at_sink:
        reached = routes_from_source(graph, filters, widths)
        reached[SOURCE] = torch.eye(widths[SOURCE], dtype=torch.float64)[:, :, None, None]
        solved = solve_outer(missing, [(reached[e.source], mask) for e, mask in zip(ends, masks, strict=True)])
    else:
        reached = routes_to_sink(graph, filters, widths)
        reached[SINK] = torch.eye(widths[SINK], dtype=torch.float64)[:, :, None, None]
        turned = [(adjoint(reached[e.target]), mask.flip(-1, -2)) for e, mask in zip(ends, masks, strict=True)]
        solved = [adjoint(weight) for weight in solve_outer(adjoint(missing), turned)]
    return Filters({**filters, **{e: start[e] + step for e, step in zip(ends, solved, strict=True)}})


def _random_filters(graph: ModuleGraph, widths: Mapping[str, int], generator: torch.Generator, full: bool) -> Filters:
    filters = Filters()
    for edge in graph.convolutions:
        rows, columns = (widths[edge.target], widths[edge.source])
        if full:
            taps = edge.kernel[0] * edge.kernel[1]
            weight = orthogonal(rows, columns * taps, generator).reshape(rows, columns, *edge.kernel)
        else:
            weight = zero_pad(orthogonal(rows, columns, generator)[:, :, None, None], edge.kernel)
        filters[edge] = weight
    return filters


def _identity_residual(graph: ModuleGraph, target: Tensor, widths: Mapping[str, int]) -> float:
    whole = module_filter(graph, {}, widths[SOURCE], widths[SINK])
    size = float(torch.linalg.norm(target))
    difference = float(torch.linalg.norm(add(whole, -target)))
    return difference / size if size > 0 else difference


def _outcome(residual: float, feasible: Feasibility) -> str:
    if residual <= TOLERANCE:
        return f"exact: residual {residual:.1e}"
    if feasible.is_exact:
        why = "rounding errors are too large, or identity edges cancel each other"
        return f"residual {residual:.1e} > {TOLERANCE:.0e}, although {feasible.anchors[0]} should be exact: {why}"
    return f"residual {residual:.1e} > {TOLERANCE:.0e}: no exact solution found; to guarantee one, {feasible.advice}"
