"""``morphnet report collect=true``: records of finished runs, copied to where results are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from morphnet.cli.compose import read_yaml
from morphnet.cli.output import short

#: Where they are kept, in the current directory.
KEPT = Path("results/records")


def collect(paths: Sequence[Path]) -> list[Path]:
    """Copies every record, what lies beside it and the configuration of its run; returns the runs' new folders.

    Those that are kept there already stay as they are.
    Of absolute paths in commands and configurations the last part is kept: they say something of the machine alone.

    Raises:
        ValueError: a record was made from code that is in no commit; nothing is copied then.
        FileExistsError: another run is kept under the same name; nothing is copied then.
    """
    from morphnet.report.record import WATCH_FILE, read_record
    from morphnet.store import write_whole

    records = {path: read_record(path) for path in paths if KEPT.resolve() not in path.resolve().parents}
    wrong = [path for path, record in records.items() if not _is_committed(record)]
    if wrong:
        names = "\n  ".join(f"{short(path.parent)} ({_why_not(records[path])})" for path in wrong)
        raise ValueError(
            f"{len(wrong)} record{'s are' if wrong[1:] else ' is'} of code that nobody could find again:\n  {names}"
        )
    places = {path: KEPT / record["experiment"] / path.parents[2].name for path, record in records.items()}
    for path, folder in places.items():
        kept = folder / "phases" / path.parent.name / "record.json"
        if kept.is_file() and read_record(kept)["lineage"] != records[path]["lineage"]:
            raise FileExistsError(
                f"{kept} is the record of another run than {short(path)}; rename one of their folders"
            )
    folders = []
    for path, record in records.items():
        run, folder = path.parents[2], places[path]
        phase = folder / "phases" / path.parent.name
        phase.mkdir(parents=True, exist_ok=True)
        for name in ("morph_report.json", WATCH_FILE, *(record.get("outcomes") or ())):
            if path.with_name(name).is_file():
                write_whole(phase / name, path.with_name(name).read_bytes())
        # Last: a record is whole with the files it names.
        write_whole(phase / "record.json", (json.dumps(_without_machine(record), indent=1) + "\n").encode())
        if folder not in folders:
            folders.append(folder)
            if (run / "config.yaml").is_file():
                text = OmegaConf.to_yaml(OmegaConf.create(_without_machine(read_yaml(run / "config.yaml"))))
                write_whole(folder / "config.yaml", text.encode())
    return folders


def _is_committed(record: dict[str, Any]) -> bool:
    """Whether all of a phase was made by code that is in a commit."""
    commits = [record.get("commit"), *(stretch["commit"] for stretch in record.get("stretches", ()))]
    return all(isinstance(c, dict) and bool(c.get("hash")) and not c.get("dirty", True) for c in commits)


def _why_not(record: dict[str, Any]) -> str:
    if record.get("commit"):
        return "uncommitted changes"
    return "no commit is known: set MORPHNET_COMMIT to it, or install a clone with pip install -e"


def _without_machine(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_machine(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_machine(v) for v in value]
    if isinstance(value, str):
        key, equals, path = value.rpartition("=")
        if path.startswith("/"):
            return key + equals + Path(path).name
    return value
