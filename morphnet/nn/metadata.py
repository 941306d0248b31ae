"""What a network carries beside its weights."""

from __future__ import annotations

from typing import Any

from torch import nn


def metadata_of(network: nn.Module) -> dict[str, Any]:
    """The network's own dictionary of plain JSON values, such as mean and deviation of its images, and its lineage.

    Our ResNets have one; a network of another class gets an empty one here, unless it has an attribute of that name.
    """
    found = getattr(network, "metadata", None)
    if found is None:
        found = {}
        network.metadata = found  # type: ignore[assignment]
    return found if isinstance(found, dict) else {}
