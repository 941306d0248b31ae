"""Sweeps by every launcher: one table, every failure, and what is done is skipped."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from morphnet.cli import main
from morphnet.cli.compose import read_yaml
from morphnet.cli.errors import SweepError
from morphnet.cli.status import LOCK, RunStatus, finished_records, write_status
from morphnet.cli.sweep import _Sweep, device_of_job
from morphnet.store import one_at_a_time

SHORT = ["phases=[{morph:null}]", "controls=[]", "network.depth=8", "network.widths=[4,4,4]"]
TWO_JOBS = ["-m", "optim.batch_size=50,0", "schedule.epochs=1", *SHORT]


def _launcher(name):
    missing = importlib.util.find_spec(f"hydra_plugins.hydra_{name}_launcher") is None
    return pytest.mark.skipif(missing, reason=f"hydra-{name}-launcher is not installed: pip install '.[sweep]'")


joblib, submitit = _launcher("joblib"), _launcher("submitit")


@pytest.fixture
def train(capsys, monkeypatch, tmp_path):
    """Runs ``morphnet train`` in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides):
        monkeypatch.setattr("sys.argv", ["morphnet"])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        code = main(["train", *overrides])
        return code, *capsys.readouterr()

    return call


def _process(folder, *overrides, **settings):
    return subprocess.Popen(
        [sys.executable, "-m", "morphnet", "train", *overrides],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **settings,
    )


def _check_two_jobs(code, output, error):
    assert code == 2, output + error
    assert "1 of 2 jobs failed" in error
    assert "optim.batch_size=0: digits has 300 training images" in error
    assert "digits        parent           1" in output


def _check_no_traces(folder):
    assert not list(folder.glob("outputs/.sweep-*"))
    states = sorted(json.loads(path.read_text())["state"] for path in folder.glob("outputs/*/*/status.json"))
    assert states == ["done", "failed"]


def _check_again(train, folder):
    (record,) = folder.glob("outputs/digits/*/phases/0_parent/record.json")
    written = record.stat().st_mtime_ns
    code, output, error = train(*TWO_JOBS)
    _check_two_jobs(code, output, error)
    assert f"{record.parents[2].relative_to(folder)}: done already" in output
    assert "parent: step" not in output
    assert record.stat().st_mtime_ns == written
    _check_no_traces(folder)


def test_jobs_in_turn_are_listed_and_skipped_when_they_are_done(train, tmp_path):
    _check_two_jobs(*train(*TWO_JOBS))
    _check_no_traces(tmp_path)
    _check_again(train, tmp_path)


@joblib
@pytest.mark.slow
def test_jobs_in_parallel_processes_are_listed_and_skipped_when_they_are_done(train, tmp_path):
    process = _process(tmp_path, *TWO_JOBS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    output, error = process.communicate()
    _check_two_jobs(process.returncode, output, error)
    _check_no_traces(tmp_path)
    (record,) = tmp_path.glob("outputs/digits/*/phases/0_parent/record.json")
    assert f"\ndigits/{record.parents[2].name}: parent: step 6 of 6" in output
    command = json.loads(record.read_text())["command"]
    assert command[:4] == ["morphnet", "train", "-m", "optim.batch_size=50,0"]
    _check_again(train, tmp_path)


@submitit
@pytest.mark.slow
def test_jobs_of_submitit_are_listed_and_skipped_when_they_are_done(train, tmp_path):
    for again in (False, True):
        process = _process(tmp_path, *TWO_JOBS, "hydra/launcher=submitit_local")
        output, error = process.communicate()
        _check_two_jobs(process.returncode, output, error)
        _check_no_traces(tmp_path)
        logs = "".join(path.read_text() for path in tmp_path.glob("outputs/.submitit/**/*_log.out"))
        assert ("done already" in logs) == again
    _check_again(train, tmp_path)


@pytest.fixture
def start(tmp_path):
    """Starts ``morphnet train`` in a session of its own, all of which ends with the test."""
    begun = []

    def call(*overrides):
        begun.append(_process(tmp_path, *overrides, start_new_session=True))
        return begun[-1]

    yield call
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _kill_when_running(folder, epochs):
    """Kills the job of so many epochs outright, the first of ``epochs``, once all of them are running."""
    deadline = time.monotonic() + 300
    pids = {}
    while pids.keys() != set(epochs):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        for path in folder.glob("outputs/digits/*/status.json"):
            status, config = json.loads(path.read_text()), read_yaml(path.with_name("config.yaml"))
            if status["state"] == "running":
                pids[config["schedule"]["epochs"]] = status["pid"]
    os.kill(pids[epochs[0]], signal.SIGKILL)


@joblib
@pytest.mark.slow
def test_a_worker_that_is_killed_hides_nothing(start, tmp_path):
    jobs = ["-m", "schedule.epochs=1,3000,3001,3002", *SHORT]
    process = start(*jobs, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = tmp_path / "outputs" / "digits"
    while not any(json.loads(path.read_text())["state"] == "done" for path in done.glob("*/status.json")):
        assert process.poll() is None
        time.sleep(0.1)
    _kill_when_running(tmp_path, [3000, 3001])
    output, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "digits        parent           1" in output
    assert "3 of 4 jobs failed" in error
    assert error.count("ended without a message") == 2
    assert "job 3 (schedule.epochs=3002" in error
    assert "never began" in error
    assert not list(tmp_path.glob("outputs/.sweep-*"))
    states = sorted(json.loads(path.read_text())["state"] for path in tmp_path.glob("outputs/*/*/status.json"))
    assert states == ["done", "failed", "failed"]


@submitit
@pytest.mark.slow
def test_the_other_jobs_of_submitit_end_although_one_is_killed(start, tmp_path):
    process = start("-m", "schedule.epochs=3000,300", *SHORT, "hydra/launcher=submitit_local")
    _kill_when_running(tmp_path, [3000, 300])
    output, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "digits        parent           1" in output
    assert "1 of 2 jobs failed" in error
    assert error.count("ended without a message") == 1


def test_every_job_that_failed_was_killed_or_never_began_is_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = _Sweep(lambda *_: [], ["morphnet train"])
    sweep.folder, sweep.asked, sweep.launcher = tmp_path / "entries", [["seed=0"], ["seed=1"], ["seed=2"]], "joblib"
    sweep.folder.mkdir()
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        status = RunStatus(tmp_path / str(number), sweep.folder / f"{number}.json")
        status.begin()
    status.failed(ValueError("wrong"))
    sweep.settle()
    with pytest.raises(SweepError, match="3 of 3 jobs failed") as caught:
        sweep.report(RuntimeError("a worker was killed\nmore"))
    assert caught.value.exit_code == 2
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("  0: ended without a message")
    assert lines[2:] == ["  1: wrong", "  job 2 (seed=2): never began", "the launcher said: a worker was killed"]
    assert json.loads((tmp_path / "0" / "status.json").read_text())["state"] == "failed"


def test_a_job_that_is_at_work_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("morphnet.cli.sweep.LOOK_SECONDS", 0.01)
    sweep = _Sweep(lambda *_: [], ["morphnet train"])
    sweep.folder, sweep.asked, sweep.launcher = tmp_path / "entries", [["seed=0"]], "joblib"
    sweep.folder.mkdir()
    RunStatus(tmp_path, sweep.folder / "0.json")
    looks = []

    def held(path):
        looks.append(path)
        return len(looks) < 5

    monkeypatch.setattr("morphnet.cli.sweep.is_held", held)
    sweep.settle()
    assert looks == [tmp_path / LOCK] * 6


def test_a_refused_run_leaves_the_status_of_the_run_that_is_there(train, tmp_path):
    run = [*SHORT, "schedule.epochs=1", "hydra.run.dir=run"]
    assert train(*run)[0] == 0
    before = (tmp_path / "run" / "status.json").read_text()
    assert json.loads(before)["state"] == "done"
    code, _, error = train(*run, "optim.lr=0.3")
    assert code == 2
    assert "holds a run with other settings" in error
    assert (tmp_path / "run" / "status.json").read_text() == before
    assert len(finished_records(tmp_path / "run")) == 1


def test_a_run_that_is_done_is_skipped_before_its_data_is_loaded(train, tmp_path, monkeypatch):
    run = [*SHORT, "schedule.epochs=1"]
    assert train(*run)[0] == 0

    def unexpected(*_, **__):
        raise AssertionError("data is loaded")

    monkeypatch.setattr("morphnet.cli.prepare.load_data", unexpected)
    code, output, _ = train(*run)
    assert code == 0
    assert "done already" in output
    assert "digits        parent           1" in output
    (record,) = tmp_path.glob("outputs/digits/*/phases/0_parent/record.json")
    record.unlink()
    assert train(*run)[0] == 1


def test_an_interrupted_run_says_so_in_its_status(train, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("morphnet.train.run.run_phase", interrupted)
    assert train(*SHORT, "schedule.epochs=1")[0] == 130
    (status,) = tmp_path.glob("outputs/digits/*/status.json")
    found = json.loads(status.read_text())
    assert (found["state"], found["exit_code"]) == ("stopped", 130)
    assert "goes on from the last checkpoint" in found["message"]


def test_an_unexpected_error_leaves_its_traceback(train, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr("morphnet.train.run.run_phase", broken)
    code, _, error = train("-m", "seed=0,1", *SHORT, "schedule.epochs=1")
    assert code == 1
    assert error.count("RuntimeError: broken") == 2
    for path in tmp_path.glob("outputs/digits/*/status.json"):
        assert "in broken" in "".join(json.loads(path.read_text())["traceback"])


def test_a_run_directory_that_cannot_be_written_is_a_failure_of_its_job_alone(train, tmp_path):
    names = [f"outputs/digits/seed{seed}" for seed in (0, 1)]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / names[0] / LOCK).mkdir()  # nobody can take this lock
    subdir = "hydra.sweep.subdir=digits/seed${seed}"
    code, output, error = train("-m", "seed=0,1", *SHORT, "schedule.epochs=1", subdir)
    assert code == 1, output + error
    assert "1 of 2 jobs failed" in error
    assert f"  {names[0]}: " in error
    assert "ended without a message" not in error
    assert "digits        parent           1" in output


def test_of_two_runs_in_one_directory_the_second_is_refused(train, tmp_path):
    run = [*SHORT, "schedule.epochs=1", "hydra.run.dir=run"]
    with one_at_a_time(tmp_path / "run" / LOCK, ""):
        code, output, error = train(*run)
    assert code == 2, output + error
    assert "run: another process is at work there; wait for it or stop it" in error
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    assert train(*run)[0] == 0
    assert "run: done already" in train(*run)[1]


def test_a_status_that_cannot_be_read_is_none(tmp_path):
    for content in ("", "{", "[]", "{}"):
        (tmp_path / "status.json").write_text(content)
        assert finished_records(tmp_path) is None
    write_status(tmp_path / "status.json", {"state": "done", "phases": ["0_parent"]})
    assert finished_records(tmp_path) is None


@pytest.mark.parametrize(
    ("device", "launcher", "job", "gpus", "expected"),
    [
        ("auto", "joblib", 0, 2, "cuda:0"),
        ("auto", "joblib", 5, 4, "cuda:1"),
        ("cuda", "submitit_local", 3, 2, "cuda:1"),
        ("auto", "joblib", 3, 1, "auto"),
        ("auto", "joblib", 3, 0, "auto"),
        ("cpu", "joblib", 3, 4, "cpu"),
        ("cuda:2", "joblib", 3, 4, "cuda:2"),
        ("auto", "submitit_slurm", 3, 4, "auto"),
        ("auto", "basic", 3, 4, "auto"),
        ("auto", "joblib", None, 4, "auto"),
    ],
)
def test_jobs_in_parallel_take_the_gpus_in_turn(device, launcher, job, gpus, expected):
    assert device_of_job(device, launcher, job, gpus) == expected


def test_what_a_sweep_was_asked_for_is_known_before_it_begins(train, monkeypatch):
    asked = []
    begin = _Sweep.begin

    def note(self, config):
        begin(self, config)
        asked.append(self.asked)

    monkeypatch.setattr(_Sweep, "begin", note)
    code, _, _ = train(
        "-m", "seed=range(0,2)", "experiment=glob(digit*)", "optim.lr=-1,-2", "schedule.epochs=1", *SHORT
    )
    assert code == 2
    ((*jobs,),) = asked
    assert [job[:4] for job in jobs] == [
        [f"seed={seed}", "experiment=digits", f"optim.lr={lr}", "schedule.epochs=1"]
        for seed in (0, 1)
        for lr in (-1, -2)
    ]
    assert Path("outputs").is_dir()


@pytest.mark.slow
def test_a_signal_during_the_estimate_leaves_nothing_behind(tmp_path):
    process = _process(tmp_path, "-m", "seed=0,1", "dry_run=true", stdin=subprocess.DEVNULL)
    assert process.stdout.readline().startswith("how long 2 jobs will take here")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert not list(tmp_path.rglob("*"))
