"""Whether a run is done already, by the files in its directory."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from morphnet.cli.compose import read_yaml
from morphnet.cli.identity import check_same_run
from morphnet.cli.output import short
from morphnet.cli.status import finished_records
from morphnet.config import TrainConfig

if TYPE_CHECKING:
    from morphnet.report.record import Record


def done_records(config: TrainConfig, run_dir: Path) -> list[Record] | None:
    """The records of a run that is done; refuses a directory of another one."""
    check_same_run(config, run_dir)
    from morphnet.train.plan import CONTROLS, folders_of

    if not set(config.controls) <= set(CONTROLS):  # which planning refuses
        return None
    path = run_dir / "config.yaml"
    if path.is_file():
        before, now = read_yaml(path).get("data") or {}, asdict(config.data)
        if any(before.get(key) != now[key] for key in ("path", "root", "labels")):  # their content is to be compared
            return None
    records = finished_records(run_dir, *folders_of(len(config.phases), config.controls))
    networks = [record.file.with_name("network.safetensors") for record in records or ()]
    return records if all(network.is_file() for network in networks) else None


def records_if_done(config: TrainConfig, run_dir: Path) -> list[Record] | None:
    """The same, with a line that says so."""
    done = done_records(config, run_dir)
    if done is not None:
        print(f"{short(run_dir)}: done already", flush=True)
    return done
