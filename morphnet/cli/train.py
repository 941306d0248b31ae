"""``morphnet train``: a parent, its morphs and their controls."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from morphnet.cli import STARTED
from morphnet.cli.compose import to_dataclass
from morphnet.cli.done import records_if_done
from morphnet.cli.process import train_here
from morphnet.cli.status import RunStatus
from morphnet.cli.sweep import device_of_this_job, launch
from morphnet.config import TrainConfig

if TYPE_CHECKING:
    from morphnet.report.record import Record


def main() -> None:
    """Runs one experiment, or with ``-m`` one for each combination of overrides."""
    launch(train)


def train(composed: DictConfig, run_dir: Path, status: RunStatus) -> list[Record]:
    """Runs ``composed`` in ``run_dir``, in ``devices`` processes; returns its records.

    If the run is finished already, neither data nor networks are loaded.
    """
    config = to_dataclass(composed, TrainConfig)
    with _stopped_after(config.trainer.stop_after):
        return _train(config, run_dir, status)


@contextlib.contextmanager
def _stopped_after(seconds: float | None) -> Iterator[None]:
    """Within, this process gets a SIGTERM ``seconds`` after the command began."""
    if seconds is None:
        yield
        return
    left = max(0.0, STARTED + seconds - time.monotonic())
    timer = threading.Timer(left, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _train(config: TrainConfig, run_dir: Path, status: RunStatus) -> list[Record]:
    recipe = HydraConfig.get().runtime.choices.get("recipe")

    from morphnet.train.ranks import check_devices, started_by_launcher

    if config.devices == 1 or config.dry_run or started_by_launcher():
        return train_here(config, run_dir, recipe, device_of_this_job(config.device), status.begin)

    from morphnet.cli.workers import run_workers
    from morphnet.report.record import read_run

    done = records_if_done(config, run_dir)
    if done is None:
        check_devices(config.device, config.devices)
        run_workers(config, run_dir, recipe, config.devices, config.trainer.restarts, status)
    return done or read_run(run_dir)
