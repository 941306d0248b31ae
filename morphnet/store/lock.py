"""One process at a time, on one machine or on several that share a file system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def hold_or_refuse(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock in the file ``path``; the system takes it back when the process dies.

    Raises:
        FileExistsError: another process holds it; ``busy`` is the message.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FileExistsError(busy) from None
    try:
        yield
    finally:
        lock.release()
