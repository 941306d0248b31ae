"""Parents that several runs share: trained once, and found by the hash of everything that influences them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from morphnet.data.files import UNREADABLE_FILE
from morphnet.later import facts
from morphnet.nn.resnet import Architecture
from morphnet.report.outcomes import FILES as OUTCOMES
from morphnet.report.record import PARENT_FILE, read_record, write_record
from morphnet.store import one_at_a_time, write_whole
from morphnet.train.experiment import Experiment
from morphnet.train.handover import MOMENTUM_FILE
from morphnet.train.plan import PhasePlan

#: Of what is hashed. To be raised when training itself changes, so that no parent of older code is taken.
FORMAT = 1


def describe_parent(experiment: Experiment, plan: PhasePlan, architecture: Architecture) -> dict[str, Any]:
    """Everything that influences a parent's weights and figures, as plain values; nothing of what comes after it."""
    engine, data, schedule = experiment.engine, experiment.data, plan.schedule
    assert schedule is not None
    return {
        "format": FORMAT,
        "seed": experiment.seed,
        "network": architecture.to_dict(),
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint(),
            "class_names": list(data.class_names),
            "evaluated_on": data.evaluated_on,
            "mean": list(data.mean),
            "std": list(data.std),
        },
        "augmentation": facts(experiment.augmentation),
        "batch_size": experiment.batch_size,
        "processes": experiment.ranks.count,
        "sync_bn": experiment.sync_bn,
        "optimisation": facts(experiment.optimisation),
        "schedule": facts(schedule),
        "evaluate_every": experiment.evaluate_every,  # the last figures of training reach back to the evaluation before
        "device": engine.device.type,
        "precision": str(engine.precision).removeprefix("torch."),
        "cuda_graph": engine.captures(experiment.ranks.count),
        "compiled": engine.compiles(schedule.steps * experiment.batch_size),
        "threads": experiment.threads if engine.device.type == "cpu" else None,  # they order the sums
    }


def parent_hash(description: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for ``description``."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def shared_parent(
    parents: Path,
    description: Mapping[str, Any],
    own: Mapping[str, Any],
    phase: Path,
    tensorboard: Path,
    train: Callable[[Path, Path], dict[str, Any]],
) -> dict[str, Any]:
    """The record of a run's parent, which is trained if no run has trained it yet.

    One process trains it while others wait; if that one dies, the next goes on from its checkpoint.

    Args:
        parents: where shared parents lie; that of ``description`` in a folder named by its hash.
        own: keys of the record that belong to the run and not to whoever trained the parent.
        phase: the run's own folder of the phase; network and record are put there as well.
        tensorboard: where the run's curve of the parent is expected; a link to the shared one.
        train: trains into a folder and writes its curve to another; returns the record, which it has written.
    """
    name = parent_hash(description)
    folder = parents.resolve() / name
    record_path = folder / "record.json"
    folder.mkdir(parents=True, exist_ok=True)
    linked = _link_folder(folder / "tensorboard", tensorboard)
    trained_here = False
    if not record_path.is_file():
        waiting = f"{own['phase']}: another run trains it in {parents / name}; this one waits"
        with one_at_a_time(folder / "lock", waiting):
            if not record_path.is_file():
                write_whole(folder / PARENT_FILE, (json.dumps(description, indent=1) + "\n").encode())
                train(folder, folder / "tensorboard")
                trained_here = True
    try:
        found = read_record(record_path)
    except ValueError as error:
        raise ValueError(
            f"{error}; delete the folder {parents / name}, and the same command trains it again"
        ) from error
    if not trained_here:
        print(f"{own['phase']}: trained already, in {parents / name}", flush=True)
    if not linked:
        shutil.copytree(folder / "tensorboard", tensorboard, dirs_exist_ok=True)
    for file in ("start.safetensors", "network.safetensors", "steps.csv"):
        _link_file(folder / file, phase / file)
    for file in (MOMENTUM_FILE, UNREADABLE_FILE, *OUTCOMES):  # not there: of earlier versions, or with nothing in it
        if (folder / file).is_file():
            _link_file(folder / file, phase / file)
    trained_by = {key: found.get(key) for key in ("experiment", "command")}
    record = {**found, **own, "shared_parent": {"hash": name, "trained_by": trained_by}}
    write_record(record, phase / "record.json")
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
