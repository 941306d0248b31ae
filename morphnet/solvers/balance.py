"""Filters of similar norm: a factor multiplied into a blob and divided out again changes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from morphnet.graph import SINK, SOURCE, Edge, ModuleGraph
from morphnet.solvers.solution import Filters


def source_and_sink_are_tied(graph: ModuleGraph) -> bool:
    """Whether identity edges join source and sink, so that the module cannot be scaled."""
    group = graph.identity_groups()
    return group[SOURCE] == group[SINK]


def balance(graph: ModuleGraph, filters: Mapping[Edge, Tensor], gain: float = 1.0) -> Filters:
    """``filters`` rescaled to Frobenius norms as equal as the graph allows; the module's filter scales by ``gain``.

    The factors of the vertices are the least-squares solution for the logarithms of the norms; vertices joined by
    identities share one. ``gain`` is positive, and 1 if :func:`source_and_sink_are_tied`.
    """
    group = graph.identity_groups()
    free = sorted({group[v] for v in graph.vertices} - {group[SOURCE], group[SINK]})
    column = {name: i for i, name in enumerate(free)}
    rows, sides = [], []
    for edge, weight in filters.items():
        norm = float(torch.linalg.norm(weight))
        if norm == 0:
            continue
        row = [0.0] * (len(free) + 1)
        row[-1] = -1.0  # the common scale
        side = -math.log(norm)
        for vertex, sign in ((edge.target, 1.0), (edge.source, -1.0)):
            if group[vertex] in column:
                row[column[group[vertex]]] += sign
            elif group[vertex] == group[SINK]:
                side -= sign * math.log(gain)
        rows.append(row)
        sides.append(side)
    factor = dict.fromkeys(free, 1.0) | {group[SINK]: gain, group[SOURCE]: 1.0}
    if rows:
        matrix, side_vector = torch.tensor(rows, dtype=torch.float64), torch.tensor(sides, dtype=torch.float64)
        logarithms = torch.linalg.lstsq(matrix, side_vector[:, None], driver="gelsd").solution[:, 0]
        factor |= {name: math.exp(float(logarithms[i])) for name, i in column.items()}
    return Filters({e: w * (factor[group[e.target]] / factor[group[e.source]]) for e, w in filters.items()})
