"""``devices=2``: starts and watches the workers of one run, and restarts them if one is killed."""

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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from morphnet.cli.compose import from_plain, register
from morphnet.cli.errors import SweepError, exit_code, explain, is_lost_connection
from morphnet.cli.prefix import prefix_now, prefixed
from morphnet.cli.status import STATUS, RunStatus, write_status
from morphnet.config import TrainConfig

#: Exit code of a worker that only lost the others: EX_TEMPFAIL.
LOST = 75
#: Every process finds wrong input; the others wait so long for the first one's message.
SECONDS_FOR_THE_FIRST = 3.0
#: Signals that stop a run.
STOPS = (signal.SIGINT, signal.SIGTERM)
#: Seconds between two looks at the workers.
WATCH_SECONDS = 0.2
#: A file beside the job: the first worker has claimed the run directory.
CLAIMED = "claimed"


def run_workers(
    config: TrainConfig, run_dir: Path, recipe: str | None, devices: int, restarts: int, status: RunStatus
) -> None:
    """Runs ``config`` in ``devices`` processes on this machine.

    If one is killed, all restart from the last checkpoint, at most ``restarts`` times. A worker that failed with a
    message is not restarted: it would fail again.

    Raises:
        SweepError: a worker failed.
        KeyboardInterrupt: the run was stopped.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException

    from morphnet.train.interruption import Interrupted

    logging.disable(logging.CRITICAL)  # the agent repeats the messages of the workers
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # hides warnings of DDP in the workers
    job = {
        "config": asdict(config),
        "run_dir": str(run_dir),
        "recipe": recipe,
        "argv": sys.argv,
        "launcher": os.getpid(),
        "status": status.values,
        "prefix": prefix_now(),
    }
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {signum: signal.getsignal(signum) for signum in STOPS} if in_main else {}
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
        for signum, handler in handlers.items():  # the agent does not restore them
            signal.signal(signum, handler)


def _attempt(path: Path, devices: int) -> dict[int, int]:
    """Starts the workers, waits, and returns the exit codes of those that failed; a signal's number is negative."""
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
    """A summary of the workers' exit codes, and the exit code of the run.

    When one worker ends, the agent sends SIGTERM to the others, which end with 143, or -15 if they did not handle it.
    The code is None if no worker failed, and :data:`LOST` if they may be restarted.
    """
    failed = {r: c for r, c in codes.items() if c > 0 and c != LOST and c - 128 not in STOPS}
    if failed:
        return ", ".join(f"rank {rank}" for rank in sorted(failed)), failed[min(failed)]
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
    """Does the job that :func:`run_workers` wrote to ``path`` as one worker, and returns an exit code."""
    from morphnet.data.stream import end_with

    job: Mapping[str, Any] = json.loads(Path(path).read_text())
    end_with(job["launcher"], LOST)
    register()
    sys.argv = list(job["argv"])
    rank = int(os.environ["RANK"])
    config = from_plain(job["config"], TrainConfig)
    run_dir = Path(job["run_dir"])

    def begin() -> None:
        Path(path).with_name(CLAIMED).touch()
        write_status(run_dir / STATUS, job["status"])

    def train() -> None:
        from morphnet.cli.process import train_here

        train_here(config, run_dir, job["recipe"], config.device, begin)

    with prefixed(job["prefix"]):
        return _work(rank, train)


def _work(rank: int, train: Callable[[], None]) -> int:
    """Calls ``train``, prints an error, and returns an exit code."""
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


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


if __name__ == "__main__":
    code = worker(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a process group whose peers are gone may never end
