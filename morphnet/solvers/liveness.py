"""Finds filters and paths of a solution that are too weak to learn from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from morphnet.graph import SOURCE, Edge, ModuleGraph
from morphnet.solvers.algebra import compose
from morphnet.solvers.module_filter import COMPOSE_MACS, PROBE_SEED, evaluate_module, filter_of

#: Least Frobenius norm of a filter over the mean of all, and of a path over that of the whole filter.
LEAST = 0.01
#: Largest number of paths of a module whose paths are checked.
MAX_PATHS = 64
#: Singular values below this share of the largest count as zero.
RANK = 1e-6


def find_weak(graph: ModuleGraph, filters: Mapping[Edge, Tensor], weight: Tensor) -> tuple[str, ...]:
    """One sentence for every weak filter and path.

    A filter is weak without full rank across its channels or below 1 % of the mean Frobenius norm, a path below 1 % of
    the norm of ``weight``. Paths are checked if there are at most ``MAX_PATHS``.
    """
    weak = []
    norms = {edge: float(torch.linalg.norm(w)) for edge, w in filters.items()}
    mean = sum(norms.values()) / max(len(norms), 1)
    for edge, w in filters.items():
        if norms[edge] < LEAST * mean:
            weak.append(f"edge {edge.name} has {norms[edge] / max(mean, 1e-300):.1e} of the mean norm of the filters")
            continue
        rank, full = rank_across_channels(w), min(w.shape[:2])
        if rank < full:
            weak.append(f"edge {edge.name} has rank {rank} of {full} across its channels")
    size = float(torch.linalg.norm(weight))
    if size > 0 and graph.count_paths() <= MAX_PATHS:
        for path, norm in path_norms(graph, filters, weight).items():
            if norm < LEAST * size:
                names = " ".join(e.name for e in path)
                weak.append(f"path {names} has {norm / size:.1e} of the norm of the whole")
    return tuple(weak)


def rank_across_channels(weight: Tensor) -> int:
    """Rank of a filter as a matrix with its fewer channels as rows; the smaller of both ranks if square."""
    ranks = []
    out_channels, in_channels = weight.shape[:2]
    if out_channels <= in_channels:
        rows = weight.flatten(1)
        ranks.append(_rank(rows @ rows.T))
    if in_channels <= out_channels:
        columns = weight.transpose(0, 1).flatten(1)
        ranks.append(_rank(columns @ columns.T))
    return min(ranks)


def _rank(gram: Tensor) -> int:
    values = torch.linalg.eigvalsh(gram)
    return int((values > RANK**2 * values[-1].clamp_min(1e-300)).sum())


def path_norms(graph: ModuleGraph, filters: Mapping[Edge, Tensor], weight: Tensor) -> dict[tuple[Edge, ...], float]:
    """Frobenius norm of the composition along every path; estimated on random inputs if composing is expensive."""
    widths = graph.widths(weight.shape[1], weight.shape[0])
    rows, columns = graph.kernel
    macs = sum(w.numel() for w in filters.values()) * weight.shape[1] * rows * columns * graph.count_paths()
    norms = {}
    for path in graph.paths():
        if macs <= COMPOSE_MACS:
            route = filter_of(path[0], filters, widths[SOURCE])
            for edge in path[1:]:
                route = compose(filter_of(edge, filters, widths[edge.source]), route)
            norms[path] = float(torch.linalg.norm(route))
        else:
            alone = ModuleGraph.of_parts(path, graph.channels)
            generator = torch.Generator().manual_seed(PROBE_SEED)
            x = torch.randn(2, weight.shape[1], *alone.kernel, generator=generator, dtype=weight.dtype)
            # One output pixel of unit normal inputs: its variance is the squared norm of the path's filter.
            y = evaluate_module(alone, filters, x.to(weight.device))
            norms[path] = float((y.square().sum() / len(x)).sqrt())
    return norms
