"""Lines of jobs that run side by side: each says which job it is of."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import TextIO


class PrefixedLines(io.TextIOBase):
    """Writes whole lines to ``stream``, each with ``prefix`` before it; no terminal, so that nobody draws a bar there.

    A line is passed on in one piece, so that lines of several processes do not run into each other.
    """

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self.prefix, self._stream, self._rest = prefix, stream, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self.prefix}{line}\n" if line else "\n" for line in lines))
            self._stream.flush()
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def finish(self) -> None:
        """Passes on a last line that has no end."""
        if self._rest:
            self.write("\n")


@contextlib.contextmanager
def prefixed(prefix: str | None) -> Iterator[None]:
    """What this process prints meanwhile has ``prefix`` before every line; as ever if that is None."""
    if prefix is None:
        yield
        return
    before = sys.stdout, sys.stderr
    out, errors = (PrefixedLines(stream, prefix) for stream in before)
    sys.stdout, sys.stderr = out, errors  # type: ignore[assignment]
    try:
        yield
    finally:
        out.finish()
        errors.finish()
        sys.stdout, sys.stderr = before


def prefix_now() -> str | None:
    """The prefix in force, for processes that this one starts."""
    return sys.stdout.prefix if isinstance(sys.stdout, PrefixedLines) else None
