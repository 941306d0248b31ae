"""The folders commands write to, and what they say beside their results."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from morphnet.store import hold_or_refuse


def refuse_file(output: Path) -> None:
    """Refuses what cannot be a folder.

    Raises:
        FileExistsError: it, or a part of the way there, is a file.
    """
    for place in (output, *output.parents):
        if place.exists() and not place.is_dir():
            raise FileExistsError(f"output={output}: {place} is a file; give a folder")


@contextlib.contextmanager
def new_folder(name: str) -> Iterator[Path]:
    """``name`` as a folder that was not there, or empty; within, no other command takes it.

    It is taken away again where nothing was put into it.

    Raises:
        ValueError, FileExistsError: it is no such folder.
    """
    if not name:
        raise ValueError("output is empty: give a new folder")
    output = Path(name)
    refuse_file(output)
    there = output.exists()
    lock = output / ".lock"
    try:
        if there and set(output.iterdir()) - {lock}:
            raise FileExistsError(f"output={output} is not empty; give a new folder, or delete that one")
        with hold_or_refuse(lock, f"output={output}: another command is at work there; give a new folder"):
            if set(output.iterdir()) - {lock}:  # that other command has ended a moment ago
                raise FileExistsError(f"output={output} is not empty; give a new folder, or delete that one")
            try:
                yield output
            except OSError:  # such as a full disk: what is there is not whole
                for file in set(output.iterdir()) - {lock}:
                    with contextlib.suppress(OSError):
                        file.unlink()
                raise
            finally:
                lock.unlink(missing_ok=True)
    finally:
        if not there:
            with contextlib.suppress(OSError):
                output.rmdir()


def short(path: Path) -> str:
    """``path`` as a person here would write it."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def note(line: str) -> None:
    """What is allowed, and often not meant; of several processes one says it."""
    if os.environ.get("RANK", "0") == "0":
        print(f"morphnet: note: {line}", file=sys.stderr, flush=True)
