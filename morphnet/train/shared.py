"""Phases that runs share: each trained once, by whichever run needs it first, and linked into the others."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from morphnet.report.record import PHASE_FILE, Record, read_record, write_record
from morphnet.store import load_network, network_hash, one_at_a_time, write_whole
from morphnet.train.key import hash_of

#: Where finished phases are looked for as well; nothing is written there.
KEPT_PHASES = Path("results/phases")
#: In a run's own folder of a phase that is under way in a shared one: the hash of that.
BEGUN_FILE = "shared.json"


def find_shared(parents: Path, name: str) -> Path | None:
    """The folder of a finished phase with the hash ``name``; None if no run has finished one."""
    places = (parents / name, KEPT_PHASES / name)
    return next((place for place in places if (place / "record.json").is_file()), None)


def shared_phase(
    parents: Path,
    description: Mapping[str, Any],
    own: Mapping[str, Any],
    parent: str | None,
    phase: Path,
    tensorboard: Path,
    train: Callable[[Path, Path], Record | None],
) -> Record:
    """The record of a phase, which is trained if no run has trained it yet.

    One process trains it while others wait; if that one dies, the next goes on from its checkpoint.

    Args:
        parents: where shared phases lie; that of ``description`` in a folder named by its hash.
        own: fields of the record that belong to the run and not to whoever trained the phase.
        parent: the hash of the network that the run has for the phase to start from; None for a parent.
        phase: the run's own folder of the phase; what the phase left is put there as well.
        tensorboard: where the run's curve of the phase is expected; a link to the shared one.
        train: trains into a folder, writes its curve to another, and writes the record.

    A finished phase that started from another network than ``parent`` is not taken: the run trains its own.

    Raises:
        ValueError: what lies there is damaged.
    """
    name = hash_of(description)
    folder = parents.resolve() / name
    found, trained_here = find_shared(parents, name), False
    if found is None:
        if (phase / BEGUN_FILE).is_file() and not (folder / PHASE_FILE).is_file():
            print(f"{own['phase']}: begins again, since {parents / name} did not come along", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        waiting = f"{own['phase']}: another run trains it in {parents / name}; this one waits"
        with one_at_a_time(folder / "lock", waiting):
            if not (folder / "record.json").is_file():
                write_whole(folder / PHASE_FILE, (json.dumps(description, indent=1) + "\n").encode())
                phase.mkdir(parents=True, exist_ok=True)
                write_whole(phase / BEGUN_FILE, (json.dumps({"hash": name}) + "\n").encode())
                _link_folder(folder / "tensorboard", tensorboard)  # a curve to look at from the beginning
                try:
                    train(folder, folder / "tensorboard")
                    trained_here = True
                finally:
                    if not trained_here and (folder / "morph_report.json").is_file():  # it may say why
                        _link_file(folder / "morph_report.json", phase / "morph_report.json")
        found = parents / name
    record = _checked(found, name)
    if parent is not None and record.started_from != parent:
        print(f"{own['phase']}: {found} started from another network than this run has; it trains its own", flush=True)
        made = train(phase, tensorboard)
        assert made is not None  # the first process calls this
        return made
    if not trained_here:
        trainer = f" by {record.experiment}" if record.experiment != own["experiment"] else ""
        print(f"{own['phase']}: trained already{trainer}, in {found}", flush=True)
    if (found / "tensorboard").is_dir() and not _link_folder(found.resolve() / "tensorboard", tensorboard):
        shutil.copytree(found / "tensorboard", tensorboard, dirs_exist_ok=True)
    for file in sorted(found.iterdir()):
        if file.is_file() and file.name not in ("record.json", PHASE_FILE, "lock") and file.name[0] != ".":
            _link_file(file, phase / file.name)
    trained_by = {"experiment": record.experiment, "command": list(record.command)}
    shared = {"hash": name, "found_in": str(found), "trained_by": trained_by}
    record = write_record(replace(record, **own, shared_parent=shared), phase / "record.json")
    (phase / BEGUN_FILE).unlink(missing_ok=True)
    return record


def _checked(folder: Path, name: str) -> Record:
    """The record of a finished phase in ``folder``.

    Raises:
        ValueError: it is damaged, its network is another one, or it is of another phase than ``name``.
    """
    try:
        record = read_record(folder / "record.json")
        if hash_of(json.loads((folder / PHASE_FILE).read_text())) != name:
            raise ValueError(f"{folder / PHASE_FILE} describes another phase")
        if network_hash(load_network(folder / "network.safetensors")) != record.lineage.network:
            raise ValueError(f"{folder / 'network.safetensors'} is not the network that its record.json describes")
    except (OSError, ValueError) as error:
        raise ValueError(f"{error}; delete the folder {folder}, and the same command trains it again") from error
    return record


def _link_file(source: Path, target: Path) -> None:
    """Makes ``target`` the same file as ``source``, or a copy of it where the file system cannot."""
    part = target.with_name(f".{target.name}.link")
    target.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
        os.replace(part, target)
    except OSError:
        write_whole(target, source.read_bytes())
    finally:
        part.unlink(missing_ok=True)  # replacing a file by itself leaves both names


def _link_folder(source: Path, target: Path) -> bool:
    """Makes ``target`` a relative link to ``source``; False where the file system has no such links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)  # of an attempt that left no checkpoint, or a copy
    try:
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(source, target.parent.resolve()), target_is_directory=True)
    except OSError:
        return False
    return True
