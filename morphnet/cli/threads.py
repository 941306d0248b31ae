"""The CPU threads of a run or of its estimate."""

from __future__ import annotations

import os

from morphnet.cli.output import note

_AT_START: list[int] = []


def set_threads(count: int | None, processes: int = 1) -> None:
    """Sets ``count`` threads for this run, at most one for each core of this process.

    By default ``processes`` on one machine share its cores. Jobs of a sweep run in one process, so an earlier job's
    setting is undone.
    """
    import torch

    if not _AT_START:
        _AT_START.append(torch.get_num_threads())
    most = max(1, len(os.sched_getaffinity(0)) // processes)
    wanted = (most if processes > 1 else _AT_START[0]) if count is None else count
    if wanted > most:
        note(f"{wanted} threads are more than the {most} cores of this process, so that it computes on {most}")
    torch.set_num_threads(min(wanted, most))
