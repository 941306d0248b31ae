"""A whole run: parent, children and controls, one phase after the other, in one directory."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from morphnet.config import MorphConfig
from morphnet.data import Augmentation, ImageData, TrainBatches, calibration_batches, generator_for
from morphnet.flops import count_macs, count_parameters
from morphnet.morph import InexactError, MorphError, morph_network, words
from morphnet.nn.metadata import metadata_of
from morphnet.nn.resnet import Architecture, ResNet, with_parametric_activations
from morphnet.report.record import FORMAT, environment, read_record, write_record
from morphnet.store import describe_network, load_network, network_hash, save_network
from morphnet.train.checkpoint import remove_checkpoints
from morphnet.train.engine import Engine
from morphnet.train.interruption import Interruption
from morphnet.train.phase import Optimisation, PhaseResult, run_phase
from morphnet.train.plan import PhasePlan
from morphnet.train.tensorboard import PhaseLog


@dataclass(frozen=True)
class Experiment:
    """What every phase of a run shares.

    Attributes:
        name: of the experiment, as in the tables.
        seed: everything random is a function of it.
        settings: further plain values for the records, such as the composed choices.
    """

    name: str
    seed: int
    run_dir: Path
    data: ImageData
    augmentation: Augmentation
    batch_size: int
    optimisation: Optimisation
    morphing: MorphConfig
    engine: Engine
    evaluate_every: int
    checkpoint_seconds: float
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.evaluate_every < 1:
            raise ValueError(f"trainer.evaluate_every={self.evaluate_every}: a number of epochs from 1 is needed")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"trainer.checkpoint_seconds={self.checkpoint_seconds}: a number from 0 is needed")


def run_experiment(
    experiment: Experiment, plans: Sequence[PhasePlan], architecture: Architecture | None, parent: nn.Module | None
) -> list[dict[str, Any]]:
    """Runs every phase that has no record yet, and returns the records of all.

    A phase that was interrupted goes on from its checkpoint. What a finished phase left is never changed.

    Args:
        architecture: of the parent, where it is trained here; else it may be None.
        parent: a trained network, where it is not.

    Raises:
        MorphError: a child failed its proof; the report is in the folder of its phase.
        ValueError, FloatingPointError: see :func:`~morphnet.train.phase.run_phase`.
    """
    experiment.run_dir.mkdir(parents=True, exist_ok=True)
    made_with = environment(experiment.engine.device)  # now: the source tree may change while the run goes on
    records: list[dict[str, Any]] = []
    with Interruption() as interruption:
        for plan in plans:
            record_path = _folder(experiment, plan) / "record.json"
            if record_path.is_file():
                records.append(read_record(record_path))
                continue
            network = _start(experiment, plan, plans, architecture, parent)
            records.append(_run(experiment, plan, plans, network, record_path, made_with, interruption))
    return records


def _folder(experiment: Experiment, plan: PhasePlan) -> Path:
    return experiment.run_dir / "phases" / plan.folder


def _start(
    experiment: Experiment,
    plan: PhasePlan,
    plans: Sequence[PhasePlan],
    architecture: Architecture | None,
    parent: nn.Module | None,
) -> nn.Module:
    """The network a phase starts with: made once, then read from its file."""
    folder = _folder(experiment, plan)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "start.safetensors"
    if path.is_file():
        return load_network(path)
    if plan.source is None:
        if parent is None:
            assert architecture is not None
            network: nn.Module = ResNet(architecture, generator_for(experiment.seed, "initial weights"))
            metadata_of(network)["lineage"] = []
        else:
            network = parent
            metadata_of(network).setdefault("lineage", [])
        metadata_of(network).update(_metadata(experiment.data))
    else:
        source_plan = plans[plan.source]
        source = load_network(_folder(experiment, source_plan) / "network.safetensors")
        lineage = [
            *metadata_of(source).get("lineage", []),
            {"phase": source_plan.name, "network": network_hash(source)},
        ]
        experiment.engine.place(source)
        if plan.grows:
            network = _morph(experiment, plan, source, folder)
        else:
            network = _parametric(source) if plan.parametric else source
        metadata_of(network)["lineage"] = lineage
    save_network(network, path)
    return network


def _parametric(network: nn.Module) -> ResNet:
    assert isinstance(network, ResNet)  # plan_phases refuses this control for any other
    return with_parametric_activations(network)


def _morph(experiment: Experiment, plan: PhasePlan, source: nn.Module, folder: Path) -> nn.Module:
    morphing = experiment.morphing
    key = (experiment.seed, plan.index, "calibration")
    batches = calibration_batches(experiment.data, experiment.augmentation, key, morphing.calibration_batches)
    settings: dict[str, Any] = {
        "calibration": batches,
        "activation": morphing.activation,
        "method": plan.method,
        "init": morphing.layers.init,
        "generator": generator_for(experiment.seed, plan.index, "filters"),
    }
    if plan.layers is None:
        settings |= {"bn": morphing.bn, "padding": morphing.padding, "split": morphing.split, "width": morphing.width}
    else:
        settings |= {"bn": morphing.layers.bn, "padding": morphing.layers.padding}
    try:
        child, report = morph_network(source, plan.layers or plan.morph or "", **settings)
    except MorphError as error:
        report = error.report
        (folder / "morph_report.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
        raise
    except InexactError as error:
        failed = {"passed": False, "failures": [str(error)]}
        (folder / "morph_report.json").write_text(json.dumps(failed, indent=1) + "\n")
        raise
    (folder / "morph_report.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    print(report, flush=True)
    return child


def _run(
    experiment: Experiment,
    plan: PhasePlan,
    plans: Sequence[PhasePlan],
    network: nn.Module,
    record_path: Path,
    made_with: dict[str, Any],
    interruption: Interruption,
) -> dict[str, Any]:
    folder = record_path.parent
    started = datetime.datetime.now(datetime.UTC)
    start_hash = network_hash(network)
    batches = TrainBatches(
        experiment.data, experiment.batch_size, experiment.augmentation, (experiment.seed, _shared_index(plan, plans))
    )
    tensorboard = experiment.run_dir / "tensorboard" / f"phase{plan.folder}"
    with contextlib.closing(PhaseLog(tensorboard, experiment.data.evaluated_on, plan.offset)) as log:
        result = run_phase(
            network,
            batches,
            plan.schedule,
            experiment.optimisation,
            experiment.engine,
            name=plan.name,
            log=log,
            folder=folder,
            identity=_identity(experiment, plan, start_hash),
            checkpoint_seconds=experiment.checkpoint_seconds,
            evaluate_every=experiment.evaluate_every,
            interruption=interruption,
        )
    network.eval()
    save_network(network, folder / "network.safetensors")
    source = None if plan.source is None else _folder(experiment, plans[plan.source]).name
    record = {
        "format": FORMAT,
        "experiment": experiment.name,
        "seed": experiment.seed,
        "index": plan.index,
        "phase": plan.name,
        "label": plan.label,
        "role": plan.role,
        "source": source,
        "morph": plan.morph if plan.layers is None else {p: words(o) for p, o in plan.layers.items()},
        **_figures(result, experiment),
        "macs": count_macs(network, (1, *experiment.data.input_size)),
        "parameters": count_parameters(network),
        "architecture": describe_network(network).get("architecture"),
        "network": describe_network(network),
        "data": {
            "name": experiment.data.name,
            "train_images": len(experiment.data.train),
            "evaluated_on": experiment.data.evaluated_on,
            "images": len(experiment.data.test),
            "mean": list(experiment.data.mean),
            "std": list(experiment.data.std),
        },
        "optimisation": {**asdict(experiment.optimisation), "batch_size": experiment.batch_size},
        "schedule": None if plan.schedule is None else asdict(plan.schedule),
        "augmentation": asdict(experiment.augmentation),
        "lineage": {
            "origin": metadata_of(network).get("origin"),
            "ancestors": metadata_of(network).get("lineage", []),
            "start": start_hash,
            "network": network_hash(network),
        },
        "morph_report": "morph_report.json" if plan.grows else None,
        "settings": dict(experiment.settings),
        "command": [*sys.argv[0].split(), *sys.argv[1:]],
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **made_with,
    }
    write_record(record, record_path)
    remove_checkpoints(folder)
    return record


def _identity(experiment: Experiment, plan: PhasePlan, start_hash: str) -> str:
    """What a checkpoint of the phase belongs to."""
    schedule = None if plan.schedule is None else asdict(plan.schedule)
    facts = [experiment.seed, plan.folder, start_hash, schedule, asdict(experiment.optimisation), experiment.batch_size]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _figures(result: PhaseResult, experiment: Experiment) -> dict[str, Any]:
    return {
        "error": result.final.error,
        "errors": result.final.errors,
        "loss": result.final.loss,
        "start_error": result.start.error,
        "start_loss": result.start.loss,
        "train_error": result.train_error,
        "train_loss": result.train_loss,
        "steps": result.steps,
        "lr": result.lr,
        "seconds": round(result.seconds, 2),
        "images_per_second": result.images_per_second and round(result.images_per_second, 1),
        "resumed": result.resumed,
        "training_precision": str(experiment.engine.precision).removeprefix("torch."),
        "evaluation_precision": "float32",
        "compiled": result.compiled,
        "history": list(result.history),
    }


def _shared_index(plan: PhasePlan, plans: Sequence[PhasePlan]) -> int:
    """How many phases came before: a child and its control see the same images in the same order."""
    return 0 if plan.source is None else 1 + _shared_index(plans[plan.source], plans)


def _metadata(data: ImageData) -> dict[str, Any]:
    return {
        "data": data.name,
        "class_names": list(data.class_names),
        "input_size": list(data.input_size),
        "mean": list(data.mean),
        "std": list(data.std),
    }
