"""``morphnet report collect=true``: records of finished runs, copied to where results are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from morphnet.cli.compose import read_yaml
from morphnet.cli.output import short

if TYPE_CHECKING:
    from morphnet.report.record import Record

#: Where records are kept, in the current directory.
KEPT = Path("results/records")


def collect(records: Sequence[Record]) -> list[Path]:
    """Copies every record, the files beside it and the configuration of its run; returns the runs' new folders.

    Records that are kept already stay as they are. Absolute paths in commands and configurations are reduced to their
    last part, since the rest only describes the machine.

    Raises:
        ValueError: a record was made from code that is in no commit; nothing is copied then.
        FileExistsError: another run is kept under the same name; nothing is copied then.
    """
    from morphnet.report.record import WATCH_FILE, read_record
    from morphnet.store import write_whole

    records = [record for record in records if KEPT.resolve() not in record.file.resolve().parents]
    wrong = [record for record in records if not _is_committed(record)]
    if wrong:
        names = "\n  ".join(f"{short(record.file.parent)} ({_why_not(record)})" for record in wrong)
        raise ValueError(
            f"{len(wrong)} record{'s are' if wrong[1:] else ' is'} of code that nobody could find again:\n  {names}"
        )
    for record in records:
        kept = _place(record) / "record.json"
        if kept.is_file() and read_record(kept).lineage != record.lineage:
            raise FileExistsError(
                f"{kept} is the record of another run than {short(record.file)}; rename one of their folders"
            )
    folders: list[Path] = []
    for record in records:
        phase = _place(record)
        folder = phase.parents[1]
        phase.mkdir(parents=True, exist_ok=True)
        for name in ("morph_report.json", WATCH_FILE, *(record.outcomes or ())):
            if record.file.with_name(name).is_file():
                write_whole(phase / name, record.file.with_name(name).read_bytes())
        # Last: a record is whole with the files it names.
        text = json.dumps(_without_machine(record.to_dict()), indent=1)
        write_whole(phase / "record.json", (text + "\n").encode())
        config = record.run_dir / "config.yaml"
        if folder not in folders and config.is_file():
            settings = OmegaConf.to_yaml(OmegaConf.create(_without_machine(read_yaml(config))))
            write_whole(folder / "config.yaml", settings.encode())
        folders += [] if folder in folders else [folder]
    return folders


def _place(record: Record) -> Path:
    """Where the phase of ``record`` is kept."""
    return KEPT / record.experiment / record.run_dir.name / "phases" / record.file.parent.name


def _is_committed(record: Record) -> bool:
    """Whether all code that made a phase is in a commit."""
    return all(commit is not None and commit.hash and not commit.dirty for commit in record.commits)


def _why_not(record: Record) -> str:
    if record.commit is not None:
        return "uncommitted changes"
    return "no commit is known: set MORPHNET_COMMIT to it, or install a clone with pip install -e"


def _without_machine(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_machine(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_machine(v) for v in value]
    if isinstance(value, str):
        key, equals, path = value.rpartition("=")
        if path.startswith("/"):
            return key + equals + Path(path).name
    return value
