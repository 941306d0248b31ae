"""SIGTERM and Ctrl-C: the run finishes its step, writes a checkpoint, and ends."""

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
#: Seconds after that until one of several processes that has not left is ended.
SECONDS_TO_LEAVE = 2.0
#: Signals that a leaving run ignores; at one more it leaves at once.
PATIENCE = 5


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; ``signum`` is the signal."""

    def __init__(self, signum: int, message: str = "") -> None:
        self.signum = signum
        super().__init__(message)


class Interruption:
    """Turns SIGINT and SIGTERM into :class:`Interrupted`: at once, or :meth:`together` where it is safe.

    Used as a context manager in the main thread; in any other thread signals are left alone.

    All ``ranks`` stop if one of them is asked to, and within :meth:`together` after the same step. A process that is
    stuck in a call which never returns is ended, and a process that is leaving ignores further signals.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.signum: int | None = None
        self.ranks = ranks
        self._vote: StopVote | None = None
        self._watch: ExitWatch | None = None
        self._heard_at: float | None = None
        self._waits, self._asked_for = False, 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in (
                (signal.SIGINT, self._asked),
                (signal.SIGTERM, self._asked),
                (signal.SIGALRM, self._too_late),
            ):
                self._before[signum] = signal.signal(signum, handler)
            if self.ranks.count > 1:
                self._watch = ExitWatch(self.ranks.index, lambda: self._heard_at, GRACE_SECONDS + SECONDS_TO_LEAVE)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._watch is not None:
            if self.signum is not None:
                return  # keeps the handlers: when one process has left, its launcher sends a signal to the others
            self._watch.close()
            self._watch = None
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._before.clear()

    @contextlib.contextmanager
    def together(self, every: int = 1) -> Iterator[None]:
        """Within, a signal stops the processes only in :meth:`look` or at the end, and all of them at the same place.

        They vote in every ``every``-th call of :meth:`look`, and once more at the end.

        Raises:
            Interrupted: with a message, if it stopped elsewhere.
        """
        self._vote = StopVote(self.ranks, every) if self.ranks.count > 1 else None
        self._waits = True
        try:
            yield
            self._stop(self.signum if self._vote is None else self._vote.settle(self.signum))
        except Exception as error:
            # Ctrl-C also reaches a running compiler and the other processes: what fails then is not an error.
            if self.signum is not None:
                raise Interrupted(self.signum, f"stopped in the middle of a step ({error})") from error
            raise
        finally:
            self._waits, self._vote = False, None
            if self.signum is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
        if self.signum is not None:  # after the last vote
            raise Interrupted(self.signum, "stopped at the end of the phase")

    def look(self) -> None:
        """Stops the process here if it was asked to; all processes have to call it equally often.

        Raises:
            Interrupted: one of the processes was asked to stop.
        """
        self._stop(self.signum if self._vote is None else self._vote(self.signum))

    def _stop(self, signum: int | None) -> None:
        if signum is not None:
            self.signum, self._heard_at = signum, time.monotonic()
            raise Interrupted(signum)

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        self._asked_for += 1
        if self.signum is not None:
            if self._asked_for > PATIENCE:
                raise Interrupted(signum, "stopped at once")
            return  # asked again while it is leaving
        self.signum, self._heard_at = signum, time.monotonic()
        if not self._waits:
            raise Interrupted(signum)
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    def _too_late(self, signum: int, frame: FrameType | None) -> None:
        assert self.signum is not None
        raise Interrupted(self.signum, f"the step did not end within {GRACE_SECONDS:.0f} s")
