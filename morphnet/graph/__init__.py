"""Modules as graphs: blobs are vertices, convolutions are edges (Sec. 3.3). Standard library only."""

from morphnet.graph.edge import Edge, GraphError, Support
from morphnet.graph.module import SINK, SOURCE, ModuleGraph
from morphnet.graph.reduction import Reduction, Step, check_type1, check_type2, reduce

__all__ = [
    "SINK",
    "SOURCE",
    "Edge",
    "GraphError",
    "ModuleGraph",
    "Reduction",
    "Step",
    "Support",
    "check_type1",
    "check_type2",
    "reduce",
]
