"""Networks on disk: our own files, weights trained elsewhere, and how a command line names them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from morphnet.store.files import write_whole
from morphnet.store.lock import hold_or_refuse, is_held, one_at_a_time

if TYPE_CHECKING:
    from morphnet.store.saved import describe_network, load_network, network_hash, save_network
    from morphnet.store.source import load_source

__all__ = [
    "describe_network",
    "hold_or_refuse",
    "is_held",
    "load_network",
    "load_source",
    "network_hash",
    "one_at_a_time",
    "save_network",
    "write_whole",
]

# Loaded on first use: what only writes files must not wait for torch.
_HOME = {
    "describe_network": "morphnet.store.saved",
    "load_network": "morphnet.store.saved",
    "network_hash": "morphnet.store.saved",
    "save_network": "morphnet.store.saved",
    "load_source": "morphnet.store.source",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'morphnet.store' has no attribute {name!r}")
