"""Whether a run is done already, as the files in its directory say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from morphnet.cli.identity import check_same_run
from morphnet.cli.output import short
from morphnet.cli.status import finished_records
from morphnet.config import TrainConfig


def done_records(config: TrainConfig, run_dir: Path) -> list[dict[str, Any]] | None:
    """The records of a run that is done; refuses a directory of another one."""
    check_same_run(config, run_dir)
    from morphnet.train.plan import CONTROLS, folders_of

    if not set(config.controls) <= set(CONTROLS):  # which planning refuses
        return None
    return finished_records(run_dir, *folders_of(len(config.phases), config.controls))


def records_if_done(config: TrainConfig, run_dir: Path) -> list[dict[str, Any]] | None:
    """Those of :func:`done_records`, said in a line."""
    done = done_records(config, run_dir)
    if done is not None:
        print(f"{short(run_dir)}: done already", flush=True)
    return done
