"""What networks said of every image: the files of a phase, and two networks beside each other."""

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from morphnet.report.comparison import control_lines, runs_of
from morphnet.report.comparison_table import control_foot, controls_table
from morphnet.report.outcomes import compare_outcomes, mcnemar, write_classes, write_outcomes
from morphnet.report.record import read_record
from tests.report.records import make_record
from tests.report.test_comparison import _record
from tests.report.test_damage import KEPT


def _kept(folder, labels, predictions, classes=10):
    """A record with its files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    data = SimpleNamespace(classes=classes, test=SimpleNamespace(labels=torch.tensor(labels)), views=1)
    outcomes = write_outcomes(folder, data, SimpleNamespace(predictions=torch.tensor(predictions)), None)
    return make_record(outcomes=outcomes, file=folder / "record.json")


def _pair(tmp_path, child, control, name="pair"):
    """A pair of networks on as many images of class 0."""
    labels = [0] * len(child)
    folder = tmp_path / name
    return compare_outcomes(_kept(folder / "child", labels, child), _kept(folder / "control", labels, control))


@pytest.mark.parametrize(("classes", "kind"), [(10, "u1"), (255, "u1"), (256, "u2"), (1000, "u2")])
def test_a_file_has_the_smallest_type_and_its_largest_value_for_what_cannot_be_read(tmp_path, classes, kind):
    digest = write_classes(tmp_path / "p.npy", torch.tensor([0, classes - 1, -1], dtype=torch.int32), classes)
    found = np.load(tmp_path / "p.npy")
    assert found.dtype.str[1:] == kind
    assert found.tolist() == [0, classes - 1, np.iinfo(found.dtype).max]
    assert digest == hashlib.sha256((tmp_path / "p.npy").read_bytes()).hexdigest()


def test_a_phase_without_predictions_leaves_no_files(tmp_path):
    data = SimpleNamespace(classes=10, test=SimpleNamespace(labels=torch.tensor([0])), views=1)
    assert write_outcomes(tmp_path, data, SimpleNamespace(predictions=None), None) is None
    assert list(tmp_path.iterdir()) == []


def test_errors_of_two_networks_are_counted_image_by_image(tmp_path):
    pair = _pair(tmp_path, child=[0, 1, 1, 0, 0, 0], control=[0, 1, 0, 2, 3, 0])
    assert (pair.both, pair.only_child, pair.only_control) == (1, 1, 2)
    assert pair.overlap == 1 / 4
    assert _pair(tmp_path, [0, 0], [0, 0], "none").overlap is None


def test_images_that_one_network_could_not_read_are_left_out(tmp_path):
    pair = _pair(tmp_path, child=[-1, 1, 1, -1], control=[1, -1, 1, 0])
    assert (pair.both, pair.only_child, pair.only_control) == (1, 0, 0)


def test_mcnemar_is_the_exact_binomial_test_of_images_that_one_network_gets_wrong(tmp_path):
    pair = _pair(tmp_path, child=[1] * 3 + [0] * 12 + [1] * 5, control=[0] * 3 + [1] * 12 + [1] * 5)
    assert mcnemar([pair]) == binomtest(3, 15).pvalue == pytest.approx(2 * sum((1, 15, 105, 455)) / 2**15)
    assert mcnemar([_pair(tmp_path, [0, 1], [0, 1], "same")]) == 1
    assert mcnemar([]) is None


def test_over_seeds_an_image_counts_once(tmp_path):
    one = _pair(tmp_path, child=[0] * 6 + [1], control=[1] * 6 + [0], name="one")
    two = _pair(tmp_path, child=[0] * 6 + [0], control=[1] * 6 + [1], name="two")
    assert mcnemar([one, one, one]) == mcnemar([one]) == binomtest(1, 7).pvalue  # the same networks say no more
    assert mcnemar([one, two]) == binomtest(0, 6).pvalue  # the last image is wrong once in each
    assert mcnemar([one, _pair(tmp_path, [0] * 6, [1] * 6, "others")]) is None


def test_only_the_same_images_are_compared(tmp_path):
    child = _kept(tmp_path / "child", [0, 1], [0, 1])
    assert compare_outcomes(child, _kept(tmp_path / "control", [1, 0], [0, 1])) is None
    assert compare_outcomes(child, make_record(file=tmp_path / "record.json")) is None
    assert compare_outcomes(replace(child, outcomes=None), child) is None


@pytest.mark.parametrize(
    "content", [b"", b"no array", b"\x93NUMPY", np.lib.format.magic(1, 0)], ids=["empty", "text", "cut", "head"]
)
def test_what_is_no_list_of_classes_is_named(tmp_path, content):
    child = _kept(tmp_path / "child", [0, 1], [0, 1])
    (tmp_path / "child" / "labels.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"labels\.npy is not a list of classes"):
        compare_outcomes(child, child)
    _kept(tmp_path / "child", [0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match=r"labels\.npy has 2 images, and predictions\.npy 3"):
        compare_outcomes(child, child)


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_record_whose_files_are_not_those_it_names_is_damaged(tmp_path, damage):
    kept = _kept(tmp_path, [0, 1], [0, 1])
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**json.loads(KEPT[0].read_text()), "outcomes": kept.outcomes}))
    assert read_record(path).outcomes == kept.outcomes
    if damage == "gone":
        (tmp_path / "labels.npy").unlink()
        said = r"labels\.npy beside it cannot be read \(No such file or directory\)"
    else:
        write_classes(tmp_path / "predictions.npy", torch.tensor([0, 0]), 10)
        said = r"predictions\.npy beside it is not the file it was written with"
    with pytest.raises(ValueError, match=rf"record\.json is a damaged record: {said}$"):
        read_record(path)


def test_the_table_of_controls_has_the_test_and_the_overlap(tmp_path):
    def run(seed, keeps=True):
        records = [
            _record(seed, 0, "parent", 0.10, role="parent"),
            _record(seed, 1, "1c1", 0.25, source="0_parent"),
            _record(seed, 2, "relu", 0.75, role="control", source="0_parent"),
        ]
        said = {"1c1": [1, 0, 0, 0], "relu": [1, 0, 1, 1]}
        for i, record in enumerate(records[1:] if keeps else [], 1):
            kept = _kept(tmp_path / str(seed) / record.phase, [0] * 4, said[record.phase])
            records[i] = replace(record, outcomes=kept.outcomes, file=kept.file)
        return records

    lines = control_lines(runs_of([*run(0), *run(1)]))
    header, _, child, control = (line.split(" | ") for line in controls_table(lines).write("markdown").splitlines())
    cells = dict(zip(header, control, strict=True))
    assert cells["McNemar p"] == "0.5 (0.5, 0.5)"
    assert cells["error overlap %"] == "33.33 ± 0.00"
    assert dict(zip(header, child, strict=True))["McNemar p"] == ""
    assert len(control_foot(lines)) == 3
    values = json.loads(controls_table(lines).write("json"))[1]
    assert (values["only_child_wrong"], values["only_control_wrong"]) == ([0, 0], [2, 2])
    assert (values["mcnemar_by_seed"], values["mcnemar"]) == ([0.5, 0.5], 0.5)
    assert values["error_overlaps"] == [1 / 3, 1 / 3]

    mixed = control_lines(runs_of([*run(0), *run(1, keeps=False)]))
    assert "| 0.5 (0.5, -) | 33.33 |" in controls_table(mixed).write("markdown")
    assert ",0 -,2 -,0.5 -,0.5,0.3333333333333333 -," in controls_table(mixed).write("csv")

    old = control_lines(runs_of([*run(0, keeps=False)]))
    assert "McNemar" not in controls_table(old).write("text")
    assert len(control_foot(old)) == 1
