"""Dense filters in series whose composition is a multiple of the identity, at any width."""

from __future__ import annotations

import torch
from torch import Tensor

from morphnet.graph import SINK, SOURCE, Edge, ModuleGraph
from morphnet.solvers.algebra import adjoint, compose, orthogonal, zero_pad
from morphnet.solvers.solution import Filters


def paraunitary(channels: int, kernel: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A float64 filter F, ``(channels, channels, *kernel)``, with ``compose(adjoint(F), F)`` the identity.

    It keeps the length of every signal: a product of an orthogonal matrix and factors P + (I - P) shift, one for each
    further row and column of the kernel, with random projections P of half rank. From two channels on, every tap is
    non-zero.

    Source: Vaidyanathan, *Multirate Systems and Filter Banks* (1993), Sec. 14.4.
    """
    weight = orthogonal(channels, channels, generator)[:, :, None, None]
    for axis in (0, 1):
        for i in range(kernel[axis] - 1):
            basis = orthogonal(channels, (channels + i % 2) // 2, generator)
            project = basis @ basis.T
            taps = torch.stack([project, torch.eye(channels, dtype=torch.float64) - project], dim=-1)
            weight = compose(taps[:, :, :, None] if axis == 0 else taps[:, :, None, :], weight)
    return weight


def identity_chains(graph: ModuleGraph, target: Tensor) -> tuple[float, tuple[tuple[Edge, ...], ...]] | None:
    """The chains of ``graph``, and the multiple of the identity that they have to add up to.

    None unless ``target`` is a multiple of the identity, all vertices have its width, and the module is a set of
    parallel chains of at least two convolutions, with any identities from source to sink.
    """
    channels = target.shape[0]
    row, column = target.shape[2] // 2, target.shape[3] // 2
    scale = float(target[0, 0, row, column]) if channels == target.shape[1] else 0.0
    eye = torch.eye(channels, target.shape[1], dtype=target.dtype)
    if not torch.equal(target, zero_pad(scale * eye[:, :, None, None], (target.shape[2], target.shape[3]))):
        return None
    if any(width != channels for width in graph.widths(channels, channels).values()):
        return None
    for vertex in graph.inner:
        into, out = graph.edges_into(vertex), graph.edges_out_of(vertex)
        if len(into) != 1 or len(out) != 1 or into[0].identity or out[0].identity:
            return None
    chains = []
    for edge in graph.edges_out_of(SOURCE):
        if edge.identity:
            scale -= edge.scale
            continue
        chain = [edge]
        while chain[-1].target != SINK:
            chain.append(graph.edges_out_of(chain[-1].target)[0])
        if len(chain) < 2:
            return None
        chains.append(tuple(chain))
    return (scale, tuple(chains)) if chains and scale != 0 else None


def solve_identity_chains(
    chains: tuple[tuple[Edge, ...], ...], scale: float, channels: int, generator: torch.Generator
) -> Filters:
    """Filters of parallel chains that add up to ``scale`` times the identity, each chain an equal part.

    Two edges in series get a paraunitary filter and its adjoint, on the kernel that both have; a last single edge gets
    an orthogonal matrix, which the first edge undoes.
    """
    filters = Filters()
    for chain in chains:
        for first, second in zip(chain[::2], chain[1::2], strict=False):
            kernel = (min(first.kernel[0], second.kernel[0]), min(first.kernel[1], second.kernel[1]))
            weight = paraunitary(channels, kernel, generator)
            filters[first] = zero_pad(weight, first.kernel)
            filters[second] = zero_pad(adjoint(weight), second.kernel)
        if len(chain) % 2:
            turn = orthogonal(channels, channels, generator)[:, :, None, None]
            filters[chain[-1]] = zero_pad(turn, chain[-1].kernel)
            filters[chain[0]] = compose(filters[chain[0]], turn.transpose(0, 1))
        filters[chain[-1]] = filters[chain[-1]] * (scale / len(chains))
    return filters
