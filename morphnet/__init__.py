"""Grow a trained convolutional network into a better one with its function unchanged.

*Modularized Morphing of Neural Networks* (Wei, Wang, Chen; arXiv 1701.03281) in PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from morphnet.export import export_network
    from morphnet.flops import count_macs
    from morphnet.graph import Edge, ModuleGraph, reduce
    from morphnet.morph import (
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
    from morphnet.solvers import Solution, solve
    from morphnet.store import load_network, save_network

try:
    __version__ = version("morphnet")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

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

# Loaded on first use: `morphnet --help` must not wait for torch.
_HOME = {
    "Edge": "morphnet.graph",
    "ModuleGraph": "morphnet.graph",
    "reduce": "morphnet.graph",
    "Solution": "morphnet.solvers",
    "solve": "morphnet.solvers",
    "Deepen": "morphnet.morph",
    "Enlarge": "morphnet.morph",
    "InexactError": "morphnet.morph",
    "MorphError": "morphnet.morph",
    "MorphReport": "morphnet.morph",
    "Widen": "morphnet.morph",
    "collapse": "morphnet.morph",
    "morph_conv": "morphnet.morph",
    "morph_network": "morphnet.morph",
    "load_network": "morphnet.store",
    "save_network": "morphnet.store",
    "count_macs": "morphnet.flops",
    "export_network": "morphnet.export",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'morphnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
