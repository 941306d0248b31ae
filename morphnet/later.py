"""Settings that came later: what was made before they existed keeps its hash and its checkpoints."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: ``metadata`` of a field of a dataclass whose default is what older code did.
LATER = {"later": True}


def facts(settings: DataclassInstance) -> dict[str, Any]:
    """``settings`` as plain values, without fields that came later and have their default: for hashes."""
    defaults = {f.name: f.default for f in fields(settings) if f.metadata.get("later")}
    return {key: value for key, value in asdict(settings).items() if key not in defaults or value != defaults[key]}
