"""Every key of every command, read from the source of :mod:`morphnet.config`: name, type, default, and what it says.

Standard library only, and no Hydra: ``--help``, shell completion and suggestions are made from it.
"""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: The schema of each command.
SCHEMAS = {
    "train": "TrainConfig",
    "morph": "MorphCommandConfig",
    "collapse": "CollapseConfig",
    "eval": "EvalConfig",
    "export": "ExportConfig",
    "graph": "GraphConfig",
    "flops": "FlopsConfig",
    "report": "ReportConfig",
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


def _flat(schema: str, prefix: str) -> list[Key]:
    classes = _classes()
    found: list[Key] = []
    for key in classes[schema]:
        bare = key.type.replace(" | None", "")
        inner = bare.removeprefix("list[").removesuffix("]")
        name = f"{prefix}{key.name}"
        if bare in classes:
            found += _flat(bare, f"{name}.")
        elif inner in classes:
            found.append(Key(name, "list", key.default, key.comment))
            found += _flat(inner, f"{name}.N.")
        else:
            found.append(Key(name, key.type, key.default, key.comment))
    return found


@cache
def _classes() -> dict[str, list[Key]]:
    """The fields of every dataclass of :mod:`morphnet.config`."""
    source = (Path(__file__).resolve().parents[1] / "config.py").read_text(encoding="utf-8")
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, list[Key]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = [
                Key(
                    ast.unparse(part.target),
                    ast.unparse(part.annotation),
                    _default(part.value),
                    next((comments[n] for n in range(part.lineno, (part.end_lineno or 0) + 1) if n in comments), ""),
                )
                for part in node.body
                if isinstance(part, ast.AnnAssign)
            ]
    return found


def _default(value: ast.expr | None) -> str:
    """A default as it is written on a command line; ``???`` where it has to be given."""
    if value is None:
        return "???"
    if isinstance(value, ast.Call):  # field(default_factory=...)
        (factory,) = [k.value for k in value.keywords if k.arg == "default_factory"]
        return ast.unparse(factory.body).replace(" ", "") if isinstance(factory, ast.Lambda) else "[]"
    written = ast.literal_eval(value)
    if written is None or isinstance(written, bool):
        return {None: "null", True: "true", False: "false"}[written]
    return str(written)


def options_of(group: str) -> list[str]:
    """The files of a group."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return sorted(path.stem for path in (folder / group).glob("*.yaml"))
    return []
