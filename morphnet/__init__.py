"""Grow a trained convolutional network into a better one with its function unchanged.

*Modularized Morphing of Neural Networks* (Wei, Wang, Chen; arXiv 1701.03281) in PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from morphnet.flops import count_macs
    from morphnet.morph import MorphError, MorphReport, morph_network
    from morphnet.store import load_network, save_network

try:
    __version__ = version("morphnet")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

__all__ = ["MorphError", "MorphReport", "count_macs", "load_network", "morph_network", "save_network"]

# Loaded on first use: `morphnet --help` must not wait for torch.
_HOME = {
    "MorphError": "morphnet.morph",
    "MorphReport": "morphnet.morph",
    "morph_network": "morphnet.morph",
    "load_network": "morphnet.store",
    "save_network": "morphnet.store",
    "count_macs": "morphnet.flops",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'morphnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
