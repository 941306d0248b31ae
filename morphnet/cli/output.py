"""The folders commands write to, and what they say beside their results."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def new_folder(name: str) -> Path:
    """``name`` as a folder that is not there, or empty.

    Raises:
        ValueError, FileExistsError: it is no such folder.
    """
    if not name:
        raise ValueError("output is empty: give a new folder")
    output = Path(name)
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"output={output} is a file; give a folder")
    if output.is_dir() and any(output.iterdir()):
        raise FileExistsError(f"output={output} is not empty; give a new folder, or delete that one")
    return output


def short(path: Path) -> str:
    """``path`` as a person here would write it."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def note(line: str) -> None:
    """What is allowed, and often not meant; of several processes one says it."""
    if os.environ.get("RANK", "0") == "0":
        print(f"morphnet: note: {line}", file=sys.stderr, flush=True)
