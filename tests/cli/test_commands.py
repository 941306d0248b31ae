"""The commands on real digits, as a user types them."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from morphnet import load_network
from morphnet.cli import main
from morphnet.store import write_whole

SHORT = ["schedule.epochs=2", "trainer.evaluate_every=1"]


def _morphnet(*arguments, cwd):
    """A command in a process of its own, as a user starts it, which takes seconds; gives standard output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "morphnet", *arguments], cwd=cwd, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def run(capfd, monkeypatch):
    """Runs a command in this process, in the folder ``cwd``; gives exit code, standard output and standard error."""
    monkeypatch.setattr("sys.argv", ["morphnet"])

    def call(*arguments, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        capfd.readouterr()
        code = main(list(arguments))
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def output_of(run):
    """Runs a command that succeeds, in this process; gives standard output."""

    def call(*arguments, cwd):
        code, output, errors = run(*arguments, cwd=cwd)
        assert code == 0, output + errors
        return output

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two seeds of the main job, shortened, in one sweep."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["morphnet"])
        patch.setenv("HYDRA_FULL_ERROR", "0")
        assert main(["train", "-m", "seed=0,1", *SHORT]) == 0
    output = printed.getvalue()
    runs = sorted((folder / "outputs" / "digits").iterdir())
    assert len(runs) == 2
    return folder, runs, output


def test_a_sweep_prints_one_table_over_its_seeds(finished):
    _, _, output = finished
    table = output[output.index("experiment") :]
    assert "±" in table
    for name in ("parent", "1c1", "PReLU parent trained on"):
        assert f"digits        {name}" in table


def test_a_run_directory_holds_what_made_it(finished):
    _, runs, _ = finished
    run = runs[0]
    assert (run / "config.yaml").is_file()
    assert (run / "table.txt").is_file()
    phases = sorted(path.name for path in (run / "phases").iterdir())
    assert phases == ["0_parent", "1_1c1", "3_prelu_trained_on"]
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


def test_a_parent_gets_a_new_head_for_other_classes_and_is_trained_on(finished, run, output_of, tmp_path):
    _, runs, _ = finished
    generator = np.random.default_rng(0)
    arrays = {f"{part}_images": generator.integers(256, size=(40, 8, 8), dtype=np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "d.npz", **arrays, train_labels=np.arange(40) % 4, test_labels=np.arange(40) % 4)
    given = ["train", "-m", "data=arrays", "data.path=d.npz", f"parent={runs[0]}", "name=mine", "optim.batch_size=20"]
    given += ["schedule.epochs=1", "controls=[scratch_total]", "morphing.calibration_batches=2", "seed=0,1"]
    code, _, error = run(*given, cwd=tmp_path)
    assert (code, "give the data it was trained for, or new_head=true to morphnet train" in error) == (2, True)
    output_of(*given, "new_head=true", cwd=tmp_path)
    first, second = sorted(path.parent for path in (tmp_path / "outputs" / "mine").glob("*/config.yaml"))
    parent, child, scratch = (json.loads(p.read_text()) for p in sorted(first.glob("phases/*/record.json")))
    assert [r["steps"] for r in (parent, child, scratch)] == [2, 2, 4]
    assert [r["from_scratch"] for r in (parent, child, scratch)] == [False, False, True]
    assert parent["lineage"]["ancestors"][-1]["new_head"] == 4
    learned = load_file(runs[0] / "phases" / "1_1c1" / "network.safetensors")
    start = load_file(first / "phases" / "0_parent" / "start.safetensors")
    assert [name for name in start if start[name].shape != learned[name].shape] == ["linear.bias", "linear.weight"]
    assert torch.equal(start["layer1.0.conv1.weight"], learned["layer1.0.conv1.weight"])
    other = load_file(second / "phases" / "0_parent" / "start.safetensors")
    assert not torch.equal(other["linear.weight"], start["linear.weight"])
    rows = json.loads(output_of("report", "format=json", cwd=tmp_path))
    assert [row["seeds"] for row in rows] == [[0, 1]] * 3
    code, _, error = run("train", "new_head=true", cwd=tmp_path)
    assert (code, "new_head=true goes with parent=" in error) == (2, True)


def test_random_and_scratch_controls_are_the_child_without_what_was_learned(output_of, tmp_path):
    controls = "controls=[random,scratch,scratch_total]"
    output_of("train", *SHORT, "phases=[{morph: null},{morph: 1c1}]", controls, "hydra.run.dir=run", cwd=tmp_path)
    phases = tmp_path / "run" / "phases"
    names = ("0_parent", "1_1c1", "6_random", "7_scratch", "8_scratch_total")
    parent, child, random, scratch, total = (json.loads((phases / n / "record.json").read_text()) for n in names)
    assert child["macs"] == random["macs"] == scratch["macs"] == total["macs"]
    assert [r["steps"] for r in (child, random, scratch, total)] == [6, 6, 6, 12]
    assert [r["from_scratch"] for r in (parent, child, random, scratch, total)] == [True, False, False, True, True]
    assert random["start_loss"] != pytest.approx(parent["loss"], rel=1e-3)
    assert scratch["lineage"]["ancestors"] == []
    assert not (phases / "6_random" / "morph_report.json").exists()
    learned = load_file(phases / "0_parent" / "network.safetensors")
    starts = [load_file(phases / n / "start.safetensors") for n in names[1:]]
    for name, value in learned.items():
        if name.endswith("conv1.weight"):
            assert torch.equal(starts[0][name], value)
            assert torch.equal(starts[1][name], value)
            assert not torch.equal(starts[2][name], value)
    new = [name for name in starts[0] if ".branches." in name and name.endswith("conv1.weight")]
    assert len(new) == 3
    assert not any(torch.equal(starts[0][name], starts[1][name]) for name in new)
    assert all(torch.equal(starts[2][name], starts[3][name]) for name in new)
    assert not any(torch.equal(starts[0][name], starts[2][name]) for name in new)
    assert "done already" in output_of(
        "train", *SHORT, "phases=[{morph: null},{morph: 1c1}]", controls, "hydra.run.dir=run", cwd=tmp_path
    )


def test_a_report_writes_every_table_in_every_format_and_the_figures(finished, run, output_of, tmp_path):
    folder, _, _ = finished
    code, output, errors = run("report", "table=controls", f"output={tmp_path / 'report'}", cwd=folder)
    assert code == 0, errors
    assert "PReLU parent trained on" in output
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {f"{t}.{s}" for t in ("runs", "table1", "controls") for s in ("txt", "md", "csv", "tex", "json")} <= names
    assert {"curves_digits.png", "curves_digits.svg"} <= names
    code, output, errors = run("report", "table=2", "format=json", cwd=folder)
    assert json.loads(output)[0]["errors"] == []
    assert "none of these records is of a run of Table 2" in errors
    for wrong, message in (("output=x.csv", "a folder is needed"), ("format=html", "the page has every table")):
        code, _, errors = run("report", "table=2", wrong, cwd=folder)
        assert (code, message in errors) == (2, True)
    code, _, errors = run("report", "table=4", cwd=folder)
    assert code == 2
    assert "table='4'; expected one of runs, 1, 2, 3, controls" in errors


def test_a_damaged_record_is_left_out_and_named(finished, run, tmp_path):
    _, runs, _ = finished
    shutil.copytree(runs[0], tmp_path / "run", symlinks=True)
    path = tmp_path / "run" / "phases" / "3_prelu_trained_on" / "record.json"
    record = json.loads(path.read_text())
    for change, said in (
        ({"error": float("nan")}, "error=nan cannot be"),
        ({"error": 12.5}, "error=12.5 cannot be"),
        ({"macs": 0}, "macs=0 cannot be"),
        ({"seed": True}, "seed=True cannot be"),
        ({"data": {}}, "data.name is missing, data.train_images is missing, data.evaluated_on is missing"),
        ({"lineage": None}, "lineage=None cannot be"),
    ):
        path.write_text(json.dumps({**record, **change}))
        code, output, errors = run("report", "records=run", cwd=tmp_path)
        assert (code, said in errors, "1c1" in output) == (2, True, True), errors
    path.write_text("{")
    code, output, errors = run("report", "records=run", cwd=tmp_path)
    assert code == 2
    assert "1c1" in output
    assert "PReLU" not in output
    assert "left out, and the rest is above:\n  run/phases/3_prelu_trained_on/record.json is not a readable" in errors


def test_who_reads_no_further_is_not_told_of_a_broken_pipe(finished):
    folder, _, _ = finished
    command = f"{sys.executable} -m morphnet report | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_an_interrupt_that_comes_out_as_another_error_is_one(monkeypatch, capsys, tmp_path):
    from morphnet.cli import train

    def interrupted():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise RecursionError("in the middle of an import") from None

    monkeypatch.setattr(train, "main", interrupted)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "\nmorphnet: interrupted; the same command goes on\n"


def test_saved_networks_are_verified_against_their_records(finished, run, tmp_path):
    folder, runs, _ = finished
    code, output, errors = run("report", "verify=true", cwd=folder)
    assert code == 0, errors
    assert errors.count("as recorded") == 6
    assert "PReLU parent trained on" in output
    shutil.copytree(runs[0], tmp_path / "run", symlinks=True)
    path = tmp_path / "run" / "phases" / "1_1c1" / "record.json"
    record = json.loads(path.read_text())
    write_whole(path, json.dumps({**record, "errors": record["errors"] + 1}).encode())
    (tmp_path / "run" / "phases" / "3_prelu_trained_on" / "network.safetensors").unlink()
    code, _, errors = run("report", "records=run", "verify=true", cwd=tmp_path)
    assert code == 2
    assert "2 of 3 records could not be verified" in errors
    assert f"{record['errors']:,} errors of 1,497; recorded are {record['errors'] + 1:,} of 1,497" in errors


def test_records_are_collected_without_the_paths_of_the_machine(finished, run, tmp_path):
    _, runs, _ = finished
    shutil.copytree(runs[0], tmp_path / "run", symlinks=True)
    records = sorted((tmp_path / "run").glob("phases/*/record.json"))
    for path, dirty in zip(records, (False, False, True), strict=True):
        record = {**json.loads(path.read_text()), "commit": {"hash": "abc", "dirty": False}}
        record["stretches"] = [{**s, "commit": {"hash": "abc", "dirty": dirty}} for s in record["stretches"]]
        record["command"] = ["/opt/bin/morphnet", "train", "data.path=/data/mine.npz"]
        write_whole(path, json.dumps(record).encode())
    code, _, errors = run("report", "records=run", "collect=true", cwd=tmp_path)
    assert code == 2
    assert "1 record is of code that nobody could find again" in errors
    assert "uncommitted changes" in errors
    assert not (tmp_path / "results").exists()
    record["stretches"][0]["commit"]["dirty"] = False
    write_whole(records[2], json.dumps(record).encode())
    code, _, errors = run("report", "records=run", "collect=true", cwd=tmp_path)
    assert code == 0, errors
    kept = tmp_path / "results" / "records" / "digits" / "run"
    assert json.loads((kept / "phases/0_parent/record.json").read_text())["command"] == [
        "morphnet", "train", "data.path=mine.npz",
    ]  # fmt: skip
    assert (kept / "phases" / "1_1c1" / "morph_report.json").is_file()
    assert (kept / "config.yaml").is_file()
    for name in ("predictions.npy", "labels.npy"):
        assert (kept / "phases" / "1_1c1" / name).read_bytes() == records[1].with_name(name).read_bytes()
    code, output, _ = run("report", "records=results/records/**", "format=csv", cwd=tmp_path)
    assert len(output.splitlines()) == 4
    other = json.loads(records[0].read_text())
    other["lineage"]["network"] = "another"
    write_whole(records[0], json.dumps(other).encode())
    code, _, errors = run("report", "records=run", "collect=true", cwd=tmp_path)
    assert code == 2
    assert "is the record of another run than run/phases/0_parent/record.json" in errors


def test_tensorboard_gets_every_phase_on_one_step_axis(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, runs, _ = finished
    steps = {}
    for folder in sorted((runs[0] / "tensorboard").glob("phase*")):
        events = EventAccumulator(str(folder)).Reload()
        scalars = set(events.Tags()["scalars"])
        assert scalars >= {
            "train/loss", "train/error", "train/learning_rate", "train/images_per_second", "test/loss", "test/error",
            "by_phase/test_error", "norms/weights_new" if "1c1" in folder.name else "norms/weights",
        }  # fmt: skip
        assert ("slopes/layer1.1.shortcut.branches.0.act" in scalars) == ("1c1" in folder.name)
        assert [event.step for event in events.Scalars("by_phase/test_error")] == [0, 3, 6]
        steps[folder.name] = [event.step for event in events.Scalars("test/error")]
    assert steps == {
        "phase0_parent": [0, 3, 6],
        "phase1_1c1": [6, 9, 12],
        "phase3_prelu_trained_on": [6, 9, 12],
    }


def test_tensorboard_shows_a_run_over_http(finished):
    from tensorboard import program

    _, runs, _ = finished
    server = program.TensorBoard()
    server.configure(argv=["", "--logdir", str(runs[0] / "tensorboard"), "--port", "0", "--load_fast", "false"])
    url = server.launch()

    def read(path):
        with urllib.request.urlopen(f"{url}data/{path}", timeout=30) as answer:
            return json.loads(answer.read())

    deadline = time.monotonic() + 60
    while len(tags := read("plugin/scalars/tags")) < 4 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert set(tags) == {"phase0_parent", "phase1_1c1", "phase3_prelu_trained_on", "run"}
    errors = read("plugin/scalars/scalars?run=phase1_1c1&tag=test/error")
    record = json.loads((runs[0] / "phases" / "1_1c1" / "record.json").read_text())
    assert [step for _, step, _ in errors] == [6, 9, 12]
    assert errors[-1][2] == pytest.approx(record["error"], rel=1e-6)
    (category, *_) = read("plugin/custom_scalars/layout")["category"]
    assert [chart["title"] for chart in category["chart"]][:2] == ["test error", "training error"]
    texts = read("plugin/text/text?run=phase1_1c1&tag=morph/proof/text_summary")
    assert "float64, before the cast" in texts[0]["text"]
    assert "morph/module" in read("plugin/images/tags")["phase1_1c1"]
    assert {tag for tag in tags["run"] if tag.startswith("final/")} == {
        "final/error_parent", "final/error_child", "final/error_prelu_trained_on",
    }  # fmt: skip


def test_the_same_command_again_changes_nothing(finished, output_of):
    folder, runs, _ = finished
    files = {path: path.stat().st_mtime_ns for path in runs[0].glob("phases/**/*") if path.is_file()}
    assert "PReLU parent trained on" in output_of("train", "seed=0", *SHORT, cwd=folder)
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_other_settings_in_the_same_directory_are_refused(finished, run):
    folder, runs, _ = finished
    code, _, errors = run("train", "seed=0", "optim.lr=0.3", *SHORT, f"hydra.run.dir={runs[0]}", cwd=folder)
    assert code == 2
    assert "optim.lr: 0.1 there, 0.3 now" in errors


def test_a_finished_run_is_a_source_for_morph_and_eval(finished, output_of):
    folder, runs, _ = finished
    made = _morphnet("morph", f"parent={runs[0]}", "morph=1c1_2branch", "output=grown", cwd=folder)
    assert "3 shortcuts morphed" in made
    record = json.loads((runs[0] / "phases" / "1_1c1" / "record.json").read_text())
    found = json.loads(output_of("eval", "parent=grown", "data=digits", "format=json", cwd=folder))
    assert found["errors"] == record["errors"]
    grown = load_network(folder / "grown" / "network.safetensors")
    assert grown.metadata["morphs"] == ["1c1", "1c1_2branch"]
    assert len(grown.metadata["lineage"]) == 2
    text = output_of("eval", f"parent={runs[0]}", "predictions=found.npy", cwd=folder)
    phase = runs[0] / "phases" / "1_1c1"
    assert (folder / "found.npy").read_bytes() == (phase / "predictions.npy").read_bytes()
    wrong = np.load(phase / "predictions.npy") != np.load(phase / "labels.npy")
    assert wrong.sum() == record["errors"]
    assert f"{record['errors']:,} errors of 1,497" in text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("found.txt", "a file that ends in .npy is needed, such as predictions=grown.npy"),
        ("none/found.npy", "there is no folder none; make it, or give another file"),
        ("", "a file that ends in .npy is needed"),
    ],
)
def test_predictions_without_a_place_are_refused_before_anything_is_evaluated(run, tmp_path, given, said):
    code, _, errors = run("eval", "parent=nowhere", f"predictions={given}", cwd=tmp_path)
    assert code == 2
    assert errors.startswith(f"morphnet: error: predictions={given}: {said}")


def test_a_finished_run_is_a_parent_for_train(finished, output_of):
    folder, runs, _ = finished
    phases = "phases=[{morph:null},{morph:3c1}]"
    output = output_of("train", f"parent={runs[0]}", phases, *SHORT, cwd=folder)
    assert "given" in output
    assert "3c1" in output


def test_report_reads_the_records(finished, output_of):
    folder, _, _ = finished
    rows = json.loads(output_of("report", "records=outputs/digits/seed?-*", "format=json", cwd=folder))
    assert {row["network"] for row in rows} >= {"parent", "1c1", "PReLU parent trained on"}


def test_flops_with_json_prints_nothing_but_json(output_of, tmp_path):
    rows = json.loads(output_of("flops", "format=json", cwd=tmp_path))
    assert len(rows) == 24
    assert all(row["agrees"] for row in rows)
    assert not list(tmp_path.iterdir())


def test_a_failed_job_of_a_sweep_is_named_and_the_others_run(run, tmp_path):
    sweep = ["train", "-m", "optim.batch_size=50,0", "phases=[{morph:null}]", "controls=[]", *SHORT]
    code, _, errors = run(*sweep, cwd=tmp_path)
    assert code == 2
    assert "1 of 2 jobs failed" in errors
    assert "optim.batch_size=0" in errors
    assert len(list(tmp_path.glob("outputs/digits/*/phases/0_parent/record.json"))) == 1


def test_help_is_there_before_torch(tmp_path):
    code = "import sys; from morphnet.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "morphnet train" in done.stdout


#: Runs ``morphnet`` and dies while it puts its seventh checkpoint of the child in place.
DIES = """
import os, signal, sys

checkpoints = 0

def die(event, arguments):
    global checkpoints
    if event == "os.rename" and str(arguments[1]).endswith("/phases/1_1c1/checkpoint.pt"):
        checkpoints += 1
        if checkpoints == 7:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die)
from morphnet.cli import main
sys.exit(main(sys.argv[1:]))
"""
EVERY_STEP = ["trainer.evaluate_every=1", "trainer.checkpoint_seconds=0"]


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_a_phase_goes_on_to_the_same_network(output_of, tmp_path):
    command = ["train", "schedule.epochs=4", *EVERY_STEP]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    died = subprocess.run([sys.executable, "-c", DIES, *command, "hydra.run.dir=killed"], env=environment, cwd=tmp_path)
    assert died.returncode == -signal.SIGKILL
    assert "goes on at step 6" in _check_goes_on(command, output_of, tmp_path)


@pytest.mark.slow
def test_a_long_run_killed_at_some_moment_goes_on_to_the_same_network(output_of, tmp_path):
    command = ["train", "schedule.epochs=40", *EVERY_STEP]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "morphnet", *command, "hydra.run.dir=killed"], env=environment, cwd=tmp_path
    )
    checkpoint = tmp_path / "killed" / "phases" / "1_1c1" / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _check_goes_on(command, output_of, tmp_path)


def _check_goes_on(command, output_of, folder):
    """The run in ``killed`` goes on with ``command`` and ends where a whole one does; gives what it prints."""
    whole, killed = folder / "whole", folder / "killed"
    assert list((killed / "phases" / "1_1c1").glob("checkpoint*"))
    assert not (killed / "phases" / "1_1c1" / "record.json").exists()
    output = output_of(*command, "hydra.run.dir=killed", cwd=folder)
    assert "goes on at step" in output
    output_of(*command, "hydra.run.dir=whole", "output=elsewhere", cwd=folder)
    for phase in ("0_parent", "1_1c1", "3_prelu_trained_on"):
        first, second = (load_network(run / "phases" / phase / "network.safetensors") for run in (whole, killed))
        for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
            assert torch.equal(a, b), f"{phase}: {name}"
    record = json.loads((killed / "phases" / "1_1c1" / "record.json").read_text())
    assert record["resumed"] == 1
    return output
