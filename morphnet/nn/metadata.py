"""The metadata of a network: plain values stored beside its weights."""

from __future__ import annotations

from typing import Any

from torch import nn


def metadata_of(network: nn.Module) -> dict[str, Any]:
    """The network's own dictionary of plain JSON values, such as mean and deviation of its images, and its lineage.

    Our ResNets have one; a network of another class gets an empty one here, unless it has an attribute of that name.
    """
    metadata = getattr(network, "metadata", None)
    if metadata is None:
        metadata = network.metadata = {}  # type: ignore[assignment]
    return metadata if isinstance(metadata, dict) else {}
