"""``devices=2``: the workers of one run, started, watched and, if one is killed, started again."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from morphnet.cli.compose import from_plain, plain, register
from morphnet.cli.errors import SweepError, exit_code, explain, is_lost_connection
from morphnet.cli.prefix import prefix_now, prefixed
from morphnet.cli.status import STATUS, RunStatus, write_status
from morphnet.config import TrainConfig

#: Exit code of a worker that only lost the others: EX_TEMPFAIL.
LOST = 75
#: What is wrong with the input, every process finds out; the first one may say it before the others do.
SECONDS_FOR_THE_FIRST = 3.0
#: By which a run is asked to stop.
STOPS = (signal.SIGINT, signal.SIGTERM)
#: Seconds between two looks at the workers.
WATCH_SECONDS = 0.2
#: Beside the job: the first worker has made the run directory this run's.
CLAIMED = "claimed"


def run_workers(
    composed: DictConfig, run_dir: Path, recipe: str | None, devices: int, restarts: int, status: RunStatus
) -> None:
    """Runs what ``composed`` describes in ``devices`` processes on this machine.

    If one of them is killed, all are started again and go on from the last checkpoint, ``restarts`` times at most. A
    worker that fails with a message of its own is not: it would fail again.

    Raises:
        SweepError: a worker failed.
        KeyboardInterrupt: the run was asked to stop, and its workers have.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException

    from morphnet.train.interruption import Interrupted

    logging.disable(logging.CRITICAL)  # what the agent would log, the messages here and of the workers say already
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of the workers: DDP warns of what is meant to be
    job = {
        "config": plain(composed),
        "run_dir": str(run_dir),
        "recipe": recipe,
        "argv": sys.argv,
        "launcher": os.getpid(),
        "status": status.values,
        "prefix": prefix_now(),
    }
    handlers = {signum: signal.getsignal(signum) for signum in STOPS} if _in_main_thread() else {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "job.json"
            path.write_text(json.dumps(job))
            for attempt in range(restarts + 1):
                try:
                    codes = _attempt(path, devices)
                finally:
                    status.begun = status.begun or path.with_name(CLAIMED).exists()
                what, code = judge(codes)
                if code is None:
                    return
                if code != LOST:
                    if code - 128 in STOPS:
                        raise Interrupted(code - 128, what)
                    raise SweepError(f"{what} of {devices} failed, see above", code)
                if attempt < restarts:
                    again = f"all ranks start again ({attempt + 1} of at most {restarts})"
                    print(f"{what}; {again}", file=sys.stderr, flush=True)
            raise SweepError(f"{what}; trainer.restarts={restarts} are used up", 1)
    except SignalException as stop:
        raise Interrupted(int(stop.sigval), "stopped") from None
    finally:
        logging.disable(logging.NOTSET)
        for signum, handler in handlers.items():  # the agent leaves its own
            signal.signal(signum, handler)


def _attempt(path: Path, devices: int) -> dict[int, int]:
    """Starts the workers and waits for them; the exit codes of those that failed, a signal's number negative."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=0,  # a fresh meeting place for every attempt
        monitor_interval=WATCH_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "morphnet.cli.workers", str(path))
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    return {}


def judge(codes: Mapping[int, int]) -> tuple[str, int | None]:
    """What exit codes of workers come to, and the exit code of the run.

    When one worker ends, the agent ends the others by SIGTERM: 143 of a worker that heard it, -15 of one that did not.
    The code is None if all is well, and :data:`LOST` if they may be started again.
    """
    said = {r: c for r, c in codes.items() if c > 0 and c != LOST and c - 128 not in STOPS}
    if said:
        return ", ".join(f"rank {rank}" for rank in sorted(said)), said[min(said)]
    killed = {rank: -code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}
    if killed:
        return ", ".join(f"rank {rank} was killed by {_signal_name(s)}" for rank, s in sorted(killed.items())), LOST
    stopped = [code for code in codes.values() if code - 128 in STOPS]
    if stopped:
        return "a worker was stopped", stopped[0]
    if -signal.SIGTERM in codes.values():
        return "a worker was stopped", 128 + signal.SIGTERM
    return ("the processes have lost each other", LOST) if codes else ("", None)


def worker(path: str) -> int:
    """One worker: does the job that :func:`run_workers` wrote to ``path``, and returns an exit code."""
    from morphnet.data.stream import end_with

    job: Mapping[str, Any] = json.loads(Path(path).read_text())
    end_with(job["launcher"], LOST)
    register()
    sys.argv = list(job["argv"])
    rank = int(os.environ["RANK"])
    composed = from_plain(job["config"], TrainConfig)
    run_dir = Path(job["run_dir"])

    def begin() -> None:
        Path(path).with_name(CLAIMED).touch()
        write_status(run_dir / STATUS, job["status"])

    with prefixed(job["prefix"]):
        return _work(rank, lambda: _train(composed, run_dir, job["recipe"], begin))


def _train(composed: DictConfig, run_dir: Path, recipe: str | None, begin: Callable[[], None]) -> None:
    from morphnet.cli.process import train_here

    train_here(composed, run_dir, recipe, str(composed.device), begin)


def _work(rank: int, train: Callable[[], None]) -> int:
    """Calls ``train``, says what goes wrong, and returns an exit code."""
    try:
        train()
    except KeyboardInterrupt as stop:
        if rank == 0:
            print(f"morphnet: {str(stop) or 'stopped'}", file=sys.stderr)
        return 128 + getattr(stop, "signum", signal.SIGINT)
    except Exception as error:
        if os.environ.get("MORPHNET_TRACEBACK") == "1":
            raise
        if is_lost_connection(error):
            if rank == 0:
                print(f"morphnet: rank 0 lost the others: {str(error).splitlines()[0][:300]}", file=sys.stderr)
            return LOST
        if rank:
            time.sleep(SECONDS_FOR_THE_FIRST)
        print(f"morphnet: error: {f'rank {rank}: ' if rank else ''}{explain(error)}", file=sys.stderr)
        return exit_code(error)
    return 0


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


if __name__ == "__main__":
    code = worker(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a process group whose peers are gone may never end
