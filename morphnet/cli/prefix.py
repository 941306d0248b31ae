"""A prefix before each output line of jobs that run side by side."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import TextIO


class PrefixedLines(io.TextIOBase):
    """Writes whole lines to ``stream``, each with ``prefix`` before it, so that those of several jobs do not mix.

    It is no terminal, so no progress bar is drawn on it.
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
        """Writes a last line that has no end."""
        if self._rest:
            self.write("\n")


@contextlib.contextmanager
def prefixed(prefix: str | None) -> Iterator[None]:
    """Within, everything this process prints has ``prefix`` before every line; None changes nothing."""
    if prefix is None:
        yield
        return
    out, errors = PrefixedLines(sys.stdout, prefix), PrefixedLines(sys.stderr, prefix)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):  # type: ignore[type-var]
            yield
    finally:
        out.finish()
        errors.finish()


def prefix_now() -> str | None:
    """The prefix in force, for processes that this one starts."""
    return sys.stdout.prefix if isinstance(sys.stdout, PrefixedLines) else None
