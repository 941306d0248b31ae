"""The threads of the CPU that a run, or the estimate of one, has."""

from __future__ import annotations

import os

from morphnet.cli.output import note

_THREADS: dict[str, int] = {}


def set_threads(count: int | None, processes: int = 1) -> None:
    """So many threads for this run, but no more than there are cores: they would wait for each other.

    Where none are asked for, ``processes`` on one machine share its cores. The jobs of a sweep share a process, so what
    an earlier one set is undone.
    """
    import torch

    _THREADS.setdefault("at start", torch.get_num_threads())
    most = max(1, len(os.sched_getaffinity(0)) // processes)
    wanted = (most if processes > 1 else _THREADS["at start"]) if count is None else count
    if wanted > most:
        note(f"{wanted} threads are more than the {most} cores of this process, so that it computes on {most}")
    torch.set_num_threads(min(wanted, most))
