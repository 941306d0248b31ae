"""What in a record cannot be: kinds and ranges of everything that tables, figures and pages read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from morphnet.report.outcomes import FILES, LABELS, PREDICTIONS
from morphnet.settings import is_line

Check = Callable[[Any], bool]

ROLES = ("parent", "child", "control")
#: Numbers from here on are none that were measured.
HUGE = 1e18
#: Of a value that is damaged, what is shown.
SHOWN = 40
_MISSING = object()


def damages(record: dict[str, Any]) -> list[str]:
    """Every field of ``record`` that is missing or cannot be, in words; those of later versions may be missing."""
    found = []
    for key, check in (REQUIRED | OPTIONAL).items():
        value = _at(record, key)
        if value is _MISSING:
            found += [f"{key} is missing"] if key in REQUIRED else []
        elif not check(value):
            shown = repr(value)
            found.append(f"{key}={shown[:SHOWN]}{'...' * (len(shown) > SHOWN)} cannot be")
    source = record.get("source")
    if not found and source is not None and int(source.partition("_")[0]) >= record["index"]:
        found.append(f"source={source!r} cannot be, of phase {record['index']}")
    return found


def _at(record: dict[str, Any], key: str) -> Any:
    """The value of a dotted key; what lies in no table is missing."""
    value: Any = record
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _text(value: Any) -> bool:
    """One line, of characters that can be written to a file."""
    return isinstance(value, str) and is_line(value)


def _argument(value: Any) -> bool:
    """Whatever a shell passes on."""
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < HUGE  # NaN is not


def _amount(value: Any) -> bool:
    return _number(value) and value >= 0


def _fraction(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _whole(value: Any) -> bool:
    return _amount(value) and isinstance(value, int)


def _positive(value: Any) -> bool:
    return _whole(value) and value > 0


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _table(value: Any) -> bool:
    return isinstance(value, dict)


def _name(value: Any) -> bool:
    """Of folders and files."""
    return _text(value) and not PurePath(value).is_absolute() and not {"", ".."} & {value, *PurePath(value).parts}


def _phase(value: Any) -> bool:
    return _text(value) and re.match(r"\d{1,6}_", value) is not None


def _evaluation(value: Any) -> bool:
    """Of the history of a phase."""
    return _table(value) and all(_at(value, key) in (_MISSING, None) or _whole(value[key]) for key in EVALUATION)


def _outcomes(value: Any) -> bool:
    """sha256 of the files of outcomes, by their names."""
    if not _table(value) or not {PREDICTIONS, LABELS} <= set(value) <= set(FILES):
        return False
    return all(isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in value.values())


#: What figures read of an evaluation.
EVALUATION = ("step", "images", "errors", "test_errors")
REQUIRED: dict[str, Check] = {
    "experiment": _name,
    "seed": _integer,
    "index": _whole,
    "phase": _name,
    "label": _text,
    "role": lambda value: value in ROLES,
    "error": _fraction,
    "start_error": _fraction,
    "macs": _positive,
    "parameters": _positive,
    "steps": _whole,
    "seconds": _amount,
    "images_per_second": _or_none(_amount),
    "settings": _table,
    "data": _table,
    "data.name": _text,
    "data.evaluated_on": _text,
    "data.images": _whole,
}
OPTIONAL: dict[str, Check] = {
    "data.unreadable": _or_none(_whole),
    "data.mean": _list_of(_number),
    "data.std": _list_of(_number),
    "settings.variant": _or_none(_text),
    "settings.recipe": _or_none(_text),
    "errors": _or_none(_whole),
    "collapsed_macs": _or_none(_positive),
    "views": _or_none(lambda value: _table(value) and _positive(value.get("count")) and _fraction(value.get("error"))),
    "source": _or_none(_phase),
    "outcomes": _or_none(_outcomes),
    "lineage": _table,
    "lineage.network": _or_none(_text),
    "lineage.ancestors": _or_none(_list_of(_table)),
    "history": _or_none(_list_of(_evaluation)),
    "stretches": _list_of(lambda value: _table(value) and "commit" in value),
    "command": _or_none(_list_of(_argument)),
    "commit": _or_none(_table),
    "hardware": _or_none(_table),
    "versions": _or_none(_table),
    "finished": _or_none(_text),
}
