"""A run that is stopped in one place and continued in another one, as processes of their own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np

from morphnet.cli.train import _stopped_after

LONG = [
    "schedule.epochs=null",
    "schedule.steps=1000000",
    "phases=[{morph: null}]",
    "trainer.compile=false",
    "optim.batch_size=20",
]
CHECKPOINT = "outputs/parents/*/checkpoint.pt"


def _start(cwd, *overrides):
    return subprocess.Popen(
        [sys.executable, "-m", "morphnet", "train", "data=arrays", "data.name=noise", *LONG, *overrides],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _stopped(cwd, *overrides):
    """What a run says that is stopped once it has written a new checkpoint."""
    before = _checkpoints(cwd)
    process = _start(cwd, "trainer.checkpoint_seconds=0.05", *overrides)
    while _checkpoints(cwd) <= before and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "; a checkpoint is written" in errors
    return output


def _checkpoints(cwd):
    """When the checkpoint there was written."""
    with contextlib.suppress(FileNotFoundError):  # between two of them
        return {path.stat().st_mtime_ns for path in cwd.glob(CHECKPOINT)}
    return set()


def _noise(path, seed):
    generator = np.random.default_rng(seed)
    arrays = {"images": generator.integers(256, size=(60, 8, 8, 1), dtype=np.uint8), "labels": np.arange(60) % 3}
    np.savez(path, **{f"{split}_{key}": value for split in ("train", "test") for key, value in arrays.items()})


def test_a_run_goes_on_elsewhere(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    _noise(here / "noise.npz", 0)
    _stopped(here, "data.path=noise.npz", "controls=[]", "trainer.threads=1")
    shutil.copytree(here / "outputs", there / "outputs", symlinks=True)
    _noise(there / "images.npz", 0)
    arithmetic = ["device=cpu", "trainer.threads=2", "trainer.evaluate_every=1000", "trainer.watch_steps=5"]
    output = _stopped(there, "data.path=images.npz", "controls=[]", *arithmetic)
    assert "parent: goes on at step" in output
    assert "parent: other arithmetic from here on: " in output
    assert len(list((there / "outputs").glob("digits/seed0*"))) == 1
    _noise(there / "images.npz", 1)
    process = _start(there, "data.path=images.npz", "controls=[]")
    assert "begun with other content of the data" in process.communicate(timeout=120)[1]
    assert process.returncode == 2


def test_a_run_that_is_done_is_not_done_for_other_data(tmp_path):
    for name, seed in (("a.npz", 0), ("b.npz", 0), ("c.npz", 1)):
        _noise(tmp_path / name, seed)
    short = ["controls=[]", "schedule.steps=2"]
    assert "done already" not in _finished(tmp_path, "data.path=a.npz", *short)
    assert "done already" in _finished(tmp_path, "data.path=a.npz", *short)
    assert "trained already" not in _finished(tmp_path, "data.path=b.npz", *short)
    process = _start(tmp_path, "data.path=c.npz", *short)
    assert "begun with other content of the data" in process.communicate(timeout=120)[1]
    assert process.returncode == 2


def _finished(cwd, *overrides):
    process = _start(cwd, *overrides)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def test_a_command_is_stopped_in_time(monkeypatch):
    heard = []
    monkeypatch.setattr("morphnet.cli.train.STARTED", time.monotonic() - 99.8)
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(time.monotonic()))
    try:
        with _stopped_after(1000):
            time.sleep(0.4)
        assert not heard
        with _stopped_after(100):
            time.sleep(0.6)
        assert len(heard) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
