"""The settings of a run as flat keys, ``optim.lr``, and which of them say nothing of its result."""

from __future__ import annotations

from typing import Any

#: Keys that may differ between a run and its continuation, and are in no name: they say where and how it is computed,
#: what is looked at meanwhile, and which controls stand beside it. What lies at a path is compared by its hash.
FREE_KEYS = (
    "controls",
    "data.download",
    "data.labels",
    "data.path",
    "data.root",
    "data.workers",
    "device",
    "dry_run",
    "output",
    "share_parent",
    "trainer.checkpoint_seconds",
    "trainer.compile",
    "trainer.cuda_graph",
    "trainer.evaluate_every",
    "trainer.restarts",
    "trainer.stop_after",
    "trainer.threads",
    "trainer.watch_every",
    "trainer.watch_steps",
)
#: Where a parent lies; it is compared by its hash, and named.
PATHS = ("parent", "weights")


def deciding(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide the result of a run, as flat keys."""
    return {k: v for k, v in flat(values).items() if k not in FREE_KEYS and k.split(".")[0] not in FREE_KEYS}


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
