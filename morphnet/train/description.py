"""What a record says of a phase, and what is compared of a run, as plain values."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from morphnet.data import ImageData
from morphnet.flops import count_macs, count_parameters
from morphnet.morph import words
from morphnet.nn.metadata import metadata_of
from morphnet.report.record import FORMAT
from morphnet.store import describe_network, network_hash
from morphnet.train.experiment import Experiment
from morphnet.train.linear import collapsed_cost
from morphnet.train.phase import PhaseResult
from morphnet.train.plan import PhasePlan


def describe_phase(
    experiment: Experiment,
    made_with: Mapping[str, Any],
    plan: PhasePlan,
    network: nn.Module,
    result: PhaseResult,
    start_hash: str,
    started: datetime.datetime,
) -> dict[str, Any]:
    """The record of a phase that is done."""
    ancestors = metadata_of(network).get("lineage", [])
    trained_parent = plan.source is None and plan.schedule is not None
    return {
        "format": FORMAT,
        **own_facts(experiment, plan),
        "seed": experiment.seed,
        "from_scratch": plan.method == "scratch" or (trained_parent and not ancestors),
        "morph": plan.morph if plan.layers is None else {p: words(o) for p, o in plan.layers.items()},
        **_figures(result, experiment),
        "macs": count_macs(network, (1, *experiment.data.input_size)),
        "parameters": count_parameters(network),
        **(collapsed_cost(network, (1, *experiment.data.input_size)) if plan.linear else {}),
        "architecture": describe_network(network).get("architecture"),
        "network": describe_network(network),
        "data": {
            "name": experiment.data.name,
            "train_images": len(experiment.data.train),
            "evaluated_on": experiment.data.evaluated_on,
            "images": result.final.images,
            "unreadable": 0 if experiment.data.unreadable is None else experiment.data.unreadable.count(),
            "mean": list(experiment.data.mean),
            "std": list(experiment.data.std),
        },
        "optimisation": {**asdict(experiment.optimisation), "batch_size": experiment.batch_size},
        "schedule": None if plan.schedule is None else asdict(plan.schedule),
        "handover": asdict(plan.handover),
        "augmentation": asdict(experiment.augmentation),
        "processes": experiment.ranks.count,
        "lineage": {
            "origin": metadata_of(network).get("origin"),
            "ancestors": ancestors,
            "start": start_hash,
            "network": network_hash(network),
        },
        "morph_report": "morph_report.json" if plan.is_proved else None,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **made_with,
    }


def own_facts(experiment: Experiment, plan: PhasePlan) -> dict[str, Any]:
    """What a record says of the run, and not of what was trained."""
    return {
        "experiment": experiment.name,
        "phase": plan.name,
        "index": plan.index,
        "label": plan.label,
        "role": plan.role,
        "source": None if plan.source is None else plan.source.folder,
        "settings": dict(experiment.settings),
        "command": [*sys.argv[0].split(), *sys.argv[1:]],
    }


def _figures(result: PhaseResult, experiment: Experiment) -> dict[str, Any]:
    return {
        "error": result.final.error,
        "errors": result.final.errors,
        "loss": result.final.loss,
        "views": _views(result, experiment.data.views),
        "start_error": result.start.error,
        "start_loss": result.start.loss,
        "train_error": result.train_error,
        "train_loss": result.train_loss,
        "steps": result.steps,
        "lr": result.lr,
        "seconds": round(result.seconds, 2),
        "images_per_second": result.images_per_second and round(result.images_per_second, 1),
        "resumed": result.resumed,
        "gpu_memory_bytes": result.gpu_memory,
        "training_precision": str(experiment.engine.precision).removeprefix("torch."),
        "evaluation_precision": "float32",
        "compiled": result.compiled,
        "stretches": list(result.stretches),
        "history": list(result.history),
    }


def _views(result: PhaseResult, count: int) -> dict[str, Any] | None:
    """Errors over ``count`` views of each image, where they were counted."""
    found = result.final_views
    return None if found is None else {"count": count, "error": found.error, "errors": found.errors, "loss": found.loss}


def hparams_of(experiment: Experiment, plans: Sequence[PhasePlan]) -> dict[str, Any]:
    """What runs of a sweep are compared by."""
    last = next(plan for plan in reversed(plans) if plan.role != "control")
    schedule = last.schedule
    return {
        "experiment": experiment.name,
        "seed": experiment.seed,
        "phases": " -> ".join(plan.name for plan in plans if plan.role != "control"),
        "recipe": experiment.settings.get("recipe"),
        "batch_size": experiment.batch_size,
        "bn": experiment.morphing.bn,
        "steps": 0 if schedule is None else schedule.steps,
        "lr": 0.0 if schedule is None else schedule.lr,
        **asdict(experiment.optimisation),
        **asdict(last.handover),
    }


def final_errors(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The final error of the parent, the last child, and each control."""
    found = {}
    for record in sorted(records, key=lambda r: ("child", "control", "parent").index(r["role"])):
        name = record["phase"] if record["role"] == "control" else record["role"]
        found[f"final/error_{name}"] = float(record["error"])
    return found


def facts_of_data(data: ImageData) -> dict[str, Any]:
    return {
        "data": data.name,
        "class_names": list(data.class_names),
        "input_size": list(data.input_size),
        "mean": list(data.mean),
        "std": list(data.std),
    }
