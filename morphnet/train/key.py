"""The identity of a phase: a description of everything that decides its result, and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from morphnet.graph import ModuleGraph
from morphnet.morph import Operation
from morphnet.train.experiment import Experiment
from morphnet.train.plan import PhasePlan

#: Part of what is hashed. Raise it when training itself changes, so that phases of older code are not shared.
FORMAT = 3


def describe_key(experiment: Experiment, plan: PhasePlan) -> dict[str, Any]:
    """Everything that decides the result of a phase, as plain values, without weights and kind of arithmetic."""
    data = experiment.data
    return {
        "format": FORMAT,
        "seed": experiment.seed,
        "start": _start(experiment, plan),
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint(),
            "class_names": list(data.class_names),
            "evaluated_on": data.evaluated_on,
            "mean": list(data.mean),
            "std": list(data.std),
            "viewing": data.viewing,
        },
        "augmentation": asdict(experiment.augmentation),
        "batch_size": experiment.batch_size,
        "processes": experiment.ranks.count,
        "sync_bn": experiment.trainer.sync_bn,
        "optimisation": optimisation_of(experiment),
        "schedule": None if plan.schedule is None else asdict(plan.schedule),
    }


def optimisation_of(experiment: Experiment) -> dict[str, Any]:
    """What training needs beside the batch size and the learning rate, as plain values."""
    apart = ("batch_size", "batch_size_per_process", "lr")
    return {key: value for key, value in asdict(experiment.optimisation).items() if key not in apart}


def handover_of(plan: PhasePlan) -> dict[str, Any]:
    """How the phase starts from its source, beside the morph, as plain values."""
    return {key: getattr(plan.handover, key) for key in ("kept_lr", "momentum", "shrink", "perturb")}


def morphing_of(experiment: Experiment, plan: PhasePlan) -> dict[str, Any]:
    """The settings of the phase's morph as plain values, defaults in place of null."""
    return asdict(experiment.morphing) | experiment.morphing.settings_of(plan.layers is not None)


def hash_of(description: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of the hash of ``description``."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def phase_hash(experiment: Experiment, plan: PhasePlan) -> str:
    """The hash of the phase's description."""
    return hash_of(describe_key(experiment, plan))


def _start(experiment: Experiment, plan: PhasePlan) -> dict[str, Any]:
    """What the phase starts from, and how that is changed first."""
    if plan.source is None:
        return dict(experiment.root)
    if plan.method == "scratch":
        return {"scratch": _structure(experiment, plan.source)}
    source, change = phase_hash(experiment, plan.source), _change(experiment, plan)
    return {"phase": source, "change": change, "handover": handover_of(plan)}


def _structure(experiment: Experiment, plan: PhasePlan) -> list[dict[str, Any]]:
    """The structure of a phase's network: the first network of the run, and every change since."""
    before = [dict(experiment.root)] if plan.source is None else _structure(experiment, plan.source)
    change = _change(experiment, plan)
    return [*before, change] if change else before


def _change(experiment: Experiment, plan: PhasePlan) -> dict[str, Any]:
    change: dict[str, Any] = {"linear": True} if plan.linear else {}
    if plan.parametric:
        change["parametric"] = True
    if plan.grows:
        layers = {pattern: _plain(operation) for pattern, operation in (plan.layers or {}).items()}
        change |= {"morph": plan.morph or layers, "method": plan.method, "morphing": morphing_of(experiment, plan)}
    return change


def _plain(operation: Operation) -> dict[str, Any]:
    if isinstance(operation, ModuleGraph):
        return operation.to_dict()
    return {type(operation).__name__: asdict(operation)}
