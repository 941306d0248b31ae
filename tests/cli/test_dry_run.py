"""``dry_run=true``, and what a sweep says before it starts."""

import pytest

from morphnet.cli import main
from morphnet.cli.estimate import in_words
from tests.cli.test_sweep import SHORT, train  # noqa: F401


def test_a_dry_run_tells_everything_and_leaves_nothing(train, tmp_path):  # noqa: F811
    small = ["network.depth=14", "network.widths=[4,4,4]"]
    code, output, errors = train("dry_run=true", *small, "phases=[{morph:null},{morph:1c1}]", "controls=[]")
    assert (code, errors) == (0, "")
    assert "parent -> 1c1" in output
    assert "nothing was run" in output
    assert "about " in output
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_what_is_done_says_so(train, tmp_path):  # noqa: F811
    assert train(*SHORT, "schedule.epochs=1")[0] == 0
    _, output, _ = train(*SHORT, "schedule.epochs=1", "dry_run=true")
    assert [line.split()[-1] for line in output.splitlines() if line.startswith("parent ")] == ["done"]
    assert "about none here" not in output


def test_a_sweep_says_beforehand_how_long_it_takes(train, tmp_path):  # noqa: F811
    jobs = ["-m", "seed=0,1", "schedule.epochs=1", *SHORT]
    code, output, errors = train(*jobs, "dry_run=true")
    assert (code, errors) == (0, "")
    line = next(line for line in output.splitlines() if line.startswith("digits"))
    assert line.split()[2:5] == ["2", "2", "6"]  # runs, phases, steps
    assert output.rstrip().endswith("nothing was run: dry_run=true")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    _, begun, _ = train(*jobs)
    assert begun.index("about ") < begun.index("parent: step")
    _, again, _ = train(*jobs)
    assert again.startswith("2 of 2 jobs are done already\n")
    assert "measuring" not in again


def test_a_phase_that_changes_nothing_is_said_to(train):  # noqa: F811
    _, _, errors = train("dry_run=true", "phases=[{morph: null},{morph: 1c1_half},{morph: 1c1}]", "controls=[]")
    assert "phase 2_1c1: everything that 1c1 adds is there already" in errors


def test_layers_that_were_morphed_are_in_the_cost_of_a_spec(train):  # noqa: F811
    phases = 'phases=[{morph: null},{widen: 2, target: "layer2.1.conv1"},{morph: 1c1}]'
    _, output, _ = train("dry_run=true", phases, "controls=[]", "schedule.epochs=1")
    lines = [line.split() for line in output.splitlines() if line.endswith(" s")]
    parameters = [int(line[-7].replace(",", "")) for line in lines]
    assert len(parameters) == 3
    assert parameters == sorted(set(parameters))


def test_cifar_is_planned_without_its_images(train, tmp_path):  # noqa: F811
    small = ["network.depth=8", "network.widths=[2,4,4]", "optim.batch_size=16", "data.root=none"]
    code, output, errors = train("experiment=cifar10_resnet20", *small, "data.download=true", "dry_run=true")
    assert code == 0
    assert "noise of its shape is used to plan and measure" in errors
    assert "64,000" in output
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_runs_share_counts_once(train):  # noqa: F811
    _, output, _ = train("-m", "dry_run=true", "name=a,b", "schedule.epochs=1", *SHORT)
    phases = [line.split()[3] for line in output.splitlines() if line.startswith(("a ", "b "))]
    assert phases == ["1", "0"]


def test_a_job_that_cannot_run_does_not_hide_the_others(train):  # noqa: F811
    code, output, errors = train("-m", "dry_run=true", "optim.batch_size=50,0", "schedule.epochs=1", *SHORT)
    assert code == 2
    assert "1 of 2 jobs could not run" in errors
    assert "1 of 2 jobs cannot be estimated" in output
    assert "optim.batch_size=0" in output
    assert next(line for line in output.splitlines() if line.startswith("digits")).split()[2] == "1"


def test_overrides_with_spaces_and_commas_are_estimated(train):  # noqa: F811
    code, output, errors = train("-m", "dry_run=true", 'name="a b","c, d"', "schedule.epochs=1", *SHORT)
    assert (code, errors) == (0, "")
    assert [line[:4].strip() for line in output.splitlines()[3:5]] == ["a b", "c, d"]


def test_a_dry_run_checks_as_a_run_does(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["morphnet"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    assert main(["train", "dry_run=true", "phases=[{morph:null},{morph:9q9}]"]) == 2
    assert "9q9" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "none"), (0.2, "1 s"), (89, "89 s"), (300, "5 min"), (19200, "5 h 20 min"), (273_600, "3 days 4 h")],
)
def test_lengths_of_time_in_words(seconds, words):
    assert in_words(seconds) == words


def test_imagenet_is_planned_without_its_images(train, monkeypatch):  # noqa: F811
    monkeypatch.delenv("MORPHNET_IMAGENET", raising=False)
    small = ["data.crop=32", "data.shorter_side=[32,48]", "data.eval_shorter_side=36", "data.workers=1"]
    code, output, errors = train("experiment=imagenet_resnet18", *small, "optim.batch_size=8", "dry_run=true")
    assert code == 0, errors
    assert "a JPEG of noise of ImageNet's usual size is used to plan and measure" in errors
    assert "11,689,512" in output  # parameters of ResNet-18 with 1000 classes
    code, _, errors = train("experiment=imagenet_resnet18")
    assert code == 2
    assert "data=imagenet needs data.path" in errors
