"""The settings of a run as flat keys, ``optim.lr``, and which of them say nothing of its result."""

from __future__ import annotations

from typing import Any

#: Keys that may differ between a run and its continuation: they change nothing in the result.
FREE_KEYS = {
    "output",
    "share_parent",
    "trainer.checkpoint_seconds",
    "trainer.restarts",
    "data.root",
    "data.download",
    "data.workers",
    "dry_run",
}
#: Where files lie; what is in them is compared by its hash.
PATHS = {"data.path", "data.labels", "parent", "weights"}


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as one dictionary: ``{"a": [{"b": 1}]}`` is ``{"a.0.b": 1}``."""
    if isinstance(values, dict):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list):
        items = [(str(i), value) for i, value in enumerate(values)]
    else:
        return {prefix: values}
    return {k: v for key, value in items for k, v in flat(value, f"{prefix}.{key}" if prefix else key).items()}


def is_line(text: str) -> bool:
    """Whether a name can stand in a table and a file: one line, and no half of a surrogate pair."""
    return all(c >= " " and not "\x7f" <= c <= "\x9f" and not "\ud800" <= c <= "\udfff" for c in text)
