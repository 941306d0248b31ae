"""The commands on real digits, as a user types them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from morphnet import load_network

SHORT = ["schedule.epochs=2", "trainer.evaluate_every=1"]


def _morphnet(*arguments, cwd, check=True):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "morphnet", *arguments], cwd=cwd, capture_output=True, text=True, env=environment
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two seeds of the main job, shortened, in one sweep."""
    folder = tmp_path_factory.mktemp("run")
    done = _morphnet("train", "-m", "seed=0,1", *SHORT, cwd=folder)
    runs = sorted((folder / "outputs" / "digits").iterdir())
    assert len(runs) == 2
    return folder, runs, done.stdout


def test_a_sweep_prints_one_table_over_its_seeds(finished):
    _, _, output = finished
    table = output[output.index("experiment") :]
    assert "±" in table
    for name in ("parent", "1c1", "PReLU parent trained on"):
        assert f"digits      {name}" in table


def test_a_run_directory_holds_what_made_it(finished):
    _, runs, _ = finished
    run = runs[0]
    assert (run / "config.yaml").is_file()
    assert (run / "table.txt").is_file()
    phases = sorted(path.name for path in (run / "phases").iterdir())
    assert phases == ["0_parent", "1_1c1", "2_prelu_trained_on"]
    records = [json.loads((run / "phases" / name / "record.json").read_text()) for name in phases]
    parent, child, control = records
    assert not list(run.glob("**/checkpoint.pt"))
    for record in records:
        measured = ("error", "loss", "train_error", "train_loss", "lr", "images_per_second", "seconds")
        for key in (*measured, "macs", "parameters", "seed", "versions", "hardware", "lineage", "command"):
            assert record[key] is not None, key
        assert "commit" in record
        assert record["steps"] == 6
    assert child["lineage"]["ancestors"] == [{"phase": "parent", "network": parent["lineage"]["network"]}]
    assert child["start_error"] == parent["error"] == control["start_error"]
    assert child["macs"] > parent["macs"] == control["macs"]
    proof = json.loads((run / "phases" / "1_1c1" / "morph_report.json").read_text())["proof"]
    assert proof["exactness"]["relative"] < 1e-10
    network = load_network(run / "phases" / "1_1c1" / "network.safetensors")
    assert network.metadata["input_size"] == [1, 8, 8]


def test_tensorboard_gets_every_phase_on_one_step_axis(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, runs, _ = finished
    steps = {}
    for folder in sorted((runs[0] / "tensorboard").iterdir()):
        events = EventAccumulator(str(folder)).Reload()
        assert set(events.Tags()["scalars"]) == {
            "train/loss", "train/error", "train/learning_rate", "train/images_per_second", "test/loss", "test/error",
        }  # fmt: skip
        steps[folder.name] = [event.step for event in events.Scalars("test/error")]
    assert steps == {
        "phase0_parent": [0, 3, 6],
        "phase1_1c1": [6, 9, 12],
        "phase2_prelu_trained_on": [6, 9, 12],
    }


def test_the_same_command_again_changes_nothing(finished):
    folder, runs, _ = finished
    files = {path: path.stat().st_mtime_ns for path in runs[0].glob("phases/**/*") if path.is_file()}
    again = _morphnet("train", "seed=0", *SHORT, cwd=folder)
    assert "PReLU parent trained on" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_other_settings_in_the_same_directory_are_refused(finished):
    folder, runs, _ = finished
    done = _morphnet("train", "seed=0", "optim.lr=0.3", *SHORT, f"hydra.run.dir={runs[0]}", cwd=folder, check=False)
    assert done.returncode == 2
    assert "optim.lr: 0.1 there, 0.3 now" in done.stderr


def test_a_finished_run_is_a_source_for_morph_and_eval(finished):
    folder, runs, _ = finished
    made = _morphnet("morph", f"parent={runs[0]}", "morph=1c1_2branch", "output=grown", cwd=folder)
    assert "3 shortcuts morphed" in made.stdout
    record = json.loads((runs[0] / "phases" / "1_1c1" / "record.json").read_text())
    found = json.loads(_morphnet("eval", "parent=grown", "data=digits", "format=json", cwd=folder).stdout)
    assert found["errors"] == record["errors"]
    grown = load_network(folder / "grown" / "network.safetensors")
    assert grown.metadata["morphs"] == ["1c1", "1c1_2branch"]
    assert len(grown.metadata["lineage"]) == 2
    text = _morphnet("eval", f"parent={runs[0]}", cwd=folder).stdout
    assert f"{record['errors']:,} errors of 1,497" in text


def test_a_finished_run_is_a_parent_for_train(finished):
    folder, runs, _ = finished
    phases = "phases=[{morph:null},{morph:3c1}]"
    done = _morphnet("train", f"parent={runs[0]}", phases, *SHORT, cwd=folder)
    assert "given" in done.stdout
    assert "3c1" in done.stdout


def test_report_reads_the_records(finished):
    folder, _, _ = finished
    rows = json.loads(_morphnet("report", "records=outputs/digits/seed?-*", "format=json", cwd=folder).stdout)
    assert {row["network"] for row in rows} >= {"parent", "1c1", "PReLU parent trained on"}


def test_flops_with_json_prints_nothing_but_json(tmp_path):
    rows = json.loads(_morphnet("flops", "format=json", cwd=tmp_path).stdout)
    assert len(rows) == 24
    assert all(row["agrees"] for row in rows)
    assert not list(tmp_path.iterdir())


def test_a_failed_job_of_a_sweep_is_named_and_the_others_run(tmp_path):
    done = _morphnet(
        "train",
        "-m",
        "optim.batch_size=50,0",
        "phases=[{morph:null}]",
        "controls=[]",
        *SHORT,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert "1 of 2 jobs failed" in done.stderr
    assert "optim.batch_size=0" in done.stderr
    assert len(list(tmp_path.glob("outputs/digits/*/phases/0_parent/record.json"))) == 1


def test_help_is_there_before_torch(tmp_path):
    code = "import sys; from morphnet.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "morphnet train" in done.stdout


def test_a_run_killed_in_the_middle_of_a_phase_goes_on_to_the_same_network(tmp_path):
    command = ["train", "schedule.epochs=40", "trainer.evaluate_every=1", "trainer.checkpoint_seconds=0"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "morphnet", *command, f"hydra.run.dir={killed}"], env=environment, cwd=tmp_path
    )
    checkpoint = killed / "phases" / "1_1c1" / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert not (killed / "phases" / "1_1c1" / "record.json").exists()
    done = _morphnet(*command, f"hydra.run.dir={killed}", cwd=tmp_path)
    assert "goes on at step" in done.stdout
    _morphnet(*command, f"hydra.run.dir={whole}", "output=elsewhere", cwd=tmp_path)
    for phase in ("0_parent", "1_1c1", "2_prelu_trained_on"):
        first, second = (load_network(run / "phases" / phase / "network.safetensors") for run in (whole, killed))
        for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
            assert torch.equal(a, b), f"{phase}: {name}"
    record = json.loads((killed / "phases" / "1_1c1" / "record.json").read_text())
    assert record["resumed"] == 1
