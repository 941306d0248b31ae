"""What distinguishes runs of one experiment that differ in more than their seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from morphnet.report.record import Record
from morphnet.settings import PATHS, deciding

#: A table has room for this many settings.
NAMED = 3
#: Settings that the name of a phase stands for.
OF_CHAIN = ("name", "morph", "target", "module", "deepen", "widen", "enlarge")
#: The beginning of the name of a run's folder.
SEED = re.compile(r"^seed\d+-")


def with_variations(records: Sequence[Record]) -> list[Record]:
    """``records``, with their ``variation`` where their experiment was run in several ways.

    That is the settings in which they differ, as in ``config.yaml`` of the run: ``optim.lr=0.01``; for other phases
    their names, ``parent → bridge → 1c1``. Where these are the same, it is the name of the run's folder without the
    seed.
    """
    experiments: dict[str, dict[str, list[Path]]] = {}
    chains: dict[Path, dict[int, str]] = {}
    for record in records:
        if record.role != "control":
            chains.setdefault(record.run_dir, {})[record.index] = record.phase
        runs = experiments.setdefault(record.experiment, {}).setdefault(record.settings.variant, [])
        if record.run_dir not in runs:
            runs.append(record.run_dir)
    variations = {
        (experiment, variant): text
        for experiment, variants in experiments.items()
        if len(variants) > 1
        for variant, text in _differences(variants, chains).items()
    }
    return [replace(record, variation=variations.get(record.group, "")) for record in records]


def _differences(variants: dict[str, list[Path]], chains: dict[Path, dict[int, str]]) -> dict[str, str]:
    """For each variant the phases and settings that not all of them share."""
    settings = {variant: _common([_settings(run) for run in runs]) for variant, runs in variants.items()}
    keys = list(dict.fromkeys(key for values in settings.values() for key in values))  # as the files have them
    # A key that is missing from a file is newer than the file, and not a difference; phases may differ in number.
    keys = [k for k in keys if k.startswith("phases.") or all(k in values for values in settings.values())]
    keys = [key for key in keys if len({repr(values.get(key)) for values in settings.values()}) > 1]
    chain = {variant: _chain(runs, chains) for variant, runs in variants.items()}
    chains_differ = len(set(chain.values())) > 1
    if chains_differ:
        keys = [key for key in keys if not _is_of_chain(key)]
    texts = {}
    for variant, values in settings.items():
        # Names of phases are left out, and null values unless nothing else differs.
        present = [k for k in keys if k in values and not (k.startswith("phases.") and k.endswith(".name"))]
        shown = [k for k in present if values[k] is not None]
        if not shown and not chains_differ:
            shown = [k for k in present if not k.startswith("phases.")]
        named = [chain[variant]] * chains_differ + [f"{key}={_written(key, values[key])}" for key in shown]
        texts[variant] = ", ".join(named[:NAMED]) + (f" and {len(named) - NAMED} more" if len(named) > NAMED else "")
    unclear = {text for text in texts.values() if not text or list(texts.values()).count(text) > 1}
    return {
        variant: SEED.sub("", variants[variant][0].name) if text in unclear else text for variant, text in texts.items()
    }


def _settings(run: Path) -> dict[str, Any]:
    """The flat settings of a run that decide its result; empty if its file cannot be read."""
    try:
        values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return {key: value for key, value in deciding(values or {}).items() if key != "seed"}


def _common(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = runs[0]
    return {key: value for key, value in first.items() if all(run.get(key) == value for run in runs)}


def _chain(runs: Sequence[Path], chains: dict[Path, dict[int, str]]) -> str:
    """The finished phases that grew the network of a variant."""
    longest = max((chains.get(run, {}) for run in runs), key=len)
    return " → ".join(longest[index] for index in sorted(longest))


def _is_of_chain(key: str) -> bool:
    """Whether the name of a phase stands for the setting."""
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
