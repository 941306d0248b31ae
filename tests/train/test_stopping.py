import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

JOB = Path(__file__).with_name("stop_job.py")

#: The main thread waits where no handler of a signal runs: for a lock of the C library that is never released.
STUCK = """
import ctypes, os, signal, sys
from morphnet.train import interruption, stopping
from morphnet.train.ranks import Ranks

def wait_for_ever():
    lock, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    libc.pthread_mutex_lock(lock)
    print("waiting", flush=True)
    libc.pthread_mutex_lock(lock)

stopping.DEAF_SECONDS, interruption.GRACE_SECONDS, interruption.SECONDS_TO_LEAVE = 1.0, 1.5, 0.5
with interruption.Interruption(Ranks(0, 2)) as stop, stop.shield():
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


@pytest.mark.parametrize(("heard", "what"), [("unheard", "hears no signal"), ("heard", "does not leave")])
def test_a_process_that_is_stuck_is_ended(heard, what):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, heard], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "waiting\n"
    started = time.monotonic()
    if heard == "unheard":
        process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - started < 10
    assert error == f"morphnet: rank 0 waits for another process and {what}; ended, the last checkpoint stays\n"
