import json
from dataclasses import replace

import pytest

from morphnet.report.record import Settings, names_of
from morphnet.report.table import caption, rows_of, runs_table
from tests.report.records import make_record


def _record(seed, error, index=1, role="child", **changes):
    return make_record(**{
        "experiment": "digits", "seed": seed, "index": index, "phase": f"p{index}", "label": f"net{index}",
        "role": role, "error": error, "macs": 100 * (index + 1), "lineage": {"network": f"{index}{seed}{error}"},
        **changes,
    })  # fmt: skip


def test_seeds_become_mean_and_sample_deviation():
    rows = rows_of([_record(0, 0.1), _record(1, 0.3), _record(0, 0.5, index=0, role="parent")])
    child, parent = (row.values() for row in rows)
    assert child["error_mean"] == pytest.approx(0.2)
    assert child["error_deviation"] == pytest.approx(0.141421356)
    assert child["seeds"] == [0, 1]
    assert child["relative_macs"] == 2.0
    assert parent["error_deviation"] is None
    assert child["seconds"] == 4.0


def test_errors_are_per_cent_in_text():
    text = runs_table(rows_of([_record(0, 0.1), _record(1, 0.3)])).write()
    assert "20.00 ± 14.14" in text
    assert "50.00" in text


def test_every_format_holds_the_same_rows():
    rows = rows_of([_record(0, 0.125)])
    assert json.loads(runs_table(rows).write("json"))[0]["error_mean"] == 0.125
    assert "0.125" in runs_table(rows).write("csv").splitlines()[1]
    assert runs_table(rows).write("markdown").splitlines()[2].startswith("| digits | net1 | 1 | 12.50 |")


def test_collapsed_flop_is_a_column_where_a_linear_control_has_it():
    linear = _record(0, 0.1, 2, "control", collapsed_macs=25_000_000)
    table = runs_table(rows_of([_record(0, 0.1), linear]))
    header, (child, control) = table.header, table.cells
    place = header.index("collapsed FLOP (million)")
    assert (child[place], control[place]) == ("", "25.0")
    for record in (_record(0, 0.1), replace(linear, collapsed_macs=None)):
        assert "collapsed FLOP (million)" not in runs_table(rows_of([record])).header
        assert json.loads(runs_table(rows_of([record])).write("json"))[0]["collapsed_macs"] is None


def test_other_settings_are_other_rows():
    rows = rows_of([_record(0, 0.1), _record(0, 0.2, settings=Settings(variant="abcd1234"))])
    assert len(rows) == 2


def test_the_same_seed_twice_is_refused():
    with pytest.raises(ValueError, match="the same seed stands in several runs"):
        rows_of([_record(0, 0.1), _record(0, 0.2)])


def test_the_same_run_in_two_folders_is_one():
    record = _record(0, 0.1)
    assert rows_of([record, replace(record)])[0].seeds == [0]


def test_a_caption_says_which_rows_are_of_other_images():
    one = {"name": "mine", "images": 16, "evaluated_on": "test"}
    records = [_record(0, 0.1, data=one), _record(1, 0.1, data=one)]
    assert caption(records).startswith("Error at the end of training, on mine, 16 test images; mean")
    other = _record(0, 0.1, experiment="longer", variation="optim.lr=1", data={**one, "images": 20, "unreadable": 4})
    assert caption([*records, other]).splitlines() == [
        "Error at the end of training, on mine, 16 test images (digits); mine, 20 test images (longer optim.lr=1); "
        "mean ± deviation over seeds.",
        "Images that could not be read: up to 4 in a phase of longer (unreadable.txt in its folder names them).",
    ]


def test_characters_of_a_format_are_shown_as_they_are():
    rows = rows_of([_record(0, 0.1, label=r"a|b\{c}^~_")])
    assert r"a\|b\{c}" in runs_table(rows).write("markdown")
    assert r"a|b\textbackslash{}\{c\}\^{}\textasciitilde{}\_" in runs_table(rows).write("latex")


def test_a_control_of_a_run_with_several_children_has_its_childs_name():
    children = [_record(0, 0.1, 1), _record(0, 0.1, 2)]
    controls = [_record(0, 0.1, 2 + i, "control", control="relu", beside=i, label="on") for i in (1, 2)]
    assert names_of([*children, *controls]) == ["net1", "net2", "on, beside net1", "on, beside net2"]
    assert names_of([children[0], *controls]) == ["net1", "on, beside net1", "on, beside phase 2"]
    assert names_of([children[0], controls[0]]) == ["net1", "on"]
    assert [row.network for row in rows_of([*children, *controls])][2:] == ["on, beside net1", "on, beside net2"]
