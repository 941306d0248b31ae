import csv
import io
import json
from dataclasses import replace

import pytest
from scipy.stats import ttest_rel

from morphnet.nn.resnet import cifar_architecture, imagenet_architecture
from morphnet.report.comparison import control_lines, paper_lines, runs_of, why_none
from morphnet.report.comparison_table import controls_table, paper_table
from morphnet.report.record import Settings, Views
from tests.report.records import make_record


def _record(seed, index, phase, error, *, role="child", **changes):
    """Of a run on CIFAR-10; a control is compared with phase 1."""
    kind = {"control": phase, "beside": 1} if role == "control" else {}
    return make_record(**{
        "seed": seed, "index": index, "phase": phase, "label": phase, "role": role, "error": error,
        "macs": 43_958_912, "data": {"name": "cifar10"}, "architecture": cifar_architecture(20, 10).to_dict(),
        "lineage": {"network": f"{phase}{seed}{error}"}, "path": f"runs/{seed}/{phase}/record.json",
        **kind, **changes,
    })  # fmt: skip


def _run(seed, parent=0.10, child=0.08, control=0.09, via=()):
    records = [_record(seed, 0, "parent", parent, role="parent")]
    source = "0_parent"
    for index, spec in enumerate((*via, "1c1"), 1):
        records.append(_record(seed, index, spec, child, source=source, morph=spec))
        source = f"{index}_{spec}"
    index = len(records)
    return [*records, _record(seed, index, "relu", control, role="control", source="0_parent", label="parent on")]


def _line(lines, name, via=()):
    (found,) = [line for line in lines if line.row.name == name and line.row.via == via]
    return found


def test_a_row_has_the_errors_of_its_runs_and_the_others_stay_empty():
    lines = paper_lines(runs_of([*_run(1, 0.11, 0.08), *_run(0, 0.10, 0.09)]), 1)
    assert len(lines) == 16
    line = _line(lines, "morph20_1c1")
    assert [run.seed for run in line.runs] == [0, 1]
    assert line.errors == [0.09, 0.08]
    assert line.improvements == pytest.approx([0.01, 0.03])
    assert line.relative_improvements == pytest.approx([0.1, 0.03 / 0.11])
    assert line.paper_parent_error == 0.0875
    assert _line(lines, "resnet20").errors == [0.10, 0.11]
    assert sum(len(line.runs) > 0 for line in lines) == 2
    assert paper_lines(runs_of(_run(0)), 2)[0].runs == ()


def test_phases_between_lead_to_a_row_of_their_own():
    records = [r for r in _run(0, via=("1c1_half",)) if r.role != "control"]
    records = [replace(record, architecture=cifar_architecture(56, 10).to_dict()) for record in records]
    lines = paper_lines(runs_of(records), 1)
    assert _line(lines, "morph56_1c1", ("1c1_half",)).errors == [0.08]
    assert _line(lines, "morph56_1c1_half").errors == [0.08]
    assert _line(lines, "morph56_1c1").errors == []


@pytest.mark.parametrize(
    "architecture",
    [
        cifar_architecture(20, 10, widths=(8, 16, 32)),
        cifar_architecture(20, 10, activation="prelu"),
        cifar_architecture(20, 5),
        cifar_architecture(26, 10),
        imagenet_architecture(18, 10),
    ],
)
def test_other_networks_are_in_no_row(architecture):
    records = [replace(r, architecture=architecture.to_dict()) for r in _run(0)]
    assert all(line.runs == () for line in paper_lines(runs_of(records), 1))
    assert all(line.runs == () for line in paper_lines(runs_of([replace(r, architecture=None) for r in _run(0)]), 1))


def test_other_settings_of_a_row_are_other_lines_and_a_shared_parent_is_one():
    other = [replace(r, settings=Settings(variant="abc")) for r in _run(0, child=0.07)]
    lines = paper_lines(runs_of([*_run(0), *other]), 1)
    assert sum(line.row.name == "morph20_1c1" and line.row.via == () for line in lines) == 2
    assert sum(line.row.name == "resnet20" for line in lines) == 1
    same = [replace(r, experiment="longer") for r in _run(0) if r.role != "control"]
    lines = paper_lines(runs_of([*_run(0), *same]), 1)
    assert sum(line.row.name == "morph20_1c1" and line.row.via == () for line in lines) == 1


def test_ten_views_are_a_line_of_their_own():
    def record(*args, **changes):
        architecture = imagenet_architecture(18).to_dict()
        return _record(*args, data={"name": "imagenet"}, architecture=architecture, **changes)

    parent = record(0, 0, "parent", 0.33, role="parent", views=Views(10, 0.31, 31, 1.0))
    child = record(0, 1, "1c1", 0.32, source="0_parent", morph="1c1")
    lines = paper_lines(runs_of([parent, child]), 3)
    assert [(line.row.name, line.views, line.errors) for line in lines] == [
        ("resnet18", 1, [0.33]), ("resnet18", 10, [0.31]), ("morph18_1c1", 1, [0.32]), ("morph18_1c1", 10, []),
    ]  # fmt: skip
    assert lines[1].paper_error == 0.3086


def test_differences_to_controls_are_paired_and_have_an_interval_from_three_seeds_on():
    children, controls = [0.08, 0.07, 0.10], [0.09, 0.10, 0.105]
    records = [r for s in range(3) for r in _run(s, 0.2, children[s], controls[s])]
    child, control = control_lines(runs_of(records))
    assert child.differences == ()
    assert control.differences == pytest.approx([0.01, 0.03, 0.005])
    expected = ttest_rel(controls, children).confidence_interval(0.95)
    assert control.interval == pytest.approx((expected.low, expected.high))
    assert "+1.50" in controls_table([child, control]).write()
    _, two = control_lines(runs_of([r for r in records if r.seed < 2]))
    assert two.interval is None
    assert "+1.00, +3.00" in controls_table([child, two]).write()


def test_every_child_stands_beside_the_controls_of_its_phase():
    def control(index, phase, error, source, **changes):
        return _record(0, index, phase, error, role="control", source=source, **changes)

    records = [
        _record(0, 0, "parent", 0.10, role="parent"),
        _record(0, 1, "1c1_half", 0.09, source="0_parent", morph="1c1_half"),
        _record(0, 2, "1c1", 0.07, source="1_1c1_half", morph="1c1"),
        control(3, "relu_1", 0.095, "0_parent", label="relu"),
        control(4, "relu_2", 0.08, "3_relu_1", label="relu", beside=2),
        control(5, "random_1", 0.11, "0_parent", label="random"),
        control(6, "random_2", 0.06, "5_random_1", label="random", beside=2),
        control(7, "scratch", 0.12, "2_1c1", from_scratch=True, beside=2),
    ]
    lines = control_lines(runs_of(records))
    assert [(line.child, line.network, *line.errors) for line in lines] == [
        ("1c1_half", "1c1_half", 0.09), ("1c1_half", "relu", 0.095), ("1c1_half", "random", 0.11),
        ("1c1", "1c1", 0.07), ("1c1", "relu", 0.08), ("1c1", "random", 0.06),
        ("1c1", "scratch", 0.12),
    ]  # fmt: skip
    assert [round(d, 3) for line in lines for d in line.differences] == [0.005, 0.02, 0.01, -0.01, 0.05]


def test_collapsed_flop_is_a_column_where_a_control_has_it():
    plain = _run(0)
    child, control = control_lines(runs_of(plain))
    assert "collapsed FLOP" not in controls_table([child, control]).write("markdown")
    linear = [replace(record, collapsed_macs=42_386_048) if record.role == "control" else record for record in plain]
    lines = control_lines(runs_of(linear))
    assert "| rel. FLOP | collapsed FLOP (million) | steps |" in controls_table(lines).write("markdown")
    assert "| 42.4 | 640 |" in controls_table(lines).write("markdown").splitlines()[-1]
    assert [line["collapsed_macs"] for line in json.loads(controls_table(lines).write("json"))] == [None, 42_386_048]
    written = csv.DictReader(io.StringIO(controls_table([child, control]).write("csv")))
    assert [line["collapsed_macs"] for line in written] == ["", ""]


def test_a_control_without_its_child_is_left_out():
    """Of a run that is under way."""
    records = [
        *_run(0),
        *_run(1)[:1],
        _record(1, 2, "relu", 0.05, role="control", source="0_parent", label="parent on"),
    ]
    child, control = control_lines(runs_of(records))
    assert (child.seeds, control.seeds, len(control.differences)) == ([0], [0], 1)


def test_what_is_missing_moves_nothing_else():
    def run(seed, *without):
        records = [
            _record(seed, 0, "parent", 0.10, role="parent"),
            _record(seed, 1, "half", 0.09, source="0_parent"),
            _record(seed, 2, "whole", 0.07, source="1_half"),
            _record(seed, 3, "relu_1", 0.095, role="control", source="0_parent", label="on"),
            _record(seed, 4, "relu_2", 0.08, role="control", source="3_relu_1", label="on", beside=2),
            _record(seed, 5, "scratch", 0.12, role="control", source="2_whole", from_scratch=True, beside=2),
        ]
        return [record for record in records if record.phase not in without]

    def found(*records):
        return [(line.child, line.network, line.seeds) for line in control_lines(runs_of(records))]

    both = [("half", "half", [0, 1]), ("half", "on", [0, 1])]
    last = [("whole", "whole", [0, 1]), ("whole", "on", [0, 1]), ("whole", "scratch", [0, 1])]
    assert found(*run(0), *run(1)) == both + last
    seed_1 = [(child, label, [1]) for child, label, _ in both]
    assert found(*run(0, "half"), *run(1)) == seed_1 + last
    assert found(*run(0, "half"), *run(1, "half")) == last
    assert found(*run(0, "whole"), *run(1, "whole")) == both
    assert found(*run(0, "relu_1"), *run(1)) == [both[0], ("half", "on", [1]), *last]
    lines = control_lines(runs_of([*run(0, "parent")]))
    assert lines[0].parent_macs is None
    assert "rel. FLOP" in controls_table(lines).write()


def test_two_runs_of_one_seed_are_refused():
    other = [replace(record, lineage=replace(record.lineage, network="another")) for record in _run(0)]
    with pytest.raises(ValueError, match="the same seed stands in several runs"):
        runs_of([*_run(0), *other])


def test_the_table_of_controls_says_where_each_number_comes_from():
    values = json.loads(controls_table(LINES).write("json"))
    assert values[1] == {
        "experiment": "e", "settings": "", "child": "1c1", "network": "parent on", "role": "control", "control": "relu",
        "seeds": [0, 1],
        "errors": [0.09, 0.09], "differences": pytest.approx([0.01, 0.01]), "interval": None,
        "only_child_wrong": [None, None], "only_control_wrong": [None, None], "mcnemar_by_seed": [None, None],
        "mcnemar": None, "error_overlaps": [None, None], "macs": 43_958_912,
        "relative_macs": 1.0, "collapsed_macs": None, "steps": 640,
        "records": ["runs/0/relu/record.json", "runs/1/relu/record.json"],
    }  # fmt: skip
    assert "[seed 1](runs/1/relu/record.json)" in controls_table(LINES).write("markdown")


def test_a_network_from_scratch_has_no_parent():
    (run,) = runs_of([*_run(0), _record(0, 3, "scratch", 0.2, role="control", source="1_1c1", from_scratch=True)])
    assert [r.phase for r in run.chain(run.phases["3_scratch"])] == ["scratch"]
    assert [r.phase for r in run.chain(run.phases["1_1c1"])] == ["parent", "1c1"]


@pytest.mark.parametrize(
    "write", [lambda f: paper_table(paper_lines(RUNS, 1)).write(f), lambda f: controls_table(LINES).write(f)]
)
def test_every_format_says_the_same(write):
    assert "8.00" in write("text")
    assert write("markdown").splitlines()[1].startswith("| --- |")
    assert write("latex").count(r"\\") >= 3
    assert r"8.00 $\pm$ 0.00" in write("latex")
    rows = list(csv.DictReader(io.StringIO(write("csv"))))
    values = json.loads(write("json"))
    assert len(rows) == len(values) == len(write("markdown").splitlines()) - 2
    index = next(i for i, value in enumerate(values) if value["errors"] == [0.08, 0.08])
    assert rows[index]["errors"] == "0.08 0.08"


RUNS = runs_of([*_run(0), *_run(1)])
LINES = control_lines(RUNS)


def test_a_cell_links_to_its_records():
    assert "[seed 1](runs/1/1c1/record.json)" in paper_table(paper_lines(RUNS, 1)).write("markdown")


def test_runs_of_another_recipe_do_not_count_as_the_papers():
    records = [*_run(0), *_run(1)]
    settings = [Settings(recipe="paper")] * 3 + [Settings(recipe="modern", variant="m")] * 3
    runs = runs_of([replace(record, settings=own) for record, own in zip(records, settings, strict=True)])
    seeds = [[run.seed for run in _line(paper_lines(runs, 1, *r), "morph20_1c1").runs] for r in ((), ("modern",))]
    assert seeds == [[0], [1]]
    assert all(not line.runs for line in paper_lines(runs, 1, "morphnet"))


@pytest.mark.parametrize(
    ("table", "recipe", "change", "why"),
    [
        (3, "paper", {}, "it is of imagenet, and they are not"),
        (1, "modern", {}, "those of cifar10 are of with_recipe=paper"),
        (1, "paper", {"architecture": cifar_architecture(20, 5).to_dict()}, "classes=5 (in the paper 10)"),
        (1, "paper", {"architecture": cifar_architecture(20, 10, activation="prelu").to_dict()}, "activation=prelu"),
        (1, "paper", {"architecture": None}, "an architecture that is none of the paper's"),
        (1, "paper", {"role": "child"}, "the record of a parent is missing"),
    ],
)
def test_why_no_run_is_in_a_table_is_said(table, recipe, change, why):
    assert why in why_none(runs_of([replace(record, **change) for record in _run(0)]), table, recipe)
