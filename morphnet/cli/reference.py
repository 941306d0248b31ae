"""Every key of every command, from :mod:`morphnet.config` and its comments: name, type, default, and what it means.

Standard library only, and no Hydra: ``--help``, shell completion and suggestions are made from it.
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

from morphnet.config import (
    CollapseConfig,
    EvalConfig,
    ExportConfig,
    FlopsConfig,
    GraphConfig,
    MorphCommandConfig,
    ReportConfig,
    TrainConfig,
)

#: The schema of each command.
SCHEMAS = {
    "train": TrainConfig,
    "morph": MorphCommandConfig,
    "collapse": CollapseConfig,
    "eval": EvalConfig,
    "export": ExportConfig,
    "graph": GraphConfig,
    "flops": FlopsConfig,
    "report": ReportConfig,
}
#: Groups of files each command reads, beside its keys.
GROUPS = {
    "train": ("experiment", "network", "data", "recipe", "after", "optim", "schedule", "trainer"),
    "morph": ("module", "network", "data"),
    "collapse": ("network", "data"),
    "eval": ("network", "data"),
    "export": ("network", "data"),
    "graph": ("module",),
    "flops": (),
    "report": (),
}


@dataclass(frozen=True)
class Key:
    """One key: its dotted name, its type and default as they are written, and its comment."""

    name: str
    type: str
    default: str
    comment: str


def keys_of(command: str) -> list[Key]:
    """Every key of ``command``; the parts of a group with its name, those of a list's items with ``N``."""
    return _flat(SCHEMAS[command], "")


def _flat(schema: type, prefix: str) -> list[Key]:
    source = "".join(inspect.getsource(c) for c in schema.__mro__ if is_dataclass(c))
    comments = dict(reversed(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE)))
    hints = get_type_hints(schema)
    own = inspect.get_annotations(schema)
    found: list[Key] = []
    for field in sorted(fields(schema), key=lambda field: field.name not in own):  # what is inherited comes last
        hint, name = hints[field.name], f"{prefix}{field.name}"
        parts = (part for part in (hint, *get_args(hint)) if isinstance(part, type))
        group = next((part for part in parts if is_dataclass(part)), None)
        is_list = group is not None and hint == list[group]  # type: ignore[valid-type]
        if group is None or is_list:
            value = field.default if field.default_factory is MISSING else field.default_factory()
            default = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            found.append(Key(name, "list" if is_list else str(field.type), default, comments.get(field.name, "")))
        if group is not None:
            found += _flat(group, f"{name}.N." if is_list else f"{name}.")
    return found


def configs_dir() -> str:
    """The folder of the YAML files: beside the modules in a wheel, at the top of a source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"no configs beside {package}; install morphnet again")


def options_of(group: str) -> list[str]:
    """The files of a group."""
    return sorted(path.stem for path in Path(configs_dir(), group).glob("*.yaml"))
