"""From a composed configuration to an experiment with its phases planned; nothing is run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from morphnet.cli.identity import variant_of
from morphnet.cli.inputs import architecture_of, augmentation_of, load_data, load_parent, normalised
from morphnet.cli.operations import layer_morphs
from morphnet.cli.output import note
from morphnet.config import TrainConfig
from morphnet.data import ImageData, generator_for, train_batches
from morphnet.nn.head import with_new_head
from morphnet.nn.metadata import metadata_of
from morphnet.nn.resnet import Architecture, ResNet
from morphnet.store import network_hash
from morphnet.store.source import network_of_run
from morphnet.train import Engine, Experiment, PhasePlan, plan_phases
from morphnet.train.growth import rehearse
from morphnet.train.handover import load_momentum
from morphnet.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Prepared:
    """A run that can begin.

    Attributes:
        architecture: of the parent, where it is one of our ResNets.
        parent: a trained network, which may have a new last layer; None where it is trained here from the beginning.
    """

    experiment: Experiment
    plans: Sequence[PhasePlan]
    architecture: Architecture | None
    parent: nn.Module | None

    @property
    def chain(self) -> str:
        """The phases that grow the network, in words."""
        return " -> ".join(plan.name for plan in self.plans if plan.role != "control")


def prepare(
    config: TrainConfig,
    run_dir: Path,
    recipe: str | None,
    engine: Engine,
    ranks: Ranks = ALONE,
    loaded: dict[str, ImageData] | None = None,
) -> Prepared:
    """Loads data and a given parent, plans the phases, and checks everything that can be checked before training.

    Args:
        recipe: its name, for the records.
        loaded: data sets that are loaded already, by their configuration; new ones are added.
    """
    layers = [layer_morphs(phase, f"phases.{i}.") for i, phase in enumerate(config.phases)]
    data = _load(config, ranks, {} if loaded is None else loaded)
    parent, parent_hash = _load_given_parent(config, data, convert=not any(layers))
    data = normalised(data, config.data, parent).to(engine.device)
    augmentation = augmentation_of(config.data)
    each = config.optim.batch_size_per_process
    batch_size = config.optim.batch_size if each is None else each * ranks.count
    ranks.share(batch_size)  # refuses one that cannot be divided
    steps_per_epoch = len(train_batches(data, batch_size, augmentation, ()))
    if parent is None:
        architecture: Architecture | None = architecture_of(config.network, data.classes, data.input_size[0])
    else:
        architecture = parent.architecture if isinstance(parent, ResNet) else None
    planned = architecture or parent
    assert planned is not None
    plans = plan_phases(config, planned, steps_per_epoch, len(data.train), layers)
    _note_surprises(plans)
    momentum = _momentum_of_parent(config)
    inputs = {"data": data.fingerprint(), "parent": parent_hash, "processes": str(ranks.count)}
    root: dict[str, Any] = {"parent": parent_hash, "classes": data.classes}
    if parent is None and architecture is not None:
        root = {"network": architecture.to_dict()}
    root |= {"precision": config.precision} if config.precision != "auto" else {}
    root |= {"momentum": hashlib.sha256(save(momentum)).hexdigest()} if momentum else {}
    experiment = Experiment(
        name=config.name,
        seed=config.seed,
        run_dir=run_dir,
        data=data,
        augmentation=augmentation,
        batch_size=batch_size,
        optimisation=config.optim,
        morphing=config.morphing,
        trainer=config.trainer,
        engine=engine,
        ranks=ranks,
        root=root,
        settings={
            "recipe": recipe,
            "scale": config.schedule.scale,
            "variant": variant_of(config, inputs),
            "inputs": inputs,
        },
        parents=Path(config.output) / "parents" if config.share_parent else None,
        parent_momentum=momentum,
    )
    rehearse(experiment, plans, architecture, parent)
    return Prepared(experiment, plans, architecture, parent)


def _load(config: TrainConfig, ranks: Ranks, loaded: dict[str, ImageData]) -> ImageData:
    """The data, which are loaded once and added to ``loaded``."""
    key = repr(config.data)
    if key not in loaded:
        loaded[key] = ranks.one_first_on_each_machine(lambda: load_data(config.data, pretend=config.dry_run))
    return loaded[key]


def _load_given_parent(config: TrainConfig, data: ImageData, convert: bool) -> tuple[nn.Module | None, str | None]:
    """The network of ``parent=`` with its hash, which is that before it gets a new head; None where none is given."""
    if config.parent is None:
        return None, None
    parent = load_parent(
        config.parent, config.network, data, config.weights, convert=convert, new_head=config.new_head
    ).float()
    parent_hash = network_hash(parent)
    if config.new_head:
        parent = with_new_head(parent, data.classes, generator_for(config.seed, "new head"))
        lineage = metadata_of(parent).get("lineage", [])
        metadata_of(parent)["lineage"] = [*lineage, {"network": parent_hash, "new_head": data.classes}]
    return parent, parent_hash


def _note_surprises(plans: Sequence[PhasePlan]) -> None:
    for plan in plans:
        if plan.is_idle:
            note(f"phase {plan.folder}: everything that {plan.morph} adds is there already, so it only trains on")
        warmup = 0 if plan.schedule is None else plan.schedule.warmup_steps
        if plan.role != "control" and 0 < plan.steps <= warmup:
            note(f"phase {plan.folder}: its warm-up, {warmup} steps, is as long as the phase or longer")


def _momentum_of_parent(config: TrainConfig) -> dict[str, Tensor]:
    """The momentum that the training of a given parent ended with; empty where it is not asked for."""
    if config.parent is None or config.new_head or config.after.momentum != "kept":
        return {}
    path = Path(config.parent)
    return load_momentum(network_of_run(path).parent if path.is_dir() else path.parent)
