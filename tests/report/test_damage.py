import json
from pathlib import Path

import pytest

from morphnet.report.damage import damages
from morphnet.report.record import read_record

KEPT = sorted((Path(__file__).parents[2] / "results" / "records").rglob("record.json"))


@pytest.fixture(scope="module")
def record():
    """Of a child over ten views, with a history."""
    path = next(p for p in KEPT if "imagenet_sample" in str(p) and "1_1c1" in str(p))
    return json.loads(path.read_text())


def changed(record, key, value):
    """A copy of ``record`` with a dotted key set, or taken away by ``...``."""
    copy = json.loads(json.dumps(record))
    *tables, last = key.split(".")
    inner = copy
    for name in tables:
        inner = inner[int(name)] if name.isdigit() else inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copy


def test_records_that_are_kept_are_whole():
    assert len(KEPT) > 50
    for path in KEPT:
        read_record(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("settings.variant", []),
        ("lineage.network", {}),
        ("lineage.ancestors", [1]),
        ("lineage", None),
        ("views", [1]),
        ("views.error", "x"),
        ("views.error", 5.0),
        ("views.error", ...),
        ("views.count", 0),
        ("images_per_second", 10**400),
        ("images_per_second", float("nan")),
        ("macs", 10**400),
        ("macs", 0),
        ("parameters", 1.5),
        ("seconds", float("inf")),
        ("steps", -6),
        ("steps", True),
        ("index", -3),
        ("seed", True),
        ("seed", 1.5),
        ("error", 12.5),
        ("error", float("nan")),
        ("start_error", None),
        ("label", "caf\udce9"),
        ("label", "a\nb"),
        ("label", ...),
        ("experiment", "../../x"),
        ("experiment", "/x"),
        ("experiment", ""),
        ("phase", ".."),
        ("role", "foo"),
        ("role", []),
        ("source", "1_1c1"),
        ("source", "parent"),
        ("history", [3]),
        ("history.0.step", float("inf")),
        ("history.0.errors", -1),
        ("versions", 3),
        ("commit", float("nan")),
        ("command", 3),
        ("command", [3]),
        ("outcomes", []),
        ("outcomes", {"predictions.npy": "0" * 64}),
        ("outcomes", {"predictions.npy": "0" * 64, "labels.npy": "0" * 63}),
        ("outcomes", {"predictions.npy": "0" * 64, "labels.npy": 0}),
        ("outcomes", {"predictions.npy": "0" * 64, "labels.npy": "0" * 64, "../secret": "0" * 64}),
        ("data", []),
        ("data.images", -9),
        ("data.name", ...),
        ("data.unreadable", True),
        ("data.unreadable", -4),
        ("data.mean", ["x"]),
    ],
)
def test_what_cannot_be_is_named(record, key, value):
    assert damages(record) == []
    problems = damages(changed(record, key, value))
    shown = key.partition(".")[0] if key.startswith(("views", "history")) else key
    said = f"{shown} is missing" if value is ... and shown == key else f"{shown}="
    assert problems
    assert problems[0].startswith(said)
    assert all(problem.startswith(shown) for problem in problems)


@pytest.mark.parametrize("key", ["views", "source", "history", "commit", "errors", "data.unreadable"])
def test_what_later_versions_added_may_be_missing(record, key):
    assert damages(changed(record, key, ...)) == []
    assert damages(changed(record, key, None)) == []


def test_a_seed_may_be_any_whole_number(record):
    for seed in (1_790_000_000_000_000_000, 10**25, -1):  # all of them train
        assert damages(changed(record, "seed", seed)) == []


def test_a_command_may_hold_names_that_are_no_text(record):
    assert damages(changed(record, "command", ["morphnet", "data.path=caf\udce9\n"])) == []


@pytest.mark.parametrize("text", ["{", "[]", "1" * 5000, "[" * 100_000, '{"format": 2}', "\0"])
def test_what_is_no_record_is_said(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"record\.json is not a (readable )?record"):
        read_record(path)
