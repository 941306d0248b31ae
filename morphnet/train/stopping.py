"""How several processes stop together: after the same step, even if one of them is stuck."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from morphnet.train.ranks import Ranks

#: Seconds until the main thread must have received a signal: after that it is stuck in a call that never returns.
DEAF_SECONDS = 5.0
LOOK_SECONDS = 0.2


class StopVote:
    """Whether any of the processes was asked to stop; all of them learn it in the same call.

    Every ``every``-th call is a vote over the control group, on the CPU: no device waits for it. With ``every=1`` the
    result is read at once, else one vote later, so that no process waits for the others either.
    """

    def __init__(self, ranks: Ranks, every: int = 1) -> None:
        self._ranks, self._every, self._calls = ranks, every, 0
        self._vote: tuple[dist.Work, torch.Tensor] | None = None  # under way

    def __call__(self, signum: int | None) -> int | None:
        """The signal that one of the processes has received, if known; ``signum`` is that of this process."""
        if self._every == 1:
            return self.settle(signum)
        self._calls += 1
        if self._calls % self._every:
            return None
        result = self._result()
        if result is None:
            self._begin(signum)
        return result

    def settle(self, signum: int | None) -> int | None:
        """The same at once, as the last vote: none is under way afterwards."""
        self._result()
        self._begin(signum)
        return self._result()

    def _begin(self, signum: int | None) -> None:
        value = torch.tensor([signum or 0])
        work = dist.all_reduce(value, dist.ReduceOp.MAX, group=self._ranks.control, async_op=True)
        assert work is not None  # this process is one of the group
        self._vote = work, value

    def _result(self) -> int | None:
        if self._vote is None:
            return None
        (work, value), self._vote = self._vote, None
        work.wait()
        return int(value) or None


class ExitWatch:
    """A thread that ends the process if it was asked to stop and does not leave.

    A main thread that waits in C++ for a lost process runs no Python, and so no handler of a signal.

    Args:
        rank: of the process.
        heard: when the main thread received a signal, by ``time.monotonic``; None if it has not.
        seconds: from then until the process must have left.
    """

    def __init__(self, rank: int, heard: Callable[[], float | None], seconds: float) -> None:
        self._rank, self._heard, self._seconds = rank, heard, seconds
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        # The interpreter's own handler writes every signal's number there, whatever the main thread does.
        self._before = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="exit watch", daemon=True).start()

    def close(self) -> None:
        """Ends the thread, and restores the handling of signals."""
        signal.set_wakeup_fd(self._before)
        os.close(self._writes)

    def _watch(self) -> None:
        stops: list[int] = []
        while not stops:
            signals = os.read(self._reads, 64)
            if not signals:
                os.close(self._reads)
                return
            stops = [signum for signum in signals if signum in (signal.SIGINT, signal.SIGTERM)]
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
