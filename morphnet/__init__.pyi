from .export import export_network
from .flops import count_macs
from .graph import Edge, ModuleGraph, reduce
from .morph import (
    Deepen,
    Enlarge,
    InexactError,
    MorphError,
    MorphReport,
    Widen,
    collapse,
    morph_conv,
    morph_network,
)
from .solvers import Solution, solve
from .store import load_network, save_network
from .version import __version__

__all__ = [
    "Deepen",
    "Edge",
    "Enlarge",
    "InexactError",
    "ModuleGraph",
    "MorphError",
    "MorphReport",
    "Solution",
    "Widen",
    "__version__",
    "collapse",
    "count_macs",
    "export_network",
    "load_network",
    "morph_conv",
    "morph_network",
    "reduce",
    "save_network",
    "solve",
]
