"""Loss, errors and learning rate of every step, as a CSV file that survives being killed."""

from __future__ import annotations

import os
from pathlib import Path

from morphnet.store import write_whole

HEADER = "step,lr,loss,errors\n"


class StepLog:
    """``steps.csv`` of a phase: one row for every step, written before the checkpoint that follows it.

    Numbers are written so that reading them gives the same numbers again.

    Args:
        done: steps of the checkpoint, whose rows stay; later rows are written again.
    """

    def __init__(self, path: Path, done: int = 0) -> None:
        self.path = path
        lines = path.read_bytes().splitlines(keepends=True)[: done + 1] if done and path.exists() else [HEADER.encode()]
        if len(lines) <= done:
            print(f"{path}: rows of steps before {done:,} are gone; the others follow", flush=True)
        write_whole(path, b"".join(lines))
        self._rows: list[str] = []

    def add(self, step: int, lr: float, loss: float, errors: int) -> None:
        """Adds a step; it is in the file after the next :meth:`flush`."""
        self._rows.append(f"{step},{lr!r},{loss!r},{errors}\n")

    def flush(self) -> None:
        """Writes everything to the disk.

        Raises:
            OSError: it cannot be written, with the file named.
        """
        if not self._rows:
            return
        try:
            with open(self.path, "a", encoding="ascii") as file:
                file.writelines(self._rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._rows.clear()
