import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

JOB = Path(__file__).with_name("stop_job.py")

#: The main thread waits in the C library, where no handler of a signal runs; the word comes when it is there already.
STUCK = """
import ctypes, os, signal, sys
from morphnet.train import interruption, stopping
from morphnet.train.ranks import Ranks

def wait_for_ever():
    ctypes.CDLL(None).system(b"echo waiting; exec cat >/dev/null 2>&1")

stopping.DEAF_SECONDS, interruption.GRACE_SECONDS, interruption.SECONDS_TO_LEAVE = 1.0, 1.5, 0.5
with interruption.Interruption(Ranks(0, 2)) as stop, stop.together():
    if sys.argv[1] == "heard":
        os.kill(os.getpid(), signal.SIGTERM)
    wait_for_ever()
"""


def test_a_signal_to_one_process_stops_both_after_the_same_step(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(JOB), str(tmp_path)], env=os.environ | where | {"RANK": str(k), "LOCAL_RANK": str(k)}
        )
        for k in range(2)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    first, second = (json.loads((tmp_path / f"{k}.json").read_text()) for k in range(2))
    assert first == second
    assert first["votes"] == [[7, signal.SIGTERM], [12, signal.SIGTERM]]  # said in call 9, read in call 12
    assert first["not_heard"] == [None] * 7
    assert first["settled"] == signal.SIGINT
    assert first["finished"] == [5, 0, ""]
    assert first["restored"]
    assert first["stopped"] == [[5, signal.SIGINT, ""], [8, signal.SIGINT, ""], [6, signal.SIGINT, ""]]


def test_processes_that_are_stuck_are_ended():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        subprocess.Popen([sys.executable, "-c", STUCK, "unheard"], text=True, **pipes) as unheard,
        subprocess.Popen([sys.executable, "-c", STUCK, "heard"], text=True, **pipes) as heard,
    ):
        assert heard.stdout.readline() == unheard.stdout.readline() == "waiting\n"
        started = time.monotonic()
        unheard.send_signal(signal.SIGTERM)
        for process, what in ((unheard, "hears no signal"), (heard, "does not leave")):
            assert process.wait(timeout=60) == 128 + signal.SIGTERM
            assert time.monotonic() - started < 10
            error = process.stderr.read()
            assert error == f"morphnet: rank 0 waits for another process and {what}; ended, the last checkpoint stays\n"
