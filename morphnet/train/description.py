"""The record of a phase, and the values by which TensorBoard compares runs."""

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
from morphnet.report.record import Commit, Data, Lineage, Record, Settings, Views
from morphnet.store import describe_network, network_hash
from morphnet.train.experiment import Experiment
from morphnet.train.key import handover_of, morphing_of, optimisation_of
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
) -> Record:
    """The record of a finished phase, without its outcomes.

    Args:
        made_with: from :func:`~morphnet.report.record.environment`.
        start_hash: of the network before training.
    """
    metadata = metadata_of(network)
    ancestors = metadata.get("lineage", [])
    description = describe_network(network)
    size = (1, *experiment.data.input_size)
    trained_parent = plan.source is None and plan.schedule is not None
    commit = made_with["commit"]
    return Record(
        **own_facts(experiment, plan),
        **_measurements(result, experiment),
        **(collapsed_cost(network, size) if plan.linear else {"collapsed_macs": None, "collapsed_parameters": None}),
        seed=experiment.seed,
        from_scratch=plan.method == "scratch" or (trained_parent and not ancestors),
        morph=plan.morph if plan.layers is None else {p: words(o) for p, o in plan.layers.items()},
        processes=experiment.ranks.count,
        macs=count_macs(network, size),
        parameters=count_parameters(network),
        architecture=description.get("architecture"),
        network=description,
        data=_data(experiment.data, result.final.images),
        optimisation={**optimisation_of(experiment), "batch_size": experiment.batch_size},
        schedule=None if plan.schedule is None else asdict(plan.schedule),
        handover=handover_of(plan),
        augmentation=asdict(experiment.augmentation),
        lineage=Lineage(metadata.get("origin"), tuple(ancestors), start_hash, network_hash(network)),
        morph_report="morph_report.json" if plan.is_proved else None,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=made_with["versions"],
        hardware=made_with["hardware"],
        commit=None if commit is None else Commit(**commit),
    )


def own_facts(experiment: Experiment, plan: PhasePlan) -> dict[str, Any]:
    """Fields of a record that belong to the run and not to whoever trained the phase."""
    return {
        "experiment": experiment.name,
        "phase": plan.name,
        "index": plan.index,
        "label": plan.label,
        "role": plan.role,
        "control": plan.control,
        "beside": plan.beside,
        "source": None if plan.source is None else plan.source.folder,
        "settings": Settings(**{**experiment.settings, "morphing": morphing_of(experiment, plan)}),
        "command": (*sys.argv[0].split(), *sys.argv[1:]),
    }


def _data(data: ImageData, images: int) -> Data:
    unreadable = 0 if data.unreadable is None else data.unreadable.count()
    mean, std = tuple(map(float, data.mean)), tuple(map(float, data.std))
    return Data(data.name, len(data.train), data.evaluated_on, images, unreadable, mean, std)


def _measurements(result: PhaseResult, experiment: Experiment) -> dict[str, Any]:
    final, views = result.final, result.final_views
    return {
        "error": final.error,
        "errors": final.errors,
        "loss": final.loss,
        "views": None if views is None else Views(experiment.data.views, views.error, views.errors, views.loss),
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
        "stretches": tuple(result.stretches),
        "history": tuple(result.history),
    }


def hparams_of(experiment: Experiment, plans: Sequence[PhasePlan]) -> dict[str, Any]:
    """The values by which runs of a sweep are compared."""
    last = next(plan for plan in reversed(plans) if plan.role != "control")
    schedule = last.schedule
    return {
        "experiment": experiment.name,
        "seed": experiment.seed,
        "phases": " -> ".join(plan.name for plan in plans if plan.role != "control"),
        "recipe": experiment.settings.get("recipe"),
        "batch_size": experiment.batch_size,
        "bn": morphing_of(experiment, last)["bn"],
        "steps": last.steps,
        "lr": 0.0 if schedule is None else schedule.lr,
        **optimisation_of(experiment),
        **handover_of(last),
    }


def final_errors(records: Sequence[Record]) -> dict[str, float]:
    """The final error of the parent, the last child, and each control."""
    errors = {}
    for record in sorted(records, key=lambda record: ("child", "control", "parent").index(record.role)):
        errors[f"final/error_{record.phase if record.role == 'control' else record.role}"] = record.error
    return errors


def facts_of_data(data: ImageData) -> dict[str, Any]:
    return {
        "data": data.name,
        "class_names": list(data.class_names),
        "input_size": list(data.input_size),
        "mean": list(data.mean),
        "std": list(data.std),
    }
