"""Runs of one experiment that differ in more than their seed."""

from dataclasses import replace

import yaml

from morphnet.report.table import rows_of, runs_table
from morphnet.report.variants import with_variations
from tests.report.records import make_record


def _record(folder, seed, variant, settings=None, experiment="e"):
    run = folder / experiment / f"seed{seed}-of_{variant}"
    run.mkdir(parents=True, exist_ok=True)
    if settings is not None:
        (run / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "output": str(folder / variant), **settings}))
    return make_record(
        experiment=experiment, seed=seed, index=0, phase="parent", label="parent", role="parent",
        settings={"variant": variant}, lineage={"network": f"{seed}{variant}"},
        file=run / "phases" / "0_parent" / "record.json",
    )  # fmt: skip


def _said(records):
    return [record.variation for record in with_variations(records)]


def test_what_differs_is_named_and_seeds_and_folders_are_not(tmp_path):
    slow, fast = ({"optim": {"lr": lr, "momentum": 0.9}, "phases": [{"morph": None}]} for lr in (0.01, 0.1))
    slow["controls"] = ["relu"]  # which are rows of their own
    records = [_record(tmp_path, 0, "a", slow), _record(tmp_path, 1, "a", slow), _record(tmp_path, 0, "b", fast)]
    assert _said(records) == ["optim.lr=0.01", "optim.lr=0.01", "optim.lr=0.1"]
    text = runs_table(rows_of(with_variations(records))).write()
    assert text.splitlines()[0].split()[:3] == ["experiment", "settings", "network"]
    assert [line.split()[1] for line in text.splitlines()[2:]] == ["optim.lr=0.01", "optim.lr=0.1"]


def test_an_experiment_that_was_run_in_one_way_needs_no_words(tmp_path):
    records = [
        _record(tmp_path, 0, "a", {"optim": {"lr": 0.1}}),
        _record(tmp_path, 1, "a", {"optim": {"lr": 0.1}}),
        _record(tmp_path, 0, "b", {"optim": {"lr": 0.2}}, experiment="other"),
    ]
    assert _said(records) == ["", "", ""]
    assert "settings" not in runs_table(rows_of(with_variations(records))).write()


def test_many_differences_are_counted_and_a_path_is_its_last_part(tmp_path):
    records = [
        _record(tmp_path, 0, "a", {"parent": "/far/away/grown", **{f"k{i}": 0 for i in range(5)}}),
        _record(tmp_path, 0, "b", {"parent": None, **{f"k{i}": True for i in range(5)}}),
    ]
    assert _said(records) == ["k0=0, k1=0, k2=0 and 3 more", "k0=true, k1=true, k2=true and 2 more"]
    pair = [_record(tmp_path, 1, "c", {"parent": "/far/grown"}), _record(tmp_path, 1, "d", {"parent": None})]
    assert _said(pair) == ["parent=grown", "parent=null"]


def test_other_phases_are_told_by_their_names(tmp_path):
    def run(variant, name, **phase):
        phases = [{"name": "parent", "morph": None}, {"name": None, "morph": None, **phase}]
        parent = _record(tmp_path, 0, variant, {"phases": phases, "optim": {"lr": 0.1}})
        return [parent, replace(parent, index=1, phase=name, role="child", label=name)]

    records = [*run("a", "1c1", morph="1c1"), *run("b", "bridge", module="bridge", target="layer2.*")]
    assert _said(records) == ["parent → 1c1"] * 2 + ["parent → bridge"] * 2


def test_what_the_configuration_does_not_say_the_folder_does(tmp_path):
    same = {"data": {"path": "mine.npz"}}
    assert _said([_record(tmp_path, 0, "a1", same), _record(tmp_path, 0, "b2", same)]) == ["of_a1", "of_b2"]
    assert _said([_record(tmp_path, 1, "a1"), _record(tmp_path, 1, "b2")]) == ["of_a1", "of_b2"]
    (tmp_path / "e" / "seed1-of_a1" / "config.yaml").write_text("a: [")
    assert _said([_record(tmp_path, 1, "a1"), _record(tmp_path, 1, "b2")]) == ["of_a1", "of_b2"]
