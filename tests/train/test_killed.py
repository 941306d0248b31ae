"""Runs that are killed, starved or shut out, as processes of their own; each ends as if nothing had happened."""

import ctypes
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

#: Three phases of a small network on digits, short enough to be run twenty times.
RUN = [
    "network.depth=14",
    "network.widths=[4,4,8]",
    "optim.batch_size=50",
    "schedule.epochs=null",
    "schedule.steps=90",
    "phases=[{morph: null},{morph: 1c1},{morph: 3c1}]",
    "controls=[]",
    "trainer.checkpoint_seconds=0.05",
    "trainer.threads=1",
    "device=cpu",
    "hydra.run.dir=run",
]


def _start(folder, *overrides, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "morphnet", "train", *RUN, *overrides],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        **settings,
    )


def _finish(folder, *overrides, **settings):
    process = _start(folder, *overrides, **settings)
    output, error = process.communicate(timeout=560)
    return process.returncode, output, error


def _result(folder):
    """Everything that has to be the same: weights, steps, predictions, and what the records say but for times."""
    found = {}
    for phase in sorted((folder / "run" / "phases").iterdir()):
        record = json.loads((phase / "record.json").read_text())
        history = [{k: v for k, v in e.items() if k != "images_per_second"} for e in record["history"]]
        start, end = (load_file(phase / name) for name in ("start.safetensors", "network.safetensors"))
        digests = (record["lineage"]["network"], record["outcomes"])
        found[phase.name] = (start, end, (phase / "steps.csv").read_text(), history, digests)
    return found


def _assert_same(one, two):
    assert one.keys() == two.keys()
    for phase, (*networks, steps, history, digests) in one.items():
        assert steps == two[phase][2], phase
        assert history == two[phase][3], phase
        assert digests == two[phase][4], phase
        for mine, other in zip(networks, two[phase][:2], strict=True):
            assert all(torch.equal(mine[name], other[name]) for name in mine), phase


#: Of a parent that is under way, in the folder a run was started in.
CHECKPOINT = "outputs/parents/*/checkpoint.pt"


def _wait_for(folder, pattern, process, seconds=120):
    until = time.monotonic() + seconds
    while not any(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, f"no {pattern} within {seconds} s"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_ends_with_the_same_bits(tmp_path):
    long = "schedule.steps=300"
    started = time.monotonic()
    process = _start(tmp_path / "whole", long)
    _wait_for(tmp_path / "whole", CHECKPOINT, process)
    beginning = time.monotonic() - started  # imports, data, the first steps
    process.communicate(timeout=560)
    assert process.returncode == 0
    whole = _result(tmp_path / "whole")
    moments, killed, left = random.Random(0), 0, 1
    while killed < 20 and left:
        process = _start(tmp_path / "killed", long)
        try:
            left = process.communicate(timeout=beginning * moments.uniform(0.6, 1.7))[0] is None
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
    code, output, error = _finish(tmp_path / "killed", long)
    assert code == 0, output + error
    assert killed >= 10  # a machine that is fast at the wrong moment is done before the twentieth
    _assert_same(whole, _result(tmp_path / "killed"))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_within_seconds_and_nothing_is_lost(tmp_path, signum):
    process = _start(tmp_path / "stopped", "schedule.steps=900")
    _wait_for(tmp_path / "stopped", CHECKPOINT, process)
    asked = time.monotonic()
    process.send_signal(signum)
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - asked < 10
    assert process.returncode == 128 + signum
    assert "a checkpoint is written; the same command goes on" in error
    assert "Traceback" not in error
    code, output, _ = _finish(tmp_path / "stopped", "schedule.steps=900")
    assert code == 0
    assert "parent: goes on at step" in output
    assert _finish(tmp_path / "whole", "schedule.steps=900")[0] == 0
    _assert_same(_result(tmp_path / "whole"), _result(tmp_path / "stopped"))


@pytest.mark.slow
def test_a_full_disk_stops_a_run_with_one_message_and_the_same_command_goes_on(tmp_path):
    assert _finish(tmp_path / "whole")[0] == 0
    sizes = [p.stat().st_size for p in (tmp_path / "whole" / "run").rglob("*") if p.is_file()]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) // 3, resource.RLIM_INFINITY))

    code, output, error = _finish(tmp_path / "full", preexec_fn=limit)
    assert code == 1, output + error
    assert "File too large: " in error
    assert "make room" in error
    assert "Traceback" not in error
    code, output, error = _finish(tmp_path / "full")
    assert code == 0, output + error
    _assert_same(_result(tmp_path / "whole"), _result(tmp_path / "full"))


#: Of the same run by two processes.
TWO = ["devices=2", "schedule.steps=300", "trainer.evaluate_every=10", "phases=[{morph: null},{morph: 1c1}]"]


@pytest.fixture(scope="module")
def whole_by_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert _finish(folder, *TWO)[0] == 0
    return _result(folder)


def _ask_the_launcher(process):
    process.send_signal(signal.SIGTERM)


def _press_ctrl_c(process):
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does


def _ask_one_worker(process):
    os.kill(_workers(process.pid)[1], signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize(("ask", "code"), [(_ask_the_launcher, 143), (_press_ctrl_c, 130), (_ask_one_worker, 143)])
def test_two_processes_stop_after_the_same_step_and_nothing_is_lost(tmp_path, whole_by_two, ask, code):
    process = _start(tmp_path, *TWO)
    _wait_for(tmp_path, CHECKPOINT, process)
    asked = time.monotonic()
    ask(process)
    output, error = process.communicate(timeout=60)
    assert time.monotonic() - asked < 10
    assert process.returncode == code, output + error
    assert "a checkpoint is written" in error
    assert "the same command goes on" in error
    assert "Traceback" not in error
    assert "start again" not in error
    stopped_at = int(re.search(r"parent: stopped at step ([\d,]+) of 300", error)[1].replace(",", ""))
    again, output, error = _finish(tmp_path, *TWO)
    assert again == 0, output + error
    assert f"parent: goes on at step {stopped_at} of 300" in output
    _assert_same(whole_by_two, _result(tmp_path))


@pytest.mark.slow
def test_a_process_that_waits_for_one_that_is_stuck_leaves_all_the_same(tmp_path):
    process = _start(tmp_path, *TWO)
    _wait_for(tmp_path, CHECKPOINT, process)
    workers = _workers(process.pid)
    os.kill(workers[1], signal.SIGSTOP)
    time.sleep(1)  # until the first one waits for it
    asked = time.monotonic()
    try:
        os.kill(workers[0], signal.SIGTERM)
        while b"morphnet" in _command(workers[0]) and time.monotonic() < asked + 60:
            time.sleep(0.1)
        left_after = time.monotonic() - asked
    finally:
        os.kill(workers[1], signal.SIGCONT)
    _, error = process.communicate(timeout=60)
    assert left_after < 15
    assert process.returncode == 143
    assert "rank 0 waits for another process and hears no signal; ended" in error
    assert "Traceback" not in error
    print(f"left after {left_after:.1f} s")


def _without_the_rights_of_root():
    """Root may write anywhere; a process that gives this capability (CAP_DAC_OVERRIDE) up may not."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP


def test_a_directory_that_cannot_be_written_is_one_message(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        code, output, error = _finish(folder, preexec_fn=_without_the_rights_of_root)
    finally:
        folder.chmod(0o755)
    assert code == 1, output + error
    assert "Permission denied: " in error
    assert "Traceback" not in error
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_three_processes_of_which_one_is_killed_go_on_to_the_same_bits(tmp_path):
    three = ["devices=3", "optim.batch_size=60", "schedule.steps=400", "phases=[{morph: null},{morph: 1c1}]"]
    process = _start(tmp_path / "killed", *three)
    _wait_for(tmp_path / "killed", CHECKPOINT, process)
    os.kill(_workers(process.pid)[1], signal.SIGKILL)
    killed = time.monotonic()
    for line in process.stdout:
        if "goes on at step" in line:
            break
    back = time.monotonic() - killed
    output, error = process.communicate(timeout=500)
    assert process.returncode == 0, output + error
    assert "rank 1 was killed by SIGKILL; all ranks start again (1 of at most 3)" in error
    assert back < 60  # two processes on two free cores: see docs/training.md
    print(f"back in training after {back:.1f} s")
    assert _finish(tmp_path / "whole", *three)[0] == 0
    _assert_same(_result(tmp_path / "whole"), _result(tmp_path / "killed"))
    record = json.loads((tmp_path / "killed/run/phases/0_parent/record.json").read_text())
    assert (record["processes"], record["resumed"]) == (3, 1)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_launcher(tmp_path, signum):
    two = ["devices=2", "schedule.steps=2000", "phases=[{morph: null}]"]
    process = _start(tmp_path, *two)
    _wait_for(tmp_path, CHECKPOINT, process)
    workers = _workers(process.pid).values()
    asked = time.monotonic()
    process.send_signal(signum)
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - asked < 20
    assert process.returncode == (143 if signum == signal.SIGTERM else -9)
    assert ("a checkpoint is written" in error) == (signum == signal.SIGTERM)
    until = time.monotonic() + 5
    while any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(b"morphnet" in _command(worker) for worker in workers)


@pytest.mark.slow
def test_what_is_wrong_with_the_input_is_said_once_by_two_processes(tmp_path):
    code, output, error = _finish(tmp_path, "devices=2", "optim.batch_size=51")
    assert code == 2, output + error
    assert "optim.batch_size=51 is the batch over all processes, and does not divide by 2" in error
    assert "start again" not in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_directory_that_two_processes_are_refused_is_left_as_it_was(tmp_path):
    short = ["devices=2", "schedule.steps=12", "phases=[{morph: null}]"]
    code, output, error = _finish(tmp_path, *short)
    assert code == 0, output + error
    status, inputs = (tmp_path / "run" / name for name in ("status.json", "inputs.json"))
    assert json.loads(status.read_text())["state"] == "done"
    inputs.write_text(json.dumps({**json.loads(inputs.read_text()), "data": "other"}))
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "failed"}))
    before = status.read_bytes()
    code, output, error = _finish(tmp_path, *short)
    assert code == 2, output + error
    assert "was begun with other content of the data" in error
    assert status.read_bytes() == before


def _workers(parent):
    """The process ids of the workers that ``parent`` started, by their rank."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=True)
    found = {}
    for child in listed.stdout.split():
        values = dict(v.split(b"=", 1) for v in Path(f"/proc/{child}/environ").read_bytes().split(b"\0") if b"=" in v)
        if b"LOCAL_RANK" in values:
            found[int(values[b"RANK"])] = int(child)
    return found


def _command(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""
