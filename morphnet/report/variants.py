"""What tells runs of one experiment apart that differ in more than their seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from morphnet.settings import FREE_KEYS, PATHS, flat

#: So many settings are named; a table has no room for more.
NAMED = 3
#: What a table shows anyway: every control is a row.
SHOWN = ("seed", "controls")
_SEED = re.compile(r"^seed\d+-")


def tell_apart(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``records``, with ``told_apart`` in each of them whose experiment was run in several ways.

    That is the settings in which they differ, as they are in ``config.yaml`` of the run (beside the record's ``file``):
    ``optim.lr=0.01``. Where those do not say it, it is the name of the run's folder without the seed.
    """
    experiments: dict[str, dict[str, list[Path]]] = {}
    for record in records:
        run = record["file"].parents[2]
        runs = experiments.setdefault(record["experiment"], {}).setdefault(_variant(record), [])
        if run not in runs:
            runs.append(run)
    said = {
        (experiment, variant): text
        for experiment, variants in experiments.items()
        if len(variants) > 1
        for variant, text in _differences(variants).items()
    }
    return [{**record, "told_apart": said.get((record["experiment"], _variant(record)), "")} for record in records]


def _variant(record: dict[str, Any]) -> str:
    return str(record["settings"].get("variant", ""))


def _differences(variants: dict[str, list[Path]]) -> dict[str, str]:
    """For each variant the settings that not all of them share."""
    settings = {variant: _common([_settings(run) for run in runs]) for variant, runs in variants.items()}
    keys = list(dict.fromkeys(key for values in settings.values() for key in values))  # as the files have them
    # A key that a file does not have came later than it, and is no difference; of phases there may be more.
    keys = [k for k in keys if k.startswith("phases.") or all(k in values for values in settings.values())]
    keys = [key for key in keys if len({repr(values.get(key)) for values in settings.values()}) > 1]
    found = {}
    for variant, values in settings.items():
        # Of a phase only what it is: not its name, and not what it is not.
        shown = [k for k in keys if k in values and not (k.startswith("phases.") and _is_idle(k, values[k]))]
        named = [f"{key}={_written(key, values[key])}" for key in shown]
        found[variant] = ", ".join(named[:NAMED]) + (f" and {len(named) - NAMED} more" if len(named) > NAMED else "")
    unclear = {text for text in found.values() if not text or list(found.values()).count(text) > 1}
    return {
        variant: _SEED.sub("", variants[variant][0].name) if text in unclear else text
        for variant, text in found.items()
    }


def _settings(run: Path) -> dict[str, Any]:
    """The flat settings of a run, as far as they say something of its result; empty if nobody can read them."""
    try:
        values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    settings = flat(values or {})
    return {k: v for k, v in settings.items() if k not in FREE_KEYS and k.split(".")[0] not in SHOWN}


def _common(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = runs[0]
    return {key: value for key, value in first.items() if all(run.get(key) == value for run in runs)}


def _is_idle(key: str, value: Any) -> bool:
    return value is None or key.endswith(".name")


def _written(key: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return Path(value).name if key in PATHS and isinstance(value, str) else str(value)
