"""Output folders of commands, and their notes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from morphnet.store import hold_or_refuse


def refuse_file(output: Path) -> None:
    """Raises ``FileExistsError`` if ``output`` or a folder above it is a file."""
    for place in (output, *output.parents):
        if place.exists() and not place.is_dir():
            raise FileExistsError(f"output={output}: {place} is a file; give a folder")


@contextlib.contextmanager
def new_folder(name: str) -> Iterator[Path]:
    """``name`` as a new or empty folder, locked against other commands; removed if nothing is written to it.

    Raises:
        ValueError, FileExistsError: it is no such folder.
    """
    if not name:
        raise ValueError("output is empty: give a new folder")
    output = Path(name)
    refuse_file(output)
    existed = output.exists()
    lock = output / ".lock"

    def files() -> set[Path]:
        return set(output.iterdir()) - {lock} if output.exists() else set()

    def refuse_files() -> None:
        if files():
            raise FileExistsError(f"output={output} is not empty; give a new folder, or delete that one")

    try:
        refuse_files()
        with hold_or_refuse(lock, f"output={output}: another command is at work there; give a new folder"):
            try:
                refuse_files()  # another command may have ended a moment ago
                yield output
            except OSError:  # such as a full disk: the files are not whole
                for file in files():
                    with contextlib.suppress(OSError):
                        file.unlink()
                raise
            finally:
                lock.unlink(missing_ok=True)
    finally:
        if not existed:
            with contextlib.suppress(OSError):
                output.rmdir()


def short(path: Path) -> str:
    """``path``, relative to the current folder if it is inside."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def note(line: str) -> None:
    """Prints a likely mistake to standard error, from the first process only."""
    if os.environ.get("RANK", "0") == "0":
        print(f"morphnet: note: {line}", file=sys.stderr, flush=True)
