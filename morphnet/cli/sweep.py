"""The jobs of one ``train`` command, with any Hydra launcher: one table of all jobs, and a list of the failures.

Jobs run in this process, in other processes, or on other machines. Each writes its outcome to its run directory and to
a folder of the sweep, which the launching process reads; nothing is returned through the launcher.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from morphnet.cli.compose import run_job
from morphnet.cli.errors import SweepError, exit_code, explain
from morphnet.cli.output import short
from morphnet.cli.prefix import prefixed
from morphnet.cli.status import LOCK, STATUS, RunStatus, finished_records, read_status, write_status
from morphnet.store import hold_or_refuse, is_held

if TYPE_CHECKING:
    from morphnet.report.record import Record

#: Launchers whose jobs run on this machine.
LOCAL = ("basic", "joblib")
#: Launchers whose jobs share the GPUs of one machine.
ONE_MACHINE = ("joblib", "submitit_local")
#: Seconds that a job may still take to begin after the launcher has failed.
GRACE_SECONDS = {"basic": 0.0, "joblib": 0.0}
OTHER_GRACE_SECONDS = 30.0
LOOK_SECONDS = 1.0
BUSY = "another process is at work there; wait for it or stop it, or give another hydra.run.dir=..."
KILLED = "ended without a message (killed, out of memory or out of time); the same command goes on from its checkpoint"

Records = list["Record"]
#: Runs a composed configuration in a directory.
Train = Callable[[DictConfig, Path, RunStatus], Records]


def launch(train: Train) -> None:
    """Runs the jobs of the command line and prints one table.

    Raises:
        SweepError: jobs of a sweep failed or did not end; all are named.
    """
    if "RANK" in os.environ and {"-m", "--multirun"} & set(sys.argv):
        raise ValueError("a sweep (-m) under torchrun: give devices=N instead, and every job starts its own processes")
    sweep = _Sweep(train, list(sys.argv))
    Jobs.current = sweep
    in_main = threading.current_thread() is threading.main_thread()
    handles_stop = in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if handles_stop:  # by default a signal would leave the folder of outcomes behind
        signal.signal(signal.SIGTERM, _end)
    try:
        try:
            run_job("train", sweep.job)
        except Exception as error:
            if sweep.folder is None or not sweep.asked_for_more(error):
                raise
            sweep.settle()
            sweep.report(error)
        else:
            sweep.report(None)
    finally:
        if handles_stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        Jobs.current = None
        if sweep.folder is not None:
            shutil.rmtree(sweep.folder, ignore_errors=True)
            if sweep.made_output:
                with contextlib.suppress(OSError):
                    sweep.folder.parent.rmdir()  # if it is empty


def _end(signum: int, frame: Any) -> None:
    stop = KeyboardInterrupt("stopped")
    stop.signum = signum  # type: ignore[attr-defined]
    raise stop


class Jobs(Callback):
    """Hydra's callback before a sweep."""

    current: _Sweep | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self.current is not None:
            self.current.begin(config)


class _Sweep:
    """The jobs of one command; it is pickled to wherever a job runs.

    Attributes:
        arguments: the command line, which a worker does not have.
        folder: one outcome file for each job; None for a single run.
        asked: the overrides of every job, in order; None if the sweeper chooses them one by one.
    """

    def __init__(self, train: Train, arguments: list[str]) -> None:
        self.train, self.arguments = train, arguments
        self.folder: Path | None = None
        self.made_output = False  # whether the parent of the folder is new
        self.asked: list[list[str]] | None = None
        self.dry_run = False
        self.unknown = 0  # jobs that could not be estimated
        self.launcher = "basic"
        self.records: Records = []  # of a single run
        self.run_dir: Path | None = None

    def begin(self, config: DictConfig) -> None:
        """Prepares a sweep, in the process that launches its jobs."""
        self.launcher = str(config.hydra.runtime.choices.get("hydra/launcher", "basic"))
        folder = Path(str(config.hydra.sweep.dir)).resolve() / f".sweep-{uuid.uuid4().hex[:8]}"
        self.made_output = not folder.parent.exists()
        folder.mkdir(parents=True)
        self.folder = folder
        with contextlib.suppress(HydraException):  # the sweeper will raise it
            self.asked = asked_jobs(config)
        self.dry_run = bool(config.get("dry_run"))
        if self.asked and (self.dry_run or self.launcher in LOCAL):
            from morphnet.cli.estimate import describe_sweep

            text, self.unknown = describe_sweep(config, self.asked)
            if text:
                print(text, flush=True)

    def job(self, composed: DictConfig) -> None:
        """Runs one job, in any process. In a sweep a failure is written to a file and not raised: other jobs go on."""
        hydra_config = HydraConfig.get()
        run_dir = Path(hydra_config.runtime.output_dir)
        entry = None if self.folder is None else self.folder / f"{hydra_config.job.num}.json"
        sys.argv = list(self.arguments)
        beside_others = hydra_config.mode == RunMode.MULTIRUN and self.launcher != "basic"
        with prefixed(f"{run_dir.parent.name}/{run_dir.name}: " if beside_others else None):
            self._run(composed, hydra_config, run_dir, entry)

    def _run(self, composed: DictConfig, hydra_config: Any, run_dir: Path, entry: Path | None) -> None:
        if int(os.environ.get("RANK", "0")):  # of the processes of torchrun, the first one writes the status
            self.train(composed, run_dir, RunStatus(run_dir, None))
            return
        if composed.dry_run:
            try:
                if hydra_config.mode != RunMode.MULTIRUN:  # a sweep has printed it for all jobs
                    self.train(composed, run_dir, RunStatus(run_dir, None))
            finally:
                _remove_empty(run_dir, keep=False)
            return
        status = RunStatus(run_dir, entry)
        try:
            with hold_or_refuse(run_dir / LOCK, f"{short(run_dir)}: {BUSY}"):
                try:
                    records = self.train(composed, run_dir, status)
                    status.done([record.folder for record in records])
                except BaseException as error:
                    status.failed(error)
                    keep = any(override.startswith("hydra.run.") for override in hydra_config.overrides.hydra)
                    _remove_empty(run_dir, keep)
                    raise
        except Exception as error:
            if not status.ended:  # the lock was not free
                status.failed(error, ours=False)
            if hydra_config.mode != RunMode.MULTIRUN:
                raise
            print(f"{short(run_dir)} failed: {explain(error)}", flush=True)
        else:
            if hydra_config.mode != RunMode.MULTIRUN:
                self.records, self.run_dir = records, run_dir

    def asked_for_more(self, error: Exception) -> bool:
        """Whether jobs were under way, or about to be, when the launcher raised ``error``."""
        return bool(self._entries()) or not isinstance(error, (HydraException, OmegaConfBaseException))

    def settle(self) -> None:
        """Waits for jobs that go on after the launcher has failed."""
        until = time.monotonic() + GRACE_SECONDS.get(self.launcher, OTHER_GRACE_SECONDS)
        announced, quiet = False, 0
        while quiet < 2:  # a job writes its entry just before it takes its lock
            entries = self._entries()
            alive = sum(e["state"] == "running" and is_held(Path(e["run_dir"]) / LOCK) for e in entries.values())
            coming = len(self.asked or []) > len(entries) and time.monotonic() < until
            quiet = 0 if alive or coming else quiet + 1
            if alive and not announced:
                print(f"the launcher has failed; waiting for {alive} jobs that go on", flush=True)
                announced = True
            time.sleep(LOOK_SECONDS)

    def report(self, error: Exception | None) -> None:
        """Prints the table of the finished runs and raises an error that lists the others."""
        if self.folder is None:
            _print_table({} if self.run_dir is None else {str(self.run_dir): self.records})
            return
        if self.dry_run:
            print("nothing was run: dry_run=true", flush=True)
            (self.folder.parent / "multirun.yaml").unlink(missing_ok=True)  # of Hydra
            if self.unknown:
                raise SweepError(f"{self.unknown} of {len(self.asked or [])} jobs could not run, see above", 2)
            return
        entries = self._entries()
        if self.asked == [] or (self.asked is None and not entries and error is None):
            raise ValueError("the sweep has no job: a glob or a range matched nothing")
        runs: dict[str, Records] = {}
        failed: list[tuple[str, str, int]] = []
        for number in range(len(self.asked)) if self.asked is not None else sorted(entries):
            entry = entries.get(number)
            if entry is None:
                overrides = " ".join(self.asked[number]) if self.asked is not None else ""
                queued = "" if self.launcher in GRACE_SECONDS else ", or has not yet: it may still be queued"
                failed.append((f"job {number} ({overrides})", f"never began{queued}", exit_code(error) if error else 1))
                continue
            run_dir = Path(entry["run_dir"])
            records = finished_records(run_dir) if entry["state"] == "done" else None
            if records is not None:
                runs[entry["run_dir"]] = records
            elif entry["state"] == "done":
                failed.append((short(run_dir), "its records are gone", 1))
            elif entry["state"] in ("failed", "stopped"):
                failed.append((short(run_dir), str(entry["message"]), int(entry["exit_code"])))
            else:
                failed.append((short(run_dir), KILLED, 1))
                _mark_killed(run_dir, entry)
        _print_table(runs)
        if failed:
            total = len(entries) if self.asked is None else len(self.asked)
            listed = "".join(f"\n  {name}: {message}" for name, message, _ in failed)
            reason = f"\nthe launcher said: {str(error).strip().splitlines()[0][:500]}" if error and str(error) else ""
            raise SweepError(f"{len(failed)} of {total} jobs failed:{listed}{reason}", max(code for *_, code in failed))
        if error is not None:
            raise error

    def _entries(self) -> dict[int, dict[str, Any]]:
        """The outcomes of jobs, by their number."""
        assert self.folder is not None
        entries = {int(path.stem): read_status(path) for path in self.folder.glob("[0-9]*.json")}
        return {number: entry for number, entry in entries.items() if entry is not None}


def asked_jobs(config: DictConfig) -> list[list[str]] | None:
    """The overrides of every job of a sweep, in order; None if the sweeper chooses them one by one."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    sweeper = config.hydra.sweeper
    if str(sweeper._target_).rsplit(".", 1)[-1] != "BasicSweeper":
        return None
    hydra = GlobalHydra.instance()
    overrides = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    overrides += [str(override) for override in OmegaConf.to_container(config.hydra.overrides.task) or []]
    parsed = OverridesParser.create(config_loader=hydra.config_loader()).parse_overrides(overrides)
    return [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def device_of_job(device: str, launcher: str, job: int | None, gpus: int) -> str:
    """The device of job number ``job``, None for a single run: jobs on one machine take its GPUs in turn.

    Args:
        device: as configured; one that names a GPU or the CPU is kept.
        launcher: Hydra's name.
    """
    if job is None or gpus < 2 or launcher not in ONE_MACHINE or device not in ("auto", "cuda"):
        return device
    return f"cuda:{job % gpus}"


def device_of_this_job(device: str) -> str:
    """:func:`device_of_job` for the job that Hydra runs now; its GPU becomes the current one."""
    import torch

    config = HydraConfig.get()
    job = None if OmegaConf.is_missing(config.job, "num") else int(config.job.num)
    launcher = str(config.runtime.choices.get("hydra/launcher", "basic"))
    own = device_of_job(device, launcher, job, torch.cuda.device_count())
    if own != device:
        torch.cuda.set_device(own)
    return own


def _mark_killed(run_dir: Path, entry: dict[str, Any]) -> None:
    """Writes to the run directory that its process is gone."""
    status = read_status(run_dir / STATUS)
    if status is not None and status["state"] == "running" and status.get("pid") == entry.get("pid"):
        write_status(run_dir / STATUS, {**status, "state": "failed", "message": KILLED, "exit_code": 1})


def _remove_empty(folder: Path, keep: bool) -> None:
    """Removes what a run without results has left, and ``folder`` unless ``keep``."""
    if (folder / "config.yaml").exists():
        return
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
        for empty in () if keep else (folder, folder.parent, folder.parent.parent):
            if empty.resolve() == Path.cwd():
                break
            empty.rmdir()


def _print_table(runs: dict[str, Records]) -> None:
    runs = {folder: records for folder, records in runs.items() if records}
    if not runs:
        return
    from morphnet.report.table import caption, rows_of, runs_table
    from morphnet.report.variants import with_variations

    records = with_variations([record for found in runs.values() for record in found])
    try:
        text = runs_table(rows_of(records)).write()
    except ValueError:  # one seed in several output folders: a table for each
        text = "\n\n".join(
            f"{short(Path(folder))}\n{runs_table(rows_of(each)).write()}" for folder, each in runs.items()
        )
    print(f"\n{text}\n\n{caption(records)}", flush=True)
    for folder, each in runs.items():
        (Path(folder) / "table.txt").write_text(runs_table(rows_of(each)).write() + "\n")
