import time

from morphnet.train import progress
from morphnet.train.progress import Heartbeat, Progress


def _wait_for(capfd, text):
    said, deadline = "", time.monotonic() + 20
    while text not in said and time.monotonic() < deadline:
        time.sleep(0.02)
        said += capfd.readouterr().out
    return said


def test_a_silence_is_broken_by_a_line(capfd, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.2)
    with Heartbeat(lambda: "parent: evaluating"):
        assert "parent: evaluating\n" in _wait_for(capfd, "\n")
    time.sleep(0.3)
    capfd.readouterr()
    time.sleep(0.3)
    assert capfd.readouterr().out == ""


def test_a_process_that_does_not_speak_says_nothing(capfd, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.1)
    with Heartbeat(lambda: "parent: evaluating", speaks=False):
        time.sleep(0.4)
    assert capfd.readouterr().out == ""


def test_a_phase_says_what_it_is_at_where_no_loss_is_read(capfd, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.2)
    shown = Progress("parent", 100, 50)
    try:
        shown.doing = "compiling"
        assert "parent: compiling, step 0 of 100\n" in _wait_for(capfd, "\n")
        shown.doing = "training"
        for step in range(1, 11):
            shown.step(step)
        assert "parent: training, step 10 of 100, " in _wait_for(capfd, "step 10")
    finally:
        shown.close()
