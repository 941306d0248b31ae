"""Processes that stop together, each started by ``python stop_job.py FOLDER``; process k writes ``<k>.json``."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from morphnet.train.interruption import Interrupted, Interruption
from morphnet.train.ranks import Ranks, joined
from morphnet.train.stopping import StopVote


def votes(ranks: Ranks, every: int) -> tuple[int, int | None]:
    """The call in which this process learns what the second one hears before its seventh."""
    vote, call, found = StopVote(ranks, every), 0, None
    while found is None and call < 100:
        call += 1
        found = vote(signal.SIGTERM if ranks.index == 1 and call >= 7 else None)
    return call, found


def stops(ranks: Ranks, every: int, signalled: int, steps: int) -> tuple[int, int, str]:
    """The step after which this process leaves, the second one being signalled in step ``signalled``."""
    step = 0
    with Interruption(ranks) as stop:
        try:
            with stop.together(every):
                for step in range(1, steps + 1):
                    if ranks.index == 1 and step == signalled:
                        os.kill(os.getpid(), signal.SIGINT)
                    stop.look()
        except Interrupted as error:
            return step, error.signum, str(error)
    return step, 0, ""


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    handler, wakeup = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    with joined(torch.device("cpu")) as ranks:
        found: dict[str, object] = {"votes": [votes(ranks, 1), votes(ranks, 3)]}
        vote = StopVote(ranks, 3)
        found["not_heard"] = [vote(None) for _ in range(7)]
        found["settled"] = vote.settle(signal.SIGINT if ranks.index == 0 else None)
        found["finished"] = stops(ranks, 2, 0, 5)
        found["restored"] = (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)) == (handler, wakeup)
        found["stopped"] = [stops(ranks, 1, 5, 100), stops(ranks, 2, 5, 100), stops(ranks, 4, 5, 6)]
        os.kill(os.getpid(), signal.SIGTERM)  # by a launcher, since another process has left
        (folder / f"{ranks.index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
