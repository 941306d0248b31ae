"""Modules as graphs: blobs are vertices, convolutions are edges (Sec. 3.3). Standard library only."""

from morphnet.graph.edge import Edge, GraphError, Support
from morphnet.graph.feasibility import Anchor, Feasibility, check_feasible
from morphnet.graph.module import SINK, SOURCE, ModuleGraph
from morphnet.graph.reduction import Reduction, Step, check_type1, check_type2, reduce

__all__ = [
    "SINK",
    "SOURCE",
    "Anchor",
    "Edge",
    "Feasibility",
    "GraphError",
    "ModuleGraph",
    "Reduction",
    "Step",
    "Support",
    "check_feasible",
    "check_type1",
    "check_type2",
    "reduce",
]
