"""SIGTERM and Ctrl-C: the step that is under way is finished, a checkpoint written, and the run leaves."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from morphnet.train.ranks import ALONE, Ranks
from morphnet.train.stopping import ExitWatch, StopVote

#: Seconds a step may take to its end after a signal; then the run leaves with the checkpoint it has.
GRACE_SECONDS = 10.0
#: One of several processes that has not left so many seconds after that is ended.
SECONDS_TO_LEAVE = 2.0
#: Signals that may come while a run is leaving; one more, and it leaves at once.
PATIENCE = 5


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; ``signum`` is the signal."""

    def __init__(self, signum: int, message: str = "") -> None:
        self.signum = signum
        super().__init__(message)


class Interruption:
    """Turns SIGINT and SIGTERM into :class:`Interrupted`, but not in the middle of a :meth:`shield`.

    Used as a context manager in the main thread; in any other thread signals are left alone.

    Of several ``ranks`` all stop if one of them is asked to, and :meth:`together` after the same step. A process that
    is stuck in a call which never returns is ended, and one that leaves for a signal hears later ones no more.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.signum: int | None = None
        self._ranks = ranks
        self._vote: StopVote | None = None
        self._watch: ExitWatch | None = None
        self._heard_at: float | None = None
        self._shields = self._asked_for = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in (
                (signal.SIGINT, self._asked),
                (signal.SIGTERM, self._asked),
                (signal.SIGALRM, self._too_late),
            ):
                self._before[signum] = signal.signal(signum, handler)
            if self._ranks.count > 1:
                self._watch = ExitWatch(self._ranks.index, lambda: self._heard_at, GRACE_SECONDS + SECONDS_TO_LEAVE)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._watch is not None:
            if self.signum is not None:
                return  # when one process has left, its launcher sends the others a signal: they are about to leave
            self._watch.close()
            self._watch = None
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._before.clear()

    @contextlib.contextmanager
    def together(self, every: int = 1) -> Iterator[None]:
        """Within, a signal to one of several processes stops all of them in the same call of :meth:`look`.

        They ask each other in every ``every``-th call, and once more at the end. A process by itself is left alone.
        """
        if self._ranks.count == 1:
            yield
            return
        with self.shield("stopped at the end of the phase"):  # what comes after the last vote
            self._vote = StopVote(self._ranks, every)
            try:
                yield
                self._agree(self._vote.settle(self.signum))
            finally:
                self._vote = None

    def look(self) -> None:
        """Where several processes may stop :meth:`together`; all of them have to call it equally often."""
        if self._vote is not None:
            self._agree(self._vote(self.signum))

    def _agree(self, signum: int | None) -> None:
        if signum is not None:
            self.signum, self._heard_at = signum, time.monotonic()
            raise Interrupted(signum)

    @contextlib.contextmanager
    def shield(self, message: str = "") -> Iterator[None]:
        """What happens within is brought to its end first; then it is :class:`Interrupted` with ``message``."""
        self._shields += 1
        try:
            yield
        except Exception as error:
            # Ctrl-C reaches a compiler at work and the processes of the same run too: what then fails is no error.
            if self.signum is not None:
                raise Interrupted(self.signum, f"stopped in the middle of a step ({error})") from error
            raise
        finally:
            self._shields -= 1
            if self.signum is not None and not self._shields:
                signal.setitimer(signal.ITIMER_REAL, 0)
        if self.signum is not None and not self._shields:
            raise Interrupted(self.signum, message)

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        self._asked_for += 1
        if self.signum is not None:
            if self._asked_for > PATIENCE:
                raise Interrupted(signum, "stopped at once")
            return  # asked again while it is leaving
        self.signum, self._heard_at = signum, time.monotonic()
        if not self._shields:
            raise Interrupted(signum)
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    def _too_late(self, signum: int, frame: FrameType | None) -> None:
        assert self.signum is not None
        raise Interrupted(self.signum, f"the step did not end within {GRACE_SECONDS:.0f} s")
