import json
from pathlib import Path

import pytest

from morphnet.report.record import read_record, write_record

KEPT = sorted((Path(__file__).parents[2] / "results" / "records").rglob("record.json"))


@pytest.fixture(scope="module")
def record():
    """Of a child over ten views, with a history."""
    path = next(p for p in KEPT if "imagenet_sample" in str(p) and "1_1c1" in str(p))
    return json.loads(path.read_text())


@pytest.fixture
def read(tmp_path):
    """Writes values as a record, and reads it."""

    def call(values):
        (tmp_path / "record.json").write_text(json.dumps(values))
        return read_record(tmp_path / "record.json")

    return call


def changed(record, key, value):
    """A copy of ``record`` with a dotted key set, or taken away by ``...``."""
    copy = json.loads(json.dumps(record))
    *tables, last = key.split(".")
    inner = copy
    for name in tables:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[int(last) if last.isdigit() else last] = value
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
        ("lineage.ancestors.0", 1),
        ("lineage", None),
        ("views", [1]),
        ("views", "x"),
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
        ("history.0", 3),
        ("history.0", {"step": float("inf"), "errors": 1, "images": 2}),
        ("history.0", {"step": 1, "errors": -1, "images": 2}),
        ("history.0", {"step": 1, "errors": 1}),
        ("stretches", 3),
        ("control", "relu"),
        ("errors", None),
        ("versions", 3),
        ("commit", float("nan")),
        ("commit.dirty", "no"),
        ("command", 3),
        ("command.0", 3),
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
        ("data.mean.0", "x"),
    ],
)
def test_what_cannot_be_is_named(read, record, key, value):
    with pytest.raises(ValueError, match="is a damaged record") as caught:
        read(changed(record, key, value))
    path, _, problems = str(caught.value).partition(" is a damaged record: ")
    assert path.endswith("record.json")
    assert problems.startswith(f"{key} is missing" if value is ... else f"{key}=")
    assert problems.count(key.partition(".")[0]) == 1


@pytest.mark.parametrize("key", ["views", "source", "commit", "outcomes", "images_per_second", "morph"])
def test_what_may_be_unknown_is_null_and_not_missing(read, record, key):
    assert getattr(read(changed(record, key, None)), key) is None
    with pytest.raises(ValueError, match=rf"record: {key} is missing$"):
        read(changed(record, key, ...))


def test_every_damage_is_named(read, record):
    with pytest.raises(ValueError, match=r"record: steps=-1 cannot be, data\.name is missing, data\.std=3 cannot be$"):
        read(changed(changed(changed(record, "steps", -1), "data.name", ...), "data.std", 3))


def test_a_control_says_which_it_is(read, record):
    control = changed(changed(record, "role", "control"), "control", "prelu")
    with pytest.raises(ValueError, match=r"control='prelu', beside=None cannot be, of a control"):
        read(control)
    assert read(changed(control, "beside", 1)).beside == 1
    with pytest.raises(ValueError, match=r"control='prelu', beside=1 cannot be, of a child"):
        read(changed(changed(control, "beside", 1), "role", "child"))


def test_a_record_is_written_as_it_was_read(tmp_path):
    for path in KEPT:
        written = write_record(read_record(path), tmp_path / "record.json")
        assert read_record(tmp_path / "record.json") == written
        assert json.loads((tmp_path / "record.json").read_text()) == json.loads(path.read_text())


def test_a_seed_may_be_any_whole_number(read, record):
    for seed in (1_790_000_000_000_000_000, 10**25, -1):  # all of them train
        assert read(changed(record, "seed", seed)).seed == seed


def test_a_command_may_hold_names_that_are_no_text(read, record):
    command = ["morphnet", "data.path=caf\udce9\n"]
    assert read(changed(record, "command", command)).command == tuple(command)


@pytest.mark.parametrize("text", ["{", "[]", "1" * 5000, "[" * 100_000, '{"format": 2}', "\0"])
def test_what_is_no_record_is_said(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"record\.json is not a (readable )?record"):
        read_record(path)
