"""The progress of a run, as a small file in its directory for people and sweeps."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import socket
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphnet.cli.errors import exit_code, explain
from morphnet.store import write_whole

if TYPE_CHECKING:
    from morphnet.report.record import Record

#: In a run directory: its status, and the lock of the process that works on it.
STATUS, LOCK = "status.json", ".lock"


class RunStatus:
    """The status that one process writes about its run.

    Nothing is written before :meth:`begin`, because the directory may belong to another run; only a job of a sweep that
    fails earlier leaves its message in a directory that no run has taken.

    Args:
        run_dir: of the run.
        entry: of a job of a sweep: a second file with the same content, for the process that launched it.
    """

    def __init__(self, run_dir: Path, entry: Path | None = None) -> None:
        self.run_dir, self.entry = run_dir, entry
        self.begun = self.ended = False
        self._values: dict[str, Any] = {
            "state": "running",
            "message": None,
            "exit_code": None,
            "started": _now(),
            "finished": None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self._write()

    def begin(self) -> None:
        """The directory is this run's from now on."""
        self.begun = True
        self._write()

    @property
    def values(self) -> dict[str, Any]:
        """The status now, as plain values."""
        return dict(self._values)

    def done(self, phases: list[str]) -> None:
        """Every phase has its record; ``phases`` are their folders."""
        self._end("done", None, 0, phases=phases)

    def failed(self, error: BaseException, ours: bool = True) -> None:
        """The run ended by ``error``, or was stopped; ``ours`` is False if another process holds its directory."""
        if isinstance(error, Exception):
            message, code = explain(error), exit_code(error)
        else:
            what, code = str(error) or "interrupted", 128 + getattr(error, "signum", signal.SIGINT)
            message = f"{what}; the same command goes on from the last checkpoint"
        unexpected = {"traceback": traceback.format_exception(error)} if code == 1 else {}
        taken = (self.run_dir / "config.yaml").exists()
        self.begun = self.begun or (ours and self.entry is not None and not taken)
        with contextlib.suppress(OSError):  # the disk may be what has failed
            self._end("failed" if isinstance(error, Exception) else "stopped", message, code, **unexpected)

    def _end(self, state: str, message: str | None, code: int, **further: Any) -> None:
        self._values |= {"state": state, "message": message, "exit_code": code, "finished": _now(), **further}
        self._write()
        self.ended = True

    def _write(self) -> None:
        if self.entry is not None:
            with contextlib.suppress(OSError):  # the process that launched this one is gone
                write_status(self.entry, {"run_dir": str(self.run_dir), **self._values})
        if self.begun:
            write_status(self.run_dir / STATUS, self._values)


def write_status(path: Path, values: dict[str, Any]) -> None:
    """Writes ``values`` as JSON, whole or not at all."""
    write_whole(path, (json.dumps(values, indent=1) + "\n").encode())


def read_status(path: Path) -> dict[str, Any] | None:
    """The values of :func:`write_status`; None if the file is missing or unreadable."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) and "state" in values else None


def finished_records(
    run_dir: Path, indices: Collection[int] = (), folders: Collection[str] = ()
) -> list[Record] | None:
    """The records of a finished run, in the order of its phases; None if anything is missing.

    Args:
        indices, folders: of required phases.
    """
    status = read_status(run_dir / STATUS)
    if status is None or status["state"] != "done":
        return None
    phases = [str(phase) for phase in status.get("phases") or ()]
    if (
        not phases
        or not set(folders) <= set(phases)
        or not {str(i) for i in indices} <= {phase.split("_")[0] for phase in phases}
    ):
        return None
    from morphnet.report.record import read_record

    try:
        return [read_record(run_dir / "phases" / phase / "record.json") for phase in phases]
    except ValueError:
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
