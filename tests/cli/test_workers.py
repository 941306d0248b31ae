import pytest

from morphnet.cli.workers import LOST, judge


@pytest.mark.parametrize(
    ("codes", "what", "code"),
    [
        ({}, "", None),
        ({1: -9}, "rank 1 was killed by SIGKILL", LOST),
        ({0: LOST, 1: -9}, "rank 1 was killed by SIGKILL", LOST),
        ({0: 143, 1: -9}, "rank 1 was killed by SIGKILL", LOST),  # the agent stopped rank 0
        ({0: -15, 1: -11}, "rank 1 was killed by SIGSEGV", LOST),
        ({0: 143, 1: 2}, "rank 1", 2),
        ({0: -15, 1: 1}, "rank 1", 1),
        ({0: 3, 1: LOST}, "rank 0", 3),
        ({0: 1, 1: -9}, "rank 0", 1),
        ({0: 143, 1: 143}, "a worker was stopped", 143),
        ({0: 130}, "a worker was stopped", 130),
        ({0: LOST, 1: -15}, "a worker was stopped", 143),
        ({0: LOST, 1: LOST}, "the processes have lost each other", LOST),
    ],
)
def test_what_exit_codes_of_workers_come_to(codes, what, code):
    assert judge(codes) == (what, code)
