"""One process at a time, on one machine or on several that share a file system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

#: Between two looks at a lock that another process holds.
POLL_SECONDS = 0.5


@contextmanager
def one_at_a_time(path: Path, waiting: str) -> Iterator[None]:
    """Holds the lock in the file ``path``, which the system releases when the process dies.

    Args:
        path: its folder is made if it is missing. The file stays, since another process may be waiting for it.
        waiting: printed once if another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(waiting, flush=True)
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def hold_or_refuse(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock in the file ``path``, or raises ``FileExistsError(busy)`` if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        raise FileExistsError(busy) from None
    with lock:
        yield


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock in ``path``."""
    try:
        if path.is_file():
            with hold_or_refuse(path, ""):
                pass
    except FileExistsError:
        return True
    return False
