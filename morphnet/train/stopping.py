"""How several processes that train together stop: after the same step, and although one of them may be stuck."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from morphnet.train.ranks import Ranks

#: Seconds that the main thread may take to hear of a signal: after that it is stuck in a call that never returns.
DEAF_SECONDS = 5.0
LOOK_SECONDS = 0.2


class StopVote:
    """Whether any of the processes has heard a signal; all of them learn it in the same call.

    Every ``every``-th call is a vote over the control group, on the CPU: no device waits for it. With ``every=1`` its
    result is there at once; else it is read one vote later, so that no process waits for the others either.
    """

    def __init__(self, ranks: Ranks, every: int = 1) -> None:
        self._ranks, self._every, self._calls = ranks, every, 0
        self._under_way: tuple[dist.Work, torch.Tensor] | None = None

    def __call__(self, heard: int | None) -> int | None:
        """The signal that one of the processes has heard, if that is known; ``heard`` is that of this process."""
        if self._every == 1:
            return self.settle(heard)
        self._calls += 1
        if self._calls % self._every:
            return None
        found = self._result()
        if found is None:
            self._begin(heard)
        return found

    def settle(self, heard: int | None) -> int | None:
        """The same at once, as the last vote: none is under way afterwards."""
        self._result()
        self._begin(heard)
        return self._result()

    def _begin(self, heard: int | None) -> None:
        said = torch.tensor([heard or 0])
        work = dist.all_reduce(said, dist.ReduceOp.MAX, group=self._ranks.control, async_op=True)
        assert work is not None  # this process is one of the group
        self._under_way = work, said

    def _result(self) -> int | None:
        if self._under_way is None:
            return None
        (work, said), self._under_way = self._under_way, None
        work.wait()
        return int(said) or None


class ExitWatch:
    """Ends a process that was asked to stop and does not leave, by a thread of its own.

    A main thread that waits in C++ for a process which is gone runs no Python, and so no handler of a signal.

    Args:
        rank: of the process.
        heard: when the main thread heard of a signal, by ``time.monotonic``; None if it has not.
        seconds: that it may take from then on to leave.
    """

    def __init__(self, rank: int, heard: Callable[[], float | None], seconds: float) -> None:
        self._rank, self._heard, self._seconds = rank, heard, seconds
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        # The interpreter's own handler writes every signal's number there, whatever the main thread is at.
        self._before = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="exit watch", daemon=True).start()

    def close(self) -> None:
        """Ends the watch, and gives the signals back to who had them before."""
        signal.set_wakeup_fd(self._before)
        os.close(self._writes)

    def _watch(self) -> None:
        stops: list[int] = []
        while not stops:
            came = os.read(self._reads, 64)
            if not came:
                os.close(self._reads)
                return
            stops = [number for number in came if number in (signal.SIGINT, signal.SIGTERM)]
        asked = time.monotonic()
        while True:
            heard = self._heard()
            until = asked + DEAF_SECONDS if heard is None else max(asked, heard) + self._seconds
            if time.monotonic() >= until:
                break
            time.sleep(LOOK_SECONDS)
        what = "hears no signal" if heard is None else "does not leave"
        message = (
            f"morphnet: rank {self._rank} waits for another process and {what}; ended, the last checkpoint stays\n"
        )
        os.write(2, message.encode())
        os._exit(128 + stops[0])
