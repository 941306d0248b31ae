"""SIGTERM and Ctrl-C: the step that is under way is finished, a checkpoint written, and the run leaves."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

#: Seconds a step may take to its end after a signal; then the run leaves with the checkpoint it has.
GRACE_SECONDS = 10.0
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
    """

    def __init__(self) -> None:
        self.signum: int | None = None
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
        return self

    def __exit__(self, *error: object) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._before.clear()

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        """What happens within is brought to its end first."""
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
            raise Interrupted(self.signum)

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        self._asked_for += 1
        if self.signum is not None:
            if self._asked_for > PATIENCE:
                raise Interrupted(signum, "stopped at once")
            return  # asked again while it is leaving
        self.signum = signum
        if not self._shields:
            raise Interrupted(signum)
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    def _too_late(self, signum: int, frame: FrameType | None) -> None:
        assert self.signum is not None
        raise Interrupted(self.signum, f"the step did not end within {GRACE_SECONDS:.0f} s")
