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
    """Holds the lock in the file ``path``; the system takes it back when the process dies.

    Args:
        path: its folder is made if it is missing. The file stays, since another process may be waiting at it.
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
    """Holds the lock in the file ``path``, like :func:`one_at_a_time`, but does not wait for it.

    Raises:
        FileExistsError: another process holds it; ``busy`` is the message.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FileExistsError(busy) from None
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process that lives holds the lock in ``path``."""
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
