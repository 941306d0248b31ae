"""Phases that runs share: which runs do, who trains them, and that the numbers are those of a run by itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import morphnet.train.run as run_module
from morphnet.cli import main
from morphnet.config import MorphConfig, OptimConfig, PhaseConfig, ScheduleConfig, TrainConfig, TrainerConfig
from morphnet.data import Augmentation
from morphnet.data.images import ImageData, Split
from morphnet.nn.resnet import cifar_architecture
from morphnet.store import load_network
from morphnet.train import Engine, Experiment, plan_phases, run_experiment
from morphnet.train.key import describe_key, hash_of, phase_hash

PARENT = ({"morph": None},)
ARCHITECTURE = cifar_architecture(14, 3, widths=(4, 4, 4))
PHASES = ["phases=[{morph:null}]", "controls=[]", "network.depth=8", "network.widths=[4,4,4]"]


def _split(count, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(images, torch.randint(3, (count,), generator=generator))


DATA = ImageData("noise", _split(60, 0), _split(30, 1), ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3)


def _experiment(folder, name="first", parents=None, trainer=None, **changes):
    settings = {
        "name": name,
        "seed": 0,
        "run_dir": folder / name,
        "data": DATA,
        "augmentation": Augmentation(1, True),
        "batch_size": 20,
        "optimisation": OptimConfig(),
        "morphing": MorphConfig(),
        "engine": Engine(torch.device("cpu"), compile="false"),
        "trainer": TrainerConfig(**{"checkpoint_seconds": 0.0, **(trainer or {})}),
        "root": {"network": ARCHITECTURE.to_dict()},
        "settings": {"variant": name},
        "parents": parents,
    }
    return Experiment(**{**settings, **changes})


def _plans(phases=({"morph": None}, {"morph": "1c1"}), lr=0.1, controls=(), **schedule):
    config = TrainConfig(
        phases=[PhaseConfig(**phase) for phase in phases],
        controls=list(controls),
        schedule=ScheduleConfig(**{"steps": 6, **schedule}),
        optim=OptimConfig(lr=lr),
    )
    return plan_phases(config, ARCHITECTURE, 3, len(DATA.train))


def _weights(path):
    return load_network(path).state_dict()


def _same(first, second):
    return all(torch.equal(a, b) for a, b in zip(_weights(first).values(), _weights(second).values(), strict=True))


def _figures(value):
    """The records without what is of the run or of its clock; tuples are lists, as in JSON."""
    clock = {"started", "finished", "seconds", "images_per_second"}
    own = {"experiment", "settings", "shared_parent"}
    if isinstance(value, dict):
        return {key: _figures(part) for key, part in value.items() if key not in clock | own}
    return [_figures(part) for part in value] if isinstance(value, (list, tuple)) else value


def test_two_runs_train_their_phases_once_and_their_numbers_are_those_of_runs_by_themselves(tmp_path, capsys):
    parents = tmp_path / "parents"
    alone = run_experiment(_experiment(tmp_path, "alone"), _plans(), ARCHITECTURE, None)
    first = run_experiment(_experiment(tmp_path, "first", parents), _plans(), ARCHITECTURE, None)
    shared = {path.name: (path / "record.json").stat().st_mtime_ns for path in parents.iterdir()}
    assert len(shared) == 2
    assert "trained already" not in capsys.readouterr().out
    second = run_experiment(_experiment(tmp_path, "second", parents), _plans(), ARCHITECTURE, None)
    said = capsys.readouterr().out
    assert "parent: trained already by first, in" in said
    assert "1c1: trained already by first, in" in said
    assert {path.name: (path / "record.json").stat().st_mtime_ns for path in parents.iterdir()} == shared
    for name in ("first", "second"):
        for phase in ("0_parent", "1_1c1"):
            for file in ("network.safetensors", "steps.csv"):
                made, own = (tmp_path / run / "phases" / phase / file for run in (name, "alone"))
                assert made.read_bytes() == own.read_bytes()
        assert (tmp_path / name / "phases" / "1_1c1" / "morph_report.json").is_file()
    for records in (first, second):
        assert [record.shared_parent["hash"] for record in records] == [
            phase_hash(_experiment(tmp_path), plan) for plan in _plans()
        ]
    alone, first, second = (_figures([r.to_dict() for r in records]) for records in (alone, first, second))
    assert alone == first == second


def test_runs_of_other_chains_share_the_phases_that_are_equal(tmp_path):
    parents = tmp_path / "parents"
    one = _plans(({}, {"morph": "1c1"}, {"morph": "3c1"}), controls=["prelu"])
    other = _plans(({}, {"morph": "1c1"}), controls=["prelu", "relu"])
    run_experiment(_experiment(tmp_path, "first", parents), one, ARCHITECTURE, None)
    assert len(list(parents.iterdir())) == 5
    records = run_experiment(_experiment(tmp_path, "second", parents), other, ARCHITECTURE, None)
    assert len(list(parents.iterdir())) == 6
    by = {record.phase: record.shared_parent["trained_by"]["experiment"] for record in records}
    assert by == {"parent": "first", "1c1": "first", "prelu_trained_on": "first", "relu_trained_on": "second"}
    assert [(r.phase, r.label, r.index, r.source) for r in records][2] == (
        "prelu_trained_on",
        "PReLU parent trained on",
        3,
        "0_parent",
    )


def test_a_finished_phase_that_is_kept_with_the_results_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_experiment(_experiment(tmp_path, "first", tmp_path / "parents"), _plans(PARENT), ARCHITECTURE, None)
    (shared,) = (tmp_path / "parents").iterdir()
    shutil.copytree(shared, tmp_path / "results" / "phases" / shared.name)
    shutil.rmtree(tmp_path / "parents")
    capsys.readouterr()
    run_experiment(_experiment(tmp_path, "second", tmp_path / "parents"), _plans(PARENT), ARCHITECTURE, None)
    assert f"parent: trained already by first, in results/phases/{shared.name}" in capsys.readouterr().out
    assert not (tmp_path / "parents").exists()
    assert _same(*(tmp_path / run / "phases" / "0_parent" / "network.safetensors" for run in ("first", "second")))


def test_a_phase_that_started_from_another_network_is_not_taken(tmp_path, capsys):
    parents = tmp_path / "parents"
    run_experiment(_experiment(tmp_path, "first", parents), _plans(), ARCHITECTURE, None)
    other = _experiment(tmp_path, "second", None, seed=1)
    run_experiment(other, _plans(PARENT), ARCHITECTURE, None)  # in its place, a parent of other weights
    capsys.readouterr()
    records = run_experiment(_experiment(tmp_path, "second", parents), _plans(), ARCHITECTURE, None)
    assert "started from another network than this run has; it trains its own" in capsys.readouterr().out
    assert records[1].shared_parent is None
    assert records[1].started_from == records[0].lineage.network


def test_a_finished_phase_whose_source_was_trained_again_is_named(tmp_path):
    run_experiment(_experiment(tmp_path, "first"), _plans(), ARCHITECTURE, None)
    shutil.rmtree(tmp_path / "first" / "phases" / "0_parent")
    run_experiment(_experiment(tmp_path, "other", seed=1), _plans(PARENT), ARCHITECTURE, None)
    shutil.copytree(tmp_path / "other" / "phases" / "0_parent", tmp_path / "first" / "phases" / "0_parent")
    with pytest.raises(ValueError, match=r"1_1c1 started from another network than .*0_parent holds; delete"):
        run_experiment(_experiment(tmp_path, "first"), _plans(), ARCHITECTURE, None)


@pytest.mark.parametrize("file", ["network.safetensors", "phase.json"])
def test_a_shared_phase_with_files_of_another_one_is_refused(tmp_path, file):
    parents = tmp_path / "parents"
    run_experiment(_experiment(tmp_path, "first", parents), _plans(), ARCHITECTURE, None)
    parent, child = (parents / phase_hash(_experiment(tmp_path), plan) for plan in _plans())
    (child / file).unlink()
    shutil.copy(parent / file, child / file)
    with pytest.raises(ValueError, match=f"{file} .*; delete the folder .*{child.name}"):
        run_experiment(_experiment(tmp_path, "second", parents), _plans(), ARCHITECTURE, None)


def test_a_network_from_scratch_has_learned_nothing(tmp_path):
    starts = []
    for lr in (0.1, 0.5):
        phases = ({"morph": None}, {"morph": "1c1", "lr": lr})
        run_experiment(_experiment(tmp_path, f"at{lr}"), _plans(phases, controls=["scratch"]), ARCHITECTURE, None)
        starts.append(_weights(tmp_path / f"at{lr}" / "phases" / "7_scratch" / "start.safetensors"))
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())
    slopes = {name: set(value.tolist()) for name, value in starts[0].items() if name.endswith(".a")}
    assert {frozenset(v) for n, v in slopes.items() if ".branches." in n} == {frozenset({1.0})}
    assert {frozenset(v) for n, v in slopes.items() if ".branches." not in n} == {frozenset({0.0})}


def test_a_shared_phase_that_did_not_come_along_begins_again(tmp_path, monkeypatch, capsys):
    parents, run_phase = tmp_path / "parents", run_module.run_phase

    def dies(*arguments, **named):
        raise KeyError("dies")

    monkeypatch.setattr(run_module, "run_phase", dies)
    with pytest.raises(KeyError):
        run_experiment(_experiment(tmp_path, "first", parents), _plans(PARENT), ARCHITECTURE, None)
    monkeypatch.setattr(run_module, "run_phase", run_phase)
    shutil.rmtree(parents)
    run_experiment(_experiment(tmp_path, "first", parents), _plans(PARENT), ARCHITECTURE, None)
    assert "parent: begins again, since " in capsys.readouterr().out
    assert not (tmp_path / "first" / "phases" / "0_parent" / "shared.json").exists()


def test_the_record_of_the_parent_is_the_runs_own_and_says_who_trained_it(tmp_path):
    parents = tmp_path / "parents"
    run_experiment(_experiment(tmp_path, "first", parents), _plans(PARENT), ARCHITECTURE, None)
    plans = _plans([{"morph": None, "name": "base"}])
    run_experiment(_experiment(tmp_path, "second", parents), plans, ARCHITECTURE, None)
    (shared,) = parents.iterdir()
    record = json.loads((tmp_path / "second" / "phases" / "0_base" / "record.json").read_text())
    assert (record["experiment"], record["phase"]) == ("second", "base")
    assert record["settings"]["variant"] == "second"
    assert record["shared_parent"]["hash"] == shared.name
    assert record["shared_parent"]["trained_by"]["experiment"] == "first"
    values = json.loads((shared / "phase.json").read_text())
    assert hash_of(values) == shared.name
    assert values["start"]["network"]["widths"] == [4, 4, 4]


def test_the_curve_of_the_parent_is_in_every_run(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in ("first", "second"):
        run_experiment(_experiment(tmp_path, name, tmp_path / "parents"), _plans(PARENT), ARCHITECTURE, None)
        events = EventAccumulator(str(tmp_path / name / "tensorboard" / "phase0_parent")).Reload()
        assert [event.step for event in events.Scalars("test/error")] == [0, 3, 6]


def test_a_run_is_whole_without_the_folder_of_parents(tmp_path):
    run_experiment(_experiment(tmp_path, "first", tmp_path / "parents"), _plans(PARENT), ARCHITECTURE, None)
    shutil.rmtree(tmp_path / "parents")
    phase = tmp_path / "first" / "phases" / "0_parent"
    expected = {"start.safetensors", "network.safetensors", "record.json", "steps.csv", "momentum.safetensors"}
    expected |= {"predictions.npy", "labels.npy"}
    assert {path.name for path in phase.iterdir()} == expected
    load_network(phase / "network.safetensors")


def _cut(path):
    with open(path, "r+b") as file:  # in its place, as a link to it sees too
        file.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize("shares", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (_cut, "network.safetensors"),
        (_cut, "record.json"),
        pytest.param(os.unlink, "network.safetensors", marks=pytest.mark.slow),
    ],
)
def test_what_is_damaged_in_a_finished_phase_is_named_with_what_to_delete(tmp_path, shares, damage, name):
    experiment = _experiment(tmp_path, "first", tmp_path / "parents" if shares else None)
    whole = run_experiment(experiment, _plans(), ARCHITECTURE, None)
    phase = tmp_path / "first" / "phases" / "0_parent"
    network = (phase / "network.safetensors").read_bytes()
    damage(phase / name)
    shutil.rmtree(tmp_path / "first" / "phases" / "1_1c1")
    with pytest.raises(ValueError, match=f"{name}.*and the same command trains it again") as error:
        run_experiment(experiment, _plans(), ARCHITECTURE, None)
    told = [word for word in str(error.value).rpartition("; delete the folder")[2].split() if "/" in word]
    assert len(told) == (2 if shares and name != "record.json" else 1)
    for folder in told:
        shutil.rmtree(folder.rstrip(","))
    again = run_experiment(experiment, _plans(), ARCHITECTURE, None)
    assert (phase / "network.safetensors").read_bytes() == network
    assert again[1].lineage == whole[1].lineage


def test_where_nothing_can_be_linked_files_are_copied(tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("os.symlink", refuse)
    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    for name in ("first", "second"):
        run_experiment(_experiment(tmp_path, name, tmp_path / "parents"), _plans(PARENT), ARCHITECTURE, None)
    (shared,) = (tmp_path / "parents").iterdir()
    for name in ("first", "second"):
        copy = tmp_path / name / "phases" / "0_parent" / "network.safetensors"
        assert copy.stat().st_nlink == 1
        assert copy.read_bytes() == (shared / "network.safetensors").read_bytes()
        assert not (tmp_path / name / "tensorboard" / "phase0_parent").is_symlink()
        assert list((tmp_path / name / "tensorboard" / "phase0_parent").iterdir())


OTHER = {
    "seed": ({"seed": 1}, {}),
    "images": ({"data": replace(DATA, train=_split(60, 2))}, {}),
    "normalisation": ({"data": replace(DATA, mean=(0.4,) * 3)}, {}),
    "split": ({"data": replace(DATA, evaluated_on="validation")}, {}),
    "augmentation": ({"augmentation": Augmentation(1, False)}, {}),
    "batch size": ({"batch_size": 10}, {}),
    "optimizer": ({"optimisation": OptimConfig(weight_decay=0.0)}, {}),
    "network": ({"root": {"network": cifar_architecture(14, 3, widths=(4, 4, 8)).to_dict()}}, {}),
    "learning rate": ({}, {"lr": 0.2}),
    "length": ({}, {"steps": 7}),
    "milestones": ({}, {"milestones": [0.5]}),
}


@pytest.mark.parametrize("what", OTHER)
def test_what_decides_the_result_of_a_phase_makes_another_one(tmp_path, what):
    changes, schedule = OTHER[what]
    for usual, other in zip(_plans(), _plans(**schedule), strict=True):
        one = describe_key(_experiment(tmp_path), usual)
        assert hash_of(one) != phase_hash(_experiment(tmp_path, **changes), other)
        assert hash_of(one) == hash_of(json.loads(json.dumps(one)))


ARITHMETIC = {
    "precision": {"engine": Engine(torch.device("cpu"), torch.bfloat16)},
    "compilation": {"engine": Engine(torch.device("cpu"), compile="true")},
    "threads": {"trainer": {"threads": 2}},
    "evaluation": {"trainer": {"evaluate_every": 2}},
    "checkpoints": {"trainer": {"checkpoint_seconds": 9.0}},
    "diagnostics": {"trainer": {"watch_steps": 5, "watch_every": 1}},
}


@pytest.mark.parametrize("what", ARITHMETIC)
def test_arithmetic_and_what_is_looked_at_make_no_other_phase(tmp_path, what):
    other = _experiment(tmp_path, **ARITHMETIC[what])
    assert [phase_hash(other, p) for p in _plans()] == [phase_hash(_experiment(tmp_path), p) for p in _plans()]


def test_how_a_network_is_morphed_matters_to_the_child_alone(tmp_path):
    other = _experiment(tmp_path / "elsewhere", "other", morphing=MorphConfig(bn="folded"))
    usual = [phase_hash(_experiment(tmp_path), plan) for plan in _plans(controls=["prelu"])]
    changed = [phase_hash(other, plan) for plan in _plans(controls=["prelu"])]
    assert [a == b for a, b in zip(usual, changed, strict=True)] == [True, False, True]


def test_what_comes_after_a_phase_does_not_matter(tmp_path):
    plans = _plans(({"morph": None, "name": "base"}, {"morph": "3c1", "steps": 9}))
    assert phase_hash(_experiment(tmp_path), plans[0]) == phase_hash(_experiment(tmp_path), _plans()[0])


def test_every_control_is_a_phase_of_its_own(tmp_path):
    plans = _plans(controls=["relu", "prelu", "linear", "net2net", "random", "scratch", "scratch_total"])
    assert len({phase_hash(_experiment(tmp_path), plan) for plan in plans}) == len(plans)


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """Runs ``morphnet train`` in an empty folder; gives its standard output."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides):
        monkeypatch.setattr("sys.argv", ["morphnet"])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        assert main(["train", *PHASES, *overrides]) == 0
        return capsys.readouterr().out

    return call


def _start_process(folder, *overrides):
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "morphnet", "train", *PHASES, *overrides],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_of_two_processes_one_trains_the_parent_and_the_other_waits(train, tmp_path, monkeypatch):
    run_phase = run_module.run_phase
    waiting = []

    def run_phase_once_another_waits(*arguments, **named):
        process = _start_process(tmp_path, "schedule.epochs=2", "name=second")
        waiting.append(process)
        lines = []
        while not lines or "this one waits" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        assert process.poll() is None
        return run_phase(*arguments, **named)

    monkeypatch.setattr(run_module, "run_phase", run_phase_once_another_waits)
    output = train("schedule.epochs=2", "name=first")
    assert "parent: step 6 of 6" in output
    (process,) = waiting
    rest = process.communicate()[0]
    assert process.returncode == 0
    assert "parent: trained already" in rest
    assert "parent: step" not in rest
    (shared,) = (tmp_path / "outputs" / "parents").iterdir()
    networks = list((tmp_path / "outputs").glob("*/seed0*/phases/0_parent/network.safetensors"))
    assert len(networks) == 2
    assert {path.read_bytes() for path in networks} == {(shared / "network.safetensors").read_bytes()}


@pytest.mark.slow
def test_a_parent_whose_run_was_killed_is_trained_on_by_the_next(train, tmp_path):
    length = ["schedule.epochs=20", "trainer.checkpoint_seconds=0"]
    process = _start_process(tmp_path, *length, "name=first")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/parents/*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (shared,) = (tmp_path / "outputs" / "parents").iterdir()
    assert (shared / "checkpoint.pt").exists()
    assert not (shared / "record.json").exists()
    output = train(*length, "name=second")
    assert "parent: goes on at step" in output
    assert json.loads((shared / "record.json").read_text())["resumed"] == 1
    assert not (shared / "checkpoint.pt").exists()
    train(*length, "name=first", "share_parent=false", "output=alone")
    assert not (tmp_path / "alone" / "parents").exists()
    (whole,) = tmp_path.glob("alone/first/*/phases/0_parent/network.safetensors")
    assert whole.read_bytes() == (shared / "network.safetensors").read_bytes()


def test_the_report_counts_a_shared_parent_once_in_each_run(train, tmp_path):
    from morphnet.cli.report import find_records

    for name in ("first", "parents"):  # an experiment may be called like the folder
        train("schedule.epochs=1", f"name={name}")
    found = find_records(str(tmp_path / "outputs" / "**"))
    assert {path.parents[3].name for path in found} == {"first", "parents"}
    assert len(found) == 2


def test_a_preset_with_a_morph_finds_the_parent_of_the_preset_without_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    arrays = {"images": generator.integers(256, size=(40, 32, 32, 3), dtype=np.uint8), "labels": np.arange(40) % 10}
    np.savez("cifar.npz", **{f"{split}_{key}": value for split in ("train", "test") for key, value in arrays.items()})
    short = ["data.path=cifar.npz", "schedule.steps=2", "optim.batch_size=20", "precision=float32"]
    for experiment in ("cifar10_resnet20", "cifar10_morph20_1c1"):
        monkeypatch.setattr("sys.argv", ["morphnet"])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        assert main(["train", f"experiment={experiment}", *short, "controls=[]"]) == 0
    assert "parent: trained already" in capsys.readouterr().out
    assert len(list(tmp_path.glob("outputs/parents/*"))) == 2
    (record,) = tmp_path.glob("outputs/cifar10_morph20_1c1/*/phases/0_parent/record.json")
    assert json.loads(record.read_text())["shared_parent"]["trained_by"]["experiment"] == "cifar10_resnet20"
