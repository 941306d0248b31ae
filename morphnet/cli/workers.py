"""``devices=2``: the workers of one run, started, watched and, if one is killed, started again."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from morphnet.cli.compose import plain, register
from morphnet.cli.errors import SweepError, exit_code, explain, is_lost_connection
from morphnet.config import TrainConfig

#: Exit code of a worker that only lost the others: EX_TEMPFAIL.
LOST = 75
#: What is wrong with the input, every process finds out; the first one may say it before the others do.
SECONDS_FOR_THE_FIRST = 3.0
#: Seconds between two looks at the workers.
WATCH_SECONDS = 0.2


def run_workers(composed: DictConfig, run_dir: Path, recipe: str | None, devices: int, restarts: int) -> None:
    """Runs what ``composed`` describes in ``devices`` processes on this machine.

    If one of them is killed, all are started again and go on from the last checkpoint, ``restarts`` times at most. A
    worker that fails with a message of its own is not: it would fail again.

    Raises:
        SweepError: a worker failed.
        KeyboardInterrupt: the run was asked to stop, and its workers have.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from morphnet.train.interruption import Interrupted

    # What the agent would log, the messages here and those of the workers say already.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    job = {"config": plain(composed), "run_dir": str(run_dir), "recipe": recipe, "argv": sys.argv}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        for attempt in range(restarts + 1):
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=devices,
                run_id=uuid.uuid4().hex,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                max_restarts=0,  # a fresh meeting place for every attempt: see below
                monitor_interval=WATCH_SECONDS,
            )
            try:
                elastic_launch(config, sys.executable)("-m", "morphnet.cli.workers", str(path))
                return
            except SignalException as stop:
                raise Interrupted(int(stop.sigval), "stopped") from None
            except ChildFailedError as error:
                codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            said = {rank: code for rank, code in codes.items() if code > 0 and code != LOST}
            if said:
                code = said[min(said)]
                if code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
                    raise Interrupted(code - 128, "a worker was stopped")
                raise SweepError(f"{_who(said)} of {devices} failed, see above", code)
            what = _what_happened(codes)
            if attempt == restarts:
                raise SweepError(f"{what}; trainer.restarts={restarts} are used up", 1)
            print(f"{what}; all ranks start again ({attempt + 1} of at most {restarts})", file=sys.stderr, flush=True)


def worker(path: str) -> int:
    """One worker: does the job that :func:`run_workers` wrote to ``path``, and returns an exit code."""
    from morphnet.cli.train import train_here

    job: Mapping[str, Any] = json.loads(Path(path).read_text())
    register()
    sys.argv = list(job["argv"])
    rank = int(os.environ["RANK"])
    composed = OmegaConf.merge(OmegaConf.structured(TrainConfig), job["config"])
    assert isinstance(composed, DictConfig)
    try:
        train_here(composed, Path(job["run_dir"]), job["recipe"], str(composed.device), lambda: None)
    except KeyboardInterrupt as stop:
        if rank == 0:
            print(f"morphnet: {stop}", file=sys.stderr)
        return 128 + getattr(stop, "signum", signal.SIGINT)
    except Exception as error:
        if os.environ.get("MORPHNET_TRACEBACK") == "1":
            raise
        if is_lost_connection(error):
            return LOST
        if rank:
            time.sleep(SECONDS_FOR_THE_FIRST)
        print(f"morphnet: error: {f'rank {rank}: ' if rank else ''}{explain(error)}", file=sys.stderr)
        return exit_code(error)
    return 0


def _what_happened(codes: Mapping[int, int]) -> str:
    """Who was killed; the signal of the agent, by which it ends the others, is not worth a word."""
    killed = {rank: -code for rank, code in codes.items() if code < 0}
    first = {rank: number for rank, number in killed.items() if number != signal.SIGTERM} or killed
    if not first:
        return "the processes have lost each other"
    return ", ".join(f"rank {rank} was killed by {_signal_name(number)}" for rank, number in sorted(first.items()))


def _who(codes: Mapping[int, int]) -> str:
    return ", ".join(f"rank {rank}" for rank in sorted(codes))


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


if __name__ == "__main__":
    code = worker(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a process group whose peers are gone may never end
