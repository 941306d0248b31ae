import os
import signal
import time

import pytest

from morphnet.train import interruption
from morphnet.train.interruption import Interrupted, Interruption


def _hear(signum, then, waits):
    """Sends ``signum`` to this process, and calls ``then``; together or not."""
    with Interruption() as stop:
        if not waits:
            os.kill(os.getpid(), signum)
            then()
        with stop.together():
            os.kill(os.getpid(), signum)
            then()


def _wait():
    time.sleep(5)
    pytest.fail("the signal was not heard")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_end_of_what_is_done_together(signum):
    ended = []

    def then():
        os.kill(os.getpid(), signum)  # asked twice
        ended.append(True)

    with pytest.raises(Interrupted) as error:
        _hear(signum, then, waits=True)
    assert ended
    assert error.value.signum == signum


def test_elsewhere_it_is_at_once():
    with pytest.raises(Interrupted):
        _hear(signal.SIGTERM, _wait, waits=False)


def test_a_step_that_never_ends_is_left(monkeypatch):
    monkeypatch.setattr(interruption, "GRACE_SECONDS", 0.2)
    with pytest.raises(Interrupted, match="did not end"):
        _hear(signal.SIGTERM, _wait, waits=True)


def test_handlers_come_back():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before


def test_what_fails_because_all_were_asked_to_stop_is_no_error():
    with pytest.raises(Interrupted, match="division by zero"):
        _hear(signal.SIGTERM, lambda: 1 / 0, waits=True)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_what_goes_wrong_without_a_signal_is_what_is_raised():
    with Interruption() as stop, pytest.raises(ZeroDivisionError), stop.together():
        _ = 1 / 0


def test_who_asks_again_and_again_is_heard_at_once():
    def insist():
        for _ in range(interruption.PATIENCE):
            os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("nobody listened")

    with pytest.raises(Interrupted, match="at once"):
        _hear(signal.SIGINT, insist, waits=True)
