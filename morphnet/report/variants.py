"""What tells runs of one experiment apart that differ in more than their seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from morphnet.settings import PATHS, deciding

#: So many settings are named; a table has no room for more.
NAMED = 3
#: What a phase is, which its name says.
OF_CHAIN = ("name", "morph", "target", "module", "deepen", "widen", "enlarge")
#: What the name of a run's folder begins with.
SEED = re.compile(r"^seed\d+-")


def tell_apart(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``records``, with ``told_apart`` in each of them whose experiment was run in several ways.

    That is the settings in which they differ, as they are in ``config.yaml`` of the run (beside the record's ``file``):
    ``optim.lr=0.01``; of other phases their names, ``parent → bridge → 1c1``. Where those do not say it, it is the
    name of the run's folder without the seed.
    """
    experiments: dict[str, dict[str, list[Path]]] = {}
    chains: dict[Path, dict[int, str]] = {}
    for record in records:
        if record["role"] != "control":
            chains.setdefault(record["file"].parents[2], {})[int(record["index"])] = str(record["phase"])
        run = record["file"].parents[2]
        runs = experiments.setdefault(record["experiment"], {}).setdefault(_variant(record), [])
        if run not in runs:
            runs.append(run)
    said = {
        (experiment, variant): text
        for experiment, variants in experiments.items()
        if len(variants) > 1
        for variant, text in _differences(variants, chains).items()
    }
    return [{**record, "told_apart": said.get((record["experiment"], _variant(record)), "")} for record in records]


def _variant(record: dict[str, Any]) -> str:
    return str(record["settings"].get("variant", ""))


def _differences(variants: dict[str, list[Path]], chains: dict[Path, dict[int, str]]) -> dict[str, str]:
    """For each variant the phases and settings that not all of them share."""
    settings = {variant: _common([_settings(run) for run in runs]) for variant, runs in variants.items()}
    keys = list(dict.fromkeys(key for values in settings.values() for key in values))  # as the files have them
    # A key that a file does not have came later than it, and is no difference; of phases there may be more.
    keys = [k for k in keys if k.startswith("phases.") or all(k in values for values in settings.values())]
    keys = [key for key in keys if len({repr(values.get(key)) for values in settings.values()}) > 1]
    chain = {variant: _chain(runs, chains) for variant, runs in variants.items()}
    others = len(set(chain.values())) > 1
    if others:
        keys = [key for key in keys if not _is_of_chain(key)]
    found = {}
    for variant, values in settings.items():
        # Of a phase not its name; and what is not, where that is all there is to say.
        there = [k for k in keys if k in values and not (k.startswith("phases.") and k.endswith(".name"))]
        shown = [k for k in there if values[k] is not None]
        if not shown and not others:
            shown = [k for k in there if not k.startswith("phases.")]
        named = [chain[variant]] * others + [f"{key}={_written(key, values[key])}" for key in shown]
        found[variant] = ", ".join(named[:NAMED]) + (f" and {len(named) - NAMED} more" if len(named) > NAMED else "")
    unclear = {text for text in found.values() if not text or list(found.values()).count(text) > 1}
    return {
        variant: SEED.sub("", variants[variant][0].name) if text in unclear else text for variant, text in found.items()
    }


def _settings(run: Path) -> dict[str, Any]:
    """The flat settings of a run, as far as they say something of its result; empty if nobody can read them."""
    try:
        values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return {key: value for key, value in deciding(values or {}).items() if key != "seed"}


def _common(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = runs[0]
    return {key: value for key, value in first.items() if all(run.get(key) == value for run in runs)}


def _chain(runs: Sequence[Path], chains: dict[Path, dict[int, str]]) -> str:
    """The phases that grew the network of a variant; of a run under way those that are done."""
    longest = max((chains.get(run, {}) for run in runs), key=len)
    return " → ".join(longest[index] for index in sorted(longest))


def _is_of_chain(key: str) -> bool:
    """Whether a setting says what a phase is, which its name does."""
    parts = key.split(".")
    return parts[0] == "phases" and len(parts) > 2 and parts[2] in OF_CHAIN


def _written(key: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return Path(value).name if key in PATHS and isinstance(value, str) else str(value)
